"""Models of the disease after heart transplants: their jumps, and what msm publishes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....models import Sequences
from ....models.chains.generators import generator_matrix, transition_probabilities

GRADES = ("none", "mild", "severe", "dead")
DEATH = 3
JUMPS = {
    "markov": ((0, 1), (0, 3), (1, 0), (1, 2), (1, 3), (2, 1), (2, 3)),
    "hidden": ((0, 1), (0, 3), (1, 2), (1, 3), (2, 3)),
}
"""Jumps of the two models: with misclassification the disease does not heal."""
ERRORS: dict[str, tuple[tuple[int, int], ...]] = {
    "markov": (),
    "hidden": ((0, 1), (1, 0), (1, 2), (2, 1)),
}
INITIAL = [1.0, 0.0, 0.0, 0.0]
"""Everyone starts without disease; that first grade is known, not read off an angiogram."""

_RATES = {"jump_rate": [0.25, 0.25, 0.166, 0.166, 0.166, 0.25, 0.25]}
_MISREAD = {"jump_rate": [0.148, 0.0171, 0.202, 0.081, 0.126], "error": [0.1, 0.1, 0.1, 0.1]}
FIXED: dict[str, dict[str, Any]] = {
    "markov_exact_deaths": {"model": "markov", "values": _RATES, "published": 4908.81676837903},
    "markov_deaths_as_snapshots": {
        "model": "markov",
        "exact": (),
        "values": _RATES,
        "published": 4833.00640639644,
    },
    "hidden_first_grade_uncertain": {
        "model": "hidden",
        "certain": False,
        "values": _MISREAD,
        "published": 4296.9155995778,
    },
    "hidden": {"model": "hidden", "values": _MISREAD, "published": 4165.84711809003},
}
"""Parameters and −2 log L at exactly these, from msm's own tests."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "markov": {
        "minus_twice_log_likelihood": 3968.798,
        "jump_rate": [0.12787, 0.04250, 0.22512, 0.34261, 0.04021, 0.13062, 0.30648],
        "interval": [
            [0.11135, 0.14684],
            [0.03412, 0.05294],
            [0.16755, 0.30247],
            [0.27317, 0.42970],
            [0.01129, 0.14324],
            [0.07952, 0.21457],
            [0.23822, 0.39429],
        ],
    },
    "hidden": {
        "minus_twice_log_likelihood": 3933.738,
        "jump_rate": [0.08963, 0.04136, 0.25864, 0.03331, 0.30758],
        "error": [0.02690, 0.17491, 0.06318, 0.11510],
    },
}
"""Maximum likelihood as printed in msm's manual, with 95 % intervals of the Markov model's rates;
the hidden model's −2 log L (printed as 3934) at its printed digits."""


def survival(data: Sequences, rates: Mapping[str, Tensor]) -> dict[str, object]:
    """The share alive by the estimate of Kaplan and Meier, and by models with rates (S, J)."""
    assert data.times is not None
    rows = torch.arange(len(data))
    last = data.times[rows, data.lengths - 1].numpy()
    died = (data.values[rows, data.lengths - 1] == DEATH).numpy()
    years = np.linspace(0, float(np.quantile(last, 0.98)), 40)
    curve = [1.0]
    moments = np.unique(last[died])
    for moment in moments:
        curve.append(curve[-1] * (1 - (died & (last == moment)).sum() / (last >= moment).sum()))
    alive = [curve[int(np.searchsorted(moments, year, "right"))] for year in years]
    figures: dict[str, Any] = {"years": years.tolist(), "kaplan_meier": alive}
    for name, drawn in rates.items():
        generator = generator_matrix(drawn, JUMPS[name], 4)
        gone = transition_probabilities(generator.unsqueeze(-3), torch.from_numpy(years))
        lower, middle, upper = (1 - gone[..., 0, DEATH]).quantile(_BAND.to(gone), 0)
        figures[name] = {
            "low": lower.tolist(),
            "median": middle.tolist(),
            "high": upper.tolist(),
            "largest_distance_to_kaplan_meier": float(np.abs(middle.numpy() - alive).max()),
        }
    return figures


_BAND = torch.tensor([0.025, 0.5, 0.975])
