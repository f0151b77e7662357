"""A data set in a few lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .grids import uneven_gaps

if TYPE_CHECKING:
    from .sequences import Sequences


def summary(data: Sequences) -> str:
    """Sizes, lengths, share missing, and the distribution of each feature or of the codes."""
    lengths = data.lengths.double()
    cells = data.n_steps * data.n_features
    lines = [
        f"{len(data)} sequences, {data.n_steps} steps; length min {int(lengths.min())}, "
        f"median {float(lengths.quantile(0.5)):g}, max {int(lengths.max())}",
        f"{'codes' if data.is_codes else f'{data.n_features} features'}, "
        f"{100 * (1 - data.n_observed / cells):.3g} % missing",
    ]
    if data.times is not None:
        gaps = uneven_gaps(data)
        apart = "" if gaps is None else f", steps {gaps[0]:g} to {gaps[1]:g} apart"
        unit = f" {data.units['time']}" if "time" in data.units else ""
        ends = f"{float(data.times.min()):g} to {float(data.times.max()):g}"
        lines.append(f"times {ends}{unit}{apart}")
    if data.actions is not None:
        lines.append(f"{int(data.actions[data.step_mask].max()) + 1} actions")
    if data.rewards is not None:
        earned = data.rewards[data.step_mask]
        lines.append(f"rewards {float(earned.min()):g} to {float(earned.max()):g}")
    if data.inputs is not None:
        named = [_with_unit(data, name) for name in data.input_names if name in data.units]
        lines.append(
            f"{data.inputs.shape[2]} inputs" + f", among them {', '.join(named)}" * bool(named)
        )
    return "\n".join(lines + (_code_lines(data) if data.is_codes else _feature_lines(data)))


def _feature_lines(data: Sequences, most: int = 12) -> list[str]:
    """A table of mean, sd, min and max over the observed values of each feature."""
    shown = [_with_unit(data, name) for name in data.features[:most]]
    width = max(8, *map(len, shown))
    columns = ("mean", "sd", "min", "max", "missing")
    lines = [" " * width + "".join(f"{head:>12}" for head in columns)]
    for f, name in enumerate(shown):
        seen = data.values[..., f][data.mask[..., f]].double()
        missing = f"{100 * (1 - len(seen) / data.n_steps):.3g} %"
        figures = ["-"] * 4
        if len(seen):
            sd = seen.std(correction=0)
            figures = [f"{float(x):.4g}" for x in (seen.mean(), sd, seen.min(), seen.max())]
        lines.append(f"{name:<{width}}" + "".join(f"{x:>12}" for x in (*figures, missing)))
    left = data.n_features - most
    return lines + ([f"… and {left} more features"] if left > 0 else [])


def _with_unit(data: Sequences, name: str) -> str:
    """The name of a column, with its unit in brackets."""
    return f"{name} ({data.units[name]})" if name in data.units else name


def _code_lines(data: Sequences, most: int = 30) -> list[str]:
    """The codes that occur, the most frequent first, with their shares of the observed steps."""
    met, counts = data.values[data.mask].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True).tolist()
    symbols = [str(c) if data.symbols is None else repr(data.symbols[c]) for c in met.tolist()]
    shown = [f"{symbols[i]} {100 * int(counts[i]) / data.n_observed:.3g} %" for i in order[:most]]
    left = len(order) - most
    return [
        f"{len(order)} codes met: " + ", ".join(shown) + (f", … {left} more" if left > 0 else "")
    ]


def missing_elements(data: Sequences) -> int:
    """Number of elements within the sequences that were not observed."""
    seen = data.mask if data.mask.ndim == 3 else data.mask.unsqueeze(-1)
    return int((data.step_mask.unsqueeze(-1) & ~seen).sum())
