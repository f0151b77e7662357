"""Policy reading: is what a cell reads emitted by its state, or an action upon it?

A cell σ(W_h h + W_y y + b) and a read-out x of its nodes. In one reading the nodes *emit* y and the
cell is Bayes' rule (``TemporalSigmoidBeliefNetwork``, features y and x); in the other y comes from
the world and *acts*, a_t = W_y y_t + b being the policy (``PolicyReading``, inputs y, feature x).
Data are made by both, from models that share all that could give them away one by one: the gate
(W_h, W_y, b), the read-out and the law of y. The world of the second makes y by nodes of its own
that the cell never meets, with exactly the law that the nodes of the first give it. What is left is
how y hangs together with the cell: only where nodes emit does h_{t-1} tell of y_t beyond y's past.

Both readings are fitted to all data. The comparison is fair if both evidences are of the same data
(x, y) and neither reading has the better law of y: to log p(x | y) of the second is added log p(y)
of a world with as many nodes as the cell, fitted to y alone, which is what the first says of y too.
They have different numbers of parameters, so that the choice is made by the exact evidence of
held-out sequences at the parameters of highest likelihood.

On the gate alone there is nothing to choose by: fitted to (h_{t-1}, y_t, h_t), both readings are
the same logistic regression, with the same likelihood. What can be asked is whether the worlds
leave a mark on it: by how many nats two gates, one for either world, describe the two data sets
better than one gate for both, beyond the half nat a weight that chance gives (Wilks). The gates
that fits by the evidence imply are another matter, and are compared too: a reading that is wrong
about y bends its gate a little. Without memory, W_h = 0, the two readings are the same law of
(x, y), and the evidence has nothing to go by either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from ...inference.arviz_groups import Idata
from ...models import as_policy, emission_of, policy_gate
from ..command.report import Outcome, record
from ..command.seeds import against, at_least, interval, over_seeds, stream
from ..parts.gates import (
    Pairs,
    best_gate,
    gate_score,
    posterior,
    renamed,
    two_gates_for_one,
    weights_of,
)
from .drawings.policy_reading import draw
from .parts.two_readings import READINGS, Readings, fitted, true_readings
from .parts.two_worlds import CASES, Case, case_of, make

__all__ = ["SMOKE", "Settings", "draw", "run"]

LEAST_SHARE = 0.95
"""Share of the data sets of either reading in which the evidence picks the true one."""

OTHER = 0.8
"""Control: a gate whose weights are so many times those of the truth must be told from it."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything: data and starts of fits."""
    datasets: int = 40
    """Data sets of either reading in every case."""
    curve_datasets: int = 8
    """The same at every other switch rate: it is the mean that is drawn."""
    jobs: int = 1
    """Data sets at the same time, one thread each. The numbers do not depend on it."""
    sequences: int = 20
    """Sequences of a data set, and as many that are held out…"""
    length: int = 100
    """…and their steps: ten switches of the nodes in each."""
    switch_rate: float = 0.1
    """Chance ε of a node to change at a step: W_h = 2 log((1 − ε) / ε) = 4.4."""
    curve: tuple[float, ...] = (0.5, 0.4, 0.3, 0.2, 0.05)
    """Other switch rates, for the first case; at one half the readings coincide."""
    steps: int = 120
    """Gradient steps of a fit by Adam: the last ones move the likelihood by less than .05 nats."""
    learning_rate: float = 0.1
    """Its rate, falling along a cosine."""

    def __post_init__(self) -> None:
        at_least(2, self, "datasets", "curve_datasets")
        for rate in (self.switch_rate, *self.curve):
            if not 0 < rate <= 0.5:
                raise ValueError(f"switch_rate, curve: must be in (0, .5], got {rate}")


SMOKE: Mapping[str, object] = {
    "datasets": 2,
    "curve_datasets": 2,
    "sequences": 4,
    "length": 15,
    "curve": (),
    "steps": 3,
}


# Gates


def gate_scores(readings: Readings, pairs: Pairs, reads: int) -> tuple[float, float]:
    """Mean log p(h | h', y), nats a step, by the gates of both readings as fitted by evidence.

    Nodes of a fit have no names and may be on for off: they get those that score best.
    """
    acting = weights_of(policy_gate(readings.acting))
    emits = emission_of(readings.emitted, slice(0, reads))
    best = [-math.inf, -math.inf]
    for named in renamed(pairs):
        place = (named.after @ 2.0 ** torch.arange(len(acting) - 1, -1, -1).double()).long()
        law = posterior(emits, named).law
        bayes = law.gather(-1, place.unsqueeze(-1)).clamp_min(1e-300).log()
        for each, score in enumerate((bayes, gate_score(acting, named))):
            best[each] = max(best[each], float(score.mean()))
    return best[0], best[1]


# One data set of each reading


class Found(NamedTuple):
    """What a pair of data sets says, one of each reading."""

    evidence: dict[str, tuple[float, float]]
    """By the true reading: held-out log p(x, y) of both readings."""
    truth: dict[str, tuple[float, float]]
    """The same for the models that made the two data sets, without any fit."""
    scores: dict[str, tuple[float, float]]
    """By the true reading: held-out log p(h | h', y) a step of both."""
    gates: dict[str, Tensor]
    """By the true reading: the gate learned from the bits, (k, inputs)."""
    mark: float
    """``two_gates_for_one`` of the two worlds…"""
    other: float
    """…and of one world with another gate: the control."""


def work(settings: Settings, name: str, switch_rate: float, number: int) -> Found:
    """Make both data sets, fit both readings to both."""
    case = case_of(name, switch_rate)
    key = (CASES.index(name), round(1e6 * switch_rate), number)
    size = settings.sequences, settings.length
    made = {}
    made_by = true_readings(case)
    evidence: dict[str, tuple[float, float]] = {}
    truth: dict[str, tuple[float, float]] = {}
    scores: dict[str, tuple[float, float]] = {}
    for place, reading in enumerate(READINGS):
        made[reading] = make(case, reading, *size, stream(settings, 1, place, *key))
        heldout = make(case, reading, *size, stream(settings, 2, place, *key))
        found = fitted(
            case,
            made[reading].data,
            steps=settings.steps,
            rate=settings.learning_rate,
            seed=stream(settings, 3, place, *key),
        )
        evidence[reading] = found.evidence(heldout.data, case.reads)
        truth[reading] = made_by.evidence(heldout.data, case.reads)
        scores[reading] = gate_scores(found, heldout.pairs(case.reads), case.reads)
    pairs = {reading: one.pairs(case.reads) for reading, one in made.items()}
    return Found(
        evidence,
        truth,
        scores,
        {reading: best_gate(one.inputs, one.after) for reading, one in pairs.items()},
        two_gates_for_one(*pairs.values()),
        two_gates_for_one(pairs["emitted"], _weaker(case, pairs["acting"], settings, key)),
    )


def _weaker(case: Case, pairs: Pairs, settings: Settings, key: tuple[int, ...]) -> Pairs:
    """The same inputs, but nodes drawn from a gate with weaker weights."""
    weights = weights_of(policy_gate(as_policy(case.emitted, case.reads)))
    on = (OTHER * pairs.inputs @ weights.mT).sigmoid()
    generator = torch.Generator().manual_seed(stream(settings, 4, *key))
    drawn = torch.bernoulli(on, generator=generator)
    return Pairs(pairs.before, pairs.y, drawn)


# The experiment


def run(settings: Settings) -> Outcome:
    """Fit both readings to all data sets; count which the evidence picks."""
    kinds = {(CASES[0], rate): settings.curve_datasets for rate in settings.curve}
    kinds |= {(name, settings.switch_rate): settings.datasets for name in CASES}
    plan = [(settings, *kind, number) for kind, many in kinds.items() for number in range(many)]
    done = iter(over_seeds(work, plan, jobs=settings.jobs))
    found = {kind: [next(done) for _ in range(many)] for kind, many in kinds.items()}
    by_case = {name: found[name, settings.switch_rate] for name in CASES}
    by_rate = {rate: each for (name, rate), each in found.items() if name == CASES[0]}
    reach: dict[str, tuple[str, float]] = {}
    for name in CASES:
        reach |= {f"{name}.{each}.share_picked": (">=", LEAST_SHARE) for each in READINGS}
        reach[f"{name}.gate_alone.gain_interval_low"] = ("<=", 0.0)
        reach[f"{name}.gate_alone.gain_interval_high"] = (">=", 0.0)
    figures: dict[str, Any] = {name: case_figures(found) for name, found in by_case.items()}
    figures["by_switch_rate"] = {
        f"switch_rate_{rate:g}".replace(".", "p"): {
            "switch_rate": rate,
            **{reading: picked(by_rate[rate], reading) for reading in READINGS},
        }
        for rate in sorted(by_rate)
    }
    return Outcome(against(figures, reach), _record(settings, by_case))


def picked(found: Sequence[Found], reading: str) -> dict[str, object]:
    """How often the evidence picks the reading that made the data, and by how much."""
    place = READINGS.index(reading)
    ahead, known = (
        [pair[reading][place] - pair[reading][1 - place] for pair in pairs]
        for pairs in ([one.evidence for one in found], [one.truth for one in found])
    )
    right = sum(gain > 0 for gain in ahead)
    wilson = binomtest(right, len(ahead)).proportion_ci(method="wilson")
    return {
        "share_picked": right / len(ahead),
        "share_picked_interval": [wilson.low, wilson.high],
        "nats_ahead": float(np.mean(ahead)),
        "nats_ahead_interval": interval(ahead),
        "smallest_nats_ahead": min(ahead),
        "nats_ahead_at_true_parameters": float(np.mean(known)),
    }


def case_figures(found: Sequence[Found]) -> dict[str, object]:
    """Picks by the evidence, and what the gate says."""
    out: dict[str, Any] = {}
    for reading in READINGS:
        differences = [one.scores[reading][0] - one.scores[reading][1] for one in found]
        out[reading] = picked(found, reading) | {
            "gate_of_the_emitted_reading_ahead_per_step": float(np.mean(differences)),
            "gate_of_the_emitted_reading_ahead_per_step_interval": interval(differences),
        }
    marks, others = [one.mark for one in found], [one.other for one in found]
    low, high = interval(marks)
    out["gate_alone"] = {
        "gain_of_two_gates": float(np.mean(marks)),
        "gain_interval_low": low,
        "gain_interval_high": high,
        "gain_where_the_gates_differ": float(np.mean(others)),
        "gain_where_the_gates_differ_interval": interval(others),
    }
    return out


def _record(settings: Settings, by_case: Mapping[str, Sequence[Found]]) -> Idata:
    """Learned gates, one a data set, and all that is drawn beside them."""
    learned: dict[str, Any] = {}
    known: dict[str, Any] = {}
    dims: dict[str, tuple[str, ...]] = {}
    for name, found in by_case.items():
        case = case_of(name, settings.switch_rate)
        gate = policy_gate(as_policy(case.emitted, case.reads))
        known[f"{name}_written"] = weights_of(gate).numpy()
        dims[f"{name}_written"] = (f"{name}_node", f"{name}_input")
        for reading in READINGS:
            key = f"{name}_{reading}"
            learned[key] = torch.stack([one.gates[reading] for one in found]).numpy()
            dims[key] = ("dataset", f"{name}_node", f"{name}_input")
            each = [one.evidence[reading] for one in found]
            known[f"{key}_ahead"] = np.array([first - second for first, second in each])
            dims[f"{key}_ahead"] = ("dataset",)
        known[f"{name}_gain"] = np.array([[one.mark, one.other] for one in found])
        dims[f"{name}_gain"] = ("dataset", "same_or_other_gate")
    return record(settings, {"runs": learned, "constant_data": known}, dims=dims)
