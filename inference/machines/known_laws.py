"""Laws of known machines, and whatever else is a law, asked alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ...models import Categorical, HiddenMarkovModel, LabelledChain, LabelledHMM, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ..filters.spectral import ObservableOperators
from .laws import SequenceLaw, State, asked, ends_of, read_checked, require_codes
from .network_laws import NetworkLaw

_LEAST = 1e-12
"""Probabilities of operators are no smaller: those of truncated ones can be negative."""


class OperatorLaw:
    r"""The law of a machine with linear belief: one matrix per symbol.

    .. math:: p(x_1, \dots, x_T) = b_0\, A_{x_1} \cdots A_{x_T}\, e

    Of a hidden Markov model, A_x(z, z') = p(x, z' | z), b_0 is its initial law and e = 1. Operators
    that were cut to a smaller rank can give negative numbers; these count as 1e-12, and the
    probabilities are divided by their sum. A machine of strings begins anew at their end: the
    operator of the end, the last one, is s b_0, s the probability that the string ends.

    Args:
        start: b_0, (r,).
        operators: A, (V, r, r).
        end: e, (r,); None: ones.

    Raises:
        ValueError: shapes that do not belong together, or numbers that are not finite.

    >>> import torch
    >>> from beliefzoo.inference.machines.known_laws import OperatorLaw
    >>> from beliefzoo.models import golden_mean
    >>> law = OperatorLaw.of(golden_mean())
    >>> law.next_log_probabilities(law.read(law.start(2), torch.tensor([0, 1]))).exp()
    tensor([[0.0000, 1.0000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """

    def __init__(self, start: Tensor, operators: Tensor, end: Tensor | None = None) -> None:
        shape = tuple(operators.shape)
        square = len(shape) == 3 and shape[0] >= 2 and shape[1] == shape[2] >= 1
        require(square, "operators", "needs shape (symbols, r, r), two symbols or more", shape)
        ends = torch.ones(shape[1], dtype=torch.float64) if end is None else end.double()
        for name, vector in ("start", start), ("end", ends):
            require(vector.shape == (shape[1],), name, f"needs shape ({shape[1]},)", vector.shape)
        self.operators, self.end = operators.double(), ends
        self._least = 0.0 if end is None else _LEAST
        whole = all(bool(part.isfinite().all()) for part in (start, self.operators, ends))
        require(whole, "operators", "must be finite", "some that are not")
        self._start = start.double() / (start.double() @ ends)
        self._emit = (self.operators @ ends).mT  # (r, V)
        self.symbols, self.ends = shape[0], False

    @classmethod
    def of(cls, machine: LabelledChain | HiddenMarkovModel | ObservableOperators) -> Self:
        """Returns the law of a known machine.

        Raises:
            ValueError: another model, one with unknown parameters, or one whose law differs between
                steps.
        """
        if isinstance(machine, LabelledChain):
            return cls(machine.stationary, machine.matrices)
        if isinstance(machine, LabelledHMM):
            initial, tables, end = machine.tables()
            if end is None:
                return cls(initial, tables)
            law = cls(initial, torch.cat([tables, torch.outer(end, initial).unsqueeze(0)]))
            law.ends = True
            return law
        if isinstance(machine, ObservableOperators):
            return cls(machine.start, machine.operators.mT, machine.end)
        initial, tables = tables_of(machine)
        return cls(initial, tables)

    def start(self, n: int) -> State:
        """Returns b_0 of every sequence, (n, r)."""
        return (self._start.expand(n, -1),)

    def read(self, state: State, codes: Tensor) -> State:
        """Returns b A_x / (b A_x e); after an impossible symbol, b_0."""
        moved = (state[0].unsqueeze(1) @ self.operators[codes]).squeeze(1)
        total = (moved @ self.end).unsqueeze(-1)
        possible = total > self._least
        return (torch.where(possible, moved / torch.where(possible, total, 1), self._start),)

    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns log b A_x e, normalised."""
        told = (state[0] @ self._emit).clamp_min(self._least)
        return (told / told.sum(-1, keepdim=True)).log()


def tables_of(
    model: HiddenMarkovModel, values: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """p(z_1) and p(x_t, z_{t+1} | z_t) of a model of symbols, at values of what is unknown.

    Raises:
        ValueError: another model, unknown parameters without values, or moves that differ between
            steps.
    """
    fits = isinstance(model, HiddenMarkovModel) and isinstance(model.emission, Categorical)
    require(fits, "law", "must be a law of symbols: a network, or a model of them", repr(model))
    alike = not (model.inputs or model.actions or model.timed)
    require(alike, "law", "must move alike at all steps", model)
    like = Sequences.from_tensors(model.observations.blank(1, 2), codes=True)
    laws = model.laws(values or {}, like)
    initial = laws.log_initial[0].exp().double()
    emits = laws.emission.mean(laws.parameters).double().mT.unsqueeze(-1)
    moves = torch.ones(1, 1, dtype=torch.float64)
    if model.states > 1 and isinstance(model, LabelledHMM):
        moves = laws.parameters["transition"].double()
    elif model.states > 1:
        moves = laws.log_transition[0, 0].exp().double()
    return initial, emits * moves


def law_of(
    law: object,
    head: nn.Module | None = None,
    embedding: nn.Module | None = None,
    *,
    ends: bool = False,
) -> SequenceLaw:
    """Returns a law of a network with its head, of a known machine, or the law itself.

    Raises:
        ValueError: none of these.
    """
    if isinstance(law, nn.RNNBase):
        needed = "must be the network's head for the next symbol"
        require(isinstance(head, nn.Module), "head", needed, type(head).__name__)
        assert head is not None
        return NetworkLaw(law, head, embedding, ends=ends)
    for name, part in ("head", head), ("embedding", embedding), ("ends", ends or None):
        require(part is None, name, "belongs to a network of torch", type(law).__name__)
    if isinstance(law, LabelledChain | HiddenMarkovModel | ObservableOperators):
        return OperatorLaw.of(law)
    require(
        isinstance(law, SequenceLaw) and not isinstance(law, type),
        "network",
        "must be torch.nn.LSTM, GRU or RNN, a known model of symbols, or a law of sequences "
        "(PrefixLaw makes one of a function)",
        type(law).__name__,
    )
    assert isinstance(law, SequenceLaw)
    require_count(law.symbols, "network.symbols", 2)
    if ends_of(law):
        needed = "must begin anew after its last symbol, as its ends = True says"
        require(renews(law), "network", needed, "a law that goes on")
    return law


def renews(law: SequenceLaw) -> bool:
    """Whether the law is that of the start again once its last symbol has come."""
    end = law.symbols - 1
    one = read_checked(law, law.start(end), torch.arange(end))
    after = read_checked(law, one, torch.full((end,), end))
    return torch.allclose(asked(law, after).exp(), asked(law, law.start(1)).exp(), atol=1e-6)


@boundary
def next_log_probabilities(law: SequenceLaw, prefixes: Sequence[Sequence[int]]) -> Tensor:
    """Asks a law for the next symbol after each of some prefixes.

    Args:
        law: of V symbols.
        prefixes: N words of codes 0 … V − 1, of any lengths; they may be empty.

    Returns:
        log p(next symbol | prefix), (N, V) float64, nats.

    Raises:
        ValueError: no prefix, or one with unknown symbols.

    >>> from beliefzoo.inference import NetworkLaw, next_log_probabilities
    >>> import torch
    >>> law = NetworkLaw(torch.nn.GRU(2, 4).eval(), torch.nn.Linear(4, 2))
    >>> next_log_probabilities(law, [[], [0, 1], [1]]).shape
    torch.Size([3, 2])
    """
    made = law_of(law)
    require(len(prefixes) > 0, "prefixes", "needs one or more", "none")
    out = torch.empty(len(prefixes), made.symbols, dtype=torch.float64)
    for length in sorted({len(one) for one in prefixes}):
        places = [place for place, one in enumerate(prefixes) if len(one) == length]
        codes = torch.tensor([list(prefixes[place]) for place in places])
        state = made.start(len(places))
        if length:
            require_codes(made, codes, "prefixes")
        for column in codes.unbind(1) if length else ():
            state = read_checked(made, state, column)
        out[places] = asked(made, state)
    return out
