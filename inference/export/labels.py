"""One labelling of the states for the chains of a sampler, which each find their own."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.chains.renaming import exchangeable, ordered
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from .beliefs import average_beliefs
from .sample import Array, Sample, thinned

_DRAWS = 10
"""Draws of a chain by which its states are told apart: a chain keeps its labelling."""


def aligned(
    result: Fit | NutsFit, data: Sequences, sample: Sample
) -> tuple[Sample, list[list[int]] | None]:
    """Draws in which the states of all chains have the names of one chain, and the states' places.

    The chain of the highest mean density gives the names. A state of another chain takes the name
    for which both expect the same steps most often: Σ_nt p(z_nt = k) p'(z_nt = l) is maximal over
    all ways to exchange states. Chains stay as they are where the numbers of states have a meaning
    or the prior tells them apart; then the places are None.
    """
    model = result.model
    several = isinstance(result, NutsFit) and sample.chains > 1 and model.has_paths
    if not several or not model.reorderable:
        return sample, None
    assert isinstance(result, NutsFit)
    from scipy.optimize import linear_sum_assignment  # loaded when first needed

    visits = [_visits(model, data, sample, chain) for chain in range(sample.chains)]
    named = visits[int(result.log_density.mean(-1).argmax())]
    parts, orders = [], []
    for chain, own in enumerate(visits):
        overlap = torch.einsum("ntk,ntl->kl", named, own)
        order = torch.from_numpy(linear_sum_assignment(overlap.numpy(), maximize=True)[1])
        values = sample.at(_rows(sample, chain))
        if not exchangeable(model, values, order):
            return sample, None
        parts.append(ordered(model, values, order))
        orders.append(order.tolist())
    joined = {name: torch.cat([part[name] for part in parts]) for name in sample.values}
    return dataclasses.replace(sample, values=joined), orders


def _rows(sample: Sample, chain: int) -> Tensor:
    return torch.arange(chain * sample.draws, (chain + 1) * sample.draws)


def _visits(model: Model, data: Sequences, sample: Sample, chain: int) -> Tensor:
    """p(z_t | y) (N, T, K), mean over a few draws of a chain; zero beyond the length."""
    chosen = thinned(sample, _DRAWS * sample.chains)
    assert chosen is not None
    rows = chosen.rows.reshape(sample.chains, -1)[chain]
    smoothed: Array = average_beliefs(model, data, sample.at(rows), len(rows))[0]
    return torch.from_numpy(smoothed).nan_to_num(0)
