"""Predictive-state models of symbols: observable operators, learned from moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ...models import Categorical, HiddenMarkovModel, Laws, Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count, require_positive

_SMALLEST = 1e-12
"""Estimated probabilities are no smaller: noise in the moments can make them negative."""

_LEAST = 1e-4
"""Less than this is as good as an impossible symbol: the state is not divided by it."""


@boundary
def symbol_triples(data: Sequences) -> Tensor:
    """Frequencies of three successive symbols, over all places of all sequences.

    They estimate the law of the first three symbols if the chain is stationary. Places with a
    missing symbol are left out.

    Args:
        data: sequences of S symbols.

    Returns:
        (S, S, S) float64, indexed by time: entry (i, j, k) is that of i, then j, then k.

    Raises:
        ValueError: data that are not symbols, or without three successive observed symbols.

    >>> from beliefzoo.inference import symbol_triples
    >>> from beliefzoo.models import Sequences
    >>> data = Sequences.from_arrays([[0, 1, 0, 1]], codes=True)
    >>> symbol_triples(data).nonzero().tolist(), symbol_triples(data)[0, 1, 0].item()
    ([[0, 1, 0], [1, 0, 1]], 0.5)
    """
    require(data.is_codes, "data", "must be symbols (codes=True)", "numbers")
    size = len(data.symbols) if data.symbols is not None else int(data.codes().max()) + 1
    return _triples(data, size)


def _triples(data: Sequences, size: int) -> Tensor:
    codes, seen = data.codes(), data.observed_steps
    place = (codes[:, :-2] * size + codes[:, 1:-1]) * size + codes[:, 2:]
    whole = seen[:, :-2] & seen[:, 1:-1] & seen[:, 2:]
    require(bool(whole.any()), "data", "needs three observed symbols in a row", "none")
    counts = torch.bincount(place[whole], minlength=size**3).double()
    return (counts / counts.sum()).reshape(size, size, size)


@boundary
def triple_probabilities(model: HiddenMarkovModel) -> Tensor:
    """Probabilities p(y_1, y_2, y_3) of a hidden Markov model of symbols.

    Args:
        model: with a ``Categorical`` emission of S symbols and known parameters.

    Returns:
        (S, S, S) float64, indexed by time.

    Raises:
        ValueError: another emission, transitions that differ between steps, or unknown parameters.

    >>> from beliefzoo.inference import triple_probabilities
    >>> from beliefzoo.models import golden_mean
    >>> found = triple_probabilities(golden_mean().model)
    >>> round(found.sum().item(), 6), round(found[0, 0].sum().item(), 6)  # never 0 twice in a row
    (1.0, 0.0)
    """
    _require_symbols(model)
    require(
        not (model.inputs or model.actions or model.timed),
        "model",
        "must move alike at all steps",
        model,
    )
    like = Sequences.from_tensors(model.observations.blank(1, 2), codes=True)
    laws = model.laws({}, like)
    first, onward = laws.log_initial[0].exp(), laws.log_transition[0, 0].exp()
    emits = laws.emission.mean(laws.parameters)
    return torch.einsum("a,ai,ab,bj,bc,ck->ijk", first, emits, onward, emits, onward, emits)


def _require_symbols(model: Model) -> None:
    fits = isinstance(model, HiddenMarkovModel) and isinstance(model.emission, Categorical)
    require(fits, "model", "must be a HiddenMarkovModel of Categorical symbols", model)


@dataclass(frozen=True)
class ObservableOperators:
    r"""A hidden Markov model of symbols in observable coordinates.

    .. math::
        p(x_1, \dots, x_t) = b_\infty' B_{x_t} \cdots B_{x_1} b_1, \qquad
        b_{t+1} = \frac{B_{x_t} b_t}{b_\infty' B_{x_t} b_t}

    With U (S, m) the m leading left singular vectors of P_21, and O (S, K), T the model's matrices:
    b_1 = U'P_1, b_∞' = P_1'(U'P_21)⁺, B_x = U'P_3x1 (U'P_21)⁺; b_t = U'O p(z_t | x_1 … x_{t-1}).
    This is a predictive state: there are no hidden states, no iteration, no local optimum. Exact
    for exact moments if O and T have rank K = m and every state can be the first one.

    Attributes:
        basis: U, (S, m).
        start: b_1, (m,).
        end: b_∞, (m,).
        operators: B, (S, m, m).

    Source: Hsu, Kakade & Zhang (2012); Littman, Sutton & Singh (2001).

    >>> import torch
    >>> from beliefzoo.inference import ObservableOperators, log_evidence, triple_probabilities
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission=Categorical(2)).with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.8, 0.2], [0.3, 0.7]]
    ... )
    >>> operators = ObservableOperators.of_triples(triple_probabilities(model), rank=2)
    >>> operators.joint_probabilities(2).numpy().round(4)
    array([0.36 , 0.19 , 0.215, 0.235])
    >>> log_evidence(model, Sequences.from_arrays([[0, 0]], codes=True)).exp().numpy().round(4)
    array([0.36])
    """

    basis: Tensor
    start: Tensor
    end: Tensor
    operators: Tensor

    @classmethod
    @boundary
    def of_triples(cls, triples: Tensor, rank: int) -> Self:
        """Computes the operators from moments (…, S, S, S), indexed by time: one set for each.

        Raises:
            ValueError: moments that are no cube of finite numbers, or a rank beyond the number of
                symbols.
        """
        require_count(rank, "rank")
        shape = tuple(triples.shape) if isinstance(triples, Tensor) else ()
        cube = len(shape) >= 3 and len({*shape[-3:]}) == 1 and shape[-1] > 0
        require(cube, "triples", "needs a tensor of shape (…, S, S, S)", shape)
        require(bool(triples.isfinite().all()), "triples", "must be finite", "some that are not")
        size = shape[-1]
        require(rank <= size, "rank", f"must be at most the number of symbols, {size}", rank)
        first = triples.sum((-1, -2))
        pairs = triples.sum(-1).mT  # [second, first]
        basis = torch.linalg.svd(pairs).U[..., :rank]
        inverse = torch.linalg.pinv(basis.mT @ pairs)  # (…, S, m)
        # [middle, third, first]
        middle = triples.movedim(-2, -3).mT
        projected = basis.mT.unsqueeze(-3) @ middle @ inverse.unsqueeze(-3)
        start = (basis.mT @ first.unsqueeze(-1)).squeeze(-1)
        end = (inverse.mT @ first.unsqueeze(-1)).squeeze(-1)
        return cls(basis, start, end, projected)

    def predictive_states(self, codes: Tensor, seen: Tensor | None = None) -> Tensor:
        """Computes b_1 … b_{T+1} of sequences of codes (N, T), shape (N, T + 1, m).

        Where ``seen`` (N, T) is False the symbol is summed out. Noise in the moments can give an
        observed symbol a probability below 1e-4, or a negative one, which would then dominate the
        state: there it restarts from b_1.
        """
        self._check_codes(codes if seen is None else codes[seen])
        operators = torch.cat([self.operators, self.operators.sum(0, keepdim=True)])
        if seen is not None:
            codes = codes.masked_fill(~seen, len(self.operators))
        states = [self.start.expand(len(codes), -1)]
        for column in codes.unbind(1):  # matrices of any sign: no kernel of chains takes them
            moved = (operators[column] @ states[-1].unsqueeze(-1)).squeeze(-1)
            probability = (moved @ self.end).unsqueeze(-1)
            possible = probability > _LEAST
            states.append(torch.where(possible, moved / probability, self.start))
        return torch.stack(states, 1)

    def _check_codes(self, codes: Tensor) -> None:
        symbols = len(self.operators)
        fits = not codes.is_floating_point() and bool(((codes >= 0) & (codes < symbols)).all())
        require(fits, "codes", f"needs whole numbers 0 … {symbols - 1}", codes)

    def joint_probabilities(self, length: int) -> Tensor:
        """Returns p(x_1, …, x_length) of all sequences, the last symbol fastest, (…, S ** length).

        These are the products of operators: noise in the moments can make some negative.

        Raises:
            ValueError: a length with more sequences than can be enumerated.
        """
        require_count(length, "length")
        words = self.operators.shape[-3] ** length
        require(words <= 2**22, "length", "needs at most 2^22 sequences", f"{words} of them")
        states = self.start.unsqueeze(-2)
        for _ in range(length):
            states = torch.einsum("...sab,...nb->...nsa", self.operators, states)
            states = states.flatten(-3, -2)
        return torch.einsum("...a,...na->...n", self.end, states)

    def predictions(self, states: Tensor) -> Tensor:
        """Returns p(x | b) of every symbol at states (…, m): (…, S), at least 1e-12."""
        read = self.operators.mT @ self.end  # (S, m)
        found = (states @ read.mT).clamp_min(_SMALLEST)
        return found / found.sum(-1, keepdim=True)

    def step_log_likelihood(self, codes: Tensor) -> Tensor:
        """Returns log p(x_t | x_1 … x_{t-1}) of codes (N, T), (N, T) nats."""
        predicted = self.predictions(self.predictive_states(codes)[:, :-1])
        return predicted.gather(-1, codes.unsqueeze(-1)).squeeze(-1).log()


class SpectralFilter(nn.Module):
    """Predictive state of observable operators, converted to a belief over a model's states.

    p(z_t | x_1 … x_{t-1}) = (U'O)⁺ b_t, followed by Bayes' rule with the model's own O. The
    operators are estimated from the moments of the data when the filter is calibrated (assuming a
    stationary chain), or given: nothing is trained. ``operators`` predict without any model.

    Args:
        rank: rank m of the operators; None: the model's number of states.
        floor: least probability of a state before y_t is seen; noise can make it negative.

    Raises:
        ValueError: a bad argument, or a model that is not one of symbols.

    >>> from beliefzoo.inference import BeliefGuide, SpectralFilter, evidence_gap
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission=Categorical(2)).with_parameters(
    ...     initial=[2 / 3, 1 / 3], transition=[[0.9, 0.1], [0.2, 0.8]],
    ...     probs=[[0.8, 0.2], [0.3, 0.7]],
    ... )
    >>> data, guide = model.sample(100, 50, seed=0).data, BeliefGuide(model, SpectralFilter())
    >>> guide.calibrate(data)  # estimates the operators
    >>> evidence_gap(guide, data).gap_per_step < 0.01
    True
    """

    causal = True

    def __init__(self, rank: int | None = None, *, floor: float = 1e-6) -> None:
        super().__init__()
        if rank is not None:
            require_count(rank, "rank")
        require_positive(floor, "floor")
        self.rank = rank
        self.floor = floor
        self._built = False

    basis: Tensor
    start: Tensor
    end: Tensor
    transfer: Tensor

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"rank": self.rank, "floor": self.floor}

    @property
    def operators(self) -> ObservableOperators:
        """The operators that were estimated or given.

        Raises:
            ValueError: a filter that is not built.
        """
        self._require_built()
        return ObservableOperators(self.basis, self.start, self.end, self.transfer)

    def build(self, model: Model) -> None:
        """Makes room for operators of the sizes that the model needs, once."""
        _require_symbols(model)
        symbols, rank = model.observations.channels, self.rank or model.states
        require(rank <= symbols, "rank", f"must be at most the number of symbols, {symbols}", rank)
        if self._built:
            built = tuple(self.basis.shape)
            require(
                built == (symbols, rank),
                "filter",
                f"was built for (symbols, rank) = {built}; make a new SpectralFilter",
                (symbols, rank),
            )
            return
        shapes = {"basis": (symbols, rank), "start": (rank,), "end": (rank,)}
        for name, shape in {**shapes, "transfer": (symbols, rank, rank)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self._built = True

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Estimates the operators from the moments of the data."""
        self.write(ObservableOperators.of_triples(_triples(data, len(self.basis)), self._width))

    @property
    def _width(self) -> int:
        return self.basis.shape[1]

    def write(self, operators: ObservableOperators) -> Self:
        """Sets the operators, of the shapes it was built for; returns the filter.

        Raises:
            ValueError: a filter that is not built, or operators of another shape.
        """
        self._require_built()
        built = tuple(self.transfer.shape)
        came = tuple(operators.operators.shape)
        require(built == came, "operators", f"needs shape {built}", came)
        self.basis.copy_(operators.basis)
        self.start.copy_(operators.start)
        self.end.copy_(operators.end)
        self.transfer.copy_(operators.operators)
        return self

    def _require_built(self) -> None:
        if not self._built:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")

    def forward(self, laws: Laws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        operators = self.operators
        with torch.no_grad():
            codes, seen = laws.data.codes(), laws.data.observed_steps
            states = operators.predictive_states(codes, seen)[:, :-1]
            emits = laws.emission.mean(laws.parameters).to(self.basis)  # (…draws, K, S)
            inverse = torch.linalg.pinv(self.basis.mT @ emits.mT)  # (…draws, K, m)
            if inverse.ndim == 3:  # under draws of the parameters, all sequences under each
                inverse = inverse.repeat_interleave(len(states) // len(inverse), 0)
            predicted = (states @ inverse.mT).clamp_min(self.floor)
            beliefs = predicted.log() + laws.log_likelihood.to(predicted)
            normalised: Tensor = beliefs.log_softmax(-1)
            return normalised.to(laws.log_initial.dtype)
