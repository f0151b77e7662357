"""Saving and loading fits: one file of tensors and plain values, nothing to be unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...models import Model
from ...models.data.storage import read_tensors, write_tensors
from ...models.persistence import describe, restore
from ...models.randomness import seeded
from ..filters.bayesian import BayesianRecurrentFilter
from ..filters.conditional_markov import CRFFilter, MEMMFilter
from ..filters.recurrent import ElmanFilter, GRUFilter, LSTMFilter, RecurrentFilter
from ..filters.sigmoid import SigmoidFilter
from ..filters.slot import ExactFilter, Filter
from ..filters.spectral import SpectralFilter
from ..guides.deep import DeepGuide, TrajectoryNetwork
from ..guides.guide import BeliefGuide, ForwardGuide, Guide, MeanFieldGuide
from ..guides.regimes import RegimeGuide
from ..guides.sampled_bits import SampledBitGuide
from .loop import Fit
from .settings import FitSettings

_GUIDES: dict[str, type[Guide]] = {
    kind.__name__: kind
    for kind in (
        *(BeliefGuide, ForwardGuide, MeanFieldGuide, SampledBitGuide),
        *(RegimeGuide, DeepGuide),
    )
}
_NETWORKS: dict[str, type[RecurrentFilter]] = {
    kind.__name__: kind for kind in (LSTMFilter, GRUFilter, ElmanFilter)
}
_CONFIGURED: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(TrajectoryNetwork, SigmoidFilter, BayesianRecurrentFilter),
        *(MEMMFilter, CRFFilter, SpectralFilter),
    )
}
"""Filters that are made again from their ``configuration``, and get their weights from the file."""
_KEYS = {"fit", "model", "tensors", "guide", "losses", "evaluations", "restart_bounds"}


def save_fit(fit: Fit, path: str | os.PathLike[str]) -> Path:
    """Write a fit to one file, atomically.

    Raises:
        ValueError: no existing folder, or a law, prior or filter that is not the library's.
    """
    description, tensors = describe(fit.model)
    settings = dataclasses.asdict(fit.settings)
    if not isinstance(fit.settings.start, str):
        settings["start"] = "kmeans"  # where it began is in the past: the fit does not need it
    record = {
        "guide": type(fit.guide).__name__,
        "uncertainty": fit.guide.uncertainty,
        "options": fit.guide.options,
        "filter": _describe_filter(fit.guide.filter),
        "objective": fit.objective,
        "settings": settings,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "versions": dict(fit.versions),
    }
    content = {
        "fit": json.dumps(record),
        "model": json.dumps(description),
        "tensors": tensors,
        "guide": fit.guide.state_dict(),
        "losses": fit.losses,
        "evaluations": fit.evaluations,
        "restart_bounds": fit.restart_bounds,
    }
    return write_tensors(path, content)


def load_fit(path: str | os.PathLike[str]) -> Fit:
    """Read a fit written by ``save_fit``.

    Raises:
        ValueError: missing, truncated or foreign file.
    """
    content = read_tensors(path, _KEYS)
    record = json.loads(content["fit"])
    model = restore(json.loads(content["model"]), content["tensors"])
    with seeded(0):  # networks are made with random weights, before they get those of the file
        guide = _restore_guide(record, model, content["guide"])
    return Fit(
        model=model,
        guide=guide,
        objective=record["objective"],
        settings=FitSettings(**record["settings"]),
        seed=record["seed"],
        losses=content["losses"],
        evaluations=content["evaluations"],
        restart_bounds=content["restart_bounds"],
        seconds=record["seconds"],
        versions=record["versions"],
    )


def _describe_filter(kept: Filter) -> dict[str, Any]:
    if isinstance(kept, ExactFilter):
        return {"kind": "ExactFilter"}
    kind = type(kept).__name__
    configured: Any = kept
    if _CONFIGURED.get(kind) is type(kept):
        return {"kind": kind, **configured.configuration}
    if not isinstance(kept, RecurrentFilter) or kind not in _NETWORKS:
        known = sorted([*_NETWORKS, *_CONFIGURED])
        raise ValueError(f"fit: can save ExactFilter and {known}, got {kept!r}")
    assert kept.network is not None  # it is in a guide, so it was built
    network = {
        name: getattr(kept.network, name)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional")
    }
    if isinstance(kept.network, nn.RNN):
        network["nonlinearity"] = kept.network.nonlinearity
    return {
        "kind": kind,
        "reads": kept.reads,
        "direction": kept.direction,
        "gaps": kept.gaps,
        "memory": kept.memory,
        "gain": kept.gain,
        "factorised": kept.factorised,
        "frozen": kept.frozen,
        "network": network,
    }


def _restore_guide(record: dict[str, Any], model: Model, state: dict[str, Tensor]) -> Guide:
    description = dict(record["filter"])
    named = description.pop("kind")
    kept: Filter = ExactFilter()
    if named in _CONFIGURED:
        kept = _CONFIGURED[named](**description)
    elif named != "ExactFilter":
        kind = _NETWORKS[named]
        make: type[Any] = kind.kind
        network = make(**description.pop("network"))
        kept = kind(**description, network=network)
    made: type[Any] = _GUIDES[record["guide"]]
    guide: Guide = made(model, kept, parameters=record["uncertainty"], **record["options"])
    for name, value in (*guide.named_parameters(), *guide.named_buffers()):
        if name in state:  # its precision is the file's, whatever the default is now
            value.data = value.data.to(state[name].dtype)
    guide.load_state_dict(state)
    return guide.eval()
