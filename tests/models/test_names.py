"""Models keep the names of what they were fitted to, and read other data by them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    arviz_groups,
    evidence_gap,
    filter,
    fit,
    forecast,
    load_fit,
    log_evidence,
    most_likely_states,
    nuts,
    predict,
    sample_states,
    save_fit,
    smooth,
    smooth_pairs,
    standardised_innovations,
    starting_values,
    step_log_likelihood,
    to_arviz,
    weighted_evidence,
)
from beliefzoo.models import (
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    Regression,
    SequenceFolder,
    Sequences,
    load_model,
    save_model,
    write_folder,
)

VALUES = {
    "initial": [0.6, 0.4],
    "transition": [[0.9, 0.1], [0.2, 0.8]],
    "probs": [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],
}


def read(letters: str, categories: str) -> Sequences:
    """One sequence of a frame whose column has these categories."""
    frame = pd.DataFrame({"letter": pd.Categorical(list(letters), list(categories))})
    return Sequences.from_frame(frame, columns="letter", codes=True)


def fitted() -> Any:
    model = HiddenMarkovModel(2, Categorical(3)).with_parameters(**VALUES)
    return model.named_after(read("abcab", "abc"))


SAME = read("bccbcb", "abc")
OTHER = read("bccbcb", "bc")  # b has another code here
MIXED = read("bccbcb", "cab")

QUERIES: dict[str, Callable[[Any, Sequences], Any]] = {
    "log_evidence": log_evidence,
    "step_log_likelihood": step_log_likelihood,
    "filter": filter,
    "predict": predict,
    "smooth": smooth,
    "smooth_pairs": smooth_pairs,
    "most_likely_states": lambda model, data: most_likely_states(model, data).states,
    "sample_states": lambda model, data: sample_states(model, data, 3, seed=0),
    "forecast": lambda model, data: forecast(model, data, 2, seed=0).mean,
    "evidence_gap": lambda model, data: (
        evidence_gap(BeliefGuide(model, ExactFilter()), data).log_evidence
    ),
    "weighted_evidence": lambda model, data: (
        weighted_evidence(BeliefGuide(model, ExactFilter()), data, draws=100, seed=0).log_evidence
    ),
    "laws": lambda model, data: model.laws({}, data).log_likelihood,
    "program": lambda model, data: (
        model.laws({}, data)
        .observations(torch.nn.functional.one_hot(torch.zeros(1, 6, dtype=torch.int64), 2).double())
        .log_prob(model.laws({}, data).data.values)
    ),
}


@pytest.mark.parametrize("data", [OTHER, MIXED], ids=["fewer", "permuted"])
@pytest.mark.parametrize("query", QUERIES)
def test_symbols_are_read_by_name(query: str, data: Sequences) -> None:
    model = fitted()
    expected, found = QUERIES[query](model, SAME), QUERIES[query](model, data)
    assert torch.equal(expected, found)
    if query == "log_evidence":  # by place it is another number
        by_place = Sequences.from_tensors(data.values, codes=True)
        assert not torch.allclose(log_evidence(model, by_place), expected)


def test_forecasts_read_earlier_symbols_by_name() -> None:
    """a is followed by c, c by b and b by a, whatever the codes of the data are."""
    model = HiddenMarkovModel(1, Regression(Categorical(3), lags=1))
    follows = torch.zeros(1, 1, 3, 3)
    follows[0, 0, 2, 0] = follows[0, 0, 1, 2] = follows[0, 0, 0, 1] = 1e3
    model = model.with_parameters(probs=[[1 / 3] * 3], lag_weight=follows)
    model = model.named_after(Sequences.from_text("abc", alphabet="abc"))
    for alphabet in ("abc", "cab"):
        data = Sequences.from_text("ba", alphabet=alphabet)
        assert forecast(model, data, steps=3, draws=2, seed=0).draws[0, 0].tolist() == [2, 1, 0]


def test_an_unknown_symbol_is_named() -> None:
    with pytest.raises(ValueError, match=r"among \('a', 'b', 'c'\).* got 'd' in .*'0', step 3"):
        log_evidence(fitted(), read("bccdcb", "bcd"))
    unused = read("bccbcb", "bcd")  # a category that does not occur does no harm
    assert torch.equal(log_evidence(fitted(), unused), log_evidence(fitted(), SAME))


def test_data_without_names_are_read_by_place() -> None:
    bare = Sequences.from_arrays([SAME.values[0].numpy()], codes=True)
    assert torch.equal(log_evidence(fitted(), bare), log_evidence(fitted(), SAME))
    unnamed = HiddenMarkovModel(2, Categorical(3)).with_parameters(**VALUES)
    assert torch.equal(log_evidence(unnamed, SAME), log_evidence(fitted(), bare))


def test_missing_values_stay_missing() -> None:
    frame = pd.DataFrame({"letter": pd.Categorical(["b", None, "c"], ["c", "b"])})
    data = Sequences.from_frame(frame, columns="letter", codes=True)
    made = fitted().names.read(data)
    assert made.values.tolist() == [[1, 0, 2]]
    assert made.mask.tolist() == [[True, False, True]]
    assert made.symbols == ("a", "b", "c")


def test_a_fit_keeps_the_names_and_so_do_files(tmp_path: Path) -> None:
    train = read("abcabcbbca" * 3, "abc")
    model = HiddenMarkovModel(2, Categorical(3))
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    result = fit(model, guide, train, settings=FitSettings(steps=3, restarts=1), progress=False)
    loaded = load_fit(save_fit(result, tmp_path / "fit.pt"))
    again = load_model(save_model(result.fitted, tmp_path / "model.pt"))
    expected = log_evidence(result.fitted, SAME)
    for one in (result.fitted, loaded.fitted, again, pickle.loads(pickle.dumps(again))):
        assert torch.equal(log_evidence(one, OTHER), expected)
        assert torch.equal(log_evidence(one, MIXED), expected)
        with pytest.raises(ValueError, match=r"got 'd'"):
            filter(one, read("bd", "bd"))
    assert result.fitted.sample(1, 4, seed=0).data.symbols == ("a", "b", "c")
    # A second fit, and data held out, are read by name too.
    for data in (OTHER, SAME):
        values = starting_values(result.model, data)
        assert torch.equal(values["probs"], starting_values(result.model, SAME)["probs"])


def test_guides_with_networks_and_data_held_out() -> None:
    model = fitted()
    guide = BeliefGuide(model, LSTMFilter(4))
    settings = FitSettings(steps=4, evaluate_every=2)
    bounds = []
    for heldout in (SAME, MIXED):
        torch.manual_seed(0)
        guide = BeliefGuide(model, LSTMFilter(4))
        found = fit(model, guide, SAME, heldout=heldout, settings=settings, progress=False)
        bounds.append(found.evaluations)
    assert torch.equal(*bounds)


def test_nuts_and_exports_read_by_name() -> None:
    model = HiddenMarkovModel(1, Categorical(3))
    found = nuts(model, read("abcab", "abc"), chains=1, draws=4, warmup=4, progress=False)
    idata = [to_arviz(found, data, draws=4, state_draws=2) for data in (SAME, OTHER)]
    for group in ("log_likelihood", "observed_data"):
        first, second = (arviz_groups.group(one, group)["obs"] for one in idata)
        assert first.identical(second)


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    folder = SequenceFolder(
        write_folder([OTHER.values[0].numpy()] * 3, tmp_path / "data", codes=True),
        codes=True,
        symbols=["b", "c"],
    )
    expected = log_evidence(fitted(), SAME)
    for batch in folder.batches(2):
        assert torch.equal(log_evidence(fitted(), batch), expected.expand(len(batch)))
    fitted().check(folder)
    wrong = SequenceFolder(folder.path, codes=True, symbols=["b", "d"])
    with pytest.raises(ValueError, match=r"000000.*got 'd'"):
        fitted().check(wrong)


def _panel(*columns: str, inputs: list[str] | None = None) -> Sequences:
    frame = pd.DataFrame({name: [float(ord(name)), 1.0, 2.0] for name in "abuv"})
    return Sequences.from_frame(frame, columns=list(columns), inputs=inputs)


def test_columns_must_be_those_of_the_fit() -> None:
    model = HiddenMarkovModel(1, Gaussian(2)).named_after(_panel("a", "b"))
    model = model.with_parameters(mean=[[0, 1]], scale=[[1, 1]])
    filter(model, _panel("a", "b"))
    for columns in (("b", "a"), ("a", "u")):
        with pytest.raises(ValueError, match=r"data\.features: must be \('a', 'b'\), in this"):
            filter(model, _panel(*columns))


def test_input_columns_must_be_those_of_the_fit() -> None:
    model = HiddenMarkovModel(1, Regression(Gaussian(1), inputs=2))
    data = _panel("a", inputs=["u", "v"])
    assert data.input_names == data[:1].input_names == ("u", "v")
    model = model.named_after(data).with_parameters(mean=[0], scale=[1], input_weight=[[[1, 2]]])
    log_evidence(model, data)
    with pytest.raises(ValueError, match=r"data\.input_names: must be \('u', 'v'\), in this"):
        log_evidence(model, _panel("a", inputs=["v", "u"]))


def test_linear_models_keep_their_columns(tmp_path: Path) -> None:
    data = _panel("a")
    model = LinearGaussianSSM(LocalLevel())
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    result = fit(model, guide, data, settings=FitSettings(steps=2, restarts=1), progress=False)
    for one in (result.fitted, load_fit(save_fit(result, tmp_path / "fit.pt")).fitted):
        with pytest.raises(ValueError, match=r"data\.features: must be \('a',\)"):
            standardised_innovations(one, _panel("b"))
