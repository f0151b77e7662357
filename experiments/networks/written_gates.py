"""Written gates: how many units does it take to write Bayes' rule into an LSTM?

`construct(model, units=…)` writes all weights of an LSTM from a model: its first cells are the
natural parameters of the belief, and auxiliary units are a basis of functions of them, of which
every forget gate is made (docs/science.md, I9). Nothing is trained. The distance to the exact
filter is measured on new sequences as the number of units grows, for two states with normal and
with counted observations, one normal state, and three states that stay or are redrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import BeliefGuide, construct, evidence_gap, gate_identity
from ...inference.arviz_groups import Idata, group
from ...models import Gaussian, HiddenMarkovModel, LinearGaussianSSM
from ..command.report import Array, Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, over_seeds, stream, summary
from ..parts.random_models import settling
from .parts.two_states import chain

__all__ = ["SMOKE", "Settings", "draw", "run"]

KL, GATE = "kl_filter_per_step", "forget_r_squared"

REACH = {
    "largest_kl_with_most_units": ("<=", 1e-4),
    "largest_ratio_of_kl_to_that_with_fewer_units": ("<=", 1.0),
}
"""What was to be reached, fixed before any run, on the means of the seeds."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    seeds: int = 3
    """Simulations from which the weights of a model are computed."""
    units: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Auxiliary units."""
    heldout_sequences: int = 100
    """Sequences on which the distance is measured…"""
    heldout_length: int = 200
    """…and their steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "heldout_sequences")
        at_least(2, self, "heldout_length")
        if not self.units or list(self.units) != sorted({*self.units}) or self.units[0] < 1:
            raise ValueError(f"units: needs growing numbers >= 1, got {self.units}")


SMOKE: Mapping[str, object] = {
    "seeds": 1,
    "units": (2, 8),
    "heldout_sequences": 5,
    "heldout_length": 20,
}


def models() -> dict[str, HiddenMarkovModel | LinearGaussianSSM]:
    """The models by name, their first laws the stationary ones."""
    first, moves = [0.75, 0.25], [[0.9, 0.1], [0.3, 0.7]]
    law, rate = np.array([0.2, 0.5, 0.3]), 0.1
    return {
        "symmetric": chain(0.05, 0.5),
        "asymmetric": HiddenMarkovModel(2, "gaussian").with_parameters(
            initial=first, transition=moves, mean=[-1.0, 1.0], scale=[1.0, 1.0]
        ),
        "counts": HiddenMarkovModel(2, "poisson").with_parameters(
            initial=first, transition=moves, rate=[1.0, 4.0]
        ),
        "normal": settling(0.9, 0.5),
        "redraw": HiddenMarkovModel(3, Gaussian(2)).with_parameters(
            initial=law,
            transition=(1 - rate) * np.eye(3) + rate * law,
            mean=[[-1.0, 0.0], [0.0, 1.0], [2.0, 0.0]],
            scale=np.ones((3, 2)),
        ),
    }


def measured(settings: Settings, name: str, units: int, number: int) -> dict[str, float]:
    """Distance of one written network to the exact filter, and its worst gate."""
    model = models()[name]
    place = list(models()).index(name)
    test = model.sample(
        settings.heldout_sequences, settings.heldout_length, seed=stream(settings, 0, place)
    ).data
    network = construct(model, units=units, seed=stream(settings, 1, place, number))
    guide = BeliefGuide(model, network)
    return {
        KL: evidence_gap(guide, test).kl_filter_per_step,
        GATE: gate_identity(guide, test).worst("forget"),
    }


def run(settings: Settings) -> Outcome:
    """Write and measure all networks."""
    names, numbers = list(models()), range(settings.seeds)
    plan = [
        (settings, name, units, number)
        for name in names
        for units in settings.units
        for number in numbers
    ]
    done = iter(over_seeds(measured, plan, jobs=settings.jobs))
    each = {
        name: {f"{units}_units": [next(done) for _ in numbers] for units in settings.units}
        for name in names
    }
    figures: dict[str, Any] = {
        name: {units: summary(seeds) for units, seeds in found.items()}
        for name, found in each.items()
    }
    runs: dict[str, Array] = {
        key: np.array([[[o[key] for o in s] for s in found.values()] for found in each.values()])
        for key in (KL, GATE)
    }
    kl = runs[KL].mean(-1).clip(0)
    ratios = kl[:, 1:] / kl[:, :-1].clip(1e-15)
    whole = {
        "largest_kl_with_most_units": float(kl[:, -1].max()),
        "largest_ratio_of_kl_to_that_with_fewer_units": float(ratios.max(initial=0.0)),
    }
    dims = dict.fromkeys(runs, ("model", "units", "number"))
    posterior = record(
        settings,
        {"runs": runs},
        dims=dims,
        coords={"model": names, "units": np.array(settings.units)},
    )
    return Outcome(against(whole | figures, REACH), posterior)


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Distance to the exact filter by the number of units."""
    del figures
    runs = group(posterior, "runs")
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in runs["model"].values:
        values = runs[KL].sel(model=name).mean("number").values.clip(1e-16)
        axis.plot(runs["units"].values, values, ".-", label=str(name))
    axis.set(xscale="log", yscale="log", xlabel="auxiliary units", ylabel="nats a step")
    axis.set_title("KL(exact filter ‖ written LSTM)")
    axis.set_xticks(runs["units"].values, [str(units) for units in runs["units"].values])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return {"distance": figure}
