r"""Laws of sequences of symbols, asked alike whether a network or a known machine stands behind.

.. math:: p(x_1, \dots, x_T) = \prod_t p(x_t \mid x_1 \dots x_{t-1})

A law keeps what it remembers of the symbols read so far in a tuple of tensors, whose first axis
runs over sequences. So words that begin alike share the reading of what they share.

A law of strings has an end symbol, the last one, after which it begins anew: it is read as one
string after another. So a string has the probability of its symbols and its end, and all that is
said of sequences holds of strings.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ...models.checks import require
from ...models.randomness import generator_from

State: TypeAlias = tuple[Tensor, ...]
"""What a law remembers of the symbols read: tensors (sequences, …)."""

_ROUNDING = 1e-6
"""Largest distance of a sum of probabilities from 1: what float32 leaves of it."""


@runtime_checkable
class SequenceLaw(Protocol):
    """A law of sequences of symbols 0 … V − 1, read from left to right.

    Any class with these members is one. States are tuples of tensors whose first axis runs over
    sequences; they are never changed in place. A law of strings has the attribute ``ends = True``
    too: symbol V − 1 ends a string, and what ``read`` returns after it is the start.

    >>> import torch
    >>> from beliefzoo.inference import SequenceLaw, machine_of
    >>> class Coin:
    ...     symbols = 2
    ...     def start(self, n):
    ...         return (torch.zeros(n),)
    ...     def read(self, state, codes):
    ...         return state
    ...     def next_log_probabilities(self, state):
    ...         return torch.tensor([0.25, 0.75]).log().expand(len(state[0]), 2)
    >>> isinstance(Coin(), SequenceLaw), machine_of(Coin()).states
    (True, 1)
    """

    @property
    def symbols(self) -> int:
        """Number of symbols V."""

    def start(self, n: int) -> State:
        """Returns the state of n sequences before their first symbol."""

    def read(self, state: State, codes: Tensor) -> State:
        """Returns the state after one more symbol of every sequence, codes (n,)."""

    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns log p(next symbol | symbols read), (n, V)."""


def ends_of(law: SequenceLaw) -> bool:
    """Whether the last symbol ends a string."""
    return bool(getattr(law, "ends", False))


def renewed(state: State, ended: Tensor, start: State) -> State:
    """The start where strings have ended (n,), the state elsewhere."""
    return tuple(
        torch.where(ended.reshape(-1, *[1] * (part.ndim - 1)), first.to(part), part)
        for part, first in zip(state, start, strict=True)
    )


def asked(law: SequenceLaw, state: State) -> Tensor:
    """The law's log probabilities of the next symbol, (n, V) float64, once they are checked.

    Raises:
        ValueError: another shape, NaN, or probabilities that do not sum to 1.
    """
    told = law.next_log_probabilities(state)
    wanted = (len(state[0]), law.symbols)
    fits = isinstance(told, Tensor) and tuple(told.shape) == wanted
    require(fits, "network", f"must give log probabilities of shape {wanted}", shape_of(told))
    told = told.double()
    wrong = int(told.isnan().any(-1).sum())
    require(not wrong, "network", "must give numbers", f"NaN after {wrong} of {len(told)} prefixes")
    off = (told.exp().sum(-1) - 1).abs()
    worst = float(off.max()) if len(off) else 0.0
    needed = "must give probabilities of the next symbol that sum to 1"
    require(worst <= _ROUNDING, "network", needed, f"a sum that is off by {worst:.3g}")
    return told


def read_checked(law: SequenceLaw, state: State, codes: Tensor) -> State:
    """The state after one more symbol, if it is a tuple of tensors with the same first axis."""
    after = law.read(state, codes)
    fits = isinstance(after, tuple) and all(
        isinstance(part, Tensor) and len(part) == len(codes) for part in after
    )
    require(fits, "network", "read must return a tuple of tensors (n, …)", type(after).__name__)
    return after


def taken(state: State, index: Tensor) -> State:
    """The states of the sequences of this index."""
    return tuple(part[index] for part in state)


def log_conditionals(law: SequenceLaw, codes: Tensor) -> Tensor:
    """log p(· | x_1 … x_{t-1}) at every step of codes (N, T), (N, T, V).

    Raises:
        ValueError: symbols that the law does not know, or a law that is none.
    """
    require_codes(law, codes)
    state, told = law.start(len(codes)), []
    for step, column in enumerate(codes.unbind(1)):
        told.append(asked(law, state))
        if step + 1 < codes.shape[1]:
            state = read_checked(law, state, column)
    return torch.stack(told, 1)


def sampled(law: SequenceLaw, n: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences of the law, (n, length), and the log probabilities it gave, (n, length, V)."""
    generator = generator_from(seed)
    state, codes, told = law.start(n), [], []
    for step in range(length):
        told.append(asked(law, state))
        codes.append(torch.multinomial(told[-1].exp(), 1, generator=generator).squeeze(1))
        if step + 1 < length:
            state = read_checked(law, state, codes[-1])
    return torch.stack(codes, 1), torch.stack(told, 1)


_NOT_WHOLE = torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64


def require_codes(law: SequenceLaw, codes: Tensor, argument: str = "data") -> None:
    """Raises ``ValueError`` unless these are sequences (N, T) of the law's symbols, N, T >= 1."""
    whole = isinstance(codes, Tensor) and codes.ndim == 2 and codes.dtype not in _NOT_WHOLE
    came = f"{codes.dtype} {shape_of(codes)}" if isinstance(codes, Tensor) else shape_of(codes)
    require(whole, argument, "needs whole numbers (N, T)", came)
    require(codes.numel() > 0, argument, "needs one sequence of one symbol or more", "none")
    span = int(codes.min()), int(codes.max())
    known = span[0] >= 0 and span[1] < law.symbols
    require(known, argument, f"needs symbols 0 … {law.symbols - 1}", f"{span[0]} … {span[1]}")


def shape_of(thing: object) -> object:
    """What came, for a message: the shape of a tensor, an error, or a type."""
    if isinstance(thing, Tensor):
        return tuple(thing.shape)
    return f"an error ({thing})" if isinstance(thing, Exception) else type(thing).__name__
