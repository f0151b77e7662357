"""Decision processes whose tables are known, and who keeps the belief of their episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....inference import ExactFilter, filter
from ....models import POMDP, ExactTracker, Seen, Sequences
from .comparison import Contender, Prepared
from .contenders import DTYPES
from .problems import Array, Precision

Size = tuple[int, int, int, int]
"""States, actions, symbols, episodes."""

SPREAD = 0.01
"""Share of a transition's probability that goes to all states alike, so that none is impossible."""


class Problem(NamedTuple):
    """A process whose tables are known, and episodes of it."""

    model: POMDP
    data: Sequences
    pairs: int
    """Pairs (from, to) that pomdp-py may visit in a call."""

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


def problem(model: POMDP, episodes: int, steps: int, pairs: int, seed: int) -> Problem:
    """Episodes of a process under actions that are drawn uniformly."""
    return Problem(model, model.rollout(None, episodes, steps + 1, seed=seed).data, pairs)


def random_tables(size: Size, successors: float, seed: int) -> POMDP:
    """A process of which every state has about so many successors, and no step is impossible."""
    states, actions, symbols, _ = size
    random = np.random.default_rng([seed, states, actions, symbols])
    concentration = np.full(states, min(1.0, successors / states))
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


# --- this library -------------------------------------------------------------------------------


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

CONTENDERS: tuple[Contender[Problem], ...] = (
    Contender(TRACKER, _tracked, precision="float64"),
    Contender(FILTER, partial(_filtered, precision="float64"), precision="float64"),
    Contender(f"{FILTER}_float32", partial(_filtered, precision="float32")),
    Contender("pymdp_step", _pymdp_by_step, "inferactively-pymdp", beside=(TRACKER,)),
    Contender("pymdp_scan", _pymdp_scan, "inferactively-pymdp", beside=(f"{FILTER}_float32",)),
    Contender("pomdp_py", _pomdp_py, "pomdp-py", "float64", beside=(TRACKER, FILTER)),
)
