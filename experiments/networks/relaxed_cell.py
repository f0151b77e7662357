"""Relaxed cell: how far is an LSTM from the decision process whose bits it replaces by chances.

The gates of a memory cell are chances of bits: to keep, to write, to show. Drawn, they are actions
upon the cell, and the cell with its policy is a decision process (docs/science.md, I11); the LSTM
is what remains when every bit is replaced by its chance. All paths of networks of up to three units
with random weights are summed over, at temperatures from certainty to pure chance, so that the
distance between the two is exact. Where it must be zero it is: without chance, by chance alone, and
in networks whose gates do not look at what was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn

from ...inference import StochasticCell
from ...inference.arviz_groups import Idata, group
from ..command.report import Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, over_seeds, spread, stream
from ..parts.training import positive

__all__ = ["SMOKE", "Settings", "draw", "run"]

FIGURES = "cell_error", "gate_kl_per_step", "gate_total_correlation_per_step"
ERROR, NATS, CORRELATION = FIGURES

REACH = {
    "limits.largest_cell_error_without_chance": ("<=", 1e-12),
    "limits.largest_cell_error_by_chance_alone": ("<=", 1e-12),
    "limits.largest_cell_error_without_recurrent_weights": ("<=", 1e-12),
    "limits.largest_gate_kl_without_recurrent_weights": ("<=", 1e-12),
}
"""What was to be reached, fixed before any run; largest over networks, sizes and temperatures."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    seeds: int = 20
    """Networks of each size."""
    jobs: int = 2
    largest_units: int = 3
    """Units of the largest networks; the joint states of three are 13³ cells and 27 outputs."""
    sequences: int = 5
    """Inputs of each network, standard normal."""
    steps: int = 6
    """Of each, as many as can be enumerated for three units."""
    weights: float = 1.5
    """Standard deviation of all weights and biases: gates then take all values from 0 to 1."""
    temperatures: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 1.7, 3.0, 10.0, 30.0, 100.0)
    """Of the bits; 1 is the LSTM as it is."""
    no_chance: float = 1e-5
    """The temperature that stands for none…"""
    chance_alone: float = 1e7
    """…and the one that stands for an infinite one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "largest_units", "sequences", "steps")
        positive(self, "weights", "no_chance", "chance_alone")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures: needs numbers > 0, got {self.temperatures}")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "jobs": 1,
    "largest_units": 2,
    "sequences": 1,
    "steps": 3,
    "temperatures": (0.1, 1.0),
}


def measured(settings: Settings, units: int, number: int) -> dict[str, Any]:
    """Distances of one network at all temperatures, and in the limits."""
    torch.manual_seed(stream(settings, units, number))
    network, x = nn.LSTM(2, units, batch_first=True), _inputs(settings)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, settings.weights)
    laws = [StochasticCell(network, temperature=t).compare(x) for t in settings.temperatures]
    found: dict[str, Any] = {
        ERROR: [law.error for law in laws],
        NATS: [float(law.nats.mean()) for law in laws],
        CORRELATION: [float(law.total_correlation.mean()) for law in laws],
        "mean": laws[_nearest_one(settings)].mean.numpy(),
        "relaxed": laws[_nearest_one(settings)].relaxed.numpy(),
    }
    for name, temperature in (
        ("without_chance", settings.no_chance),
        ("by_chance_alone", settings.chance_alone),
    ):
        found[name] = StochasticCell(network, temperature=temperature).compare(x).error
    with torch.no_grad():
        dict(network.named_parameters())["weight_hh_l0"].zero_()
    alone = [StochasticCell(network, temperature=t).compare(x) for t in settings.temperatures]
    found["without_recurrent_weights"] = max(law.error for law in alone)
    found["gate_kl_without_recurrent_weights"] = max(float(law.nats.max()) for law in alone)
    return found


def _inputs(settings: Settings) -> torch.Tensor:
    return torch.randn(settings.sequences, settings.steps, 2)


def _nearest_one(settings: Settings) -> int:
    return int(np.abs(np.log(settings.temperatures)).argmin())


def run(settings: Settings) -> Outcome:
    """Sum over the paths of all networks."""
    sizes = range(1, settings.largest_units + 1)
    plan = [(settings, units, number) for units in sizes for number in range(settings.seeds)]
    done = iter(over_seeds(measured, plan, jobs=settings.jobs))
    each = {units: [next(done) for _ in range(settings.seeds)] for units in sizes}
    every = [one for networks in each.values() for one in networks]
    limits = {
        "largest_cell_error_without_chance": max(one["without_chance"] for one in every),
        "largest_cell_error_by_chance_alone": max(one["by_chance_alone"] for one in every),
        "largest_cell_error_without_recurrent_weights": max(
            one["without_recurrent_weights"] for one in every
        ),
        "largest_gate_kl_without_recurrent_weights": max(
            one["gate_kl_without_recurrent_weights"] for one in every
        ),
    }
    by_units = {
        f"{units}_units": {
            f"temperature_{temperature:g}": spread(
                [{figure: one[figure][place] for figure in FIGURES} for one in networks]
            )
            for place, temperature in enumerate(settings.temperatures)
        }
        for units, networks in each.items()
    }
    figures = against({"limits": limits, "by_units": by_units}, REACH)
    runs = {
        figure: np.array([[one[figure] for one in networks] for networks in each.values()])
        for figure in FIGURES
    }
    largest = each[settings.largest_units]
    shown = {name: np.stack([one[name] for one in largest]) for name in ("mean", "relaxed")}
    dims: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(runs, ("units", "network", "temperature")),
        **dict.fromkeys(shown, ("network", "sequence", "time", "unit")),
    }
    coords = {"units": np.array(sizes), "temperature": np.array(settings.temperatures)}
    groups = {"runs": runs, "constant_data": shown}
    return Outcome(figures, record(settings, groups, dims=dims, coords=coords))


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Distances by temperature, and cells of the LSTM by the means that they stand for."""
    del figures
    runs, shown = group(posterior, "runs"), group(posterior, "constant_data")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    temperature = runs["temperature"].values
    for color, units in zip(("C0", "C1", "C2"), runs["units"].values, strict=False):
        label = "1 unit" if units == 1 else f"{units} units"
        for axis, name in zip(axes, (ERROR, NATS), strict=False):
            values = runs[name].sel(units=units).values.clip(1e-14)
            axis.plot(temperature, values.T, color=color, lw=0.4, alpha=0.4)
            axis.plot(temperature, values.mean(0), color=color, lw=2, label=label)
    for axis, label in zip(axes, ("root mean square, cells", "nats per step"), strict=False):
        axis.axvline(1, color="grey", lw=0.8)
        axis.set(xscale="log", yscale="log", ylim=(1e-9, None), xlabel="temperature", ylabel=label)
    axes[0].set_title("LSTM's cell beside the mean of the drawn one")
    axes[1].set_title("KL(gates of the drawn cell ‖ LSTM's gates)")
    axes[0].legend(frameon=False)
    mean, relaxed = shown["mean"].values.ravel(), shown["relaxed"].values.ravel()
    axes[2].plot(mean, relaxed, ".", ms=3)
    ends = [min(mean.min(), relaxed.min()), max(mean.max(), relaxed.max())]
    axes[2].plot(ends, ends, color="black", lw=0.7)
    axes[2].set(xlabel="E[c] of the drawn cell", ylabel="c of the LSTM", title="Largest networks")
    return {"distance": figure}
