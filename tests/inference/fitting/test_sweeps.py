"""Sweeps: the same numbers everywhere, nothing lost, nothing computed twice, the guilty named."""

import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyro
import pytest
import torch

from beliefzoo.experiments.command import cli
from beliefzoo.experiments.command.report import leaves
from beliefzoo.inference import FailedJob, Sweep, sweep
from beliefzoo.inference.fitting import provenance, sweeps
from beliefzoo.inference.fitting.sweeps import chunk_size, job_key
from beliefzoo.models.data.storage import write_json
from fuzzing import TIMES
from kills import killed

Settings = Mapping[str, Any]


def square(job: Settings) -> dict[str, Any]:
    return {"square": job["x"] ** 2, "third": job["x"] / 3}


def drawn() -> list[float]:
    return [torch.rand(()).item(), np.random.random(), random.random()]  # noqa: NPY002


def noise(job: Settings) -> dict[str, Any]:
    """Everything that is global in a process."""
    level = pyro.param("level", torch.zeros(()))  # starts again only in an empty store
    with torch.no_grad():
        level += torch.randn(())
    weights = torch.randn(200, 200)
    return {
        "level": level.item(),
        "product": (weights @ weights).sum().item(),
        "drawn": drawn(),
        "threads": torch.get_num_threads(),
        "x": job["x"],
    }


def log(job: Settings) -> dict[str, Any]:
    """Leave a line for each time that the job is run."""
    with open(job["log"], "a") as file:
        file.write(f"{job['x']}\n")
    return {"x": job["x"]}


def misbehave(job: Settings) -> dict[str, Any]:
    """Do what the file `fault` says, if it is there."""
    fault = Path(job["fault"])
    what = fault.read_text() if fault.exists() else ""
    if job["x"] == 2 and what:
        if what == "die":
            os._exit(3)
        if what == "exit":
            sys.exit("enough")
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "nan":
            return {"figures": {"x": [0.0, float("nan")]}}
        if what == "none":
            return None  # type: ignore[return-value]
        raise ArithmeticError(f"x must not be {job['x']}")
    time.sleep(0.3 if what == "die" else 0.0)  # innocents run at the time of the death
    return {"x": job["x"]}


def nested(job: Settings) -> dict[str, Any]:
    """Threads that run a parallel loop inside the job."""
    inside = joblib.Parallel(n_jobs=4)(joblib.delayed(threading.get_ident)() for _ in range(8))
    return {"threads": len(set(inside)), "x": job["x"]}


def earlier_files(job: Settings) -> dict[str, Any]:
    return {"there": len(list(Path(job["folder"], "jobs").glob("*.json"))), "x": job["x"]}


def jobs(count: int, **others: Any) -> list[dict[str, Any]]:
    return [{"x": x, **{k: str(v) for k, v in others.items()}} for x in range(count)]


def run(
    function: Callable[[Settings], Mapping[str, Any]],
    of: list[dict[str, Any]],
    folder: Path,
    **options: Any,
) -> Sweep:
    return sweep(function, of, folder, progress=False, **options)


def failures_file(folder: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads((folder / "failures.json").read_text())
    failures: list[dict[str, Any]] = content["failures"]
    return failures


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


# --- numbers


def test_results_are_those_of_a_plain_loop(out: Path) -> None:
    found = run(square, jobs(5), out)
    assert list(found.results) == [square(job) for job in jobs(5)]
    assert (found.computed, found.skipped, found.failures) == (5, 0, ())
    assert [dict(job) for job in found.jobs] == jobs(5)


def test_the_same_numbers_on_every_backend_in_every_order_and_chunk(tmp_path: Path) -> None:
    reference = run(noise, jobs(6), tmp_path / "sequential").results
    assert len({result["product"] for result in reference if result}) == 6
    found = {}
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            found[backend] = run(noise, jobs(6), tmp_path / backend, chunk=2).results
    backwards = run(noise, jobs(6)[::-1], tmp_path / "backwards", chunk=4).results[::-1]
    alone = run(noise, jobs(6)[3:4], tmp_path / "alone").results
    assert reference == found["threading"] == found["loky"] == backwards
    assert reference[3:4] == alone
    assert {result["threads"] for result in reference if result} == {1}


def test_an_experiment_in_processes_agrees_with_its_runs(out: Path) -> None:
    experiment = cli.load("english-letters")
    options = ["--smoke", "--seeds", "1:3", "--set", "sequences=30", "--set", "replicates=1"]
    assert cli.main(["sweep", "english-letters", *options, "--jobs", "2", "--out", str(out)]) == 0
    (point,) = json.loads((out / "sweep.json").read_text())["points"]
    changes: dict[str, Any] = {**experiment.SMOKE, "sequences": 30, "replicates": 1}
    for seed in (1, 2):
        figures = experiment.run(experiment.Settings(**changes, seed=seed)).figures
        for path in ("evidence_gap_per_char", "baselines.letter_pairs_per_char"):
            assert point["figures"][path]["by_seed"][str(seed)] == dict(leaves(figures))[path]


@pytest.mark.slow
def test_dask(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    fault = tmp_path / "fault"
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(silence_logs="CRITICAL", **options) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        over = run(noise, jobs(6), tmp_path / "dask")
        fault.write_text("die")
        dying = run(misbehave, jobs(6, fault=fault), tmp_path / "dying", chunk=3)
    with joblib.parallel_config(backend="sequential"):
        reference = run(noise, jobs(6), tmp_path / "sequential")
    for one, other in zip(over.results, reference.results, strict=True):
        assert one is not None
        assert other is not None
        # Dask's own threads draw from Python's generator.
        assert {**one, "drawn": one["drawn"][:2]} == {**other, "drawn": other["drawn"][:2]}
    assert [failure.kind for failure in dying.failures] == ["WorkerDied"]
    assert [result is None for result in dying.results] == [x == 2 for x in range(6)]


def test_the_caller_keeps_its_generators_and_parameters(out: Path) -> None:
    pyro.param("level", torch.tensor(7.0))
    pyro.set_rng_seed(0)
    expected = drawn()
    pyro.set_rng_seed(0)
    threads = torch.get_num_threads()
    run(noise, jobs(2), out)
    assert drawn() == expected
    assert pyro.param("level").item() == 7.0
    assert torch.get_num_threads() == threads


def test_parallel_loops_inside_a_job_run_in_sequence(out: Path) -> None:
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = run(nested, jobs(3), out)
    assert [result["threads"] for result in found.results if result] == [1, 1, 1]


# --- resuming


def test_what_has_its_result_is_skipped_and_more_can_be_added(tmp_path: Path, out: Path) -> None:
    lines = tmp_path / "log"
    first = run(log, jobs(3, log=lines), out)
    again = run(log, jobs(3, log=lines), out)
    more = run(log, jobs(5, log=lines)[::-1], out)
    assert lines.read_text().split() == ["0", "1", "2", "4", "3"]
    assert (again.computed, again.skipped) == (0, 3)
    assert (more.computed, more.skipped) == (2, 3)
    assert again.results == first.results == more.results[::-1][:3]
    assert again.keys == first.keys


def test_another_version_or_name_is_computed_anew(tmp_path: Path, out: Path) -> None:
    lines = tmp_path / "log"
    for options in ({}, {"version": "2"}, {"version": "2"}, {"name": "other"}):
        run(log, jobs(1, log=lines), out, **options)
    assert lines.read_text().split() == ["0", "0", "0"]
    assert len(list((out / "jobs").iterdir())) == 3


def test_a_change_of_the_source_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = tmp_path / "experiment.py"
    further.write_text("one")
    before = provenance.code_version(), provenance.code_version(further)
    assert before == (provenance.code_version(), provenance.code_version(further))
    further.write_text("two")
    assert provenance.code_version(further) not in before
    copy = tmp_path / "inference"
    shutil.copytree(Path(provenance.__file__).parents[1], copy)
    monkeypatch.setattr(provenance, "__file__", str(copy / "fitting" / "provenance.py"))
    assert provenance.code_version() == before[0]
    with (copy / "fitting" / "loop.py").open("a") as file:
        file.write("\n# changed\n")
    assert provenance.code_version() != before[0]


def test_a_result_is_filed_before_the_next_job_of_its_chunk_begins(out: Path) -> None:
    found = run(earlier_files, jobs(3, folder=out), out, chunk=3)
    assert [result["there"] for result in found.results if result] == [0, 1, 2]
    assert sorted(path.suffix for path in (out / "jobs").iterdir()) == [".json"] * 3


def test_a_file_says_what_it_is(out: Path) -> None:
    found = run(square, [{"x": 3, "where": Path("a"), "range": (1, 2.5)}], out)
    content = json.loads((out / "jobs" / f"{found.keys[0]}.json").read_text())
    assert content["settings"] == {"x": 3, "where": "a", "range": [1, 2.5]}
    assert content["result"] == {"square": 9, "third": 1.0} == found.results[0]
    assert content["function"].endswith("test_sweeps.square")
    assert content["version"] == provenance.code_version()
    assert content["versions"] == provenance.versions()
    assert content["seconds"] >= 0


def test_an_interrupt_leaves_what_is_finished(tmp_path: Path, out: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("interrupt")
    with pytest.raises(KeyboardInterrupt):
        run(misbehave, jobs(5, fault=fault), out)
    assert [path.suffix for path in (out / "jobs").iterdir()] == [".json"] * 2
    fault.unlink()
    found = run(misbehave, jobs(5, fault=fault), out)
    assert (found.computed, found.skipped) == (3, 2)


# --- failures


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("raise", "ArithmeticError", "x must not be 2"),
        ("exit", "SystemExit", "enough"),
        ("nan", "ValueError", "result.figures.x[1] must be finite"),
        ("none", "ValueError", "result: must be a mapping, got NoneType"),
    ],
)
def test_a_job_that_fails_is_recorded_and_run_again(
    tmp_path: Path, out: Path, what: str, kind: str, message: str
) -> None:
    fault = tmp_path / "fault"
    fault.write_text(what)
    asked = jobs(4, fault=fault)
    found = run(misbehave, asked, out, chunk=4)
    (failure,) = found.failures
    assert isinstance(failure, FailedJob)
    assert (failure.settings, failure.kind) == (asked[2], kind)
    assert message in failure.message
    assert "Traceback" in failure.traceback
    assert [result is None for result in found.results] == [False, False, True, False]
    assert found.computed == 3
    (recorded,) = failures_file(out)
    assert (recorded["settings"], recorded["kind"]) == (asked[2], kind)
    assert recorded["message"] == failure.message

    run(misbehave, asked[:2], out)  # a sweep without that job does not forget it
    assert len(failures_file(out)) == 1
    fault.unlink()
    again = run(misbehave, asked, out)
    assert (again.computed, again.skipped, again.failures) == (1, 3, ())
    assert failures_file(out) == []


def test_a_worker_that_dies_costs_its_own_job_alone(tmp_path: Path, out: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("die")
    asked = jobs(3, fault=fault)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        found = run(misbehave, asked, out)
    (failure,) = found.failures
    assert (failure.settings, failure.kind) == (asked[2], "WorkerDied")
    assert failure.message.startswith("TerminatedWorkerError")
    assert [result is None for result in found.results] == [False, False, True]
    assert [recorded["settings"] for recorded in failures_file(out)] == [asked[2]]
    assert [path.suffix for path in (out / "jobs").iterdir()] == [".json"] * 2
    fault.unlink()
    again = run(misbehave, asked, out)
    assert (again.computed, again.skipped, again.failures) == (1, 2, ())


def test_a_job_that_is_sent_again_after_a_death_does_not_kill_again(out: Path) -> None:
    """As Dask does: its mark is there, its result is not."""
    (out / "jobs").mkdir(parents=True)
    origin = sweeps._Origin(out, "square", "1")
    job = sweeps._Job("key", 0, {"x": 3})
    mark = out / "jobs" / "key.running"
    mark.touch()
    (report,) = sweeps._run_chunk(square, origin, [job])
    assert report.death
    assert report.content is report.failure is None
    mark.unlink()
    (report,) = sweeps._run_chunk(square, origin, [job])
    assert report.content is not None
    (repeated,) = sweeps._run_chunk(log, origin, [job])  # which would fail for want of a file
    assert repeated.content == report.content


def test_marks_of_a_run_that_was_killed_do_not_matter(out: Path) -> None:
    key = run(square, jobs(2), out).keys[1]
    result, mark = (out / "jobs" / f"{key}{suffix}" for suffix in (".json", ".running"))
    result.rename(mark)
    assert run(square, jobs(2), out).computed == 1
    mark.touch()  # killed between writing the result and removing the mark
    assert run(square, jobs(2), out).computed == 0
    assert not mark.exists()


def test_errors_of_the_backend_itself_are_raised(out: Path) -> None:
    lock = threading.Lock()
    with (
        joblib.parallel_config(backend="loky", n_jobs=2),
        pytest.raises(Exception, match=r"[Pp]ickle"),
    ):
        run(lambda job: {"x": lock.locked()}, jobs(2), out, name="locked")


def test_workers_need_not_see_the_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(function: Any, origin: Any, chunk: Any) -> Any:
        return run_chunk(function, origin._replace(folder=out / "not" / "here"), chunk)

    run_chunk = sweeps._run_chunk
    monkeypatch.setattr(sweeps, "_run_chunk", elsewhere)
    found = run(square, jobs(3), out)
    assert sorted(path.stem for path in (out / "jobs").iterdir()) == sorted(found.keys)
    assert run(square, jobs(3), out).skipped == 3


# --- chunks


def test_chunk_sizes() -> None:
    assert [chunk_size(n, 2) for n in (1, 10, 31, 32, 100, 128, 10_000)] == [1, 1, 1, 2, 6, 8, 8]
    assert chunk_size(100, 100) == 1


@pytest.mark.parametrize(
    ("count", "chunk", "sizes"), [(5, 2, [2, 2, 1]), (3, None, [1, 1, 1]), (40, None, [2] * 20)]
)
def test_jobs_are_sent_in_chunks(
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    chunk: int | None,
    sizes: list[int],
) -> None:
    sent: list[int] = []

    def watched(function: Any, origin: Any, chunk: Any) -> Any:
        sent.append(len(chunk))
        return run_chunk(function, origin, chunk)

    run_chunk = sweeps._run_chunk
    monkeypatch.setattr(sweeps, "_run_chunk", watched)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = run(square, jobs(count), out, chunk=chunk)
    assert sorted(sent, reverse=True) == sizes
    assert found.computed == count


# --- keys


def test_keys_know_values_and_types_but_not_order() -> None:
    key = job_key({"a": 1, "b": [1.0, "x"]}, "f", "1")
    assert key == job_key({"b": (1.0, "x"), "a": np.int64(1)}, "f", "1")
    others = [
        job_key({"a": 1.0, "b": [1.0, "x"]}, "f", "1"),
        job_key({"a": True, "b": [1.0, "x"]}, "f", "1"),
        job_key({"a": "1", "b": [1.0, "x"]}, "f", "1"),
        job_key({"a": 1, "b": [1.0, "x"]}, "g", "1"),
        job_key({"a": 1, "b": [1.0, "x"]}, "f", "2"),
    ]
    assert len({key, *others}) == 6


# --- refusals


@pytest.mark.parametrize(
    ("of", "options", "message"),
    [
        ([1], {}, r"jobs\[0\]: must be a mapping, got int"),
        ([{"x": 1}, {"x": 1}], {}, r"jobs\[1\]: must differ from jobs\[0\], got {'x': 1}"),
        ([{"x": float("inf")}], {}, r"jobs\[0\]\.x must be finite.*got inf"),
        ([{"x": torch.ones(1)}], {}, r"jobs\[0\]\.x must be a number.*got Tensor"),
        ([{"x": 1}], {"workers": 0}, "workers: must be a whole number other than 0.*got 0"),
        ([{"x": 1}], {"chunk": 0}, "chunk: must be a whole number >= 1, got 0"),
        ([{"x": 1}], {"name": ""}, "name: must be a text, got ''"),
        ([{"x": 1}], {"function": 3}, "function: must be callable, got 3"),
        ([{"x": 1}], {"function": lambda job: job}, "function: must be defined at the top"),
    ],
)
def test_bad_input(out: Path, of: Any, options: dict[str, Any], message: str) -> None:
    arguments = {"function": square, **options}
    with pytest.raises(ValueError, match=message):
        sweep(arguments.pop("function"), of, out, **arguments)
    assert not out.exists()


def test_a_file_is_no_folder(out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"folder: must be a folder, got .*sweep"):
        run(square, jobs(1), out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold what sweep wrote .*Expecting value"),
        ("[]", "must hold what sweep wrote .*with list"),
        ("{}", r"must hold what sweep wrote .*with \[\]"),
        ('{"checksum": "0"}', "must hold what sweep wrote .*does not have its checksum"),
        ({"function": "f"}, "must hold what sweep wrote .*needs a file with"),
        ({"function": "f", "version": "1", "settings": [], "result": {}}, "'settings' is of type"),
        ({"function": "f", "version": "1", "settings": {}, "result": {}}, "must be of"),
    ],
)
def test_a_file_of_others_is_named(
    out: Path, content: str | dict[str, object], message: str
) -> None:
    key = run(square, jobs(2), out).keys[1]
    path = out / "jobs" / f"{key}.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        write_json(path, content)
    with pytest.raises(ValueError, match=message) as raised:
        run(square, jobs(3), out)
    assert str(path) in str(raised.value)
    assert len(list((out / "jobs").iterdir())) == 2


def slow_square(job: Settings) -> dict[str, Any]:
    time.sleep(0.01)
    return {"square": job["x"] ** 2, "text": "a long result " * 1000}


KILLS = 4 * TIMES


@pytest.mark.cases(KILLS)
def test_fuzz_killed_sweeps_go_on(out: Path) -> None:
    """Killed at random moments; what is done counts, and nothing is left over."""
    rng = random.Random(0)
    of = jobs(20)
    whole = [slow_square(job) for job in of]
    for number in range(KILLS):
        killed(lambda: run(slow_square, of, out, workers=1), rng.random() * 0.4)
        if number % 4 == 3:
            there = len(list((out / "jobs").glob("*.json")))
            found = run(slow_square, of, out, workers=1)
            assert list(found.results) == whole
            assert (found.skipped, found.failures) == (there, ())
            assert {path.suffix for path in (out / "jobs").iterdir()} == {".json"}
            assert sorted(path.name for path in out.iterdir()) == ["failures.json", "jobs"]
            shutil.rmtree(out)


def test_progress_counts(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("raise")
    run(misbehave, jobs(2, fault=fault), out)
    sweep(misbehave, jobs(5, fault=fault), out)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "5/5" in last
    assert "done=2, failed=1, skipped=2" in last
