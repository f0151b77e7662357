"""Saving and loading fits: one file of tensors and plain values; nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor, nn

from ...models import Model
from ...models.boundary import boundary
from ...models.checks import require
from ...models.data.storage import Form, read_tensors, reading, require_form, write_tensors
from ...models.descriptions import (
    arguments_of,
    class_name,
    described,
    find_class,
    is_made_again,
    restored,
)
from ...models.persistence import describe, restore
from ...models.randomness import seeded
from ..filters.slot import Filter
from ..guides.guide import Guide
from .criteria import Extent
from .objectives import OBJECTIVES
from .record import Fit
from .settings import FitSettings

_TORCH: dict[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
"""Networks of torch that are made again from their sizes."""

_CONTENT: Form = {
    "fit": str,
    "model": str,
    "tensors": dict,
    "guide": dict,
    "losses": Tensor,
    "evaluations": Tensor,
    "restart_bounds": Tensor,
    "curvature": (Tensor, NoneType),
}

_NUMBER = (int, float, NoneType)

_RECORD: Form = {
    "guide": str,
    "uncertainty": str,
    "redundant": bool,
    "filter": dict,
    "options": dict,
    "objective": str,
    "settings": dict,
    "seed": int,
    "seconds": (int, float),
    "why_ended": str,
    "converged": (bool, NoneType),
    "k_hat": _NUMBER,
    "gradient_norm": _NUMBER,
    "versions": dict,
    "extent": (list, NoneType),
    "warnings": list,
}


@boundary
def save_fit(fit: Fit, path: str | os.PathLike[str]) -> Path:
    """Writes a fit to one file, completely or not at all.

    The file names the classes of model, laws, guide and filter, which may be your own. A filter is
    rebuilt from its property ``configuration`` (or the fields of a frozen dataclass), a guide from
    its ``options``, and both get their weights from the file. So does a network given to a filter,
    if it has a ``configuration`` too or is torch's LSTM, GRU or RNN; any other must be given to
    :func:`load_fit` again.

    Args:
        fit: the fit.
        path: the file.

    Returns:
        The path.

    Raises:
        ValueError: a missing folder, or a law, prior or filter that cannot be rebuilt.

    >>> import pathlib, tempfile
    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit, save_fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> guide, data = BeliefGuide(model, ExactFilter()), Sequences.from_arrays([[3, 5, 4, 4]])
    >>> result = fit(model, guide, data, settings=FitSettings(steps=2), progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_fit(result, pathlib.Path(folder) / "fit.pt").exists()
    True
    """
    description, tensors = describe(fit.model)
    settings = dataclasses.asdict(fit.settings)
    if not isinstance(fit.settings.start, str):
        settings["start"] = "kmeans"  # starting values are not stored
    record = {
        "guide": class_name(type(fit.guide), "fit.guide"),
        "uncertainty": fit.guide.uncertainty,
        "redundant": fit.guide.redundant,
        "options": described(fit.guide.options, "fit.guide.options", tensors),
        "filter": _described_filter(fit.guide.filter, tensors),
        "objective": fit.objective,
        "settings": settings,
        "seed": fit.seed,
        "why_ended": fit.why_ended,
        "k_hat": None if math.isnan(fit.k_hat) else fit.k_hat,
        "converged": fit.converged,
        "gradient_norm": None if math.isnan(fit.gradient_norm) else fit.gradient_norm,
        "seconds": fit.seconds,
        "versions": dict(fit.versions),
        "extent": fit.extent,
        "warnings": fit.warnings,
    }
    content = {
        "fit": json.dumps(record),
        "model": json.dumps(description),
        "tensors": tensors,
        "guide": fit.guide.state_dict(),
        "losses": fit.losses,
        "evaluations": fit.evaluations,
        "restart_bounds": fit.restart_bounds,
        "curvature": fit.curvature,
    }
    return write_tensors(path, content, "fit")


def load_fit(
    path: str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    network: nn.Module | None = None,
) -> Fit:
    """Reads a fit written by :func:`save_fit`; nothing is unpickled, see ``load_model``.

    Args:
        path: the file.
        allow: modules, or packages of modules, to import if the file names classes from them.
        network: for a filter with a network of your own that has no ``configuration``: a network
            like it, whose weights are replaced by those of the file.

    Returns:
        The fit.

    Raises:
        ValueError: a missing, damaged or foreign file, a module that was neither imported nor
            allowed, or a network that is missing or does not match the file.

    >>> import tempfile
    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings
    >>> from beliefzoo.inference import fit, load_fit, save_fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> guide, data = BeliefGuide(model, ExactFilter()), Sequences.from_arrays([[3, 5, 4, 4]])
    >>> result = fit(model, guide, data, settings=FitSettings(steps=2), progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load_fit(save_fit(result, f"{folder}/fit.pt"))
    >>> bool(again.fitted.known["rate"] == result.fitted.known["rate"])
    True
    """
    content = read_tensors(path, _CONTENT, "fit")
    # Networks are made with random weights, before they get those of the file.
    with reading(path, "a fit"), seeded(0):
        record = require_form(json.loads(content["fit"]), _RECORD, os.fspath(path))
        _check_record(record)
        tensors = content["tensors"]
        model = restore(json.loads(content["model"]), tensors, allow)
        guide = _restored_guide(record, model, tensors, allow, network)
        if record["redundant"]:
            guide.in_redundant_coordinates()
        _fill(guide, content["guide"])
        return Fit(
            model=model,
            guide=guide,
            objective=record["objective"],
            settings=FitSettings(**record["settings"]),
            seed=record["seed"],
            losses=content["losses"],
            evaluations=content["evaluations"],
            restart_bounds=content["restart_bounds"],
            k_hat=_or_nan(record["k_hat"]),
            why_ended=record["why_ended"],
            converged=record["converged"],
            gradient_norm=_or_nan(record["gradient_norm"]),
            curvature=content["curvature"],
            seconds=record["seconds"],
            versions=record["versions"],
            extent=_extent(record["extent"]),
            warnings=tuple(record["warnings"]),
        )


def _check_record(record: dict[str, Any]) -> None:
    """Refuses what no fit has, although its type is right."""
    objective = record["objective"]
    require(objective in OBJECTIVES, "objective", f"must be one of {OBJECTIVES}", repr(objective))
    told = {"warnings": record["warnings"], "versions": [*record["versions"].values()]}
    for name, texts in told.items():
        require(all(isinstance(one, str) for one in texts), name, "must be texts", texts)


def _described_filter(kept: Filter, tensors: dict[str, Tensor]) -> dict[str, Any]:
    place, told = "fit.guide.filter", {}
    for name, value in arguments_of(kept, place).items():
        tell: Any = _described_network if isinstance(value, nn.Module) else described
        told[name] = tell(value, f"{place}.{name}", tensors)
    return {"kind": class_name(type(kept), place), "arguments": told}


def _described_network(network: nn.Module, place: str, tensors: dict[str, Tensor]) -> Any:
    """The description to rebuild a network from; only its name if it has none."""
    if is_made_again(type(network)):
        return described(network, place, tensors)
    kind = type(network)
    if kind not in _TORCH.values():
        return {"network": kind.__name__}
    names = ["input_size", "hidden_size", "num_layers", "bias", "bidirectional"]
    names += ["nonlinearity"] if kind is nn.RNN else []
    return {"torch": kind.__name__, **{name: getattr(network, name) for name in names}}


def _restored_argument(
    told: Any, tensors: dict[str, Tensor], allow: Collection[str], network: nn.Module | None
) -> Any:
    if not isinstance(told, dict) or not {"torch", "network"} & set(told):
        return restored(told, tensors, allow)
    if "torch" in told:
        sizes = {name: size for name, size in told.items() if name != "torch"}
        return _TORCH[told["torch"]](**sizes)
    if network is None:
        raise ValueError(
            f"network: the filter of this fit was given a {told['network']}, which does not say by "
            "a property `configuration` what it is made from; give one like it to "
            "load_fit(path, network=...), got None"
        )
    return network


def _restored_guide(
    record: dict[str, Any],
    model: Model,
    tensors: dict[str, Tensor],
    allow: Collection[str],
    network: nn.Module | None,
) -> Guide:
    told = record["filter"]
    arguments = {
        name: _restored_argument(value, tensors, allow, network)
        for name, value in told["arguments"].items()
    }
    kept = find_class(told["kind"], _is_filter, "a filter", allow)(**arguments)
    made = find_class(record["guide"], lambda kind: issubclass(kind, Guide), "a guide", allow)
    options = restored(record["options"], tensors, allow)
    guide: Guide = made(model, kept, parameters=record["uncertainty"], **options)
    return guide


def _is_filter(kind: type) -> bool:
    has = all(callable(getattr(kind, name, None)) for name in ("build", "calibrate"))
    return has and is_made_again(kind)


def _fill(guide: Guide, state: dict[str, Tensor]) -> None:
    """Puts the weights of the file into a rebuilt guide."""
    for name, value in (*guide.named_parameters(), *guide.named_buffers()):
        if name in state:  # in the precision of the file
            value.data = value.data.to(state[name].dtype)
    try:
        guide.load_state_dict(state)
    except RuntimeError as error:  # what is missing or of another shape
        raise ValueError(f"network: needs the weights that the file has, got {error}") from error
    guide.eval()


def _extent(numbers: list[int | None] | None) -> Extent | None:
    made: Any = Extent
    counts = [] if numbers is None else numbers
    whole = all(one is None or type(one) is int for one in counts)
    require(whole and len(counts) in (0, 4), "extent", "must be four counts", counts)
    return None if numbers is None else made(*numbers)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
