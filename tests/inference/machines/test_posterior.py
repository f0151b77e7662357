"""The posterior of a machine's parameters, of a known machine in the network's place."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from beliefzoo.inference import FitSettings, load_machine, machine_of, to_arviz
from beliefzoo.inference.arviz_groups import Idata, group
from beliefzoo.inference.machines.machine import Machine
from beliefzoo.inference.machines.posterior import masked, posterior
from beliefzoo.models import LabelledHMM, Sequences, golden_mean

FEW = FitSettings(steps=30, parameter_learning_rate=3e-3)  # it begins at the curvature


@pytest.fixture(scope="module")
def found() -> Machine:
    return machine_of(golden_mean(), samples=30, restarts=0)


def free_row(idata: Idata) -> np.ndarray:
    """Draws (draw, symbol) of the state that emits both symbols; the other emits one alone."""
    probs = group(idata, "posterior")["probs"].values[0]
    (free,) = np.flatnonzero(probs.min((0, 2)) > 0)
    assert np.allclose(np.sort(probs[:, 1 - free]), [0, 1])
    return probs[:, free]


def test_the_posterior_is_that_of_counting(found: Machine) -> None:
    """State and symbol determine the next state, so that the posterior is a Dirichlet law."""
    idata = found.to_arviz(sequences=100, length=12, draws=600, settings=FEW, seed=3)
    posterior = group(idata, "posterior")
    assert posterior["probs"].dims == ("chain", "draw", "state", "symbol")
    assert dict(posterior.sizes)["draw"] == 600
    assert "transition" not in posterior  # the zeros leave one move
    draws = free_row(idata)
    # One symbol says that the state after it is not the free one, the other that it is.
    codes = group(idata, "observed_data")["obs"].values
    forced = next(x for x in (0, 1) if not ((codes[:, :-1] == x) & (codes[:, 1:] == x)).any())
    told = codes[:, 1:][codes[:, :-1] != forced]
    a, b = 1 + (told == 0).sum(), 1 + (told == 1).sum()
    assert draws[:, 0].mean() == pytest.approx(a / (a + b), abs=0.01)
    width = math.sqrt(a * b / (a + b + 1)) / (a + b)
    assert draws[:, 0].std() == pytest.approx(width, rel=0.15)


def test_intervals_hold_the_truth(found: Machine) -> None:
    """Of five intervals of 90 % three or more do, with probability .991."""
    few = FitSettings(steps=5, parameter_learning_rate=3e-3)
    every = [
        free_row(found.to_arviz(sequences=20, length=8, draws=200, settings=few, seed=seed))[:, 0]
        for seed in range(5)
    ]
    low, high = np.quantile(every, [0.05, 0.95], axis=1)
    assert ((low < 0.5) & (high > 0.5)).sum() >= 3


def test_more_sequences_narrow_it_and_seeds_repeat(found: Machine) -> None:
    few, again, many = (
        found.to_arviz(sequences=n, length=8, draws=300, settings=FEW, seed=1)
        for n in (20, 20, 180)
    )
    assert np.array_equal(free_row(few), free_row(again))
    ratio = free_row(few)[:, 0].std() / free_row(many)[:, 0].std()
    assert ratio == pytest.approx(3, rel=0.3)
    said = json.loads(many.attrs["machine"])
    assert (said["states"], said["sequences"], said["length"]) == (2, 180, 8)
    assert said["kl_by_states"] == list(found.curve)


def test_chains_of_nuts_are_exported_too(found: Machine) -> None:
    idata = found.to_arviz(sequences=5, length=6, draws=4, sampler="nuts")
    assert dict(group(idata, "posterior").sizes)["chain"] == 2


def test_what_a_sequence_needs_is_not_cut() -> None:
    tables = [[[0.0, 0.005], [0.5, 0.0]], [[0.995, 0.0], [0.0, 0.5]]]
    hmm = LabelledHMM.from_tables([1.0, 0.0], tables)
    without = Sequences.from_arrays([[1, 1, 1]], codes=True)
    cut = masked(hmm, without, 0.01)
    assert cut.tolerance == 0.01
    assert cut.model.allowed is not None
    assert not bool(cut.model.allowed[0, 0].any())
    assert torch.equal(cut.model.known["initial"], torch.tensor([1.0, 0.0]).double())
    kept = masked(hmm, Sequences.from_arrays([[1, 0, 1]], codes=True), 0.01)
    assert kept.tolerance == 0.001
    assert kept.model.allowed is not None
    assert bool(kept.model.allowed[0, 0, 1])


def test_what_the_zeros_decide_is_the_same_in_every_draw() -> None:
    tables = torch.zeros(2, 3, 3, dtype=torch.float64)  # symbol, state, next state
    tables[0] = torch.tensor([[0.3, 0.3, 0.0], [0.0, 0.0, 0.5], [0.4, 0.0, 0.1]])
    tables[1] = torch.tensor([[0.1, 0.1, 0.2], [0.5, 0.0, 0.0], [0.0, 0.0, 0.5]])
    tables[1, 2], tables[0, 2] = 0.0, torch.tensor([0.7, 0.0, 0.3])  # which never says symbol 1
    law = LabelledHMM.from_tables([0.4, 0.3, 0.3], tables)
    data = law.sample(20, 10, seed=0).data
    result = posterior(
        masked(law, data, 0.01), data, sampler="normal", draws=10, settings=FEW, seed=0
    )
    exported = to_arviz(result, data, draws=10, seed=0)
    moves = tables > 0
    one, none = moves.sum(-1) == 1, moves.sum(-1) == 0
    for name in ("posterior", "prior"):
        draws = group(exported, name)
        moved = draws["transition"].values[0]
        assert np.all(moved[:, ~(moves | none.unsqueeze(-1))] == 0)
        assert np.all(moved[:, one.unsqueeze(-1) & moves] == 1)
        assert np.all(draws["probs"].values[0, :, 2] == [1, 0])
        free = (moves & ~one.unsqueeze(-1)).numpy()
        assert moved[:, free].min() > 0
        assert moved[:, free].std(0).min() > 0


def test_bad_input(found: Machine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^found: needs the network"):
        load_machine(found.save(tmp_path / "machine.pt")).to_arviz()
    with pytest.raises(ValueError, match=r"^refine: must be True"):
        machine_of(golden_mean(), samples=20, refine=False).to_arviz()
    with pytest.raises(ValueError, match=r"^sequences: must be a whole number"):
        found.to_arviz(sequences=0)
    with pytest.raises(ValueError, match=r"^tolerance: must be in \[0, 1\)"):
        found.to_arviz(tolerance=1.0)
    with pytest.raises(ValueError, match=r"^sampler: must be"):
        found.to_arviz(sampler="gibbs")  # type: ignore[arg-type]
