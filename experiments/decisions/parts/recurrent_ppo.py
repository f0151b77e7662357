"""RecurrentPPO of sb3-contrib on the library's processes; needs the extra ``agents``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ....inference.decisions.agents import RecurrentAgent
from ....models import POMDP
from ....models.randomness import seeded

try:
    from gymnasium.vector import AutoresetMode
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

    from ....inference import POMDPVectorEnv
except ImportError as error:
    raise ImportError(
        "agents are trained by sb3-contrib; pip install 'beliefzoo[agents]' brings it"
    ) from error


@dataclass(frozen=True)
class Training:
    """How an agent is trained."""

    steps: int
    """Of all environments together."""
    environments: int
    """Episodes side by side."""
    horizon: int
    """Steps of each between two updates: how far back a gradient reaches."""
    most: int
    """Steps after which an episode is cut off."""
    reward_scale: float
    """Rewards are multiplied by it, so that values are about 1."""
    entropy: tuple[float, float]
    """Weight of the policy's entropy at first and at last, falling geometrically between."""
    hidden_size: int
    forget_bias: float
    """Of the LSTM's forget gates before training: high enough to remember a cue for a while."""
    gae_lambda: float
    """Weight of later rewards in the advantages."""
    learning_rate: float
    """At first; it falls to 0 along a line."""
    epochs: int
    batch_size: int


class Checkpoint(NamedTuple):
    """An agent in training."""

    step: int
    agent: RecurrentAgent


def train(model: POMDP, how: Training, *, watch: Sequence[int], seed: int) -> list[Checkpoint]:
    """Train an agent; copies of it as it was after (the first update past) so many steps.

    Actor and critic share one LSTM, which reads the observation and the action before it, and on
    which their last layers sit. The critic's error moves its own layer alone.
    """
    with _global_seeds_kept(), seeded(seed):
        environment = SideBySide(
            model,
            how.environments,
            most=how.most,
            reward_scale=how.reward_scale,
            seed=seed,
        )
        ppo = RecurrentPPO(
            "MlpLstmPolicy",
            environment,
            n_steps=how.horizon,
            batch_size=how.batch_size,
            n_epochs=how.epochs,
            learning_rate=lambda left: how.learning_rate * left,
            gamma=model.discount,
            gae_lambda=how.gae_lambda,
            policy_kwargs={
                "lstm_hidden_size": how.hidden_size,
                "net_arch": [],
                "shared_lstm": True,
                "enable_critic_lstm": False,
            },
            seed=seed % 2**32,
            device="cpu",
        )
        with torch.no_grad():  # torch's order of gates: input, forget, cell, output
            lstm = ppo.policy.lstm_actor
            assert isinstance(lstm, nn.LSTM)
            lstm.get_parameter("bias_ih_l0").chunk(4)[1].fill_(how.forget_bias)
        watcher = _Watcher(model, how, sorted(watch))
        ppo.learn(how.steps, callback=watcher)
        watcher.look(last=True)
    return watcher.seen


class _Watcher(BaseCallback):
    """Keeps copies of the agent, and lowers the weight of its entropy."""

    def __init__(self, model: POMDP, how: Training, watch: Sequence[int]) -> None:
        super().__init__()
        self._process, self._how, self._watch = model, how, list(watch)
        self.seen: list[Checkpoint] = []

    def _on_rollout_start(self) -> None:
        self.look()
        first, last = self._how.entropy
        done = min(1.0, self.num_timesteps / self._how.steps)
        self.model.ent_coef = first * (last / first) ** done  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return True

    def look(self, *, last: bool = False) -> None:
        step = self.model.num_timesteps
        if last or (self._watch and step >= self._watch[0]):
            self._watch = [later for later in self._watch if later > step]
            self.seen.append(Checkpoint(step, RecurrentAgent(self.model.policy, self._process)))


Array = npt.NDArray[Any]
Indices = int | Iterable[int] | None


class SideBySide(VecEnv):
    """Episodes of a process in the form that Stable-Baselines3 takes, advanced by tensors."""

    def __init__(
        self, model: POMDP, episodes: int, *, most: int, reward_scale: float, seed: int
    ) -> None:
        self._env = POMDPVectorEnv(
            model,
            episodes,
            max_episode_steps=most,
            autoreset_mode=AutoresetMode.SAME_STEP,
            show_action=True,
        )
        self._first: int | None = seed
        self._scale = reward_scale
        space = self._env.single_observation_space
        super().__init__(episodes, space, self._env.single_action_space)

    def reset(self) -> Array:
        seen: Array = self._env.reset(seed=self._first)[0]
        self._first = None  # later ones follow from it
        return seen

    def step_async(self, actions: Array) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, object]]]:
        seen, reward, over, late, info = self._env.step(self._actions)
        told: list[dict[str, object]] = [{} for _ in range(self.num_envs)]
        for n in (over | late).nonzero()[0]:
            told[n] = {"terminal_observation": info["final_obs"][n], "TimeLimit.truncated": late[n]}
        return seen, (reward * self._scale).astype(np.float32), over | late, told

    def close(self) -> None:
        self._env.close()

    # What Stable-Baselines3 asks of environments that sit in other processes.

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[object]:
        return [getattr(self._env, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: object, indices: Indices = None) -> None:
        raise NotImplementedError

    def env_method(
        self, method_name: str, *args: object, indices: Indices = None, **named: object
    ) -> list[object]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: Indices) -> int:
        if indices is None:
            return self.num_envs
        return 1 if isinstance(indices, int) else len(list(indices))


@contextmanager
def _global_seeds_kept() -> Iterator[None]:
    """Stable-Baselines3 seeds the generators of NumPy and of Python."""
    legacy, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)
