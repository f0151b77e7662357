"""Saving and loading models as data: a description and tensors, nothing to be unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .chains.actions import ActionEmission, ActionTransition
from .chains.generators import GeneratorTransition
from .chains.hmm import HiddenMarkovModel
from .chains.laws import (
    BandedTransition,
    InputTransition,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)
from .chains.memory import AccumulatorTransition, EmptyMemory, MemoryEmission, ResetTransition
from .chains.neural import NeuralEmission, NeuralTransition
from .chains.node_emission import NodeEmission
from .chains.node_laws import HarmoniumInitial, HarmoniumTransition, NodeInitial, SigmoidTransition
from .continuous.deep import DeepMarkovModel
from .continuous.diffusion import LinearSDE, OrnsteinUhlenbeck
from .continuous.dynamics import LinearDynamics, SumOfDynamics
from .continuous.linear import LinearEmission, LinearGaussianSSM
from .continuous.structural import Autoregressive, Cycle, LocalLevel, LocalLinearTrend, Seasonal
from .continuous.switching import SwitchingLinearSSM
from .data.storage import read_tensors, write_tensors
from .decisions.pomdp import POMDP
from .decisions.rewards import Rewards
from .emissions.counts import Bernoulli, Categorical, Multinomial, Poisson
from .emissions.misclassification import Misclassification
from .emissions.reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .emissions.regression import Regression
from .model import Model
from .priors import Ordered

FORMAT = 1

_MODELS: dict[str, type[Any]] = {
    model.__name__: model
    for model in (HiddenMarkovModel, POMDP, LinearGaussianSSM, SwitchingLinearSSM, DeepMarkovModel)
}

_PARTS: dict[str, type[Any]] = {
    part.__name__: part
    for part in (
        *(Bernoulli, Categorical, Multinomial, Poisson, Regression, NeuralEmission),
        *(Gaussian, FullGaussian, LowRankGaussian, StudentT, GaussianMixture),
        *(MatrixTransition, InputTransition, NeuralTransition),
        *(LowRankTransition, BandedTransition, SparseTransition),
        *(GeneratorTransition, Misclassification),
        *(ActionEmission, ActionTransition, Rewards),
        *(NodeEmission, SigmoidTransition, HarmoniumTransition, NodeInitial, HarmoniumInitial),
        *(AccumulatorTransition, ResetTransition, EmptyMemory, MemoryEmission),
        *(LinearDynamics, SumOfDynamics, LinearSDE, OrnsteinUhlenbeck, LinearEmission),
        *(Autoregressive, Cycle, LocalLevel, LocalLinearTrend, Seasonal),
    )
}

# What each kind of prior is made of: its constructor's arguments, which are also its attributes.
_PRIORS = {
    "Beta": ("concentration1", "concentration0"),
    "Cauchy": ("loc", "scale"),
    "Dirichlet": ("concentration",),
    "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"),
    "HalfCauchy": ("scale",),
    "HalfNormal": ("scale",),
    "InverseGamma": ("concentration", "rate"),
    "LKJCholesky": ("dim", "concentration"),
    "Laplace": ("loc", "scale"),
    "LogNormal": ("loc", "scale"),
    "MultivariateNormal": ("loc", "scale_tril"),
    "Normal": ("loc", "scale"),
    "StudentT": ("df", "loc", "scale"),
    "Uniform": ("low", "high"),
}


def describe(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A JSON-ready description of the model, and its tensors (known values, own priors).

    Raises:
        ValueError: for a law that is not the library's, or a prior of a kind that is not known.
    """
    tensors = {f"known.{name}": value.detach().clone() for name, value in model.known.items()}
    priors = {}
    for name, prior in model.replaced_priors.items():
        priors[name] = _describe_prior(prior, f"prior.{name}", tensors)
    kind = type(model).__name__
    if _MODELS.get(kind) is not type(model):
        raise ValueError(f"model: can save {sorted(_MODELS)}, got {model!r}")
    arguments = {name: _described(value) for name, value in model.configuration.items()}
    description = {"format": FORMAT, "kind": kind, **arguments, "priors": priors}
    return description, tensors


def restore(description: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    """The model that ``describe`` described.

    Raises:
        ValueError: another format, or a description that is not whole.
    """
    if description.get("format") != FORMAT or description.get("kind") not in _MODELS:
        raise ValueError(
            f"path: needs a model of format {FORMAT}, got kind {description.get('kind')!r}, "
            f"format {description.get('format')!r}"
        )
    try:
        return _restore(description, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"path: needs a whole description of a model, got one that lacks or distorts {error}"
        ) from error


def _restore(description: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    priors = {
        name: _restore_prior(prior, f"prior.{name}", tensors)
        for name, prior in description["priors"].items()
    }
    arguments = {
        name: _restored(value)
        for name, value in description.items()
        if name not in ("format", "kind", "priors")
    }
    model = _MODELS[description["kind"]](**arguments, priors=priors)
    start = len("known.")
    known = {name[start:]: value for name, value in tensors.items() if name.startswith("known.")}
    restored: Model = model.with_parameters(**known) if known else model
    return restored


def save_model(model: Model, path: str | os.PathLike[str]) -> Path:
    """Write the model to one file, atomically."""
    description, tensors = describe(model)
    return write_tensors(path, {"model": json.dumps(description), "tensors": tensors})


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read a model written by ``save_model``.

    Raises:
        ValueError: missing, truncated or foreign file.
    """
    content = read_tensors(path, {"model", "tensors"})
    try:
        description = json.loads(content["model"])
        return restore(description, dict(content["tensors"]))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"path: needs a model written by save_model, got {os.fspath(path)!r} with other "
            f"content under the same names ({error})"
        ) from error


def _describe_part(part: Any) -> dict[str, Any]:
    kind = type(part).__name__
    if _PARTS.get(kind) is not type(part):
        raise ValueError(f"model: can save {sorted(_PARTS)}, got {part!r}")
    fields = {}
    for field in dataclasses.fields(part):
        fields[field.name] = _described(getattr(part, field.name))
    return {"kind": kind, **fields}


def _described(value: Any) -> Any:
    """Laws as descriptions, also within tuples; plain values as they are."""
    if isinstance(value, tuple | list):
        return [_described(entry) for entry in value]
    return _describe_part(value) if dataclasses.is_dataclass(value) else value


def _restore_part(description: dict[str, Any]) -> Any:
    kind = description.get("kind", "")
    if kind not in _PARTS:
        raise ValueError(f"path: needs a law of {sorted(_PARTS)}, got {kind!r}")
    fields = {name: _restored(value) for name, value in description.items() if name != "kind"}
    return _PARTS[kind](**fields)


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_restored(entry) for entry in value)
    return _restore_part(value) if isinstance(value, dict) else value


def _describe_prior(prior: Any, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(prior, Ordered):
        return {"kind": "Ordered", "base": _describe_prior(prior.base, place, tensors)}
    if isinstance(prior, dist.Independent):
        base = _describe_prior(prior.base_dist, place, tensors)
        return {"kind": "Independent", "base": base, "event": prior.reinterpreted_batch_ndims}
    kind = type(prior).__name__
    if kind not in _PRIORS or getattr(dist, kind) is not type(prior):
        raise ValueError(
            f"priors: can save {sorted(_PRIORS)}, Independent and Ordered of them, got {prior!r}"
        )
    for name in _PRIORS[kind]:
        tensors[f"{place}.{name}"] = torch.as_tensor(getattr(prior, name)).detach().clone()
    return {"kind": kind}


def _restore_prior(description: dict[str, Any], place: str, tensors: dict[str, Tensor]) -> Any:
    kind = description["kind"]
    if kind == "Ordered":
        return Ordered(_restore_prior(description["base"], place, tensors))
    if kind == "Independent":
        return _restore_prior(description["base"], place, tensors).to_event(description["event"])
    arguments: dict[str, Any] = {name: tensors[f"{place}.{name}"] for name in _PRIORS[kind]}
    if "dim" in arguments:  # a size, where all others are tensors
        arguments["dim"] = int(arguments["dim"])
    return getattr(dist, kind)(**arguments)
