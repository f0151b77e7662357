"""Episodes of Gymnasium environments with discrete spaces, as data; needs the extra ``pomdp``."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...models import POMDP, Policy, Seen, Sequences, Uniform
from ...models.checks import require, require_count
from ...models.decisions.policies import checked_chances, require_policy
from ...models.randomness import seeded
from .gymnasium_env import POMDPEnv, gymnasium, spaces

_MOST_SYMBOLS = 2**20
"""Of a space; beyond it a symbol tells nothing that another tells too, and each has a name."""


def roll_out(
    env: gymnasium.Env[Any, Any],
    policy: Policy | None = None,
    episodes: int = 1,
    *,
    length: int | None = None,
    model: POMDP | None = None,
    seed: int | None = None,
) -> Sequences:
    """Records episodes of an environment under a policy: observations, actions, rewards.

    Step t is observation o_t, then action a_t, then its reward. The observation after the last
    action has no action of its own and is left out. Episodes differ in length if the environment
    ends them.

    Codes are 0, 1, …, wherever a space starts; in a composite space (``MultiDiscrete``,
    ``MultiBinary``, ``Tuple``, ``Dict``) the last part runs fastest. The symbol of a ``POMDPEnv``
    that means "nothing" becomes a missing value.

    Args:
        env: environment with discrete observations and actions.
        policy: None: uniform.
        episodes: number of episodes.
        length: largest number of steps of an episode; None: until the environment ends it.
        model: the process that the policy is told it acts in, for policies that keep a belief; by
            default only the numbers of actions and symbols are known.
        seed: of the environment, the policy and the actions; torch's global generator is left
            unchanged.

    Returns:
        The episodes, with actions and rewards.

    Raises:
        ValueError: an unsupported space, no ``length`` for a process that never ends, or a model of
            other sizes.

    >>> from beliefzoo.inference import POMDPEnv, roll_out
    >>> from beliefzoo.models import ActionSequence, tiger
    >>> data = roll_out(POMDPEnv(tiger()), ActionSequence((0, 0, 1)), length=3, seed=0)
    >>> data.actions.tolist(), data.rewards.tolist()
    ([[0, 0, 1]], [[-1.0, -1.0, -100.0]])
    """
    require(isinstance(env, gymnasium.Env), "env", "must be a gymnasium.Env", type(env).__name__)
    require_count(episodes, "episodes")
    nothing = _check_end(env, length)
    symbols = _size(env.observation_space, "env.observation_space") - int(nothing is not None)
    single = isinstance(env.action_space, spaces.Discrete)
    require(single, "env.action_space", "must be Discrete", env.action_space)
    actions = _size(env.action_space, "env.action_space")
    if model is None:
        model = POMDP(1, symbols, actions=actions, first=True)
    else:
        sizes = model.actions, model.emission.encoding_size
        fits = model.emission.codes and sizes == (actions, symbols)
        requirement = f"needs {actions} actions and {symbols} symbols, as the environment"
        require(fits, "model", requirement, repr(model))
    policy = Uniform() if policy is None else policy
    require_policy(policy)
    if seed is not None:
        require_count(seed, "seed", least=0)  # Gymnasium takes no others
    told: list[list[_Step]] = []
    # Policies and their trackers may draw from torch's generator, as the actions do.
    with seeded(torch.Generator().seed() if seed is None else seed):
        for number in range(episodes):
            first = env.reset(seed=None if number else seed)[0]  # later ones continue its stream
            drawn = _Drawn(policy, model, nothing)
            told.append(_episode(env, drawn, first, length))
    return _sequences(told, model)


class _Step(NamedTuple):
    code: int
    seen: bool
    action: int
    reward: float


class _Drawn:
    """Actions of one episode, drawn from a policy."""

    def __init__(self, policy: Policy, model: POMDP, nothing: int | None) -> None:
        self._policy, self._nothing = policy, nothing
        self._memory, self._actions = policy.begin(model, 1), model.actions
        self._before: Tensor | None = None

    def __call__(self, code: int) -> tuple[int, bool, int]:
        """The symbol, whether it means anything, and the next action."""
        seen = code != self._nothing
        code = code if seen else 0
        told = Seen(self._before, torch.tensor([code]), torch.tensor([seen]))
        given, self._memory = self._policy(self._memory, told)
        chance = checked_chances(given, 1, self._actions)
        self._before = torch.multinomial(chance, 1)[:, 0]
        return code, seen, int(self._before)


def _episode(
    env: gymnasium.Env[Any, Any], drawn: _Drawn, first: Any, length: int | None
) -> list[_Step]:
    steps: list[_Step] = []
    observation, over = first, False
    assert isinstance(env.action_space, spaces.Discrete)
    while not over and (length is None or len(steps) < length):
        with torch.no_grad():
            code, seen, action = drawn(_code(env.observation_space, observation))
        observation, reward, ended, late, _ = env.step(int(env.action_space.start) + action)
        steps.append(_Step(code, seen, action, float(reward)))
        over = ended or late
    return steps


def _sequences(told: list[list[_Step]], model: POMDP) -> Sequences:
    def padded(column: str, dtype: torch.dtype) -> Tensor:
        rows = [torch.tensor([getattr(one, column) for one in each], dtype=dtype) for each in told]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return Sequences(
        values=padded("code", torch.int64),
        mask=padded("seen", torch.bool),
        lengths=torch.tensor([len(each) for each in told]),
        actions=padded("action", torch.int64),
        rewards=padded("reward", torch.float64),
        symbols=model.observation_names,
    )


def _check_end(env: gymnasium.Env[Any, Any], length: int | None) -> int | None:
    """The symbol that means "nothing"; raises ``ValueError`` if an episode would not end."""
    if length is not None:
        require_count(length, "length")
    own = env.unwrapped
    if not isinstance(own, POMDPEnv):
        return None
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):  # around an environment that is not registered
        limited = limited or isinstance(layer, gymnasium.wrappers.TimeLimit)
        layer = layer.env
    requirement = "is needed where nothing ends an episode"
    require(own.ends or limited or length is not None, "length", requirement, length)
    return own.nothing


def _size(space: spaces.Space[Any], argument: str) -> int:
    """Number of values of a discrete space."""
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = math.prod(space.nvec.ravel().tolist())
    elif isinstance(space, spaces.MultiBinary):
        size = 2 ** math.prod(space.shape)
    elif isinstance(space, spaces.Tuple | spaces.Dict):
        size = math.prod(_size(part, argument) for part in _parts(space))
    else:
        requirement = "must be Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of these"
        raise ValueError(f"{argument}: {requirement}, got {space}")
    require(size <= _MOST_SYMBOLS, argument, f"must have at most {_MOST_SYMBOLS} values", size)
    return size


def _code(space: spaces.Space[Any], value: Any) -> int:
    """Index of a value among all values of its space, the last part running fastest."""
    if isinstance(space, spaces.Discrete):
        return int(value) - int(space.start)
    if isinstance(space, spaces.Tuple | spaces.Dict):
        names = space.keys() if isinstance(space, spaces.Dict) else range(len(space))
        out = 0
        for name, part in zip(names, _parts(space), strict=True):
            out = out * _size(part, "env.observation_space") + _code(part, value[name])
        return out
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.ravel_multi_index((value - space.start).ravel(), space.nvec.ravel()))
    bits = np.asarray(value).ravel()
    return int(np.ravel_multi_index(bits, (2,) * len(bits)))


def _parts(space: spaces.Tuple[Any] | spaces.Dict) -> tuple[spaces.Space[Any], ...]:
    return tuple(space.values() if isinstance(space, spaces.Dict) else space)
