"""What a law needs from the data: input columns, times; and what a model leaves unread."""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor

from ..checks import require
from .grids import uneven_gaps
from .sequences import Sequences


class UnreadWarning(UserWarning):
    """Says that data hold something that the model does not read.

    Args:
        message: what is not read, and which model would read it.

    >>> import warnings
    >>> from beliefzoo.inference import log_evidence
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences, UnreadWarning
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1, 4]
    ... )
    >>> data = Sequences.from_arrays([[0, 3, 1]], times=[[0.0, 1.0, 50.0]])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = log_evidence(model, data)
    >>> caught[0].category is UnreadWarning
    True
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


def unread(data: Sequences, known: Container[str]) -> dict[str, str]:
    """Return what the data hold that tells something, but for what is known, and who reads it.

    Times tell nothing where steps are evenly apart.
    """
    found = {}
    if "times" not in known and (apart := uneven_gaps(data)) is not None:
        low, high = apart
        found["times"] = (
            f"steps that are {low:g} to {high:g} apart count alike. ContinuousTimeHMM, "
            "LinearGaussianSSM with LinearSDE or OrnsteinUhlenbeck, and DeepMarkovModel(timed=True)"
            " read times; data.filled() puts missing steps into the gaps of a grid, and "
            "data.without('times') says that they do not matter"
        )
    if "inputs" not in known and data.inputs is not None:
        found["inputs"] = (
            f"{data.inputs.shape[2]} column(s) change nothing. Regression(…, inputs=…) as emission,"
            " InputTransition as transition, and LinearGaussianSSM and DeepMarkovModel with "
            "inputs=… read them; data.without('inputs') says that they do not matter"
        )
    if "actions" not in known and data.actions is not None:
        found["actions"] = (
            "they change nothing. POMDP and HiddenMarkovModel with ActionTransition read them; "
            "data.without('actions') says that they do not matter"
        )
    return found


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


def require_times(data: Sequences, reader: str, *, equal: bool = False) -> None:
    """Raise ``ValueError`` unless the data have times that increase in every sequence.

    With ``equal``, several steps may be at the same moment; no times ever decrease.
    """
    if data.times is None:
        raise ValueError(
            f"data.times: {reader} needs the time of every step (times=… of the constructors of "
            "Sequences, of sample and of forecast), got None"
        )
    if equal:
        return
    still = (data.times.diff(dim=1) <= 0) & data.step_mask[:, 1:]
    for n, step in still.nonzero()[:1].tolist():
        raise ValueError(
            f"data.times: {reader} needs times that increase; got "
            f"{float(data.times[n, step + 1])!r} after {float(data.times[n, step])!r} in sequence "
            f"{data.labels[n]!r}, step {step + 1}"
        )
