"""The bee-dance experiment: the score against a full matching, the data, the pieces."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from beliefzoo.experiments.data.loaders import load_bee_dances
from beliefzoo.experiments.series.bee_dance import Settings, _data, _pieces, simulated
from beliefzoo.experiments.series.parts.changes import changes, matched
from beliefzoo.models import Sequences


@pytest.mark.parametrize("seed", range(20))
def test_the_score_pairs_as_many_as_a_full_matching(seed):
    rng = np.random.default_rng(seed)
    found = rng.choice(60, rng.integers(1, 12), replace=False).tolist()
    marked = rng.choice(60, rng.integers(1, 12), replace=False).tolist()
    for tolerance in (0, 2, 7):
        fits = np.abs(np.subtract.outer(found, marked)) <= tolerance
        rows, columns = linear_sum_assignment(fits, maximize=True)
        assert matched(found, marked, tolerance) == fits[rows, columns].sum()


def test_changes_are_the_first_steps_of_new_regimes():
    assert changes([0, 0, 2, 2, 1, 1, 1, 0]) == [2, 4, 7]
    assert changes([1]) == []


def test_pieces_cover_the_data_but_for_short_ends():
    data = Sequences.from_arrays([np.arange(270.0), np.arange(30.0)])
    pieces = _pieces(data, 100)
    assert pieces.lengths.tolist() == [100, 100, 70, 30]
    assert float(pieces.values[2, 0, 0]) == 200


def test_the_simulation_says_where_its_regimes_change():
    data, marks = simulated(Settings(dances=3, frames=200))
    assert data.lengths.tolist() == [200] * 3
    again, _ = simulated(Settings(dances=3, frames=200))
    torch.testing.assert_close(data.values, again.values)
    # 199 steps change with probability .07 · 2/3 each: the mean of three misses 9.3 by 6 once in a
    # thousand seeds, and the seed is fixed.
    assert abs(np.mean([len(each) for each in marks]) - 9.3) < 6


def test_the_dances(shared_data, monkeypatch):
    """Lengths and numbers of marks as the data's description has them."""
    monkeypatch.setenv("BELIEFZOO_DATA", str(shared_data))
    dances, marks = load_bee_dances()
    assert dances.lengths.tolist() == [1057, 1124, 602, 756, 813, 608]
    assert [len(each) for each in marks] == [19, 22, 16, 17, 28, 15]
    steps, shifted = _data(Settings())
    assert steps.lengths.tolist() == [length - 1 for length in dances.lengths.tolist()]
    assert shifted[0][0] == marks[0][0] - 1
    for n, values in enumerate(steps.arrays()):
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(values.std(0), 1, atol=1e-9)
        moved = np.diff(dances.arrays()[n][:, 0])
        assert np.corrcoef(values[:, 0], moved)[0, 1] == pytest.approx(1)
