"""Point estimates reach the known maximum, in any unit, or say that they have not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ConvergenceWarning,
    ExactFilter,
    Fit,
    FitSettings,
    LSTMFilter,
    fit,
    load_fit,
    log_evidence,
    save_fit,
)
from beliefzoo.models import (
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    Model,
    Sequences,
)

NILE = [
    *(1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960),
    *(1180, 799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694),
    *(940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764),
    *(821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822),
    *(1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918),
    *(986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740),
]


QUAKES = [
    *(13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14),
    *(23, 18, 17, 19, 20, 22, 19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27),
    *(35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34, 10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30),
    *(27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6, 11, 8, 7, 18, 16, 13),
    *(12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11),
]


def estimate(model: Model, data: Sequences, uncertainty: str = "ml", **settings: object) -> Fit:
    guide = BeliefGuide(model, ExactFilter(), parameters=uncertainty)
    return fit(model, guide, data, settings=FitSettings(**settings), seed=0, progress=False)


def reached(result: Fit, data: Sequences) -> float:
    return float(log_evidence(result.fitted, data).sum())


def two_states(n: int = 300) -> np.ndarray:
    """Means ±1, standard deviation .5, probability .9 to stay."""
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.random(n) < 0.1) % 2
    return np.where(states, 1.0, -1.0) + 0.5 * rng.standard_normal(n)


# Published maxima


@pytest.mark.parametrize("unit", [1.0, 1e-7, 1e7])
def test_daily_returns(shared_data, unit):
    """hmmlearn, best of 6 on y / sd: 1402.37 (statsmodels #5380)."""
    data = Sequences.from_arrays([unit * np.loadtxt(shared_data / "reports" / "returns_212.csv")])
    result = estimate(HiddenMarkovModel(2, "gaussian"), data)
    assert reached(result, data) + 212 * math.log(unit) == pytest.approx(1402.37286, abs=1e-3)
    assert result.converged
    assert result.gradient_norm < 0.1


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6])
def test_nile(unit):
    """Durbin & Koopman (2012): 15099 and 1469.1."""
    data = Sequences.from_arrays([unit * np.array(NILE, dtype=np.float64)])
    known = estimate(LinearGaussianSSM(LocalLevel()), data).fitted.known
    assert float(known["observation_variance"]) / unit**2 == pytest.approx(15099, abs=1)
    assert float(known["level_variance"]) / unit**2 == pytest.approx(1469.1, abs=0.3)


# Maxima in closed form


def test_a_state_alone_has_the_moments_of_the_data():
    y = 1e8 + np.random.default_rng(0).normal(size=50)
    data = Sequences.from_arrays([y])
    known = estimate(HiddenMarkovModel(1, "gaussian"), data).fitted.known
    assert float(known["mean"] - 1e8) == pytest.approx(y.mean() - 1e8, abs=1e-5)
    assert float(known["scale"]) == pytest.approx(y.std(), rel=1e-4)


def test_a_maximum_at_the_boundary_is_reached_within_the_tolerance():
    """States that are observed: the maximum has the shares of the moves, with two zeros."""
    rng, path = np.random.default_rng(1), [0]
    table = np.array([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7], [0.6, 0.2, 0.2]])
    for _ in range(400):
        path.append(int(rng.choice(3, p=table[path[-1]])))
    data = Sequences.from_arrays([path], codes=True)
    model = HiddenMarkovModel(3, Categorical(3)).with_parameters(probs=np.eye(3))
    counts = np.zeros((3, 3))
    np.add.at(counts, (path[:-1], path[1:]), 1)
    shares = counts / counts.sum(-1, keepdims=True)
    best = (counts[counts > 0] * np.log(shares[counts > 0])).sum()
    result = estimate(model, data)
    assert reached(result, data) == pytest.approx(best, abs=1e-4)
    assert result.converged


# Units and offsets


@pytest.mark.parametrize(("unit", "offset"), [(1e-9, 0.0), (1e9, 0.0), (1e-2, 7.0), (1.0, 1e8)])
@pytest.mark.parametrize("uncertainty", ["ml", "map"])
def test_a_fit_moves_with_the_unit(unit, offset, uncertainty):
    y = two_states()
    found = []
    for data in (Sequences.from_arrays([y]), Sequences.from_arrays([unit * y + offset])):
        result = estimate(HiddenMarkovModel(2, "gaussian", ordered=True), data, uncertainty)
        found.append((reached(result, data), result.fitted.known))
    (own, here), (moved, there) = found
    assert moved + 300 * math.log(unit) == pytest.approx(own, abs=1e-3)
    torch.testing.assert_close((there["mean"] - offset) / unit, here["mean"], atol=1e-2, rtol=0)
    torch.testing.assert_close(there["scale"] / unit, here["scale"], atol=1e-2, rtol=0)


def test_states_sorted_by_a_column_move_with_the_unit():
    """Log differences in that column have none, all other entries have that of their feature."""
    y = np.stack([two_states(), two_states()], -1) + np.random.default_rng(3).normal(size=(300, 2))
    units, found = np.array([1e3, 1e-6]), []
    for data in (Sequences.from_arrays([y]), Sequences.from_arrays([units * y])):
        model = HiddenMarkovModel(2, Gaussian(2), ordered=("mean", 0))
        result = estimate(model, data)
        assert result.converged
        found.append((reached(result, data), result.fitted.known["mean"]))
    (own, here), (moved, there) = found
    assert moved + 300 * np.log(units).sum() == pytest.approx(own, abs=1e-3)
    torch.testing.assert_close(there / torch.tensor(units), here, atol=1e-2, rtol=0)


def test_a_posterior_moves_with_the_unit():
    y = two_states(60)
    found = []
    for unit in (1.0, 1e-6):
        data = Sequences.from_arrays([unit * y])
        model = HiddenMarkovModel(2, "gaussian", ordered=True)
        result = estimate(model, data, "multivariate", steps=60, restarts=1)
        draws = result.guide.draw_parameters(400).values
        found.append((result.k_hat, draws["mean"].mean(0) / unit, draws["mean"].std(0) / unit))
    for own, moved in zip(*found, strict=True):
        torch.testing.assert_close(moved, own, rtol=0.2, atol=0.05)


# Endings


def test_a_likelihood_without_bound_is_named():
    """Twenty equal numbers: a state that sits on them has any likelihood, which is no maximum."""
    y = np.concatenate([np.full(20, 3.0), np.random.default_rng(0).normal(size=40)])
    data = Sequences.from_arrays([y])
    with pytest.warns(ConvergenceWarning, match=r"unbounded: .*scale\[[01]\] → 0"):
        result = estimate(HiddenMarkovModel(2, "gaussian"), data)
    assert (result.why_ended, result.converged) == ("unbounded", False)


def test_what_belongs_at_zero_does_not_hide_the_maximum():
    """Earthquakes, m = 4 (Zucchini & MacDonald 2009): −log L 327.8316 with a stationary start."""
    data = Sequences.from_arrays([QUAKES])
    result = estimate(HiddenMarkovModel(4, "poisson", initial="stationary"), data)
    assert reached(result, data) == pytest.approx(-327.8316, abs=1e-3)
    assert result.converged


def test_steps_that_are_used_up_are_no_convergence():
    data = Sequences.from_arrays([two_states()])
    result = estimate(HiddenMarkovModel(2, "gaussian"), data, steps=3)
    assert result.why_ended == "steps used up"
    assert not result.converged


def test_an_interrupted_climb_is_walked_again(tmp_path):
    data = Sequences.from_arrays([two_states()])
    model = HiddenMarkovModel(2, "gaussian")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    settings = FitSettings(checkpoint_every=7, evaluate_every=10)
    whole = fit(model, guide, data, settings=settings, progress=False)

    def interrupt(step, _):
        if step == 20:
            raise KeyboardInterrupt

    path = tmp_path / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            guide,
            data,
            settings=settings,
            checkpoint=path,
            callback=interrupt,
            progress=False,
        )
    for _ in range(2):  # continued, and asked again when it is finished
        again = fit(model, guide, data, settings=settings, checkpoint=path, progress=False)
        assert torch.equal(again.losses, whole.losses)
        for name, value in whole.guide.state_dict().items():
            assert torch.equal(again.guide.state_dict()[name], value), name


def test_the_ending_is_saved(tmp_path):
    data = Sequences.from_arrays([two_states(60)])
    result = estimate(HiddenMarkovModel(2, "gaussian"), data)
    again = load_fit(save_fit(result, tmp_path / "fit.pt"))
    assert (again.converged, again.why_ended) == (result.converged, result.why_ended)
    assert again.gradient_norm == result.gradient_norm
    assert torch.equal(again.curvature, result.curvature)


def test_lbfgs_is_refused_where_it_cannot_be_used():
    data = Sequences.from_arrays([two_states(60)])
    model = HiddenMarkovModel(2, "gaussian")
    guide = BeliefGuide(model, LSTMFilter(4), parameters="ml")
    with pytest.raises(
        ValueError, match=r"settings.method: 'lbfgs' needs a BeliefGuide with Exact"
    ):
        fit(model, guide, data, settings=FitSettings(method="lbfgs"), progress=False)


def test_lbfgs_leaves_no_sequences_out():
    """Held-out sequences are for early stopping, which it does not do: it would just miss them."""
    data = Sequences.from_arrays(two_states(60).reshape(20, 3))
    model = HiddenMarkovModel(1, "gaussian")
    with pytest.raises(ValueError, match=r"none held out; got .* settings.holdout=0.5"):
        estimate(model, data, method="lbfgs", holdout=0.5)
    assert len(estimate(model, data, steps=2, holdout=0.5).evaluations) == 1
    assert estimate(model, data[:19], holdout=0.5).converged  # too few to hold any out


def test_settings_of_another_kind_are_refused():
    data, model = Sequences.from_arrays([two_states(60)]), HiddenMarkovModel(1, "gaussian")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    with pytest.raises(ValueError, match=r"settings: must be FitSettings, got {'steps': 3}"):
        fit(model, guide, data, settings={"steps": 3}, progress=False)


def test_single_precision_is_refused_far_from_zero():
    data = Sequences.from_arrays([1e8 + two_states(60)])
    model = HiddenMarkovModel(2, "gaussian")
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    settings = FitSettings(steps=2, precision="single")
    with pytest.raises(ValueError, match="'single' needs data within 1000 standard deviations"):
        fit(model, guide, data, settings=settings, progress=False)


@pytest.mark.parametrize(
    ("states", "height", "aic", "bic"),
    [(1, -305.3309, 614.66, 622.83), (2, -88.7308, 191.46, 220.05)],
)
def test_published_response_times_are_reached(shared_data, states, height, aic, bic):
    """depmixS4's ``speed``, response times alone, as one series of 439 trials."""
    table = np.genfromtxt(shared_data / "reports" / "speed.csv", delimiter=",", names=True)
    data = Sequences.from_arrays([table["rt"]])
    result = estimate(HiddenMarkovModel(states, "gaussian"), data)
    assert height - 1e-4 <= reached(result, data) <= height + 3e-4  # EM ended a little below
    facts = dict(result.summary().facts)
    assert (float(facts["AIC"]), float(facts["BIC"])) == pytest.approx((aic, bic), abs=5e-3)


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_a_transition_follows_inputs_in_any_unit(shared_data, unit):
    """depmixS4's ``speed``: −44.1995 with transition ~ scale(Pacc), one series of 439."""
    table = np.genfromtxt(shared_data / "reports" / "speed.csv", delimiter=",", names=True)
    payoff = (table["Pacc"] - table["Pacc"].mean()) / table["Pacc"].std(ddof=1)
    data = Sequences.from_arrays([table["rt"]], inputs=[unit * payoff])
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1))
    result = estimate(model, data)
    assert reached(result, data) == pytest.approx(-44.1995, abs=1e-4)
    assert result.extent.parameters == 9
    assert dict(result.summary().facts)["AIC"] == "106.40"
