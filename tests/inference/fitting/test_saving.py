"""Files of fits: what may stand in them, and what a file cannot make the reader do."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    ElmanFilter,
    ExactFilter,
    Fit,
    FitSettings,
    GRUFilter,
    LSTMFilter,
    evidence_gap,
    fit,
    load_fit,
    save_fit,
)
from beliefzoo.models import HiddenMarkovModel, Sequences
from beliefzoo.models.data.storage import read_tensors, write_tensors

MODEL = HiddenMarkovModel(2, "poisson")
DATA = Sequences.from_arrays([[1.0, 2.0, 3.0], [4.0]])
SHORT = FitSettings(steps=2, sleep_steps=0, holdout=0, patience=None)

pytestmark = pytest.mark.filterwarnings("ignore:fit:UserWarning")


def fitted(filter, guide=BeliefGuide, **options) -> Fit:
    return fit(MODEL, guide(MODEL, filter, **options), DATA, settings=SHORT, progress=False)


def change(path: Path, **changes: object) -> None:
    """Put other entries into the record of a fit."""
    content = read_tensors(path, {"fit": str}, "fit")
    record = json.loads(content["fit"]) | changes
    write_tensors(path, content | {"fit": json.dumps(record)}, "fit")


def test_filters_come_back_as_they_were_made(tmp_path):
    """Every argument of a recurrent filter, and of a network that a user gave."""
    network = nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True)
    for number, filter in enumerate(
        (
            LSTMFilter(3, memory="hc", gain=2.0, reads="both", layers=2),
            GRUFilter(4, reads="likelihoods"),
            ElmanFilter(network=network, frozen=True),
            ElmanFilter(network=network.double()),
        )
    ):
        made = fitted(filter)
        again = load_fit(save_fit(made, tmp_path / f"{number}"))
        ours, theirs = made.guide.filter, again.guide.filter
        for name, value in ours.configuration.items():
            if name != "network":
                assert theirs.configuration[name] == value, name
        assert repr(theirs) == repr(ours)
        assert [w.requires_grad for w in theirs.parameters()] == [
            w.requires_grad for w in ours.parameters()
        ]
        assert torch.equal(evidence_gap(again, DATA).elbo, evidence_gap(made, DATA).elbo)


class Silent(ExactFilter):
    """A filter with a setting that it does not tell."""

    configuration = None  # type: ignore[assignment]


class Plain:
    """A filter that does not say what it is made from."""

    causal = True

    def build(self, model):
        """Nothing to build."""

    def calibrate(self, model, data):
        """Nothing to calibrate."""

    def __call__(self, laws):
        return torch.zeros_like(laws.log_likelihood).log_softmax(-1)


@pytest.mark.parametrize("filter", [Silent, Plain])
def test_a_filter_that_does_not_say_what_it_is_made_from_is_not_saved(filter, tmp_path):
    with pytest.raises(ValueError, match=r"fit.guide.filter: can save .*`configuration`, got"):
        save_fit(fitted(filter()), tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []


def test_a_guide_of_a_class_that_nobody_can_import_is_not_saved(tmp_path):
    class Inner(BeliefGuide):
        pass

    with pytest.raises(ValueError, match=r"fit.guide: can save objects of classes that can be"):
        save_fit(fitted(LSTMFilter(2), guide=Inner), tmp_path / "fit")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_fit(fitted(LSTMFilter(3)), tmp_path / "fit")


HOSTILE = (
    *("os:system", "subprocess:Popen", "builtins:eval", "builtins:dict", "torch:load"),
    *("torch.nn:Linear", "torch.nn:LSTM", "beliefzoo.inference:load_fit", f"{__name__}:Plain"),
    *("beliefzoo.inference:LSTMFilter.__class__", "beliefzoo.inference:LSTMFilter.build"),
    *("beliefzoo.inference:__builtins__", "beliefzoo.inference:__loader__.exec_module"),
    *("beliefzoo.models:Poisson", "beliefzoo.models:HiddenMarkovModel", "os.system", ":", "os:"),
)


@pytest.mark.parametrize("name", [*HOSTILE, "beliefzoo.inference:LSTMFilter"])
def test_only_guides_are_made_as_guides(name, saved):
    change(saved, guide=name)
    with pytest.raises(ValueError, match="path: needs"):
        load_fit(saved)


@pytest.mark.parametrize("name", [*HOSTILE, "beliefzoo.inference:BeliefGuide", None, 3])
def test_only_filters_are_made_as_filters(name, saved):
    change(saved, filter={"kind": name, "arguments": {}})
    with pytest.raises(ValueError, match="path: needs"):
        load_fit(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"filter": {"kind": "beliefzoo.inference:LSTMFilter"}},
            "a fit, .* distorts .*'arguments'",
        ),
        (
            {"filter": {"kind": "beliefzoo.inference:LSTMFilter", "arguments": {"colour": 1}}},
            "a fit, .* distorts .*colour",
        ),
        (
            {
                "filter": {
                    "kind": "beliefzoo.inference:LSTMFilter",
                    "arguments": {"network": {"torch": "Linear"}},
                }
            },
            "a fit, .* distorts .*'Linear'",
        ),
        (
            {
                "filter": {
                    "kind": "beliefzoo.inference:LSTMFilter",
                    "arguments": {"network": {"kind": "torch.nn:LSTM", "arguments": {}}},
                }
            },
            "path: needs a frozen dataclass or a distribution from a file, got 'torch.nn:LSTM'",
        ),
        (
            {"filter": {"kind": "beliefzoo.inference:LSTMFilter", "arguments": {"layers": 0}}},
            "layers: must be a whole number >= 1",
        ),
        (  # whose network would be built for ever
            {"filter": {"kind": "beliefzoo.inference:LSTMFilter", "arguments": {"layers": 2**70}}},
            "layers: must be below",
        ),
        ({"guide": 3}, "whose 'guide' is of type str, got .*fit' with 3"),
        ({"objective": "likelihood"}, r"objective: must be one of .*got 'likelihood' \(in '"),
        ({"objective": 3}, "whose 'objective' is of type str"),
        ({"seed": "3"}, "whose 'seed' is of type int"),
        ({"seed": True}, "whose 'seed' is of type int"),
        ({"seed": 2.5}, "whose 'seed' is of type int"),
        ({"versions": ["2.0"]}, "whose 'versions' is of type dict"),
        ({"versions": {"torch": 2.0}}, r"versions: must be texts, got \[2.0\]"),
        ({"warnings": [1]}, "warnings: must be texts"),
        ({"extent": [1, 2]}, "extent: must be four counts"),
        ({"extent": [1, 2, 3.5, 4]}, "extent: must be four counts"),
        ({"k_hat": "0.5"}, "whose 'k_hat' is of type int or float or NoneType"),
        ({"uncertainty": "certain"}, "parameters: must be one of"),
        (
            {"guide": "beliefzoo.inference:Secret"},
            "path: needs a guide that .* has .*:Secret",
        ),
        ({"settings": {"colour": 1}}, "a fit, .* distorts .*colour"),
        ({"settings": {"steps": 0}}, "settings.steps: must be a whole number >= 1"),
    ],
)
def test_records_that_were_tampered_with_are_refused(changes, message, saved):
    change(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_fit(saved)


def test_weights_of_other_sizes_are_refused(saved):
    arguments = {"hidden_size": 5, "layers": 1}
    change(saved, filter={"kind": "beliefzoo.inference:LSTMFilter", "arguments": arguments})
    with pytest.raises(
        ValueError, match=r"(?s)needs the weights that the file has, got Error.*size mis"
    ):
        load_fit(saved)


MODULE = """
import torch
from beliefzoo.inference import BeliefGuide, ExactFilter

class Own(ExactFilter):
    pass

class Guiding(BeliefGuide):
    pass
"""


@pytest.mark.parametrize("part", ["guide", "filter"])
def test_nothing_is_imported_without_permission(part, saved, tmp_path, monkeypatch):
    (tmp_path / "stranger_guides.py").write_text(MODULE)
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    save_fit(fitted(ExactFilter()), saved)
    if part == "guide":
        change(saved, guide="stranger_guides:Guiding")
    else:
        change(saved, filter={"kind": "stranger_guides:Own", "arguments": {}})
    with pytest.raises(ValueError, match=r"import it before, or name it in allow=\['stranger_gu"):
        load_fit(saved)
    assert "stranger_guides" not in sys.modules
    try:
        guide = load_fit(saved, allow=["stranger_guides"]).guide
        assert "stranger_guides" in {type(guide).__module__, type(guide.filter).__module__}
    finally:
        sys.modules.pop("stranger_guides", None)
