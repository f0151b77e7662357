"""A page about a fit, to read and to pass on."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require_count
from ..arviz_groups import replacing
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..queries.answers import smooth
from ..queries.batches import require_data
from .diagnose import diagnose, fitted_model
from .record import Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = NDArray[np.float64]
Table = NDArray[np.float64]

_TEMPLATE = Path(__file__).parent / "templates" / "fit.html.j2"

_ROWS = 60
"""Parameters that are shown."""

_STATES = 12
"""States up to which each has a colour of its own."""


@boundary
def report(
    result: Fit | NutsFit,
    data: Sequences,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    sequences: int = 3,
    diagnosis: Diagnosis | None = None,
) -> Path:
    """Writes a page about a fit: what was done, the verdict on it, parameters and pictures.

    The page is one HTML file that needs no network. It shows the checks of ``diagnose`` with their
    thresholds, every parameter with its interval, the first sequences with the smoothed states, the
    residuals, and how the fit ended.

    Args:
        result: the result of ``fit`` or ``nuts``.
        data: the sequences that it was fitted to.
        path: of the page; an existing file is replaced, as a whole.
        title: heading; default: the class of the model.
        sequences: sequences that are drawn.
        diagnosis: the result of ``diagnose``, if it was asked already with other settings.

    Returns:
        The path.

    Raises:
        ValueError: a bad argument, or a folder that does not exist.

    >>> import tempfile
    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit, report
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24]])
    >>> model = HiddenMarkovModel(states=2, emission="poisson").scaled_to(data)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> result = fit(model, guide, data, seed=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = report(result, data, f"{folder}/quakes.html", title="Earthquakes").read_text()
    >>> "<h1>Earthquakes</h1>" in page, page.count("<img")
    (True, 2)
    """
    import jinja2  # loaded when first needed, like matplotlib

    if not isinstance(result, Fit | NutsFit):
        raise ValueError(f"result: must be a Fit or a NutsFit, got {type(result).__name__}")
    require_data(data)
    require_count(sequences, "sequences")
    data = result.model.names.read(data)
    found = diagnose(result, data) if diagnosis is None else diagnosis
    model = fitted_model(result, data)
    facts, columns, rows = _table(result)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    drawn = list(_pictures(model, data, sequences))
    drawn.append(("Residuals and beliefs; grey is where a true model lies.", found.draw()))
    pictures = [(caption, _encoded(figure)) for caption, figure in drawn]
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title or type(model).__name__,
        model=repr(result.model),
        facts=facts,
        diagnosis=found,
        columns=columns,
        rows=rows[:_ROWS],
        more=max(0, len(rows) - _ROWS),
        pictures=pictures,
        versions=list(result.versions.items()),
    )
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return Path(path)


def _table(
    result: Fit | NutsFit,
) -> tuple[list[tuple[str, str]], tuple[str, ...], list[tuple[str, ...]]]:
    """Facts, and columns and rows of the parameters."""
    if isinstance(result, Fit):
        summary = result.summary()
        said = [("warning", each) for each in summary.warnings]
        rows: list[tuple[str, ...]] = []
        for row in summary.estimates:
            value, low, high = row.shown
            rest = (row.note, "", "") if row.note else (f"{row.error:.3g}", low, high)
            rows.append((row.name, value, *rest))
        return [*summary.facts, *said], summary.columns, rows
    chains, draws = result.log_density.shape
    facts = [
        ("method", "NUTS"),
        ("chains, draws each", f"{chains}, {draws}"),
        ("divergent draws", str(int(result.divergences.sum()))),
        ("seed, seconds", f"{result.seed}, {result.seconds:.1f}"),
    ]
    rows = []
    for name, values in result.draws.items():
        flat = values.flatten(0, 1)
        for place in np.ndindex(*flat.shape[1:]):
            each = flat[(slice(None), *place)]
            label = f"{name}[{', '.join(map(str, place))}]" if place else name
            ends = each.quantile(torch.tensor([0.025, 0.975], dtype=each.dtype))
            numbers = (each.median(), each.std(), *ends)
            rows.append((label, *(f"{float(number):.5g}" for number in numbers)))
    return facts, ("median", "sd", "2.5 %", "97.5 %"), rows


def _pictures(model: Model, data: Sequences, count: int) -> Iterator[tuple[str, Figure]]:
    """The first sequences with what is known of their states."""
    from matplotlib.figure import Figure

    if not model.exact:
        return
    some = data[: min(count, len(data))]
    with torch.no_grad():
        beliefs = smooth(model, some)
    for place in range(len(some)):
        steps, label = int(some.lengths[place]), some.labels[place]
        axis = _axis(some, place, steps)
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_data(above, some, place, steps, axis)
        if model.has_paths:
            _draw_chances(below, beliefs[place, :steps].numpy(), axis)
            caption = f"Sequence {label} above the smoothed probabilities of its states."
        else:
            mean, covariance = beliefs.mean[place, :steps], beliefs.covariance[place, :steps]
            spread = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
            _draw_moments(below, mean.numpy(), spread.numpy(), axis)
            caption = f"Sequence {label} above its smoothed states, ± 2 standard deviations."
        below.set_xlabel("time" if data.times is not None else "step")
        yield caption, figure


def _axis(data: Sequences, place: int, steps: int) -> Line:
    if data.times is None:
        return np.arange(steps, dtype=np.float64)
    return np.asarray(data.times[place, :steps], dtype=np.float64)


def _draw_data(axes: Axes, data: Sequences, place: int, steps: int, axis: Line) -> None:
    values = np.where(data.mask[place, :steps], data.values[place, :steps].double(), np.nan)
    names = data.features if data.n_features > 1 else ("",)
    for column, name in zip(values.T[:8], names, strict=False):
        style = "o" if data.is_codes else "-"
        axes.plot(axis, column, style, lw=1, ms=3, label=name)
    axes.set_ylabel("symbol" if data.is_codes else "observed")
    if data.n_features > 1:
        axes.legend(frameon=False, ncols=4)


def _draw_chances(axes: Axes, chances: Table, axis: Line) -> None:
    most = np.sort(np.argsort(-chances.sum(0))[:_STATES])
    shown = chances[:, most].T
    names = [f"state {k}" for k in most]
    axes.stackplot(axis, shown, labels=names)
    axes.set(ylabel="probability", ylim=(0, 1))
    axes.legend(loc="upper left", ncols=6, fontsize="small")


def _draw_moments(axes: Axes, mean: Table, spread: Table, axis: Line) -> None:
    for place in range(min(4, mean.shape[1])):
        middle, wide = mean[:, place], 2 * spread[:, place]
        axes.plot(axis, middle, label=f"component {place}")
        axes.fill_between(axis, middle - wide, middle + wide, alpha=0.2)
    axes.set_ylabel("state")
    axes.legend(frameon=False, ncols=4)


def _encoded(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return base64.b64encode(file.getvalue()).decode()
