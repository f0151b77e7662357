"""Agent beliefs: what the LSTM of an agent trained for reward holds of the exact belief.

An LSTM policy is trained by RecurrentPPO (sb3-contrib, extra ``agents``) on Tiger and on a T-maze,
where beside all that matters a bystander is seen: a two-state chain of its own that no action moves
and no reward heeds. Then the agent is wrapped: its LSTM is read along its episodes, and linear
decoders tell how much it holds of the exact belief, of the state that matters and of the bystander,
while it is trained and at the end, beside an untrained LSTM and the last few inputs.

Nobody told the agent of beliefs. After Lambrechts, Bolland & Ernst (2022), Recurrent networks,
hidden states and beliefs in partially observable environments, who estimate mutual information
with a trained network; decoders bound it from below, and are in nats of the exact belief.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...inference import BeliefReadout, belief_readout, lstm_readouts, sample_states
from ...inference.arviz_groups import Idata
from ...models import (
    POMDP,
    Episodes,
    ExactTracker,
    ObservationPolicy,
    Sequences,
    World,
    t_maze,
    tiger,
)
from ..command.report import Outcome, record
from ..command.seeds import Repeated, all_counts, at_least, over_seeds, stream, summary
from ..parts.training import Units
from .drawings.agent_beliefs import draw
from .parts.bystander import with_bystander

if TYPE_CHECKING:
    from .parts.recurrent_ppo import Checkpoint, Training

TIGER_OPTIMUM = 19.371368
"""In closed form; between published bounds."""

SHARES = 0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0
"""Of the training steps after which an agent is looked at."""


@dataclass(frozen=True)
class Settings(Units, Repeated):
    """Settings of the experiment."""

    length: int = 10
    """Cells of the corridor of the T-maze."""
    stochasticity: float = 0.2
    """Share of its moves that go anywhere, so that there is a place to keep a belief of."""
    stay: float = 0.95
    """Probability that the bystander stays as it is: slow enough that long memory tells of it…"""
    told: float = 0.75
    """…and probability that it is seen as it is: not so often that one look would do."""
    tiger_steps: int = 200_000
    """Training steps on Tiger; after half of them the return grows no more."""
    maze_steps: int = 160_000
    """Training steps on the T-maze; most agents have found the cue's use by two thirds of them."""
    environments: int = 64
    """Episodes side by side in training."""
    horizon: int = 64
    """Steps of each between two updates; more than an episode of the T-maze takes."""
    judged: int = 2000
    """Episodes of which the return is the mean."""
    judged_length: int = 120
    """Steps of these; on Tiger, what comes later counts for less than .002 of what it earns."""
    episodes: int = 800
    """Episodes of the read-outs, half to fit them, half to judge."""
    steps: int = 40
    """Most steps of these."""
    draws: int = 20
    """Draws of the hidden states of a few episodes in posterior.nc."""

    def __post_init__(self) -> None:
        at_least(0, self, "seed", "stochasticity", "stay", "told")
        at_least(4, self, "episodes")
        all_counts(self)


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 2,
    "hidden_size": 4,
    "tiger_steps": 64,
    "maze_steps": 64,
    "environments": 4,
    "horizon": 8,
    "judged": 8,
    "judged_length": 10,
    "episodes": 10,
    "steps": 8,
    "draws": 3,
}


__all__ = ["SMOKE", "Settings", "draw", "run"]


class Problem(NamedTuple):
    """A process, and what is known of it."""

    make: Callable[[Settings], POMDP]
    steps: Callable[[Settings], int]
    reward_scale: float
    """Makes values about 1."""
    entropy: tuple[float, float]
    """Weight of the policy's entropy at first and at last."""
    forget_bias: float
    gae_lambda: float
    learning_rate: float
    forgetful: tuple[int, ...]
    """Actions on what is seen, and at first: of those without memory none earns more."""
    parts: Callable[[Tensor], dict[str, Tensor]]
    """Beliefs in the parts of the state, of those in the whole."""
    success: tuple[float, float | None]
    """The reward of success, and that of failure; None: whatever ends without."""


PROBLEMS: Mapping[str, Problem] = {
    "tiger": Problem(
        lambda settings: tiger(),
        lambda settings: settings.tiger_steps,
        reward_scale=0.02,
        # At first high, or it would only ever listen: doors opened at random cost 45.
        entropy=(0.2, 0.01),
        forget_bias=0.0,
        gae_lambda=0.9,
        learning_rate=5e-3,
        forgetful=(0, 0, 0),
        parts=lambda belief: {"relevant": belief},
        success=(10.0, -100.0),
    ),
    "t_maze": Problem(
        lambda settings: t_maze(settings.length, settings.stochasticity),
        lambda settings: settings.maze_steps,
        reward_scale=0.25,
        entropy=(0.05, 0.002),
        forget_bias=2.0,
        gae_lambda=0.95,
        learning_rate=5e-3,
        forgetful=(0, 0, 0, 1, 0),
        # The cue decides where to go; where one is in the corridor changes nothing.
        parts=lambda belief: {
            "relevant": belief.unflatten(-1, (2, -1)).sum(-1),
            "place": belief.unflatten(-1, (2, -1)).sum(-2),
        },
        success=(4.0, None),
    ),
}


class Trained(NamedTuple):
    """One agent and how it did."""

    figures: dict[str, Any]
    episodes: Episodes | None
    """Some of its own, of the first seed."""


def run(settings: Settings) -> Outcome:
    """Train every agent, look into it on the way, compare.

    Raises:
        ValueError: sb3-contrib is not installed.
    """
    try:
        from .parts import recurrent_ppo
    except ImportError as error:
        raise ValueError(str(error)) from error
    del recurrent_ppo  # from here on it is there
    plan = [(settings, name, number) for name in PROBLEMS for number in range(settings.seeds)]
    done: list[Trained] = over_seeds(_trained, plan, jobs=settings.jobs)
    figures: dict[str, Any] = {}
    shown: dict[str, Episodes] = {}
    for name in PROBLEMS:
        each = [one for (_, own, _), one in zip(plan, done, strict=True) if own == name]
        figures[name] = {**_yardsticks(settings, name), **summary([e.figures for e in each])}
        assert each[0].episodes is not None
        shown[name] = each[0].episodes
    return Outcome(figures, _posterior(settings, shown))


def training(settings: Settings, problem: Problem) -> Training:
    """How the agents of a problem are trained."""
    from .parts.recurrent_ppo import Training

    return Training(
        steps=problem.steps(settings),
        environments=settings.environments,
        horizon=settings.horizon,
        most=3 * settings.horizon,
        reward_scale=problem.reward_scale,
        entropy=problem.entropy,
        hidden_size=settings.hidden_size,
        forget_bias=problem.forget_bias,
        gae_lambda=problem.gae_lambda,
        learning_rate=problem.learning_rate,
        epochs=6,
        batch_size=settings.environments * settings.horizon // 4,
    )


def _trained(settings: Settings, name: str, number: int) -> Trained:
    from .parts.recurrent_ppo import train

    problem = PROBLEMS[name]
    model = with_bystander(problem.make(settings), settings.stay, settings.told)
    seed = stream(settings, list(PROBLEMS).index(name), number)
    how = training(settings, problem)
    checkpoints = train(model, how, watch=[int(s * how.steps) for s in SHARES[:-1]], seed=seed)
    agent = checkpoints[-1].agent
    episodes = model.rollout(
        agent, settings.episodes, settings.steps, seed=seed, tracker=ExactTracker()
    )
    data, (own, beside) = until_the_end(episodes), beliefs(episodes)
    parts = problem.parts(own) | {"irrelevant": beside}
    rows: dict[str, dict[str, Any]] = {}
    for kind, belief in parts.items():
        read = lstm_readouts(agent.lstm, agent.inputs(data), belief, windows=4, seed=seed)
        rows[kind] = {_path(row): _row(one) for row, one in read.rows.items()}
        rows[kind]["information"] = _information(read.state["hc"])
    gained = {kind: _gain(one) for kind, one in rows.items()}
    figures = {
        "training": {
            f"after_{one.step}_steps": {
                **_earned(settings, problem, model, one, seed),
                **_held(one, data, parts, seed),
            }
            for one in checkpoints
        },
        "at_the_end": rows,
        "share_held_more_than_by_the_untrained": gained,
        "gain_of_relevant_less_that_of_irrelevant": gained["relevant"] - gained["irrelevant"],
    }
    return Trained(figures, episodes if number == 0 else None)


def until_the_end(episodes: Episodes) -> Sequences:
    """The data without what follows the last state of an episode, which nobody sees."""
    data, over = episodes.data, World(episodes.model).over()[episodes.states]
    return Sequences.from_tensors(
        data.values,
        data.mask,
        (~over).sum(1).clamp_min(1),
        codes=True,
        actions=data.actions,
        rewards=data.rewards,
        symbols=data.symbols,
    )


def beliefs(episodes: Episodes) -> tuple[Tensor, Tensor]:
    """The exact beliefs in what matters (N, T, K), and in the bystander (N, T, 2)."""
    assert episodes.beliefs is not None
    both = episodes.beliefs.unflatten(-1, (-1, 2))
    return both.sum(-1), both.sum(-2)


def _earned(
    settings: Settings, problem: Problem, model: POMDP, one: Checkpoint, seed: int
) -> dict[str, float]:
    """What an agent earns, taking its likeliest action, and how often it succeeds."""
    made = model.rollout(
        one.agent.greedily(), settings.judged, settings.judged_length, seed=seed + 1
    )
    return {"return": float(made.returns().mean()), "success": success(problem, made)}


def success(problem: Problem, made: Episodes) -> float:
    """Share of the doors opened that were the right one, or of the episodes that ended well."""
    assert made.data.rewards is not None
    won, lost = problem.success
    right = made.data.rewards == won
    if lost is None:
        return float(right.any(1).double().mean())
    tried = right | (made.data.rewards == lost)
    return float(right.sum()) / max(1, int(tried.sum()))


def _held(
    one: Checkpoint, data: Sequences, parts: Mapping[str, Tensor], seed: int
) -> dict[str, dict[str, float]]:
    """What the LSTM of a checkpoint holds along the episodes of the agent that it became."""
    state = torch.cat(one.agent.states(data), -1)
    return {
        kind: _row(belief_readout(state, belief, data.step_mask, seed=seed))
        for kind, belief in parts.items()
    }


def _row(one: BeliefReadout) -> dict[str, float]:
    assert one.decoder_kl is not None
    return {"r_squared": one.r_squared, "decoder_kl": one.decoder_kl, "share_held": one.share}


def _gain(rows: Mapping[str, Mapping[str, float]]) -> float:
    """What training has added to the share that is held."""
    return rows["lstm_h_and_c"]["share_held"] - rows["untrained_lstm_h_and_c"]["share_held"]


def _information(one: BeliefReadout) -> float:
    assert one.information is not None
    return one.information


def _path(row: str) -> str:
    """A row of the read-outs as the name of a figure."""
    return row.lower().replace("hc", "h_and_c").replace(" ", "_")


def _yardsticks(settings: Settings, name: str) -> dict[str, float]:
    """Returns of the best policy, of the best without memory, and of none at all."""
    problem = PROBLEMS[name]
    model = problem.make(settings)
    best = TIGER_OPTIMUM if name == "tiger" else value_of_the_seeing(model)
    table = torch.eye(model.actions, dtype=torch.float64)[list(problem.forgetful)]
    policies = {
        "without_memory": ObservationPolicy(table[:-1], table[-1]),
        "of_random_actions": None,
    }
    out = {"return_of_the_best_policy": best}
    for number, (kind, policy) in enumerate(policies.items()):
        seed = stream(settings, 9, number)
        made = model.rollout(policy, settings.judged, settings.judged_length, seed=seed)
        out[f"return_{kind}"] = float(made.returns().mean())
        out[f"success_{kind}"] = success(problem, made)
    return out


def value_of_the_seeing(model: POMDP) -> float:
    """The optimal value of somebody who sees the state.

    In the T-maze nobody does better than who remembers the cue: right is right in the whole
    corridor, and the junction is seen.
    """
    tables = model.tables()
    value = np.zeros(model.states)
    change = np.inf
    while change > 1e-12:
        of_action = tables.reward + tables.discount * tables.transition @ value
        change = float(np.abs(of_action.max(0) - value).max())
        value = of_action.max(0)
    return float(tables.initial @ value)


def _posterior(settings: Settings, shown: Mapping[str, Episodes]) -> Idata:
    """Draws of the hidden states of some of the agents' episodes, beside their exact beliefs."""
    groups: dict[str, dict[str, Any]] = {"posterior": {}, "observed_data": {}, "constant_data": {}}
    dims: dict[str, tuple[str, ...]] = {}
    for number, (name, made) in enumerate(shown.items()):
        data = until_the_end(made)[:4]  # which may be shorter
        relevant, irrelevant = (one[:4, : data.max_length] for one in beliefs(made))
        paths = sample_states(made.model, data, settings.draws, seed=stream(settings, 8, number))
        assert data.actions is not None
        groups["posterior"][f"{name}_state"] = paths.numpy()[None]
        groups["observed_data"][f"{name}_observation"] = data.codes().numpy()
        groups["constant_data"] |= {
            f"{name}_action": data.actions.numpy(),
            f"{name}_length": data.lengths.numpy(),
            f"{name}_belief": relevant.numpy(),
            f"{name}_belief_in_the_bystander": irrelevant[..., 1].numpy(),
        }
        along = ("sequence", f"{name}_time")
        dims |= {f"{name}_{what}": along for what in ("state", "observation", "action")}
        dims |= {
            f"{name}_length": ("sequence",),
            f"{name}_belief": (*along, f"{name}_relevant_state"),
            f"{name}_belief_in_the_bystander": along,
        }
    return record(settings, groups, dims=dims)
