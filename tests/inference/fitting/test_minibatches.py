"""Minibatches: a function of seed and step, shared out whole among processes."""

import pytest
import torch

from beliefzoo.inference.fitting.minibatches import Minibatches
from beliefzoo.inference.fitting.parallel import Processes
from beliefzoo.models import HiddenMarkovModel, SequenceFolder, Sequences, write_folder

MODEL = HiddenMarkovModel(2, "poisson")


class One:
    """One of several processes that need not talk."""

    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank

    def all_reduce(self, data, group=None, reduce_op="mean"):
        raise AssertionError("nothing to say")

    broadcast = all_reduce


def numbered(n):
    """Sequences whose values tell which they are."""
    return Sequences.from_arrays([[float(k)] * (1 + k % 3) for k in range(n)])


def make(data, heldout=None, *, share=0.0, size=4, seed=0, processes=None):
    return Minibatches(
        MODEL,
        data,
        heldout,
        share=share,
        size=size,
        seed=seed,
        processes=processes or Processes(None),
    )


def members(data):
    return data.values[:, 0, 0].long().tolist()


def test_an_epoch_visits_every_sequence_once_but_for_the_remainder():
    batches = make(numbered(14))
    epochs = [[members(batches.whole(step)) for step in range(e, e + 3)] for e in (0, 3)]
    for epoch in epochs:
        seen = [member for batch in epoch for member in batch]
        assert len(seen) == len(set(seen)) == 12
    assert epochs[0] != epochs[1]
    # In whatever order they are asked for: a resumed fit begins in the middle.
    again = make(numbered(14))
    assert [members(again.whole(step)) for step in (4, 1, 3)] == [
        epochs[1][1],
        epochs[0][1],
        epochs[1][0],
    ]
    assert members(make(numbered(14), seed=1).whole(0)) != epochs[0][0]


@pytest.mark.parametrize("size", [1, 5, 14], ids=["one", "some", "all"])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_the_parts_of_processes_are_the_minibatch(tmp_path, monkeypatch, size, world, folder):
    monkeypatch.setattr("beliefzoo.inference.fitting.parallel._connected", lambda: True)
    data = numbered(14)
    kept = SequenceFolder(write_folder(data, tmp_path / "data", file_size=40)) if folder else data
    ranks = [make(kept, size=size, processes=Processes(One(world, r))) for r in range(world)]
    alone = make(data, size=size)
    for step in (0, 3, 4):
        whole, scale = alone.part(step)
        assert scale == 14 / size
        assert members(ranks[-1].whole(step)) == members(whole)
        parts = [batches.part(step) for batches in ranks]
        if size >= world:
            assert [m for part in parts for m in members(part.data)] == members(whole)
        total = sum(part.scale * float(part.data.values.sum()) for part in parts) / world
        assert total == pytest.approx(scale * float(whole.values.sum()))
        assert all(part.data.max_length <= whole.max_length for part in parts)
    assert all(batches.full == (size == 14) for batches in ranks)


def test_what_is_held_out(tmp_path, monkeypatch):
    data = numbered(30)
    folder = SequenceFolder(write_folder(data, tmp_path / "data", file_size=40))
    for kept in (data, folder):
        batches = make(kept, share=0.2)
        train, heldout = data.split([0.8, 0.2], seed=0)
        assert members(batches.train[:]) == members(train)
        assert members(batches.heldout[:]) == members(heldout)
        assert members(batches.sample) == members(train)
        assert batches.n_steps == train.n_steps
        assert make(kept, share=0.0).heldout is None
        given = make(kept, numbered(3), share=0.2)
        assert members(given.heldout) == [0, 1, 2]
        assert len(given.train) == 30
    assert make(data[:19], share=0.2).heldout is None
    assert isinstance(make(folder, share=0.2).heldout, Sequences)
    monkeypatch.setattr("beliefzoo.inference.fitting.minibatches.LARGEST_HELDOUT", 4)
    batches = make(folder, share=0.2)
    assert (len(batches.train), len(batches.heldout)) == (26, 4)
    assert not {*members(batches.train[:])} & {*members(batches.heldout)}


def test_all_of_a_folder_is_read_once(tmp_path, monkeypatch):
    folder = SequenceFolder(write_folder(numbered(5), tmp_path / "data"))
    batches = make(folder, size=64)
    first = batches.part(0).data
    assert batches.part(1).data is first
    assert torch.equal(batches.whole(2).values, first.values)
