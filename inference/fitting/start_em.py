"""Starting values improved by a few steps of EM, for laws that say what the M-step is."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.chains.start import FRAMES
from ..exact import chains as exact

EM_STEPS = 50
"""At most; rewards far from where they start are reached by EM in a few, by gradients in many."""

EM_GAIN = 1e-3
"""Nats per step of the data: where EM gains less, the fit itself does as well."""

Values = dict[str, Tensor]


def start_by_em(model: Model, data: Sequences, values: Values) -> Values:
    """Values of a model of discrete states improved by EM (Baum and others 1970).

    Every step counts moves and observations by their posterior probability and lets the model read
    its parameters off these, see ``Model.m_step``.
    """
    assert model.m_step is not None
    data, before = data[: max(1, FRAMES // data.max_length)], -torch.inf
    for _ in range(EM_STEPS):
        weight, counts, evidence = _expected(model, data, values)
        if evidence < before + EM_GAIN * data.n_steps:
            break
        values, before = model.m_step(data, weight, counts), evidence
    return values


def _expected(model: Model, data: Sequences, values: Values) -> tuple[Tensor, Tensor, float]:
    """p(z_t | y) (N, T, K), expected numbers of moves after each action (A, K, K), log p(y)."""
    with torch.enable_grad():
        unknown = {name: value for name, value in values.items() if name in model.priors}
        laws = model.laws(unknown, data).discrete
        assert laws is not None  # only such are counted
        initial, moves, likelihood, lengths, choice = laws.chain
        tables = moves.detach().requires_grad_()
        total = exact.log_evidence(initial, tables, likelihood.detach(), lengths, choice).sum()
        (counts,) = torch.autograd.grad(total, tables)
    smoothed = exact.smooth_chain(initial, tables.detach(), likelihood.detach(), lengths, choice)
    return smoothed.exp() * data.step_mask.unsqueeze(-1), counts.squeeze(0), float(total.detach())
