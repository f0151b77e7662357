"""What a law needs from the data: input columns, times."""

from __future__ import annotations

from torch import Tensor

from ..checks import require
from .sequences import Sequences


def require_inputs(data: Sequences, columns: int, reader: str) -> None:
    """Raise ``ValueError`` unless the data have all the input columns that a law reads."""
    width = 0 if data.inputs is None else data.inputs.shape[-1]
    require(
        not columns or width == columns,
        "data.inputs",
        f"{reader}(inputs={columns}) needs {columns} column(s)",
        width,
    )


def require_near(far: Tensor, limit: float) -> None:
    """Raise ``ValueError`` unless input columns lie near enough to zero for a fit.

    Args:
        far: distance of their typical values from zero, in standard deviations, (U,).
        limit: how far is near enough.
    """
    for column in (far > limit).nonzero().flatten()[:1].tolist():
        raise ValueError(
            "data.inputs: needs columns whose mean is at most "
            f"{limit:g} standard deviations from zero; subtract a typical value from them (the "
            f"state's own parameters then hold there), got {float(far[column]):.4g} in column "
            f"{column}"
        )


def require_times(data: Sequences, reader: str) -> None:
    """Raise ``ValueError`` unless the data have times that increase strictly in every sequence."""
    if data.times is None:
        raise ValueError(
            f"data.times: {reader} needs the time of every step (times=… of the constructors of "
            "Sequences, of sample and of forecast), got None"
        )
    still = (data.times.diff(dim=1) <= 0) & data.step_mask[:, 1:]
    for n, step in still.nonzero()[:1].tolist():
        raise ValueError(
            f"data.times: {reader} needs times that increase; got "
            f"{float(data.times[n, step + 1])!r} after {float(data.times[n, step])!r} in sequence "
            f"{data.labels[n]!r}, step {step + 1}"
        )
