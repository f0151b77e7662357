"""Batches of sequences and their joined results, and the future steps of a forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...models import Model, Sequences, TrajectoryLaws
from ...models.checks import require, require_count, require_seed
from ...models.model import Number, as_tensor

BATCH = 256
"""Sequences that are worked on at once."""


def laws_of(model: Model, data: Sequences) -> Iterator[TrajectoryLaws]:
    """The laws of one batch after the other; laws cache what was computed for a batch.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.
    """
    require_model(model)
    model.complete({})  # raises for unknown parameters before computing
    model.check(data)
    return (model.laws({}, batch) for batch in data.batches(BATCH))


def require_model(model: object) -> None:
    """Raise ``ValueError`` unless it is a model."""
    require(isinstance(model, Model), "model", "must be a model of beliefzoo.models", repr(model))


def require_data(data: object) -> None:
    """Raise ``ValueError`` unless they are sequences."""
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)


Answer = TypeVar("Answer")


def joined(parts: Sequence[Answer], steps: int) -> Answer:
    """Joins the results of batches: tensors, or named tuples of tensors.

    Tensors are (N,), or (N, T, …) and padded with zeros up to ``steps``.
    """
    each: Any = parts
    if isinstance(each[0], tuple):
        return type(parts[0])(*(joined(field, steps) for field in zip(*each, strict=True)))
    whole: Any = torch.cat(each) if each[0].ndim == 1 else stacked(each, steps, fill=0)
    joint: Answer = whole
    return joint


def stacked(parts: Sequence[Tensor], steps: int, *, fill: float, sequence: int = 0) -> Tensor:
    """Joins batches, each cut to its longest sequence, along the axis ``sequence``.

    The time axis comes right after it and is padded up to ``steps``.
    """
    time = sequence + 1
    padded = []
    for part in parts:
        lacking = steps - part.shape[time]
        if lacking:
            shape = [*part.shape[:time], lacking, *part.shape[time + 1 :]]
            part = torch.cat([part, part.new_full(shape, fill)], time)
        padded.append(part)
    return torch.cat(padded, sequence)


@dataclass(frozen=True)
class Future:
    """H future steps of N sequences: their inputs, times and actions, and how to simulate them."""

    steps: int
    """H."""
    draws: int
    """Simulated continuations."""
    inputs: Tensor | None
    """(N, H, columns)."""
    times: Tensor | None
    """(N, H)."""
    actions: Tensor | None
    """(N, H)."""
    seed: int | None
    """Of the simulation."""


def future_of(
    model: Model,
    data: Sequences,
    steps: int,
    draws: int,
    ahead: Mapping[str, object],
    seed: int | None,
) -> Future:
    """The future steps of a forecast, checked: ``ahead`` are their inputs, times and actions.

    Raises:
        ValueError: a bad number, an array that is none or does not fit, or one that the model does
            not read.
    """
    require_count(steps, "steps")
    require_count(draws, "draws")
    require_seed(seed)
    require_read(model, **ahead)
    read: dict[str, Tensor | None] = dict.fromkeys(("inputs", "times", "actions"))
    for name, given in ahead.items():
        if given is None:
            continue
        numbers = as_tensor(name, cast(Number, given))
        require(bool(numbers.isfinite().all()), name, "needs finite numbers", numbers.tolist())
        read[name] = numbers
    if read["times"] is not None and read["times"].ndim == 1:
        read["times"] = read["times"].expand(len(data), -1)
    if read["actions"] is not None:
        read["actions"] = read_actions(model, (len(data), steps), read["actions"])
    return Future(steps, draws, read["inputs"], read["times"], read["actions"], seed)


def read_actions(model: Model, shape: tuple[int, int], given: Number | None) -> Tensor:
    """Actions of future steps as whole numbers.

    Raises:
        ValueError: none, or not as many for as many sequences as ``shape`` says.
    """
    requirement = f"forecasting needs those of future steps, whole numbers of shape {shape}"
    require(given is not None, "actions", requirement, None)
    actions = as_tensor("actions", cast(Number, given))
    require(tuple(actions.shape) == shape, "actions", requirement, tuple(actions.shape))
    fits = (actions == actions.round()) & (actions >= 0) & (actions < model.actions)
    requirement = f"must be whole numbers 0 to {model.actions - 1}"
    require(bool(fits.all()), "actions", requirement, actions[~fits][:1].tolist())
    return actions.long()


def quantile(draws: Tensor, q: object) -> Tensor:
    """The quantile q of draws (S, …) along their first axis, or several as a new first axis.

    Raises:
        ValueError: q that is no number from 0 to 1, nor a list of such.
    """
    return torch.quantile(draws.double(), levels(q), dim=0)


def levels(q: object) -> Tensor:
    """Levels of quantiles as float64, () or (Q,).

    Raises:
        ValueError: anything but a number from 0 to 1, or a list of such.
    """
    found = as_tensor("q", cast(Number, q)).detach()
    fits = found.ndim < 2 and found.numel() > 0 and not isinstance(q, bool)
    fits = fits and bool(((found >= 0) & (found <= 1)).all())
    require(fits, "q", "must be a number from 0 to 1, or a list of such", repr(q))
    return found


def from_last_step(model: Model, data: Sequences, future: Future) -> Sequences:
    """The last step of every sequence, which drives the first transition, and the future ones.

    Raises:
        ValueError: inputs, times or actions that are missing or do not fit.
    """
    steps = future.steps
    y = data.values.new_zeros(len(data), steps + 1, *data.values.shape[2:])
    rows, last = torch.arange(len(data)), data.lengths - 1
    along: dict[str, Any] = {}
    seen = torch.ones_like(y, dtype=torch.bool)
    if model.moved_by_observations:  # the last one may be known, those of the future are not
        y[:, 0] = data.values[rows, last]
        seen = torch.zeros_like(seen)
        seen[:, 0] = data.mask[rows, last]
    if model.inputs:
        inputs, shape = future.inputs, (len(data), steps, model.inputs)
        came = None if inputs is None else tuple(inputs.shape)
        if inputs is None or came != shape:
            raise ValueError(
                f"inputs: forecasting needs future covariates of shape {shape}, got {came}"
            )
        assert data.inputs is not None  # checked with the data
        before = data.inputs[rows, last]
        along["inputs"] = torch.cat([before.unsqueeze(1), inputs.to(before)], 1)
    if model.actions:
        assert data.actions is not None  # checked with the data
        actions = read_actions(model, (len(data), steps), future.actions)
        along["actions"] = torch.cat([data.actions[rows, last].unsqueeze(1), actions], 1)
    if model.timed:
        assert data.times is not None  # checked with the data
        along["times"] = times_ahead(data.times[rows, last], steps, future.times)
    blank = Sequences.from_tensors(y, codes=data.is_codes, **along)
    return model.scheduled(blank._derived(mask=seen))


def require_read(model: Model, **future: object) -> None:
    """Raise ``ValueError`` for inputs, times or actions of the future that the model does not read.

    Args:
        model: the model.
        future: ``inputs``, ``times`` and ``actions``, or None.
    """
    reads = {"inputs": model.inputs > 0, "times": model.timed, "actions": model.actions > 0}
    for name, given in future.items():
        require(given is None or reads[name], name, f"{model} reads none", type(given).__name__)


def times_ahead(last: Tensor, steps: int, times: Tensor | None) -> Tensor:
    """The last time of every sequence and the future ones, (N, H + 1).

    Raises:
        ValueError: times that are missing, not (N, H), or do not increase.
    """
    shape = (len(last), steps)
    came = None if times is None else tuple(times.shape)
    if times is None or came != shape:
        raise ValueError(f"times: forecasting needs future times of shape {shape}, got {came}")
    joined = torch.cat([last.unsqueeze(1), times.to(last)], 1)
    steady = (joined.diff(dim=1) > 0).all(1)
    if not bool(steady.all()):
        n = int(steady.logical_not().nonzero()[0])
        raise ValueError(
            f"times: must increase from the last time seen, got {joined[n].tolist()} "
            f"in sequence {n}"
        )
    return joined
