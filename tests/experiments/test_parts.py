"""What experiments share: records of settings, contenders, a guide beside NUTS."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from beliefzoo.experiments.command.seeds import Repeated
from beliefzoo.experiments.data.loaders import load_english_letters
from beliefzoo.experiments.parts.contenders import NETWORKS, Contender, contenders
from beliefzoo.experiments.parts.text_windows import held_apart
from beliefzoo.experiments.parts.training import GradientSteps, positive
from beliefzoo.experiments.series.parts.bayes import GuideSettings, beside
from beliefzoo.inference import BeliefGuide, MeanFieldGuide
from beliefzoo.models import HiddenMarkovModel


@dataclass(frozen=True)
class Both(GradientSteps, Repeated):
    """Settings of an experiment."""

    steps: int = 2
    batch_size: int = 5


def test_bad_settings_are_named() -> None:
    for rate in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="learning_rate: must be finite and > 0, got"):
            positive(Both(learning_rate=rate), "learning_rate")
    positive(Both(), "learning_rate")


def test_settings_become_those_of_a_fit() -> None:
    how = Both().fit_settings(sleep_steps=3)
    assert (how.steps, how.batch_size, how.learning_rate) == (2, 5, 2e-2)
    assert (how.sleep_steps, how.holdout, how.patience) == (3, 0, None)
    how = GuideSettings().variational(steps=1)
    assert (how.steps, how.particles, how.patience) == (1, 2, None)


def test_beside_by_hand() -> None:
    """One parameter of one number, one of 2 × 2; in numpy, number by number."""
    rng = np.random.default_rng(0)
    gold = {"rate": rng.normal(size=(2, 30)), "table": rng.normal(size=(2, 30, 2, 2))}
    own = {"rate": rng.normal(size=40), "table": rng.normal(size=(40, 2, 2))}
    found = beside(
        {name: torch.from_numpy(x) for name, x in gold.items()},
        {name: torch.from_numpy(x) for name, x in own.items()},
        correction=0,
    )
    flat = gold["rate"].reshape(-1)
    miss = (own["rate"].mean() - flat.mean()) / flat.std()
    assert found["mean_error_in_sd"]["rate"] == pytest.approx(miss)
    assert found["sd_ratio"]["rate"] == pytest.approx(own["rate"].std() / flat.std())
    cells = [(..., i, j) for i, j in np.ndindex(2, 2)]
    entries = [(gold["table"][cell].ravel(), own["table"][cell]) for cell in cells]
    misses = [(b.mean() - a.mean()) / a.std() for a, b in entries]
    assert found["mean_error_in_sd"]["table"] == pytest.approx(misses)
    assert found["mean_error_in_sd_largest"] == pytest.approx(max(map(abs, [miss, *misses])))
    ratios = [b.std() / a.std() for a, b in entries]
    assert found["sd_ratio"]["table"] == pytest.approx(ratios)
    ratios.append(own["rate"].std() / flat.std())
    assert found["sd_ratio_smallest"] == pytest.approx(min(ratios))
    assert found["sd_ratio_largest"] == pytest.approx(max(ratios))


def test_the_table_of_contenders() -> None:
    for network in NETWORKS:
        table = contenders(network)
        assert {one.network for one in table.values()} == {network}
        assert {one.starts_from for one in table.values()} - set(table) == {None}
        assert {one.direction for one in table.values()} == {"forward", "backward", "both"}


def test_contenders_share_their_weights_and_go_on_from_others() -> None:
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1.0, 1.0], scale=[1.0, 1.0]
    )
    data = model.sample(10, 6, seed=0).data
    how = Both(steps=1).fit_settings(learning_rate=1e-12)
    first, second, still = (
        Contender("gru", guide, objective).trained(model, data, how, seed=1, hidden_size=3)
        for guide, objective in (
            (BeliefGuide, "elbo"),
            (MeanFieldGuide, "elbo"),
            (BeliefGuide, None),
        )
    )
    weights = [
        dict(one.filter.named_parameters())["network.weight_hh_l0"] for one in (first, second)
    ]
    torch.testing.assert_close(*weights)
    assert isinstance(second, MeanFieldGuide)
    on = Contender("gru").trained(model, data, how, seed=2, hidden_size=3, start=still.filter)
    assert on.filter is not still.filter
    for name, weight in on.filter.named_parameters():
        torch.testing.assert_close(weight, dict(still.filter.named_parameters())[name])


@pytest.mark.parametrize("length", [10, 40])  # shorter than a passage, and longer
def test_windows_for_training_have_no_passage_of_those_held_out(length: int) -> None:
    """Letter by letter, as strings; and windows are left out for nothing else."""
    train, heldout = held_apart(length, 60, source="pydoc", seed=3)
    assert len(heldout) == 60
    letters = load_english_letters(length)
    whole = letters[(letters.lengths == length).nonzero()[:, 0]]
    written = [bytes(row).hex() for row in heldout.codes().tolist()]
    run = 2 * min(16, length)  # two digits a letter
    said = {row[at : at + run] for row in written for at in range(0, len(row) - run + 1, 2)}

    def shares(row: list[int]) -> bool:
        text = bytes(row).hex()
        return any(text[at : at + run] in said for at in range(0, len(text) - run + 1, 2))

    assert not any(shares(row) for row in train.codes().tolist())
    assert len(train) == sum(not shares(row) for row in whole.codes().tolist())


def test_more_windows_held_out_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heldout: must be in 1 … \d+, got 1000000"):
        held_apart(100, 1_000_000, source="pydoc", seed=0)
