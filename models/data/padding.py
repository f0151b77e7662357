"""Padded tensors: conversion to the one form that ``Sequences`` holds, and its checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .sequences import Sequences

FLOATING = torch.float16, torch.bfloat16, torch.float32, torch.float64
"""Floating types that torch computes with."""

_WHOLE = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64

_LARGEST_WHOLE = 2**53  # whole numbers beyond it are not exact in float64


def canonical(
    values: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    along: Mapping[str, Tensor | None],
    *,
    codes: bool,
    blank: bool = False,
) -> dict[str, Tensor]:
    """Copies of tensors that ``Sequences.from_tensors`` accepts, in the form of ``Sequences``.

    ``along`` maps "times", "actions", "rewards" and "inputs" to tensors. With ``blank``, data
    without any observed value are accepted.
    """
    values = tensor(values, "values")
    given = {
        name: tensor(data, name).to(values.device)
        for name, data in {"mask": mask, **along}.items()
        if data is not None
    }
    if values.ndim == 1:
        values, given = values[None], {name: data[None] for name, data in given.items()}
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            "values must have shape (sequences, steps, features), (sequences, steps) or "
            f"(steps,), no size 0; got {tuple(values.shape)}"
        )
    if values.ndim == 2:
        if lengths is None and values.shape[1] == 1 < len(values):
            n = len(values)
            raise ValueError(
                f"values must have shape (steps,) for one sequence; got {tuple(values.shape)}, "
                f"which can be one sequence of {n} steps, shape ({n},), or {n} sequences of one "
                f"step, shape ({n}, 1, 1)"
            )
        values = values[..., None]
    if codes and values.shape[2] != 1:
        raise ValueError(f"codes must have one feature; got {values.shape[2]} features")
    n, t = values.shape[:2]
    lengths = torch.full((n,), t) if lengths is None else tensor(lengths, "lengths")
    check_lengths(lengths, n, t)
    lengths = lengths.to(values.device, torch.int64, copy=True)
    steps = torch.arange(t, device=values.device) < lengths[:, None]
    observed = _observed(values, given.pop("mask", None), steps)
    if not blank and not observed.any():
        raise ValueError("values must hold at least one observed number; all are missing")
    if codes:
        observed = observed[..., 0]
        values = whole(values[..., 0], observed, "codes")
    else:
        values = floating(values, "values", observed).masked_fill(~observed, 0)
    return {
        "values": values,
        "mask": observed,
        "lengths": lengths,
        **_filled(_aligned(given, steps), lengths, steps),
    }


def _observed(values: Tensor, mask: Tensor | None, steps: Tensor) -> Tensor:
    """(N, T, F) bool: within the sequence, not NaN and not masked."""
    observed = ~values.isnan() & steps[..., None]
    if mask is None:
        return observed
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[:2]):
        raise ValueError(
            f"mask must be bool of shape {tuple(values.shape)} or {tuple(values.shape[:2])}; "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return observed & (mask if mask.ndim == 3 else mask[..., None])


def _aligned(given: Mapping[str, Tensor], steps: Tensor) -> dict[str, Tensor]:
    """Times, actions and rewards (N, T), inputs (N, T, U)."""
    shape = tuple(steps.shape)
    made = {}
    for name, data in given.items():
        wide = data.expand(shape) if name == "times" and data.shape == shape[1:] else data
        wide = wide[..., None] if wide.ndim == 2 else wide
        if tuple(wide.shape[:-1]) != shape or (name != "inputs" and wide.shape[2] != 1):
            axes = f"{shape} or {(*shape, 'U')}" if name == "inputs" else f"{shape}"
            raise ValueError(
                f"{name} must have shape {axes}, one entry per step; got {tuple(data.shape)}"
            )
        made[name] = wide if name == "inputs" else wide[..., 0]
    return made


def _filled(given: dict[str, Tensor], lengths: Tensor, steps: Tensor) -> dict[str, Tensor]:
    """Times, actions, rewards and inputs in their types, with the container's padding."""
    if "times" in given:
        times = exactly(given["times"], "times", steps)
        given["times"] = torch.where(steps, times, times.gather(1, lengths[:, None] - 1))
    if "actions" in given:
        given["actions"] = whole(given["actions"], steps, "actions")
    if "rewards" in given:
        given["rewards"] = exactly(given["rewards"], "rewards", steps).masked_fill(~steps, 0)
    if "inputs" in given:
        inside = steps[..., None]
        given["inputs"] = floating(given["inputs"], "inputs", inside).masked_fill(~inside, 0)
    return given


def floating(numbers: Tensor, name: str, where: Tensor) -> Tensor:
    """Floating numbers as they are; whole ones in torch's default type, or float64 if they need it.

    Raises:
        ValueError: a whole number that float64 does not have.
    """
    if numbers.is_floating_point():
        return numbers
    plain = numbers.to(torch.get_default_dtype())
    if numbers.element_size() <= 2 and plain.element_size() >= 4:  # float32 has all of 16 bits
        return plain
    return plain if bool((_kept(plain, numbers) | ~where).all()) else exactly(numbers, name, where)


def exactly(numbers: Tensor, name: str, where: Tensor) -> Tensor:
    """Numbers in float64; ``ValueError`` for a whole one where ``where`` that it does not have."""
    made = numbers.double()
    if not numbers.is_floating_point():
        typical = "the first time" if name == "times" else "a typical value"
        requirement = (
            f"{name} must be exact in float64, which few whole numbers beyond 2^53 are (subtract "
            f"{typical} from them)"
        )
        _refuse(where & ~_kept(made, numbers), numbers, requirement, ())
    return made


def _kept(made: Tensor, numbers: Tensor) -> Tensor:
    """Whether floating numbers made of whole ones are still the same."""
    # 2^63 would overflow; no whole number of 64 bits becomes it exactly.
    return made.double().clamp_max(2.0**63 - 1024).long() == numbers.long()


def whole(numbers: Tensor, where: Tensor, name: str, labels: Sequence[str] = ()) -> Tensor:
    """int64 of whole numbers 0, 1, 2, …; 0 where ``where`` is False, whatever the number there."""
    if not numbers.is_floating_point():
        numbers = numbers.to(torch.int64)
    kept = numbers.masked_fill(~where, 0)
    bad = kept < 0
    if kept.is_floating_point():
        bad |= (kept != kept.floor()) | (kept >= _LARGEST_WHOLE)
    _refuse(bad, kept, f"{name} must be whole numbers 0, 1, 2, …", labels)
    return kept.to(torch.int64)


# Checks


def tensor(data: Tensor, name: str) -> Tensor:
    """The detached tensor, in a type that torch computes with and that holds the same numbers.

    Raises:
        ValueError: anything but a dense tensor of real numbers that are in memory.
    """
    if not isinstance(data, Tensor) or data.is_complex():
        got = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"{name} must be a real torch.Tensor; got {got}")
    if data.is_nested:
        raise ValueError(
            f"{name} must be a dense tensor; got a nested one (from_arrays takes a list of tensors "
            "of different lengths: unbind() makes it)"
        )
    if data.layout != torch.strided:
        raise ValueError(
            f"{name} must be a dense tensor; got {data.layout} (to_dense() makes it, with zeros)"
        )
    if data.is_quantized or data.is_meta:
        how = f"a quantised tensor, {data.dtype} (dequantize() makes it)"
        raise ValueError(f"{name} must hold numbers; got {'none' if data.is_meta else how}")
    if data.dtype in (*FLOATING, *_WHOLE, torch.bool):
        return data.detach()
    if str(data.dtype).startswith("torch.float8"):
        return data.detach().float()
    if data.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        raise ValueError(f"{name} must hold numbers of a plain type; got {data.dtype}")
    whole_numbers = data.detach().to(torch.int64)
    if bool((whole_numbers < 0).any()):
        raise ValueError(f"{name} must be below 2^63; got {data.detach().cpu().numpy().max()}")
    return whole_numbers


def names(
    given: Iterable[object], name: str, default: Sequence[object] | None = None
) -> tuple[str, ...]:
    """Names as strings, all different; ``default`` gives their number and replaces ()."""
    single = isinstance(given, str | bytes) or getattr(given, "ndim", 1) == 0
    if single or not isinstance(given, Iterable):
        kind = "the single string " if isinstance(given, str) else ""
        raise ValueError(f"{name} must be a list of names; got {kind}{given!r}")
    if default is not None and isinstance(given, tuple) and not given:
        given = default
    strings = tuple(str(one) for one in given)
    if default is not None and len(strings) != len(default):
        raise ValueError(f"{name} must be {len(default)} names; got {len(strings)}")
    if len(set(strings)) < len(strings):
        twice = next(one for one in strings if strings.count(one) > 1)
        raise ValueError(f"{name} must all be different; got {twice!r} more than once")
    return strings


def units(given: object, known: Sequence[str]) -> dict[str, str]:
    """Units by the names of what has them.

    Raises:
        ValueError: anything but a mapping of known names to text that is not empty.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"units must be a mapping of names to units; got {type(given).__name__}")
    for name, unit in given.items():
        if name not in known:
            raise ValueError(f"units must be of {', '.join(map(repr, known))}; got {name!r}")
        if not isinstance(unit, str) or not unit:
            raise ValueError(f"units must be text; got {unit!r} of {name!r}")
    return dict(given)


def check_lengths(lengths: Tensor, n: int, t: int) -> None:
    """Check that lengths are whole numbers in 1..t, one for each of n sequences."""
    numbers = not lengths.is_floating_point() and lengths.dtype != torch.bool
    if not numbers or tuple(lengths.shape) != (n,):
        raise ValueError(
            f"lengths must be whole numbers of shape ({n},), one per sequence; "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    outside = (lengths < 1) | (lengths > t)
    if outside.any():
        at = int(torch.nonzero(outside)[0])
        raise ValueError(
            f"lengths must lie in 1..{t}, the number of steps; "
            f"got {int(lengths[at])} for sequence {at}"
        )


def check_layout(data: Sequences) -> None:
    """Check types, shapes and devices of the tensors, and the range of the lengths."""
    values, inputs = tensor(data.values, "values"), data.inputs
    codes = values.ndim == 2 and data.values.dtype == torch.int64
    real = values.ndim == 3 and data.values.dtype in FLOATING
    if not (codes or real) or 0 in values.shape:
        raise ValueError(
            "values must be floating (sequences, steps, features) or int64 codes "
            f"(sequences, steps), no size 0; got {data.values.dtype} of shape {tuple(values.shape)}"
        )
    shape = tuple(values.shape[:2])
    required: dict[str, tuple[tuple[object, ...], torch.dtype | str]] = {
        "mask": (tuple(values.shape), torch.bool),
        "lengths": (shape[:1], torch.int64),
        "times": (shape, torch.float64),
        "actions": (shape, torch.int64),
        "rewards": (shape, torch.float64),
        "inputs": ((*shape, *(getattr(inputs, "shape", ())[2:3] or ["U"])), "floating"),
    }
    for name, (size, asked) in required.items():
        part = getattr(data, name)
        if part is None and name not in ("mask", "lengths"):
            continue
        if isinstance(part, Tensor) and part.device != values.device:
            raise ValueError(f"{name} must be on {values.device}, as values; got {part.device}")
        tensor(part, name)
        typed = part.dtype in FLOATING if asked == "floating" else part.dtype == asked
        if not typed or tuple(part.shape) != size:
            raise ValueError(
                f"{name} must be {asked} of shape {size}; got {part.dtype} "
                f"of shape {tuple(part.shape)}"
            )
    check_lengths(data.lengths, *shape)


def check_entries(data: Sequences) -> None:
    """Check every number of tensors whose layout is right."""
    values, mask, labels = data.values, data.mask, data.labels
    if data.is_codes:
        _refuse(mask & (values < 0), values, "codes must be 0, 1, 2, …", labels)
        if data.symbols is not None:
            requirement = f"codes must be below {len(data.symbols)}, the number of symbols"
            _refuse(mask & (values >= len(data.symbols)), values, requirement, labels)
    else:
        requirement = "values must be finite where observed (NaN alone marks missing values)"
        _refuse(mask & ~values.isfinite(), values, requirement, labels)
    steps = data.step_mask if data.is_codes else data.step_mask[..., None]
    _refuse(mask & ~steps, mask, "mask must be False beyond lengths", labels)
    _refuse(~mask & (values != 0), values, "values must be 0 where mask is False", labels)
    if data.times is not None:
        _refuse(~data.times.isfinite(), data.times, "times must be finite", labels)
        falls = data.times.diff(dim=1, prepend=data.times[:, :1]) < 0
        _refuse(falls, data.times, "times must not decrease in a sequence", labels)
    if data.actions is not None:
        _refuse(data.actions < 0, data.actions, "actions must be 0, 1, 2, …", labels)
    if data.rewards is not None:
        _refuse(~data.rewards.isfinite(), data.rewards, "rewards must be finite", labels)
    if data.inputs is not None:
        _refuse(~data.inputs.isfinite(), data.inputs, "inputs must be finite", labels)


def _refuse(bad: Tensor, shown: Tensor, requirement: str, labels: Sequence[str]) -> None:
    """Raise ``ValueError`` with the first entry where ``bad`` is True, and its place."""
    if not bad.any():
        return
    place = torch.nonzero(bad)[0].tolist()
    name = f" ({labels[place[0]]!r})" if labels else ""
    feature = f", feature {place[2]}" if len(place) == 3 else ""
    raise ValueError(
        f"{requirement}; got {shown[tuple(place)].item()} "
        f"in sequence {place[0]}{name}, step {place[1]}{feature}"
    )
