"""The command line and the folder of a run, with a small experiment put into the package."""

import base64
import contextlib
import importlib
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import beliefzoo
from beliefzoo.experiments import series as package
from beliefzoo.experiments.command import compiling, report
from beliefzoo.experiments.command.cli import main
from beliefzoo.experiments.command.folders import check_folder
from beliefzoo.experiments.command.report import leaves, plain, readable, setting_notes
from beliefzoo.inference.arviz_groups import build, group, read
from beliefzoo.inference.fitting import provenance
from beliefzoo.models.data import storage
from fuzzing import TIMES
from kills import killed

COIN = '''
"""Toss a coin & count heads.

The share of heads is one half.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from beliefzoo.experiments.command.report import Outcome
from beliefzoo.inference.fitting import provenance
from beliefzoo.inference.arviz_groups import build

EVENTS: list[str] = []


@dataclass(frozen=True)
class Settings:
    """What a coin needs."""

    tosses: int = 400
    """Number of tosses; at 400 the standard
    error of the share is 0.025."""
    shares: tuple[float, ...] = (0.5,)
    """Chances of heads; a fair coin."""
    seed: int = 0
    """Seed of the tosses."""

    def __post_init__(self) -> None:
        if self.tosses < 1:
            raise ValueError(f"tosses must be positive; got {self.tosses}")


SMOKE: Mapping[str, object] = {"tosses": 7}


def run(settings: Settings) -> Outcome:
    EVENTS.append("run")
    heads = np.random.default_rng(settings.seed).random(settings.tosses) < settings.shares[0]
    posterior = build({"posterior": {"heads": heads[None].astype(float)}}, dims={})
    figures = {"heads": {"share": np.float64(heads.mean()), "tosses": heads.size}, "kind": "coin"}
    return Outcome(figures, posterior)


def draw(posterior: Any, figures: Mapping[str, Any]) -> dict[str, Figure]:
    EVENTS.append("draw")
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot(np.cumsum(posterior["posterior"]["heads"].values[0]))
    return {"heads_over_time": figure}
'''

Install = Callable[..., Any]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Put a module into the package of experiments, its text changed by (old, new) pairs."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    added: list[str] = []

    def put(*changes: tuple[str, str], name: str = "toy_coin", source: str = COIN) -> Any:
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        (folder / f"{name}.py").write_text(source.lstrip())
        added.append(f"{package.__name__}.{name}")
        importlib.invalidate_caches()
        return importlib.import_module(added[-1])

    yield put
    for name in added:
        sys.modules.pop(name, None)


def run(*arguments: str) -> int:
    return main(["run", "toy-coin", *arguments])


def saved(folder: str = "runs/toy-coin") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return loaded


# --- what is there


def test_list_shows_names_and_titles(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert main(["list"]) == 0
    assert re.search(r"^toy-coin +Toss a coin & count heads$", capsys.readouterr().out, re.M)


def test_listing_is_light() -> None:
    check = (
        "import sys; from beliefzoo.experiments.command.cli import main; main(['list']);"
        "sys.exit(bool({'torch', 'pyro', 'arviz', 'matplotlib'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(beliefzoo.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60, env=environment)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"beliefzoo {beliefzoo.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list", "--help"], ["sweep", "-h"], ["bench", "--help"]],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: beliefzoo list")


def test_help_shows_every_setting_with_its_default_and_why(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    settings = install().Settings
    assert run("--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The share of heads is one half." in shown
    for name, note in setting_notes(settings).items():
        assert f"--{name}" in shown
        assert note in shown
    for option in ("(default: 400)", "(default: 0.5)", "(default: runs/toy-coin)", "--smoke"):
        assert option in shown
    assert "--force" in shown
    assert not Path("runs").exists()


def test_notes_are_the_strings_below_the_fields(install: Install) -> None:
    assert setting_notes(install().Settings) == {
        "tosses": "Number of tosses; at 400 the standard error of the share is 0.025.",
        "shares": "Chances of heads; a fair coin.",
        "seed": "Seed of the tosses.",
    }


# --- a run


def test_a_run_writes_its_folder(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert run() == 0
    folder = Path("runs/toy-coin")
    expected = ["heads_over_time.png", "posterior.nc", "report.html", "report.json"]
    assert sorted(os.listdir(folder)) == expected
    result = saved()
    entries = ["experiment", "settings", "figures", "versions", "seconds", "checksum"]
    assert list(result) == entries
    assert result["experiment"] == "toy-coin"
    assert result["settings"] == {"tosses": 400, "shares": [0.5], "seed": 0}
    heads = group(read(folder / "posterior.nc"), "posterior")["heads"].values
    assert result["figures"]["heads"] == {"share": heads.mean(), "tosses": 400}
    assert result["seconds"] > 0
    assert {"python", "beliefzoo", "torch", "pyro", "arviz", "numpy"} <= set(result["versions"])
    assert result["versions"]["numpy"] == np.__version__
    assert str(Path.home()) not in json.dumps(result["versions"])
    shown = capsys.readouterr().out
    assert "heads.tosses: 400\n" in shown
    assert f"written to {folder}\n" in shown


def test_settings_seed_and_smoke(install: Install) -> None:
    install()
    assert run("--smoke", "--seed", "3", "--shares", "0.2", "0.3", "--out", "here/smoke") == 0
    assert saved("here/smoke")["settings"] == {"tosses": 7, "shares": [0.2, 0.3], "seed": 3}
    assert run("--smoke", "--tosses", "9") == 0
    assert saved()["settings"]["tosses"] == 9


def test_the_same_seed_gives_the_same_report(install: Install) -> None:
    install()
    assert run("--out", "one") == run("--out", "two") == run("--out", "other", "--seed", "1") == 0
    assert saved("one")["figures"] == saved("two")["figures"] != saved("other")["figures"]


def test_the_html_report_is_complete_in_itself(install: Install) -> None:
    install()
    run()
    text = Path("runs/toy-coin/report.html").read_text()
    cells: list[str] = []
    images: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag == "img":
                images.append(dict(attrs)["src"])

        def handle_data(self, data: str) -> None:
            cells.append(data)

    Reader().feed(text)
    assert "Toss a coin & count heads" in cells
    assert {"heads.share", "heads.tosses", "kind", "coin", "Seed of the tosses."} <= set(cells)
    (image,) = images
    png = Path("runs/toy-coin/heads_over_time.png").read_bytes()
    assert base64.b64decode(image.removeprefix("data:image/png;base64,")) == png
    assert text.count("<") == text.count(">")


def test_order_of_writing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    module = install()
    folder = Path("runs/toy-coin")
    present: dict[str, list[str]] = {}
    given: list[Any] = []
    draw, whole = module.draw, storage.whole_path

    def staged() -> list[str]:
        """What the folder shows, which is nothing, and what is being written inside it."""
        (hidden,) = folder.iterdir()
        return sorted(path.name for path in hidden.iterdir() if not path.name.startswith("."))

    def watched_draw(posterior: Any, figures: Any) -> Any:
        present["draw"] = staged()
        given.append(posterior)
        return draw(posterior, figures)

    @contextmanager
    def watched(path: Path) -> Iterator[Path]:
        present[path.name] = staged()
        with whole(path) as unfinished:
            yield unfinished

    monkeypatch.setattr(module, "draw", watched_draw)
    monkeypatch.setattr(storage, "whole_path", watched)
    run()
    assert present == {
        "draw": ["posterior.nc"],
        "heads_over_time.png": ["posterior.nc"],
        "report.html": ["heads_over_time.png", "posterior.nc"],
        "report.json": ["heads_over_time.png", "posterior.nc", "report.html"],
    }
    # What is drawn is what the file holds, not what the run had in memory.
    np.testing.assert_array_equal(
        group(given[0], "posterior")["heads"],
        group(read(folder / "posterior.nc"), "posterior")["heads"],
    )


def test_a_fault_in_drawing_keeps_the_posterior_and_marks_the_folder(install: Install) -> None:
    install(('    EVENTS.append("draw")\n', "    raise RuntimeError('no ink')\n"))
    with pytest.raises(RuntimeError, match="no ink"):
        run()
    assert os.listdir("runs/toy-coin") == ["unfinished-posterior.nc"]
    read("runs/toy-coin/unfinished-posterior.nc")


def test_after_a_fault_in_drawing_the_earlier_report_stays(install: Install) -> None:
    module = install()
    run("--tosses", "5")
    before, draw = saved(), module.draw
    module.draw = lambda posterior, figures: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run("--force", "--tosses", "6")
    assert saved() == before
    read("runs/toy-coin/unfinished-posterior.nc")
    module.draw = draw
    assert run("--force", "--tosses", "6") == 0
    assert saved()["settings"]["tosses"] == 6
    assert not Path("runs/toy-coin/unfinished-posterior.nc").exists()


def test_drawings_get_a_constrained_layout_and_150_dots_an_inch(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    seen: list[Any] = []
    savefig = Figure.savefig

    def watched(self: Figure, *arguments: Any, **options: Any) -> None:
        seen.append((type(self.get_layout_engine()).__name__, options["dpi"]))
        savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    run()
    assert seen == [("ConstrainedLayoutEngine", 150)]


# --- any words

OPTIONS = (
    *(
        "--tosses",
        "--shares",
        "--seed",
        "--out",
        "--force",
        "--smoke",
        "--help",
        "-h",
        "--no-force",
    ),
    *("--seeds", "--set", "--jobs", "--figures", "--chunk", "--keep-posteriors"),
    *("--code-version", "--nosuch", "--toss", "--", "--threads"),
)
VALUES = (
    *(
        "0",
        "1",
        "7",
        "-1",
        "1e400",
        "nan",
        "inf",
        "x",
        "",
        "None",
        "[]",
        "1,2",
        "é",
        "\0",
        "a" * 300,
    ),
    *("0:2", "2:0", "a:b", ":", "1:2:3", "9" * 20, "tosses=1,2", "tosses=", "=1", "nosuch=1"),
    *(
        "*",
        "shares=0.5:0.2",
        "tosses=x",
        "seed=1",
        "runs",
        "runs/own",
        "modules",
        "/nosuch/a",
        "\udcff",
    ),
)


def some_words(rng: random.Random) -> list[str]:
    """A command, a name, and options with values, any of which may be another."""
    words = [rng.choice(["run", "run", "sweep", "sweep", "bench", "list", "x", ""])]
    words.append(
        rng.choice(["toy-coin"] * 6 + ["toy_coin", "toy-coins", "", "list", "--help", "../x"])
    )
    for _ in range(rng.randrange(4)):
        words.append(rng.choice(OPTIONS))
        words += rng.choices(VALUES, k=rng.choice([0, 1, 1, 1, 2]))
    if words[0] == "sweep" and "--" not in words:  # few jobs, in this process
        words += ["--seeds", rng.choice(["0:2", "3"]), "--backend", "threading"]
    return words


@pytest.mark.cases(20 * TIMES)
@pytest.mark.filterwarnings("ignore")
def test_fuzz_any_words_end_in_a_status(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is refused writes nothing."""
    install(("    figure, axes = plt.subplots(figsize=(3, 2))", "    return {}"))
    rng = random.Random(0)
    for number in range(20 * TIMES):
        words, before = some_words(rng), sorted(Path().rglob("*"))
        try:
            status = main(words)
        except BaseException as error:
            raise AssertionError(f"case {number}: {words} ends otherwise: {error!r}") from error
        said = capsys.readouterr()
        assert status in (0, 1, 2), words
        assert bool(said.err) or status != 2, words
        assert "Traceback" not in said.err, words
        assert status != 2 or sorted(Path().rglob("*")) == before, words


# --- what is killed, or does not fit on the disk

KILLS = 3 * TIMES


def consistent(folder: Path) -> int:
    """Tosses of the report in a folder, the same in every file of it; none is left over."""
    report, posterior = saved(str(folder)), read(folder / "posterior.nc")
    tosses: int = report["settings"]["tosses"]
    assert report["figures"]["heads"]["tosses"] == tosses
    assert group(posterior, "posterior")["heads"].shape[1] == tosses
    assert f">{tosses}<" in (folder / "report.html").read_text()
    names = ["heads_over_time.png", "posterior.nc", "report.html", "report.json"]
    assert sorted(os.listdir(folder)) == names
    return tosses


@pytest.mark.cases(KILLS)
def test_fuzz_a_killed_run_leaves_the_old_report_or_the_new_one(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    folder = Path("runs/toy-coin")
    began = time.monotonic()
    run("--tosses", "1")
    duration = time.monotonic() - began
    held, rng = 1, random.Random(0)
    for tosses in range(2, KILLS + 2):
        killed(lambda n=tosses: run("--force", "--tosses", str(n)), rng.random() * duration)
        with contextlib.suppress(ValueError):  # that it exists; what is unfinished is settled now
            check_folder(folder, force=False)
        assert consistent(folder) in (held, tosses)
        held = consistent(folder)
    assert run("--force", "--tosses", "3") == 0
    assert consistent(folder) == 3


@pytest.mark.cases(KILLS)
def test_fuzz_a_first_run_that_was_killed_can_be_run_again(install: Install) -> None:
    """Without --force, unless its report is there."""
    install()
    folder, rng = Path("runs/toy-coin"), random.Random(1)
    began = time.monotonic()
    run()
    duration = time.monotonic() - began
    for _ in range(KILLS):
        shutil.rmtree(folder, ignore_errors=True)
        killed(run, rng.random() * duration)
        status = run()
        assert status == (2 if (folder / "report.json").exists() and status else 0)
        assert consistent(folder) == 400


@pytest.mark.parametrize("steps", range(9))
def test_a_kill_between_any_two_moves_is_settled(
    install: Install, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The new report is complete then, and takes its place at the next command."""
    install(('    return {"heads_over_time"', '    return {f"heads_{len(axes.lines)}"'))
    run("--tosses", "5")
    folder, left = Path("runs/toy-coin"), [steps]

    def stopping(method: Any) -> Any:
        def stop(*arguments: Any, **options: Any) -> Any:
            if (folder / ".complete-report").exists():
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return method(*arguments, **options)

        return stop

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace", "rmdir"):
            patch.setattr(Path, name, stopping(getattr(Path, name)))
        assert run("--force", "--tosses", "6") in (0, 130)
    with pytest.raises(ValueError, match="out must not exist yet"):
        check_folder(folder, force=False)
    assert saved()["settings"]["tosses"] == 6
    assert group(read(folder / "posterior.nc"), "posterior")["heads"].shape == (1, 6)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(list(folder.iterdir())) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if not mounted or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_said_and_the_old_report_stays(
    install: Install, capsys: pytest.CaptureFixture[str], small_disk: Path
) -> None:
    """Whichever of the files does not fit; the figures are printed all the same."""
    install()
    folder = small_disk / "coin"
    assert run("--out", str(folder), "--tosses", "5") == 0
    filler = small_disk / "filler"
    sizes = [0, 2, 10, 20, 40]  # kB that are left
    for size in sizes:
        filler.unlink(missing_ok=True)
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - size * 1024)))
        capsys.readouterr()
        status = run("--out", str(folder), "--force", "--tosses", "6000")
        out, err = capsys.readouterr()
        if status == 0:
            break
        assert status == 2
        assert "heads.tosses: 6000" in out
        assert re.fullmatch(r"beliefzoo: \[Errno 28\] No space left on device: '.*/disk/.*'\n", err)
        assert saved(str(folder))["settings"]["tosses"] == 5
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    else:
        size = -1
    assert size != sizes[0]
    filler.unlink()
    assert run("--out", str(folder), "--force", "--tosses", "7") == 0
    assert consistent(folder) == 7


# --- refusals


def refused(
    capsys: pytest.CaptureFixture[str], message: str, *arguments: str, whole: bool = False
) -> None:
    """Exit status 2, a message on standard error, no traceback, nothing computed."""
    module = sys.modules.get(f"{package.__name__}.toy_coin")
    assert main(list(arguments) if whole else ["run", "toy-coin", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, " ".join(captured.err.replace("│", " ").split())), captured.err
    assert "Traceback" not in captured.err
    assert module is None or module.EVENTS == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the command must be list, run, sweep, bench or compile; got nothing"),
        (["walk"], "the command must be list, run, sweep, bench or compile; got walk"),
        (["run"], "NAME must be one of .*toy-coin.*; got none"),
        (["sweep"], "NAME must be one of .*toy-coin.*; got none"),
        (["sweep", "toy-con"], "NAME must be one of .*'toy-con'; did you mean toy-coin?"),
        (["run", "toy-con"], "NAME must be one of .*'toy-con'; did you mean toy-coin?"),
        (["run", "cli"], "NAME must be one of .*; got 'cli'"),
        (["run", "toy_coin"], "NAME must be one of .*; got 'toy_coin'"),
        (["run", "../toy-coin"], "NAME must be one of .*; got '../toy-coin'"),
    ],
)
def test_unknown_commands_and_names(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    install()
    refused(capsys, message, *arguments, whole=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tosses", "many"], "Error parsing --tosses: invalid literal .*'many'"),
        (["--tosses", "0"], "tosses must be positive; got 0"),
        (["--tosse", "3"], "Unrecognized .*--tosse"),
        (["--shares", "nan"], r"settings\.shares\[0\] must be finite.*got nan"),
    ],
)
def test_bad_values(
    install: Install, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    install()
    refused(capsys, message, *arguments)
    assert not Path("runs").exists()


def test_an_existing_folder_needs_force(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    Path("runs/toy-coin").mkdir(parents=True)
    refused(capsys, "out must not exist yet; runs/toy-coin does .--force")
    assert os.listdir("runs/toy-coin") == []
    assert run("--force") == 0


def test_force_replaces_what_a_run_wrote_and_nothing_else(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    module = install()
    run("--tosses", "5")
    folder = Path("runs/toy-coin")
    (folder / "notes.txt").write_text("mine")
    mine = Figure(figsize=(1, 1))
    mine.savefig(folder / "mine.png")
    draw = module.draw
    module.draw = lambda posterior, figures: {
        "renamed": draw(posterior, figures)["heads_over_time"]
    }
    assert run("--force", "--tosses", "6") == 0
    kept = ["mine.png", "notes.txt", "posterior.nc", "renamed.png", "report.html", "report.json"]
    assert sorted(os.listdir(folder)) == kept
    assert saved()["settings"]["tosses"] == 6
    assert (folder / "notes.txt").read_text() == "mine"


def test_force_does_not_touch_the_old_run_before_the_new_one_is_done(install: Install) -> None:
    module = install()
    run()
    before = saved()
    module.run = lambda settings: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run("--force")
    assert saved() == before


@pytest.mark.parametrize("content", [None, "[]", "{}", "no json"])
def test_force_refuses_a_folder_that_no_run_wrote(
    install: Install, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    install()
    folder = Path("thesis")
    folder.mkdir()
    (folder / "chapter.tex").write_text("mine")
    if content is not None:
        (folder / "report.json").write_text(content)
    before = sorted(os.listdir(folder))
    refused(capsys, "out must be empty or hold the report.json", "--out", "thesis", "--force")
    assert sorted(os.listdir(folder)) == before


def test_a_file_is_no_folder(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    Path("taken").write_text("mine")
    refused(capsys, "out must be a folder; taken is a file", "--out", "taken", "--force")
    refused(capsys, "out must lie where a folder can be made", "--out", "taken/below")
    assert Path("taken").read_text() == "mine"


def test_a_value_error_of_an_experiment_is_a_message(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(('    EVENTS.append("run")\n', "    raise ValueError('coin must have two sides')\n"))
    refused(capsys, "^beliefzoo: coin must have two sides$")
    assert not Path("runs").exists()


def test_an_interrupt_is_130(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(('    EVENTS.append("run")\n', "    raise KeyboardInterrupt\n"))
    assert run() == 130
    assert capsys.readouterr().err == "beliefzoo: interrupted\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("float('nan')", r"figures\.heads\.share must be finite.*got nan"),
        ("[1.0, -float('inf')]", r"figures\.heads\.share\[1\] must be finite.*got -inf"),
        ("None", r"figures\.heads\.share must be a number or a string; got None"),
        ("np.ones(3)", r"figures\.heads\.share must be a number.*got ndarray"),
        ("{2: 1.0}", r"figures\.heads\.share must have strings as keys; got 2"),
    ],
)
def test_figures_that_json_cannot_hold(
    install: Install, capsys: pytest.CaptureFixture[str], value: str, message: str
) -> None:
    install(("np.float64(heads.mean())", value))
    assert run() == 2
    assert re.search(message, capsys.readouterr().err)
    assert os.listdir("runs/toy-coin") == ["unfinished-posterior.nc"]


def test_drawings_have_file_names(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(('"heads_over_time"', '"../heads"'))
    assert run() == 2
    assert "drawings must have names of letters" in capsys.readouterr().err
    assert sorted(os.listdir("runs")) == ["toy-coin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def draw(", "def paint("), "experiment toy-coin must define draw"),
        (("SMOKE:", "SMOG:"), "experiment toy-coin must define SMOKE"),
        (('{"tosses": 7}', '{"tossed": 7}'), "SMOKE of toy-coin must replace fields of Settings"),
        (
            ("    seed: int = 0\n", "    luck: int = 0\n"),
            "Settings of toy-coin must have a field seed",
        ),
        (("@dataclass(frozen=True)\n", ""), "Settings of toy-coin must be a dataclass"),
    ],
)
def test_a_module_that_is_no_experiment_is_named(
    install: Install, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    install(change)
    refused(capsys, message)


def test_a_module_without_title_is_named(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(name="stray", source="x = 1\n")
    refused(capsys, "stray must begin with a docstring", "list", whole=True)


# --- the parts


def test_plain_values() -> None:
    given = {"a": (1, np.int64(2)), "b": [np.float32(0.5), True, None], "c": Path("x") / "y"}
    assert plain(given, "settings") == {"a": [1, 2], "b": [0.5, True, None], "c": "x/y"}


def test_leaves_are_named_by_their_path() -> None:
    figures = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": "x"}
    assert list(leaves(figures)) == [("a.b", 1), ("a.c.d", [1, 2]), ("e", "x")]
    assert [readable(v) for v in (1 / 3, 7, "x", [0.1, [1, 2]])] == [
        "0.333333",
        "7",
        "x",
        "0.1, (1, 2)",
    ]


def test_commit_is_named_only_inside_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    source = tmp_path / "provenance.py"
    source.write_text("one")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert "commit" not in report.versions()  # in a repository, but not part of it
    git("add", "provenance.py")
    git("commit", "--quiet", "--no-verify", "--message", "one")
    head = git("rev-parse", "HEAD")
    assert report.versions()["commit"] == head
    source.write_text("two")
    assert report.versions()["commit"] == f"{head} with changes"
    monkeypatch.setenv("PATH", "")
    assert "commit" not in report.versions()


def test_versions_that_cannot_be_told_lose_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", {"beliefzoo": "a-package-without-metadata"})
    provenance._packages.cache_clear()
    try:
        assert report.versions()["beliefzoo"] == "unknown"
    finally:
        provenance._packages.cache_clear()


def test_an_outcome_cannot_be_changed() -> None:
    outcome = report.Outcome({}, build({"posterior": {"x": np.ones((1, 1))}}, dims={}))
    with pytest.raises(AttributeError):
        outcome.figures = {}  # type: ignore[misc]


# --- sweeps

FIELDS = (
    '    seed: int = 0\n    """Seed of the tosses."""\n',
    '''    seed: int = 0
    """Seed of the tosses."""
    rate: float = 1.0
    """A number."""
    side: Literal["heads", "tails"] = "heads"
    """A choice."""
    fair: bool = True
    """Yes or no."""
    limit: int | None = None
    """A number or none."""
    weird: dict[str, int] | None = None
    """What no text can say."""
''',
)
LITERAL = ("from typing import Any\n", "from typing import Any, Literal\n")
FAULT = (
    '    EVENTS.append("run")\n',
    '    EVENTS.append("run")\n    FAULT(settings)\n',
)
NO_FAULT = ("EVENTS: list[str] = []\n", "EVENTS: list[str] = []\nFAULT = lambda settings: None\n")


def swept(*arguments: str) -> int:
    return main(["sweep", "toy-coin", *arguments])


def found(folder: str = "runs/sweeps/toy-coin") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(folder, "sweep.json").read_text())
    return loaded


def share(seed: int, tosses: int, chance: float = 0.5) -> float:
    return float((np.random.default_rng(seed).random(tosses) < chance).mean())


def test_a_sweep_is_the_grid_times_the_seeds(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    varied = ("--set", "tosses=10,20", "--set", "shares=0.5,0.9:0.1")
    assert swept("--seeds", "3:6", *varied) == 0
    result = found()
    assert result["experiment"] == "toy-coin"
    assert result["varied"] == {"tosses": [10, 20], "shares": [[0.5], [0.9, 0.1]]}
    assert result["seeds"] == [3, 4, 5]
    assert [point["settings"] for point in result["points"]] == [
        {"tosses": tosses, "shares": shares}
        for tosses in (10, 20)
        for shares in ([0.5], [0.9, 0.1])
    ]
    for point in result["points"]:
        tosses, chance = point["settings"]["tosses"], point["settings"]["shares"][0]
        values = [share(seed, tosses, chance) for seed in (3, 4, 5)]
        spread = point["figures"]["heads.share"]
        assert list(spread["by_seed"].values()) == values
        mean, sd = statistics.mean(values), statistics.stdev(values)
        half = 4.302652729911275 * sd / math.sqrt(3)  # Student's t, 2 degrees of freedom
        expected = [mean, sd, mean - half, mean + half, min(values), max(values), 3]
        names = ("mean", "sd", "low", "high", "min", "max", "n")
        assert [spread[name] for name in names] == pytest.approx(expected)
        assert set(point["figures"]) == {"heads.share", "heads.tosses"}  # "kind" is no number
        assert point["failed"] == 0
    assert result["jobs"] == {"computed": 12, "skipped": 0, "failed": 0}
    shown = capsys.readouterr().out
    assert re.search(r"^heads.share\n  tosses=10 shares=0.5 +0\.\d+ ± .*\(n = 3\)$", shown, re.M)
    assert "12 jobs: 12 computed, 0 skipped, 0 failed; written to runs/sweeps/toy-coin" in shown
    folder = Path("runs/sweeps/toy-coin")
    assert sorted(os.listdir(folder)) == ["failures.json", "jobs", "sweep.json", "sweep.png"]
    pixels = imread(folder / "sweep.png")
    assert pixels.min() < pixels.max()


def test_a_sweep_resumes_and_is_extended(install: Install) -> None:
    module = install()
    assert swept("--seeds", "0:2", "--set", "tosses=5,6") == 0
    assert swept("--seeds", "0:3", "--set", "tosses=5,6,7") == 0
    assert module.EVENTS == ["run"] * 9
    assert found()["jobs"] == {"computed": 5, "skipped": 4, "failed": 0}
    assert [point["figures"]["heads.share"]["n"] for point in found()["points"]] == [3, 3, 3]


@pytest.mark.parametrize(("seeds", "expected"), [("0:2", [0, 1]), ("4,1", [4, 1]), ("7", [7])])
def test_seeds(install: Install, seeds: str, expected: list[int]) -> None:
    install()
    assert swept("--seeds", seeds, "--smoke", "--out", "here") == 0
    assert found("here")["seeds"] == expected
    assert found("here")["base"]["tosses"] == 7
    (point,) = found("here")["points"]
    assert point["settings"] == {}
    assert list(point["figures"]["heads.share"]["by_seed"]) == [str(seed) for seed in expected]
    one = point["figures"]["heads.share"]["sd"] is None
    assert one == (len(expected) == 1)


def test_values_are_read_by_the_type_of_their_field(install: Install) -> None:
    install(FIELDS, LITERAL)
    values = ("rate=1,2e-3", "side=tails,heads", "fair=true,False", "limit=none,3")
    options = [part for value in values for part in ("--set", value)]
    assert swept("--seeds", "0", *options) == 0
    assert found()["varied"] == {
        "rate": [1.0, 0.002],
        "side": ["tails", "heads"],
        "fair": [True, False],
        "limit": [None, 3],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "tosse=3"],
            "set must name a setting of toy-coin; got 'tosse'; did you mean tosses",
        ),
        (["--set", "x=3"], "got 'x'; there are tosses, shares, seed"),
        (["--set", "tosses"], "set must be SETTING=VALUE,VALUE,…; got 'tosses'"),
        (["--set", "tosses=3,many"], "set: tosses must be of type int; got 'many'"),
        (["--set", "tosses=3.0"], "set: tosses must be of type int; got '3.0'"),
        (["--set", "tosses="], "set: tosses must be of type int; got ''"),
        (["--set", "tosses=3,3"], "set: values of tosses must differ; got 3 twice"),
        (["--set", "tosses=3", "--set", "tosses=4"], "each setting once; got tosses twice"),
        (["--set", "seed=3"], "set must not vary seed, which --seeds does"),
        (["--set", "tosses=5,0"], "tosses must be positive; got 0"),
        (["--set", "rate=fast"], "set: rate must be of type float; got 'fast'"),
        (["--set", "rate=nan"], r"settings\.rate must be finite.*got nan"),
        (["--set", "side=edge"], r"side must be of type Literal\['heads', 'tails'\]; got 'edge'"),
        (["--set", "fair=2"], "set: fair must be of type bool; got '2'"),
        (["--set", "limit=x"], r"set: limit must be of type int \| None; got 'x'"),
        (
            ["--set", "weird=3"],
            r"set: weird is of type dict\[str, int\] \| None, whose values cannot",
        ),
        (["--seeds", "3:3"], "seeds must be different numbers >= 0, at least one; got '3:3'"),
        (["--seeds", "1,1"], "seeds must be different numbers >= 0, at least one; got '1,1'"),
        (["--seeds", "-3"], "seeds must be different numbers >= 0, at least one; got '-3'"),
        (["--seeds", "a:b"], "seeds must be a:b, a,b,c or one number; got 'a:b'"),
        (["--jobs", "0"], "jobs must be a whole number other than 0"),
        (["--chunk", "0"], "chunk must be a whole number >= 1; got 0"),
        (["--scheduler", "x"], "scheduler goes with the backends dask and ray; got loky"),
        (["--backend", "dusk"], "invalid choice 'dusk' for argument '--backend'"),
        (["--backend", "dask"], r"backend dask needs .* pip install 'beliefzoo\[distributed\]'"),
        (["--backend", "ray"], r"backend ray needs .* pip install 'beliefzoo\[ray\]'"),
    ],
)
def test_bad_sweeps(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    install(FIELDS, LITERAL)
    for package_name in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, package_name, None)  # as if it were not installed
    refused(capsys, message, "sweep", "toy-coin", *arguments, whole=True)
    assert not Path("runs").exists()


def test_jobs_that_fail(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    module = install(FAULT, NO_FAULT)

    def fault(settings: Any) -> None:
        if (settings.seed, settings.tosses) in ((1, 6), (0, 7), (1, 7)):
            raise ArithmeticError("the coin is lost")

    module.FAULT = fault
    assert swept("--seeds", "0:2", "--set", "tosses=5,6,7") == 1
    result = found()
    assert result["jobs"] == {"computed": 3, "skipped": 0, "failed": 3}
    first = {"settings": {"tosses": 7, "seed": 0}, "kind": "ArithmeticError"}
    assert first.items() <= result["failures"][0].items()
    assert [point["failed"] for point in result["points"]] == [0, 1, 2]
    assert result["points"][2]["figures"] == {}
    shown = capsys.readouterr()
    assert "tosses=7  no result" in shown.out
    assert "failed at tosses=6 seed=1: ArithmeticError: the coin is lost" in shown.err
    module.FAULT = lambda settings: None
    assert swept("--seeds", "0:2", "--set", "tosses=5,6,7") == 0
    assert found()["jobs"] == {"computed": 3, "skipped": 3, "failed": 0}


def test_all_jobs_fail(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(("np.float64(heads.mean())", "float('nan')"))
    assert swept("--seeds", "0") == 1
    assert found()["failures"][0]["message"].startswith("figures.heads.share must be finite")
    assert "no result" in capsys.readouterr().out
    assert not Path("runs/sweeps/toy-coin/sweep.png").exists()


def test_an_interrupted_sweep_goes_on(install: Install) -> None:
    module = install(FAULT, NO_FAULT)

    def fault(settings: Any) -> None:
        if settings.seed == 2:
            raise KeyboardInterrupt

    module.FAULT = fault
    assert swept("--seeds", "0:4") == 130
    assert not Path("runs/sweeps/toy-coin/sweep.json").exists()
    module.FAULT = lambda settings: None
    assert swept("--seeds", "0:4") == 0
    assert found()["jobs"] == {"computed": 2, "skipped": 2, "failed": 0}


def test_threads_take_turns_and_agree(install: Install) -> None:
    install()
    options = ("--seeds", "0:3", "--set", "tosses=5,6")
    assert swept(*options, "--out", "one") == 0
    assert swept(*options, "--out", "two", "--backend", "threading", "--jobs", "2") == 0
    assert found("one")["points"] == found("two")["points"]


def test_figures_are_chosen(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(('"kind": "coin"', '"half": 0.5'))
    assert swept("--seeds", "0:2", "--set", "tosses=5,50") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "heads.share" in lines
    assert "half" not in lines  # the same everywhere
    assert swept("--seeds", "0:2", "--set", "tosses=5,50", "--figures", "h*f") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "half" in lines
    assert "heads.share" not in lines
    assert swept("--seeds", "0", "--figures", "x*") == 0
    assert "no figure of this kind" in capsys.readouterr().out


def test_posteriors_are_kept(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert swept("--seeds", "0:2", "--keep-posteriors", "--out", "here") == 0
    keys = {path.stem for path in Path("here/jobs").iterdir()}
    assert {path.stem for path in Path("here/posteriors").iterdir()} == keys
    heads = {
        float(group(read(path), "posterior")["heads"].mean())
        for path in Path("here/posteriors").iterdir()
    }
    assert heads == {share(0, 400), share(1, 400)}
    assert swept("--seeds", "0:3", "--out", "here") == 0  # one without
    assert swept("--seeds", "0:3", "--keep-posteriors", "--out", "here") == 2
    assert "keep_posteriors needs a folder without results that lack" in capsys.readouterr().err


def test_what_a_run_says_is_not_shown_but_its_warnings_are_kept(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install(FAULT, NO_FAULT)

    def fault(settings: Any) -> None:
        sys.stdout.write("chatter")
        sys.stderr.write("chatter")
        warnings.warn("the coin is thin", stacklevel=1)

    module.FAULT = fault
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert swept("--seeds", "0") == 0
    shown = capsys.readouterr()
    assert "chatter" not in shown.out + shown.err
    (path,) = Path("runs/sweeps/toy-coin/jobs").iterdir()
    assert json.loads(path.read_text())["result"]["warnings"] == ["UserWarning: the coin is thin"]


def test_the_source_of_the_experiment_counts_unless_the_version_is_given(install: Install) -> None:
    module = install()
    source = Path(module.__file__)
    for changed, options in enumerate(((), (), ("--code-version", "1"), ("--code-version", "1"))):
        source.write_text(source.read_text() + f"# {changed}\n")
        assert swept("--seeds", "0", *options) == 0
    assert module.EVENTS == ["run"] * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "out must be empty or hold an earlier sweep; here holds other files"),
        (
            "sweep.json",
            storage.sealed_json({"experiment": "x"}).decode(),
            "must not hold the sweep of another experiment.*: x",
        ),
        ("sweep.json", '{"experiment": "x"}', "out must hold a sweep.json that can be read"),
        ("sweep.json", "{", "out must hold a sweep.json that can be read"),
        ("", "mine", "out must be a folder; here is a file"),
    ],
)
def test_a_folder_that_is_not_for_this_sweep(
    install: Install, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    install()
    path = Path("here", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    refused(capsys, message, "sweep", "toy-coin", "--out", "here", whole=True)
    assert path.read_text() == content


@pytest.mark.parametrize("group", compiling.GROUPS)
def test_everything_that_has_machine_code_can_be_called_ahead(group: str) -> None:
    used = list(compiling.GROUPS[group]())
    assert len(used) == len(set(used))
    assert sum("point estimate" in one for one in used) >= 2
