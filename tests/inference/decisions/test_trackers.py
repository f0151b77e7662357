"""Trackers beside the filters of whole sequences, and beside sums in plain numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    ElmanFilter,
    ExactFilter,
    FilterTracker,
    FitSettings,
    GRUFilter,
    LSTMFilter,
    NoMemory,
    ParticleTracker,
    filter,
    fit,
    track,
)
from beliefzoo.inference.filters.recurrent import RecurrentFilter
from beliefzoo.models import (
    POMDP,
    BeliefPolicy,
    ExactTracker,
    Gaussian,
    HiddenMarkovModel,
    MountainHike,
    Seen,
    Sequences,
    Uniform,
)

MOVES = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.3, 0.7]]])
TOLD = np.array([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]]])
START = np.array([0.6, 0.4])
FIRST = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])


def process(first: bool = True) -> POMDP:
    return POMDP.from_tables(MOVES, TOLD, initial=START, first=FIRST if first else None)


def continuous() -> POMDP:
    return POMDP(2, Gaussian(2), actions=2, first=True).with_parameters(
        initial=START,
        transition=MOVES,
        mean=torch.arange(12.0).reshape(3, 2, 2) / 4,
        scale=np.full((3, 2, 2), 0.7),
    )


FILTERS = {
    "lstm": lambda: LSTMFilter(5),
    "lstm, cell": lambda: LSTMFilter(5, memory="c"),
    "lstm, both": lambda: LSTMFilter(5, layers=2, memory="hc", gain=2.5),
    "lstm, likelihoods": lambda: LSTMFilter(5, reads="both"),
    "gru": lambda: GRUFilter(5, layers=2),
    "elman": lambda: ElmanFilter(5, reads="likelihoods"),
    "of the user": lambda: GRUFilter(network=nn.GRU(5, 7), frozen=True),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("kind", ["symbols", "nothing first", "numbers"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_a_network_step_by_step_is_the_network(
    name: str, kind: str, dtype: torch.dtype, error: float
) -> None:
    model = {"numbers": continuous}.get(kind, lambda: process(kind == "symbols"))()
    made: RecurrentFilter = FILTERS[name]()
    if name == "of the user" and kind == "numbers":
        made = GRUFilter(network=nn.GRU(4, 7))
    made.build(model)
    made.to(dtype)
    episodes = model.rollout(Uniform(), 20, 30, seed=1, tracker=FilterTracker(made))
    with torch.no_grad():
        whole = made(model.laws({}, episodes.data))
    assert isinstance(whole, torch.Tensor)
    assert episodes.beliefs is not None
    torch.testing.assert_close(episodes.beliefs, whole.double().exp(), atol=error, rtol=0)


def test_a_fitted_network_acts() -> None:
    model = process()
    data = model.rollout(Uniform(), 40, 10, seed=2).data
    settings = FitSettings(steps=3, sleep_steps=0, holdout=0, patience=None)
    done = fit(model, BeliefGuide(model, LSTMFilter(4)), data, settings=settings, progress=False)
    tracker = FilterTracker(done)
    policy = BeliefPolicy(lambda belief: belief, tracker)
    made = model.rollout(policy, 3, 10, seed=3, tracker=tracker)
    assert made.beliefs is not None
    torch.testing.assert_close(made.probabilities, made.beliefs, atol=0, rtol=0)
    again = model.rollout(policy, 3, 10, seed=3, tracker=FilterTracker(done.guide))
    assert torch.equal(again.data.values, made.data.values)


def test_particles_tend_to_the_filter() -> None:
    """Mean errors of 600 beliefs fall as 1 / √P, which is .007 for 20 000 particles."""
    model = process()
    errors = []
    for particles in (200, 20_000):
        made = model.rollout(Uniform(), 10, 60, seed=4, tracker=ParticleTracker(particles))
        assert made.beliefs is not None
        torch.testing.assert_close(made.beliefs.sum(-1), torch.ones(10, 60, dtype=torch.float64))
        error = (made.beliefs - filter(model, made.data)).abs()
        errors.append(float(error.mean()))
    assert errors[1] < 0.007
    assert 5 < errors[0] / errors[1] < 20


def test_no_memory_is_bayes_rule_from_one_prior() -> None:
    model = process()
    prior = np.array([0.3, 0.7])
    made = model.rollout(Uniform(), 6, 8, seed=5, tracker=NoMemory(prior))
    assert made.beliefs is not None
    assert made.data.actions is not None
    for n in range(6):
        seen, actions = made.data.values[n].tolist(), made.data.actions[n].tolist()
        for t in range(8):
            weight = np.zeros(2)
            for to in range(2):
                if t == 0:
                    weight[to] = START[to] * FIRST[to, seen[0]]
                    continue
                expected = sum(prior[z] * MOVES[actions[t - 1], z, to] for z in range(2))
                weight[to] = expected * TOLD[actions[t - 1], to, seen[t]]
            np.testing.assert_allclose(made.beliefs[n, t], weight / weight.sum(), atol=1e-12)


@pytest.mark.parametrize("first", [False, True])
def test_tracking_given_episodes(first: bool) -> None:
    model = process(first)
    made = model.rollout(Uniform(), 7, 9, seed=7).data
    seen = torch.where(made.mask, made.values.double(), torch.nan)
    data = Sequences.from_tensors(
        seen, lengths=torch.tensor([9, 1, 4, 9, 2, 8, 5]), codes=True, actions=made.actions
    )
    beliefs = track(ExactTracker(), model, data)
    torch.testing.assert_close(beliefs, filter(model, data), atol=1e-12, rtol=0)


def test_visits_under_a_policy() -> None:
    """A chain that forgets at once: the share of visits is the row; 5 standard errors of it."""
    rows = [[[0.2, 0.8], [0.2, 0.8]]]
    model = POMDP.from_tables(rows, TOLD[:1], initial=[0.2, 0.8])
    prior = NoMemory.under(model, Uniform(), 500, 21, seed=6).prior
    assert prior is not None
    assert float(prior[0]) == pytest.approx(0.2, abs=5 * (0.16 / 10_000) ** 0.5)


def test_impossible_observations() -> None:
    sure = [[[1.0, 0.0], [0.0, 1.0]]]
    model = POMDP.from_tables(sure, sure, initial=[1.0, 0.0])
    nothing = Seen(None, torch.zeros(2).long(), torch.zeros(2).bool())
    seen = Seen(torch.zeros(2).long(), torch.tensor([0, 1]), torch.ones(2).bool())
    _, memory = NoMemory().update(NoMemory().begin(model, 2), nothing)
    belief = NoMemory(impossible="reset").update(memory, seen)[0]
    np.testing.assert_allclose(belief, [[1, 0], [0, 1]], atol=1e-15)  # what the observation says
    strict = NoMemory()
    with pytest.raises(ValueError, match="episode 1, step 1, got 1"):
        strict.update(memory, seen)


def test_what_no_state_can_give_is_refused() -> None:
    model = POMDP.from_tables(MOVES, [[[1.0, 0.0]] * 2] * 2)
    tracker = NoMemory(impossible="reset")
    memory = tracker.begin(model, 1)
    seen = Seen(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    with pytest.raises(ValueError, match=r"must be possible in some state; step 0, got \[1\]"):
        tracker.update(memory, seen)


@pytest.mark.parametrize("make", [ExactTracker, NoMemory])
def test_hills_have_no_table_of_states(make: type) -> None:
    with pytest.raises(ValueError, match=f"model: {make.__name__} needs a POMDP, got MountainHike"):
        MountainHike().rollout(None, 2, 2, tracker=make())


def test_bad_trackers_are_refused() -> None:
    with pytest.raises(ValueError, match="tracker: must be a Tracker, got 3"):
        process().rollout(None, 2, 2, tracker=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data: must be Sequences, got int"):
        track(ExactTracker(), process(), 3)  # type: ignore[arg-type]
    model = process()
    for bad in (LSTMFilter(3), BeliefGuide(model, ExactFilter()), "lstm"):
        with pytest.raises(ValueError, match="filter: must be a recurrent filter"):
            FilterTracker(bad)  # type: ignore[arg-type]
    backward = LSTMFilter(3, direction="backward")
    backward.build(model)
    with pytest.raises(ValueError, match="reads forward"):
        FilterTracker(backward)
    other = LSTMFilter(3)
    other.build(HiddenMarkovModel(2, "poisson"))
    with pytest.raises(ValueError, match="filter: built for 2 input channels"):
        model.rollout(Uniform(), 1, 1, tracker=FilterTracker(other))
    with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing' or 'reset'"):
        NoMemory(None, "ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prior: needs probabilities"):
        NoMemory([0.5, 0.6])
    paid = POMDP(2, 3, actions=2, reward="learned")
    reading = LSTMFilter(3, reads="both")
    reading.build(paid)
    with pytest.raises(ValueError, match=r"must read .observations. alone: rewards"):
        FilterTracker(reading).begin(paid, 1)
    with pytest.raises(ValueError, match="prior: needs a probability for each of 2 states"):
        model.rollout(Uniform(), 1, 1, tracker=NoMemory([0.5, 0.25, 0.25]))
