"""Decision processes as Gymnasium environments; needs the extra ``pomdp``.

``POMDPEnv(model)`` runs one episode after the other, ``POMDPVectorEnv(model, num_envs)`` many in
parallel, advanced by tensors. Importing this module registers the library's problems:

>>> import gymnasium
>>> env = gymnasium.make("beliefzoo.inference.decisions.gymnasium_env:beliefzoo/Tiger-v0")

and ``register_environment`` does the same for any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...models import POMDP, Seen, World, light_maze, machine_repair, rock_sample, t_maze, tiger
from ...models.checks import require, require_count
from ...models.decisions.bayes_rule import BayesRule
from ...models.emissions.observations import Mixed, Vectors, bounds_of
from ...models.randomness import TURNS

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError(
        "environments need gymnasium; pip install 'beliefzoo[pomdp]' brings it"
    ) from error

__all__ = ["POMDPEnv", "POMDPVectorEnv", "gymnasium", "register_environment", "spaces"]

Array = npt.NDArray[Any]
Model = POMDP | Callable[[], POMDP]

_RENDERED = 3
"""So many of the likeliest states are rendered."""


class POMDPEnv(gymnasium.Env[Any, Any]):
    """A decision process as a Gymnasium environment.

    Actions are ``Discrete(A)``. Observations with symbols are ``Discrete``; if the process shows
    nothing before the first action, there is one more symbol, the last, which means "nothing" and
    is what ``reset`` returns. Numeric observations are a float32 ``Box``; before the first action
    they are zeros and ``info["observed"]`` is False.

    An episode terminates in a state after which no more reward can be earned; others end by the
    ``max_episode_steps`` of ``gymnasium.make``, or not at all.

    Each reset draws from ``env.np_random`` the seed of a torch generator for the episode; torch's
    global generator is not used.

    Args:
        model: a process whose parameters are all known, or a function without arguments that
            returns one.
        show_action: append the previous action to every symbol, as one symbol o (A + 1) + a with
            a = A before the first, for agents that would otherwise not know what they did.
        tell_state: put the hidden state into ``info["state"]``.
        tell_belief: put the exact belief, (K,), into ``info["belief"]``.
        render_mode: ``"ansi"`` or None.

    Raises:
        ValueError: unknown parameters, ``show_action`` with numbers, another ``render_mode``, an
            action out of range, or a step before the first reset.

    >>> from beliefzoo.inference import POMDPEnv
    >>> from beliefzoo.models import tiger
    >>> env = POMDPEnv(tiger(), tell_belief=True)
    >>> observation, info = env.reset(seed=0)
    >>> info["belief"].tolist()
    [0.5, 0.5]
    >>> observation, reward, terminated, truncated, info = env.step(0)  # listen
    >>> reward, info["belief"].round(2).tolist()
    (-1.0, [0.15, 0.85])
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        model: Model,
        *,
        show_action: bool = False,
        tell_state: bool = False,
        tell_belief: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._run = _Running(model, show_action, tell_state, tell_belief, render_mode)
        self.model = self._run.model
        self.render_mode = render_mode
        self.observation_space = self._run.observation_space
        self.action_space = self._run.action_space

    @property
    def nothing(self) -> int | None:
        """The symbol that means "nothing", if there is one; None with ``show_action``."""
        return None if self._run.show_action else self._run.nothing

    @property
    def ends(self) -> bool:
        """Whether there is a state that ends an episode."""
        return self._run.ends

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; returns the first observation and the info."""
        super().reset(seed=seed, options=options)
        self._run.seed(self.np_random)
        self._run.begin(torch.ones(1, dtype=torch.bool))
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes an action; returns observation, reward, terminated, truncated and info."""
        fits = self.action_space.contains(action)
        require(fits, "action", f"must be 0 to {self.model.actions - 1}", repr(action))
        self._run.step(torch.tensor([int(action)]))
        reward, over = float(self._run.now.reward), bool(self._run.over())
        return self._observation(), reward, over, False, self._info()

    def render(self) -> str | None:
        """Returns a line on the last step if ``render_mode`` is ``"ansi"``."""
        return self._run.line(0) if self.render_mode == "ansi" else None

    def _observation(self) -> Any:
        row = self._run.observation()[0]
        return int(row) if row.ndim == 0 else row

    def _info(self) -> dict[str, Any]:
        told = self._run.info()
        return {
            name: row[0].copy() if row.ndim > 1 else row[0].item() for name, row in told.items()
        }


class POMDPVectorEnv(VectorEnv[Any, Any, Any]):
    """N episodes of a decision process in parallel, advanced together by tensors.

    Spaces, endings and ``info`` are those of ``POMDPEnv``, with a leading axis for the episodes.

    Args:
        model, show_action, tell_state, tell_belief, render_mode: as of ``POMDPEnv``.
        num_envs: N.
        max_episode_steps: truncate an episode after so many steps; None: never.
        autoreset_mode: what follows the end of an episode. ``NEXT_STEP``: the next step resets it,
            whatever its action. ``SAME_STEP``: it is reset at once; ``info["final_obs"]`` and
            ``info["final_info"]`` are of the step that ended it.

    Raises:
        ValueError: as of ``POMDPEnv``, or another ``autoreset_mode``.

    >>> import numpy as np
    >>> from beliefzoo.inference import POMDPVectorEnv
    >>> from beliefzoo.models import tiger
    >>> envs = POMDPVectorEnv(tiger(), num_envs=4)
    >>> observations, infos = envs.reset(seed=0)
    >>> observations, rewards, *_ = envs.step(np.array([0, 0, 0, 0]))
    >>> rewards.tolist()
    [-1.0, -1.0, -1.0, -1.0]
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        model: Model,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        show_action: bool = False,
        tell_state: bool = False,
        tell_belief: bool = False,
        render_mode: str | None = None,
    ) -> None:
        require_count(num_envs, "num_envs")
        if max_episode_steps is not None:
            require_count(max_episode_steps, "max_episode_steps")
        modes = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP
        require(autoreset_mode in modes, "autoreset_mode", f"must be in {modes}", autoreset_mode)
        self._run = _Running(model, show_action, tell_state, tell_belief, render_mode)
        self.model = self._run.model
        self.num_envs = num_envs
        self.render_mode = render_mode
        self._most = max_episode_steps
        self.metadata = {**type(self).metadata, "autoreset_mode": autoreset_mode}
        self.single_observation_space = self._run.observation_space
        self.single_action_space = self._run.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = torch.zeros(num_envs, dtype=torch.bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins all episodes, or those in ``options["reset_mask"]``."""
        super().reset(seed=seed, options=options)
        self._run.seed(self.np_random)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        self._run.begin(~self._ended)
        return self._run.observation(), self._info()

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Takes an action in every episode; returns arrays of N, and infos."""
        chosen = np.asarray(actions)
        fits = self.action_space.contains(chosen)
        requirement = f"needs {self.num_envs} whole numbers from 0 to {self.model.actions - 1}"
        require(fits, "actions", requirement, repr(actions))
        run = self._run
        run.step(torch.from_numpy(chosen.astype(np.int64)))
        if bool(self._ended.any()):  # those that ended at the previous step
            run.begin(self._ended)
        reward, over = run.now.reward.numpy().copy(), run.over() & (run.now.steps > 0)
        late = torch.zeros_like(over) if self._most is None else run.now.steps >= self._most
        late &= ~over
        self._ended, final = over | late, {}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and bool(self._ended.any()):
            final = self._final()
            run.begin(self._ended)
            self._ended = torch.zeros_like(over)
        return run.observation(), reward, over.numpy(), late.numpy(), self._info() | final

    def render(self) -> tuple[str, ...] | None:
        """Returns a line on the last step of every episode if ``render_mode`` is ``"ansi"``."""
        if self.render_mode != "ansi":
            return None
        return tuple(self._run.line(n) for n in range(self.num_envs))

    def _info(self) -> dict[str, Any]:
        return _masked(self._run.info(), np.ones(self.num_envs, dtype=np.bool_))

    def _final(self) -> dict[str, Any]:
        """Observations and infos of the episodes that ended."""
        which = self._ended.numpy()
        last = np.full(self.num_envs, None, dtype=object)
        for n in which.nonzero()[0]:
            last[n] = self._run.observation()[n]
        final = {"final_obs": last, "final_info": _masked(self._run.info(), which)}
        return _masked(final, which)


def _masked(told: dict[str, Any], which: Array) -> dict[str, Any]:
    """Adds to each entry a mask of the episodes it belongs to, as Gymnasium requires."""
    return told | {f"_{name}": which.copy() for name in told}


class _Now(NamedTuple):
    """The current step of N episodes."""

    state: Tensor
    """(N,)."""
    action: Tensor
    """The one before, (N,); A at the first step."""
    value: Tensor
    """(N,) codes or (N, F) numbers."""
    mask: Tensor
    """What of it was seen."""
    reward: Tensor
    """Of the step before, (N,) float64."""
    steps: Tensor
    """Actions so far, (N,)."""
    belief: Tensor
    """(N, K), or (N, 0) where nobody asks."""


class _Running:
    """The episodes of either kind of environment, with a random generator of their own."""

    now: _Now

    def __init__(
        self,
        model: Model,
        show_action: bool,
        tell_state: bool,
        tell_belief: bool,
        render_mode: str | None,
    ) -> None:
        made = _maker(model)()
        require(isinstance(made, POMDP), "model", "must make a POMDP", repr(made))
        self.model = made
        self.world = World(self.model)
        require(render_mode in (None, "ansi"), "render_mode", "must be 'ansi'", repr(render_mode))
        codes = self.model.emission.codes
        require(codes or not show_action, "show_action", "needs symbols", repr(self.model))
        self.show_action, self._tell_state, self._tell_belief = (
            show_action,
            tell_state,
            tell_belief,
        )
        self._believes = tell_belief or render_mode is not None
        self._last_states = self.world.over()
        self._rule = BayesRule(self.model, self.model.complete({}))
        blank = codes and not self.model.law.first
        self.nothing = self.model.emission.encoding_size if blank else None
        self.observation_space = self._space()
        self.action_space = spaces.Discrete(self.model.actions)
        self._stream: Tensor | None = None

    def _space(self) -> spaces.Space[Any]:
        if not self.model.emission.codes:
            kind = self.model.law.family.observations
            assert isinstance(kind, Vectors | Mixed)
            bounds = (bound.expand(kind.features).numpy() for bound in bounds_of(kind.support))
            low, high = (bound.astype(np.float32) for bound in bounds)
            return spaces.Box(low, high, (kind.features,), np.float32)
        symbols = self.model.emission.encoding_size + int(self.nothing is not None)
        return spaces.Discrete(symbols * (self.model.actions + 1 if self.show_action else 1))

    def seed(self, generator: np.random.Generator) -> None:
        """Starts a new random stream."""
        self._stream = torch.Generator().manual_seed(int(generator.integers(2**63))).get_state()

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        require(self._stream is not None, "env", "must be reset before the first step", "no reset")
        assert self._stream is not None
        with TURNS, torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.set_rng_state(self._stream)
            yield
            self._stream = torch.get_rng_state()

    def begin(self, chosen: Tensor) -> None:
        """Begins the chosen episodes, (N,) bool."""
        count = int(chosen.sum())
        with self._own_stream():
            state, seen = self.world.begin(count)
        none = torch.full_like(state, self.model.actions)
        zero = torch.zeros_like(state)
        belief = self._updated(self._rule.initial.expand(count, -1), seen)
        fresh = _Now(state, none, seen.observation, seen.mask, zero.double(), zero, belief)
        if bool(chosen.all()):
            self.now = fresh
        else:
            for old, new in zip(self.now, fresh, strict=True):
                old[chosen] = new

    def step(self, action: Tensor) -> None:
        """Advance all episodes."""
        with self._own_stream():
            state, seen, reward = self.world.step(self.now.state, action)
        belief = self.now.belief
        if self._believes:
            belief = self._updated(self._rule.predicted(belief, action), seen)
        steps = self.now.steps + 1
        self.now = _Now(state, action, seen.observation, seen.mask, reward, steps, belief)

    def _updated(self, belief: Tensor, seen: Seen) -> Tensor:
        """Bayes' rule; observations of the process itself are never impossible."""
        if not self._believes:
            return belief[:, :0]
        joint = belief * self._rule.likelihood(seen)
        return joint / joint.sum(-1, keepdim=True)

    def over(self) -> Tensor:
        """Whether the episodes have ended, (N,) bool."""
        return self._last_states[self.now.state]

    @property
    def ends(self) -> bool:
        """Whether there is a state that ends an episode."""
        return bool(self._last_states.any())

    def observation(self) -> Array:
        """Observations as elements of the observation space, with an axis for the episodes."""
        value, mask, action = self.now.value, self.now.mask, self.now.action
        if not self.model.emission.codes:
            return (value * mask).float().numpy()
        seen = value if self.nothing is None else torch.where(mask, value, self.nothing)
        if self.show_action:
            seen = seen * (self.model.actions + 1) + action
        return seen.numpy().copy()

    def info(self) -> dict[str, Array]:
        """The info, with an axis for the episodes."""
        told: dict[str, Array] = {}
        if not self.model.emission.codes:
            told["observed"] = self.now.mask.any(-1).numpy()
        if self._tell_state:
            told["state"] = self.now.state.numpy().copy()
        if self._tell_belief:
            told["belief"] = self.now.belief.numpy().copy()
        return told

    def line(self, n: int) -> str:
        """Describes the last step of an episode."""
        model, now = self.model, self.now
        seen = "nothing"
        if bool(now.mask[n].any()):
            codes = model.emission.codes
            seen = (
                model.observation_names[int(now.value[n])] if codes else f"{now.value[n].tolist()}"
            )
        top = now.belief[n].topk(min(_RENDERED, model.states))
        belief = ", ".join(
            f"{model.state_names[k]} {p:.3f}"
            for p, k in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            if p > 0
        )
        where = f"saw {seen}; state {model.state_names[int(now.state[n])]}; belief {belief}"
        if not int(now.steps[n]):
            return f"step 0: {where}"
        done = f"{model.action_names[int(now.action[n])]} earned {float(now.reward[n]):g}"
        return f"step {int(now.steps[n])}: {done}; {where}"


def _maker(model: Model) -> Callable[[], POMDP]:
    """A function that returns the process: Gymnasium deep-copies processes, but not functions."""
    if isinstance(model, POMDP):
        return lambda: model
    require(callable(model), "model", "must be a POMDP or a function that makes one", repr(model))
    return model


def register_environment(id: str, model: Model, *, max_episode_steps: int | None = None) -> None:
    """Registers a process with ``gymnasium.make`` and ``gymnasium.make_vec``.

    Args:
        id: its name, for instance ``"mine/Tiger-v0"``. ``make`` passes arguments on to
            ``POMDPEnv``; among them ``model=`` replaces the process.
        model: a process, or a function without arguments that returns one when called by ``make``.
        max_episode_steps: truncate an episode after so many steps; None: never.

    Raises:
        ValueError: another ``model``, or ``max_episode_steps`` below 1.

    >>> import gymnasium
    >>> from beliefzoo.inference import register_environment
    >>> from beliefzoo.models import tiger
    >>> register_environment("docs/DeafTiger-v0", tiger(accuracy=0.6))
    >>> gymnasium.make("docs/DeafTiger-v0").action_space
    Discrete(3)
    """
    maker = _maker(model)
    if max_episode_steps is not None:
        require_count(max_episode_steps, "max_episode_steps")
    gymnasium.register(
        id,
        entry_point=f"{__name__}:POMDPEnv",
        vector_entry_point=f"{__name__}:POMDPVectorEnv",
        max_episode_steps=max_episode_steps,
        kwargs={"model": maker},
    )


register_environment("beliefzoo/Tiger-v0", tiger, max_episode_steps=100)
register_environment("beliefzoo/TMaze-v0", t_maze, max_episode_steps=100)
register_environment("beliefzoo/LightMaze-v0", light_maze, max_episode_steps=100)
register_environment("beliefzoo/RockSample-v0", rock_sample, max_episode_steps=200)
register_environment("beliefzoo/MachineRepair-v0", machine_repair, max_episode_steps=100)
