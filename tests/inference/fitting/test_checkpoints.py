"""Whose a checkpoint is: what counts as another fit, and what does not."""

import dataclasses
from types import FunctionType

import pytest
import torch
from pyro.distributions import Gamma
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    DeepGuide,
    ExactFilter,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    TrajectoryNetwork,
)
from beliefzoo.inference.fitting.checkpoints import (
    digest_of,
    fingerprint,
    made_with,
    read_checkpoint,
)
from beliefzoo.models import DeepMarkovModel, HiddenMarkovModel, Sequences
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


def guided(filter, guide=BeliefGuide, **options):
    """A guide of the same first weights whenever it has the same sizes."""
    torch.manual_seed(0)
    model = options.pop("model", MODEL)
    return guide(model, filter() if isinstance(filter, FunctionType) else filter, **options)


def lstm(**options):
    """Makes the filter with the generator as ``guided`` sets it."""
    return lambda: LSTMFilter(**{"hidden_size": 3, **options})


def frozen():
    made = LSTMFilter(3)
    made.build(MODEL)
    made.network.weight_hh_l0.requires_grad_(False)
    return made


def with_first_weights(change):
    guide = guided(lstm())
    with torch.no_grad():
        guide.filter.network.weight_hh_l0[2, 1] += change
    return guide


DEEP = DeepMarkovModel(1, "gaussian", transition_width=2, emission_width=2)


def deep(**options):
    return guided(lambda: TrajectoryNetwork(hidden_size=2), DeepGuide, model=DEEP, **options)


RATE = Gamma(1.0, 0.1).expand([2]).to_event(1)

GUIDES = {
    "same": lambda: guided(lstm()),
    "gain": lambda: guided(lstm(gain=1.0 + 1e-15)),
    "memory": lambda: guided(lstm(memory="c")),
    "layers": lambda: guided(lstm(layers=2)),
    "reads": lambda: guided(lstm(reads="both")),
    "forward": lambda: guided(lstm(), ForwardGuide),
    "mean field": lambda: guided(lstm(), MeanFieldGuide),
    "backward": lambda: guided(lstm(direction="backward"), MeanFieldGuide),
    "both": lambda: guided(lstm(direction="both"), MeanFieldGuide),
    "gru": lambda: guided(lambda: GRUFilter(3)),
    "normal": lambda: guided(lstm(), parameters="normal"),
    "map": lambda: guided(lstm(), parameters="map"),
    "ml": lambda: guided(lstm(), parameters="ml"),
    "frozen": lambda: guided(frozen),
    "users": lambda: guided(lambda: LSTMFilter(network=nn.LSTM(1, 3))),
    "users dropout": lambda: guided(
        lambda: LSTMFilter(network=nn.LSTM(1, 3, num_layers=2, dropout=0.1))
    ),
    "users more dropout": lambda: guided(
        lambda: LSTMFilter(network=nn.LSTM(1, 3, num_layers=2, dropout=0.2))
    ),
    "users frozen": lambda: guided(lambda: LSTMFilter(network=nn.LSTM(1, 3), frozen=True)),
    "one weight in the last digit": lambda: with_first_weights(1e-7),
    "known": lambda: guided(lstm(), model=MODEL.with_parameters(initial=[0.5, 0.5])),
    "prior": lambda: guided(
        lstm(),
        model=HiddenMarkovModel(
            2, "poisson", priors={"rate": Gamma(1.0, 0.1).expand([2]).to_event(1)}
        ),
    ),
    "deep": deep,
    "deep with particles": lambda: deep(particles=2),
    "deep with annealing": lambda: deep(annealing=7),
    "deep with a weight": lambda: deep(least_weight=0.3),
}


def test_no_two_guides_are_taken_for_one():
    """And the same guide made twice is one."""

    def of(guide, **told):
        return fingerprint(guide, DATA, None, "elbo", told, 0)

    prints = {name: of(make()) for name, make in GUIDES.items()}
    assert len(set(prints.values())) == len(prints)
    for name, make in GUIDES.items():
        assert of(make()) == prints[name], name


def test_starts_count_to_the_last_digit():
    guide = guided(lstm())
    starts = [{"rate": torch.tensor([x] * 5000, dtype=torch.float64)} for x in (1, 1 + 1e-12)]
    starts += [{"rate": starts[0]["rate"].float()}, {}]
    prints = {fingerprint(guide, DATA, None, "elbo", {"start": start}, 0) for start in starts}
    assert len(prints) == 4


def test_all_that_a_fit_is_told_counts():
    told = {
        "guide": guided(lstm()),
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
    torch.manual_seed(0)
    made_anew = BeliefGuide(HiddenMarkovModel(2, "poisson"), LSTMFilter(3)).eval()
    assert fingerprint(**told | {"guide": made_anew}) == own
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

    assert of(Remembering()) == of(Remembering()) != of(Remembering(2))
    first = of(ExactFilter(), Weighing)
    Weighing.weight = 2.0
    assert of(ExactFilter(), Weighing) != first


WHOLE = {
    "fingerprint": "a",
    "made_with": made_with(),
    "step": 3,
    "start": {},
    "answers": [],
    "guide": {},
    "optimizer": {},
    "random": torch.get_rng_state(),
    "best": None,
    **dict.fromkeys(("losses", "evaluations", "restart_bounds"), torch.zeros(0)),
}


def test_reading(tmp_path):
    path = tmp_path / "fit.pt"
    assert read_checkpoint(None, "a") is None
    assert read_checkpoint(path, "a") is None
    write_tensors(path, WHOLE, "checkpoint")
    assert read_checkpoint(path, "a")["step"] == 3
    with pytest.raises(ValueError, match="belongs to another fit"):
        read_checkpoint(path, "b")
    write_tensors(path, {"fingerprint": "a"}, "checkpoint")
    with pytest.raises(ValueError, match="needs a file with"):
        read_checkpoint(path, "a")


@pytest.mark.parametrize("name", WHOLE)
def test_parts_of_other_types_are_refused(name, tmp_path):
    write_tensors(tmp_path / "ck", WHOLE | {name: 0.5}, "checkpoint")
    with pytest.raises(ValueError, match=f"{name}' is of type .*ck' with 0.5"):
        read_checkpoint(tmp_path / "ck", "a")


def test_other_versions_are_told(tmp_path):
    write_tensors(
        tmp_path / "ck", WHOLE | {"made_with": made_with() | {"torch": "0.4"}}, "checkpoint"
    )
    with pytest.warns(UserWarning, match=r"was begun with torch 0.4, now \d"):
        read_checkpoint(tmp_path / "ck", "a")


def test_what_a_killed_fit_left_is_removed(tmp_path):
    """And nothing else: neither another file's, nor a name that somebody chose."""
    kept = [".ck.draft", f".ck2.{'a' * 32}", f"ck.{'a' * 32}", f".ck.{'a' * 31}", "fit[1]"]
    for name in (*kept, f".ck.{'0a' * 16}", f".fit[1].{'f' * 32}"):
        (tmp_path / name).write_text("")
    for name in ("ck", "fit[1]"):
        write_tensors(tmp_path / name, WHOLE, "checkpoint")
        read_checkpoint(tmp_path / name, "a")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "ck"}
