"""Cross-validation over sequences against a conjugate model and loops by hand."""

import math

import joblib
import numpy as np
import pytest
import torch
from scipy import stats

from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, cross_validate, fit
from beliefzoo.models import Categorical, HiddenMarkovModel, Sequences
from conjugate_cases import RATE, SHAPE, as_nuts, exact_draws

COUNTS = np.random.default_rng(1).poisson(4.0, (9, 6))
DATA = Sequences.from_array(COUNTS)
QUIET = {"progress": False}


def most_likely(past):
    """The maximum of the likelihood of one Poisson rate."""
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    return fit(model, guide, past, settings=FitSettings(restarts=1), progress=False)


def closed_form(n, others):
    """log p(y_n | other sequences) by the chain of negative binomial laws."""
    shape, rate, total = SHAPE + others.sum(), RATE + others.size, 0.0
    for y in COUNTS[n]:
        total += stats.nbinom.logpmf(y, shape, rate / (rate + 1))
        shape, rate = shape + y, rate + 1
    return total


def test_one_sequence_after_the_other_agrees_with_the_closed_form():
    found = cross_validate({"rate": exact_draws}, DATA, folds=9, **QUIET)
    by_hand = [closed_form(n, np.delete(COUNTS, n, 0)) for n in range(9)]
    assert sorted(found.folds) == list(range(9))
    assert found.elpd_i["rate"] == pytest.approx(by_hand, abs=0.02)


def test_folds_are_even_and_each_is_predicted_by_the_others():
    found = cross_validate({"ml": most_likely}, DATA, folds=4, seed=3, **QUIET)
    assert sorted(np.bincount(found.folds)) == [2, 2, 2, 3]
    for n in range(9):
        rate = COUNTS[found.folds != found.folds[n]].mean()
        by_hand = stats.poisson.logpmf(COUNTS[n], rate).sum()
        assert found.elpd_i["ml"][n] == pytest.approx(by_hand, abs=1e-4)


def test_the_table_has_differences_with_errors_of_each_sequence():
    models = {"ml": most_likely, "again": most_likely, "rate": exact_draws}
    found = cross_validate(models, DATA, folds=3, **QUIET)
    table = found.table()
    gap = found.elpd_i["rate"] - found.elpd_i["ml"]
    loser = "rate" if gap.sum() < 0 else "ml"
    assert table.loc["ml", "difference"] == table.loc["again", "difference"]
    assert table.loc[loser, "difference"] == pytest.approx(-abs(gap.sum()))
    assert table.loc[loser, "se_difference"] == pytest.approx(3 * gap.std(ddof=1))
    assert table.loc["ml", "se"] == pytest.approx(3 * found.elpd_i["ml"].std(ddof=1))


def test_finished_fits_are_not_fitted_again_and_backends_agree(tmp_path):
    models = {"ml": most_likely}
    first = cross_validate(models, DATA, folds=3, folder=tmp_path, **QUIET)

    def broken(past):
        raise RuntimeError("fitted again")

    again = cross_validate({"ml": broken}, DATA, folds=3, folder=tmp_path, **QUIET)
    assert np.array_equal(first.elpd_i["ml"], again.elpd_i["ml"])
    with pytest.raises(ValueError, match="fitted again"):  # other data are other jobs
        cross_validate({"ml": broken}, DATA[:8], folds=3, folder=tmp_path, **QUIET)
    with joblib.parallel_config(backend="threading"):
        threads = cross_validate(models, DATA, folds=3, workers=2, **QUIET)
    assert threads.elpd_i["ml"] == pytest.approx(first.elpd_i["ml"], abs=1e-12)


def test_a_symbol_that_others_never_saw_is_impossible_at_the_maximum():
    def symbols(past):
        model = HiddenMarkovModel(1, Categorical(3))
        shares = np.bincount(past.codes()[past.mask].numpy(), minlength=3) / past.n_observed
        return as_nuts(model, probs=torch.from_numpy(shares).expand(2, 20, 1, 3))

    data = Sequences.from_array([[0, 1, 0], [1, 0, 2], [0, 0, 1]], codes=True)
    found = cross_validate({"shares": symbols}, data, folds=3, **QUIET)
    assert np.isneginf(found.elpd_i["shares"]).tolist() == [False, True, False]
    assert math.isnan(found.table().loc["shares", "se"])


def test_refusals():
    with pytest.raises(ValueError, match="leave_future_out"):
        cross_validate({"ml": most_likely}, DATA[:1], **QUIET)
    with pytest.raises(ValueError, match="folds: must be at most the 9 sequences"):
        cross_validate({"ml": most_likely}, DATA, **QUIET)
    with pytest.raises(ValueError, match="refits: must map"):
        cross_validate(most_likely, DATA, folds=3, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"refits\['ml'\]: failed by ValueError: refit: must ret"):
        cross_validate({"ml": lambda past: past}, DATA, folds=3, **QUIET)


@pytest.mark.parametrize("seed", [-1, 2**64 - 1])
def test_seeds_are_those_of_fits(seed):
    found = cross_validate({"ml": most_likely}, DATA, folds=2, seed=seed, **QUIET)
    assert np.isfinite(found.elpd_i["ml"]).all()
