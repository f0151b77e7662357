"""Lags that act through a network shared by all states: against plain loops, and over all paths."""

import itertools

import pytest
import torch

from beliefzoo.inference import log_evidence
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    NeuralEmission,
    Poisson,
    Regression,
    Sequences,
    load_model,
    save_model,
)

BASES = {
    "bernoulli": Bernoulli(2),
    "poisson": Poisson(),
    "gaussian": Gaussian(2),
    "categorical": Categorical(3),
    "neural": NeuralEmission(Bernoulli(2), 2, 3),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def case(base, lags=2):
    torch.manual_seed(1)
    emission = Regression(base, lags=lags, width=3)
    model = HiddenMarkovModel(2, emission)
    values = {name: prior.sample().double() for name, prior in model.priors.items()}
    model = model.with_parameters(**values)
    drawn = model.sample(2, [4, 3], seed=0).data
    mask = drawn.mask.clone()
    mask[0, 1] = False
    lengths = torch.tensor([4, 3])
    data = Sequences.from_tensors(drawn.values, mask=mask, lengths=lengths, codes=drawn.is_codes)
    return model, data


def shifted(model, data):
    """The score with the lags' effect added up by hand, (N, T, K)."""
    emission, values = model.emission, model.known
    unit = emission.predictor_scale.double()
    y, mask = emission.observed(data)
    past = emission.base.lagged(values, y, mask)  # (N, T, 1|K, S)
    shift = torch.zeros(*past.shape[:2], 2, past.shape[-1]).double()
    for n, t, k in itertools.product(range(2), range(4), range(2)):
        for lag in range(1, emission.lags + 1):
            if t < lag:
                continue
            into, bias = values[f"lag{lag}_weight0"], values[f"lag{lag}_bias0"]
            told = past[n, t - lag, min(k, past.shape[2] - 1)].double()
            units = torch.tanh(told / unit @ into + bias) - torch.tanh(bias)
            shift[n, t, k] += units @ values[f"lag{lag}_weight1"] * unit
    return emission.base.score(values, y, mask, shift)


@every_base
def test_score_is_the_loop_over_steps_states_and_lags(base):
    model, data = case(base)
    found = model.laws({}, data).log_likelihood
    torch.testing.assert_close(found, shifted(model, data))


@every_base
def test_evidence_is_the_sum_over_all_paths(base):
    model, data = case(base)
    values, scores = model.known, shifted(model, data)
    evidence = log_evidence(model, data)
    for n, length in enumerate((4, 3)):
        terms = []
        for path in itertools.product(range(2), repeat=length):
            log_p = values["initial"][path[0]].log()
            for before, after in itertools.pairwise(path):
                log_p = log_p + values["transition"][before, after].log()
            terms.append(log_p + sum(scores[n, t, k] for t, k in enumerate(path)))
        torch.testing.assert_close(evidence[n], torch.stack(terms).logsumexp(0))


@every_base
def test_axes_of_draws(base):
    model, data = case(base)
    free = HiddenMarkovModel(2, model.emission)
    torch.manual_seed(2)
    values = {name: prior.sample((3,)) for name, prior in free.priors.items()}
    together = free.laws(values, data).log_likelihood
    for draw in range(3):
        one = {name: value[draw] for name, value in values.items()}
        torch.testing.assert_close(together[draw], free.laws(one, data).log_likelihood)


def test_start_is_silent(tmp_path):
    model, data = case(Bernoulli(2))
    y, mask = model.emission.observed(data)
    frames, seen = y.flatten(0, 1).double(), mask.flatten(0, 1)
    start = model.emission.start(frames, seen, torch.ones(8, 2).double())
    assert set(start) == set(model.emission.priors(2))
    plain = {**model.known, **start}
    found = model.emission.score(plain, y, mask)
    torch.testing.assert_close(found, model.emission.base.score(plain, y, mask))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.emission == model.emission
    assert set(model.parameter_dims()) == set(model.parameter_names)


def test_bad_arguments():
    with pytest.raises(ValueError, match="width: belongs to lags >= 1, got 3"):
        Regression(Gaussian(), inputs=1, width=3)
    with pytest.raises(ValueError, match="width: must be a whole number >= 0, got -1"):
        Regression(Gaussian(), lags=1, width=-1)
