"""One sequence of a million steps: memory, time and error of evidence and gradient.

A chain of 16 states in float32, from observations to the gradient in all parameters, in a fresh
process each: the peak of its resident memory above what it held before, the error of evidence and
gradient against the same in float64, and the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..command.seeds import Figures
from .parts import fresh
from .parts.comparison import Sized
from .parts.contenders import ours
from .parts.problems import FAMILIES, PRECISIONS, Answer, Case, Family, Precision, problem
from .parts.turns import in_turn


@dataclass(frozen=True)
class Settings(Sized):
    """Settings of the benchmark."""

    states: int = 16
    """Hidden states."""
    length: int = 1_000_000
    """Steps: long enough that float32 sums, underflow and memory would show."""
    families: tuple[Family, ...] = FAMILIES
    """Emissions: 32 symbols, and eight Gaussian features."""
    rounds: int = 5
    """Timed calls after the first, whose memory is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.families:
            raise ValueError(f"families: needs one, got {self.families}")


SMOKE: Mapping[str, object] = {"states": 3, "length": 200, "rounds": 1}

REACH = {"peak_megabytes": 1000.0, "relative_error": 1e-5}
"""What float32 must stay below; fixed before any run."""

WARM_UP = 5000
"""Steps of the call that loads compiled code and starts threads before memory is measured."""


def run(settings: Settings) -> dict[str, object]:
    """Measure each emission in a fresh process for float32 and one for float64."""
    figures: dict[str, Any] = {"reach": REACH}
    for family in settings.families:
        told: dict[str, dict[str, Any]] = {
            precision: fresh.measured(measure, settings, family=family, precision=precision)
            for precision in PRECISIONS
        }
        answers = {
            precision: Answer(
                one.pop("log_evidence"), {n: np.array(v) for n, v in one.pop("found").items()}
            )
            for precision, one in told.items()
        }
        figures[family] = {**told, "float32_against_float64": _errors(**answers)}
    return figures


def measure(settings: Settings, family: Family, precision: Precision) -> dict[str, object]:
    """Memory, time, evidence and gradient in one precision."""
    print(f"{family} {precision}", flush=True)
    short = problem(Case(family, settings.states, 1, min(WARM_UP, settings.length)), settings.seed)
    ours(short, precision).work()
    given = problem(Case(family, settings.states, 1, settings.length), settings.seed)
    prepared = ours(given, precision)
    before = _start_of_peak()
    result = prepared.work()
    figures = _peak_since(before)
    total, gradients = result
    timing = in_turn({"ours": prepared.work}, rounds=settings.rounds)["ours"]
    named = zip(given.parameters, gradients, strict=True)
    return {
        **figures,
        **timing.figures(),
        "log_evidence": float(total.detach()),
        "found": {f"gradient of {name}": gradient.tolist() for name, gradient in named},
    }


def _errors(float32: Answer, float64: Answer) -> dict[str, float]:
    """Relative error of the evidence, and of every gradient relative to its largest element."""
    off = abs(float32.log_evidence - float64.log_evidence) / abs(float64.log_evidence)
    errors = {"log_evidence_relative_error": off}
    for name, right in float64.found.items():
        largest = np.abs(float32.found[name] - right).max() / np.abs(right).max()
        errors[f"{name.replace(' ', '_')}_relative_error"] = float(largest)
    return errors


_STATUS = Path("/proc/self/status")


def _resident() -> dict[str, float]:
    """Resident memory of this process in megabytes, now and at its peak; empty if not told."""
    if not _STATUS.exists():
        return {}
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")}


def _start_of_peak() -> float | None:
    """Forget the peak so far; megabytes resident now, None where the system does not tell."""
    if not _STATUS.exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")
    return _resident()["VmRSS"]


def _peak_since(before: float | None) -> dict[str, Any]:
    if before is None:
        return {"peak_megabytes": "this system does not tell a process's resident memory"}
    peak = _resident()["VmHWM"]
    return {"megabytes_before": before, "peak_megabytes": max(0.0, peak - before)}


def table(figures: Figures) -> str:
    """Memory, time and errors, some lines an emission."""
    lines = []
    for family in _families(figures):
        for precision in PRECISIONS:
            one = figures[family][precision]
            peak = one["peak_megabytes"]
            memory = (
                peak
                if isinstance(peak, str)
                else f"{peak:.0f} MB above {one['megabytes_before']:.0f} MB"
            )
            lines.append(f"{family}, {precision}: {one['milliseconds_median']:.4g} ms, {memory}")
        for name, value in figures[family]["float32_against_float64"].items():
            lines.append(f"  {name.replace('_', ' ')}: {value:.1e}")
    return "\n".join(lines)


def draw(figures: Figures) -> dict[str, Figure]:
    """Peak memory and relative errors, with what they must stay below."""
    families = _families(figures)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1.4))
    for place, family in enumerate(families):
        for side, precision in enumerate(PRECISIONS):
            one = figures[family][precision]
            if not isinstance(one["peak_megabytes"], str):
                bar = left.bar(
                    place + 0.4 * side - 0.2, one["peak_megabytes"], 0.36, color=f"C{side}"
                )
                time = f"{one['milliseconds_median'] / 1e3:.3g} s"
                left.bar_label(bar, [time], fontsize=9, padding=2)
                bar.set_label(precision if place == 0 else None)
    left.axhline(REACH["peak_megabytes"], color="black", ls="--", label="limit")
    left.set_xticks(range(len(families)), families)
    left.set_ylabel("peak memory above that before, MB")
    left.set_ylim(0, 1.4 * REACH["peak_megabytes"])
    left.set_title("Memory (and time)")
    left.legend(frameon=False, ncols=3, loc="upper center", columnspacing=1)
    names: list[str] = []
    for family in families:
        for name, value in figures[family]["float32_against_float64"].items():
            right.plot(max(value, 1e-12), len(names), "o", color="C0")
            names.append(f"{family}: {name.removesuffix('_relative_error').replace('_', ' ')}")
    right.axvline(REACH["relative_error"], color="black", ls="--")
    right.set_xscale("log")
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.3)
    right.set_xlabel("relative error of float32 against float64")
    right.set_title("Error")
    return {"memory_and_error": figure}


def _families(figures: Figures) -> list[Family]:
    return [family for family in FAMILIES if family in figures]
