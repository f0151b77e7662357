"""Questions to a model with known parameters: batching, padding, forecasts, errors."""

import numpy as np
import pytest
import torch
from scipy import stats

from beliefzoo.inference import (
    filter,
    forecast,
    log_evidence,
    sample_states,
    smooth,
)
from beliefzoo.inference.queries import batches
from beliefzoo.models import (
    Categorical,
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    Regression,
    Sequences,
)


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)  # batches are cut to their own longest sequence
    model = HiddenMarkovModel(2, "poisson")
    drawn = model.sample(5, [2, 1, 5, 3, 4], seed=0)
    return model.with_parameters(**drawn.parameters), drawn.data


def test_sampled_states(case):
    """Frequencies of 4000 paths within 5 standard errors of the smoother (1 in 10^5)."""
    model, data = case
    paths = sample_states(model, data, 4000, seed=1)
    assert paths.shape == (4000, 5, 5)
    assert bool(((paths >= 0) == data.step_mask).all())
    marginal = smooth(model, data)[..., 1]
    error = ((paths == 1).double().mean(0) - marginal).abs()
    assert bool((error <= 5 * (marginal * (1 - marginal) / 4000).sqrt() + 1e-12).all())
    assert torch.equal(paths, sample_states(model, data, 4000, seed=1))


def test_forecast_is_the_law_of_what_comes(case):
    """Exact states and means against matrix powers; draws within 5 standard errors (1 in 10^5)."""
    model, data = case
    ahead = forecast(model, data, 3, draws=4000, seed=0)
    onward = model.known["transition"]
    for n, length in enumerate(data.lengths.tolist()):
        belief = filter(model, data)[n, length - 1]
        for h in range(3):
            belief = belief @ onward
            torch.testing.assert_close(ahead.state_probability[n, h], belief)
            expected = belief @ model.known["rate"]
            assert float(ahead.mean[n, h, 0]) == pytest.approx(float(expected))
    error = (ahead.draws.double().mean(0) - ahead.mean).abs() / (ahead.draws.std(0) / 4000**0.5)
    assert float(error.max()) < 5
    assert ahead.quantile(0.9).shape == (5, 3, 1)


def test_forecast_of_codes_has_symbol_probabilities():
    model = HiddenMarkovModel(2, Categorical(3))
    drawn = model.sample(2, 4, seed=0)
    ahead = forecast(model.with_parameters(**drawn.parameters), drawn.data, 2, draws=10, seed=0)
    assert ahead.draws.shape == (10, 2, 2)
    torch.testing.assert_close(ahead.mean.sum(-1), torch.ones(2, 2, dtype=torch.float64))


def test_forecast_continues_an_autoregression_from_the_last_observations():
    """One state, y_t = 5 + .9 (y_{t-1} − 5) + noise .01: the path back to the mean is known."""
    model = HiddenMarkovModel(1, Regression(Gaussian(1), lags=1)).with_parameters(
        mean=[5.0], scale=[0.01], lag_weight=[[[[0.9]]]]
    )
    data = Sequences.from_arrays([[0.0, 10.0], [7.0]])
    ahead = forecast(model, data, 3, draws=200, seed=0)
    expected = [[5 + 5 * 0.9**h for h in (1, 2, 3)], [5 + 2 * 0.9**h for h in (1, 2, 3)]]
    np.testing.assert_allclose(ahead.mean[..., 0], expected, atol=0.01)


def test_forecast_with_inputs_uses_the_last_known_input_first():
    """The input of the last step drives the first transition to come."""
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)).with_parameters(
        initial=[1.0, 0.0],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        transition_weight=[[[0.0], [50.0]], [[50.0], [0.0]]],  # input 1 switches, -1 stays
        mean=[-9.0, 9.0],
        scale=[1.0, 1.0],
    )
    data = Sequences.from_arrays([[-9.0], [-9.0]], inputs=[[[1.0]], [[-1.0]]])
    future = torch.tensor([[[-1.0], [1.0], [0.0]], [[1.0], [-1.0], [0.0]]])
    ahead = forecast(model, data, 3, inputs=future, draws=50, seed=0)
    assert ahead.state_probability[..., 1].round().tolist() == [[1, 1, 0], [0, 1, 1]]
    assert ahead.draws[:, 0, :2].mean() > 8
    with pytest.raises(ValueError, match=r"inputs: forecasting needs .* \(2, 2, 1\), got None"):
        forecast(model, data, 2)


def test_bad_arguments(case):
    model, data = case
    unknown = HiddenMarkovModel(2, "poisson").with_parameters(rate=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"needs values for \['initial', 'transition'\]"):
        log_evidence(unknown, data)
    with pytest.raises(ValueError, match="draws: must be a whole number >= 1, got 0"):
        sample_states(model, data, 0)
    with pytest.raises(ValueError, match="steps: must be a whole number >= 1, got 0"):
        forecast(model, data, 0)
    with pytest.raises(ValueError, match="whole numbers >= 0"):
        log_evidence(model, Sequences.from_arrays([[0.5]]))


def test_arrays_of_the_future_may_be_numpy_or_lists() -> None:
    """The same forecast, whatever holds the numbers; times may be common to all."""
    timed = ContinuousTimeHMM(2, "poisson")
    timed = timed.with_parameters(initial=[1, 0], generator=[[-1, 1], [2, -2]], rate=[1.0, 9.0])
    data = timed.sample(2, 3, times=[0.0, 1.0, 2.0], seed=0).data
    ahead = [forecast(timed, data, 2, times=t, draws=9, seed=0).draws for t in _alike([3.0, 4.0])]
    driven = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1))
    driven = driven.with_parameters(**driven.sample(1, 1, seed=0, inputs=[[[0.0]]]).parameters)
    data = driven.sample(2, 3, inputs=np.ones((2, 3, 1)), seed=0).data
    rows = _alike([[[0.5], [1.0]], [[0.5], [1.0]]])
    moved = [forecast(driven, data, 2, inputs=u, draws=9, seed=0).draws for u in rows]
    for found in (ahead, moved):
        assert all(torch.equal(one, found[0]) for one in found[1:])
    for wrong, message in (("x", "array of numbers"), ([[[float("nan")]]], "finite numbers")):
        with pytest.raises(ValueError, match=f"inputs: needs .*{message}"):
            forecast(driven, data, 2, inputs=wrong)
    with pytest.raises(ValueError, match=r"times: .* reads none, got list"):
        forecast(driven, data, 2, inputs=rows[0], times=[3.0, 4.0])


def _alike(numbers):
    return numbers, np.array(numbers), torch.tensor(numbers)


def test_quantiles_of_forecasts(case) -> None:
    """Several at once are each by itself; of a normal forecast the distribution function gives back
    the level.
    """
    model, data = case
    level = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1.0, observation_variance=2.0
    )
    found = forecast(model, data, 2, draws=50, seed=0)
    normal = forecast(level, Sequences.from_arrays([[1.0, 2.0, 0.0]]), 2, seed=0)
    for ahead in (found, normal):
        several = ahead.quantile([0.1, 0.9])
        assert torch.equal(several, torch.stack([ahead.quantile(0.1), ahead.quantile(0.9)]))
        for wrong in (1.5, float("nan"), "a", None, [], True, [[0.5]]):
            with pytest.raises(ValueError, match="q: "):
                ahead.quantile(wrong)
    z = (normal.quantile(0.9) - normal.mean) / normal.variance.sqrt()
    np.testing.assert_allclose(stats.norm.cdf(z), 0.9, atol=1e-12)
