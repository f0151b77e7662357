"""The measures of `related-architectures`: baselines and floors against sums over paths."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.experiments.networks.parts.reference_filters import (
    BlindFilter,
    SteadyGain,
    window_beliefs,
)
from beliefzoo.experiments.networks.parts.spectral_error import spectral_errors
from beliefzoo.experiments.networks.related_architectures import (
    CASES,
    SMOKE,
    Settings,
    baselines,
    compared,
    discrete_predictions,
    heldout,
    measured,
    model_of,
    regret,
    written,
)
from beliefzoo.inference import (
    ExactFilter,
    filter_beliefs,
    log_evidence,
    step_log_likelihood,
    triple_probabilities,
)

SMALL = Settings(**{**SMOKE, "heldout_sequences": 30, "length": 6})


def chain_arrays(laws, sequence):
    length = laws.log_likelihood.shape[1]
    onward = laws.log_transition.expand(len(laws.lengths), length - 1, -1, -1)[sequence].numpy()
    first = laws.log_initial.expand(len(laws.lengths), -1)[sequence].numpy()
    return first, onward, laws.log_likelihood[sequence].numpy()


@pytest.mark.parametrize("case", CASES)
def test_the_exact_filter_regrets_nothing(case):
    figures = measured(SMALL, case, ExactFilter()).figures
    assert figures["regret_per_step"] == pytest.approx(0, abs=1e-12)
    assert figures["kl_filter_per_step"] == pytest.approx(0, abs=1e-12)
    assert figures["parameters"] == 0


def test_regret_is_the_divergence_of_the_predictions():
    """Symbols drawn from p: KL(p ‖ q) within 5 standard errors (1 in 10^6)."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.45, 0.3, 0.25]).double()
    drawn = torch.multinomial(p, 200_000, replacement=True).reshape(-1, 2)
    expected = float((p * (p / q).log()).sum())
    each = (q / p).log()
    spread = float((p * (each.expm1() - each - expected) ** 2).sum()) ** 0.5
    found = regret(p.log()[drawn], q.log()[drawn])
    assert abs(found - expected) < 5 * spread / 100_000**0.5


@pytest.mark.parametrize("size", [1, 2, 6])
def test_window_beliefs_are_those_of_the_windows_sum_over_paths(size):
    model, data = model_of("symbols"), heldout(SMALL, "symbols")
    laws = model.laws({}, data)
    prior = filter_beliefs(laws.log_initial, laws.log_transition, 0 * laws.log_likelihood)
    found = window_beliefs(laws, prior, size).exp().numpy()
    for n in (0, 7):
        first, onward, told = chain_arrays(laws, n)
        for t in range(6):
            seen = told.copy()
            seen[: max(0, t + 1 - size)] = 0
            expected = oracles.posterior(first, onward[:t], seen[: t + 1]).marginals[-1]
            np.testing.assert_allclose(found[n, t], expected, atol=1e-12)


def test_predictions_of_a_belief_are_sums_over_two_states():
    model, data = model_of("input_output"), heldout(SMALL, "input_output")
    laws = model.laws({}, data)
    beliefs = torch.randn(30, 6, 2).double().log_softmax(-1)
    found = discrete_predictions(laws, beliefs)
    for n, t in itertools.product((0, 5), range(1, 6)):
        _, onward, told = chain_arrays(laws, n)
        expected = sum(
            np.exp(float(beliefs[n, t - 1, i]) + onward[t - 1, i, j] + told[t, j])
            for i in range(2)
            for j in range(2)
        )
        assert float(found[n, t].exp()) == pytest.approx(expected, rel=1e-12)


def test_predictions_of_kalmans_beliefs_are_the_evidence():
    model, data = model_of("linear_gaussian"), heldout(SMALL, "linear_gaussian")
    _, told = compared(model, data, ExactFilter()(model.laws({}, data)))
    torch.testing.assert_close(told.sum(-1), log_evidence(model, data))


def test_the_steady_gain_is_where_kalmans_gain_ends():
    s = dataclasses.replace(SMALL, length=200)
    model, data = model_of("linear_gaussian"), heldout(s, "linear_gaussian")
    laws = model.laws({}, data)
    exact, steady = ExactFilter()(laws), SteadyGain(0.95, 0.1, 1.0)(laws)
    torch.testing.assert_close(steady.mean[:, -1], exact.mean[:, -1], atol=1e-8, rtol=0)
    torch.testing.assert_close(steady.variance[:, -1], exact.variance[:, -1], atol=1e-8, rtol=0)


def test_the_blind_filter_averages_over_the_inputs():
    """Fair signs that are not seen: the exact filter of a coin at every step."""
    model, data = model_of("input_output"), heldout(SMALL, "input_output")
    laws = model.laws({}, data)
    blind = BlindFilter()(laws).exp()
    mean = laws.log_transition.exp().mean((0, 1))
    expected = laws.log_initial.exp() * laws.log_likelihood[:, 0].exp()
    expected = expected / expected.sum(-1, keepdim=True)
    for t in range(1, 6):
        expected = (expected @ mean) * laws.log_likelihood[:, t].exp()
        expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(blind[:, -1], expected)


@pytest.mark.parametrize("case", CASES)
def test_baselines_and_what_is_written_lose_something(case):
    """All but the exact filter and the field with the model's own potentials."""
    found = {name: measured(SMALL, case, one).figures for name, one in written(case).items()}
    exact = {"exact_filter", "conditional_random_field_written"}
    for name, figures in (found | baselines(SMALL, case)).items():
        if name in exact:
            assert figures["kl_filter_per_step"] == pytest.approx(0, abs=1e-10)
        else:
            assert figures["kl_filter_per_step"] > 1e-5


def test_the_best_product_keeps_the_marginals_of_the_nodes():
    model, data = model_of("harmonium"), heldout(SMALL, "harmonium")
    laws = model.laws({}, data)
    best = written("harmonium")["best_product_of_nodes"](laws).exp().reshape(30, 6, 2, 2, 2)
    exact = ExactFilter()(laws).exp().reshape(30, 6, 2, 2, 2)
    for kept in ((3, 4), (2, 4), (2, 3)):
        torch.testing.assert_close(best.sum(kept), exact.sum(kept))
    assert bool(step_log_likelihood(model, data).isfinite().all())


def test_errors_of_counting_are_those_of_the_multinomial():
    """E|n̂ / n − p| of a binomial is about √(2 p (1 − p) / (π n)) each (6 % allowed)."""
    sizes, model = (100_000, 1_000_000), model_of("symbols")
    found = spectral_errors(model, sizes, 20, 3, seed=0)["counting"]
    p = triple_probabilities(model).numpy()
    for size in sizes:
        expected = np.sqrt(2 * p * (1 - p) / (np.pi * size)).sum()
        assert found[f"error_at_{size}"] == pytest.approx(expected, rel=0.06)
    assert found["slope"] == pytest.approx(-0.5, abs=0.03)


def test_bad_settings():
    for changes, message in (
        ({"steps": 0}, "steps: must be >= 1"),
        ({"length": 1}, "length: must be >= 2"),
        ({"windows": ()}, "windows: needs whole numbers >= 1"),
        ({"sizes": (0,)}, "sizes: needs whole numbers >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **changes)
