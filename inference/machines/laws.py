r"""Laws of sequences of symbols, asked alike whether a network or a known machine stands behind.

.. math:: p(x_1, \dots, x_T) = \prod_t p(x_t \mid x_1 \dots x_{t-1})

A law keeps what it remembers of the symbols read so far in a tuple of tensors, whose first axis
runs over sequences. So words that begin alike share the reading of what they share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from ...models import Categorical, HiddenMarkovModel, LabelledChain, LabelledHMM, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import generator_from
from ..filters.spectral import ObservableOperators

State: TypeAlias = tuple[Tensor, ...]
"""What a law remembers of the symbols read: tensors (sequences, …)."""

_ROUNDING = 1e-6
"""Largest distance of a sum of probabilities from 1: what float32 leaves of it."""

_LEAST = 1e-12
"""Probabilities of operators are no smaller: those of truncated ones can be negative."""


@runtime_checkable
class SequenceLaw(Protocol):
    """A law of sequences of symbols 0 … V − 1, read from left to right.

    Any class with these members is one. States are tuples of tensors whose first axis runs over
    sequences; they are never changed in place.

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


@boundary
class NetworkLaw:
    r"""The law of a recurrent network of torch with a head for the next symbol.

    .. math:: p(x_t \mid x_1 \dots x_{t-1}) = \mathrm{softmax}(\mathrm{head}(h_{t-1}))_{x_t}

    with h_0 = 0, unless ``begin`` is read first. The network is copied and computes in float64.

    Args:
        network: ``torch.nn.LSTM``, ``GRU`` or ``RNN`` of any depth that reads forward, in
            evaluation mode.
        head: maps its outputs (n, H) to unnormalised log probabilities (n, V).
        embedding: maps codes (n,) to the network's inputs; None: one-hot vectors.
        begin: code of a mark that was read before the first symbol in training; None: there was
            none.

    Raises:
        ValueError: another network, one that reads backward too, one in training mode, dropout in
            training mode, or a head or embedding of the wrong size.

    >>> import torch
    >>> from beliefzoo.inference import NetworkLaw
    >>> lstm, head = torch.nn.LSTM(3, 8, num_layers=2).eval(), torch.nn.Linear(8, 3)
    >>> law = NetworkLaw(lstm, head)
    >>> state = law.read(law.start(4), torch.tensor([0, 1, 2, 0]))
    >>> law.next_log_probabilities(state).exp().sum(-1).numpy().round(6)
    array([1., 1., 1., 1.])
    """

    def __init__(
        self,
        network: nn.RNNBase,
        head: nn.Module,
        embedding: nn.Module | None = None,
        *,
        begin: int | None = None,
    ) -> None:
        _check_network(network)
        _check_mode("head", head)
        if embedding is not None:
            _check_mode("embedding", embedding)
        self._network = copy.deepcopy(network).double().eval()
        self._head = copy.deepcopy(head).double().eval()
        self._embedding = None if embedding is None else copy.deepcopy(embedding).double().eval()
        width = network.proj_size or network.hidden_size
        scores = _tried(self._head, torch.zeros(1, width, dtype=torch.float64))
        wanted = f"must map (n, {width}), the network's outputs, to (n, symbols) scores"
        fits = isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[1] >= 2
        require(fits, "head", wanted, _shape(scores))
        assert isinstance(scores, Tensor)
        self.symbols = scores.shape[1]
        codes = self.symbols if begin is None else max(self.symbols, begin + 1)
        if embedding is None:
            require(
                network.input_size == codes or (begin is not None and network.input_size > codes),
                "head",
                f"must give one score for each of the {network.input_size} symbols that the "
                "network reads as one-hot vectors (or there is an embedding=…)",
                f"{self.symbols} scores",
            )
        else:
            read = _tried(self._embedding, torch.arange(codes))
            shape = (codes, network.input_size)
            fits = isinstance(read, Tensor) and tuple(read.shape) == shape
            require(fits, "embedding", f"must map codes to {shape} inputs", _shape(read))
        self._begin = begin

    def start(self, n: int) -> State:
        """Returns the state of rest, (n, layers, H) each, after ``begin`` if there is one."""
        net = self._network
        sizes = [net.proj_size or net.hidden_size]
        sizes += [net.hidden_size] * isinstance(net, nn.LSTM)
        state = tuple(torch.zeros(n, net.num_layers, h, dtype=torch.float64) for h in sizes)
        if self._begin is None:
            return state
        return self.read(state, torch.full((n,), self._begin))

    @torch.no_grad()
    def read(self, state: State, codes: Tensor) -> State:
        """Returns the state after one more symbol."""
        net = self._network
        if self._embedding is None:
            x = nn.functional.one_hot(codes, net.input_size).double()
        else:
            x = self._embedding(codes)
        layers = tuple(part.transpose(0, 1).contiguous() for part in state)
        given = layers if isinstance(net, nn.LSTM) else layers[0]
        came = net(x.unsqueeze(1 if net.batch_first else 0), given)[1]
        after = came if isinstance(came, tuple) else (came,)
        return tuple(part.transpose(0, 1) for part in after)

    @torch.no_grad()
    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns the logarithm of the softmax of the head's scores."""
        scores: Tensor = self._head(state[0][:, -1]).log_softmax(-1)
        return scores


@boundary
class PrefixLaw:
    """Any autoregressive law, given by a function of the prefix.

    Args:
        scores: maps codes (n, t), the symbols so far, to unnormalised log probabilities (n, V) of
            the next one, without padding: all prefixes of a call have the same length.
        symbols: V.
        begin: code of a mark that is put before every prefix, for functions that cannot read an
            empty one; None: none is.

    Raises:
        ValueError: fewer than two symbols, or something that cannot be called.

    >>> import torch
    >>> from beliefzoo.inference import PrefixLaw
    >>> law = PrefixLaw(lambda codes: torch.zeros(len(codes), 3), symbols=3)
    >>> law.next_log_probabilities(law.start(1)).exp()
    tensor([[0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """

    def __init__(
        self, scores: Callable[[Tensor], Tensor], symbols: int, *, begin: int | None = None
    ) -> None:
        require(callable(scores), "scores", "must be a function", type(scores).__name__)
        require_count(symbols, "symbols", 2)
        if begin is not None:
            require_count(begin, "begin", 0)
        self._scores, self.symbols, self._begin = scores, symbols, begin

    def start(self, n: int) -> State:
        """Returns the empty prefix, or the mark, (n, 0 or 1)."""
        begin = [] if self._begin is None else [self._begin]
        return (torch.tensor(begin, dtype=torch.int64).expand(n, -1),)

    def read(self, state: State, codes: Tensor) -> State:
        """Returns the prefix with one more symbol."""
        return (torch.cat([state[0], codes.unsqueeze(1)], 1),)

    @torch.no_grad()
    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns the logarithm of the softmax of the scores."""
        scores = self._scores(state[0])
        shape = (len(state[0]), self.symbols)
        fits = isinstance(scores, Tensor) and tuple(scores.shape) == shape
        require(fits, "scores", f"must give a tensor of shape {shape}", _shape(scores))
        return scores.double().log_softmax(-1)


class OperatorLaw:
    r"""The law of a machine with linear belief: one matrix per symbol.

    .. math:: p(x_1, \dots, x_T) = b_0\, A_{x_1} \cdots A_{x_T}\, e

    Of a hidden Markov model, A_x(z, z') = p(x, z' | z), b_0 is its initial law and e = 1. Operators
    that were cut to a smaller rank can give negative numbers; these count as 1e-12, and the
    probabilities are divided by their sum.

    Args:
        start: b_0, (r,).
        operators: A, (V, r, r).
        end: e, (r,); None: ones.

    Raises:
        ValueError: shapes that do not belong together, or numbers that are not finite.

    >>> import torch
    >>> from beliefzoo.inference.machines.laws import OperatorLaw
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
        self.symbols = shape[0]

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
            require(end is None, "law", "must be of sequences without end", machine)
            return cls(initial, tables)
        if isinstance(machine, ObservableOperators):
            return cls(machine.start, machine.operators.mT, machine.end)
        initial, tables = _tables_of(machine)
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


def _tables_of(model: HiddenMarkovModel) -> tuple[Tensor, Tensor]:
    """p(z_1) and p(x_t, z_{t+1} | z_t) = O(z_t, x) T(z_t, z_{t+1}) of a model of symbols."""
    fits = isinstance(model, HiddenMarkovModel) and isinstance(model.emission, Categorical)
    require(fits, "law", "must be a law of symbols: a network, or a model of them", repr(model))
    alike = not (model.inputs or model.actions or model.timed)
    require(alike, "law", "must move alike at all steps", model)
    like = Sequences.from_tensors(model.observations.blank(1, 2), codes=True)
    laws = model.laws({}, like)
    initial = laws.log_initial[0].exp().double()
    moves = torch.ones(1, 1, dtype=torch.float64)
    if model.states > 1:
        moves = laws.log_transition[0, 0].exp().double()
    emits = laws.emission.mean(laws.parameters).double()
    return initial, emits.mT.unsqueeze(-1) * moves


def law_of(
    law: object, head: nn.Module | None = None, embedding: nn.Module | None = None
) -> SequenceLaw:
    """Returns a law of a network with its head, of a known machine, or the law itself.

    Raises:
        ValueError: none of these.
    """
    if isinstance(law, nn.RNNBase):
        needed = "must be the network's head for the next symbol"
        require(isinstance(head, nn.Module), "head", needed, type(head).__name__)
        assert head is not None
        return NetworkLaw(law, head, embedding)
    for name, part in ("head", head), ("embedding", embedding):
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
    return law


def asked(law: SequenceLaw, state: State) -> Tensor:
    """The law's log probabilities of the next symbol, (n, V) float64, once they are checked.

    Raises:
        ValueError: another shape, NaN, or probabilities that do not sum to 1.
    """
    told = law.next_log_probabilities(state)
    wanted = (len(state[0]), law.symbols)
    fits = isinstance(told, Tensor) and tuple(told.shape) == wanted
    require(fits, "network", f"must give log probabilities of shape {wanted}", _shape(told))
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


def require_codes(law: SequenceLaw, codes: Tensor, argument: str = "data") -> None:
    """Raises ``ValueError`` unless these are sequences (N, T) of the law's symbols, N, T >= 1."""
    whole = isinstance(codes, Tensor) and codes.ndim == 2 and not codes.is_floating_point()
    require(whole, argument, "needs whole numbers (N, T)", _shape(codes))
    require(codes.numel() > 0, argument, "needs one sequence of one symbol or more", "none")
    span = int(codes.min()), int(codes.max())
    known = span[0] >= 0 and span[1] < law.symbols
    require(known, argument, f"needs symbols 0 … {law.symbols - 1}", f"{span[0]} … {span[1]}")


def _check_network(network: object) -> None:
    kinds = nn.LSTM | nn.GRU | nn.RNN
    require(
        isinstance(network, kinds),
        "network",
        "must be torch.nn.LSTM, GRU or RNN",
        type(network).__name__,
    )
    assert isinstance(network, nn.RNNBase)
    require(not network.bidirectional, "network", "must read forward only", "bidirectional=True")
    drawn = f" (with dropout={network.dropout:g} it draws its law anew)" * (network.dropout > 0)
    require(
        not network.training,
        "network",
        f"must be in evaluation mode: call network.eval(){drawn}",
        "training mode",
    )


def _check_mode(argument: str, module: object) -> None:
    require(isinstance(module, nn.Module), argument, "must be a torch.nn.Module", _shape(module))
    assert isinstance(module, nn.Module)
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    random = [type(part).__name__ for part in module.modules() if isinstance(part, kinds)]
    trains = any(part.training for part in module.modules() if isinstance(part, kinds))
    needed = f"must be in evaluation mode: call {argument}.eval()"
    require(not trains, argument, needed, f"{', '.join(random)} in training mode")


@torch.no_grad()
def _tried(module: nn.Module | None, x: Tensor) -> object:
    assert module is not None
    try:
        came: object = module(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return error
    return came


def _shape(thing: object) -> object:
    if isinstance(thing, Tensor):
        return tuple(thing.shape)
    return f"an error ({thing})" if isinstance(thing, Exception) else type(thing).__name__
