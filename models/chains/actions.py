"""Laws that depend on an action: a transition matrix, and an emission law, for each action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_finite, require_flag, require_positive
from ..data.sequences import Sequences
from ..emissions.counts import Categorical
from ..emissions.emission import Emission, Parameters, Priors, axis_labels
from ..emissions.observations import Observations
from ..priors import AtLeast
from ..trajectories import safe_log
from .laws import MatrixTransition
from .start_actions import start_of_actions, tables_of_counts

if TYPE_CHECKING:
    from .hmm import HiddenMarkovModel


_RESOLUTION = 1e-2
"""Least standard deviation of the rewards' noise, in units of the spread of the rewards."""

_COARSEST = 0.1
"""At most, where they take few values: the wider, the smoother is the likelihood."""

_FINEST = 1e-4
"""Rewards that differ by less, in these units, are taken for the same value."""

_FEW = 0.1
"""Rewards whose distinct values are at most this share of them are steps between a few values."""

_ROUNDING = 1e-12
"""A standard deviation below this share of the mean is rounding: all rewards are the same."""


def require_actions(data: Sequences, actions: int, reader: str) -> None:
    """Raise ``ValueError`` unless every step has one of so many actions."""
    if data.actions is None:
        raise ValueError(
            f"data.actions: {reader} needs the action of every step (actions=… of the constructors "
            "of Sequences, of sample and of forecast), got None"
        )
    bad = ((data.actions >= actions) & data.step_mask).nonzero()[:1].tolist()
    for n, step in bad:
        raise ValueError(
            f"data.actions: {reader} needs actions 0 to {actions - 1}, got "
            f"{int(data.actions[n, step])} in sequence {data.labels[n]!r}, step {step}"
        )


@dataclass(frozen=True)
class ActionTransition:
    """A transition matrix for each action: T(z' | z, a) = transition[a, z, z'].

    ``actions[:, t]`` of the data acts on z_t → z_{t+1}. Parameter ``transition`` (A, K, K), rows
    with the prior of ``MatrixTransition``, Dirichlet(concentration + sticky δ_z).

    Args:
        actions: number of actions A.
        concentration: prior pseudo-count of every move.
        sticky: additional prior pseudo-counts on staying.

    Raises:
        ValueError: no action, or a prior setting out of range.

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> stay, swap = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]
    >>> values = {"transition": torch.tensor([stay, swap])}
    >>> data = Sequences.from_arrays([[0.0, 0.0, 0.0]], actions=[[1, 0, 0]])
    >>> ActionTransition(actions=2)(values, data).exp()[0, :, 0]  # from state 0: swap, then stay
    tensor([[0., 1.],
            [1., 0.]])
    """

    actions: int
    concentration: float = 1.0
    sticky: float = 0.0
    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.actions, "actions")
        MatrixTransition(self.concentration, self.sticky)  # checks both settings

    def priors(self, states: int) -> Priors:
        one = MatrixTransition(self.concentration, self.sticky).priors(states)["transition"]
        return {"transition": one.expand((self.actions,)).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition": ("action", "state", "state_to")}

    def tables(self, parameters: Parameters) -> Tensor:
        """Return log T of every action, (…draws, 1, A, K, K)."""
        return safe_log(parameters["transition"]).unsqueeze(-4)

    def choice(self, data: Sequences) -> Tensor:
        """Return the action that acts on every step, (N, T-1)."""
        self.check(data)
        assert data.actions is not None
        return data.actions[:, :-1].contiguous()

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T of every step, (…draws, N, T-1|1, K, K)."""
        tables = self.tables(parameters)
        if data.max_length == 1:
            return tables[..., :1, :, :]  # no step, hence nothing to choose
        choice = self.choice(data)
        chosen = tables.squeeze(-4).index_select(-3, choice.flatten())
        steps: Tensor = chosen.unflatten(-3, choice.shape)
        return steps

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        rows = counts / counts.sum(-1, keepdim=True)
        return {"transition": rows.expand(self.actions, *rows.shape).clone()}

    def check(self, data: Sequences) -> None:
        require_actions(data, self.actions, "ActionTransition")


@boundary
@dataclass(frozen=True)
class ActionEmission(Emission):
    r"""An emission law for each action: o_{t+1} ~ O(· | z_{t+1}, a_t).

    The parameters are those of the ``family`` with a first axis of actions. With ``rewards`` the
    rewards of the data are observed as well:

    .. math:: r_t \sim N(reward_{a_t z_t}, reward\_scale^2)

    with ``reward`` (A, K) ~ N(reward_location, reward_spread²) and reward_scale − least ~
    LogNormal(log(reward_spread / 10), 1), in the units of the rewards. Rewards without noise have a
    likelihood that grows without bound as the scale falls, hence the bound least =
    reward_resolution × reward_spread: where a fit ends there, no noise was found. The model knows
    no other tie of r_t to o_{t+1} than z_t: where the observation decides the reward, states that
    predict it are more likely than those of the process.

    Args:
        family: the family, without inputs or lags.
        actions: number of actions A.
        first: whether there is an observation at the first step, before any action; its law is one
            more entry, the last, on the axis of actions. Otherwise the first step is not observed.
        rewards: whether rewards are observed.
        reward_location: prior mean of the rewards.
        reward_spread: prior standard deviation of the rewards.
        reward_resolution: least standard deviation of the noise that is told from none, in units of
            ``reward_spread``. ``scaled_to(data)`` makes it .01, or, where the rewards of an action
            take few values, a tenth of their smallest difference, at most .1.

    Raises:
        ValueError: a family that reads inputs or lags, or a setting out of range.

    >>> from beliefzoo.models import Categorical
    >>> growls = ActionEmission(Categorical(symbols=2), actions=3)
    >>> growls.dims(), tuple(growls.priors(states=2)["probs"].event_shape)
    ({'probs': ('action', 'state', 'observation')}, (3, 2, 2))
    """

    family: Emission
    actions: int
    first: bool = False
    rewards: bool = False
    reward_location: float = 0.0
    reward_spread: float = 1.0
    reward_resolution: float = 0.01

    def __post_init__(self) -> None:
        plain = isinstance(self.family, Emission) and not isinstance(self.family, ActionEmission)
        require(plain, "emission", "must be a law without actions of its own", repr(self.family))
        require(
            not self.family.inputs and not self.family.lags,
            "emission",
            "must read no inputs and no lags beside actions",
            repr(self.family),
        )
        require_count(self.actions, "actions")
        require_flag(self.first, "first")
        require_flag(self.rewards, "rewards")
        require_finite(self.reward_location, "reward_location")
        require_positive(self.reward_spread, "reward_spread")
        require_positive(self.reward_resolution, "reward_resolution")

    @property
    def features(self) -> int:
        return self.family.features

    @property
    def observations(self) -> Observations:
        return self.family.observations

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        return self.family.coordinates(y, mask)

    def coords(self, states: int) -> Mapping[str, Sequence[str]]:
        """Return the labels along the family's own axes."""
        return axis_labels(self.family, states)

    @property
    def tables(self) -> int:
        """Number of emission laws: one per action, and that of the first step if there is one."""
        return self.actions + int(self.first)

    def priors(self, states: int) -> Priors:
        out = {
            name: prior.expand((self.tables,)).to_event(1)
            for name, prior in self.family.priors(states).items()
        }
        if self.rewards:
            location = torch.full((self.actions, states), float(self.reward_location))
            out["reward"] = dist.Normal(location, self.reward_spread).to_event(2)
            typical = torch.tensor(self.reward_spread / 10).log()
            out["reward_scale"] = AtLeast(dist.LogNormal(typical, 1.0), self.least_scale)
        return out

    @property
    def least_scale(self) -> float:
        """Bound of ``reward_scale`` under its prior, in the units of the rewards."""
        return self.reward_resolution * self.reward_spread

    def dims(self) -> dict[str, tuple[str, ...]]:
        before = "action_before" if self.first else "action"
        out = {}
        for name, axes in self.family.dims().items():
            named = ("observation" if axis == "symbol" else axis for axis in axes)
            out[name] = (before, *named)
        if self.rewards:
            out |= {"reward": ("action", "state"), "reward_scale": ()}
        return out

    def redundant(self, priors: Priors, states: int) -> int:
        return self.family.redundant(priors, states)

    def check(self, data: Sequences) -> None:
        self.observations.check(data, type(self.family).__name__)
        require_actions(data, self.actions, "ActionEmission")
        seen = int(data.observed_steps[:, 0].sum())
        require(
            self.first or not seen,
            "data",
            "nothing can be observed before the first action, unless the model has "
            "first=True; the first step must be missing",
            f"{seen} sequence(s) that begin with an observation",
        )
        require(
            not self.rewards or data.rewards is not None,
            "data.rewards",
            "a model that learns rewards needs them at every step",
            data.rewards,
        )

    def emitting(self, data: Sequences) -> Tensor:
        steps = data.step_mask.clone()
        steps[:, 0] &= self.first
        return steps

    def given(self, data: Sequences) -> Emission:
        """Return the law of every step, chosen by the action before it."""
        if data.actions is None:
            require_actions(data, self.actions, "ActionEmission")
        assert data.actions is not None
        before = data.actions.roll(1, 1)
        before[:, 0] = self.actions if self.first else 0
        return _Given(**vars(self), before=before, data=data)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        """Raise ``ValueError``: the actions are needed, see ``given``."""
        raise ValueError("emission: depends on the actions; use given(data), which has them")

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        """Raise ``ValueError``: the actions are needed, see ``given``."""
        raise ValueError("emission: depends on the actions; use given(data), which has them")

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Start with the same law for all actions."""
        one = self.family.start(y, mask, weight)
        return {
            name: value.expand(self.tables, *value.shape).clone() for name, value in one.items()
        }

    def start_chain(
        self, model: HiddenMarkovModel, data: Sequences, *, lloyd: bool
    ) -> dict[str, Tensor] | None:
        """Return tables estimated from clusters of the steps, or from labels that are drawn."""
        return start_of_actions(self, model, data, lloyd) if model.states > 1 else None

    def start_from_counts(
        self,
        model: HiddenMarkovModel,
        data: Sequences,
        weight: Tensor,
        counts: Tensor,
        warmth: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the tables that maximise EM's objective; see ``CountedEmission``."""
        return tables_of_counts(self, model, data, weight, counts, warmth=warmth)

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[o | z = k, a], shape (…draws, A, K, F)."""
        mean: Tensor = self.family.mean(self.flat(parameters)).unflatten(-2, (self.tables, -1))
        return mean

    def expected(self, parameters: Parameters, data: Sequences, chance: Tensor) -> Tensor:
        assert data.actions is not None  # the model checked the data
        mean = self.mean(parameters)[data.actions[:, :-1]]  # by the action before the step
        return torch.einsum("nhk,nhkf->nhf", chance, mean)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.family.natural(values)

    def scaled_to(self, data: Sequences) -> Emission:
        out = replace(self, family=self.family.scaled_to(data))
        if self.rewards and data.rewards is not None:
            earned = data.rewards[data.step_mask].double()
            location, spread = float(earned.mean()), float(earned.std(correction=0))
            if spread <= _ROUNDING * max(abs(location), torch.finfo(torch.float64).tiny):
                spread = 1.0  # constant
            assert data.actions is not None  # checked with the data
            fine = _resolution(earned / spread, data.actions[data.step_mask])
            out = replace(
                out, reward_location=location, reward_spread=spread, reward_resolution=fine
            )
        return out

    def score_after(
        self, parameters: Parameters, before: Tensor, y: Tensor, mask: Tensor
    ) -> Tensor:
        """Return log O(y_t | a_{t-1}, k), (…draws, N, T, K), for the actions before, (N, T).

        The first step, which has no action before it, is marked by A.
        """
        if isinstance(self.family, Categorical):
            logs = safe_log(parameters["probs"]).mT  # (…draws, action, symbol, K)
            place = before * logs.shape[-2] + y
            picked: Tensor = logs.flatten(-3, -2).index_select(-2, place.flatten())
            picked = picked.unflatten(-2, y.shape)
            return picked if bool(mask.all()) else torch.where(mask.unsqueeze(-1), picked, 0)
        every = self.family.score(self.flat(parameters), y, mask).unflatten(-1, (self.tables, -1))
        index = before[..., None, None].expand(*every.shape[:-2], 1, every.shape[-1])
        chosen: Tensor = every.gather(-2, index).squeeze(-2)
        return chosen

    def draw_after(self, parameters: Parameters, before: Tensor, paths: Tensor) -> Tensor:
        """Sample observations for paths (N, T) and the actions before (N, T)."""
        flat = self.flat(parameters)
        name, axes = next(iter(self.family.dims().items()))
        states = flat[name].shape[-len(axes)] // self.tables
        return self.family.draw(flat, before * states + paths)

    def flat(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the family's parameters of A K states, those of one action after the other."""
        out = {}
        for name, axes in self.family.dims().items():
            place = -1 - len(axes)
            out[name] = parameters[name].flatten(place, place + 1)
        return out


def _resolution(earned: Tensor, actions: Tensor) -> float:
    """Least scale that keeps apart the values that the rewards of an action take; units of their
    spread.
    """
    steps = []
    for action in actions.unique():
        own = earned[actions == action]
        values = own.unique()
        gaps = values.diff()
        gaps = gaps[gaps > _FINEST]
        if len(gaps) and len(values) <= _FEW * len(own):
            steps.append(float(gaps.min()) / 10)
    return min([*steps, _COARSEST]) if steps else _RESOLUTION


@dataclass(frozen=True)
class _Given(ActionEmission):
    """The emission law of every step of given data."""

    before: Tensor | None = None
    """Which law it is, (N, T)."""
    data: Sequences | None = None

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        del shift
        assert self.before is not None
        scored = self.score_after(parameters, self.before, y, mask)
        return scored + self._score_rewards(parameters) if self.rewards else scored

    def _score_rewards(self, parameters: Parameters) -> Tensor:
        """log N(r_t; reward[a_t, k], scale²), (…draws, N, T, K); zero beyond the length."""
        assert self.data is not None
        assert self.data.actions is not None
        assert self.data.rewards is not None
        actions = self.data.actions
        location = parameters["reward"].index_select(-2, actions.flatten())
        location = location.unflatten(-2, actions.shape)
        scale = parameters["reward_scale"][..., None, None, None]
        earned = self.data.rewards.to(location).unsqueeze(-1)
        density = torch.distributions.Normal(location, scale).log_prob(earned)
        return torch.where(self.data.step_mask.unsqueeze(-1), density, 0)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        del shift
        assert self.before is not None
        # A continuation has only the last steps.
        return self.draw_after(parameters, self.before[:, -paths.shape[1] :], paths)
