"""Names that no data can settle: states and causes that can be exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    fit,
    log_evidence,
    nuts,
    to_arviz,
)
from beliefzoo.models import (
    POMDP,
    GatedAccumulator,
    HiddenMarkovModel,
    ResetModel,
    Sequences,
    Uniform,
    tiger,
)
from beliefzoo.models.chains.memory import MemoryEmission
from beliefzoo.models.decisions.rewards import Rewards

NAMES = ["left", "right"]


def process(**options: Any) -> POMDP:
    return POMDP(NAMES, 2, actions=2, **options)


TELLING = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]] * 2)
ALIKE = torch.tensor([[[0.9, 0.1], [0.9, 0.1]]] * 2)
BIASED = dist.Dirichlet(torch.tensor([[[9.0, 1.0], [1.0, 9.0]]] * 2)).to_event(2)
LIKED = dist.Dirichlet(torch.tensor([[[9.0, 1.0], [9.0, 1.0]]] * 2)).to_event(2)


@pytest.mark.parametrize(
    ("model", "given", "open_"),
    [
        (process(), {}, True),
        (process(reward="learned"), {}, True),  # rewards are moved along with their states
        (process().with_parameters(initial=[0.5, 0.5]), {}, True),  # known, and the same
        (process().with_parameters(initial=[0.4, 0.6]), {}, False),
        (process().with_parameters(probs=ALIKE), {}, True),
        (process().with_parameters(probs=TELLING), {}, False),
        (process(), {"probs": TELLING}, False),
        (process(), {"probs": ALIKE}, True),
        (process(), {"initial": torch.tensor([0.1, 0.9])}, True),  # says little of what is seen
        (process(priors={"probs": BIASED}), {}, False),
        (process(priors={"probs": LIKED}), {}, True),
        (POMDP(2, 2, actions=2), {}, False),  # has no names
        (POMDP(2, 2, actions=2, reward=[[1, 0], [0, 1]]), {}, True),
        (POMDP(2, 2, actions=2, reward=[[1, 1], [0, 0]]), {}, False),
        (POMDP(["one"], 2, actions=2), {}, False),
        (tiger(), {}, False),
    ],
)
def test_states_are_told_apart_by_what_is_not_symmetric(
    model: POMDP, given: Mapping[str, Tensor], open_: bool
) -> None:
    given = {name: value.double() for name, value in given.items()}
    assert bool(model.undecided(given)) == open_


def test_two_of_three_states_may_be_alike() -> None:
    initial = torch.tensor([0.2, 0.6, 0.2])
    model = POMDP(["a", "b", "c"], 2, actions=2).with_parameters(initial=initial)
    assert "the states 'a' and 'c'" in model.undecided({})


def test_rewards_are_alike_where_an_exchange_leaves_the_table() -> None:
    rng = np.random.default_rng(0)
    for number in range(300):
        shape = tuple(int(rng.choice([1, size])) for size in (2, 3, 3, 2))
        table = rng.integers(0, 2, shape).astype(float)
        rewards = Rewards.of_table(table)
        if number % 2:  # by its entries
            places = np.flatnonzero(table)
            ones = tuple(table.ravel()[places].tolist())
            rewards = Rewards(shape, ones, tuple(places.tolist()))
        full = np.broadcast_to(table, (shape[0], 3, 3, shape[3]))
        order = rng.permutation(3)
        one, other = order[:2]
        turned = np.arange(3)
        turned[[one, other]] = other, one
        same = np.array_equal(full, full[:, turned][:, :, turned])
        assert rewards.alike(int(one), int(other)) == same


def heard(episodes: int = 30) -> Sequences:
    known = POMDP.from_tables([np.eye(2)] * 2, TELLING, initial=[0.5, 0.5])
    return known.rollout(Uniform(), episodes, 6, seed=0).data


def learned(model: HiddenMarkovModel, data: Sequences, **options: Any) -> Any:
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    settings = FitSettings(steps=100, restarts=2, **options)
    return fit(model, guide, data, settings=settings, progress=False)


def test_a_fit_drops_names_that_it_cannot_give() -> None:
    data = heard()
    with pytest.warns(UserWarning, match="nothing tells the states 'left' and 'right' apart"):
        found = learned(process(), data)
    assert found.model.state_names == ("0", "1")
    posterior = to_arviz(found, data, draws=2, predictive_draws=2, prior_draws=2)["posterior"]
    assert posterior["state"].values.tolist() == [0, 1]
    with pytest.warns(UserWarning, match="nuts: nothing tells"):
        drawn = nuts(process(), data, chains=1, draws=2, warmup=2, progress=False)
    assert isinstance(drawn.model, POMDP)
    assert not drawn.model.has_names


@pytest.mark.parametrize("turned", [False, True])
def test_starting_values_give_the_names(turned: bool) -> None:
    """The posterior has one peak for each way to name the states; the start chooses."""
    probs = TELLING.flip(1) if turned else TELLING
    found = learned(process(), heard(), start={"probs": probs})
    assert found.model.state_names == ("left", "right")
    first, second = found.fitted.known["probs"][:, :, 0].mean(0).tolist()
    assert (first < second) == turned


def test_rewards_by_state_are_named_in_the_warning() -> None:
    model = POMDP(2, 2, actions=2, reward=[[1, 0], [0, 1]])
    with pytest.warns(UserWarning, match="'0' and '1' apart.*; the rewards, which are given"):
        learned(model, heard())


# --- memories


def values_of(model: HiddenMarkovModel, seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    chances = {
        n: torch.tensor(rng.uniform(0.1, 0.9), dtype=torch.float64)
        for n in ("keep", "write", "positive")
    }
    return {
        **{name: value for name, value in chances.items() if name in model.priors},
        "loading": torch.from_numpy(rng.normal(size=tuple(model.priors["loading"].event_shape))),
        "intercept": torch.from_numpy(rng.normal(size=2)),
        "scale": torch.from_numpy(rng.uniform(0.5, 1, 2)),
    }


@pytest.mark.parametrize("leak", [False, True])
@pytest.mark.parametrize("kind", ["reset", "accumulator"])
def test_renamed_causes_have_the_same_evidence(kind: str, leak: bool) -> None:
    model = (
        ResetModel(features=2, leak=leak)
        if kind == "reset"
        else GatedAccumulator(3, features=2, leak=leak)
    )
    values = values_of(model, 0)
    data = model.with_parameters(**values).sample(4, 3, seed=1).data
    expected = log_evidence(model.with_parameters(**values), data)
    emission = model.emission
    assert isinstance(emission, MemoryEmission)
    renamings = list(emission._renamings)
    assert len(renamings) == (1 if leak else {"reset": 8, "accumulator": 48}[kind])
    for order, opposite in renamings:
        stacked = {name: value.unsqueeze(0) for name, value in values.items()}
        other = {n: v[0] for n, v in emission._renamed(order, opposite, stacked).items()}
        torch.testing.assert_close(
            log_evidence(model.with_parameters(**other), data), expected, rtol=1e-10, atol=1e-10
        )


LOADING = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("known", "given", "named"),
    [
        ({}, {}, "'keep', 'positive'"),
        ({"loading": LOADING}, {}, ""),
        ({}, {"loading": LOADING}, ""),
        ({"keep": 0.9}, {}, "'positive'"),
        ({"keep": 0.9, "positive": 0.7}, {}, ""),
        ({"keep": 0.9, "positive": 0.5}, {}, "'positive'"),
        ({"keep": 0.3, "positive": 0.7}, {}, "'keep', 'positive'"),  # exchanged, and turned
    ],
)
def test_causes_are_told_apart_by_what_is_not_symmetric(
    known: dict[str, Any], given: dict[str, Tensor], named: str
) -> None:
    model = ResetModel().with_parameters(**known)
    said = model.undecided({name: value.double() for name, value in given.items()})
    assert bool(said) == bool(named)
    assert not named or f"nothing tells {named} from one another" in said


def test_a_leak_tells_all_but_the_sign() -> None:
    assert "nothing tells 'positive' from" in GatedAccumulator(3, leak=True).undecided({})
