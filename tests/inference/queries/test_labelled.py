"""Fits, forecasts and exports of labelled chains, beside the evidence and known machines."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import biject_to

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    fit,
    forecast,
    load_fit,
    log_evidence,
    nuts,
    predictive_check,
    sample_states,
    save_fit,
    smooth,
    to_arviz,
)
from beliefzoo.inference.export.discrete import replicate
from beliefzoo.models import LabelledHMM, Sequences, as_strings

SHORT = FitSettings(
    steps=3, batch_size=8, sleep_steps=2, restarts=2, restart_steps=2, holdout=0, patience=None
)
TABLES = [
    [[0.30, 0.15], [0.05, 0.20]],
    [[0.00, 0.35], [0.10, 0.35]],
]
"""p(x, z' | z); a string ends with probability 0.2 in the first state and 0.3 in the second."""


def known(ends: bool = True) -> LabelledHMM:
    tables, end = np.array(TABLES), np.array([0.2, 0.3])
    if ends:
        return LabelledHMM.from_tables([0.7, 0.3], tables, end)
    return LabelledHMM.from_tables([0.7, 0.3], tables / (1 - end)[:, None])


@pytest.mark.parametrize("ends", [False, True])
def test_the_exact_filter_makes_the_bound_the_evidence(ends: bool) -> None:
    model = known(ends)
    data = model.sample(8, 6, seed=0).data
    guide = BeliefGuide(model, ExactFilter())
    posterior = guide.posterior(model.laws({}, data))
    torch.testing.assert_close(posterior.elbo(), log_evidence(model, data), rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.mean, smooth(model, data), rtol=0, atol=1e-12)
    torch.manual_seed(0)
    bound = BeliefGuide(model, LSTMFilter(3)).posterior(model.laws({}, data)).elbo()
    assert bool((bound < log_evidence(model, data)).all())


@pytest.mark.parametrize("ends", [False, True])
def test_a_forecast_is_the_sum_over_what_comes(ends: bool) -> None:
    """Laws of two steps ahead by enumeration; draws within 5 standard errors (1 in 10^5)."""
    model = known(ends)
    begun = Sequences.from_arrays([[0, 1, 1], [1]], codes=True)
    found = forecast(model, begun, 2, draws=20_000, seed=0)
    assert found.mean is not None
    words = [[0, 1, 1], [1]]
    for n, word in enumerate(words):
        base = float(log_evidence(model, Sequences.from_arrays([word], codes=True)).exp())
        every = list(itertools.product(range(2), repeat=2))
        chance = {(x, y): law(model, [*word, x, y]) / base for x, y in every}
        if ends:
            chance |= {(x, 2): law(model, [*word, x, 2]) / base for x in range(2)}
            chance[2, 2] = law(model, [*word, 2]) / base
        assert sum(chance.values()) == pytest.approx(1, abs=1e-12)
        first = [sum(p for w, p in chance.items() if w[0] == x) for x in range(2 + ends)]
        np.testing.assert_allclose(found.mean[n, 0], first, atol=1e-12)
        for pair, p in chance.items():
            share = float((found.draws[:, n] == torch.tensor(pair)).all(-1).double().mean())
            assert abs(share - p) <= 5 * (p * (1 - p) / 20_000) ** 0.5 + 1e-12


def law(model: LabelledHMM, word: list[int]) -> float:
    return float(log_evidence(model, Sequences.from_arrays([word], codes=True)).exp())


def test_a_string_that_has_ended_stays_so() -> None:
    found = forecast(known(), as_strings([[0, 1]], 2), 3, draws=20, seed=0)
    assert bool((found.draws == 2).all())


def test_states_are_drawn_from_their_posterior() -> None:
    """4000 paths: frequencies within 5 standard errors of the smoother (1 in 10^5)."""
    model = known()
    data = Sequences.from_arrays([[0, float("nan"), 1, 2], [0, 1]], codes=True)
    paths = sample_states(model, data, 4000, seed=0)
    exact = smooth(model, data)
    share = torch.nn.functional.one_hot(paths.clamp_min(0), 2).double().mean(0)
    error = (share - exact)[data.step_mask].abs()
    assert float(error.max()) < 5 * 0.5 / 4000**0.5


def test_the_directions_that_change_nothing_are_counted() -> None:
    """By the rank of the chances of all words of up to 2 K symbols, which determine the law."""
    for states, symbols, ends in ((2, 2, False), (3, 2, True), (2, 1, True)):
        model = LabelledHMM(states, symbols, ends=ends)
        words = [
            w for n in range(2 * states + 1) for w in itertools.product(range(symbols), repeat=n)
        ]
        data = as_strings(words, symbols) if ends else Sequences.from_arrays(words[1:], codes=True)
        drawn = {name: prior.sample() for name, prior in model.priors.items()}
        maps = {name: biject_to(prior.support) for name, prior in model.priors.items()}
        free = {name: maps[name].inv(value) for name, value in drawn.items()}

        def chances(*values: torch.Tensor, free=free, maps=maps, model=model, data=data):  # type: ignore[no-untyped-def]
            named = {n: maps[n](v) for n, v in zip(free, values, strict=True)}
            return log_evidence(model.with_parameters(**named), data)

        jacobian = torch.autograd.functional.jacobian(chances, tuple(free.values()))
        whole = torch.cat([part.flatten(1) for part in jacobian], -1)
        rank = int(torch.linalg.matrix_rank(whole, rtol=1e-9))
        assert whole.shape[1] - rank == model.redundant(model.priors) == states * (states - 1)


def test_a_machine_is_recovered() -> None:
    """KL of fresh strings below .02 nats: 2 KL × 600 strings is χ² of 7 degrees, above 24 in one
    case of 900. The shares of symbols and ends alone, the best single state, miss a tenth of a nat.
    """
    truth = LabelledHMM.from_tables(
        [1, 0], [[[0.4, 0.0], [0.0, 0.1]], [[0.0, 0.4], [0.9, 0.0]]], end=[0.2, 0.0]
    )
    data = truth.sample(600, 60, seed=3).data
    model = LabelledHMM(2, 2, ends=True)
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    found = fit(model, guide, data, progress=False, seed=0).fitted
    assert float(log_evidence(found, data).sum()) > float(log_evidence(truth, data).sum())
    fresh = truth.sample(4000, 60, seed=9).data
    excess = log_evidence(truth, fresh) - log_evidence(found, fresh)
    assert float(excess.mean()) < 0.02
    codes = fresh.codes()[fresh.step_mask]
    share = torch.bincount(codes, minlength=3).double() / len(codes)
    alone = LabelledHMM(1, 2, ends=True).with_parameters(probs=share.unsqueeze(0))
    excess = log_evidence(truth, fresh) - log_evidence(alone, fresh)
    assert float(excess.mean()) > 0.1


def test_names_reach_the_export(tmp_path: Path) -> None:
    data = Sequences.from_text(["ab.", "ba.", "b.", "abba."] * 5, alphabet="ab.")
    model = LabelledHMM(2, 2, ends=True)
    found = fit(model, BeliefGuide(model, LSTMFilter(3)), data, settings=SHORT, progress=False)
    exported = to_arviz(
        found, data, draws=6, state_draws=3, predictive_draws=4, prior_draws=3, forecast=2
    )
    posterior = exported["posterior"]
    assert posterior["transition"].dims[2:] == ("symbol_before", "state", "state_to")
    assert posterior["probs"].dims[2:] == ("state", "symbol")
    assert posterior["symbol"].values.tolist() == ["a", "b", "."]
    assert posterior["symbol_before"].values.tolist() == ["a", "b"]
    assert exported["predictions"]["state_probability"].shape == (1, 4, 20, 2, 2)
    replicas = exported["posterior_predictive"]["obs"].values
    first = (replicas == 2).argmax(-1)
    after = np.arange(replicas.shape[-1]) >= first[..., None]
    ended = (replicas == 2).any(-1)[..., None] & after
    assert bool(((replicas == 2) | np.isnan(replicas))[ended].all())
    assert set(predictive_check(exported).index) >= {"entropy"}
    again = load_fit(save_fit(found, tmp_path / "fit.pt"))
    assert repr(again.model) == repr(found.model)


def test_replicas_have_the_frequencies_of_the_model() -> None:
    """Replicas of data draw symbols anew, whatever the data were: shares within 5 standard errors
    of the chance (1 in 10^5).
    """
    model = known(ends=False)
    data = Sequences.from_arrays([[1, 1]] * 50, codes=True)
    torch.manual_seed(0)
    one = {"probs": model.known["probs"].expand(60, -1, -1)}
    unknown = LabelledHMM(2, 2).with_parameters(
        initial=model.known["initial"], transition=model.known["transition"]
    )
    replicas = replicate(unknown, data, one, 60).reshape(-1, 2)
    for pair in itertools.product(range(2), repeat=2):
        p = law(model, list(pair))
        share = (replicas == pair).all(-1).mean()
        assert abs(share - p) <= 5 * (p * (1 - p) / len(replicas)) ** 0.5


def test_nuts_samples_the_tables() -> None:
    data = known().sample(6, 5, seed=11).data
    model = LabelledHMM(2, 2, ends=True, concentration=0.5)
    found = nuts(model, data, chains=1, draws=3, warmup=3, progress=False)
    assert found.draws["transition"].shape == (1, 3, 2, 2, 2)
    for draw in range(3):
        one = {name: value[0, draw] for name, value in found.draws.items()}
        prior = sum(float(p.log_prob(one[n].double())) for n, p in model.priors.items())
        evidence = float(log_evidence(model.with_parameters(**one), data).sum())
        assert float(found.log_density[0, draw]) == pytest.approx(prior + evidence, abs=1e-3)


def test_structure_is_kept_by_fits() -> None:
    model = LabelledHMM.unifilar([[0, 1], [-1, 0]])
    truth = model.with_parameters(initial=[1, 0], probs=[[0.4, 0.6], [0, 1]])
    data = truth.sample(200, 20, seed=2).data
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    found = fit(model, guide, data, progress=False, seed=0)
    point = found.fitted
    told = point.known["probs"].numpy()
    # 4000 symbols, of which some 2500 from the first state: within 5 standard errors (1 in 10^5).
    np.testing.assert_allclose(told, [[0.4, 0.6], [0, 1]], atol=5 * 0.5 / 2500**0.5)
