"""Fits: from data to the largest likelihood at default settings, beside other libraries.

Hidden Markov models and structural time series, published ones and simulated ones, are fitted by
maximum likelihood as a user of each library would: this library at its defaults; hmmlearn from one
start, both as it comes and with a tolerance small enough to end within 1e-4 nats of where it is
going; dynamax by as many EM steps; statsmodels as it comes. Every answer is measured in float64 by
the exact likelihood at its parameters, which must be the one that the library itself states. All
take turns in one process with a fixed number of threads. What hmmlearn calls a fit is one climb:
where it ends in another maximum than the best, its time is that of a wrong answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...models import (
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    Model,
    Seasonal,
    Sequences,
)
from ..data.loaders import (
    load_earnings,
    load_earthquakes,
    load_nile,
    load_response_times,
    load_returns,
)
from .parts import fresh
from .parts.comparison import Compared, Contender, Prepared, compare, ratios
from .parts.fitters import CONTENDERS, OURS, Task, checked

SHORT = 1e-4
"""Nats that our answer may be below the best that is known or found, beside the rounding of the
published number; fixed before any run."""

SLOWER = 1.0
"""How many times slower than this library a peer should be, whatever it reaches; fixed before any
run."""

HMM_PEERS = ("hmmlearn", "hmmlearn_default")
GAUSSIAN_PEERS = (*HMM_PEERS, "dynamax")


class Row(NamedTuple):
    """A model and its data, from a seed; what is published; who is asked."""

    build: Callable[[int], tuple[Model, Sequences]]
    family: str
    peers: tuple[str, ...] = ()
    published: float | None = None
    """The largest log likelihood."""
    digits: int = 4
    """Decimals that are published."""


def _chain(
    states: int, emission: str, load: Callable[[], Sequences], **laws: Any
) -> Callable[[int], tuple[Model, Sequences]]:
    return lambda seed: (HiddenMarkovModel(states, emission, **laws), load())


def _simulated(
    emission: str, steps: int, **values: Any
) -> Callable[[int], tuple[Model, Sequences]]:
    def build(seed: int) -> tuple[Model, Sequences]:
        model = HiddenMarkovModel(2, emission)
        known = model.with_parameters(
            initial=[0.5, 0.5], transition=[[0.95, 0.05], [0.1, 0.9]], **values
        )
        return model, known.sample(1, steps, seed=seed).data

    return build


def _trials() -> Sequences:
    """The response times without the pay-off."""
    return replace(load_response_times(), inputs=None)


def _nile(seed: int) -> tuple[Model, Sequences]:
    return LinearGaussianSSM(LocalLevel()), load_nile()


def _earnings(seed: int) -> tuple[Model, Sequences]:
    dynamics = LocalLinearTrend() + Seasonal(period=4)
    logs = np.log(load_earnings().values[0, :, 0].numpy())
    return LinearGaussianSSM(dynamics), Sequences.from_arrays([logs])


PUBLISHED_QUAKES = {1: -391.9189, 2: -342.3183, 3: -329.4603, 4: -327.8316}
"""Zucchini, MacDonald & Langrock, stationary chain."""

ROWS: Mapping[str, Row] = {
    "returns": Row(_chain(2, "gaussian", load_returns), "gaussian", GAUSSIAN_PEERS, 1402.37, 2),
    "returns_stationary": Row(
        _chain(2, "gaussian", load_returns, initial="stationary"), "gaussian", ("statsmodels",)
    ),
    "response_times_1": Row(_chain(1, "gaussian", _trials), "gaussian", HMM_PEERS, -305.3309),
    "response_times_2": Row(_chain(2, "gaussian", _trials), "gaussian", GAUSSIAN_PEERS, -88.7308),
    "response_times_payoff": Row(
        _chain(2, "gaussian", load_response_times, transition=InputTransition(1)),
        "gaussian",
        published=-44.1995,
    ),
    **{
        f"earthquakes_stationary_{m}": Row(
            _chain(m, "poisson", load_earthquakes, initial="stationary"),
            "poisson",
            published=published,
        )
        for m, published in PUBLISHED_QUAKES.items()
    },
    **{
        f"earthquakes_{m}": Row(_chain(m, "poisson", load_earthquakes), "poisson", HMM_PEERS)
        for m in (2, 3, 4)
    },
    "nile": Row(_nile, "level", ("statsmodels",)),
    "earnings": Row(_earnings, "seasonal", ("statsmodels",)),
    "simulated_gaussian_10000": Row(
        _simulated("gaussian", 10_000, mean=[0.0, 1.5], scale=[1.0, 0.5]),
        "gaussian",
        GAUSSIAN_PEERS,
    ),
    "simulated_counts_240": Row(_simulated("poisson", 240, rate=[2.0, 6.0]), "poisson", HMM_PEERS),
}


@dataclass(frozen=True)
class Settings(Compared):
    """Settings of the benchmark."""

    rounds: int = 5
    """Turns of each contender: a fit takes a second, and the ratios to be told apart are far from
    1."""
    seconds_each: float = 20.0
    """Time after which a contender gets no further turn on a row, but for the first three."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Models and data: small published ones, where overheads count, and one long series."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows or not set(self.rows) <= set(ROWS):
            raise ValueError(f"rows: needs some of {list(ROWS)}, got {self.rows}")


SMOKE: Mapping[str, object] = {
    "rows": ("earthquakes_2", "nile"),
    "rounds": 1,
    "seconds_each": 0.1,
}


# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings) -> dict[str, dict[str, Any]]:
    """Figures by row and contender, and what falls short.

    Raises:
        ValueError: a contender states another likelihood than ours at its parameters.
    """
    figures: dict[str, Any] = {}
    for name in settings.rows:
        print(name, flush=True)
        figures[name] = _compare(name, settings)
    return {"rows": figures, "summary": {"not_reached": falls_short(figures)}}


def _clocked(contender: Contender[Task], seconds: list[float]) -> Contender[Task]:
    """The same, noting the processor's seconds of every call, which neighbours change little."""

    def prepare(task: Task) -> Prepared:
        prepared = contender.prepare(task)

        def work() -> Any:
            began = time.process_time()
            result = prepared.work()
            seconds.append(time.process_time() - began)
            return result

        return prepared._replace(work=work)

    return replace(contender, prepare=prepare)


def _compare(name: str, settings: Settings) -> dict[str, Any]:
    row = ROWS[name]
    try:
        model, data = row.build(settings.seed)
    except ValueError as error:  # no folder of data
        return {OURS: {"left_out": str(error)}}
    task = Task(name, model, data, settings.seed, row.family)
    spent: dict[str, list[float]] = {one: [] for one in (OURS, *row.peers)}
    asked = [_clocked(CONTENDERS[one], seconds) for one, seconds in spent.items()]
    found, timings = compare(
        task, asked, settings, lambda contender, prepared: checked(contender, task, prepared)
    )
    figures: dict[str, dict[str, Any]] = dict(found)
    for name, seconds in spent.items():
        if seconds:
            figures[name]["cpu_seconds_median"] = float(np.median(seconds[1:] or seconds))
    best = max(float(one["log_likelihood"]) for one in figures.values() if "log_likelihood" in one)
    for one in figures.values():
        if "log_likelihood" in one:
            one["nats_short"] = best - one["log_likelihood"]
    if row.published is not None:
        figures[OURS]["published"] = row.published
        figures[OURS]["nats_below_published"] = row.published - figures[OURS]["log_likelihood"]
    for peer, timing in timings.items():
        if peer != OURS and "nats_short" in figures[peer]:
            figures[peer] |= ratios(timing.milliseconds, timings[OURS].milliseconds)
    return figures


def falls_short(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was not reached, in words; nothing if all was."""
    short = []
    for name, by_name in figures.items():
        ours = by_name[OURS]
        if "left_out" in ours:
            continue
        if not ours["nats_short"] <= SHORT:
            short.append(f"{name}: {ours['nats_short']:.3g} nats below the best that was found")
        below = ours.get("nats_below_published", -np.inf)
        if not below <= SHORT + 0.5 * 10.0 ** -ROWS[name].digits:
            short.append(f"{name}: {below:.3g} nats below the published maximum")
        for peer, one in by_name.items():
            if "times_slower" in one and not one["times_slower"] >= SLOWER:
                there = (
                    "" if one["nats_short"] <= SHORT else f", {one['nats_short']:.3g} nats short"
                )
                short.append(f"{name}: {peer} takes {one['times_slower']:.2g} times ours{there}")
    return short


# --- what is shown --------------------------------------------------------------------------------


def table(figures: Mapping[str, Any]) -> str:
    """Likelihoods, nats short of the best, seconds and ratios, a line a contender."""
    lines = []
    for name, by_name in figures["rows"].items():
        lines.append(name)
        for who, one in by_name.items():
            lines.append(f"  {who:18}{_said(one)}")
    short: Sequence[str] = figures["summary"]["not_reached"]
    return "\n".join([*lines, *(f"falls short: {one}" for one in short)])


def _said(one: Mapping[str, Any]) -> str:
    if "left_out" in one:
        return f"left out: {one['left_out']}"
    said = f"{one['log_likelihood']:14.4f}{one['nats_short']:12.2g} short"
    said += f"{1e-3 * one['milliseconds_median']:10.3g} s"
    said += f"{one['cpu_seconds_median']:10.3g} s of a processor"
    if "times_slower" in one:
        said += f"{one['times_slower']:8.3g} times ours"
    if "nats_below_published" in one:
        said += f" ({one['nats_below_published']:+.4f} below the published)"
    return said + (f" [{one['how']}]" if "how" in one else "")


def draw(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Seconds of every contender, hollow where it ends more than 1e-4 nats below the best."""
    rows = {name: one for name, one in figures["rows"].items() if "left_out" not in one[OURS]}
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.4 * len(rows)))
    for place, who in enumerate(CONTENDERS):
        for filled in (True, False):
            points = [
                (1e-3 * by_name[who]["milliseconds_median"], row)
                for row, by_name in enumerate(rows.values())
                if "nats_short" in by_name.get(who, {})
                and (by_name[who]["nats_short"] <= SHORT) == filled
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            face = f"C{place}" if filled else "none"
            label = who.replace("_", ", ") if filled else None
            axis.scatter(x, y, color=f"C{place}", facecolor=face, label=label)
    axis.set_xscale("log")
    axis.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axis.invert_yaxis()
    axis.set(xlabel="seconds from data to answer (hollow: not the largest likelihood)")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(CONTENDERS), frameon=False)
    return {"seconds": figure}
