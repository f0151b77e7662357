"""The record of a diagnosis: checks with their verdicts, as a table, in ArviZ, and drawn."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...models.checks import require
from ..arviz_groups import Idata, build
from .belief_calibration import BeliefCalibration
from .pseudo_residuals import PseudoResiduals

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Verdict = Literal["passes", "look", "fails"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""From good to bad."""

_WIDTH = 100


@dataclass(frozen=True)
class Check:
    """One check of a diagnosis.

    Attributes:
        name: what was checked.
        value: the figure.
        verdict: ``"passes"``, ``"look"`` (something to understand before results are used), or
            ``"fails"``.
        limits: the thresholds of the figure, in words.
        source: of the thresholds; "own" where they are this library's choice.
        advice: what the figure means here, and what to do; empty where the check passes.

    >>> from beliefzoo.inference import Check
    >>> Check("largest r̂", 1.2, "fails", "passes to 1.01, look to 1.05", "own", "draw more").verdict
    'fails'
    """

    name: str
    value: float
    verdict: Verdict
    limits: str
    source: str
    advice: str = ""

    def __post_init__(self) -> None:
        require(self.verdict in VERDICTS, "verdict", f"must be in {VERDICTS}", self.verdict)


@dataclass(frozen=True)
class Diagnosis:
    """Checks of a fit with a verdict each; made by :func:`diagnose`. ``print`` shows the table.

    Attributes:
        checks: the checks that apply.
        left_out: name of a check that does not apply -> why.
        residuals: pseudo-residuals of the data; None without exact inference.
        calibration: of the beliefs about discrete states; None where there are none.
        predictive: statistics of the data against replications, see ``predictive_check``; None
            where there are no replications.

    >>> from beliefzoo.inference import Check, Diagnosis
    >>> found = Diagnosis((Check("ended", 1.0, "passes", "converged", "own"),), {})
    >>> found.verdict, found["ended"].value
    ('passes', 1.0)
    >>> print(found)
    check     figure  verdict
    ended          1  passes   converged (own)
    1 passes, 0 look, 0 fail
    """

    checks: tuple[Check, ...]
    left_out: Mapping[str, str]
    residuals: PseudoResiduals | None = field(default=None, repr=False)
    calibration: BeliefCalibration | None = field(default=None, repr=False)
    predictive: DataFrame | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Check:
        """Returns the check of this name; ``KeyError`` if it does not apply."""
        for check in self.checks:
            if check.name == name:
                return check
        why = self.left_out.get(name, f"there are {[check.name for check in self.checks]}")
        raise KeyError(f"{name!r}: {why}")

    @property
    def verdict(self) -> Verdict:
        """The worst verdict."""
        return max((check.verdict for check in self.checks), key=VERDICTS.index, default="passes")

    def __str__(self) -> str:
        names = [*(check.name for check in self.checks), *self.left_out, ""]
        width = max(map(_places, names)) + 1
        lines = [f"{'check':<{width}}{'figure':>10}  verdict"]
        for check in self.checks:
            figure = f"{_padded(check.name, width)}{f'{check.value:.4g}':>10}"
            lines.append(f"{figure}  {check.verdict:<8} {check.limits} ({check.source})")
            lines += textwrap.wrap(
                check.advice, _WIDTH, initial_indent="    ", subsequent_indent="    "
            )
        lines += [f"{_padded(name, width)}{'–':>10}  {why}" for name, why in self.left_out.items()]
        counts = [sum(check.verdict == each for check in self.checks) for each in VERDICTS]
        return "\n".join([*lines, "{} passes, {} look, {} fail".format(*counts)])

    def to_frame(self) -> DataFrame:
        """Returns a pandas DataFrame, one row per check."""
        import pandas as pd

        columns = ("value", "verdict", "limits", "source", "advice")
        rows = [[getattr(check, column) for column in columns] for check in self.checks]
        names = pd.Index([check.name for check in self.checks], name="check")
        return pd.DataFrame(rows, index=names, columns=list(columns))

    def to_arviz(self) -> Idata:
        """Returns inference data with the group ``diagnosis``.

        ``value`` and ``verdict`` (check), ``pit`` (sequence, time, feature), and of the beliefs
        ``probability``, ``frequency``, ``standard_error`` and ``count`` (bin). ``write`` saves it.
        """
        groups: dict[str, Any] = {
            "value": np.array([check.value for check in self.checks]),
            "verdict": np.array([check.verdict for check in self.checks]),
        }
        dims: dict[str, tuple[str, ...]] = {"value": ("check",), "verdict": ("check",)}
        coords: dict[str, Any] = {"check": [check.name for check in self.checks]}
        if self.residuals is not None:
            groups["pit"] = self.residuals.pit.numpy()
            dims["pit"] = ("sequence", "time", "feature")
            if self.residuals.labels:
                coords["sequence"] = list(self.residuals.labels)
            if self.residuals.features:
                coords["feature"] = list(self.residuals.features)
        if self.calibration is not None:
            for name in ("probability", "frequency", "standard_error", "count"):
                groups[name] = getattr(self.calibration, name).numpy()
                dims[name] = ("bin",)
        return build(
            {"diagnosis": groups},
            dims=dims,
            coords=coords,
            attrs={"left_out": dict(self.left_out), "verdict": self.verdict},
        )

    def draw(self) -> Figure:
        """Returns a matplotlib figure: residuals, their autocorrelation, and calibration."""
        from .drawing import draw

        return draw(self)


def _places(text: str) -> int:
    """Places that a text takes: marks such as the hat of k̂ take none."""
    return sum(not unicodedata.combining(sign) for sign in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _places(text))
