"""Decision processes learned from random actions, by EM from several starts and by fits."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    fit,
    log_evidence,
    starting_values,
    value_iteration,
)
from beliefzoo.inference.fitting.start_em import _expected
from beliefzoo.models import (
    POMDP,
    BeliefPolicy,
    ExactTracker,
    Sequences,
    Uniform,
    tiger,
)
from beliefzoo.models.decisions.policies import Seen
from beliefzoo.models.randomness import seeded

PAINT = {
    # Paint a part unless it is flawed, then ship it, else reject it; after Kushmerick and others
    # (1995). What the second action, inspection, tells is right with chance 3/4.
    "transition": [
        [[0.1, 0.0, 0.9, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.1, 0.0, 0.9]],
        torch.eye(4).tolist(),
        [[0.5, 0.0, 0.0, 0.5]] * 4,
        [[0.5, 0.0, 0.0, 0.5]] * 4,
    ],
    "observation": [
        [[0.5, 0.5]] * 4,
        [[0.25, 0.75], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25]],
        [[0.5, 0.5]] * 4,
        [[0.5, 0.5]] * 4,
    ],
    "reward": [[0.0] * 4, [0.0] * 4, [-1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, -1.0]],
}


def paint() -> POMDP:
    return POMDP.from_tables(
        PAINT["transition"], PAINT["observation"], PAINT["reward"], initial=[0.5, 0, 0, 0.5]
    )


def unknown(truth: POMDP, data: Sequences) -> POMDP:
    size = truth.emission.encoding_size
    model = POMDP(truth.states, size, actions=truth.actions, reward="learned").scaled_to(data)
    assert isinstance(model, POMDP)
    return model


def above_truth(truth: POMDP, learned: POMDP, data: Sequences) -> float:
    """Nats by which the evidence is above that of the truth, with the same noise of rewards."""
    known = truth.known
    same = unknown(truth, data).with_parameters(
        initial=known["initial"],
        transition=known["transition"],
        probs=known["probs"],
        reward=truth.tables().reward,
        reward_scale=learned.known["reward_scale"],
    )
    return float(log_evidence(learned, data).sum() - log_evidence(same, data).sum())


class _By:
    """Beliefs by another process than the one that is acted in."""

    def __init__(self, model: POMDP) -> None:
        self.model, self.exact = model, ExactTracker("reset")

    def begin(self, model: POMDP, episodes: int) -> object:
        del model
        return self.exact.begin(self.model, episodes)

    def update(self, memory: object, seen: Seen) -> object:
        return self.exact.update(memory, seen)  # type: ignore[arg-type]


def test_expectations_are_sums_over_paths() -> None:
    truth = tiger()
    data = truth.rollout(Uniform(), 3, 4, seed=0).data
    model = unknown(truth, data)
    with seeded(1):
        values = {name: prior.sample().double() for name, prior in model.priors.items()}
    weight, counts, evidence = _expected(model, data, values)
    laws = model.laws(values, data)
    visits, moves, total = torch.zeros(3, 4, 2).double(), torch.zeros(3, 2, 2).double(), 0.0
    assert data.actions is not None
    for n in range(3):
        shares = {}
        for path in itertools.product(range(2), repeat=4):
            log_p = laws.log_initial[0, path[0]] + laws.log_likelihood[n, 0, path[0]]
            for t in range(1, 4):
                log_p = log_p + laws.log_transition[n, t - 1, path[t - 1], path[t]]
                log_p = log_p + laws.log_likelihood[n, t, path[t]]
            shares[path] = float(log_p.exp())
        whole = sum(shares.values())
        total += float(torch.tensor(whole, dtype=torch.float64).log())
        for path, share in shares.items():
            for t in range(4):
                visits[n, t, path[t]] += share / whole
                if t < 3:
                    moves[int(data.actions[n, t]), path[t], path[t + 1]] += share / whole
    assert evidence == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(weight, visits, atol=1e-9, rtol=0)
    torch.testing.assert_close(counts, moves, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_tiger_is_learned_from_rewards_without_noise(seed: int) -> None:
    """Twice the gain over the truth is χ² with 13 free numbers; EM need not be at its end."""
    truth = tiger()
    data = truth.rollout(Uniform(), 200, 20, seed=100 + seed).data
    model = unknown(truth, data)
    learned = model.with_parameters(**starting_values(model, data, seed=seed))
    assert -5 < above_truth(truth, learned, data) < 20
    earned = learned.known["reward"]
    order = [0, 1] if float(earned[1, 0]) < 0 else [1, 0]
    expected = torch.tensor(truth.tables().reward)
    torch.testing.assert_close(earned[:, order], expected, atol=0.05, rtol=0)
    # Five standard errors of a chance near .85 that is told 1300 times, half of it in each state.
    told = learned.known["probs"][0][order]
    torch.testing.assert_close(told, truth.known["probs"][0], atol=0.08, rtol=0)


def test_the_best_of_several_starts_is_found() -> None:
    """From clusters alone EM ends up to 300 nats below the truth."""
    truth = paint()
    data = truth.rollout(Uniform(), 100, 20, seed=0).data
    model = unknown(truth, data)
    learned = model.with_parameters(**starting_values(model, data))
    assert above_truth(truth, learned, data) > -5


@pytest.mark.parametrize(("unit", "offset"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 1e4), (1e3, -1e6)])
def test_units_of_rewards_change_nothing_else(unit: float, offset: float) -> None:
    data = tiger().rollout(Uniform(), 30, 10, seed=3).data
    assert data.rewards is not None
    other = replace(data, rewards=data.rewards * unit + offset)
    one, two = (starting_values(unknown(tiger(), each), each, seed=1) for each in (data, other))
    for name in ("initial", "transition", "probs"):
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=0)
    spread = float(data.rewards.std())
    again = (two["reward"].double() - offset) / unit
    # Single precision of the offset, where there is one.
    near = 1e-4 * spread + 1e-6 * abs(offset) / unit
    torch.testing.assert_close(again, one["reward"].double(), atol=near, rtol=0)


def test_a_fit_plans_as_the_truth() -> None:
    """Five standard errors of the returns of 2000 episodes under the plans of the two models."""
    truth = tiger()
    data = truth.rollout(Uniform(), 200, 20, seed=7).data
    model = unknown(truth, data)
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit(model, guide, data, settings=FitSettings(steps=100), progress=False)
    assert isinstance(found.fitted, POMDP)
    assert -5 < above_truth(truth, found.fitted, data) < 20
    returns = []
    for each in (truth, found.fitted):
        plan = value_iteration(each, gap=1.0)
        made = truth.rollout(BeliefPolicy(plan.act, _By(each)), 2000, 60, seed=1)  # type: ignore[arg-type]
        returns.append(made.returns())
    error = float(returns[0].std()) * (2 / 2000) ** 0.5
    assert abs(float(returns[0].mean() - returns[1].mean())) < 5 * error
