"""Partially observable Markov decision processes: hidden Markov models with actions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..chains.actions import ActionEmission, ActionTransition
from ..chains.hmm import HiddenMarkovModel, named_emission
from ..chains.renaming import states_alike
from ..checks import brief, require, require_count, require_share
from ..data.padding import names
from ..data.sequences import Sequences
from ..emissions.counts import Categorical
from ..emissions.emission import Emission, Parameters
from ..model import Coords, Number, Simulation, as_tensor
from ..randomness import seeded
from ..trajectories import invert
from .particles import ChainParticles, ParticleLaws
from .policies import (
    Policy,
    Seen,
    Tracker,
    Uniform,
    are_laws,
    checked_chances,
    require_policy,
    require_tracker,
)
from .rewards import Rewards, Tables

if TYPE_CHECKING:
    import pandas as pd

FIRST = "(first)"
"""What stands for the action before the first step, where that is observed."""

_ROUNDED = 1e-5
"""Rows of probabilities that miss a sum of 1 by more than this are refused."""


@boundary
class POMDP(HiddenMarkovModel):
    r"""A partially observable Markov decision process with K states and A actions.

    .. math::
        p(z_1) \prod_t π(a_t | o_{\le t}, a_{<t})\, T(z_{t+1} | z_t, a_t)\,
        O(o_{t+1} | a_t, z_{t+1}), \quad r_t = R(a_t, z_t, z_{t+1}, o_{t+1})

    Given its actions it is a hidden Markov model whose matrices the actions choose; the policy,
    which does not see the hidden state, cancels. Hence ``filter``, ``log_evidence``, ``fit`` and
    all else that takes hidden Markov models takes it. ``rollout`` draws whole episodes.

    Parameters: ``initial`` (K,), ``transition`` (A, K, K), those of the emission with a first axis
    of actions (``probs`` (A, K, S)), and with learned rewards ``reward`` and ``reward_scale``.

    Data tell states apart, but not which is which. A fit of a process whose states nothing tells
    apart warns, and replaces their names by numbers; starting values of the emission, a known
    parameter, or a prior that differ between the states settle their names.

    Args:
        states: number of hidden states K, or their names.
        emission: family of the observations, its short name, or for symbols their number or names.
        actions: number of actions A, or their names.
        observation_names: names of the symbols, where ``emission`` does not give them.
        reward: R as ``Rewards`` or an array that broadcasts to (action, state, state_to,
            observation); (A, K) is R(a, z). ``"learned"``: R(a, z) is a parameter, and the rewards
            of the data are noisy observations of it, see ``ActionEmission``.
        discount: γ in [0, 1]: a reward t steps ahead counts γ^t.
        first: whether there is an observation before the first action, with its own parameters.
        sticky: additional prior pseudo-counts on staying.
        priors: replacements for single priors, by parameter name.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Kaelbling, Littman & Cassandra (1998), Artificial Intelligence 101.

    >>> model = POMDP(["well", "ill"], 2, actions=["wait", "treat"])  # all tables unknown
    >>> {name: tuple(prior.event_shape) for name, prior in model.priors.items()}
    {'initial': (2,), 'transition': (2, 2, 2), 'probs': (2, 2, 2)}
    """

    def __init__(
        self,
        states: int | Sequence[str],
        emission: Emission | str | int | Sequence[str],
        *,
        actions: int | Sequence[str],
        observation_names: Sequence[str] | None = None,
        reward: Rewards | npt.ArrayLike | str | None = None,
        discount: float = 0.95,
        first: bool = False,
        sticky: float = 0.0,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        count, self.state_names = _named(states, "states")
        self.actions, self.action_names = _named(actions, "actions")
        family, self.observation_names = _family(emission, observation_names)
        learned = isinstance(reward, str)
        if learned:
            require(reward == "learned", "reward", "must be rewards or 'learned'", repr(reward))
        self.reward = None if learned or reward is None else _rewards(reward)
        self.learned_reward = learned
        require_share(discount, "discount")
        self.discount = float(discount)
        if not isinstance(family, ActionEmission):
            family = ActionEmission(family, self.actions, first=first, rewards=learned)
        asked = self.actions, first or family.first, learned
        own = family.actions, family.first, family.rewards
        requirement = f"must have (actions, first, rewards) = {asked}, as the other arguments"
        require(own == asked, "emission", requirement, own)
        super().__init__(
            count,
            family,
            transition=ActionTransition(self.actions, sticky=sticky),
            priors=priors,
        )
        if self.reward is not None:
            self.reward.check(self.actions, count, self._symbols)

    actions: int
    """Number of actions A."""

    @classmethod
    def from_tables(
        cls,
        transition: Number,
        observation: Number,
        reward: Rewards | npt.ArrayLike | None = None,
        *,
        initial: Number | None = None,
        first: Number | None = None,
        discount: float = 0.95,
        states: Sequence[str] | None = None,
        actions: Sequence[str] | None = None,
        observations: Sequence[str] | None = None,
    ) -> POMDP:
        """Build a process with known tables.

        Args:
            transition: T(z' | z, a), (A, K, K).
            observation: O(o | a, z'), (A, K, S).
            reward: as for ``POMDP``.
            initial: p(z_1), (K,); uniform if None.
            first: probabilities (K, S) of an observation before the first action, if there is one.
            discount: γ.
            states, actions, observations: names.

        Returns:
            The process with known parameters.

        Raises:
            ValueError: tables of sizes that do not agree, or a row that does not sum to 1, which is
                named.

        >>> stay, swap = [[1, 0], [0, 1]], [[0, 1], [1, 0]]
        >>> seen = [[0.9, 0.1], [0.1, 0.9]]
        >>> model = POMDP.from_tables([stay, swap], [seen, seen], reward=[[0, 1], [0, 0]])
        >>> model.states, model.actions, model.emission.encoding_size
        (2, 2, 2)
        """
        moves, told = as_tensor("transition", transition), as_tensor("observation", observation)
        square = moves.ndim == 3 and moves.shape[1] == moves.shape[2]
        require(square, "transition", "needs shape (action, state, state_to)", tuple(moves.shape))
        count, size = moves.shape[:2]
        fits = told.ndim == 3 and told.shape[:2] == (count, size)
        requirement = f"needs shape ({count}, {size}, symbols)"
        require(fits, "observation", requirement, tuple(told.shape))
        symbols = told.shape[2]
        model = cls(
            _for_table(states, size, "states"),
            _for_table(observations, symbols, "observations"),
            actions=_for_table(actions, count, "actions"),
            reward=reward,
            discount=discount,
            first=first is not None,
        )
        start = torch.full((size,), 1 / size, dtype=torch.float64)
        if initial is not None:
            start = _checked_law("initial", initial, (size,))
        model.check_rows("transition", moves)
        model.check_rows("observation", told)
        if first is not None:
            law = _checked_law("first", first, (size, symbols))
            told = torch.cat([told, law.unsqueeze(0)])
        known = {"probs": told}
        if size > 1:
            known |= {"initial": start, "transition": moves}
        return model.with_parameters(**known)

    def check_rows(self, name: str, table: Tensor) -> None:
        """Raise ``ValueError`` naming the first row (action, state) that does not sum to 1."""
        require(bool((table >= 0).all()), name, "needs probabilities >= 0", float(table.min()))
        off = ((table.sum(-1) - 1).abs() > _ROUNDED).nonzero()[:1].tolist()
        for action, state in off:
            row = f"action {self.action_names[action]!r}, state {self.state_names[state]!r}"
            requirement = f"rows must sum to 1; that of {row} does not"
            require(False, name, requirement, f"{float(table[action, state].sum()):.6g}")

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the model except ``priors``."""
        assert isinstance(self.transition, ActionTransition)
        return {
            "states": self.state_names,
            "emission": self.emission,
            "actions": self.action_names,
            "observation_names": self.observation_names if self.emission.codes else None,
            "reward": "learned" if self.learned_reward else self.reward,
            "discount": self.discount,
            "sticky": self.transition.sticky,
        }

    @property
    def has_names(self) -> bool:
        """True if the states were given names."""
        return self.state_names != tuple(str(state) for state in range(self.states))

    @property
    def reorderable(self) -> bool:
        """True if the states have neither names nor numbers with a meaning."""
        return not self.has_names and super().reorderable

    def undecided(self, given: Parameters) -> str:
        if not self.alike_by_law or not (self.has_names or self.reward):
            return super().undecided(given)
        # What is seen of a state is its name; of a first state a fit may end far off.
        given = {name: given[name] for name in self.emission.dims() if name in given}
        for pair in states_alike(self, given):
            apart = self.reward is not None and not self.reward.alike(*pair)
            if not (self.has_names or apart):
                continue
            names = " and ".join(repr(self.state_names[state]) for state in pair)
            lost = ["names of states are replaced by numbers"] * self.has_names
            lost += ["the rewards, which are given by state, may be exchanged"] * apart
            return (
                f"nothing tells the states {names} apart: data and priors are as likely if they "
                f"are exchanged; {', and '.join(lost)}. Starting values of the emission "
                "(start={{…}}), a known parameter (with_parameters) or a prior that differ between "
                "them would settle it"
            )
        return ""

    def unnamed(self) -> Self:
        out = copy.copy(self)
        out.state_names = tuple(str(state) for state in range(self.states))
        return out

    def coords(self) -> Coords:
        """Return names of states, actions and observations; numbers for states without names."""
        before = (*self.action_names, FIRST) if self.law.first else self.action_names
        out = {**super().coords(), "action": self.action_names, "action_before": before}
        if self.observation_names:
            out["observation"] = self.observation_names
        if self.has_names:
            out["state"] = out["state_to"] = self.state_names
        return out

    @property
    def law(self) -> ActionEmission:
        """The emission law."""
        assert isinstance(self.emission, ActionEmission)
        return self.emission

    @property
    def _symbols(self) -> int | None:
        return self.emission.encoding_size if self.emission.codes else None

    @property
    def _least_observed(self) -> int:
        return 1

    def __repr__(self) -> str:
        known = f", known={sorted(self._known)}" if self._known else ""
        return (
            f"POMDP(states={self.states}, {brief(self.law.family)}, actions={self.actions}, "
            f"discount={self.discount:g}{known})"
        )

    def tables(self) -> Tables:
        """Return the process as numbers, for planning.

        Raises:
            ValueError: observations that are no symbols, no rewards, or unknown parameters.
        """
        require(self._symbols is not None, "model", "planning needs symbols", repr(self))
        values = self.complete({})
        one = torch.ones(self.actions, 1, 1, dtype=torch.float64)
        moves = values.get("transition", one).numpy()
        told = values["probs"][: self.actions].numpy()
        if self.reward is not None:
            earned = self.reward.expected(moves, told)
        else:
            require(self.learned_reward, "model", "planning needs rewards (reward=…)", repr(self))
            earned = values["reward"].numpy()
        initial = values.get("initial", one[0, 0]).numpy()
        return Tables(initial, moves, told, earned, self.discount)

    def particle_laws(self) -> ParticleLaws:
        """The laws as particles need them; all parameters must be known."""
        return ChainParticles(self)

    # One step

    def acted(self, action: Tensor | None, episodes: int) -> Tensor:
        """Return the number of the emission law that each action leads to; also before the first
        action.
        """
        if action is not None:
            return action
        return torch.full((episodes,), self.actions if self.law.first else 0)

    # Whole episodes

    def rollout(
        self,
        policy: Policy | None = None,
        episodes: int = 1,
        length: int = 1,
        *,
        seed: int | None = None,
        tracker: Tracker | None = None,
    ) -> Episodes:
        """Draw episodes under a policy, with the beliefs of a tracker along them.

        Args:
            policy: uniform if None.
            episodes: number of episodes N, which are advanced together.
            length: steps T of each; every step has an action and a reward.
            seed: makes the draw reproducible and leaves torch's global generator untouched.
            tracker: its beliefs are recorded.

        Returns:
            States, observations, actions, rewards and beliefs.

        Raises:
            ValueError: an invalid argument, a policy that gives no probabilities at some step, or
                whatever policy or tracker refuse.

        >>> from beliefzoo.models import tiger
        >>> episodes = tiger().rollout(episodes=4, length=10, seed=0)
        >>> tuple(episodes.states.shape)
        (4, 10)
        """
        policy = Uniform() if policy is None else policy
        _check_walk(policy, episodes, length, tracker)
        with seeded(seed), torch.no_grad():
            drawn = {name: prior.sample().double() for name, prior in self.priors.items()}
            model = self.with_parameters(**drawn) if drawn else self
            return _walk(model, policy, episodes, length, tracker)

    def sample(
        self,
        n: int,
        length: int | Sequence[int] | Tensor,
        *,
        seed: int | None = None,
        inputs: Number | None = None,
        times: Number | None = None,
        policy: Policy | None = None,
    ) -> Simulation:
        """Draw n episodes of one length under a policy (uniform if None); see ``rollout``."""
        require(inputs is None, "inputs", f"{self} reads none", type(inputs).__name__)
        require(times is None, "times", f"{self} reads none", type(times).__name__)
        require(isinstance(length, int), "length", "must be one for all episodes", length)
        assert isinstance(length, int)
        made = self.rollout(policy, n, length, seed=seed)
        return Simulation(made.states, made.data, made.parameters)

    def program(self, policy: Policy, episodes: int, length: int) -> Sequences:
        """Run the Pyro program of episodes: sites ``states``, ``actions``, ``obs``, ``rewards``.

        Each site holds whole trajectories; that of the rewards is deterministic unless they are
        learned. The log densities add up to the joint density of an episode under the policy. For
        beliefs and fits given actions and observations, call the model with the data.
        """
        _check_walk(policy, episodes, length, None)
        values = self.sample_parameters()
        with torch.no_grad():
            known = {name: value.detach().double() for name, value in values.items()}
            model = self.with_parameters(**known) if known else self
            made = _walk(model, policy, episodes, length, None)
        laws = self.laws(values, made.data)
        hot = torch.nn.functional.one_hot(made.states, self.states).to(made.probabilities)
        assert made.data.actions is not None
        with pyro.plate("sequence", episodes):
            pyro.sample("states", _Drawn(laws.states(), hot))
            choice = dist.Categorical(made.probabilities).to_event(1)
            pyro.sample("actions", _Drawn(choice, made.data.actions))
            y = self.observations.read(made.data)[0]
            pyro.sample("obs", _Drawn(laws.observations(hot), y))
        assert made.data.rewards is not None
        pyro.deterministic("rewards", made.data.rewards)
        return made.data

    def simulate(self, parameters: Parameters, like: Sequences) -> Simulation:
        """Draw paths, observations and rewards at given values, under the actions of ``like``."""
        states, data, values = super().simulate(parameters, like)
        if not self.learned_reward:  # the rewards of ``like`` belong to other states
            return Simulation(states, replace(data, rewards=None), values)
        assert data.actions is not None
        mean = values["reward"].double()[data.actions, states.clamp_min(0)]
        noise = torch.randn(mean.shape, dtype=torch.float64) * values["reward_scale"].double()
        rewards = (mean + noise).masked_fill(~data.step_mask, 0)
        return Simulation(states, replace(data, rewards=rewards), values)


@dataclass(frozen=True)
class Episodes:
    """Episodes of a decision process: what happened, and the beliefs along it.

    ``POMDP.rollout`` makes them.

    Attributes:
        model: the process.
        states: z_t, (N, T) int64.
        data: observations, actions and rewards.
        probabilities: π(a | …) of every step, (N, T, A).
        beliefs: of the tracker, (N, T, K); None without one.

    >>> from beliefzoo.models import ActionSequence, tiger
    >>> episodes = tiger().rollout(ActionSequence((0, 0)), episodes=1, length=2, seed=0)
    >>> episodes.data.rewards.tolist(), episodes.returns().tolist()  # -1 - 0.95
    ([[-1.0, -1.0]], [-1.95])
    """

    model: POMDP
    states: Tensor
    data: Sequences
    probabilities: Tensor
    beliefs: Tensor | None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the process."""
        return dict(self.model.known)

    def returns(self) -> Tensor:
        """Return Σ_t γ^t r_t of every episode, t from 0; (N,) float64."""
        assert self.data.rewards is not None
        weight = self.model.discount ** torch.arange(self.states.shape[1], dtype=torch.float64)
        return self.data.rewards @ weight

    def table(self) -> pd.DataFrame:
        """Return a frame with one row per step.

        Its columns are episode, step, state, the belief in each state, action, observation and
        reward.
        """
        import pandas as pd

        model, data = self.model, self.data
        assert data.actions is not None
        n, t = self.states.shape
        columns: dict[str, Any] = {
            "episode": torch.arange(n).repeat_interleave(t).numpy(),
            "step": torch.arange(t).repeat(n).numpy(),
            "state": [model.state_names[k] for k in self.states.flatten().tolist()],
        }
        if self.beliefs is not None:
            for k, name in enumerate(model.state_names):
                columns[f"belief {name}"] = self.beliefs[..., k].flatten().numpy()
        columns["action"] = [model.action_names[a] for a in data.actions.flatten().tolist()]
        if data.is_codes:
            seen = data.mask.flatten().tolist()
            told = [model.observation_names[o] for o in data.values.flatten().tolist()]
            columns["observation"] = [o if s else None for o, s in zip(told, seen, strict=True)]
        else:
            blank = torch.where(data.mask, data.values, torch.nan)
            for f, name in enumerate(data.features):
                columns[f"observation {name}"] = blank[..., f].flatten().numpy()
        if data.rewards is not None:
            columns["reward"] = data.rewards.flatten().numpy()
        return pd.DataFrame(columns)


class _Drawn(dist.TorchDistribution):
    """A distribution whose draw has been made already, together with those of other sites."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, law: Any, value: Tensor) -> None:
        self.law, self.value = law, value
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.law.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Drawn:
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.value

    def log_prob(self, value: Tensor) -> Tensor:
        scored: Tensor = self.law.log_prob(value)
        return scored


class World:
    """Episodes of a process side by side, which actions advance; a world keeps no state itself.

    Draws come from torch's global generator: uniform numbers through the inverse of each
    distribution.

    Args:
        model: a ``POMDP`` with known parameters.

    Raises:
        ValueError: another model, or unknown parameters.

    >>> import torch
    >>> from beliefzoo.models import tiger
    >>> world = World(tiger())
    >>> state, seen = world.begin(episodes=3)
    >>> state, seen, reward = world.step(state, torch.tensor([0, 0, 0]))  # listen
    >>> reward.tolist()
    [-1.0, -1.0, -1.0]
    """

    def __init__(self, model: POMDP) -> None:
        require(isinstance(model, POMDP), "model", "must be a POMDP", repr(model))
        self.model = model
        self._values = model.complete({})
        one = torch.ones(1, dtype=torch.float64)
        self._first = self._values.get("initial", one).cumsum(-1)
        moves = self._values.get("transition", one.expand(model.actions, 1, 1))
        self._moves = moves.cumsum(-1)

    def begin(self, episodes: int) -> tuple[Tensor, Seen]:
        """Return first states (N,), and their observations."""
        state = _chosen(self._first.expand(episodes, -1))
        return state, self._look(None, state)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Seen, Tensor]:
        """Return states after the actions (N,), their observations, and rewards (N,) float64."""
        to = _chosen(self._moves[action, state])
        seen = self._look(action, to)
        return to, seen, self._earned(action, state, to, seen)

    def over(self) -> Tensor:
        """Return the states, (K,) bool, after which no more reward can be earned, if rewards are
        known.
        """
        model = self.model
        if model.reward is None:
            return torch.zeros(model.states, dtype=torch.bool)
        moves = self._values.get("transition", torch.ones(1, 1, 1, dtype=torch.float64)) > 0
        over = ~(model.reward.paying & moves).any(-1).any(0)
        while True:  # the largest set of them that no action leaves
            stays = over & ~(moves & ~over).any(-1).any(0)
            if torch.equal(stays, over):
                return over
            over = stays

    def _look(self, action: Tensor | None, state: Tensor) -> Seen:
        """Observations (N,) or (N, F) after the action, in the layout of Sequences."""
        model = self.model
        if action is None and not model.law.first:
            y = torch.zeros_like(model.observations.blank(len(state), 1)[:, 0])
            return Seen(None, y, torch.zeros_like(y, dtype=torch.bool))
        before = model.acted(action, len(state))
        y = model.law.draw_after(self._values, before.unsqueeze(1), state.unsqueeze(1))[:, 0]
        return Seen(action, y, torch.ones_like(y, dtype=torch.bool))

    def _earned(self, action: Tensor, state: Tensor, to: Tensor, seen: Seen) -> Tensor:
        """Rewards r_t, (N,) float64: zero for a process without rewards."""
        model = self.model
        if model.reward is not None:
            told = seen.observation if model.emission.codes else None
            return model.reward.of(action, state, to, told)
        if not model.learned_reward:
            return torch.zeros(len(action), dtype=torch.float64)
        mean = self._values["reward"].double()[action, state]
        return mean + torch.randn_like(mean) * self._values["reward_scale"].double()


def _check_walk(policy: Policy, episodes: int, length: int, tracker: Tracker | None) -> None:
    require_count(episodes, "episodes")
    require_count(length, "length")
    require_policy(policy)
    require_tracker(tracker, optional=True)


def _walk(
    model: POMDP, policy: Policy, episodes: int, length: int, tracker: Tracker | None
) -> Episodes:
    """Draw all episodes side by side, one step after the other."""
    world = World(model)
    memory = policy.begin(model, episodes)
    belief_memory = None if tracker is None else tracker.begin(model, episodes)
    state, seen = world.begin(episodes)
    record: dict[str, list[Tensor]] = {}
    for _ in range(length):
        step = {"states": state, "values": seen.observation, "mask": seen.mask}
        if tracker is not None:
            step["beliefs"], belief_memory = tracker.update(belief_memory, seen)
        chances, memory = policy(memory, seen)
        step["probabilities"] = checked_chances(chances, episodes, model.actions)
        step["actions"] = _chosen(step["probabilities"].cumsum(-1))
        state, seen, step["rewards"] = world.step(state, step["actions"])
        for name, value in step.items():
            record.setdefault(name, []).append(value)
    made = {name: torch.stack(steps, 1) for name, steps in record.items()}
    data = Sequences(
        values=made["values"],
        mask=made["mask"],
        lengths=torch.full((episodes,), length),
        actions=made["actions"],
        rewards=made["rewards"],
        symbols=model.observation_names or None,
        features=model.names.features or (),
    )
    return Episodes(model, made["states"], data, made["probabilities"], made.get("beliefs"))


def _chosen(cumulative: Tensor) -> Tensor:
    return invert(cumulative, torch.rand(len(cumulative), 1, dtype=cumulative.dtype))


def _named(given: int | Sequence[str], argument: str) -> tuple[int, tuple[str, ...]]:
    """A number and the names, from either."""
    if isinstance(given, int) and not isinstance(given, bool):
        require_count(given, argument)
        return given, tuple(str(place) for place in range(given))
    require(
        isinstance(given, Sequence) and len(given) > 0,
        argument,
        "must be a whole number >= 1 or names",
        repr(given),
    )
    assert not isinstance(given, int)
    made = names(given, argument)
    return len(made), made


def _for_table(given: int | Sequence[str] | None, size: int, argument: str) -> int | Sequence[str]:
    """Names for a table of a given size, or their number."""
    if given is None:
        return size
    count, made = _named(given, argument)
    require(count == size, argument, f"must name the {size} of the tables", count)
    return made


def _checked_law(name: str, given: Number, shape: tuple[int, ...]) -> Tensor:
    """Probabilities of this shape whose rows sum to 1."""
    law = as_tensor(name, given)
    require(tuple(law.shape) == shape, name, f"needs shape {shape}", tuple(law.shape))
    require(are_laws(law), name, "needs probabilities >= 0 that sum to 1", law.tolist())
    return law


def _family(
    given: Emission | str | int | Sequence[str], called: Sequence[str] | None
) -> tuple[Emission, tuple[str, ...]]:
    """The emission law, and the names of its symbols."""
    if isinstance(given, Emission | str):
        family = named_emission(given)
        if not family.codes:
            require(called is None, "observation_names", "needs symbols to name", repr(family))
            return family, ()
        return family, names(
            () if called is None else tuple(called),
            "observation_names",
            range(family.encoding_size),
        )
    count, made = _named(given if called is None else called, "emission")
    fits = called is None or given == count
    require(fits, "observation_names", f"must name the {given} observations", called)
    return Categorical(count), made


def _rewards(given: Rewards | npt.ArrayLike) -> Rewards:
    return given if isinstance(given, Rewards) else Rewards.of_table(given)
