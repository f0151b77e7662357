"""Saving and loading models as data: a description and tensors, without unpickling."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from .boundary import boundary
from .data.names import Names
from .data.storage import read_tensors, reading, write_tensors
from .descriptions import described, find_class, restored, restored_arguments
from .model import Model

FORMAT = 2


def describe(model: Model) -> tuple[dict[str, object], dict[str, Tensor]]:
    """A JSON-ready description of a model, and its tensors (known values, priors, settings).

    Raises:
        ValueError: a law or a prior that cannot be made again from plain values and tensors.
    """
    tensors = {f"known.{name}": value.detach().clone() for name, value in model.own_known.items()}
    priors = {
        name: described(prior, f"prior.{name}", tensors)
        for name, prior in model.replaced_priors.items()
    }
    description = {"format": FORMAT, **described(model, "model", tensors), "priors": priors}
    return description | {"names": model.names.plain()}, tensors


def restore(
    description: dict[str, Any], tensors: dict[str, Tensor], allow: Collection[str] = ()
) -> Model:
    """The model of a description, with classes of modules that are loaded or allowed.

    Raises:
        ValueError: another format, or a class that is not found, does not fit, or belongs to a
            module that was neither imported nor allowed. An incomplete description raises whatever
            comes; call it inside ``reading``.
    """
    form, kind = description.get("format"), description.get("kind")
    if form != FORMAT:
        raise ValueError(
            f"path: needs a model of format {FORMAT}, got kind {kind!r}, format {form!r}"
        )
    made = find_class(kind, lambda found: issubclass(found, Model), "a class of models", allow)
    arguments = restored_arguments(description, tensors, allow)
    priors = {
        name: restored(prior, tensors, allow) for name, prior in description["priors"].items()
    }
    if priors:  # a family of the user's own need not take any
        arguments["priors"] = priors
    model: Model = made(**arguments)
    start = "known."
    known = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
    model = model.with_parameters(**known) if known else model
    model.names = Names.from_plain(description["names"])
    return model


@boundary
def save_model(model: Model, path: str | os.PathLike[str]) -> Path:
    """Write a model to one file, completely or not at all.

    The file names the classes of the model and its laws, which may be your own: a model is made
    again from its ``configuration``, a law from the fields of a frozen dataclass.

    Args:
        model: the model.
        path: the file, in an existing folder.

    Returns:
        The path.

    Raises:
        ValueError: no existing folder, or a law or prior that cannot be made again.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(HiddenMarkovModel(3, "poisson"), Path(folder) / "quakes.pt").name
    'quakes.pt'
    """
    description, tensors = describe(model)
    return write_tensors(path, {"model": json.dumps(description), "tensors": tensors}, "model")


def load_model(path: str | os.PathLike[str], *, allow: Collection[str] = ()) -> Model:
    """Read a model that ``save_model`` wrote.

    Nothing is unpickled. The classes that the file names must belong to the library, to a module
    that was imported before, or to a module in ``allow``; only models, laws and distributions are
    made.

    Args:
        path: the file.
        allow: modules, or packages of modules, to import where the file names classes of theirs.

    Returns:
        The model, with its known parameters and priors.

    Raises:
        ValueError: a missing, damaged or foreign file, or a module that was neither imported nor
            allowed.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from beliefzoo.models import HiddenMarkovModel, save_model
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(rate=[13, 28])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_model(save_model(model, Path(folder) / "quakes.pt"))
    HiddenMarkovModel(states=2, Poisson(features=1, typical=10.0, shape=1.0), known=['rate'])
    """
    content = read_tensors(path, {"model": str, "tensors": dict}, "model")
    with reading(path, "a model"):
        return restore(json.loads(content["model"]), content["tensors"], allow)
