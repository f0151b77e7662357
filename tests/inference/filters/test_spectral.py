"""Observable operators: exact with exact moments, and nearer to that with more data."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    ObservableOperators,
    SpectralFilter,
    evidence_gap,
    fit,
    load_fit,
    log_evidence,
    save_fit,
    symbol_triples,
    triple_probabilities,
)
from beliefzoo.models import Categorical, HiddenMarkovModel, InputTransition, Sequences


def chain(states=3):
    """A stationary chain whose symbols tell its states apart."""
    emits = np.full((states, states + 2), 0.08)
    emits[np.arange(states), np.arange(states)] = 1 - 0.08 * (states + 1)
    transition = 0.7 * np.eye(states) + 0.25 * np.roll(np.eye(states), 1, axis=1) + 0.05 / states
    return HiddenMarkovModel(states, Categorical(states + 2), initial="stationary").with_parameters(
        transition=transition, probs=emits
    )


def written(model, **options):
    network = SpectralFilter(**options)
    network.build(model)
    triples = triple_probabilities(model)
    return network.write(ObservableOperators.of_triples(triples, network._width))


def test_probabilities_of_triples_are_sums_over_paths():
    model = chain()
    triples = triple_probabilities(model)
    data = Sequences.from_arrays([[0, 3, 1], [4, 2, 2]], codes=True)
    laws = model.laws({}, data)
    first, onward = laws.log_initial[0].numpy(), laws.log_transition[0, 0].numpy()
    table = np.broadcast_to(onward, (2, 3, 3))
    for n, triple in enumerate([(0, 3, 1), (4, 2, 2)]):
        expected = oracles.log_evidence(first, table, laws.log_likelihood[n].numpy())
        assert float(triples[triple].log()) == pytest.approx(expected, abs=1e-12)
    assert float(triples.sum()) == pytest.approx(1, abs=1e-12)


def test_frequencies_of_triples_are_counted_where_all_three_are_seen():
    data = Sequences.from_arrays([[0, 1, 1, 0], [1, np.nan, 0, 1], [0, 1, 1]], codes=True)
    counts = np.zeros((2, 2, 2))
    counts[0, 1, 1] += 2
    counts[1, 1, 0] += 1
    np.testing.assert_allclose(symbol_triples(data).numpy(), counts / 3)


@pytest.mark.parametrize("states", [2, 3])
def test_exact_moments_give_the_exact_probability_of_every_sequence(states):
    """Joint probabilities of all sequences of length 4 and 5, as products of operators."""
    model = chain(states)
    operators = ObservableOperators.of_triples(triple_probabilities(model), states)
    codes = torch.tensor(list(itertools.product(range(states + 2), repeat=4)))
    evidence = log_evidence(model, Sequences.from_tensors(codes, codes=True))
    torch.testing.assert_close(operators.step_log_likelihood(codes).sum(-1), evidence)
    torch.testing.assert_close(operators.joint_probabilities(4), evidence.exp())


def test_with_exact_moments_it_is_the_exact_filter():
    """Ragged, with missing symbols, in the coordinates of the model."""
    model = chain()
    arrays = [a.astype(float) for a in model.sample(4, [9, 5, 2, 1], seed=0).data.arrays()]
    arrays[0][3] = np.nan
    data = Sequences.from_arrays(arrays, codes=True, symbols=range(5))
    laws, network = model.laws({}, data), written(model)
    inside = data.step_mask
    exact = ExactFilter()(laws)[inside]
    torch.testing.assert_close(network(laws)[inside], exact, atol=1e-9, rtol=0)
    gap = evidence_gap(BeliefGuide(model, network), data)
    assert gap.gap_per_step == pytest.approx(0, abs=1e-9)


def test_too_small_a_rank_loses_the_state():
    model = chain()
    data = model.sample(50, 20, seed=0).data
    best = evidence_gap(BeliefGuide(model, written(model)), data).kl_filter_per_step
    less = evidence_gap(BeliefGuide(model, written(model, rank=2)), data).kl_filter_per_step
    assert less > 1e-3 > 1e-9 > best


def test_moments_of_more_data_are_nearer():
    """100 times the data: a tenth of the error, within a factor of 2.5 (fails 1 in 1000)."""
    model = chain()
    truth = triple_probabilities(model)
    codes = torch.tensor(list(itertools.product(range(5), repeat=3)))
    generator = np.random.default_rng(0)
    error = {}
    for size in (10_000, 1_000_000):
        drawn = generator.multinomial(size, truth.numpy().reshape(-1), size=20) / size
        found = []
        for one in drawn:
            operators = ObservableOperators.of_triples(torch.tensor(one).reshape(5, 5, 5), 3)
            joint = operators.step_log_likelihood(codes).sum(-1).exp()
            found.append(float((joint - truth[tuple(codes.T)]).abs().sum()))
        error[size] = np.mean(found)
    assert 4 < error[10_000] / error[1_000_000] < 25


def test_a_symbol_that_noise_made_impossible_starts_the_state_anew():
    """Operators of noisy moments can give a symbol a negative probability."""
    operators = ObservableOperators.of_triples(triple_probabilities(chain()), 3)
    broken = dataclasses.replace(operators, operators=operators.operators.clone())
    broken.operators[4] *= -1
    states = broken.predictive_states(torch.tensor([[0, 4, 1]]))
    torch.testing.assert_close(states[0, 2], operators.start)
    told = broken.step_log_likelihood(torch.tensor([[0, 4, 1]]))
    assert bool(told.isfinite().all())
    assert float(told[0, 1]) < -20
    assert float(told[0, 2].exp()) == pytest.approx(
        float(broken.predictions(operators.start)[1]), rel=1e-9
    )


def test_a_batch_of_moments_gives_a_batch_of_operators():
    moments = torch.stack([triple_probabilities(chain()), torch.rand(5, 5, 5).double()])
    both = ObservableOperators.of_triples(moments, 3)
    for place in range(2):
        alone = ObservableOperators.of_triples(moments[place], 3)
        for name in ("basis", "start", "end", "operators"):
            torch.testing.assert_close(getattr(both, name)[place], getattr(alone, name))


def test_it_learns_when_it_is_calibrated_and_is_saved(tmp_path):
    """In a fit of the model's parameters: moments of the data, nothing trained in the filter."""
    truth = chain()
    data = truth.sample(400, 30, seed=0).data
    guide = BeliefGuide(truth, SpectralFilter())
    guide.calibrate(data)
    lstm = BeliefGuide(truth, LSTMFilter(4))
    found, untrained = (evidence_gap(g, data[:50]).kl_filter_per_step for g in (guide, lstm))
    assert found < 0.02 < untrained
    model = HiddenMarkovModel(3, Categorical(5), initial="stationary")
    guide = BeliefGuide(model, SpectralFilter(rank=3), parameters="map")
    how = FitSettings(steps=3, sleep_steps=0, holdout=0, patience=None)
    result = fit(model, guide, data[:100], settings=how, progress=False)
    again = load_fit(save_fit(result, tmp_path / "fit"))
    laws = truth.laws({}, data[:5])
    torch.testing.assert_close(
        again.guide.filter(laws), result.guide.filter(laws), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralFilter(0), "rank: must be a whole number >= 1"),
        (lambda: SpectralFilter(floor=0.0), "floor: must be a finite number > 0"),
        (
            lambda: SpectralFilter().build(HiddenMarkovModel(2, "poisson")),
            "model: must be a HiddenMarkovModel of Categorical symbols",
        ),
        (
            lambda: SpectralFilter().build(HiddenMarkovModel(5, Categorical(3))),
            "rank: must be at most the number of symbols, 3, got 5",
        ),
        (
            lambda: triple_probabilities(
                HiddenMarkovModel(2, Categorical(3), transition=InputTransition(1))
            ),
            "model: must move alike at all steps",
        ),
        (
            lambda: ObservableOperators.of_triples(torch.ones(2, 2, 3), 1),
            r"triples: needs a tensor of shape \(…, S, S, S\), got \(2, 2, 3\)",
        ),
        (
            lambda: ObservableOperators.of_triples(torch.tensor(1.0), 1),
            r"triples: needs a tensor of shape \(…, S, S, S\), got \(\)",
        ),
        (
            lambda: ObservableOperators.of_triples(torch.full((2, 2, 2), torch.nan), 1),
            "triples: must be finite",
        ),
        (
            lambda: written(chain()).operators.predictive_states(torch.tensor([[0, 9]])),
            "codes: needs whole numbers 0 … 4, got",
        ),
        (
            lambda: written(chain()).operators.joint_probabilities(60),
            r"length: needs at most 2\^22 sequences, got \d+ of them",
        ),
        (lambda: SpectralFilter().operators, "filter: call build"),
        (lambda: SpectralFilter().write(written(chain()).operators), "filter: call build"),
        (
            lambda: ObservableOperators.of_triples(torch.ones(2, 2, 2), 3),
            "rank: must be at most the number of symbols, 2, got 3",
        ),
        (
            lambda: symbol_triples(Sequences.from_arrays([[0.5, 1.0, 2.0]])),
            "data: must be symbols",
        ),
        (
            lambda: symbol_triples(Sequences.from_arrays([[0, 1]], codes=True)),
            "data: needs three observed symbols in a row, got none",
        ),
        (
            lambda: written(chain()).write(
                ObservableOperators.of_triples(triple_probabilities(chain()), 2)
            ),
            r"operators: needs shape \(5, 3, 3\), got \(5, 2, 2\)",
        ),
        (lambda: written(chain()).build(chain(2)), "make a new SpectralFilter"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
