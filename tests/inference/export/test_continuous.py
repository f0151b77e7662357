"""The export of continuous states, and the evidence from weighted trajectories."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    LSTMFilter,
    filter,
    fit,
    importance,
    log_evidence,
    nuts,
    smooth,
    step_log_likelihood,
    to_arviz,
    weighted_evidence,
)
from beliefzoo.inference.arviz_groups import group, read, write
from beliefzoo.models import LinearDynamics, LinearGaussianSSM, LocalLevel, Sequences

RAGGED = Sequences.from_arrays(
    [[0.3, math.nan, 1.1, 0.9, 0.2], [0.1, -0.4, 0.2]], labels=["a", "b"], features=["flow"]
)
SETTINGS = FitSettings(steps=5, sleep_steps=0)
FEW: dict[str, Any] = {
    "draws": 6,
    "state_draws": 3,
    "predictive_draws": 3,
    "prior_draws": 2,
    "forecast": 2,
}


def level(**options: Any) -> LinearGaussianSSM:
    return LinearGaussianSSM(LocalLevel(**options))


def known_pair() -> LinearGaussianSSM:
    """Two components, one feature, everything known."""
    return LinearGaussianSSM(LinearDynamics(2)).with_parameters(
        initial_mean=[0.0, 0.5],
        initial_variance=[1.0, 0.7],
        transition=[[0.8, 0.2], [-0.3, 0.9]],
        process_variance=[0.2, 0.1],
        loading=[[1.0, 0.4]],
        intercept=0.2,
        observation_variance=0.3,
    )


def fitted(model: LinearGaussianSSM, **options: Any) -> Fit:
    guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
    return fit(model, guide, RAGGED, settings=SETTINGS, progress=False, **options)


def each_draw(idata: Any, model: LinearGaussianSSM, name: str) -> list[tuple[Any, Any]]:
    """(draw label, model at its values) of every draw of a group of one chain."""
    posterior = group(idata, "posterior").sel(chain=0)
    return [
        (draw, model.with_parameters(**{str(n): v.values for n, v in here.data_vars.items()}))
        for draw in group(idata, name)["draw"].values
        for here in [posterior.sel(draw=draw)]
    ]


@pytest.mark.parametrize("options", [{}, {"initial_variance": 4.0}], ids=["flat", "proper"])
def test_everything_is_exported_and_equals_a_loop_over_draws(
    options: dict[str, Any], tmp_path: Any
) -> None:
    model = level(**options)
    idata = to_arviz(fitted(model), RAGGED, **FEW)
    write(idata, tmp_path / "fit.nc")
    idata = read(tmp_path / "fit.nc")
    stats, states = group(idata, "sample_stats"), group(idata, "posterior_states")
    inside, seen = RAGGED.step_mask.numpy(), RAGGED.observed_steps.numpy()
    for draw, known in each_draw(idata, model, "posterior"):
        here = stats.sel(chain=0, draw=draw)
        evidence = log_evidence(known, RAGGED)
        np.testing.assert_allclose(here["sequence_log_likelihood"], evidence, rtol=1e-10)
        terms = np.where(seen, step_log_likelihood(known, RAGGED), np.nan)
        np.testing.assert_allclose(here["step_log_likelihood"], terms, rtol=1e-9, atol=1e-12)
    chosen = [known for _, known in each_draw(idata, model, "posterior_states")]
    assert len(chosen) == 3
    found = [smooth(known, RAGGED) for known in chosen]
    means = torch.stack([one.mean for one in found])
    within = torch.stack([one.covariance[..., 0, 0] for one in found]).mean(0)
    expected = (within + means[..., 0].var(0, correction=0)).sqrt().numpy()
    assert states["smoothed_sd"].dims == ("sequence", "time", "component")
    assert states["component"].values.tolist() == ["level"]
    np.testing.assert_allclose(states["smoothed_sd"].values[inside][:, 0], expected[inside])
    np.testing.assert_allclose(states["smoothed_mean"].values[inside], means.mean(0)[inside])
    last = torch.stack([filter(known, RAGGED).mean for known in chosen]).mean(0)
    np.testing.assert_allclose(states["filtered_mean"].values[inside], last[inside])
    assert np.isnan(states["states"].values[..., ~inside, :]).all()
    assert np.isfinite(states["states"].values[..., inside, :]).all()
    names = set(idata.groups() if callable(idata.groups) else idata.children)
    names = {name.strip("/") for name in names}
    assert ("prior_predictive" in names) is bool(options)  # nothing to draw a flat first state from
    replicas = group(idata, "posterior_predictive")["obs"].values
    assert np.isfinite(replicas[..., inside]).all()
    assert group(idata, "predictions")["obs"].dims == ("chain", "draw", "sequence", "ahead")


def test_replications_of_a_flat_law_begin_where_the_data_say() -> None:
    """200 replications of a level near 1000 known to ± 0.1: all first values are within 1.

    The failure rate of a true program is below 1e-15.
    """
    data = Sequences.from_arrays([[1000.0, 1000.1, 999.9]])
    model = level().with_parameters(level_variance=1e-4)
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    start = {"observation_variance": torch.tensor(0.01)}
    settings = FitSettings(steps=1, sleep_steps=0, start=start, parameter_learning_rate=1e-6)
    result = fit(model, guide, data, settings=settings, progress=False)
    options: dict[str, Any] = {"draws": 2, "state_draws": 1, "predictive_draws": 200}
    idata = to_arviz(result, data, prior_draws=1, **options)
    first = group(idata, "posterior_predictive")["obs"].values[..., 0]
    assert np.abs(first - 1000).max() < 1
    assert first.std() > 0.05


def test_draws_of_nuts_are_exported_with_exact_trajectories() -> None:
    model = level(initial_variance=4.0)
    result = nuts(model, RAGGED, chains=2, draws=4, warmup=4, seed=1, progress=False)
    prior = sum(result.model.priors[n].log_prob(v) for n, v in result.draws.items())
    at = {name: float(value[1, 2]) for name, value in result.draws.items()}
    evidence = float(log_evidence(model.with_parameters(**at), RAGGED).sum())
    expected = float(prior[1, 2]) + evidence  # type: ignore[index]
    assert float(result.log_density[1, 2]) == pytest.approx(expected, abs=1e-5)
    idata = to_arviz(result, RAGGED, **FEW)
    states = group(idata, "posterior_states")["states"]
    assert states.sizes["chain"] == 2
    assert states.sizes["component"] == 1
    assert np.isfinite(states.values[..., RAGGED.step_mask.numpy(), :]).all()


def test_weights_of_the_exact_guide_are_the_evidence() -> None:
    """Every trajectory of the exact posterior has the weight p(y)."""
    model = known_pair()
    guide = BeliefGuide(model, ExactFilter())
    found = weighted_evidence(guide, RAGGED, draws=25, seed=3)
    expected = log_evidence(model, RAGGED)
    torch.testing.assert_close(found.log_evidence, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.bound, expected, rtol=1e-9, atol=1e-9)
    assert found.per_step == pytest.approx(float(expected.sum()) / 8)


def test_weights_of_any_guide_lead_to_the_evidence() -> None:
    """20 000 weights of an untrained network: within 0.1 nats; 12 standard errors, seeded."""
    model = known_pair()
    torch.manual_seed(0)
    guide = BeliefGuide(model, LSTMFilter(4))
    found = weighted_evidence(guide, RAGGED, draws=20_000, seed=4)
    expected = log_evidence(model, RAGGED)
    assert bool((found.bound < expected - 0.05).all())  # the network knows nothing yet
    torch.testing.assert_close(found.log_evidence, expected, rtol=0, atol=0.1)
    assert len(found.k_hat) == 2
    assert 0 <= found.reliable_share <= 1


def test_importance_of_a_joint_posterior() -> None:
    """The states summed out, a weight is p(θ) p(y | θ) / q(θ)."""
    model = level(initial_variance=4.0)
    found = importance(fitted(model), RAGGED, draws=30, seed=2)
    assert math.isfinite(found.log_evidence)
    # The exact filter is in the slot: given the parameters, bound and evidence are the same.
    assert found.elbo == pytest.approx(float(found.log_weights.mean()), abs=1e-6)


def test_bad_arguments() -> None:
    guide = BeliefGuide(known_pair(), ExactFilter())
    with pytest.raises(ValueError, match="draws: must be a whole number >= 25, got 3"):
        weighted_evidence(guide, RAGGED, draws=3)
    with pytest.raises(ValueError, match="result: must be a Fit or a guide, got str"):
        weighted_evidence("guide", RAGGED)  # type: ignore[arg-type]
