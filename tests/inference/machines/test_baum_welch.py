"""Baum–Welch beside sums over all paths, hmmlearn's rule and conjugate counts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.inference import baum_welch, log_evidence
from beliefzoo.models import (
    Categorical,
    HiddenMarkovModel,
    LabelledHMM,
    Sequences,
    as_strings,
)

WORDS = [[0, 1, 1], [1], [], [0, 0, 1, 0], [1, 1]]


def machine(seed: int) -> LabelledHMM:
    torch.manual_seed(seed)
    model = LabelledHMM(2, 2, ends=True)
    return model.with_parameters(**{n: p.sample() for n, p in model.priors.items()})


def counted(model: LabelledHMM, words: list[list[int]]) -> dict[str, np.ndarray]:
    """Expected counts by a sum over all paths, one entry after the other."""
    initial, joint, end = (x.numpy() for x in model.tables())  # type: ignore[union-attr]
    out = {"initial": np.zeros(2), "probs": np.zeros((2, 3)), "transition": np.zeros((2, 2, 2))}
    for word in words:
        paths = list(itertools.product(range(2), repeat=len(word) + 1))
        chances = []
        for path in paths:
            chance = initial[path[0]] * end[path[-1]]
            for t, x in enumerate(word):
                chance *= joint[x, path[t], path[t + 1]]
            chances.append(chance)
        for path, weight in zip(paths, np.array(chances) / sum(chances), strict=True):
            out["initial"][path[0]] += weight
            out["probs"][path[-1], 2] += weight
            for t, x in enumerate(word):
                out["probs"][path[t], x] += weight
                out["transition"][x, path[t], path[t + 1]] += weight
    return out


def shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / counts.sum(-1, keepdims=True))


def test_a_step_is_the_shares_of_expected_counts() -> None:
    start, data = machine(3), as_strings(WORDS, 2)
    model = LabelledHMM(2, 2, ends=True)
    counts = counted(start, WORDS)
    for estimate, extra in (("ml", 0.0), ("map", 1.5)):
        model = LabelledHMM(
            2, 2, ends=True, concentration=1 + extra, symbol_concentration=1 + extra
        )
        found = baum_welch(model, data, start=start, steps=1, estimate=estimate).model
        for name in ("probs", "transition"):
            expected = shares(counts[name] + extra)
            np.testing.assert_allclose(found.known[name], expected, atol=1e-12)
    whole = baum_welch(model, data, start=start, steps=1, estimate="variational")
    assert whole.evidence[0] == pytest.approx(float(log_evidence(start, data).sum()), abs=1e-12)


def test_weights_are_copies() -> None:
    data, model = as_strings(WORDS, 2), LabelledHMM(2, 2, ends=True)
    twice = as_strings([*WORDS, *WORDS[:2], WORDS[0]], 2)
    one = baum_welch(model, data, weights=[3, 2, 1, 1, 1], start=machine(1), steps=5)
    other = baum_welch(model, twice, start=machine(1), steps=5)
    np.testing.assert_allclose(one.evidence, other.evidence, rtol=1e-12)
    for name, value in one.model.known.items():
        torch.testing.assert_close(value, other.model.known[name], rtol=0, atol=1e-12)


def test_chances_of_another_law_lead_to_it() -> None:
    """A law of four strings, each weighted by its chance: the divergence goes to zero."""
    data = as_strings([[], [0], [0, 1], [1]], 2)
    chance = torch.tensor([0.2, 0.3, 0.2, 0.3], dtype=torch.float64)
    model = LabelledHMM(3, 2, ends=True)
    found = [
        baum_welch(model, data, weights=chance, estimate="ml", steps=600, gain=1e-12, seed=seed)
        for seed in range(2)
    ]
    gaps = [float((chance * (chance.log() - log_evidence(one.model, data))).sum()) for one in found]
    assert 0 <= min(gaps) + 1e-12 < 1e-4


@pytest.mark.parametrize("estimate", ["ml", "map"])
def test_the_objective_never_falls(estimate: str) -> None:
    model = LabelledHMM(3, 2, ends=True)
    data = machine(0).sample(200, 20, seed=0).data
    found = baum_welch(model, data, estimate=estimate, steps=60)  # type: ignore[arg-type]
    assert bool((np.diff(found.evidence) > -1e-9).all())
    exact = float(log_evidence(found.model, data).sum())
    assert exact == pytest.approx(found.evidence[-1], abs=1e-9)


def test_a_single_state_is_conjugate() -> None:
    """Its posterior is Dirichlet, and variational Bayes gives its mean."""
    data = as_strings(WORDS, 2)
    model = LabelledHMM(1, 2, ends=True, symbol_concentration=0.5)
    found = baum_welch(model, data, estimate="variational").model
    counts = np.array([4, 6, 5]) + 0.5
    np.testing.assert_allclose(found.known["probs"][0], counts / counts.sum(), atol=1e-12)


def test_a_small_pseudo_count_leaves_few_moves() -> None:
    truth = LabelledHMM.from_tables([1, 0], [[[0, 0.5], [0, 0]], [[0.3, 0], [0.7, 0]]], [0.2, 0.3])
    data = truth.sample(500, 40, seed=0).data
    model = LabelledHMM(4, 2, ends=True, concentration=0.1, symbol_concentration=0.1)
    found = baum_welch(model, data, estimate="variational", seed=1).model
    fresh = truth.sample(4000, 40, seed=1).data
    excess = float((log_evidence(truth, fresh) - log_evidence(found, fresh)).mean())
    # 2 states of 2 free numbers each: on average 4 / 1000 nats; five times that, 1 in 10^3.
    assert excess < 0.02


def test_hmmlearn_takes_the_same_steps() -> None:
    hmmlearn = pytest.importorskip("hmmlearn.hmm", reason="comes with an extra")
    rng = np.random.default_rng(0)
    first, moves, told = (rng.dirichlet(np.ones(n), m) for n, m in ((2, 1), (2, 2), (3, 2)))
    model = HiddenMarkovModel(2, Categorical(3))
    start = model.with_parameters(initial=first[0], transition=moves, probs=told)
    words = [rng.integers(0, 3, n) for n in (4, 7, 1, 5)]
    found = baum_welch(
        model, Sequences.from_arrays(words, codes=True), start=start, steps=6, gain=1e-14
    )
    peer = hmmlearn.CategoricalHMM(2, n_iter=6, tol=0, init_params="", n_features=3)
    peer.startprob_, peer.transmat_, peer.emissionprob_ = first[0], moves, told
    peer.fit(np.concatenate(words)[:, None], [len(word) for word in words])
    np.testing.assert_allclose(found.model.known["transition"], peer.transmat_, atol=1e-10)
    np.testing.assert_allclose(found.model.known["probs"], peer.emissionprob_, atol=1e-10)


@pytest.mark.parametrize("estimate", ["ml", "map", "variational"])
def test_of_several_starts_the_highest_counts(estimate: str) -> None:
    """Their heights beside those of the same starts one by one."""
    data = machine(0).sample(40, 12, seed=0).data
    more = 0.5 if estimate == "map" else -0.5
    model = LabelledHMM(3, 2, ends=True, concentration=1 + more, symbol_concentration=1 + more)
    some: dict[str, Any] = {"estimate": estimate, "steps": 20}
    found = baum_welch(model, data, restarts=3, seed=4, **some)
    each = [baum_welch(model, data, restarts=1, seed=4 + 7919 * n, **some) for n in range(3)]
    heights = sorted((one.heights[0] for one in each), reverse=True)
    np.testing.assert_allclose(found.heights, heights, rtol=1e-12)
    best = max(each, key=lambda one: one.heights[0])
    assert found.evidence == best.evidence
    assert "3, the second best" in str(found)


def test_a_height_is_the_density_or_its_lower_bound() -> None:
    """Of one state the bound is log p(x), a ratio of Dirichlet constants."""
    data = as_strings(WORDS, 2)
    counts, prior = torch.tensor([4.0, 6, 5]).double(), torch.full((3,), 0.5).double()
    bound = baum_welch(
        LabelledHMM(1, 2, ends=True, symbol_concentration=0.5), data, estimate="variational"
    ).heights[0]
    exact = [x.lgamma().sum() - x.sum().lgamma() for x in (counts + prior, prior)]
    assert bound == pytest.approx(float(exact[0] - exact[1]), abs=1e-9)
    found = baum_welch(LabelledHMM(1, 2, ends=True, symbol_concentration=2.0), data, estimate="map")
    told = found.model.known["probs"][0]
    np.testing.assert_allclose(told, (counts + 1) / 18, atol=1e-12)
    density = float(((counts + 1) * told.log()).sum())
    assert found.heights[0] == pytest.approx(density, abs=1e-9)


def test_a_slow_fit_has_not_settled() -> None:
    """Gains below the one asked for are no end where they shrink slowly."""
    data = machine(0).sample(200, 12, seed=0).data
    model = LabelledHMM(4, 2, ends=True)
    short = baum_welch(model, data, estimate="ml", restarts=1, steps=40, gain=1e-3)
    last = short.evidence[-1] - short.evidence[-2]
    assert last < 1e-3 * 200
    assert not short.settled
    assert "or more: try more steps" in str(short)
    long = baum_welch(model, data, estimate="ml", restarts=1, steps=3000, gain=5e-5)
    left = long.evidence[-1] - short.evidence[-1]
    assert left > 10 * last
    assert short.left > 0.02 * left
    assert long.settled
    assert long.left < 5e-5 * 200


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("weights: needs one number a sequence, 5, got .1,.", {"weights": [1.0]}),
        ("estimate: must be", {"estimate": "bayes"}),
        ("start: needs the same model with", {"start": LabelledHMM(2, 2, ends=True)}),
        ("start: needs the same model", {"start": machine(0).with_parameters(), "states": 3}),
        ("start: needs the same model", {"start": machine(0), "symbols": 3}),
        ("weights: needs finite numbers >= 0, not all 0, got .1.0, inf", {
            "weights": [1, math.inf, 1, 1, 1]
        }),
        ("steps: must be a whole number", {"steps": 0}),
        ("restarts: must be a whole number", {"restarts": 0}),
    ],
)  # fmt: skip
def test_bad_input_is_named(message: str, options: dict[str, object]) -> None:
    sizes = (int(options.pop(name, 2)) for name in ("states", "symbols"))  # type: ignore[call-overload]
    model = LabelledHMM(*sizes, ends=True)
    with pytest.raises(ValueError, match=message):
        baum_welch(model, as_strings(WORDS, model.symbols), **options)  # type: ignore[arg-type]


def test_models_and_data_that_do_not_fit_are_named() -> None:
    data = Sequences.from_arrays([[0, float("nan"), 1]], codes=True)
    with pytest.raises(ValueError, match="data: needs every symbol, got 1 missing"):
        baum_welch(LabelledHMM(2, 2), data)
    with pytest.raises(ValueError, match="model: needs a LabelledHMM, or a HiddenMarkovModel"):
        baum_welch(HiddenMarkovModel(2, "poisson"), data)
    with pytest.raises(ValueError, match="parameters that are free"):
        baum_welch(machine(0), as_strings(WORDS, 2))
    with pytest.raises(ValueError, match="estimate: must be 'ml' or 'map' where moves"):
        baum_welch(
            LabelledHMM.unifilar([[0, 1], [1, 0]]),
            Sequences.from_arrays([[0, 1]], codes=True),
            estimate="variational",
        )
