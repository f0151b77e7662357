"""An observation of probability 0: every query names it, or treats it as missing on request."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    NoMemory,
    ParticleTracker,
    belief_events,
    components,
    evidence_gap,
    filter,
    forecast,
    gaps,
    log_evidence,
    mixture_kalman,
    most_likely_regimes,
    most_likely_states,
    particle_filter,
    posterior_quantities,
    predict,
    sample_states,
    smooth,
    smooth_pairs,
    smooth_regimes,
    standardised_innovations,
    step_log_likelihood,
    track,
)
from beliefzoo.inference.queries.outlook import Outlook
from beliefzoo.models import (
    POMDP,
    BandedTransition,
    Categorical,
    DeepMarkovModel,
    ExactTracker,
    Gaussian,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    Regression,
    Sequences,
    SwitchingLinearSSM,
)

NAN = float("nan")

QUERIES: dict[str, Callable[..., Any]] = {
    "filter": filter,
    "predict": predict,
    "smooth": smooth,
    "smooth_pairs": smooth_pairs,
    "step_log_likelihood": step_log_likelihood,
    "most_likely_states": most_likely_states,
    "sample_states": lambda *given, **kind: sample_states(*given, draws=20, seed=0, **kind),
    "forecast": lambda *given, **kind: forecast(*given, 2, draws=5, seed=0, **kind),
}


def left_right() -> HiddenMarkovModel:
    """Three states in a row, each with symbols of its own; none goes back."""
    return HiddenMarkovModel(3, Categorical(4)).with_parameters(
        initial=[1, 0, 0],
        transition=[[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]],
        probs=[[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]],
    )


def possible_and_not() -> tuple[Sequences, Sequences]:
    """Codes of which two steps of "b" are impossible, and the same with these steps missing."""
    rows = [[0, 1, 2, 3], [0, 3, 2, 2, 0, 3], [1, 2, 3]]
    some = Sequences.from_arrays(rows, codes=True, labels=["a", "b", "c"])
    rows[1] = [0, NAN, 2, 2, NAN, 3]  # type: ignore[list-item]
    return some, Sequences.from_arrays(rows, codes=True, labels=["a", "b", "c"])


def flat(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found if isinstance(found, tuple) else vars(found).values()
    return [part for part in parts if not isinstance(part, Outlook | None)]


@pytest.mark.parametrize("query", QUERIES)
def test_queries_name_sequence_and_step(query: str) -> None:
    with pytest.raises(ValueError, match=r"data: needs .* sequence 'b', step 1, got 3"):
        QUERIES[query](left_right(), possible_and_not()[0])


@pytest.mark.parametrize("query", QUERIES)
def test_queries_treat_it_as_missing_on_request(query: str) -> None:
    some, gaps = possible_and_not()
    found = flat(QUERIES[query](left_right(), some, impossible="missing"))
    wanted = flat(QUERIES[query](left_right(), gaps))
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("query", QUERIES)
def test_another_policy_is_refused(query: str) -> None:
    for other in ("reset", None, 3):
        with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing', got"):
            QUERIES[query](left_right(), possible_and_not()[1], impossible=other)


def test_the_evidence_is_minus_infinity() -> None:
    some, gaps = possible_and_not()
    found, without = log_evidence(left_right(), some), log_evidence(left_right(), gaps)
    assert found.isneginf().tolist() == [False, True, False]
    assert without.isfinite().all()
    np.testing.assert_array_equal(found[[0, 2]], without[[0, 2]])


def test_measures_of_guides_and_gates_refuse_it() -> None:
    data = possible_and_not()[0]
    guide = BeliefGuide(left_right(), ExactFilter())
    possible = possible_and_not()[1]
    asks: dict[str, Callable[..., Any]] = {
        "evidence_gap": partial(evidence_gap, guide),
        "gaps": partial(gaps, guide),
        "posterior_quantities": partial(posterior_quantities, guide.model),
        "belief_events": partial(belief_events, guide.model),
    }
    for ask in asks.values():
        with pytest.raises(ValueError, match="sequence 'b', step 1, got 3"):
            ask(data)
        with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing', got"):
            ask(data, impossible="reset")
        some, wanted = ask(data, impossible="missing"), ask(possible)
        for one, other in zip(values_of(some), values_of(wanted), strict=True):
            torch.testing.assert_close(one, other)


def values_of(found: Any) -> list[Any]:
    fields = (found if isinstance(found, dict) else vars(found)).values()
    return [value for value in fields if isinstance(value, torch.Tensor)]


def test_linear_models_have_no_such_observations() -> None:
    """Normal densities are positive; the logarithm of one that is not a number is refused."""
    model = LinearGaussianSSM(LocalLevel())
    model = model.with_parameters(level_variance=1.0, observation_variance=1.0)
    far, beyond = (Sequences.from_arrays([[0.1, y, 0.3]]) for y in (1e150, 1e200))
    for query in (log_evidence, step_log_likelihood):
        assert query(model, far).isfinite().all()
        with pytest.raises(ValueError, match="too large: the recursion of sequence 0 overflowed"):
            query(model, beyond)
    moments = filter, predict, smooth, components, lambda m, d: forecast(m, d, 2, draws=5, seed=0)
    for query in (*moments, standardised_innovations):
        for data in (far, beyond):  # linear in the data: nothing overflows
            found = query(model, data)
            found = found["level"] if isinstance(found, dict) else found
            found = found if isinstance(found, torch.Tensor) else found.mean
            assert found[0, 1:].isfinite().all()


def test_a_step_left_out_is_missing_for_lags_too() -> None:
    """The value overflows every density; the step after it then has no lag, as with a NaN."""
    law = Regression(Gaussian(), lags=1)
    model = HiddenMarkovModel(2, law)
    torch.manual_seed(0)
    model = model.with_parameters(**{name: p.sample() for name, p in model.priors.items()})
    rows = [[0.1, 0.3, 1e200, 0.2, 0.4]]
    gaps = [[0.1, 0.3, NAN, 0.2, 0.4]]
    with pytest.raises(ValueError, match=r"step 2, got \[1e\+200\]"):
        smooth(model, Sequences.from_arrays(rows))
    found = smooth(model, Sequences.from_arrays(rows), impossible="missing")
    np.testing.assert_allclose(found, smooth(model, Sequences.from_arrays(gaps)), atol=1e-12)


def test_structured_chains_have_the_same_rule() -> None:
    """From 128 states on inference goes by the bands."""
    k = 130
    model = HiddenMarkovModel(k, Categorical(k), transition=BandedTransition((0, 1)))
    bands = torch.eye(k) / 2 + torch.eye(k).roll(1, -1) / 2
    bands[-1] = torch.eye(k)[-1]
    model = model.with_parameters(
        initial=torch.eye(k)[0], transition=bands, probs=torch.eye(k, dtype=torch.float64)
    )
    data = Sequences.from_arrays([[0, 1, 5, 2]], codes=True)
    with pytest.raises(ValueError, match="sequence '0', step 2, got 5"):
        filter(model, data)
    path = smooth(model, data, impossible="missing").argmax(-1)
    assert path[0, [0, 1, 3]].tolist() == [0, 1, 2]


SURE = [[[1.0, 0.0], [0.0, 1.0]]]


@pytest.mark.parametrize("make", [ExactTracker, NoMemory, lambda **k: ParticleTracker(8, **k)])
def test_trackers_have_the_same_rule(make: Callable[..., Any]) -> None:
    model = POMDP.from_tables(SURE, SURE, initial=[1.0, 0.0])
    rows = [[NAN, 0, 0], [NAN, 1, 0]]
    data = Sequences.from_arrays(rows, codes=True, actions=[[0] * 3] * 2)
    with pytest.raises(ValueError, match=r"data: needs .* episode 1, step 1, got 1"):
        track(make(), model, data)
    kept = track(make(impossible="missing"), model, data)
    assert kept.tolist() == [[[1.0, 0.0]] * 3] * 2
    torch.testing.assert_close(kept, filter(model, data, impossible="missing"))
    with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing' or 'reset'"):
        make(impossible="ignore")


def test_particles_treat_it_as_missing_on_request() -> None:
    some, gaps = possible_and_not()
    with pytest.raises(ValueError, match="sequence 'b', step 1"):
        particle_filter(left_right(), some, particles=50)
    found = particle_filter(left_right(), some, particles=4000, seed=0, impossible="missing")
    exact = filter(left_right(), gaps)
    # Standard errors of a share are below 1 / 2 √4000 = 0.008.
    torch.testing.assert_close(found.mean, exact, atol=0.04, rtol=0)
    wanted = log_evidence(left_right(), gaps)
    torch.testing.assert_close(found.log_evidence, wanted, atol=0.1, rtol=0)


def test_particles_of_states_without_exact_inference_treat_it_as_missing() -> None:
    """A value so far out that its density is 0 in float64; the step then says nothing."""
    torch.manual_seed(0)
    model = DeepMarkovModel(1, "gaussian", transition_width=4, emission_width=4)
    model = model.with_parameters(**{name: p.sample() for name, p in model.priors.items()})
    some = Sequences.from_arrays([[0.1, 1e200, 0.3], [0.2, 0.1]])
    gaps = Sequences.from_arrays([[0.1, NAN, 0.3], [0.2, 0.1]])
    with pytest.raises(ValueError, match="sequence '0', step 1"):
        particle_filter(model, some, particles=50)
    found = particle_filter(model, some, particles=50, seed=0, impossible="missing")
    wanted = particle_filter(model, gaps, particles=50, seed=0)
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.log_increments, wanted.log_increments)


def test_regimes_treat_it_as_missing_on_request() -> None:
    model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.9, 0.1], [0.1, 0.9]],
        initial_mean=[0.0],
        initial_scale=[1.0],
        dynamics=[[[1.0]], [[1.0]]],
        drift=[[0.0], [0.0]],
        noise_scale=[[0.1], [3.0]],
        loading=[[1.0]],
        intercept=[0.0],
        observation_scale=[0.1],
    )
    some, gaps = (Sequences.from_arrays([[0.1, y, 0.3, 5.0], [0.2]]) for y in (1e200, NAN))
    with pytest.raises(ValueError, match="sequence '0' at step 1"):
        mixture_kalman(model, some)
    found = mixture_kalman(model, some, particles=16, draws=1, impossible="missing")
    # 16 particles are all regime paths: the answers are exact sums.
    wanted = mixture_kalman(model, gaps, particles=16, draws=1)
    for name in ("log_evidence", "regimes", "mean", "covariance"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    ahead = forecast(model, some, 2, draws=5, seed=0, impossible="missing")
    torch.testing.assert_close(ahead.draws, forecast(model, gaps, 2, draws=5, seed=0).draws)
    for query in (smooth_regimes, most_likely_regimes):
        with pytest.raises(ValueError, match="sequence '0' at step 1"):
            query(model, some, particles=16)
        again, without = query(model, some, impossible="missing"), query(model, gaps)
        for one, other in zip(flat(again), flat(without), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "query", [particle_filter, mixture_kalman, smooth_regimes, most_likely_regimes]
)
def test_particles_refuse_another_policy(query: Callable[..., Any]) -> None:
    model = left_right() if query is particle_filter else SwitchingLinearSSM(2, 1)
    with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing', got 'reset'"):
        query(model, possible_and_not()[1], impossible="reset")
