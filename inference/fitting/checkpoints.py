"""Checkpoints of a fit: identification and reading."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models import SequenceFolder
from ...models.checks import require, warn
from ...models.data.folders import Data
from ...models.data.names import Names
from ...models.data.storage import Form, read_tensors, remove_unfinished
from ...models.descriptions import arguments_of, is_made_again
from ...models.persistence import describe
from ..guides.guide import Guide
from .objectives import Objective
from .provenance import code_version, versions

_CONTENT: Form = {
    "fingerprint": str,
    "made_with": dict,
    "step": int,
    "start": dict,
    "answers": list,
    "guide": dict,
    "optimizer": dict,
    "random": Tensor,
    "best": (dict, NoneType),
    "losses": Tensor,
    "evaluations": Tensor,
    "restart_bounds": Tensor,
}


def read_checkpoint(path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """Reads a checkpoint; returns None if there is none yet.

    Removes what a fit left that was killed while it wrote there, and warns if the checkpoint was
    begun with other versions of the code.

    Raises:
        ValueError: a damaged or foreign file, or the checkpoint of another fit.
    """
    if path is None:
        return None
    remove_unfinished(path.parent, path.name)
    if not path.exists():
        return None
    saved = read_tensors(path, _CONTENT, "checkpoint")
    if saved["fingerprint"] != fingerprint:
        raise ValueError(
            f"checkpoint: {os.fspath(path)!r} belongs to another fit (model, guide, its first "
            "weights, data, objective, settings or seed differ); name another file or remove it"
        )
    whole = all(isinstance(one, Tensor) and one.ndim == 2 for one in saved["answers"])
    require(whole, "path", "needs a checkpoint with answers (M, 1 + P)", repr(os.fspath(path)))
    whole = all(isinstance(one, Tensor) for one in saved["start"].values())
    require(whole, "path", "needs a checkpoint with a start of tensors", repr(os.fspath(path)))
    then, now = saved["made_with"], made_with()
    other = {n: (then.get(n), v) for n, v in now.items() if then.get(n) != v}
    if other:
        said = ", ".join(f"{name} {before}, now {new}" for name, (before, new) in other.items())
        warn(
            f"fit: the checkpoint {os.fspath(path)!r} was begun with {said}; the result may equal "
            "that of neither alone",
        )
    return saved


@functools.cache
def made_with() -> dict[str, str]:
    """Versions of all that the numbers of a fit depend on."""
    return {**versions(), "code": code_version()}


def fingerprint(
    guide: Guide,
    data: Data,
    heldout: Data | None,
    objective: Objective,
    settings: Mapping[str, Any],
    seed: int,
) -> str:
    """Identifies a fit by all that its result depends on.

    These are the model, the guide with its options, its filter and the first weights, the data, the
    objective, the settings and the seed.
    """
    description, tensors = describe(guide.model)
    parts = [description, tensors, _facts(guide), guide.uncertainty, guide.options, guide.filter]
    told = [_facts(part) for part in (*parts, objective, settings, seed)]
    digests = [None if part is None else digest_of(part) for part in (data, heldout)]
    return _digest(repr((told, digests)).encode())


def _facts(value: object) -> object:
    """What a result can depend on in a value, made of texts and numbers that ``repr`` tells apart.

    Objects are told by their class and the arguments from which they are made again, those that
    have none by their public attributes; networks by their weights, too.
    """
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        if plain.layout is not torch.strided:
            plain = plain.to_dense()
        plain = plain.contiguous().flatten().view(torch.uint8)
        return "tensor", str(value.dtype), tuple(value.shape), _digest(plain.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return "array", str(value.dtype), value.shape, _digest(value.tobytes())
    if isinstance(value, Mapping):
        return "mapping", sorted((repr(_facts(k)), _facts(v)) for k, v in value.items())
    if isinstance(value, tuple | list):
        return type(value).__name__, [_facts(one) for one in value]
    if isinstance(value, set | frozenset):
        return "set", sorted(repr(_facts(one)) for one in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return type(value).__name__, value
    if isinstance(value, type):
        return "class", value.__module__, value.__qualname__
    return _facts_of_object(value)


def _facts_of_object(value: object) -> object:
    kind = type(value)
    parts: list[object] = [kind.__module__, kind.__qualname__]
    if isinstance(value, nn.Module):
        weights = {name: one.requires_grad for name, one in value.named_parameters()}
        parts += [_facts(value.state_dict()), weights]
        own = {n: v for n, v in _public(value).items() if isinstance(v, bool | int | float | str)}
        parts.append(_facts(own))
    if isinstance(value, Guide):
        return parts  # its options and its filter are told beside it
    if is_made_again(kind):
        return [*parts, _facts(arguments_of(value, "guide"))]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [*parts, _facts({name: getattr(value, name) for name in names})]
    if kind.__repr__ is object.__repr__:
        return [*parts, _facts(_public(value))]
    return [*parts, _without_places(value)]


def _public(value: object) -> dict[str, object]:
    """The attributes of an object but for its own affairs and the mode of a network."""
    attributes = getattr(value, "__dict__", {})
    return {n: v for n, v in attributes.items() if not n.startswith("_") and n != "training"}


def _without_places(value: object) -> str:
    """What an object says of itself, but for its place in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_of(data: Data) -> str:
    """Identifies data; of a folder not all is read, see ``SequenceFolder.fingerprint``."""
    if isinstance(data, SequenceFolder):
        return data.fingerprint()
    digest = hashlib.sha256()
    for name in ("values", "mask", "lengths", "times", "actions", "rewards", "inputs"):
        tensor = getattr(data, name)
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
    digest.update(repr(Names.of(data)).encode())
    return digest.hexdigest()
