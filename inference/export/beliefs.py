"""Exact beliefs about discrete states, averaged over draws of the parameters."""

from __future__ import annotations

import numpy as np
import torch

from ...models import Model, Sequences
from ...models.emissions.emission import Parameters
from ..exact import chains as exact
from ..fitting.draws import batches, blocks
from .sample import Array, as_array


def average_beliefs(
    model: Model, data: Sequences, values: Parameters, draws: int
) -> tuple[Array, Array]:
    """p(z_t | y_1 … y_T) and p(z_t | y_1 … y_t), exact, mean over draws, (N, T, K)."""
    smoothed = np.full((len(data), data.max_length, model.states), np.nan)
    filtered = smoothed.copy()
    for rows, batch in batches(model, data):
        total = torch.zeros(2, len(batch), batch.max_length, model.states, dtype=torch.float64)
        for block in blocks(model, batch, values, draws):
            total[0] += exact.smooth_chain(*block.chain).exp().sum(0)
            total[1] += exact.filter_chain(*block.chain).log_beliefs.exp().sum(0)
        mean = (total / draws).masked_fill(~batch.step_mask.unsqueeze(-1), torch.nan)
        smoothed[rows, : batch.max_length], filtered[rows, : batch.max_length] = as_array(mean)
    return smoothed, filtered
