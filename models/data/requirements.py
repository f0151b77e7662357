"""What a law needs from the data: input columns, times."""

from __future__ import annotations

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
            f"data.times: {reader} needs times that increase; got {data.times[n, step + 1]:g} "
            f"after {data.times[n, step]:g} in sequence {data.labels[n]!r}, step {step + 1}"
        )
