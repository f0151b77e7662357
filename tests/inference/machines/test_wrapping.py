"""LSTMs wrapped in models: a network that is the filter by construction, and what is refused."""

import json
import math
import warnings

import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    FitSettings,
    LSTMFilter,
    compare_wrapped,
    load_fit,
    log_evidence,
    lstm_log_likelihood,
    save_fit,
    wrap,
)
from beliefzoo.inference.arviz_groups import group, read, write
from beliefzoo.inference.machines import wrapping
from beliefzoo.models import (
    Categorical,
    DeepMarkovModel,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    mess3,
)

FEW = FitSettings(steps=10, sleep_steps=0, holdout=0, patience=None)
MANY = FitSettings(steps=200, sleep_steps=0, holdout=0, patience=None, learning_rate=0.1)


def forgetful_lstm(symbols=3, units=4, read_out=True):
    """A network whose state tells the last symbol and nothing else."""
    lstm, output = nn.LSTM(symbols, units, batch_first=True), nn.Linear(units, symbols)
    with torch.no_grad():
        lstm.weight_hh_l0.zero_()
        lstm.weight_ih_l0.mul_(2)
        lstm.bias_ih_l0[units : 2 * units] = -50  # the forget gate is shut
    return lstm, output


def memoryless(states=2, symbols=3):
    """A chain whose next state does not depend on the last: the belief follows from y_t alone."""
    torch.manual_seed(4)
    law = torch.tensor([0.6, 0.4]).double()
    return HiddenMarkovModel(states, Categorical(symbols)).with_parameters(
        initial=law, transition=law.expand(2, 2), probs=torch.rand(states, symbols).softmax(-1)
    )


def test_a_network_that_holds_the_belief_makes_the_bound_the_evidence():
    model = memoryless()
    lstm, output = forgetful_lstm()
    before = {name: value.clone() for name, value in lstm.state_dict().items()}
    data = model.sample(120, 8, seed=0).data
    found = wrap(lstm, model, data, output=output, settings=MANY, samples=200)
    assert abs(found.gap.gap_per_step) < 1e-5
    # The belief is a function of the last symbol, of which the state is a linear function.
    assert found.readouts.state["hc"].decoder_kl < 1e-6
    assert found.readouts.window[1].decoder_kl < 1e-6
    assert found.readouts.state["h"].r_squared == pytest.approx(1, abs=1e-6)
    # It is independent of everything before: nothing is told of the next symbol.
    assert found.readouts.next_symbol.decoder_kl == pytest.approx(
        found.readouts.next_symbol.information, rel=0.05
    )
    kept = found.fit.guide.filter.network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    assert all(torch.equal(lstm.state_dict()[name], value) for name, value in before.items())
    assert found.lstm_score_per_step < found.gap.evidence_per_step
    text = str(found)
    for word in ("log evidence", "LSTM hc", "staying", "4-grams", "its weights kept"):
        assert word in text
    json.dumps(found.figures, allow_nan=False)


def test_a_network_without_memory_falls_short_where_memory_is_needed():
    model = HiddenMarkovModel(2, Categorical(3)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.95, 0.05], [0.05, 0.95]],
        probs=[[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]],
    )
    lstm, _ = forgetful_lstm()
    found = wrap(lstm, model, model.sample(200, 12, seed=0).data, settings=MANY)
    assert found.gap.gap_per_step > 0.01
    readouts = found.readouts
    assert readouts.state["hc"].share < 0.9
    assert readouts.state["hc"].decoder_kl > readouts.window[2].decoder_kl
    # It holds what any function of the last symbol can.
    assert readouts.state["h"].decoder_kl == pytest.approx(readouts.window[1].decoder_kl, abs=1e-5)
    assert readouts.state["h"].r_squared == pytest.approx(readouts.window[1].r_squared, abs=1e-6)
    assert found.samples is None
    assert found.lstm_score is None
    assert "was not sampled" in found.notes[0]
    assert math.isnan(found.lstm_score_per_step)


def test_fine_tuning_trains_the_network():
    model = memoryless()
    lstm, output = forgetful_lstm()
    data = model.sample(30, 8, seed=0).data
    found = wrap(lstm, model, data, output=output, fine_tune=True, settings=FEW, samples=20)
    trained = found.fit.guide.filter.network
    assert not torch.equal(trained.weight_ih_l0, lstm.weight_ih_l0)
    assert "before the fit" in found.notes[0]
    assert "trained further" in str(found)


@pytest.mark.parametrize("layers", [1, 2])
def test_parameters_are_learned_around_it_and_everything_is_exported(layers, tmp_path):
    data = memoryless().sample(40, 8, seed=0).data
    lstm = nn.LSTM(3, 5, num_layers=layers)  # not batch_first: that is the user's business
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fit: states")
        found = wrap(lstm, HiddenMarkovModel(2, Categorical(3)), data, settings=FEW)
    assert found.fit.fitted.known["probs"].shape == (2, 3)
    assert found.states == 2
    idata = found.to_arviz(draws=4, sequences=3)
    write(idata, tmp_path / "wrapped.nc")
    again = read(tmp_path / "wrapped.nc")
    assert json.loads(again.attrs["wrapped"])["states"] == 2
    assert group(again, "posterior_states")["guide_belief"].sizes["sequence"] == 3
    loaded = load_fit(save_fit(found.fit, tmp_path / "fit.pt"))
    assert loaded.guide.filter.frozen
    assert not any(w.requires_grad for w in loaded.guide.filter.network.parameters())
    laws = found.fit.fitted.laws({}, data)
    assert torch.equal(loaded.guide.filter(laws), found.fit.guide.filter(laws))


def test_real_numbers_are_wrapped_without_sampling():
    level = LinearGaussianSSM(LocalLevel(initial_variance=2.0)).with_parameters(
        level_variance=0.5,
        observation_variance=1.0,
    )
    data = level.sample(40, 8, seed=0).data
    lstm = nn.LSTM(1, 6)
    found = wrap(lstm, level, data, settings=FEW)
    assert found.gap.gap_per_step > 0
    assert found.readouts.state["hc"].decoder_kl is None
    assert found.readouts.window[2].r_squared > found.readouts.window[1].r_squared
    assert "retention" in found.gates.best["f"]
    assert found.readouts.next_symbol is None
    json.dumps(found.figures, allow_nan=False)
    chain = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1, 1], scale=[1, 1]
    )
    found = wrap(lstm, chain, chain.sample(30, 8, seed=0).data, settings=FEW)
    assert found.readouts.state["hc"].decoder_kl is not None
    assert found.samples is None


def test_the_comparison_prefers_the_model_that_there_was():
    truth = HiddenMarkovModel(2, Categorical(3)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.8, 0.2], [0.3, 0.7]],
        probs=[[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
    )
    data = truth.sample(200, 10, seed=0).data
    rival = HiddenMarkovModel(1, Categorical(3)).with_parameters(probs=[[0.5, 0.1, 0.4]])
    lstm = nn.LSTM(3, 16)  # random, but with a memory
    each = {
        name: wrap(lstm, model, data, settings=MANY, windows=1)
        for name, model in (("one", rival), ("two", truth))
    }
    found = compare_wrapped(each)
    assert found.preferred_by_evidence == found.preferred_by_elbo == found.held == "two"
    assert found.elbo_behind[1] == found.elbo_behind_standard_error[1] == 0
    behind = each["two"].gap.elbo - each["one"].gap.elbo
    assert found.elbo_behind[0] == pytest.approx(float(behind.mean()) / 10)
    error = float(behind.std()) / math.sqrt(len(behind)) / 10  # all sequences are equally long
    assert found.elbo_behind_standard_error[0] == pytest.approx(error)
    assert found.information[0] == pytest.approx(0, abs=1e-12)
    assert "held: two" in str(found)
    assert compare_wrapped(list(each.values())).names == ("1 state", "2 states")
    with pytest.raises(ValueError, match="wrapped: needs two models or more, got 1"):
        compare_wrapped({"two": each["two"]})
    with pytest.raises(ValueError, match="wrapped: needs names"):
        compare_wrapped([each["two"], each["two"]])
    with pytest.raises(ValueError, match="wrapped: needs results of wrap, got Fit"):
        compare_wrapped([each["one"].fit, each["two"].fit])
    with pytest.raises(ValueError, match="wrapped: must be a mapping or a list, got NoneType"):
        compare_wrapped(None)
    other = wrap(lstm, rival, data[:40], settings=FEW)
    with pytest.raises(ValueError, match="wrapped: must be measured on the same held-out"):
        compare_wrapped({"two": each["two"], "one": other})


def test_gates_are_compared_where_the_first_sequences_are_single_steps(monkeypatch):
    monkeypatch.setattr(wrapping, "READ_STEPS", 10)
    heldout = memoryless().sample(6, [1, 1, 12, 1, 12, 12], seed=0).data
    data = memoryless().sample(6, 8, seed=1).data
    found = wrap(nn.LSTM(3, 4), memoryless(), data, heldout=heldout, settings=FEW)
    assert all(math.isfinite(x.correlation) for x in found.gates.best["f"].values())
    with pytest.raises(ValueError, match="sequences: must be a whole number >= 1, got -3"):
        found.to_arviz(sequences=-3)


def test_bad_input():
    model, data = memoryless(), memoryless().sample(10, 6, seed=0).data
    lstm, output = forgetful_lstm()
    numbers = Sequences.from_arrays([[0.5, 1.0]] * 6)
    cases = [
        ({"lstm": nn.LSTM(3, 4, proj_size=2)}, "lstm: must have no projection"),
        ({"lstm": nn.LSTM(3, 4, bidirectional=True)}, "lstm: must read forward only"),
        ({"lstm": nn.GRU(3, 4)}, r"lstm: must be a torch.nn.LSTM .*got GRU"),
        (
            {"lstm": nn.LSTM(2, 4), "output": None},
            "lstm: needs as many inputs as there are symbols",
        ),
        ({"model": "hmm"}, "model: must be a model of beliefzoo.models, got 'hmm'"),
        ({"model": DeepMarkovModel(2, "gaussian")}, "model: needs beliefs that a linear head"),
        ({"output": nn.Linear(4, 2)}, r"output: must map \(…, 4\).* got \(1, 2\)"),
        ({"data": numbers}, "output: is a head for symbols"),
        ({"data": numbers, "output": None}, "codes must be whole numbers"),
        ({"data": [[0, 1]]}, "data: must be Sequences, got list"),
        ({"heldout": 1.5}, "heldout: must be Sequences, or a share"),
        ({"data": data[:3]}, "data: needs four sequences or more"),
        ({"heldout": data[:1]}, "heldout: needs two sequences or more of two steps or more"),
        (
            {"data": memoryless().sample(10, 1, seed=0).data},
            "heldout: needs two sequences or more of two steps or more",
        ),
        ({"windows": -1}, "windows: must be a whole number >= 0"),
        ({"memory": "x"}, "memory: must be"),
        ({"lstm": nn.LSTM(5, 4), "output": None}, "lstm: needs input_size=3, what the model"),
        ({"settings": {"steps": 3}}, "settings: must be FitSettings, or None, got {'steps': 3}"),
        ({"seed": "0"}, r"seed: must be a whole number .*, got '0'"),
    ]
    for changed, message in cases:
        given = {"lstm": lstm, "model": model, "data": data, "output": output, "settings": FEW}
        given |= changed
        arguments = [given.pop(name) for name in ("lstm", "model", "data")]
        with pytest.raises(ValueError, match=message):
            wrap(*arguments, **given)
    with pytest.raises(ValueError, match="frozen: needs a network of your own"):
        LSTMFilter(8, frozen=True)


def test_a_frozen_network_learns_its_head_alone():
    guide = BeliefGuide(memoryless(), LSTMFilter(network=nn.LSTM(3, 4, dropout=0.0), frozen=True))
    data = memoryless().sample(4, 5, seed=0).data
    (-guide.bound(guide.model.laws({}, data)).sum()).backward()
    moved = {name for name, weight in guide.named_parameters() if weight.grad is not None}
    assert moved == {"filter.head.weight", "filter.head.bias"}


def test_nodes_are_read_one_by_one_too():
    network = TemporalSigmoidBeliefNetwork(2, Categorical(3))
    drawn = network.sample(40, 8, seed=0)
    known = network.with_parameters(**drawn.parameters)
    found = wrap(nn.LSTM(3, 6), known, drawn.data, settings=FEW, windows=1)
    assert found.states == 4
    assert found.node_readouts.state["hc"].decoder_kl is None
    assert 0 < found.node_readouts.window[1].r_squared < 1
    assert "of the single nodes" in str(found)


def test_an_lstm_behind_an_embedding_is_folded_first() -> None:
    embedding, lstm = torch.nn.Embedding(3, 5), torch.nn.LSTM(5, 4, batch_first=True)
    data = mess3().model.sample(12, 6, seed=0).data
    model = HiddenMarkovModel(2, Categorical(3))
    for given in (torch.nn.Sequential(embedding, lstm), lstm):
        with pytest.raises(ValueError, match=r"lstm: .*fold_embedding\(lstm, embedding\)"):
            wrap(given, model, data)  # type: ignore[arg-type]


def test_without_data_the_law_of_the_lstm_itself_is_examined():
    """KL(LSTM ‖ model) is the sum over all words of four symbols; four standard errors apart."""
    torch.manual_seed(2)
    lstm, output = forgetful_lstm(read_out=False)
    nn.init.normal_(output.weight)
    model = memoryless()
    with pytest.raises(ValueError, match=r"^output: must be the LSTM's head"):
        wrap(lstm, model)
    options = {"settings": FEW, "samples": 2000, "windows": 0, "sequences": 40, "length": 4}
    found = wrap(lstm, model, output=output, **options)
    assert found.heldout.max_length == 4
    codes = torch.cartesian_prod(*[torch.arange(3)] * 4)
    words = Sequences.from_tensors(codes.unsqueeze(-1), codes=True)
    p, q = lstm_log_likelihood(lstm, output, words).sum(-1), log_evidence(model, words)
    expected = float((p.exp() * (p - q)).sum()) / 4
    assert abs(found.law.mean - expected) < 4 * found.law.standard_error
    assert found.figures["kl_lstm_model_per_step"] == found.law.mean
    assert "KL(LSTM ‖ model)" in str(found)
