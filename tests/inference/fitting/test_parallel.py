"""Several processes make the fit that one would: weights, minibatches, errors, files."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from itertools import pairwise

import pytest
import torch

from beliefzoo.inference import BeliefGuide, ExactFilter, fit
from beliefzoo.inference.fitting.parallel import Processes
from beliefzoo.models import HiddenMarkovModel

needs_fabric = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None,
    reason="needs lightning-fabric: pip install beliefzoo[distributed]",
)


class Others:
    """As Lightning Fabric, for one of several processes that were never launched."""

    def __init__(self, world_size=3, global_rank=0):
        self.world_size, self.global_rank = world_size, global_rank

    def all_reduce(self, data, group=None, reduce_op="mean"):
        raise AssertionError("nothing to talk to")

    broadcast = all_reduce


# Shares


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 20])
def test_the_mean_of_the_weighted_parts_is_the_sum(processes, n, monkeypatch):
    monkeypatch.setattr("beliefzoo.inference.fitting.parallel._connected", lambda: True)
    parts = [Processes(Others(processes, rank)).part(n) for rank in range(processes)]
    values = torch.rand(n, dtype=torch.float64)
    weighted = sum(weight * float(values[rows].sum()) for rows, weight in parts)
    assert weighted / processes == pytest.approx(float(values.sum()), rel=1e-12)
    sizes = [rows.stop - rows.start for rows, _ in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if n >= processes:
        assert [(parts[0][0].start, parts[-1][0].stop)] == [(0, n)]
        assert all(one[0].stop == other[0].start for one, other in pairwise(parts))


def test_without_fabric_there_is_one_process():
    alone = Processes(None)
    assert (alone.size, alone.rank, alone.first) == (1, 0, True)
    assert alone.part(5) == (slice(0, 5), 1.0)
    assert alone.noise() is None
    assert alone.by_first(lambda: 3) == 3


def test_what_is_no_fabric_or_not_launched_is_refused():
    model = HiddenMarkovModel(2, "poisson")
    data = model.sample(3, 4, seed=0).data
    guide = BeliefGuide(model, ExactFilter())
    with pytest.raises(ValueError, match=r"fabric: must be a lightning.fabric.Fabric, got 'ddp'"):
        fit(model, guide, data, fabric="ddp", progress=False)
    with pytest.raises(ValueError, match=r"fabric: must be launched .* one of 3 processes"):
        fit(model, guide, data, fabric=Others(), progress=False)


# Two processes against one

SCRIPT = textwrap.dedent(
    '''
    """Fits in as many processes as told; every process leaves what it got in a file."""

    import io
    import sys
    import warnings
    from dataclasses import replace
    from pathlib import Path

    import pyro.distributions as dist
    import torch
    from lightning_fabric import Fabric

    from beliefzoo.inference import (
        BeliefGuide, ExactFilter, FitSettings, ForwardGuide, LSTMFilter, NonFiniteLossError, fit
    )
    from beliefzoo.models import HiddenMarkovModel, SequenceFolder, Sequences, write_folder

    out, size = Path(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")  # what Lightning and gloo have to say
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    fabric = Fabric(accelerator="cpu", devices=size, strategy="ddp" if size > 1 else "auto")
    fabric.launch()
    rank = fabric.global_rank
    found = {}

    model = HiddenMarkovModel(2, "poisson", ordered=True)
    truth = model.with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 8.0]
    )
    lengths = torch.randint(2, 9, (31,), generator=torch.Generator().manual_seed(0))
    data = truth.sample(31, lengths, seed=0).data
    if fabric.global_rank == 0:
        write_folder(data, out / "data", file_size=300)
    fabric.barrier()

    SETTINGS = FitSettings(steps=9, batch_size=7, sleep_steps=3, evaluate_every=3)


    def keep(name, result):
        found[name] = {
            "losses": result.losses,
            "evaluations": result.evaluations,
            "bounds": result.restart_bounds,
            **result.guide.state_dict(),
        }


    def run(name, guide, data=data, settings=SETTINGS, **options):
        # Processes that begin with other weights end with the same.
        torch.manual_seed(rank)
        guide = guide()
        torch.manual_seed(100 + rank)
        result = fit(guide.model, guide, data, settings=settings, fabric=fabric, seed=3, **options)
        keep(name, result)
        return result


    def lstm():
        return BeliefGuide(model, LSTMFilter(4))


    run("uneven minibatches", lstm)
    run("fewer sequences than processes", lstm, settings=replace(SETTINGS, batch_size=1))
    run("restarts", lstm, settings=replace(SETTINGS, restarts=2, restart_steps=3, particles=2))
    run("a folder", lstm, data=SequenceFolder(out / "data"))
    run("forward", lambda: ForwardGuide(model, LSTMFilter(4), parameters="map"))
    run(
        "early stopping",
        lambda: BeliefGuide(model, LSTMFilter(8), parameters="ml"),
        settings=replace(
            SETTINGS, steps=80, learning_rate=0.1, evaluate_every=2, patience=2, holdout=0.5
        ),
    )
    # In one process a chain in closed form climbs in machine code, from more starts.
    prior = dist.Weibull(torch.tensor([2.0, 9.0]), 2.0).to_event(1)
    open_form = HiddenMarkovModel(2, "poisson", priors={"rate": prior})
    run(
        "best by the loss",
        lambda: BeliefGuide(open_form, ExactFilter(), parameters="map"),
        settings=replace(
            SETTINGS, holdout=0, batch_size=31, parameter_learning_rate=1.0, schedule="constant",
            steps=14,
        ),
    )
    for objective in ("iwae", "rws", "forward_kl"):
        run(objective, lstm, objective=objective, settings=replace(SETTINGS, particles=2))

    # A fit that is interrupted goes on from the file that the first process wrote.
    def interrupt(step, _):
        if step == 6:
            raise KeyboardInterrupt

    long = replace(SETTINGS, checkpoint_every=4)
    path = out / f"fit-{size}.pt"
    try:
        run("interrupted", lstm, settings=long, checkpoint=path, callback=interrupt)
    except KeyboardInterrupt:
        fabric.barrier()
    behind_the_checksum = io.BytesIO(path.read_bytes().partition(b"\\n")[2])
    assert torch.load(behind_the_checksum, weights_only=True)["step"] == 4
    run("resumed", lstm, settings=long, checkpoint=path)

    # What one process finds out, all know.
    class Broken(ExactFilter):
        def forward(self, laws):
            beliefs = super().forward(laws).clone()
            if "29" in laws.data.labels:
                beliefs[list(laws.data.labels).index("29")] = torch.nan
            return beliefs

    errors = []
    cases = [
        (lambda: BeliefGuide(model, Broken()), {"settings": replace(SETTINGS, batch_size=31)}),
        (lstm, {"settings": long, "checkpoint": path, "objective": "iwae"}),
    ]
    if size > 1:
        cases.append((lstm, {"data": data[: 20 + rank]}))
    for guide, options in cases:
        try:
            run("error", guide, **{"heldout": data[:3], **options})
        except (ValueError, NonFiniteLossError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    found["errors"] = errors
    torch.save(found, out / f"{size}-{rank}.pt")
    '''
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a single process, and each of two, found."""
    out = tmp_path_factory.mktemp("parallel")
    script = out / "script.py"
    script.write_text(SCRIPT)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "SLURM"))}
    here = os.pathsep.join(path for path in sys.path if path)
    for size in ("1", "2"):
        done = subprocess.run(
            [sys.executable, script, out, size],
            env=inherited | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        if size == "1":
            (out / "data").rename(out / "data of one")
    names = "1-0", "2-0", "2-1"
    return [torch.load(out / f"{name}.pt", weights_only=True) for name in names]


CASES = [
    "uneven minibatches",
    "fewer sequences than processes",
    "restarts",
    "a folder",
    "forward",
    "early stopping",
    "best by the loss",
    "resumed",
]


@needs_fabric
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(results, case):
    one, first, second = (found[case] for found in results)
    assert one.keys() == first.keys()
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-7, atol=1e-10, msg=name)
        assert torch.equal(first[name], second[name]), name
    if case == "early stopping":
        assert len(one["losses"]) < 80


@needs_fabric
@pytest.mark.parametrize("objective", ["iwae", "rws", "forward_kl"])
def test_objectives_with_draws_stay_together(results, objective):
    """Every process has its own draws, and all have the same weights; as good as those of one."""
    one, first, second = (found[objective] for found in results)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    assert not torch.equal(first["losses"], one["losses"])
    assert float(first["losses"][0]) == pytest.approx(float(one["losses"][0]), rel=0.3)


@needs_fabric
def test_a_resumed_fit_is_the_uninterrupted_one(results):
    for found in results:
        for name, value in found["uneven minibatches"].items():
            assert torch.equal(found["resumed"][name], value), name


@needs_fabric
def test_what_one_process_finds_out_all_raise(results):
    one, first, second = (found["errors"] for found in results)
    assert first == second
    assert one == [error.replace("fit-2.pt", "fit-1.pt") for error in first[:2]]
    assert one[0].startswith("NonFiniteLossError: fit: loss nan is not finite at step 0, ")
    assert "site 'states', sequence '29'" in one[0]
    assert "belongs to another fit" in one[1]
    assert first[2].startswith("ValueError: data, heldout, objective, settings, seed: must be the")
