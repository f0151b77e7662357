"""fit: what it learns, that it can be killed and resumed, and what it refuses."""

import dataclasses
import errno
import os
import random
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    NonFiniteLossError,
    evidence_gap,
    fit,
    load_fit,
    log_evidence,
    save_fit,
)
from beliefzoo.inference.fitting.run import Run
from beliefzoo.models import Categorical, Gaussian, HiddenMarkovModel, Sequences
from fuzzing import TIMES
from kills import killed

QUICK = FitSettings(steps=6, sleep_steps=2, batch_size=8, evaluate_every=3)


def two_rates(n=24, length=12):
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    truth = model.with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 8.0]
    )
    return model, truth, truth.sample(n, length, seed=0).data


def test_posterior_covers_the_truth():
    """Medians within 4 posterior standard deviations of the parameters that made the data."""
    model, truth, data = two_rates(60, 40)
    guide = BeliefGuide(model, ExactFilter())
    result = fit(
        model, guide, data, settings=FitSettings(steps=250, holdout=0), seed=1, progress=False
    )
    with torch.no_grad():
        draws = [result.guide.draw_parameters().values for _ in range(200)]
    for name in ("transition", "rate"):
        drawn = torch.stack([d[name] for d in draws]).double()
        error = (drawn.mean(0) - truth.known[name]).abs() / drawn.std(0)
        assert float(error.max()) < 4, name
    assert result.losses[-20:].mean() < result.losses[:5].mean()


def test_an_lstm_learns_to_filter():
    """The gap shrinks tenfold from the untrained network; figures of record are experiments."""
    _, truth, data = two_rates(200, 20)
    guide = BeliefGuide(truth, LSTMFilter(8))
    before = evidence_gap(guide, data)
    settings = FitSettings(steps=150, sleep_steps=50, batch_size=50)
    result = fit(truth, guide, data, settings=settings, progress=False)
    after = evidence_gap(result, data)
    assert after.gap_per_step < 0.1 * before.gap_per_step
    assert after.kl_filter_per_step < 0.1 * before.kl_filter_per_step
    assert evidence_gap(guide, data).gap_per_step == before.gap_per_step  # the guide is untouched


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws", "forward_kl"])
@pytest.mark.parametrize("kind", [BeliefGuide, ForwardGuide, MeanFieldGuide])
def test_every_objective_with_every_guide(objective, kind):
    model, _, data = two_rates()
    for parameters in ("normal", "map"):
        guide = kind(model, LSTMFilter(4), parameters=parameters)
        result = fit(model, guide, data, objective=objective, settings=QUICK, progress=False)
        assert bool(result.losses.isfinite().all())
        assert result.evaluations.shape == (2, 2)
        assert result.fitted.known["rate"].shape == (2,)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_generator():
    model, _, data = two_rates()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    guide = BeliefGuide(model, LSTMFilter(4))
    torch.set_rng_state(state)
    runs = [fit(model, guide, data, settings=QUICK, seed=3, progress=False) for _ in range(2)]
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert torch.equal(torch.get_rng_state(), state)
    other = fit(model, guide, data, settings=QUICK, seed=4, progress=False)
    assert not torch.equal(other.losses, runs[0].losses)


def test_resumed_is_identical_to_uninterrupted(tmp_path):
    """A fit stopped by an exception between checkpoints goes on from the last one."""
    model, _, data = two_rates()
    guide = BeliefGuide(model, LSTMFilter(4))
    settings = FitSettings(
        steps=20, sleep_steps=3, batch_size=8, evaluate_every=4, checkpoint_every=5
    )
    whole = fit(model, guide, data, settings=settings, seed=2, progress=False)

    def interrupt(step, _):
        if step == 12:
            raise KeyboardInterrupt

    path = tmp_path / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            guide,
            data,
            settings=settings,
            seed=2,
            progress=False,
            checkpoint=path,
            callback=interrupt,
        )
    resumed = fit(model, guide, data, settings=settings, seed=2, progress=False, checkpoint=path)
    assert torch.equal(resumed.losses, whole.losses)
    assert torch.equal(resumed.evaluations, whole.evaluations)
    for name, value in whole.guide.state_dict().items():
        assert torch.equal(resumed.guide.state_dict()[name], value), name


KILLS = 4 * TIMES


@pytest.mark.cases(KILLS)
@pytest.mark.parametrize("kind", ["gradient steps", "climbs"])
def test_fuzz_killed_fits_continue_to_the_same_numbers(kind, tmp_path):
    """Killed at random moments, often while writing; nothing is left but the checkpoint."""
    model, _, data = two_rates(12, 6)
    settings = replace(QUICK, checkpoint_every=1, restarts=3)
    torch.manual_seed(0)
    guide = BeliefGuide(model, LSTMFilter(3))
    if kind == "climbs":
        guide = BeliefGuide(model, ExactFilter(), parameters="map")
    path, rng = tmp_path / "ck", random.Random(0)

    def run(checkpoint=path):
        return fit(model, guide, data, settings=settings, checkpoint=checkpoint, progress=False)

    whole = run(None)
    began = time.monotonic()
    run(tmp_path / "other")
    duration = time.monotonic() - began
    (tmp_path / "other").unlink()
    for number in range(KILLS):
        killed(run, rng.random() * duration)
        if number % 4 == 3:
            resumed = run()
            assert [one.name for one in tmp_path.iterdir()] == ["ck"]
            assert torch.equal(resumed.losses, whole.losses)
            for name, value in whole.guide.state_dict().items():
                assert torch.equal(resumed.guide.state_dict()[name], value), name
            path.unlink()


@pytest.mark.parametrize("obstacle", ["full", "gone"])
def test_a_checkpoint_that_cannot_be_written_costs_a_warning(obstacle, tmp_path, monkeypatch):
    """And not the result: one warning, however often it is tried."""
    model, _, data = two_rates(12, 6)
    guide = BeliefGuide(model, LSTMFilter(3))
    settings = replace(QUICK, checkpoint_every=1)
    place = tmp_path / "place"
    place.mkdir()
    said = "existing folder"
    if obstacle == "gone":
        monkeypatch.setattr(Run, "_sleep", lambda self: place.rmdir())
    else:
        said = r"Errno 28\] No space left on device: '.*ck'"

        def full(*_):
            raise OSError(errno.ENOSPC, "")

        monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=rf"fit: the checkpoint cannot be written .*{said}") as met:
        found = fit(model, guide, data, settings=settings, checkpoint=place / "ck", progress=False)
    assert len([one for one in met if "cannot be written" in str(one.message)]) == 1
    assert len(found.losses) == settings.steps
    assert not place.exists() or not list(place.iterdir())


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    model, _, data = two_rates()
    path = tmp_path / "fit.pt"
    guide = BeliefGuide(model, LSTMFilter(4))
    fit(model, guide, data, settings=QUICK, checkpoint=path, progress=False)
    content = path.read_bytes()
    for change in (
        {"seed": 1},
        {"objective": "iwae"},
        {"settings": FitSettings(steps=7, sleep_steps=2, batch_size=8, evaluate_every=3)},
        {"data": data[:20]},
        {"guide": BeliefGuide(model, LSTMFilter(5))},
        {"guide": ForwardGuide(model, LSTMFilter(4))},
        {"guide": BeliefGuide(model, LSTMFilter(4))},  # other first weights
    ):
        arguments = {"guide": guide, "data": data, "settings": QUICK, **change}
        with pytest.raises(ValueError, match="belongs to another fit"):
            fit(model, **arguments, checkpoint=path, progress=False)
        assert path.read_bytes() == content
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"fit.pt', whose content does not have its checksum"):
        fit(model, guide, data, settings=QUICK, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match="checkpoint: needs a file in an existing folder"):
        fit(model, guide, data, settings=QUICK, checkpoint=tmp_path / "a" / "b", progress=False)


def test_early_stopping_keeps_the_best_state():
    model, _, data = two_rates(40, 6)
    guide = BeliefGuide(model, LSTMFilter(32), parameters="ml")
    settings = FitSettings(
        steps=400,
        learning_rate=0.05,
        parameter_learning_rate=0.2,
        schedule="constant",
        holdout=0.5,
        evaluate_every=5,
        patience=3,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a dead state is no matter here
        result = fit(model, guide, data, settings=settings, progress=False)
    assert len(result.losses) < 400
    best = result.evaluations[:, 1].argmax()
    assert len(result.evaluations) - 1 - best == 3
    _, heldout = data.split([0.5, 0.5], seed=0)
    laws = model.laws(result.guide.median(), heldout)
    with torch.no_grad():
        bound = float(result.guide.posterior(laws).elbo().sum()) / heldout.n_steps
    assert bound == pytest.approx(float(result.evaluations[best, 1]), abs=1e-6)


@pytest.mark.parametrize(
    ("rate", "steps"), [(0.8, 16), (0.01, 25), (0.8, 1)], ids=["too high", "low", "one step"]
)
def test_without_noise_and_holdout_a_fit_ends_at_the_best_state_it_visited(rate, steps):
    """Lowest loss of all states, the last one too, whose loss is the first of a longer fit."""
    model, _, data = two_rates(10, 20)
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    losses, bounds = [], []
    for n in (steps, steps + 1):
        settings = FitSettings(
            steps=n, method="adam", parameter_learning_rate=rate, schedule="constant", start="prior"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a dead state is no matter here
            result = fit(model, guide, data, settings=settings, seed=4, progress=False)
        losses.append(result.losses)
        bounds.append(float(log_evidence(result.fitted, data).sum()) / data.n_steps)
    assert torch.equal(losses[1][:-1], losses[0])
    assert bounds[0] == pytest.approx(-float(losses[1].min()), rel=1e-5)
    if (rate, steps) == (0.8, 16):
        assert float(losses[0][-1]) > float(losses[0].min()) + 0.01  # it did go astray
    assert bounds[1] >= bounds[0] - 1e-6


def test_a_resumed_fit_ends_at_the_best_state_of_both_halves(tmp_path):
    model, _, data = two_rates(10, 20)
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    settings = FitSettings(
        steps=29,
        method="adam",
        parameter_learning_rate=1.0,
        schedule="constant",
        checkpoint_every=15,
    )
    whole = fit(model, guide, data, settings=settings, progress=False)
    assert int(whole.losses.argmin()) < 25

    def interrupt(step, _):
        raise KeyboardInterrupt

    path = tmp_path / "fit.pt"
    first = dataclasses.replace(settings, evaluate_every=20)
    whole = fit(model, guide, data, settings=first, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            guide,
            data,
            settings=first,
            checkpoint=path,
            callback=interrupt,
            progress=False,
        )
    for _ in range(2):  # resumed, and asked again when it is finished
        again = fit(model, guide, data, settings=first, checkpoint=path, progress=False)
        assert torch.equal(again.losses, whole.losses)
        for name, value in whole.guide.state_dict().items():
            assert torch.equal(again.guide.state_dict()[name], value), name


def test_restarts_keep_the_best_bound():
    model = HiddenMarkovModel(3, Gaussian(1))
    truth = model.with_parameters(
        initial=[1 / 3] * 3,
        transition=np.full((3, 3), 0.1) + 0.7 * np.eye(3),
        mean=[-4.0, 0.0, 4.0],
        scale=[1.0, 1.0, 1.0],
    )
    data = truth.sample(15, 20, seed=0).data
    settings = FitSettings(steps=10, start="prior", restarts=4, restart_steps=30)
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    result = fit(model, guide, data, settings=settings, progress=False)
    assert result.restart_bounds.shape == (4,)
    final = float(log_evidence(result.fitted, data).sum()) / data.n_steps
    assert final > float(result.restart_bounds.median())


class _Broken(ExactFilter):
    def forward(self, laws):
        beliefs = super().forward(laws).clone()
        if "bad" in laws.data.labels:
            beliefs[list(laws.data.labels).index("bad")] = torch.nan
        return beliefs


def test_a_non_finite_loss_names_step_site_and_sequence(tmp_path):
    model, _, data = two_rates(3, 5)
    named = Sequences.from_tensors(data.values, labels=["fine", "bad", "well"])
    guide = BeliefGuide(model, _Broken())
    with pytest.raises(
        NonFiniteLossError, match=r"step 0, site 'states', sequence 'bad'"
    ) as caught:
        fit(model, guide, named, settings=QUICK, progress=False)
    last = caught.value.last_good
    assert all(bool(v.isfinite().all()) for v in last.fitted.known.values())


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws", "forward_kl"])
def test_minibatches_of_sequences_of_which_nothing_was_seen(objective):
    model = HiddenMarkovModel(2, "poisson")
    data = Sequences.from_arrays([[1, 9, 8, 2], [np.nan] * 3, [np.nan], [2, 8]])
    guide = BeliefGuide(model, LSTMFilter(3))
    settings = FitSettings(steps=4, batch_size=1, sleep_steps=4, evaluate_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a dead state is no matter here
        result = fit(model, guide, data, objective=objective, settings=settings, progress=False)
    assert bool(result.losses.isfinite().all())


def test_dead_states_are_named():
    model = HiddenMarkovModel(2, "poisson")
    data = Sequences.from_arrays([[1, 2, 1, 0, 2, 1]] * 4)
    start = {
        "rate": torch.tensor([1.2, 5000.0]),
        "initial": torch.tensor([0.999, 0.001]),
        "transition": torch.tensor([[0.999, 0.001], [0.9, 0.1]]),
    }
    settings = FitSettings(
        steps=1, sleep_steps=0, start=start, learning_rate=1e-6, parameter_learning_rate=1e-6
    )
    guide = BeliefGuide(model, LSTMFilter(2, reads="likelihoods"))
    with torch.no_grad():  # a belief that state 1 is out of the question
        for weight in guide.filter_modules():
            weight.zero_()
        guide.filter.head.bias.copy_(torch.tensor([10.0, -10.0]))
    with pytest.warns(UserWarning, match=r"states \[1\] are hardly ever visited"):
        fit(model, guide, data, settings=settings, progress=False)


def test_one_state_one_sequence_one_step():
    for model, data in (
        (HiddenMarkovModel(1, "poisson"), Sequences.from_arrays([[3, 4, 2]])),
        (HiddenMarkovModel(2, "gaussian"), Sequences.from_arrays([[0.3, 0.1]])),
        (HiddenMarkovModel(1, Categorical(2)), Sequences.from_arrays([[1]], codes=True)),
        (HiddenMarkovModel(2, "poisson"), Sequences.from_arrays([[3, 4], [np.nan, np.nan]])),
    ):
        for filt in (ExactFilter(), LSTMFilter(3)):
            result = fit(model, BeliefGuide(model, filt), data, settings=QUICK, progress=False)
            assert bool(result.losses.isfinite().all())
            assert evidence_gap(result, data).gap_per_step >= -1e-9


@pytest.mark.parametrize(
    "filt", [ExactFilter(), LSTMFilter(4, gain=3), LSTMFilter(4, reads="both")]
)
@pytest.mark.parametrize("uncertainty", ["normal", "multivariate", "map", "ml"])
def test_saved_fits_come_back(tmp_path, filt, uncertainty):
    model, _, data = two_rates(4, 6)
    guide = BeliefGuide(model, filt, parameters=uncertainty)
    result = fit(model, guide, data, settings=QUICK, progress=False)
    path = save_fit(result, tmp_path / "fit.bz")
    before = torch.random.get_rng_state()
    again = load_fit(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.settings == result.settings
    assert again.seed == result.seed
    assert torch.equal(again.losses, result.losses)
    for name, value in result.fitted.known.items():
        assert torch.equal(again.fitted.known[name], value)
    ours, theirs = evidence_gap(result, data), evidence_gap(again, data)
    assert torch.equal(ours.elbo, theirs.elbo)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="checksum"):
        load_fit(tmp_path / "cut")


def test_bad_arguments():
    model, _, data = two_rates(4, 5)
    guide = BeliefGuide(model, LSTMFilter(4))
    other = HiddenMarkovModel(2, "poisson")
    known = model.with_parameters(initial=[0.5, 0.5], transition=[[0.5, 0.5]] * 2, rate=[1.0, 2.0])
    cases = [
        ((other, guide, data), {}, r"object that looks alike.* fit\(guide.model, guide, …\)"),
        ((HiddenMarkovModel(3, "poisson"), guide, data), {}, "got one for HiddenMarkovModel"),
        ((model, "guide", data), {}, "guide: must be a guide, for instance"),
        (
            (model, guide, data.values),
            {},
            "data: must be Sequences or a SequenceFolder, got Tensor",
        ),
        ((model, guide, data), {"objective": "em"}, "got 'em'"),
        ((model, guide, data), {"callback": "print"}, "callback: must be a function of step"),
        ((model, guide, data), {"checkpoint": "."}, r"checkpoint: needs a file .*, got '\.'"),
        ((model, guide, Sequences.from_arrays([[-1.0, 2.0]])), {}, "whole numbers >= 0"),
        ((model, guide, Sequences.from_arrays([[1]])), {}, "2 states need at least as many"),
        ((known, BeliefGuide(known, ExactFilter()), data), {}, "nothing to fit"),
        (
            (model, BeliefGuide(model, ExactFilter()), data),
            {"objective": "rws"},
            "trains a network, got ExactFilter",
        ),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(*arguments, progress=False, **options)
