"""How fast the spectral estimate of a hidden Markov model of symbols nears the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ....inference import ObservableOperators, triple_probabilities
from ....models import HiddenMarkovModel
from ....models.randomness import one_thread


@one_thread()
def spectral_errors(
    model: HiddenMarkovModel, sizes: Sequence[int], replicates: int, length: int, seed: int
) -> dict[str, dict[str, float]]:
    """Mean error over replicates at every number of samples, and the slope of its logarithm.

    A sample are three symbols in a row. ``joint`` is the sum over all sequences of ``length`` of
    the absolute error of their probability, ``next_symbol`` that of the last symbol given the
    others, weighted by their probability, and ``counting`` that of the frequencies of as many
    sequences of ``length``, which know of no state.
    """
    triples = triple_probabilities(model)
    symbols, rank = len(triples), model.states
    exact = ObservableOperators.of_triples(triples[None], rank).joint_probabilities(length)
    truth, weight = _last(exact, symbols), exact.reshape(1, -1, symbols).sum(-1)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"joint": [], "next_symbol": [], "counting": []}
    for size in sizes:
        drawn = rng.multinomial(size, triples.numpy().reshape(-1), size=replicates) / size
        moments = torch.tensor(drawn).reshape(-1, *triples.shape)
        ours = ObservableOperators.of_triples(moments, rank).joint_probabilities(length)
        ahead = ((_last(ours, symbols) - truth).abs().sum(-1) * weight).sum(-1)
        counted = rng.multinomial(size, exact[0].numpy(), size=replicates) / size
        found["joint"].append(float((ours - exact).abs().sum(-1).mean()))
        found["next_symbol"].append(float(ahead.mean()))
        found["counting"].append(float(np.abs(counted - exact[0].numpy()).sum(-1).mean()))
    return {
        name: {
            "slope": float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]),
            **{f"error_at_{size}": e for size, e in zip(sizes, errors, strict=True)},
        }
        for name, errors in found.items()
    }


def _last(joint: Tensor, symbols: int) -> Tensor:
    """p(last symbol | the ones before), noise below 0 cut off, (replicates, contexts, S)."""
    table = joint.reshape(len(joint), -1, symbols).clamp_min(1e-12)
    return table / table.sum(-1, keepdim=True)
