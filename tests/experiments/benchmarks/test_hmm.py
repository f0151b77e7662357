"""Benchmarks: what is compared is the same quantity, how turns are timed, and every one in smoke
mode. No test asserts a time."""

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import oracles
from beliefzoo.experiments.benchmarks import filters, guide, hmm, long
from beliefzoo.experiments.benchmarks.parts import comparison, contenders, fresh, problems, turns
from beliefzoo.experiments.benchmarks.parts.comparison import Contender, Limits, Prepared
from beliefzoo.experiments.benchmarks.parts.contenders import CONTENDERS
from beliefzoo.experiments.benchmarks.parts.problems import (
    FEATURES,
    SYMBOLS,
    Answer,
    Case,
    Family,
    Problem,
    Tolerance,
    check_agreement,
    problem,
    reference,
)
from beliefzoo.experiments.benchmarks.parts.turns import FEWEST_TURNS, Timing, in_turn
from beliefzoo.experiments.command.catalogue import benchmarks, load_benchmark
from beliefzoo.experiments.command.cli import main
from beliefzoo.experiments.command.report import setting_notes
from checkout import ROOT

SMALL = (3, 2, 5)
every_benchmark = pytest.mark.parametrize("name", benchmarks())
every_family = pytest.mark.parametrize("family", problems.FAMILIES)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process: starting one anew takes seconds, and is tested by itself."""

    def measured(measure: Callable[..., Any], settings: Any, **arguments: str) -> Any:
        return json.loads(json.dumps(measure(settings, **arguments)))

    monkeypatch.setattr(fresh, "measured", measured)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "installed", lambda package: None)


def small(family: Family) -> Problem:
    return problem(Case(family, *SMALL), seed=3)


def numbers(figures: Any) -> Iterator[float]:
    if isinstance(figures, Mapping):
        for value in figures.values():
            yield from numbers(value)
    elif isinstance(figures, list):
        for value in figures:
            yield from numbers(value)
    elif not isinstance(figures, str):
        yield figures


# --- the command ----------------------------------------------------------------------------------


def test_every_module_of_the_folder_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in (ROOT / "experiments/benchmarks").glob("*.py")}
    assert set(benchmarks()) == modules - {"__init__"}
    assert main(["bench", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown and title in shown for name, title in benchmarks().items())


@every_benchmark
def test_every_setting_says_why(name: str) -> None:
    settings = load_benchmark(name).Settings
    assert settings.__dataclass_params__.frozen
    fields = {field.name: field.default for field in dataclasses.fields(settings)}
    assert set(setting_notes(settings)) == set(fields)
    assert fields["seed"] == 0
    assert fields["threads"] == 2
    settings()


@every_benchmark
@pytest.mark.usefixtures("here", "no_peers")
def test_smoke_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    assert main(["bench", name, "--smoke", "--out", str(folder)]) == 0
    report = json.loads((folder / "report.json").read_text())
    parts = {"benchmark", "settings", "figures", "versions", "machine", "seconds", "checksum"}
    assert set(report) == parts
    assert report["benchmark"] == name
    assert report["machine"]["threads"] == report["settings"]["threads"] == 2
    assert report["machine"]["processor"]
    assert report["machine"]["cores"] >= 1
    assert {"python", "torch", "numpy"} <= set(report["versions"])
    found = list(numbers(report["figures"]))
    assert len(found) > 5
    assert all(math.isfinite(number) for number in found)
    drawings = sorted(folder.glob("*.png"))
    assert {path.name for path in folder.iterdir()} == {"report.json", *(p.name for p in drawings)}
    for drawing in drawings:
        pixels = imread(drawing)
        assert pixels.min() < pixels.max()  # something is drawn
    assert f"written to {folder}" in capsys.readouterr().out
    # A second run replaces it if told to, and only then.
    assert main(["bench", name, "--smoke", "--out", str(folder)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME must be list or one of"),
        (["hmmm"], "did you mean hmm?"),
        (["turns"], "NAME must be one of"),
        (["hmm", "--threads", "0"], "threads: must be >= 1, got 0"),
        (["hmm", "--sizes", "1", "2", "3"], "states and length >= 2"),
        (["hmm", "--rounds", "many"], "--rounds"),
        (["long", "--length", "1"], "length: must be >= 2, got 1"),
        (["guide", "--hidden-size", "0"], "hidden_size: must be >= 1, got 0"),
        (["filters", "--states", "8", "4"], "increasing numbers >= 2"),
        (["filters", "--learning-rate", "nan"], "learning_rate: must be finite"),
    ],
)
def test_bad_input_is_a_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
    assert "Traceback" not in error
    assert not any(tmp_path.iterdir())


def test_a_module_that_is_no_benchmark_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(guide, "table")
    with pytest.raises(ValueError, match="benchmark guide must define table"):
        load_benchmark("guide")


# --- a process of its own -------------------------------------------------------------------------

TOY = '''
"""Says what it sees."""
import os, sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    threads: int = 1
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)


def look(settings, word):
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")
    return {
        "environment": {name: os.environ[name] for name in names},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "loaded": sorted({"torch", "numpy", "jax"} & set(sys.modules)),
        "sizes": repr(settings.sizes),
        "word": word,
    }


def refuse(settings):
    raise ValueError("sizes: not these")


def fail(settings):
    raise ZeroDivisionError
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "toy_benchmark.py").write_text(TOY.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return importlib.import_module("toy_benchmark")


def test_threads_are_set_before_anything_is_imported(toy: Any) -> None:
    told = fresh.measured(toy.look, toy.Settings(), word="here")
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    assert told == {
        "environment": environment,
        "cores": 1,
        "loaded": [],
        "sizes": "((1, 2),)",  # JSON has lists only; settings keep their tuples
        "word": "here",
    }


def test_errors_of_the_process(toy: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^sizes: not these$"):
        fresh.measured(toy.refuse, toy.Settings())
    with pytest.raises(RuntimeError, match="fail of toy_benchmark ended with exit status 1"):
        fresh.measured(toy.fail, toy.Settings())
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.slow
def test_a_benchmark_in_its_own_process() -> None:
    settings = long.Settings(states=3, length=50, rounds=1)
    told = fresh.measured(long.measure, settings, family="categorical", precision="float64")
    given = problem(Case("categorical", 3, 1, 50), settings.seed)
    assert told["log_evidence"] == pytest.approx(reference(given).log_evidence, rel=1e-12)
    if Path("/proc/self/status").exists():
        assert told["megabytes_before"] > 50
        assert 0 <= told["peak_megabytes"] < 100


def test_versions_of_what_is_there() -> None:
    assert fresh.peer_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}


# --- what is compared -----------------------------------------------------------------------------


@every_family
def test_problems_are_reproducible_and_well_formed(family: Family) -> None:
    one, again, other = (problem(Case(family, *SMALL), seed) for seed in (0, 0, 1))
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(value, again.parameters[name])
        if name in ("initial", "transition", "probs"):
            np.testing.assert_allclose(value.sum(-1), 1)
            assert value.min() > 0
    np.testing.assert_array_equal(one.y, again.y)
    assert not np.array_equal(one.y, other.y)
    assert one.y.shape == ((2, 5) if family == "categorical" else (2, 5, FEATURES))
    one.model().check(one.data(torch.float32))


def test_data_follow_the_model() -> None:
    """10^4 steps: relative frequencies are off by four standard errors once in 10^4."""
    given = problem(Case("categorical", 2, 10, 1000), seed=1, off=0)
    law = np.linalg.matrix_power(given.parameters["transition"], 200)[0] @ given.parameters["probs"]
    seen = np.bincount(given.y.ravel(), minlength=SYMBOLS) / given.y.size
    # The chain's correlation over some steps at most doubles the standard error.
    np.testing.assert_array_less(np.abs(seen - law), 8 * np.sqrt(law / given.y.size))


def scores(given: Problem, parameters: Mapping[str, Any]) -> Any:
    """log O_k(y_t), (N, T, K), one density after the other."""
    n, t = given.y.shape[:2]
    out = np.empty((n, t, given.case.states))
    for place in np.ndindex(out.shape):
        y, k = given.y[place[:2]], place[2]
        if given.case.family == "categorical":
            out[place] = np.log(parameters["probs"][k, y])
        else:
            mean, scale = parameters["mean"][k], parameters["scale"][k]
            standard = (y - mean) / scale
            out[place] = (-0.5 * standard**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum()
    return out


def sum_over_paths(given: Problem, parameters: Mapping[str, Any]) -> list[oracles.Posterior]:
    moves = np.log(parameters["transition"])[None].repeat(given.case.length - 1, 0)
    initial = np.log(parameters["initial"])
    return [oracles.posterior(initial, moves, one) for one in scores(given, parameters)]


@every_family
def test_reference_is_the_sum_over_paths(family: Family) -> None:
    given = small(family)
    found = reference(given)
    posteriors = sum_over_paths(given, given.parameters)
    assert found.log_evidence == pytest.approx(sum(p.log_evidence for p in posteriors), rel=1e-12)
    marginals = np.stack([p.marginals for p in posteriors])
    moves = sum(p.pairs.sum(0) for p in posteriors)
    np.testing.assert_allclose(found.found["expected initial"], marginals[:, 0].sum(0))
    np.testing.assert_allclose(found.found["expected transition"], moves)
    np.testing.assert_allclose(found.found["updated initial"], marginals[:, 0].mean(0))
    rows = moves / moves.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.found["updated transition"], rows)
    weight = marginals / marginals.sum((0, 1))
    if family == "categorical":
        probs = [[weight[given.y == s, k].sum() for s in range(SYMBOLS)] for k in range(3)]
        np.testing.assert_allclose(found.found["updated probs"], probs)
    else:
        mean = np.einsum("ntk,ntf->kf", weight, given.y)
        off = (given.y[:, :, None] - mean) ** 2
        scale = np.sqrt(np.einsum("ntk,ntkf->kf", weight, off))
        np.testing.assert_allclose(found.found["updated mean"], mean)
        np.testing.assert_allclose(found.found["updated scale"], scale)


@every_family
def test_gradients_are_those_of_the_sum_over_paths(family: Family) -> None:
    """Central differences, in the logits of probabilities, for some entries of each parameter."""
    given = small(family)
    found = reference(given).found

    def total(name: str, place: tuple[int, ...], step: float) -> float:
        values = {n: v.copy() for n, v in given.parameters.items()}
        if name in ("mean", "scale"):
            values[name][place] += step
        else:
            values[name][place] *= math.exp(step)
            values[name] /= values[name].sum(-1, keepdims=True)
        return sum(p.log_evidence for p in sum_over_paths(given, values))

    for name, value in given.parameters.items():
        for place in list(np.ndindex(value.shape))[:: max(1, value.size // 3)]:
            slope = (total(name, place, 1e-5) - total(name, place, -1e-5)) / 2e-5
            assert found[f"gradient of {name}"][place] == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@every_family
# TensorFlow Probability, under dynamax, uses what jax has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_contender_that_is_installed_agrees(
    contender: Contender[Problem], family: Family
) -> None:
    if contender.package and fresh.installed(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    given = small(family)
    prepared = contender.prepare(given)
    for _ in range(2):  # the second call finds nothing that the first has left behind
        answer = prepared.answer(prepared.work())
        allowed = (
            Tolerance(1e-5, 2e-3) if contender.precision == "float32" else Tolerance(1e-10, 1e-8)
        )
        differences = check_agreement("it", given.case, answer, reference(given), allowed)
    assert set(differences) == {"log_evidence_relative_difference", "largest_relative_difference"}
    assert len(answer.found) >= 2


@pytest.mark.parametrize(
    ("factor", "shift", "figure"),
    [
        (1.01, 0.0, "log evidence"),
        (math.nan, 0.0, "log evidence"),
        (1.0, 0.1, "gradient of transition"),
        (1.0, math.nan, "gradient of transition"),
    ],
)
def test_a_wrong_contender_is_named_and_nothing_is_timed(
    factor: float, shift: float, figure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(given: Problem) -> Prepared:
        right = reference(given)
        moved = right.found["gradient of transition"] + shift
        wrong = Answer(factor * right.log_evidence, {"gradient of transition": moved})
        return Prepared(lambda: None, lambda _: wrong)

    monkeypatch.setattr(comparison, "in_turn", None)
    settings = hmm.Settings(sizes=(SMALL,), families=("categorical",), rounds=1)
    message = f"liar: {figure} must agree .* categorical states3_sequences2_length5, got"
    with pytest.raises(ValueError, match=message):
        hmm.measure(settings, [Contender("liar", prepare)])


def test_rounding_is_allowed_for_by_what_is_kept() -> None:
    strict = problems.tolerance("float32", -3e5, in_logs=False)
    loose = problems.tolerance("float32", -3e5, in_logs=True)
    assert strict.found < loose.found == pytest.approx(strict.found + 3e5 * 2**-23)
    assert problems.tolerance("float64", -3e5, in_logs=True).found < 2e-6


@pytest.mark.usefixtures("no_peers")
def test_absent_and_too_large_is_said_in_a_sentence() -> None:
    settings = hmm.Settings(
        sizes=(SMALL,),
        families=("gaussian",),
        rounds=1,
        seconds_each=0.1,
        gigabytes=1e-9,
        enumerated_steps=4,
    )
    by_name = hmm.measure(settings)["gaussian"]["states3_sequences2_length5"]
    reasons = {name: one["left_out"] for name, one in by_name.items() if "left_out" in one}
    assert set(reasons) == {one.name for one in CONTENDERS} - set(contenders.OURS.values())
    assert reasons["dynamax"] == "dynamax is not installed"
    assert "(from, to) for every step" in reasons["pyro_DiscreteHMM"]
    assert "two Pyro sites a step, here 10" in reasons["pyro_TraceEnum"]
    assert set(by_name["beliefzoo"]["parts"]) == {
        f"{part}_milliseconds" for part in contenders.PARTS
    }


def test_the_largest_cases_are_left_to_those_who_can() -> None:
    limits = Limits(gigabytes=6, enumerated_steps=256)
    largest = Case("categorical", 256, 4, 500)
    able = {one.name for one in CONTENDERS if one.obstacle(largest, limits) is None}
    assert {"beliefzoo", "beliefzoo_float64", "dynamax", "hmmlearn"} <= able
    assert "pyro_TraceEnum" not in able


def test_every_size_of_the_reach_is_run() -> None:
    settings = hmm.Settings()
    for reach in (*hmm.REACH.values(), *hmm.ORIENTATION.values()):
        assert set(reach) <= set(settings.sizes)
    assert set(hmm.REACH) <= {contender.name for contender in CONTENDERS}


# --- how it is timed ------------------------------------------------------------------------------


class Clock:
    """Time that passes only in the work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """Calls that take these seconds in turn, the last from then on."""
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(turns.gc, "collect", lambda: 0)  # slow on the many objects of a test run
    return clock


def test_contenders_take_turns(clock: Clock) -> None:
    timings = in_turn({"a": clock.work("a", 3), "b": clock.work("b", 5)}, rounds=3)
    assert "".join(clock.calls) == "ababab"
    assert timings["a"] == Timing((3e3, 3e3, 3e3))
    assert timings["b"].figures() == {
        "milliseconds_median": 5e3,
        "milliseconds_minimum": 5e3,
        "milliseconds_lower_quartile": 5e3,
        "milliseconds_upper_quartile": 5e3,
        "turns": 3,
    }


def test_a_turn_repeats_short_calls_and_drops_the_first(clock: Clock) -> None:
    timings = in_turn({"a": clock.work("a", 0.25, 0.5, 0.125)}, rounds=2, turn_seconds=1)
    # 0.25 | 0.5, 0.125, 0.125 and then eight of 0.125, of which the first does not count
    assert timings["a"].milliseconds == (125.0, 125.0)
    assert len(clock.calls) == 4 + 8


def test_who_is_slow_gets_few_turns(clock: Clock) -> None:
    work = {"slow": clock.work("slow", 9), "quick": clock.work("quick", 1)}
    timings = in_turn(work, rounds=20, seconds_each=10)
    assert len(timings["slow"].milliseconds) == FEWEST_TURNS
    assert len(timings["quick"].milliseconds) == 11


# --- filters --------------------------------------------------------------------------------------


def test_divergence_is_the_kl_of_what_sums_to_one() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.5, 0.25]).double()
    expected = 0.5 * math.log(0.5 / 0.25)
    assert float(filters.divergence(p.log(), q.log())) == pytest.approx(expected, rel=1e-14)
    assert float(filters.divergence(p.log(), p.log())) == 0


def test_rounding_does_not_make_a_divergence_negative() -> None:
    exact = torch.randn(1000, 50).double().log_softmax(-1)
    rounded = exact.float()
    found = filters.divergence(exact, rounded)
    assert float(found.min()) >= 0
    assert float(found.max()) < 1e-12


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        ([1.0, 4.0, 16.0], 2**1.5),  # crosses a constant 2 half way from 2 to 4 on a log scale
        ([3.0, 4.0, 16.0], "the LSTM is cheaper at 2 states"),
        ([0.5, 1.0, 1.5], "the exact filter is cheaper at 8 states"),
        ([3.0, 1.0, 4.0], 2**2.5),  # by noise twice: the last counts
    ],
)
def test_where_costs_cross(exact: list[float], expected: float | str) -> None:
    costs = [
        {"exact": {"microseconds_per_step": e}, "lstm4": {"microseconds_per_step": 2.0}}
        for e in exact
    ]
    found = filters._crossing((2, 4, 8), costs, "lstm4")
    assert found == (expected if isinstance(expected, str) else pytest.approx(expected))
