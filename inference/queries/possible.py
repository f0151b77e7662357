"""What queries do with observations of probability 0: the one place that decides it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...models import Model, Sequences, TrajectoryLaws
from ...models.checks import Impossible, impossible_observation, require_choice
from . import structures
from .batches import laws_of
from .kinds import answers_to


def possible_laws(
    model: Model, data: Sequences, impossible: Impossible
) -> Iterator[TrajectoryLaws]:
    """The laws of one batch after the other, for data that are possible.

    Args:
        model: with known parameters.
        data: N sequences.
        impossible: ``"raise"``, or ``"missing"``: leave such observations out.

    Raises:
        ValueError: another ``impossible``, an unknown parameter, data that the model cannot emit,
            or an observation of probability 0, by sequence and step.
    """
    require_choice(impossible, "impossible", ("raise", "missing"))
    return (_possible(model, laws, impossible) for laws in laws_of(model, data))


def possible_data(model: Model, data: Sequences, impossible: Impossible) -> Sequences:
    """The data themselves, or without the observations of probability 0; see ``possible_laws``."""
    mask, done = torch.zeros_like(data.mask), 0
    for laws in possible_laws(model, data, impossible):
        part = laws.data.mask
        mask[done : done + len(part), : part.shape[1]] = part
        done += len(part)
    return data if bool((mask == data.mask).all()) else seen_at(data, mask)


def require_possible(laws: TrajectoryLaws) -> None:
    """Raise ``ValueError`` if an observation has probability 0 given those before it."""
    where = impossible_steps(laws)
    if bool(where.any()):
        data = laws.data
        n, t = where.nonzero()[0].tolist()
        place = f"sequence {data.labels[n]!r}, step {t}"
        raise impossible_observation(place, data.values[n, t].tolist())


def impossible_steps(laws: TrajectoryLaws) -> Tensor:
    """Which observations have probability 0 given those before them, (N, T) bool.

    An observation counts as missing for the steps after it.
    """
    none = torch.zeros(laws.data.values.shape[:2], dtype=torch.bool)
    chain = laws.discrete
    if chain is None:
        # Normal densities are positive.
        return (
            none if laws.linear is not None else answers_to(laws).step_log_likelihood().isneginf()
        )
    with torch.no_grad():
        if not bool(chain.log_likelihood.isneginf().any()):
            return none  # without a recursion
        return structures.filter_chain(chain).log_increments.isneginf()


def _possible(model: Model, laws: TrajectoryLaws, impossible: Impossible) -> TrajectoryLaws:
    if impossible == "raise":
        require_possible(laws)
        return laws
    lagged = getattr(getattr(model, "emission", None), "lags", 0) > 0
    while True:
        data = laws.data
        where = impossible_steps(laws) & data.observed_steps
        if not bool(where.any()):
            require_possible(laws)  # what is not an observation cannot be left out
            return laws
        if lagged:  # what is possible after the first depends on its value
            where = where & (where.cumsum(-1) == 1)
        gone = where if data.is_codes else where.unsqueeze(-1)
        laws = model.laws({}, seen_at(data, data.mask & ~gone))


def seen_at(data: Sequences, mask: Tensor) -> Sequences:
    """The same data, observed at ``mask`` alone."""
    return data._derived(values=data.values.masked_fill(~mask, 0), mask=mask)
