"""Learned too: gates that are posterior updates of a model that is learned along with them.

As in `natural-gates`, but the model is not given: its parameters and the LSTM in the guide are
fitted to the same data by the same bound. The gates are compared with the factors that Bayes' rule
has under the *fitted* model, and, where data were simulated, under the true one; the parameters
with the truth. Data are simulations of chains of two states drawn at random, the earthquakes of a
century, and English letters. Beside the network whose work is divided stand an LSTM with a free
read-out, fitted with its own model, the network untrained, and the best function of the observation
alone.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ...inference import (
    BeliefGuide,
    LSTMFilter,
    NaturalLSTMFilter,
    fit,
    gate_floor,
    gate_identity,
)
from ...inference.arviz_groups import Idata
from ...inference.guides.guide import parameters_of
from ...inference.networks.gate_identity import PARTS
from ...models import Categorical, HiddenMarkovModel, Model, Sequences
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import (
    Figures,
    Repeated,
    against,
    at_least,
    interval,
    over_seeds,
    spread,
    stream,
    summary,
)
from ..data.loaders import load_earthquakes
from ..parts.gates import KL, gate_figures, gate_rows, of_the_observation_alone
from ..parts.random_models import switching
from ..parts.text_windows import held_apart
from ..parts.training import GradientSteps, Simulated, positive
from .drawings.learned_too import draw
from .parts.last_steps import climb
from .parts.widths import LEVEL, intervals

__all__ = ["SMOKE", "Settings", "draw", "run"]

GROUPS = "drawn", "earthquakes", "letters"

REACH = {
    **{
        f"over_models.{group}.divided.{part}_r_squared.smallest": (">=", 0.9)
        for group in GROUPS
        for part in PARTS
    },
    "parameters.share_in_intervals_low": ("<=", LEVEL),
    "parameters.share_in_intervals_high": (">=", LEVEL),
    "parameters.share_in_intervals_of_linear_response_low": ("<=", LEVEL),
    "parameters.share_in_intervals_of_linear_response_high": (">=", LEVEL),
}
"""What was to be reached, fixed before any run: R² against the fitted model, by every model on the
mean of its seeds; of the share of parameters in their 90 % intervals, the ends of its own 95 %
interval over models."""


@dataclass(frozen=True)
class Settings(GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    groups: tuple[str, ...] = GROUPS
    """What is learned from. The figures of a group do not depend on the others."""
    drawn: int = 10
    """Two-state chains with switch rates and means drawn at random."""
    jobs: int = 2
    training_sequences: int = 400
    """All there is to learn a chain from: 24 000 steps, which tell its rates to some 5 %."""
    length: int = 60
    """Steps of each."""
    heldout_sequences: int = 300
    """New simulations, of the true model, and of the fitted one of the earthquakes…"""
    heldout_length: int = 200
    """…and their steps; as many as there are years for the earthquakes."""
    windows: int = 300
    """Of the text to learn from, 100 letters each…"""
    heldout_windows: int = 200
    """…and held out, which share no 16 letters in a row with them."""
    auxiliary: int = 11
    """Units beside the natural cell, as in `natural-gates`."""
    steps: int = 200
    """Of Adam, model and network together…"""
    learning_rate: float = 5e-2
    """Of the network, as in `natural-gates`; that of the parameters is .03."""
    together: int = 80
    """…then of L-BFGS, model and network together…"""
    network_alone: int = 250
    """…the network alone, which is the slower one to learn, and both once more."""
    scale: float = 25.0
    """As in `natural-gates`."""
    sharpness: float = 40.0
    """As in `natural-gates`."""
    control_seeds: int = 1
    """Fits of the networks beside it."""
    follow: int = 30
    """Steps of L-BFGS by which the network follows a parameter that is moved…"""
    follow_sequences: int = 100
    """…on so many of the sequences."""
    draws: int = 2000
    """Of the parameters, for their intervals."""
    changes: int = 5
    """Changed histories of every held-out sequence, for the update of networks without units."""
    shown: int = 2000
    """Steps whose gates are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "together", "network_alone", "follow")
        at_least(1, self, "drawn", "steps", "auxiliary", "changes", "shown", "draws")
        at_least(1, self, "training_sequences", "windows", "heldout_windows", "follow_sequences")
        at_least(1, self, "control_seeds")
        at_least(2, self, "length", "heldout_length", "heldout_sequences")
        positive(self, "learning_rate", "scale", "sharpness")
        if not self.groups or not set(self.groups) <= set(GROUPS):
            raise ValueError(f"groups: needs some of {list(GROUPS)}, got {self.groups}")


SMOKE: Mapping[str, object] = {
    "seeds": 1,
    "jobs": 1,
    "drawn": 1,
    "training_sequences": 20,
    "length": 15,
    "heldout_sequences": 10,
    "heldout_length": 20,
    "windows": 10,
    "heldout_windows": 5,
    "auxiliary": 3,
    "steps": 3,
    "together": 2,
    "network_alone": 2,
    "follow": 1,
    "follow_sequences": 5,
    "draws": 20,
    "changes": 2,
    "shown": 30,
}


# --- data and models ------------------------------------------------------------------------------


class Task(NamedTuple):
    """A model to be learned, and from what."""

    model: HiddenMarkovModel
    data: Sequences
    truth: HiddenMarkovModel | None = None
    test: Sequences | None = None
    """Sequences to measure on; None: simulations of the fitted model."""


def names(settings: Settings) -> dict[str, str]:
    """Every data set by name, and its group."""
    every = {f"drawn_{number}": "drawn" for number in range(settings.drawn)}
    every |= {"earthquakes": "earthquakes", "letters": "letters"}
    return {name: group for name, group in every.items() if group in settings.groups}


def kinds(settings: Settings, group: str) -> dict[str, int]:
    """Networks of a group, and how often each is fitted.

    Letters alternate between two kinds rather than stay: undivided, a network can turn a belief.
    """
    found = {"divided": settings.seeds, "free": settings.control_seeds}
    return found | ({"undivided": settings.control_seeds} if group == "letters" else {})


def task_of(settings: Settings, name: str, number: int) -> Task:
    """What a fit learns; simulations are new ones for every fit, text and counts are the same."""
    if name == "earthquakes":
        model = HiddenMarkovModel(2, "poisson", initial="stationary", ordered=True)
        return Task(model, load_earthquakes())
    if name == "letters":
        others, kept = _text(settings.heldout_windows)
        symbols = others.symbols
        assert symbols is not None
        model = HiddenMarkovModel(2, Categorical(len(symbols)), initial="stationary")
        return Task(model, others.split([settings.windows], seed=0)[0], test=kept)
    place = int(name.split("_")[1])
    truth = switching(np.random.default_rng(stream(settings, 0, place)))
    size = settings.training_sequences, settings.length
    data = truth.sample(*size, seed=stream(settings, 1, place, number)).data
    size = settings.heldout_sequences, settings.heldout_length
    test = truth.sample(*size, seed=stream(settings, 2, place)).data
    model = HiddenMarkovModel(2, "gaussian", initial="stationary", ordered=True)
    return Task(model, data, truth, test)


@cache
def _text(heldout: int) -> tuple[Sequences, Sequences]:
    """Windows of 100 letters, and those held out: in this process read once."""
    return held_apart(100, heldout, source="pydoc", seed=0)


# --- fits -----------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """A fit: its figures, and points of its gates by what they should be."""

    figures: dict[str, Any]
    points: dict[str, Array]


def learned(settings: Settings, name: str, kind: str, number: int) -> Learned:
    """Model and network fitted together by the bound alone, and measured on other sequences."""
    task = task_of(settings, name, number)
    seed = stream(settings, 3, list(names(Settings())).index(name) if name in GROUPS else 0, number)
    with one_thread():
        torch.manual_seed(seed)
        fresh = BeliefGuide(task.model, network_of(settings, kind))
        guide = fitted(settings, fresh, task.data, seed)
        known = BeliefGuide(parameters_of(guide), guide.filter)
        test = task.test
        if test is None:
            size = settings.heldout_sequences, task.data.max_length
            test = known.model.sample(*size, seed=stream(settings, 2)).data
        measured = {"changes": settings.changes, "seed": settings.seed}
        figures = gate_figures(known, test, **measured) | of_the_transition(known.model)
        if kind == "divided":
            fresh.calibrate(task.data)
            untrained = BeliefGuide(known.model, fresh.filter)
            figures["untrained"] = gate_figures(untrained, test, **measured)
            alone = of_the_observation_alone(known.model, test)
            figures["forget_r_squared_of_the_observation_alone"] = alone
            if task.truth is not None:
                found = gate_identity(BeliefGuide(task.truth, guide.filter), test)
                figures["of_the_true_model"] = {
                    f"{part}_r_squared": found.worst(part) for part in PARTS
                }
            if name != "letters":  # of many parameters
                figures |= interval_figures(settings, guide, task)
    return Learned(figures, {} if kind == "free" else points(known, test, settings.shown))


def network_of(settings: Settings, kind: str) -> LSTMFilter:
    """A new network; all have the same number of units."""
    if kind == "free":
        return LSTMFilter(settings.auxiliary + 1)
    return NaturalLSTMFilter(
        settings.auxiliary,
        divided=kind == "divided",
        scale=settings.scale,
        sharpness=settings.sharpness,
    )


def fitted(settings: Settings, guide: BeliefGuide, data: Sequences, seed: int) -> BeliefGuide:
    """Adam on the bound of normal parameters, then L-BFGS on that of their medians."""
    how = settings.fit_settings(parameter_learning_rate=0.03)
    with warnings.catch_warnings():  # of a posterior that is not at its end yet
        warnings.simplefilter("ignore", UserWarning)
        found = fit(guide.model, guide, data, settings=how, seed=seed, progress=False).guide
    assert isinstance(found, BeliefGuide)
    for steps, both in (
        (settings.together, True),
        (settings.network_alone, False),
        (settings.together, True),
    ):
        climb(found, data, steps, parameters=both)
    return found


def interval_figures(settings: Settings, guide: BeliefGuide, task: Task) -> dict[str, float]:
    """Intervals of the parameters; the network follows them on a part of the data."""
    few = task.data[: min(settings.follow_sequences, len(task.data))]
    with seeded(settings.seed):
        return intervals(
            guide, task.data, few, task.truth, steps=settings.follow, draws=settings.draws
        )


def of_the_transition(model: Model) -> dict[str, float]:
    """What the fitted transition leaves of a belief; gates can be its factors if that is > 0."""
    left = float(torch.as_tensor(model.known["transition"]).diagonal().sum()) - 1
    floor = 0.0 if left > 0 else gate_floor(model, sequences=10, length=30, nodes=100)
    return {"left_by_the_transition": left, "gate_floor_per_step": floor}


def points(guide: BeliefGuide, test: Sequences, count: int) -> dict[str, Array]:
    """`gate_rows` of the first steps of all sequences in a row, (count,); NaN beyond their end."""
    out = {}
    for name, row in gate_rows(guide, test).items():
        own = row[test.step_mask[:, 1:]][:count].numpy()
        out[name] = np.pad(own, (0, count - len(own)), constant_values=np.nan)
    return out


# --- the experiment -------------------------------------------------------------------------------


def run(settings: Settings) -> Outcome:
    """Learn every model with every network, and compare gates and parameters."""
    groups = names(settings)
    plan = [
        (settings, name, kind, number)
        for name, group in groups.items()
        for kind, count in kinds(settings, group).items()
        for number in range(count)
    ]
    fits: dict[str, dict[str, list[Learned]]] = {name: defaultdict(list) for name in groups}
    done = over_seeds(learned, plan, jobs=settings.jobs)
    for (_, name, kind, _), one in zip(plan, done, strict=True):
        fits[name][kind].append(one)
    models: dict[str, dict[str, Any]] = {
        name: {kind: summary([one.figures for one in each]) for kind, each in own.items()}
        for name, own in fits.items()
    }
    figures: dict[str, Any] = {"over_models": over_models(groups, models), "by_model": models}
    figures["parameters"] = covered([models[name] for name in groups if groups[name] == "drawn"])
    reach = {
        path: how
        for path, how in REACH.items()
        if path.split(".")[1] in groups.values()
        or (path.startswith("parameters") and figures["parameters"])
    }
    shown = {name: fits[name]["divided"][0].points for name in groups}
    return Outcome(against(figures, reach), _record(settings, shown, models))


def over_models(groups: Mapping[str, str], models: Mapping[str, Figures]) -> dict[str, Any]:
    """Mean, interval, smallest and largest over the models of a group; each its mean of seeds."""
    out: dict[str, Any] = {}
    for group in dict.fromkeys(groups.values()):
        own = [models[name] for name, one in groups.items() if one == group]
        out[group] = {kind: spread([each[kind] for each in own]) for kind in own[0]}
        for control in ("untrained", "of_the_true_model"):
            if control in own[0]["divided"]:
                out[group][control] = spread([each["divided"][control] for each in own])
    return out


def covered(models: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the parameters in their intervals, its own interval over models."""
    out: dict[str, float] = {}
    for name in ("intervals", "intervals_of_linear_response", "exact_intervals"):
        each = [one["divided"][f"share_in_{name}"] for one in models]
        if each:
            out[f"share_in_{name}"] = float(np.mean(each))
            ends = zip(("low", "high"), interval(each), strict=True)
            out |= {f"share_in_{name}_{end}": value for end, value in ends}
    return out


def _record(
    settings: Settings, shown: Mapping[str, Mapping[str, Array]], models: Mapping[str, Figures]
) -> Idata:
    """Gates of the first seed's network and the factors of Bayes' rule; all figures of networks."""
    kinds = "divided", "undivided", "free"
    most = max(settings.seeds, settings.control_seeds)

    def by_seed(figure: str) -> Array:
        """(models, kinds, most seeds); NaN where there is none."""
        out = np.full((len(models), len(kinds), most), np.nan)
        for row, own in enumerate(models.values()):
            for column, kind in enumerate(kinds):
                found = own.get(kind, {}).get(f"{figure}_by_seed", [])
                out[row, column, : len(found)] = found
        return out

    figures = [f"{part}_r_squared" for part in PARTS] + ["update_r_squared", KL]
    runs = {figure: by_seed(figure) for figure in figures}
    first = next(iter(shown.values()))
    drawn = {part: np.stack([own[part] for own in shown.values()]) for part in first}
    dims = {**dict.fromkeys(drawn, ("model", "step")), **dict.fromkeys(runs, _RUNS)}
    coords = {"model": list(shown), "network": list(kinds)}
    return record(settings, {"constant_data": drawn, "runs": runs}, dims=dims, coords=coords)


_RUNS = "model", "network", "number"
