"""Two trainings: do networks that have learned the same process hold the same machine?

LSTMs and GRUs, from two seeds each, learn to predict sequences of the same process, and a machine
is read off each one's own law. For every pair of networks stand beside each other: how far their
laws are apart, KL(one ‖ other) a symbol in both directions; how far their machines are; and how
alike their hidden states are on the same sequences (linear CKA; Kornblith et al., 2019), which
says nothing of what they predict. Negative control: pairs whose networks have learned different
processes of the same symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ...inference import LawDivergence, Machine, NetworkLaw, law_divergence, machine_of
from ...inference.arviz_groups import Idata, group
from ...inference.machines.known_laws import OperatorLaw
from ...inference.machines.laws import sampled
from ...models import golden_mean, random_random_xor
from ...models.checks import require
from ...models.randomness import seeded
from ..command.report import Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, over_seeds, stream
from ..parts.language_models import GRULanguageModel, LanguageModel, train
from .parts.random_machines import batches_of, even

__all__ = ["SMOKE", "Settings", "draw", "run"]

PROCESSES = {"golden-mean": golden_mean, "even": even, "rrxor": random_random_xor}
KINDS = {"lstm": LanguageModel, "gru": GRULanguageModel}

REACH = {
    "same_process.share_whose_machines_are_no_farther_than_the_networks": (">=", 0.8),
    "same_process.share_with_the_same_number_of_states": (">=", 1.0),
    "control.smallest_kl_machines_by_the_largest_of_the_same_process": (">=", 10.0),
}
"""What was to be reached, fixed before any run."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    seeds: int = 2
    """Trainings of each kind of network on each process."""
    processes: tuple[str, ...] = tuple(PROCESSES)
    """Of two symbols each, so that any two networks can be compared."""
    hidden_size: int = 32
    """Units, far more than a belief of five states needs."""
    training_steps: int = 1500
    """Gradient steps on fresh sequences…"""
    batch: int = 64
    """…with so many sequences each…"""
    length: int = 24
    """…of so many symbols: RRXOR takes about a dozen to synchronise."""
    samples: int = 600
    """Sequences of a network that its machine is fitted to, and as many to choose by."""
    fresh: int = 1000
    """Sequences on which two laws, or hidden states, are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_steps", "batch")
        at_least(2, self, "samples", "fresh", "length")
        fits = len({*self.processes}) >= 2 and {*self.processes} <= {*PROCESSES}
        require(fits, "processes", f"needs two or more of {tuple(PROCESSES)}", self.processes)


SMOKE: Mapping[str, object] = {
    "seeds": 1,
    "processes": ("golden-mean", "rrxor"),
    "hidden_size": 4,
    "training_steps": 3,
    "batch": 8,
    "length": 6,
    "samples": 20,
    "fresh": 20,
}


class Held(NamedTuple):
    """A trained network, its machine, and KL(truth ‖ network) a symbol."""

    process: str
    law: NetworkLaw
    found: Machine
    regret: float


def trained(settings: Settings, process: str, kind: str, number: int) -> Held:
    """Trains one network, and reads its machine."""
    truth = OperatorLaw.of(PROCESSES[process]())
    place = [*PROCESSES].index(process), [*KINDS].index(kind), number
    seed = stream(settings, 1, *place)
    with seeded(seed):
        language = KINDS[kind](truth.symbols, settings.hidden_size)
    fresh = batches_of(truth, settings.batch, settings.length, seed)
    train(language, fresh, steps=settings.training_steps, learning_rate=1e-2)
    law = NetworkLaw(language.network.eval(), language.output)
    behind = law_divergence(
        truth, law, sequences=settings.fresh, length=settings.length, seed=seed + 1
    )
    found = machine_of(
        law,
        regret=behind.mean,
        samples=settings.samples,
        length=settings.length,
        restarts=1,
        seed=seed + 2,
    )
    return Held(process, law, found, behind.mean)


def alike(one: Tensor, other: Tensor) -> float:
    """Linear CKA of two sets of states (steps, units) at the same steps."""
    x, y = (each - each.mean(0) for each in (one, other))
    across, own = (x.mT @ y).square().sum(), (x.mT @ x).norm() * (y.mT @ y).norm()
    return float(across / own)


def hidden(law: NetworkLaw, codes: Tensor) -> Tensor:
    """Outputs h of the network after every symbol, (N T, H)."""
    state, found = law.start(len(codes)), []
    for column in codes.unbind(1):
        state = law.read(state, column)
        found.append(state[0][:, -1])
    return torch.cat(found)


def compared(settings: Settings, one: Held, other: Held, place: int) -> dict[str, float]:
    """One pair, in one direction."""
    seed = stream(settings, 2, place)

    def apart(law: object, rival: object) -> LawDivergence:
        size = settings.fresh, settings.length
        return law_divergence(law, rival, sequences=size[0], length=size[1], seed=seed)

    networks = apart(one.law, other.law)
    machines = apart(one.found.operators, other.found.operators)
    codes = sampled(one.law, settings.fresh, settings.length, seed + 1)[0]
    return {
        "kl_networks": networks.mean,
        "kl_networks_standard_error": networks.standard_error,
        "kl_machines": machines.mean,
        "kl_machines_standard_error": machines.standard_error,
        "cka": alike(hidden(one.law, codes), hidden(other.law, codes)),
        "same_number_of_states": float(one.found.states == other.found.states),
        "same_process": float(one.process == other.process),
    }


def run(settings: Settings) -> Outcome:
    """Trains all networks and compares all pairs."""
    each = itertools.product(settings.processes, KINDS, range(settings.seeds))
    plan = [(settings, *place) for place in each]
    held = over_seeds(trained, plan, jobs=settings.jobs)
    names = [f"{process}_{kind}_{number}" for _, process, kind, number in plan]
    pairs = {}
    for place, (a, b) in enumerate(itertools.permutations(range(len(held)), 2)):
        pairs[f"{names[a]}_beside_{names[b]}"] = compared(settings, held[a], held[b], place)
    networks = {
        name: {
            "states": one.found.states,
            "regret": one.regret,
            "kl_network_machine": one.found.divergence.mean,
        }
        for name, one in zip(names, held, strict=True)
    }
    figures = {**summaries([*pairs.values()]), "networks": networks, "pairs": pairs}
    kept = [*next(iter(pairs.values()))]
    runs = {key: np.array([pair[key] for pair in pairs.values()]) for key in kept}
    dims = dict.fromkeys(runs, ("pair",))
    saved = record(settings, {"runs": runs}, dims=dims, coords={"pair": [*pairs]})
    return Outcome(against(figures, REACH), saved)


def summaries(pairs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over pairs of the same process and of different ones."""
    same, other = ([one for one in pairs if one["same_process"] == which] for which in (1, 0))

    def medians(some: list[dict[str, float]]) -> dict[str, float]:
        keys = "kl_networks", "kl_machines", "cka"
        return {f"median_{key}": float(np.median([one[key] for one in some])) for key in keys}

    return {
        "same_process": {
            **medians(same),
            "share_whose_machines_are_no_farther_than_the_networks": float(
                np.mean([one["kl_machines"] <= one["kl_networks"] for one in same])
            ),
            "share_with_the_same_number_of_states": float(
                np.mean([one["same_number_of_states"] for one in same])
            ),
        },
        "control": {
            **medians(other),
            "smallest_kl_machines_by_the_largest_of_the_same_process": min(
                one["kl_machines"] for one in other
            )
            / max(one["kl_machines"] for one in same),
        },
    }


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Distance of machines, and likeness of hidden states, beside the distance of networks."""
    del figures
    runs = group(posterior, "runs")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    apart = runs["kl_networks"].values
    same = runs["same_process"].values > 0
    for axis, key in zip(axes, ("kl_machines", "cka"), strict=True):
        for which, color, label in ((same, "C0", "same process"), (~same, "C3", "different ones")):
            axis.plot(apart[which], runs[key].values[which], "o", color=color, ms=4, label=label)
        axis.set(xscale="log", xlabel="KL(network ‖ network), nats a symbol")
    ends = [apart.min() / 2, apart.max() * 2]
    axes[0].plot(ends, ends, "k", lw=0.7)
    axes[0].set(yscale="log", ylabel="KL(machine ‖ machine)", title="Machines of two networks")
    axes[1].set(ylabel="linear CKA of hidden states", title="Hidden states of two networks")
    axes[0].legend(frameon=False)
    return {"pairs": figure}
