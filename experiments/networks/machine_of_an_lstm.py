"""The machine of an LSTM: is what is read off a trained network the process that it was trained on?

LSTMs learn to predict sequences of processes whose machines are known. Then each is asked for its
own law of sequences and nothing else: the singular values of the Hankel matrix of that law say how
many states it has, and the machine that is read off it is held against the network and against the
truth, which neither has seen. Controls: a network that was not trained, one whose training was
stopped stopped early, and a counter of brackets, which no finite machine is.

Whether the network's update is Bayes' rule of its machine is asked of differences: two pasts that
differ in their last symbol lead to two beliefs of the network, and the update turns these into two
others. Beside it stand the same network untrained, with weights four times too large, and a law
that knows the last two symbols alone, each in the network's place.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ...inference import (
    LawDivergence,
    Machine,
    NetworkLaw,
    SequenceLaw,
    law_divergence,
    machine_of,
)
from ...inference.arviz_groups import Idata, group
from ...inference.machines.certificates import entropy_rate
from ...inference.machines.known_laws import OperatorLaw
from ...models import golden_mean, mess3, random_random_xor, zero_one_random
from ...models.randomness import seeded
from ..command.report import Outcome, record
from ..command.seeds import Figures, Repeated, at_least, falls_short, over_seeds, stream
from ..parts.language_models import LanguageModel, train
from .parts.last_symbols import LastTwoSymbols
from .parts.random_machines import (
    Counter,
    Kind,
    batches_of,
    even,
    random_machine,
    smallest_direction,
)

__all__ = ["SMOKE", "Settings", "draw", "run"]

KNOWN = {
    "golden-mean": golden_mean,
    "even": even,
    "zero-one-random": zero_one_random,
    "rrxor": random_random_xor,
    "mess3": mess3,
}
UNIFILAR = "golden-mean", "even", "zero-one-random", "rrxor"
KINDS: tuple[Kind, ...] = ("hmm", "automaton")
SIZES = 2, 3, 4, 5, 6
EVERYTHING = (*KNOWN, "random", "controls")

VISIBLE = 3
"""A random machine counts if its smallest singular value is so many square roots of the regret."""

REACH = {
    "known.share_with_the_right_number_of_states": (">=", 1.0),
    "known.share_nearer_to_its_network_than_the_regret": (">=", 1.0),
    "known.share_of_entropy_rates_within_a_thousandth": (">=", 1.0),
    "known.share_of_transitions_within_03": (">=", 1.0),
    "random.visible_with_the_right_number_of_states": (">=", 16),
    "all.share_no_farther_from_the_truth_than_the_network": (">=", 0.8),
    "known.share_with_an_update_nearer_to_bayes_than_all_controls": (">=", 1.0),
    "known.median_update_r_squared": (">=", 0.9),
    "controls.untrained_kl_of_truth_and_machine": (">=", 0.1),
    "controls.stopped_early_states": ("<=", 4),
    "controls.counters_with_a_small_machine": ("<=", 0),
}
"""What was to be reached, fixed before any run. Where a part is not run, nothing is asked of it."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    processes: tuple[str, ...] = EVERYTHING
    """What is run: names of processes, ``random`` and ``controls``."""
    machines: int = 20
    """Random machines: hidden Markov models and automata of 2 to 6 states in turn."""
    candidates: int = 100
    """Random machines of a kind and size are the most visible ones of so many draws."""
    hidden_size: int = 32
    """Units of the LSTM, far more than a belief of six states needs."""
    training_steps: int = 1500
    """Gradient steps on fresh sequences, after which the regret hardly falls…"""
    batch: int = 128
    """…with so many sequences each…"""
    length: int = 24
    """…of so many symbols: RRXOR takes about a dozen to synchronise."""
    early_steps: int = 150
    """Steps of the network that is stopped early."""
    samples: int = 1000
    """Sequences of the network that machines are fitted to, and as many to compare them on."""
    fresh: int = 4000
    """Fresh sequences, of the network and of the truth, on which everything is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.processes) - set(EVERYTHING)
        if unknown or not self.processes:
            raise ValueError(f"processes: must be among {EVERYTHING}, got {self.processes}")
        at_least(1, self, "machines", "hidden_size", "training_steps", "batch", "early_steps")
        at_least(2, self, "samples", "fresh", "length")
        at_least(math.ceil(self.machines / 10), self, "candidates")


SMOKE: Mapping[str, object] = {
    "processes": ("golden-mean", "random", "controls"),
    "seeds": 1,
    "machines": 2,
    "candidates": 3,
    "hidden_size": 4,
    "training_steps": 3,
    "batch": 8,
    "length": 6,
    "early_steps": 2,
    "samples": 20,
    "fresh": 20,
}


class Truth(NamedTuple):
    """A process, its number of states (0: infinitely many), and its tables if these are unique."""

    law: SequenceLaw
    states: int
    tables: Tensor | None


def truth_of(settings: Settings, name: str, number: int) -> Truth:
    """The process of a run."""
    if name in KNOWN:
        chain = KNOWN[name]()
        return Truth(
            OperatorLaw.of(chain), chain.states, chain.matrices if name in UNIFILAR else None
        )
    if name == "random":
        kind, states = KINDS[number % 2], SIZES[number // 2 % len(SIZES)]
        law = random_machine(
            kind, states, number // 10, candidates=settings.candidates, seed=stream(settings, 7)
        )
        return Truth(law, states, None)
    if name == "counter":
        return Truth(Counter(), 0, None)
    return truth_of(settings, "rrxor", 0)


def measured(settings: Settings, name: str, number: int) -> dict[str, Any]:
    """One network: trained, read, and held against the truth."""
    truth = truth_of(settings, name, number)
    seed = stream(settings, [*KNOWN, "random", *CONTROLS].index(name), number)
    language = _trained(settings, truth.law, name, seed)
    law = _law(language)

    def apart(one: SequenceLaw, machine: object, place: int) -> LawDivergence:
        return law_divergence(
            one, machine, sequences=settings.fresh, length=settings.length, seed=seed + place
        )

    behind = apart(truth.law, law, 1)
    found = machine_of(
        law, regret=behind.mean, samples=settings.samples, length=settings.length, seed=seed + 2
    )

    own = apart(law, found.operators, 9)
    out: dict[str, Any] = {
        "states_of_the_truth": truth.states,
        "states": found.states,
        "kind": found.kind,
        "small": float(found.small),
        "regret": behind.mean,
        "kl_network_machine": own.mean,
        "kl_network_machine_error": own.standard_error,
        "kl_truth_machine": apart(truth.law, found.operators, 1).mean,
        "kl_truth_hmm": apart(truth.law, found.hmm, 1).mean,
        "entropy_rate_error": abs(found.entropy_rate[0] - entropy_rate(truth.law)[0]),
        "singular_values": _padded(found.singular_values),
        "floor": found.floor,
        "starts": {slug(start): nats for start, nats in reversed(found.starts)},
    }
    if truth.states:
        assert isinstance(truth.law, OperatorLaw)
        out["smallest_singular_value_of_the_truth"] = smallest_direction(truth.law, truth.states)
    if name in KNOWN:
        out["update"] = _updates(settings, found, language, seed)
    if truth.tables is not None and found.states == truth.states:
        out["transition_error"] = up_to_names(found.hmm.tables().tables, truth.tables)
    return out


CONTROLS = "untrained", "stopped_early", "counter"


OVERGROWN = 4
"""Factor of the weights of a network that does not forget."""


def _updates(
    settings: Settings, found: Machine, language: LanguageModel, seed: int
) -> dict[str, dict[str, float]]:
    """R² and slope of the network's update, and of controls in its place, beside Bayes' rule."""
    with seeded(seed):
        untrained = LanguageModel(language.symbols, settings.hidden_size)
    overgrown = copy.deepcopy(language)
    with torch.no_grad():
        for weight in overgrown.lstm.parameters():
            weight.mul_(OVERGROWN)
    law = _law(language)
    laws = {
        "network": law,
        "untrained": _law(untrained),
        "overgrown": _law(overgrown),
        "last_two_symbols": LastTwoSymbols(law, settings.samples, settings.length, seed + 4),
    }
    told = {name: found.update_agreement(network=one, seed=seed) for name, one in laws.items()}
    parts = {name: {"r_squared": one.r_squared, "slope": one.slope} for name, one in told.items()}
    for part in parts.values():  # a network without memory has no changes that could be explained
        part.update({key: 0.0 for key, value in part.items() if not math.isfinite(value)})
    return parts


def _law(language: LanguageModel) -> NetworkLaw:
    return NetworkLaw(language.lstm.eval(), language.output)


def _trained(settings: Settings, truth: SequenceLaw, name: str, seed: int) -> LanguageModel:
    with seeded(seed):
        language = LanguageModel(truth.symbols, settings.hidden_size)
    steps = {"untrained": 0, "stopped_early": settings.early_steps}.get(
        name, settings.training_steps
    )
    if steps:
        batches = batches_of(truth, settings.batch, settings.length, seed)
        train(language, batches, steps=steps, learning_rate=1e-2)
    return language


def _padded(values: Tensor) -> list[float]:
    """The ten largest; zeros where there are fewer."""
    return [*values[:10].tolist(), *([0.0] * (10 - len(values)))]


def slug(words: str) -> str:
    """A name for JSON."""
    return words.replace(" ", "_")


def up_to_names(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of tables (V, K, K) over all entries, in the best order of the states."""
    orders = map(list, itertools.permutations(range(ours.shape[-1])))
    return min(float((ours[:, order][:, :, order] - theirs).abs().max()) for order in orders)


def run(settings: Settings) -> Outcome:
    """Train, read and measure every network."""
    plan: list[tuple[object, ...]] = []
    for name in settings.processes:
        if name in KNOWN:
            plan += [(settings, name, number) for number in range(settings.seeds)]
        elif name == "random":
            plan += [(settings, name, number) for number in range(settings.machines)]
        else:
            plan += [(settings, control, 0) for control in CONTROLS]
    done = over_seeds(measured, plan, jobs=settings.jobs)
    each = {f"{name}_{number}": one for (_, name, number), one in zip(plan, done, strict=True)}
    figures = {**summaries(each), "networks": each}
    reach = {path: bound for path, bound in REACH.items() if path.split(".")[0] in figures}
    figures = {"reach": reach, "not_reached": falls_short(figures, reach), **figures}
    numbers = ("states_of_the_truth", "states", "small", "regret", "floor", "kl_network_machine")
    names = (*numbers, "kl_truth_machine", "kl_truth_hmm", "entropy_rate_error")
    runs = {name: np.array([float(one[name]) for one in each.values()]) for name in names}
    runs["singular_values"] = np.array([one["singular_values"] for one in each.values()])
    dims = dict.fromkeys(names, ("network",)) | {"singular_values": ("network", "direction")}
    coords = {"network": np.array(list(each)), "direction": np.arange(1, 11)}
    return Outcome(figures, record(settings, {"runs": runs}, dims=dims, coords=coords))


def summaries(each: Mapping[str, Figures]) -> dict[str, Any]:
    """Shares of the networks of each part that was run."""
    known = [one for name, one in each.items() if name.rpartition("_")[0] in KNOWN]
    drawn = [one for name, one in each.items() if name.startswith("random_")]
    out: dict[str, Any] = {}
    if known:
        told = [one["transition_error"] for one in known if "transition_error" in one]
        unifilar = sum(name.rpartition("_")[0] in UNIFILAR for name in each)
        out["known"] = {
            "networks": len(known),
            "share_with_the_right_number_of_states": _share(known, right),
            "share_nearer_to_its_network_than_the_regret": _share(
                known, lambda one: one["kl_network_machine"] <= one["regret"]
            ),
            "share_of_entropy_rates_within_a_thousandth": _share(
                known, lambda one: one["entropy_rate_error"] <= 1e-3
            ),
            "share_with_an_update_nearer_to_bayes_than_all_controls": _share(known, _nearest),
            "median_update_r_squared": float(
                np.median([one["update"]["network"]["r_squared"] for one in known])
            ),
        }
        if unifilar:
            within = sum(error <= 0.03 for error in told)
            out["known"] |= {"share_of_transitions_within_03": within / unifilar}
        else:
            out["known"] |= {"share_of_transitions_within_03": 1.0}
    if drawn:
        visible = [one for one in drawn if is_visible(one)]
        out["random"] = {
            "networks": len(drawn),
            "visible": len(visible),
            "visible_with_the_right_number_of_states": sum(map(right, visible)),
        }
    if known or drawn:
        both = known + drawn
        out["all"] = {
            "share_no_farther_from_the_truth_than_the_network": _share(
                both, lambda one: one["kl_truth_machine"] <= one["regret"]
            ),
            "median_kl_truth_machine_by_regret": float(
                np.median([one["kl_truth_machine"] / one["regret"] for one in both])
            ),
        }
    if "untrained_0" in each:
        out["controls"] = {
            "untrained_kl_of_truth_and_machine": each["untrained_0"]["kl_truth_machine"],
            "stopped_early_states": each["stopped_early_0"]["states"],
            "counters_with_a_small_machine": each["counter_0"]["small"],
        }
    return out


def right(one: Figures) -> bool:
    """Whether the number of states is that of the truth."""
    return bool(one["states"] == one["states_of_the_truth"])


def is_visible(one: Figures) -> bool:
    """Whether all directions of the truth stand out of what the training left of noise."""
    smallest = float(one["smallest_singular_value_of_the_truth"])
    return smallest > VISIBLE * math.sqrt(float(one["regret"]))


def _nearest(one: Figures) -> bool:
    told = {name: each["r_squared"] for name, each in one["update"].items()}
    return bool(told["network"] > max(told[name] for name in told if name != "network"))


def _share(ones: Sequence[Figures], holds: Callable[[Figures], bool]) -> float:
    return sum(map(holds, ones)) / len(ones)


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Singular values with their floor, and distances from the truth."""
    del figures
    runs = group(posterior, "runs")
    figure, (left, right_axis) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    names = [str(name) for name in runs["network"].values]
    processes = list(dict.fromkeys(name.rpartition("_")[0] for name in names))
    for place, name in enumerate(names):
        one = runs.isel(network=place)
        values, states = one["singular_values"].values.clip(1e-6), int(one["states"])
        for part, color in (values[:states], "k"), (values[states:], "0.7"):
            left.plot(np.full(len(part), place), part, "_", color=color, ms=8)
        left.plot([place - 0.4, place + 0.4], [float(one["floor"])] * 2, "C3", lw=0.8)
        process = name.rpartition("_")[0]
        label = process if name == f"{process}_0" else None
        color = f"C{processes.index(process) % 10}"
        spot = float(one["regret"]), float(one["kl_truth_machine"])
        right_axis.plot(*spot, "o", color=color, label=label)
    left.set(yscale="log", ylabel="singular value", title="Directions above the floor (red)")
    left.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    ends = [float(runs["regret"].min()) / 2, float(runs["regret"].max()) * 2]
    right_axis.plot(ends, ends, "k", lw=0.7)
    right_axis.set(
        xscale="log",
        yscale="log",
        xlabel="KL(truth ‖ network), nats a step",
        ylabel="KL(truth ‖ machine)",
        title="Nearer to the truth than its network: below the line",
    )
    right_axis.legend(fontsize=7)
    return {"machines": figure}
