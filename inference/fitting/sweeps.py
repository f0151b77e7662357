"""Sweeps: one function over many settings, resumable, with the same numbers on every backend.

Jobs run through joblib on the backend that the caller chooses, in processes, in threads, or on a
Dask or Ray cluster::

    with joblib.parallel_config(backend="dask"):
        found = sweep(evidence_of, [{"states": k, "seed": s} for k in (2, 3) for s in range(10)],
                      "runs/states")

The folder holds ``jobs/KEY.json``, one file per finished job, and ``failures.json``. A job that has
its file is not run again: an interrupted sweep continues, and more seeds or values are added by
asking for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro

from ...models.boundary import boundary
from ...models.checks import require, require_count, require_jobs
from ...models.data.storage import Form, read_json, reading, remove_unfinished, write_json
from ...models.randomness import TURNS, one_thread, seeded
from .plain import plain
from .progress import progress_of
from .provenance import code_version, versions

Result = Mapping[str, Any]
Function = Callable[[Mapping[str, Any]], Result]

LARGEST_CHUNK = 8
"""A task costs a few ms to send, jobs take longer: more of them a task would gain nothing."""

CHUNKS_PER_WORKER = 8
"""At least so many tasks a worker, so that no worker is idle for long at the end."""

PATIENCE = 60.0
"""Seconds to wait for the worker that takes a dead one's place."""

_DEATHS = frozenset(
    {
        "TerminatedWorkerError",  # loky
        "KilledWorker",  # Dask, after it has tried the task on several workers;
        "CancelledError",  # where the inputs of the task died with a worker
        "WorkerCrashedError",  # Ray: a task's process,
        "RayActorError",  # or the actor's that serves joblib
    }
)
"""Names of the errors, or of their bases, by which backends say that a worker died."""

_RESULT: Form = {"function": str, "version": str, "settings": dict, "result": dict}

_FAILURES: Form = {"function": str, "version": str, "failures": list}


@dataclass(frozen=True)
class FailedJob:
    """A job that raised an exception, or whose worker died.

    Attributes:
        key: name of its result file.
        settings: settings of the job.
        kind: type of the exception; ``WorkerDied`` in the second case.
        message: of the exception, or the backend's.
        traceback: empty if the worker died.

    >>> from beliefzoo.inference import FailedJob
    >>> failed = FailedJob("0a1b", {"seed": 3}, "ValueError", "rate: must be positive, got -1", "")
    >>> f"{failed.settings}: {failed.kind}"
    "{'seed': 3}: ValueError"
    """

    key: str
    settings: Mapping[str, Any]
    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep, in the order of the jobs; made by :func:`sweep`.

    Attributes:
        folder: where the results are kept.
        keys: names of the jobs' result files.
        jobs: settings of the jobs.
        results: read from the files; None for a job that failed.
        failures: the failed jobs.
        computed: number of jobs that this call finished.
        skipped: number of jobs that had a result already.
        seconds: duration.

    >>> import tempfile
    >>> from beliefzoo.inference import sweep
    >>> jobs = [{"x": x} for x in (1, 0)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = sweep(lambda job: {"inverse": 1 / job["x"]}, jobs, folder, name="inverse",
    ...                   workers=1, progress=False)
    >>> found.results, found.failures[0].kind
    (({'inverse': 1.0}, None), 'ZeroDivisionError')
    """

    folder: Path
    keys: tuple[str, ...]
    jobs: tuple[Mapping[str, Any], ...]
    results: tuple[Result | None, ...]
    failures: tuple[FailedJob, ...]
    computed: int
    skipped: int
    seconds: float


class _Origin(NamedTuple):
    """Folder, function and version that results belong to."""

    folder: Path
    function: str
    version: str


class _Job(NamedTuple):
    key: str
    seed: int
    settings: Mapping[str, Any]


class _GivenUp(NamedTuple):
    """A task that Dask has given up."""

    error: BaseException


class _Report(NamedTuple):
    """A worker's report of a job: the content of its result file, or the failure."""

    job: _Job
    content: Mapping[str, Any] | None = None
    failure: FailedJob | None = None
    death: str = ""
    """Set instead of these two: a worker died in this job before."""


@boundary
def sweep(
    function: Function,
    jobs: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    name: str | None = None,
    version: str | None = None,
    workers: int | None = None,
    chunk: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Runs a function on the settings of every job that has no result yet.

    Choose the backend with ``joblib.parallel_config``. The numbers depend neither on it nor on the
    order of the jobs: each runs on one thread, with an empty Pyro parameter store and with the
    global generators of NumPy, torch and Python seeded by its settings (but Dask's own threads also
    draw from Python's), and parallel loops inside it run in sequence. In threads jobs take turns.

    A job that raises does not stop the others, nor does one whose worker dies (with two or more
    worker processes): the jobs that were running then are run again one by one, and the one that
    dies again is reported. The next call runs failed jobs again.

    Args:
        function: settings -> result, a mapping that JSON can hold, with finite numbers.
        jobs: settings of each job, also such values; no two alike.
        folder: where results are kept; created if missing. Workers write to it if they see it,
            otherwise the caller does when their task is done.
        name: identifies the function in the results besides settings and version; default: its
            module and name. Needed where these do not identify it, as for a lambda.
        version: of the code; results of other versions do not count. Default: that of the library,
            which changes with its source (``provenance.code_version``). Give your own if results
            depend on your own code.
        workers: number of parallel workers, as ``n_jobs`` of joblib; default: as
            ``parallel_config`` says.
        chunk: jobs per task. Default: 1 for up to 8 tasks per worker, then more, up to 8.
        progress: show a progress bar.

    Returns:
        Results and failures of all jobs.

    Raises:
        ValueError: a bad argument, or a file in the folder that ``sweep`` did not write.

    >>> import tempfile
    >>> from beliefzoo.inference import sweep
    >>> def square(job):
    ...     return {"square": job["x"] ** 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"name": "square", "workers": 1, "progress": False}
    ...     first = sweep(square, [{"x": 2}, {"x": 3}], folder, **options)
    ...     second = sweep(square, [{"x": 2}, {"x": 3}, {"x": 4}], folder, **options)
    >>> second.computed, second.skipped, second.results[2]
    (1, 2, {'square': 16})
    """
    began = time.monotonic()
    if workers is not None:
        require_jobs(workers, "workers")
    if chunk is not None:
        require_count(chunk, "chunk")
    place = Path(folder).absolute()
    require(place.is_dir() or not place.exists(), "folder", "must be a folder", str(folder))
    code = code_version() if version is None else version
    origin = _Origin(place, _name(function, name), code)
    wanted = [_Job(job_key(job, origin.function, code), _seed(job), job) for job in _checked(jobs)]
    run = _Run(function, origin, wanted, workers, chunk)
    bar = progress_of(len(wanted), "job", shown=progress, initial=run.skipped)
    with bar as run.bar:
        try:
            run.settle()
        finally:
            run.write_failures()
    return Sweep(
        folder=Path(folder),
        keys=tuple(job.key for job in wanted),
        jobs=tuple(job.settings for job in wanted),
        results=tuple(run.done.get(job.key) for job in wanted),
        failures=tuple(run.failures[job.key] for job in wanted if job.key not in run.done),
        computed=len(run.done) - run.skipped,
        skipped=run.skipped,
        seconds=time.monotonic() - began,
    )


def job_key(job: Mapping[str, Any], name: str, version: str) -> str:
    """The name of a job's file: a hash of its settings, what is computed, and by which code.

    Raises:
        ValueError: for settings that JSON cannot hold.
    """
    identity = {"function": name, "version": version, "settings": plain(job, "settings")}
    return _digest(identity)[:24]


def chunk_size(jobs: int, workers: int) -> int:
    """Jobs that are sent to a worker at once: 1 for few jobs, at most ``LARGEST_CHUNK``."""
    return min(LARGEST_CHUNK, max(1, jobs // (CHUNKS_PER_WORKER * workers)))


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _seed(job: Mapping[str, Any]) -> int:
    """Seed from the settings alone, below 2³² as NumPy requires."""
    return int(_digest(plain(job, "settings"))[:8], 16)


def _name(function: Function, name: str | None) -> str:
    require(callable(function), "function", "must be callable", repr(function))
    if name is not None:
        require(isinstance(name, str) and name != "", "name", "must be a text", repr(name))
        return name
    own = getattr(function, "__qualname__", "<unnamed>")
    # The values in a closure are not part of the key, so results could be confused.
    require(
        "<" not in own,
        "function",
        "must be defined at the top of a module, or name= must be given",
        repr(function),
    )
    return f"{function.__module__}.{own}"


def _checked(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    listed = list(jobs)
    seen: dict[str, int] = {}
    for number, job in enumerate(listed):
        require(
            isinstance(job, Mapping), f"jobs[{number}]", "must be a mapping", type(job).__name__
        )
        first = seen.setdefault(_digest(plain(job, f"jobs[{number}]")), number)
        require(
            first == number, f"jobs[{number}]", f"must differ from jobs[{first}]", repr(dict(job))
        )
    return listed


class _Run:
    """The state of one sweep, in the process of the caller."""

    def __init__(
        self,
        function: Function,
        origin: _Origin,
        jobs: Sequence[_Job],
        workers: int | None,
        chunk: int | None,
    ) -> None:
        import joblib  # loaded when first needed

        self.function = function
        self.origin = origin
        self.workers = joblib.effective_n_jobs(workers)
        self.chunk = chunk
        self.bar: Any = None
        self.settled: set[str] = set()
        self.done: dict[str, Result] = {}
        for job in jobs:
            if _result_file(origin, job).exists():
                self.done[job.key] = _read_content(origin, job)["result"]
        self.skipped = len(self.done)
        self.failures = _read_failures(origin)
        self.pending = [job for job in jobs if job.key not in self.done]
        _result_folder(origin).mkdir(parents=True, exist_ok=True)
        for job in jobs:  # left by a run that was killed, of jobs with a result too
            _mark(origin, job).unlink(missing_ok=True)
        for place in (origin.folder, _result_folder(origin)):
            remove_unfinished(place)

    def settle(self) -> None:
        """Runs until every job has a result or a failure.

        After a death, the jobs with a mark were running. Each then runs with no other at the same
        time, and so either gets its result or is known to be the cause; the rest continues in
        parallel.
        """
        while self.pending:
            size = self.chunk or chunk_size(len(self.pending), self.workers)
            starts = range(0, len(self.pending), size)
            if not self._round([self.pending[start : start + size] for start in starts]):
                return
            marked = [job for job in self.pending if _mark(self.origin, job).exists()]
            for job in marked or list(self.pending):  # no marks: a folder that workers do not see
                _mark(self.origin, job).unlink(missing_ok=True)
                death = self._round([[job]])
                _mark(self.origin, job).unlink(missing_ok=True)
                if death and job.key not in self.settled:
                    self._take(_Report(job, None, _failure(job, "WorkerDied", death, "")))
            self._drop_settled()

    def write_failures(self) -> None:
        """``failures.json``: the jobs that failed and have not succeeded since."""
        content = {
            "function": self.origin.function,
            "version": self.origin.version,
            "failures": [asdict(failure) for failure in self.failures.values()],
        }
        write_json(self.origin.folder / "failures.json", content)

    def _round(self, chunks: Sequence[Sequence[_Job]]) -> str:
        """Runs chunks in parallel; returns the backend's message on a worker's death, or ""."""
        import joblib
        from joblib.parallel import get_active_backend

        self._wait_for_workers()
        backend = get_active_backend()[0]
        parallel = joblib.Parallel(
            n_jobs=self.workers,
            batch_size=1,  # a chunk is the batch
            return_as="generator_unordered" if backend.supports_return_generator else "list",
        )
        task = joblib.delayed(_run_chunk)
        death = ""
        try:
            with _given_up_tasks_come_back(backend):
                for back in parallel(task(self.function, self.origin, chunk) for chunk in chunks):
                    if isinstance(back, _GivenUp):
                        death = _death(back.error)
                        if not death:
                            raise back.error
                    else:
                        for report in back:
                            self._take(report)
                            death = report.death or death
        except Exception as error:
            death = _death(error)
            if not death:
                raise
        for job in self.pending:  # results of tasks that did not come back
            if _result_file(self.origin, job).exists():
                self._take(_Report(job, _read_content(self.origin, job)))
        self._drop_settled()
        return death

    def _wait_for_workers(self) -> None:
        """Waits until there are two workers, which Dask may lack for a while after a death.

        With one worker joblib runs tasks in the caller's process, which would die next.
        """
        import joblib

        began = time.monotonic()
        while joblib.effective_n_jobs(self.workers) < min(2, self.workers):
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError(
                    f"of {self.workers} workers one is left; finished jobs have their results"
                )
            time.sleep(0.1)

    def _drop_settled(self) -> None:
        self.pending = [job for job in self.pending if job.key not in self.settled]

    def _take(self, report: _Report) -> None:
        key = report.job.key
        if key in self.settled or report.death:
            return
        self.settled.add(key)
        if report.failure is not None:
            self.failures[key] = report.failure
            self.write_failures()
        elif report.content is not None:
            path = _result_file(self.origin, report.job)
            if not path.exists():  # the worker does not see this folder
                write_json(path, report.content)
            self.done[key] = report.content["result"]
            self.failures.pop(key, None)
        failed = len(self.settled & self.failures.keys())
        done = len(self.settled) - failed
        self.bar.set_postfix(
            {"done": done, "failed": failed, "skipped": self.skipped}, refresh=False
        )
        self.bar.update()


def _run_chunk(function: Function, origin: _Origin, jobs: Sequence[_Job]) -> list[_Report]:
    """In the worker: run the jobs one after the other; each is filed before the next begins."""
    return [_run_job(function, origin, job) for job in jobs]


def _run_job(function: Function, origin: _Origin, job: _Job) -> _Report:
    path, mark = _result_file(origin, job), _mark(origin, job)
    sees_folder = path.parent.is_dir()
    with _on_its_own(job.seed):
        # Dask sends a task again whose worker died: what has its result is not repeated, and the
        # job that was running does not cost another worker.
        if path.exists():
            return _Report(job, _read_content(origin, job))
        if mark.exists():
            return _Report(job, death="a worker died in this job, and the backend sent it again")
        if sees_folder:
            mark.touch()
        try:
            content = _compute(function, origin, job)
            if sees_folder:
                write_json(path, content)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- recorded, whatever it is
            kind, trace = type(error).__name__, traceback.format_exc()
            return _Report(job, failure=_failure(job, kind, str(error), trace))
        finally:
            mark.unlink(missing_ok=True)
    return _Report(job, content)


def _compute(function: Function, origin: _Origin, job: _Job) -> dict[str, Any]:
    """Content of the result file."""
    began = time.monotonic()
    settings = plain(job.settings, "settings")  # as they were, whatever the function does to them
    result = function(job.settings)
    require(isinstance(result, Mapping), "result", "must be a mapping", type(result).__name__)
    return {
        "function": origin.function,
        "version": origin.version,
        "settings": settings,
        "result": plain(result, "result"),
        "versions": versions(),
        "seconds": time.monotonic() - began,
    }


@contextmanager
def _on_its_own(seed: int) -> Iterator[None]:
    """Isolates a job: nothing outside changes its numbers, and it changes none outside."""
    import joblib
    from threadpoolctl import threadpool_limits

    with (
        TURNS,  # the generators and Pyro's handlers belong to the process
        joblib.parallel_config(backend="sequential"),  # also for the job's own parallel loops
        threadpool_limits(1),
        one_thread(),
        pyro.get_param_store().scope(),
        seeded(seed),
        _other_generators(seed),
    ):
        yield


@contextmanager
def _other_generators(seed: int) -> Iterator[None]:
    """Like `seeded`, for the global generators of Python and NumPy."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- a job may use it
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _given_up_tasks_come_back(backend: Any) -> Iterator[None]:
    """Makes joblib's Dask backend return a task that Dask gave up as `_GivenUp`.

    By itself (joblib 1.6) it sets the error on the task's future without notice, and `Parallel`
    waits for ever. As a result instead of an error it stops none of the other tasks.
    """
    if type(backend).__name__ != "DaskDistributedBackend":
        yield
        return
    submit, retrieve = backend.submit, backend.retrieve_result_callback

    def submit_and_tell(task: Any, callback: Callable[[object], None]) -> Any:
        def tell(done: Future[object]) -> None:
            error = done.exception()
            if error is not None:
                callback(_GivenUp(error))

        future: Future[object] = submit(task, callback)
        future.add_done_callback(tell)
        return future

    def results(out: object) -> Any:
        if isinstance(out, asyncio.CancelledError):  # its inputs died with the workers
            out = _GivenUp(out)
        return [out] if isinstance(out, _GivenUp) else retrieve(out)  # a batch of one task

    backend.submit, backend.retrieve_result_callback = submit_and_tell, results
    try:
        yield
    finally:
        del backend.submit, backend.retrieve_result_callback  # restores the methods of the class


def _death(error: BaseException) -> str:
    """The backend's message if a worker died, else ""."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return f"{type(error).__name__}: {error}" if _DEATHS & names else ""


def _failure(job: _Job, kind: str, message: str, trace: str) -> FailedJob:
    return FailedJob(job.key, plain(job.settings, "settings"), kind, message, trace)


def _result_folder(origin: _Origin) -> Path:
    return origin.folder / "jobs"


def _result_file(origin: _Origin, job: _Job) -> Path:
    return _result_folder(origin) / f"{job.key}.json"


def _mark(origin: _Origin, job: _Job) -> Path:
    """A file that is there while the job runs."""
    return _result_folder(origin) / f"{job.key}.running"


def _read(path: Path, form: Form) -> dict[str, Any]:
    try:
        return read_json(path, form)
    except ValueError as error:
        raise ValueError(
            f"folder: {path} must hold what sweep wrote (remove the file to compute it again), "
            f"got another ({error})"
        ) from error


def _read_content(origin: _Origin, job: _Job) -> Mapping[str, Any]:
    path = _result_file(origin, job)
    content = _read(path, _RESULT)
    expected = (origin.function, origin.version, plain(job.settings, "settings"))
    found = (content["function"], content["version"], content["settings"])
    require(found == expected, f"folder: {path}", f"must be of {expected}", found)
    return content


def _read_failures(origin: _Origin) -> dict[str, FailedJob]:
    """Recorded failures of this function and version, also of jobs not in this call."""
    path = origin.folder / "failures.json"
    if not path.exists():
        return {}
    content = _read(path, _FAILURES)
    if (content["function"], content["version"]) != (origin.function, origin.version):
        return {}
    with reading(path, "failures"):
        return {failure["key"]: FailedJob(**failure) for failure in content["failures"]}
