"""Beliefs of decision processes: this library beside its peers, by the belief step.

Many episodes of the same process, whose actions and observations are given; at every step the
belief moves by the action and is updated by the observation. In two ways: step by step, where each
belief is there before the next observation is (``ExactTracker``), and whole episodes at once
(``filter``). Peers are pymdp (both ways; jit, vmap, float32) and pomdp-py's histogram belief (one
episode and one step at a time, float64). All take turns in one process with a fixed number of
threads, after their beliefs were found to agree with Bayes' rule in numpy.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from ...inference import ExactFilter, filter
from ...models import POMDP, ExactTracker, Seen, Sequences
from ...models.decisions import problems
from .parts import fresh
from .parts.contenders import DTYPES
from .parts.problems import Array, Precision
from .parts.turns import Timing, in_turn

Size = tuple[int, int, int, int]


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the tables and the episodes."""
    threads: int = 2
    """Threads of every library."""
    tiger: tuple[int, ...] = (64, 1024)
    """Numbers of episodes of the Tiger, advanced together: few, where what a call costs by itself
    is most of it, and as many as an estimate of a policy's value takes."""
    sizes: tuple[Size, ...] = ((60, 5, 21, 64), (60, 5, 21, 1024), (870, 5, 30, 64))
    """(states, actions, symbols, episodes) of random tables, of the sizes of the classic problems
    Hallway and Tag. The peer that takes one episode at a time takes as many as ``pairs`` allows."""
    steps: int = 50
    """Belief steps of an episode, under actions that are drawn uniformly."""
    successors: float = 4.0
    """About how many states a state leads to, as on a grid."""
    pairs: int = 2_000_000
    """Pairs (from, to) that pomdp-py visits in a call, one after the other in Python: some tenths
    of a second. Its time grows with the number of belief steps, so that few of them tell it."""
    rounds: int = 15
    """Turns of each contender: the quartiles of fifteen are some per cent apart on a quiet
    machine."""
    seconds_each: float = 15.0
    """Time after which a contender gets no further turn on a problem, but for the first three."""

    def __post_init__(self) -> None:
        for name in ("threads", "steps", "pairs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("successors", "seconds_each"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be finite and > 0, got {getattr(self, name)}")
        if not self.tiger and not self.sizes:
            raise ValueError("sizes: needs a size, or episodes of the Tiger, got none")
        if min(self.tiger, default=1) < 1:
            raise ValueError(f"tiger: needs numbers of episodes >= 1, got {self.tiger}")
        for size in self.sizes:
            states, actions, symbols, episodes = size
            if min(states, symbols) < 2 or min(actions, episodes) < 1:
                raise ValueError(
                    f"sizes: need states and symbols >= 2, actions and episodes >= 1, got {size}"
                )


SMOKE: Mapping[str, object] = {
    "tiger": (2,),
    "sizes": ((4, 3, 3, 3),),
    "steps": 4,
    "pairs": 100,
    "rounds": 2,
    "seconds_each": 0.1,
}

REACH = 10
"""How many times slower than this library a peer should be by the belief step; fixed before any
run."""

ALLOWED: Mapping[Precision, float] = {"float32": 1e-4, "float64": 1e-10}
"""Largest difference of a probability from the reference. Rounding errors of a step are 1e-7 and
1e-16 of it, and observations keep them from adding up; pymdp, in float32, besides takes no
probability to be below 1.2e-7."""

SPREAD = 0.01
"""Share of a transition's probability that goes to all states alike, so that none is impossible."""


# --- the problem ----------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A process whose tables are known, and episodes of it."""

    model: POMDP
    data: Sequences
    pairs: int
    """See ``Settings``."""

    @property
    def size(self) -> str:
        """The size in words, as it stands in the report."""
        model = self.model
        symbols = model.emission.encoding_size
        return (
            f"states{model.states}_actions{model.actions}_symbols{symbols}_episodes{len(self.data)}"
        )

    @property
    def actions(self) -> Tensor:
        """The action before every belief step, (N, T)."""
        assert self.data.actions is not None
        return self.data.actions[:, :-1]

    @property
    def observations(self) -> Tensor:
        """What every belief step sees, (N, T)."""
        return self.data.values[:, 1:]


def problem(model: POMDP, episodes: int, settings: Settings) -> Problem:
    """Episodes of a process under actions that are drawn uniformly."""
    made = model.rollout(None, episodes, settings.steps + 1, seed=settings.seed)
    return Problem(model, made.data, settings.pairs)


def random_tables(size: Size, settings: Settings) -> POMDP:
    """A process of which every state has few successors, and no step is impossible."""
    states, actions, symbols, _ = size
    random = np.random.default_rng([settings.seed, states, actions, symbols])
    concentration = np.full(states, min(1.0, settings.successors / states))
    few = random.dirichlet(concentration, (actions, states))
    told = random.dirichlet(np.full(symbols, 0.5), (actions, states))
    return POMDP.from_tables((1 - SPREAD) * few + SPREAD / states, told, 0.0)


def reference(given: Problem) -> Array:
    r"""Bayes' rule in float64, one step after the other.

    .. math:: b_{t+1}(z') \propto O(o_{t+1} | a_t, z') \sum_z T(z' | z, a_t)\, b_t(z)

    Returns:
        The beliefs of all steps, (N · T, K), those of an episode together.
    """
    tables = given.model.tables()
    beliefs = []
    episodes = zip(given.actions.numpy(), given.observations.numpy(), strict=True)
    for actions, observations in episodes:
        belief = tables.initial
        for action, seen in zip(actions, observations, strict=True):
            joint = tables.observation[action, :, seen] * (belief @ tables.transition[action])
            belief = joint / joint.sum()
            beliefs.append(belief)
    return np.stack(beliefs)


# --- the contenders -------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """Work to be timed."""

    work: Callable[[], Any]
    beliefs: Callable[[Any], npt.NDArray[np.floating]]
    """From what the work returns, the beliefs in the order of ``reference``, its first ones."""
    belief_steps: int
    """How many there are."""


@dataclass(frozen=True)
class Contender:
    """One way of computing it."""

    name: str
    prepare: Callable[[Problem], Prepared]
    package: str | None = None
    """The package that it needs; None: nothing beyond what this library needs."""
    precision: Precision = "float64"
    beside: tuple[str, ...] = ()
    """Which of this library's contenders do the same, for the ratios."""


def _tracked(given: Problem) -> Prepared:
    """``ExactTracker``, all episodes advanced together, as a policy uses it."""
    first = given.data.values[:, 0], torch.zeros(len(given.data), dtype=torch.bool)
    nothing = Seen(None, *first)
    seen = [
        Seen(action, observation, torch.ones_like(observation, dtype=torch.bool))
        for action, observation in zip(given.actions.T, given.observations.T, strict=True)
    ]

    def work() -> list[Tensor]:
        tracker = ExactTracker()
        memory = tracker.begin(given.model, len(given.data))
        _, memory = tracker.update(memory, nothing)
        beliefs = []
        for one in seen:
            belief, memory = tracker.update(memory, one)
            beliefs.append(belief)
        return beliefs

    return Prepared(
        work, lambda found: torch.stack(found, 1).flatten(0, 1).numpy(), given.actions.numel()
    )


def _filtered(given: Problem, precision: Precision) -> Prepared:
    """``filter``, whole episodes: probabilities from observations."""
    model, data = given.model, given.data

    @torch.no_grad()
    def work() -> Tensor:
        if precision == "float64":
            return filter(model, data)
        values = {name: value.to(DTYPES[precision]) for name, value in model.known.items()}
        log_beliefs = ExactFilter()(model.laws(values, data))
        assert isinstance(log_beliefs, Tensor)  # the states are discrete
        return log_beliefs.exp()

    return Prepared(work, lambda found: found[:, 1:].flatten(0, 1).numpy(), given.actions.numel())


def _pymdp_step(given: Problem) -> tuple[Callable[..., Any], Any, Any]:
    """A belief step of one episode, the tables that it reads, and all beliefs (N, K) at first.

    By the functions that its ``Agent`` calls. An agent's likelihood knows no action; here it is
    given that of the action taken. The tables have the action in front: that of a step then lies
    together, which at 870 states takes half the time of pymdp's own order.
    """
    import jax.numpy as jnp
    from pymdp.control import compute_expected_state
    from pymdp.inference import update_posterior_states

    tables = given.model.tables()
    both = (
        jnp.asarray(tables.transition.transpose(0, 2, 1), dtype=jnp.float32),
        jnp.asarray(tables.observation.transpose(0, 2, 1), dtype=jnp.float32),
    )

    def step(both: Any, belief: Any, action: Any, seen: Any) -> Any:
        moves, told = (table[action] for table in both)
        prior = compute_expected_state([belief], [moves[..., None]], [0])
        (history,) = update_posterior_states(
            [told], None, [seen], None, prior=prior, method="exact", distr_obs=False
        )
        return history[0]

    initial = jnp.asarray(tables.initial, dtype=jnp.float32)
    return step, both, jnp.tile(initial, (len(given.data), 1))


def _over_episodes(step: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The step of all episodes: side by side as an ``Agent`` takes them, where each has a copy of
    its matrix, or one after the other in compiled code, which is quicker once these are large."""
    import jax

    side_by_side = jax.vmap(step, in_axes=(None, 0, 0, 0))

    def in_a_row(both: Any, *columns: Any) -> Any:
        return jax.lax.map(lambda one: step(both, *one), columns)

    return side_by_side, in_a_row


def _quickest(works: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """By the second call: the first one compiles."""
    seconds = []
    for work in works:
        work()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return works[int(np.argmin(seconds))]


def _pymdp_by_step(given: Problem) -> Prepared:
    """One compiled call a step; its result is waited for."""
    import jax
    import jax.numpy as jnp

    step, both, initial = _pymdp_step(given)
    columns = given.actions.T.numpy(), given.observations.T.numpy()
    seen = [(jnp.asarray(a), jnp.asarray(o)) for a, o in zip(*columns, strict=True)]

    def work(compiled: Callable[..., Any]) -> list[Any]:
        belief, beliefs = initial, []
        for action, observation in seen:
            belief = jax.block_until_ready(compiled(both, belief, action, observation))
            beliefs.append(belief)
        return beliefs

    def flat(found: list[Any]) -> npt.NDArray[np.floating]:
        return np.stack(found, 1).reshape(-1, given.model.states)

    works = [partial(work, jax.jit(every)) for every in _over_episodes(step)]
    return Prepared(_quickest(works), flat, given.actions.numel())


def _pymdp_scan(given: Problem) -> Prepared:
    """The same step in a ``lax.scan``, compiled as a whole."""
    import jax
    import jax.numpy as jnp

    step, both, initial = _pymdp_step(given)
    columns = tuple(jnp.asarray(x.T.numpy()) for x in (given.actions, given.observations))

    def scan(every: Callable[..., Any]) -> Callable[[], Any]:
        @jax.jit
        def compiled(both: Any, start: Any, columns: Any) -> Any:
            def body(belief: Any, seen: Any) -> tuple[Any, Any]:
                belief = every(both, belief, *seen)
                return belief, belief

            return jax.lax.scan(body, start, columns)[1]

        return lambda: jax.block_until_ready(compiled(both, initial, columns))

    def flat(found: Any) -> npt.NDArray[np.floating]:
        return np.swapaxes(np.asarray(found), 0, 1).reshape(-1, given.model.states)

    works = [scan(every) for every in _over_episodes(step)]
    return Prepared(_quickest(works), flat, given.actions.numel())


def _pomdp_py(given: Problem) -> Prepared:
    """``update_histogram_belief`` on the first episodes, with models that look tables up."""
    import pomdp_py

    tables = given.model.tables()
    # Lists: an element of an array costs Python several times as much to fetch.
    moves, told = tables.transition.tolist(), tables.observation.tolist()

    class Transition(pomdp_py.TransitionModel):
        def probability(self, next_state: int, state: int, action: int) -> float:
            found: float = moves[action][state][next_state]
            return found

    class Observation(pomdp_py.ObservationModel):
        def probability(self, observation: int, next_state: int, action: int) -> float:
            found: float = told[action][next_state][observation]
            return found

    episodes, length = given.actions.shape
    belief_steps = min(max(1, given.pairs // given.model.states**2), episodes * length)
    columns = given.actions.flatten().tolist(), given.observations.flatten().tolist()
    seen = list(zip(*columns, strict=True))[:belief_steps]
    initial = pomdp_py.Histogram(dict(enumerate(tables.initial.tolist())))
    transition, observation = Transition(), Observation()

    def work() -> list[Any]:
        beliefs: list[Any] = []
        for place, (action, symbol) in enumerate(seen):
            before = beliefs[-1] if place % length else initial
            beliefs.append(
                pomdp_py.update_histogram_belief(before, action, symbol, observation, transition)
            )
        return beliefs

    def flat(found: list[Any]) -> npt.NDArray[np.floating]:
        return np.array([[belief[k] for k in range(given.model.states)] for belief in found])

    return Prepared(work, flat, belief_steps)


TRACKER, FILTER = "beliefzoo_tracker", "beliefzoo_filter"

CONTENDERS: tuple[Contender, ...] = (
    Contender(TRACKER, _tracked),
    Contender(FILTER, partial(_filtered, precision="float64")),
    Contender(f"{FILTER}_float32", partial(_filtered, precision="float32"), precision="float32"),
    Contender("pymdp_step", _pymdp_by_step, "inferactively-pymdp", "float32", (TRACKER,)),
    Contender("pymdp_scan", _pymdp_scan, "inferactively-pymdp", "float32", (f"{FILTER}_float32",)),
    Contender("pomdp_py", _pomdp_py, "pomdp-py", "float64", (TRACKER, FILTER)),
)


# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings, contenders: Sequence[Contender] = CONTENDERS) -> dict[str, Any]:
    """Figures by size and contender.

    Raises:
        ValueError: a contender's beliefs differ from the reference by more than rounding.
    """
    processes = [(problems.tiger(), episodes) for episodes in settings.tiger]
    processes += [(random_tables(size, settings), size[-1]) for size in settings.sizes]
    figures = {}
    for model, episodes in processes:
        given = problem(model, episodes, settings)
        print(given.size, flush=True)
        figures[given.size] = _compare(given, settings, contenders)
    return figures


def _compare(given: Problem, settings: Settings, contenders: Sequence[Contender]) -> dict[str, Any]:
    """One problem: check, then time in turn."""
    expected = reference(given)
    figures: dict[str, Any] = {}
    ready: dict[str, Prepared] = {}
    for contender in contenders:
        if contender.package and fresh.installed(contender.package) is None:
            figures[contender.name] = {"left_out": f"{contender.package} is not installed"}
            continue
        prepared = contender.prepare(given)
        figures[contender.name] = _checked(contender, given, prepared, expected)
        ready[contender.name] = prepared
    timings = in_turn(
        {name: prepared.work for name, prepared in ready.items()},
        rounds=settings.rounds,
        seconds_each=settings.seconds_each,
    )
    microseconds = {
        name: 1e3 * np.array(timing.milliseconds) / ready[name].belief_steps
        for name, timing in timings.items()
    }
    for contender in contenders:
        if contender.name in timings:
            figures[contender.name] |= _figures(contender, timings[contender.name], microseconds)
    return figures


def _checked(
    contender: Contender, given: Problem, prepared: Prepared, expected: Array
) -> dict[str, Any]:
    """Agreement with the reference."""
    found = prepared.beliefs(prepared.work())
    off = float(np.abs(found - expected[: prepared.belief_steps]).max())
    allowed = ALLOWED[contender.precision]
    if not off <= allowed:
        raise ValueError(
            f"{contender.name}: beliefs must agree with Bayes' rule in float64 to {allowed:.0e} on "
            f"{given.size}, got {off:.1e}"
        )
    return {
        "precision": contender.precision,
        "belief_steps": prepared.belief_steps,
        "largest_difference": off,
    }


def _figures(
    contender: Contender, timing: Timing, microseconds: Mapping[str, Array]
) -> dict[str, Any]:
    """Cost of a belief step, and its ratio to ours: median and quartiles of turns side by side."""
    own = microseconds[contender.name]
    figures: dict[str, Any] = {
        "microseconds_per_belief_step": float(np.median(own)),
        **timing.figures(),
    }
    for ours in contender.beside:
        if ours in microseconds:
            together = min(len(own), len(microseconds[ours]))
            low, middle, high = np.quantile(
                own[:together] / microseconds[ours][:together], (0.25, 0.5, 0.75)
            )
            figures[f"beside_{ours}"] = {
                "times_slower": float(middle),
                "times_slower_lower_quartile": float(low),
                "times_slower_upper_quartile": float(high),
                "times_slower_to_reach": REACH,
            }
    return figures


# --- what is shown --------------------------------------------------------------------------------

_TITLES = {
    TRACKER: "ExactTracker, step by step",
    FILTER: "filter, whole episodes",
    f"{FILTER}_float32": "filter, whole episodes, float32",
    "pymdp_step": "pymdp, step by step, float32",
    "pymdp_scan": "pymdp, whole episodes, float32",
    "pomdp_py": "pomdp-py, step by step",
}


def table(figures: Mapping[str, Any]) -> str:
    """Microseconds of a belief step and how many times slower the peers are."""
    lines = []
    for words, by_name in figures.items():
        lines.append(_words(words))
        lines += [f"  {name:27}{_line(one)}" for name, one in by_name.items()]
    return "\n".join(lines)


def _line(figures: Mapping[str, Any]) -> str:
    if "left_out" in figures:
        return f"left out: {figures['left_out']}"
    line = f"{figures['microseconds_per_belief_step']:10.3g} µs a belief step"
    for ours, ratio in _ratios(figures):
        line += f"; {ratio['times_slower']:.3g} times {ours} (reach: {REACH})"
    return line


def _ratios(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    for name, ratio in figures.items():
        if name.startswith("beside_"):
            yield name.removeprefix("beside_"), ratio


def _words(size: str) -> str:
    found = re.fullmatch(r"states(\d+)_actions(\d+)_symbols(\d+)_episodes(\d+)", size)
    assert found is not None, size
    return "{} states, {} actions, {} symbols, {} episodes".format(*found.groups())


def draw(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Cost of a belief step, and how many times slower the peers are."""
    figure, (cost, ratio) = plt.subplots(1, 2, figsize=(13, 5))
    _draw_cost(cost, figures)
    _draw_ratios(ratio, figures)
    for axis in (cost, ratio):
        axis.set_yscale("log")
        axis.set_xticks(range(len(figures)), [_words(n).replace(", ", "\n") for n in figures])
        axis.tick_params(axis="x", labelsize=8)
        axis.set_xlim(-0.5, len(figures) - 0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.margins(y=0.12)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return {"beliefs": figure}


def _draw_cost(axis: Axes, figures: Mapping[str, Any]) -> None:
    names = list(next(iter(figures.values())))
    for number, name in enumerate(names):
        measured = [
            (place, by_name[name])
            for place, by_name in enumerate(figures.values())
            if "left_out" not in by_name[name]
        ]
        if not measured:
            continue
        places = [place + 0.06 * (number - (len(names) - 1) / 2) for place, _ in measured]
        middle = np.array([one["microseconds_per_belief_step"] for _, one in measured])
        style: dict[str, Any] = {"color": f"C{number}", "label": _TITLES.get(name, name)}
        axis.plot(places, middle, "o" if name.startswith("beliefzoo") else "D", ms=5, **style)
        quartiles = [
            1e3 * np.array([one[f"milliseconds_{side}_quartile"] for _, one in measured])
            for side in ("lower", "upper")
        ]
        steps = np.array([one["belief_steps"] for _, one in measured])
        low, high = (side / steps for side in quartiles)
        axis.vlines(places, low, high, color=f"C{number}", lw=5, alpha=0.35)
    axis.set_title("µs per belief step (bars: quartiles of the turns)", fontsize=10)


def _draw_ratios(axis: Axes, figures: Mapping[str, Any]) -> None:
    colours = {name: f"C{number}" for number, name in enumerate(next(iter(figures.values())))}
    for place, by_name in enumerate(figures.values()):
        ratios = [
            (name, ours, ratio) for name, one in by_name.items() for ours, ratio in _ratios(one)
        ]
        for number, (name, ours, ratio) in enumerate(ratios):
            where = place + 0.2 * (number - (len(ratios) - 1) / 2)
            low, high = (ratio[f"times_slower_{side}_quartile"] for side in ("lower", "upper"))
            axis.vlines(where, low, high, color=colours[name], lw=5, alpha=0.35)
            whole = ours != TRACKER
            face = "white" if whole else colours[name]
            axis.plot(where, ratio["times_slower"], "D", ms=6, color=colours[name], mfc=face)
            times = ratio["times_slower"]
            text = f"{times:.0f}" if times >= 100 else f"{times:.2g}"
            place_of_text = (0, -15 if whole else 7)  # filled above, open below: they may be close
            axis.annotate(
                text,
                (where, times),
                place_of_text,
                textcoords="offset points",
                fontsize=8,
                ha="center",
            )
    axis.axhline(REACH, color="black", ls="--", lw=1, label=f"{REACH} times, to reach")
    axis.axhline(1, color="black", lw=0.8)
    axis.set_title("times our time; filled: step by step, open: whole episodes", fontsize=10)
