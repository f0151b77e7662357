"""Whose a checkpoint is: what counts as another fit, and what does not."""

import dataclasses

import pytest
import torch

from beliefzoo.inference import BeliefGuide, ExactFilter, LSTMFilter
from beliefzoo.inference.fitting.checkpoints import digest_of, fingerprint, read_checkpoint
from beliefzoo.models import HiddenMarkovModel, Sequences
from beliefzoo.models.data.storage import write_tensors

MODEL = HiddenMarkovModel(2, "poisson")
DATA = Sequences.from_arrays(
    [[1.0, 2.0, 3.0], [4.0]],
    times=[[0, 1, 2], [0]],
    actions=[[0, 1, 0], [1]],
    inputs=[[0.5, 0.1, 0.2], [0.3]],
)


@pytest.mark.parametrize("field", ["values", "mask", "times", "actions", "inputs"])
def test_every_number_counts(field):
    tensor = getattr(DATA, field).clone()
    changes = {field: ~tensor if field == "mask" else tensor + 1}
    if field == "mask":
        changes["mask"][1, 1:] = False
        changes["values"] = DATA.values * changes["mask"]
    elif field in ("values", "inputs"):
        changes[field][1, 1:] = 0
    assert digest_of(dataclasses.replace(DATA, **changes)) != digest_of(DATA)
    if field in ("times", "actions", "inputs"):
        assert digest_of(dataclasses.replace(DATA, **{field: None})) != digest_of(DATA)


def test_types_and_lengths_count_and_names_do_not():
    assert digest_of(DATA.to(torch.float32)) != digest_of(DATA)
    ones = Sequences.from_array([[1.0, 0.0]], lengths=[1]), Sequences.from_arrays([[1.0, 0.0]])
    assert digest_of(ones[0]) != digest_of(ones[1])
    named = dataclasses.replace(DATA, labels=("a", "b"))
    assert digest_of(named) == digest_of(DATA)


def test_all_that_a_fit_is_told_counts():
    told = {
        "guide": BeliefGuide(MODEL, LSTMFilter(3)),
        "data": DATA,
        "heldout": None,
        "objective": "elbo",
        "settings": {"steps": 3},
        "seed": 0,
    }
    other = {
        "guide": BeliefGuide(MODEL, ExactFilter()),
        "data": DATA[:1],
        "heldout": DATA[:1],
        "objective": "iwae",
        "settings": {"steps": 4},
        "seed": 1,
    }
    own = fingerprint(**told)
    assert fingerprint(**told) == own
    made_anew = told | {"guide": BeliefGuide(HiddenMarkovModel(2, "poisson"), LSTMFilter(3))}
    assert fingerprint(**made_anew) == own
    for name, value in other.items():
        assert fingerprint(**told | {name: value}) != own, name


class Remembering(ExactFilter):
    """A filter with a setting that is an object without words of its own."""

    def __init__(self, size=1):
        super().__init__()
        self.size, self.thing = size, object()

    @property
    def configuration(self):
        return {"size": self.size, "thing": self.thing}


class Weighing(BeliefGuide):
    weight = 1.0

    @property
    def options(self):
        return {"weight": self.weight}


def test_settings_of_filters_and_guides_count_and_places_in_memory_do_not():
    def of(filter, guide=BeliefGuide):
        return fingerprint(guide(MODEL, filter), DATA, None, "elbo", {}, 0)

    assert of(LSTMFilter(3)) != of(LSTMFilter(3, gain=2.0))
    assert of(Remembering()) == of(Remembering()) != of(Remembering(2))
    first = of(ExactFilter(), Weighing)
    Weighing.weight = 2.0
    assert of(ExactFilter(), Weighing) != first


def test_reading(tmp_path):
    path = tmp_path / "fit.pt"
    assert read_checkpoint(None, "a") is None
    assert read_checkpoint(path, "a") is None
    content = {"fingerprint": "a", "step": 3, "guide": {}, "optimizer": {}, "random": {}}
    write_tensors(path, content)
    assert read_checkpoint(path, "a") == content
    with pytest.raises(ValueError, match="belongs to another fit"):
        read_checkpoint(path, "b")
    write_tensors(path, {"fingerprint": "a"})
    with pytest.raises(ValueError, match="needs a file with"):
        read_checkpoint(path, "a")
