"""RecurrentPPO of sb3-contrib on the library's processes; needs the extra ``agents``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inference.gymnasium_env import POMDPVectorEnv
from ..models import POMDP

try:
    from gymnasium.vector import AutoresetMode
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError(
        "agents are trained by sb3-contrib; pip install 'beliefzoo[agents]' brings it"
    ) from error


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
        super().__init__(
            episodes, self._env.single_observation_space, self._env.single_action_space
        )

    def reset(self) -> Any:
        seen, _ = self._env.reset(seed=self._first)
        self._first = None
        return seen

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        seen, reward, over, late, info = self._env.step(self._actions)
        told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for n in (over | late).nonzero()[0]:
            told[n] = {"terminal_observation": info["final_obs"][n], "TimeLimit.truncated": late[n]}
        return seen, (reward * self._scale).astype(np.float32), over | late, told

    def close(self) -> None:
        self._env.close()

    # What Stable-Baselines3 asks of environments in processes of their own; there are none here.

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._env, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **named: Any) -> Any:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> Sequence[int]:
        return range(self.num_envs) if indices is None else np.atleast_1d(indices)
