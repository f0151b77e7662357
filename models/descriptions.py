"""Objects as data: how they are made again, and their tensors. Nothing is ever unpickled.

A description names the class of an object and the arguments from which it is made again: the fields
of a frozen dataclass, the ``configuration`` of a class that has one, the arguments of a
distribution. Classes of the library and of others are treated alike. A class is only called if it
is of one of these kinds, and only imported if the caller allows it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.utils import lazy_property

_OWN = "beliefzoo.models", "beliefzoo.inference"
"""Packages that a description may name classes of without being asked."""


def described(value: object, place: str, tensors: dict[str, Tensor]) -> Any:
    """A JSON-ready description of a value; its tensors go to ``tensors``, named by ``place``.

    Values are plain values, tensors, classes, tuples and mappings of values, and objects that can
    be made again from values.

    Raises:
        ValueError: another value, named by its place.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, np.generic):
        return described(value.item(), place, tensors)
    if isinstance(value, Tensor):
        tensors[place] = value.detach().clone()
        return {"tensor": place}
    if isinstance(value, tuple | list):
        return [described(entry, f"{place}.{k}", tensors) for k, entry in enumerate(value)]
    if isinstance(value, Mapping):
        entries = [
            [described(name, f"{place}.{k}", tensors), described(entry, f"{place}.{k}", tensors)]
            for k, (name, entry) in enumerate(value.items())
        ]
        return {"mapping": entries}
    if isinstance(value, type) and is_made_again(value):
        return {"class": class_name(value, place)}
    arguments = {
        name: described(argument, f"{place}.{name}", tensors)
        for name, argument in arguments_of(value, place).items()
    }
    return {"kind": class_name(type(value), place), "arguments": arguments}


def restored(description: Any, tensors: Mapping[str, Tensor], allow: Collection[str] = ()) -> Any:
    """The value of a description; lists become tuples.

    Args:
        description: of the value.
        tensors: those that it was described with.
        allow: modules, or packages of modules, to import for the classes that are named.

    Raises:
        ValueError: a class that cannot be found, is not of a kind that makes values, or whose
            module was neither imported nor allowed.
    """
    if isinstance(description, list):
        return tuple(restored(entry, tensors, allow) for entry in description)
    if not isinstance(description, dict):
        return description
    if "tensor" in description:
        return tensors[description["tensor"]]
    if "mapping" in description:
        entries = restored(description["mapping"], tensors, allow)
        return dict(entries)
    named = description["class" if "class" in description else "kind"]
    kind = find_class(named, is_made_again, "a frozen dataclass or a distribution", allow)
    return (
        kind if "class" in description else kind(**restored_arguments(description, tensors, allow))
    )


def restored_arguments(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], allow: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a description."""
    arguments = description["arguments"]
    return {name: restored(value, tensors, allow) for name, value in arguments.items()}


def arguments_of(value: object, place: str) -> dict[str, Any]:
    """The arguments from which an object is made again.

    Raises:
        ValueError: an object without a description of its arguments.
    """
    kind = type(value)
    if isinstance(value, Distribution):
        return _distribution_arguments(value, place)
    if _configured(kind):
        configured: Any = value
        return dict(configured.configuration)
    if not _frozen(kind):
        raise ValueError(
            f"{place}: can save plain values, tensors, classes, distributions, frozen dataclasses "
            f"and objects with a property `configuration`, got {value!r}"
        )
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    return {field.name: getattr(value, field.name) for field in fields if field.init}


def _distribution_arguments(value: Distribution, place: str) -> dict[str, Any]:
    """The arguments of the constructor, which are also attributes.

    Of arguments that follow from each other (``probs``, ``logits``) it is the one that was given,
    which is the oldest attribute.
    """
    if isinstance(value, Independent):  # it keeps its first argument under another name
        events = value.reinterpreted_batch_ndims
        return {"base_distribution": value.base_dist, "reinterpreted_batch_ndims": events}
    kind = type(value)
    names = [name for name in inspect.signature(kind).parameters if name != "validate_args"]
    derived = {
        name
        for name in names
        if isinstance(inspect.getattr_static(kind, name, None), lazy_property)
    }
    given = next((name for name in vars(value) if name in derived), None)
    names = [name for name in names if name not in derived or name == given]
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise ValueError(
            f"{place}: can save distributions that have the arguments of their constructor as "
            f"attributes, got {value!r} without {missing}"
        )
    return {name: getattr(value, name) for name in names}


def is_made_again(kind: type) -> bool:
    """Whether objects of this class can be described; ``restored`` calls no other class."""
    return issubclass(kind, Distribution) or _configured(kind) or _frozen(kind)


def _configured(kind: type) -> bool:
    own = inspect.getattr_static(kind, "configuration", None)
    return isinstance(own, property | cached_property)


def _frozen(kind: type) -> bool:
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    return dataclasses.is_dataclass(kind) and bool(parameters.frozen)


def class_name(kind: type, place: str = "model") -> str:
    """``"package:Class"``, with the outermost package that exports the class.

    Classes can thus move between the modules of a package that exports them.

    Raises:
        ValueError: a class that is not found in its module under its own name.
    """
    for module in accumulate(kind.__module__.split("."), "{}.{}".format):
        if module in sys.modules and _shown(module, kind.__qualname__) is kind:
            return f"{module}:{kind.__qualname__}"
    raise ValueError(
        f"{place}: can save objects of classes that can be imported from their module, got one of "
        f"{kind.__qualname__} in {kind.__module__}"
    )


def find_class(
    name: object, fits: Callable[[type], bool], requirement: str, allow: Collection[str] = ()
) -> type[Any]:
    """The class of that name, if it fits.

    Raises:
        ValueError: a class that does not fit or does not exist, or a module that was neither
            imported nor allowed.
    """
    module, _, qualified = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not module or not qualified:
        raise ValueError(f"path: needs {requirement} as 'module:Class', got {name!r}")
    if module not in sys.modules:
        _import(module, allow)
    found = _shown(module, qualified)
    if found is None:
        raise ValueError(
            f"path: needs {requirement} that {module!r} has (one of a script is to be defined "
            f"there again), got {name!r}"
        )
    if not fits(found):
        raise ValueError(f"path: needs {requirement} from a file, got {name!r}")
    return found


def _import(module: str, allow: Collection[str]) -> None:
    if isinstance(allow, str):
        raise ValueError(f"allow: must be a list of modules, such as [{allow!r}], got {allow!r}")
    packages = accumulate(module.split("."), "{}.{}".format)
    if not {*allow, *_OWN} & {*packages}:
        raise ValueError(
            f"path: names a class of the module {module!r}; import it before, or name it in "
            f"allow=[{module!r}], if you trust the file, got {sorted(allow)} allowed"
        )
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"allow: must name modules to import, got {module!r} ({error})") from error


def _shown(module: str, qualified: str) -> type[Any] | None:
    """A class of a loaded module, or inside a class there; None if there is no such class.

    It is looked up in their dictionaries, which runs no code of others.
    """
    place: Any = sys.modules[module]
    for name in qualified.split("."):
        found = None if name.startswith("__") else vars(place).get(name)
        if not isinstance(found, type):
            return None
        place = found
    return found
