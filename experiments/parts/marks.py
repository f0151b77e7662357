"""Marks that several drawings share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def legend_above(figure: Figure, axis: Axes, columns: int) -> None:
    """The labels of one panel, for all of them, above the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantile_row(axis: Axes, place: float, quantiles: Sequence[float], color: str) -> None:
    """A posterior on one line: the values at `QUANTILES`."""
    low, left, middle, right, high = quantiles
    axis.plot([low, high], [place, place], color=color, lw=1.5)
    axis.plot([left, right], [place, place], color=color, lw=5, solid_capstyle="butt")
    axis.plot(middle, place, "o", color="white", mec=color, ms=5)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Names of rows, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def normal_band(
    axis: Axes, x: npt.ArrayLike, mean: npt.ArrayLike, sd: npt.ArrayLike, color: str, alpha: float
) -> None:
    """The 90 % interval of a normal law at every x."""
    middle, width = np.asarray(mean), 1.645 * np.asarray(sd)
    axis.fill_between(x, middle - width, middle + width, color=color, alpha=alpha, lw=0)


def forecast_bands(
    axis: Axes, x: npt.NDArray[np.float64], quantiles: Mapping[str, Sequence[float]]
) -> None:
    """The 50 and 90 % intervals of a forecast."""
    for low, high, shade in (("0.05", "0.95", 0.2), ("0.25", "0.75", 0.35)):
        band = np.asarray(quantiles[low]), np.asarray(quantiles[high])
        axis.fill_between(x, *band, color="tab:orange", alpha=shade, lw=0)
