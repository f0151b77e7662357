"""Checkpoints of a fit: identification and reading."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ...models import SequenceFolder
from ...models.data.folders import Data
from ...models.data.names import Names
from ...models.data.storage import read_tensors
from ...models.persistence import describe
from ..guides.guide import Guide
from .objectives import Objective

KEYS = {"fingerprint", "step", "guide", "optimizer", "random"}


def read_checkpoint(path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """Reads a checkpoint; returns None if there is none yet.

    Raises:
        ValueError: a broken or foreign file, or the checkpoint of another fit.
    """
    if path is None or not path.exists():
        return None
    saved = read_tensors(path, KEYS)
    if saved["fingerprint"] != fingerprint:
        raise ValueError(
            f"checkpoint: {os.fspath(path)!r} belongs to another fit (model, guide, data, "
            "objective, settings or seed differ); name another file or remove it"
        )
    return saved


def fingerprint(
    guide: Guide,
    data: Data,
    heldout: Data | None,
    objective: Objective,
    settings: dict[str, Any],
    seed: int,
) -> str:
    """Identifies a fit by model, guide, data, objective, settings and seed."""
    description, tensors = describe(guide.model)
    digest = hashlib.sha256()
    shapes = {name: list(value.shape) for name, value in guide.filter_shapes().items()}
    kind = type(guide).__name__
    own = type(guide.filter).__name__, getattr(guide.filter, "configuration", None)
    made = [kind, guide.uncertainty, guide.options, own, shapes]
    parts = [made, objective, seed, settings, description]
    digest.update(json.dumps(parts, sort_keys=True, default=_told).encode())
    for tensor in tensors.values():
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    for part in (data, heldout):
        digest.update(b"" if part is None else digest_of(part).encode())
    return digest.hexdigest()


def _told(value: object) -> str:
    """What an object says of itself, but for its place in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


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
