"""The boundary: what a public call ends in for an argument of a wrong kind is a ``ValueError``.

What a call takes is written once, in its signature; this reads it there. The body speaks first: it
refuses with ``checks``, which know ranges and ways out. What it did not foresee and ends otherwise,
in an ``AttributeError`` say, is put down to the argument that its annotation does not admit.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .checks import is_number, require

Call = TypeVar("Call", bound=Callable[..., Any])

_WORDS = {
    "Model": "a model of beliefzoo.models",
    "Sequences": "Sequences",
    "Fit": "what fit returned",
    "NutsFit": "what nuts returned",
    "Callable": "a function",
    "PathLike": "a path",
    "TorchDistribution": "a distribution of Pyro",
    "Tensor": "a dense tensor of real numbers in memory",
    "NoneType": "None",
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
}


def boundary(call: Call) -> Call:
    """Let a function, or the constructors of a class, refuse arguments of a wrong kind by name.

    Flags are checked before, since anything may be taken for true. Other errors than ``ValueError``
    become one if there is an argument that its annotation does not admit, and stay themselves if
    there is none. True and False are no numbers, NaN is none, a class is no instance of itself, and
    a tensor is dense, real, in memory, and of a type that torch computes with. Annotations that are
    imported for type checkers alone are not read. Scalars of NumPy are passed on as numbers of
    Python.

    Args:
        call: the function or class; a dataclass after ``dataclass`` has made its constructor. Of a
            class the public class methods refuse too, since most are constructors.

    Returns:
        The function, or the same class with other constructors.

    >>> @boundary
    ... def half(n: int, *, rounded: bool = False) -> float:
    ...     return n // 2 if rounded else n / 2
    >>> half([3])
    Traceback (most recent call last):
        ...
    ValueError: n: must be a whole number, got list
    >>> half(3, rounded="no")
    Traceback (most recent call last):
        ...
    ValueError: rounded: must be True or False, got 'no'
    """
    if inspect.isclass(call):
        call.__init__ = _checked(call.__init__, call)  # type: ignore[method-assign]
        for name, own in list(vars(call).items()):
            if isinstance(own, classmethod) and not name.startswith("_"):
                setattr(call, name, classmethod(_checked(own.__func__, None)))
        return call
    checked: Call = _checked(call, None)
    return checked


def admits(hint: Any, value: object) -> bool:
    """Whether a value is what an annotation says; True for annotations that say nothing."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(admits(one, value) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is type:
        return isinstance(value, type)
    kind = origin or hint
    if kind in _KINDS:
        return _KINDS[kind](value)
    if not isinstance(kind, type) or kind is object:
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (
            not inner or all(admits(inner[0], k) and admits(inner[1], v) for k, v in value.items())
        )
    if kind in (tuple, list) or (
        issubclass(kind, Iterable) and kind.__module__ == "collections.abc"
    ):
        return _admits_each(kind, inner, value)
    plain_protocol = getattr(kind, "_is_protocol", False) and not getattr(
        kind, "_is_runtime_protocol", False
    )
    return plain_protocol or (isinstance(value, kind) and not isinstance(value, type))


_FLAGS: tuple[Any, ...] = (bool, bool | None)


def is_dense(value: object) -> bool:
    """Whether it is a dense tensor of real numbers that are in memory."""
    return (
        isinstance(value, Tensor)
        and not (value.is_complex() or value.is_nested or value.is_quantized or value.is_meta)
        and value.layout == torch.strided
        and value.dtype in _TYPES
    )


_TYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    fits = is_number(value) and not (_is_whole(value) and abs(value) >= 2**63)
    return fits and not math.isnan(value)  # type: ignore[arg-type]


_KINDS: dict[object, Callable[[object], bool]] = {
    Any: lambda _: True,
    None: lambda value: value is None,
    bool: lambda value: isinstance(value, bool | np.bool_),
    int: _is_whole,
    float: _is_real,
    Tensor: is_dense,
    TorchDistribution: lambda value: isinstance(value, TorchDistributionMixin),
    Callable: callable,
}


def _admits_each(kind: Any, inner: tuple[Any, ...], value: object) -> bool:
    """Whether it is a sequence of what is admitted: a list may stand for a tuple."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | type):
        return False
    if getattr(value, "ndim", 1) == 0:
        return False
    if not isinstance(value, Collection) or not hasattr(value, "__getitem__"):
        return not issubclass(kind, Collection)  # elements of an iterator are read once
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(admits, inner, value))
    return not inner or all(admits(inner[0], one) for one in value)


def _checked(call: Any, owner: type | None) -> Any:
    signature = inspect.signature(call)

    @functools.cache
    def hints() -> dict[str, Any]:
        """What is known of the annotations, once all modules are loaded."""
        found = {}
        for name, parameter in signature.parameters.items():
            hint = _evaluated(name, parameter.annotation, call, owner)
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found[name] = hint
        return found

    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(_plain, args)), {n: _plain(v) for n, v in kwargs.items()}
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return call(*args, **kwargs)  # which says what is missing or unknown
        known = {name: (hint, given[name]) for name, hint in hints().items() if name in given}
        _refuse({name: asked for name, asked in known.items() if asked[0] in _FLAGS})
        try:
            return call(*args, **kwargs)
        except ValueError:
            raise
        except Exception:
            _refuse(known)
            raise

    return checked


def _plain(value: Any) -> Any:
    """A scalar of NumPy as the number of Python that it is, which JSON and torch take too."""
    return value.item() if isinstance(value, np.bool_ | np.integer | np.floating) else value


def _refuse(given: Mapping[str, tuple[Any, object]]) -> None:
    """Raise ``ValueError`` for the first argument that its annotation does not admit."""
    for name, (hint, value) in given.items():
        if not admits(hint, value):
            require(False, name, f"must be {_words(hint)}", _came(value))


def _evaluated(name: str, annotation: Any, call: Any, owner: type | None) -> Any:
    """The annotation, or ``Any`` where it is for type checkers alone."""
    if not isinstance(annotation, str):
        return Any if annotation is inspect.Parameter.empty else annotation
    # A dataclass takes its fields from its bases, which may stand in other modules.
    fields = [base for base in getattr(owner, "__mro__", ()) if name in _own_annotations(base)]
    places = [vars(sys.modules[base.__module__]) for base in fields] + [call.__globals__]
    for place in places:
        try:
            return eval(annotation, place)
        except (NameError, AttributeError, TypeError):
            continue
    return Any


def _own_annotations(base: type) -> Mapping[str, Any]:
    own: Mapping[str, Any] = vars(base).get("__annotations__", {})
    return own


def _words(hint: Any) -> str:
    """What an annotation admits, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is type:
        return "a class"
    kind = origin or hint
    name = getattr(kind, "__name__", str(kind))
    if name in ("tuple", "list", "Sequence", "Iterable", "Collection"):
        each = [one for one in inner if one is not Ellipsis]
        number = "" if len(each) < 2 else f" of {len(each)}"
        return f"a list{number}" + f", each {_words(each[0])}" * bool(each)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping" + f" of names to {_words(inner[1])}" * bool(inner)
    return _WORDS.get(name, f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")


def _came(value: object) -> str:
    """What came, on one line: plain values as they are, others by their kind."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} on {value.device}"
    return f"{type(value).__name__}"
