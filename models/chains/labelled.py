"""Hidden Markov models whose symbols choose the moves: labelled chains and automata of strings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy.typing as npt
import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_flag, require_last
from ..data.sequences import Sequences
from ..emissions.counts import Categorical
from ..emissions.emission import Parameters, Priors
from ..model import Coords, MStep, Number, Simulation, as_tensor
from ..trajectories import safe_log
from .hmm import HiddenMarkovModel, Ordering, later
from .labelled_laws import LabelledLaws, SymbolTransition, checked_moves, kept, moves_of, unseen
from .laws import InitialLaw

END = "(end)"
"""Name of the end symbol among the labels of an axis."""

ROUNDED = 1e-5
"""Rows of probabilities that miss a sum of 1 by more than this are refused."""

_SEEN = 1e-3
"""Weight of the moves at all symbols in those at one, for counts: none starts without a way out."""


class Tables(NamedTuple):
    """A labelled chain as numbers.

    Attributes:
        initial: p(z_1), (K,).
        tables: p(x, z' | z), (V, K, K), one matrix per symbol.
        end: probability that the string ends in a state, (K,); None for sequences without end.

    >>> chain = LabelledHMM.from_tables([1, 0], [[[0, 0.5], [1, 0]], [[0.5, 0], [0, 0]]])
    >>> chain.tables().tables.sum((0, 2)).tolist()  # every state emits something
    [1.0, 1.0]
    """

    initial: Tensor
    tables: Tensor
    end: Tensor | None


@boundary
class LabelledHMM(HiddenMarkovModel):
    r"""A hidden Markov model whose symbol chooses the move, p(x_t, z_{t+1} | z_t).

    .. math::
        p(z_1) \prod_t O(x_t | z_t)\, P(z_{t+1} | z_t, x_t), \qquad
        T_x(z, z') = O(x | z)\, P(z' | z, x)

    Also called edge-emitting, or a probabilistic automaton. z_t is the state *in* which x_t is
    emitted, as in all members: ``predict`` gives the belief that x_t is drawn from, after the
    symbols before it. A hidden Markov model is the case in which P does not depend on x
    (``from_hmm``), a deterministic or unifilar one that in which state and symbol leave one next
    state (``unifilar``). A missing symbol is summed over, together with its moves.

    With ``ends``, the alphabet has one symbol more, the last, which ends the string: it has its
    own probability in each state, and nothing comes after it. Sequences that lack it are beginnings
    of strings. Draws stop at the end or at the length that was asked for. The laws of a forecast
    are those of strings that have not ended before; its draws stay at the end.

    Parameters: ``initial`` (K,); ``probs`` (K, V), with ``ends`` (K, V + 1), rows
    ~ Dirichlet(symbol_concentration); ``transition`` (V, K, K), rows ~ Dirichlet(concentration +
    sticky δ_z). With symbol_concentration = K concentration that is one Dirichlet law of all pairs
    of symbol and next state. The data determine them up to K (K − 1) directions, see ``redundant``:
    other tables may be the same machine.

    Args:
        states: number of hidden states K.
        symbols: number of symbols V, the end not among them.
        ends: whether sequences are strings with an end.
        initial: ``"free"``, ``"stationary"`` (without ``ends``), or a law.
        concentration: prior pseudo-count of every move; below 1 the moves are few.
        sticky: additional prior pseudo-counts on staying.
        symbol_concentration: prior pseudo-count of every symbol.
        allowed: which moves there are, (K, V, K) bool: from state, at symbol, to state. A symbol
            without any is not emitted in that state. The others have probability zero, and the
            prior of the rest is that of its own entries; the numbers of states have a meaning.
        ordered: sort the states under the prior, for instance by ``("probs", 0)``.
        priors: replacements for single priors, by parameter name.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Vidal, Thollard, de la Higuera, Casacuberta & Carrasco (2005), IEEE Transactions on
        Pattern Analysis and Machine Intelligence 27.

    >>> from beliefzoo.models import Sequences
    >>> model = LabelledHMM(states=2, symbols=3, ends=True)
    >>> {name: tuple(prior.event_shape) for name, prior in model.priors.items()}
    {'initial': (2,), 'transition': (3, 2, 2), 'probs': (2, 4)}
    >>> dice = model.with_parameters(
    ...     initial=[1, 0], transition=[[[0, 1], [1, 0]]] * 3, probs=[[0.5, 0.3, 0, 0.2]] * 2
    ... )
    >>> strings = dice.sample(3, 20, seed=0).data  # at most 20 symbols, the end among them
    >>> [word.tolist() for word in strings.arrays()]
    [[1, 0, 0, 1, 0, 0, 0, 0, 3], [1, 1, 3], [0, 0, 0, 0, 3]]
    """

    def __init__(
        self,
        states: int,
        symbols: int,
        *,
        ends: bool = False,
        initial: InitialLaw | str = "free",
        concentration: float = 1.0,
        sticky: float = 0.0,
        symbol_concentration: float = 1.0,
        allowed: npt.ArrayLike | Tensor | None = None,
        ordered: Ordering = False,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        require_count(states, "states")
        require_count(symbols, "symbols")
        require_flag(ends, "ends")
        requirement = "'stationary' needs sequences without end"
        require(not ends or initial != "stationary", "initial", requirement, f"ends={ends}")
        self.symbols, self.ends = int(symbols), ends
        self.allowed = None if allowed is None else checked_moves(allowed, states, symbols, ends)
        super().__init__(
            states,
            Categorical(self.symbols + int(ends), symbol_concentration),
            initial=initial,
            transition=SymbolTransition(self.symbols, concentration, sticky),
            ordered=ordered,
            priors=priors,
        )

    moved_by_observations = True

    @classmethod
    def from_tables(cls, initial: Number, tables: Number, end: Number | None = None) -> LabelledHMM:
        """Build a model with known parameters.

        Args:
            initial: p(z_1), (K,).
            tables: p(x, z' | z), (V, K, K).
            end: probability that the string ends in a state, (K,); None for no ends.

        Returns:
            The model. Moves at a symbol that a state does not emit are set to stay.

        Raises:
            ValueError: shapes that do not agree, or rows over symbols, next states and end that do
                not sum to 1.

        >>> coin = LabelledHMM.from_tables([1.0], [[[0.5]], [[0.25]]], end=[0.25])
        >>> coin.known["probs"].tolist()
        [[0.5, 0.25, 0.25]]
        """
        joint, first = as_tensor("tables", tables), as_tensor("initial", initial)
        square = joint.ndim == 3 and joint.shape[1] == joint.shape[2] and joint.numel() > 0
        require(square, "tables", "needs shape (symbol, state, state_to)", tuple(joint.shape))
        symbols, states = joint.shape[:2]
        fits = tuple(first.shape) == (states,)
        require(fits, "initial", f"needs shape {(states,)}", tuple(first.shape))
        require(bool((joint >= 0).all()), "tables", "needs numbers >= 0", float(joint.min()))
        told = joint.sum(-1).mT
        if end is not None:
            stop = as_tensor("end", end)
            fits = tuple(stop.shape) == (states,) and bool((stop >= 0).all())
            require(fits, "end", f"needs {states} numbers >= 0", stop.tolist())
            told = torch.cat([told, stop.unsqueeze(-1)], -1)
        total = told.sum(-1)
        for state in ((total - 1).abs() > ROUNDED).nonzero().flatten().tolist()[:1]:
            row = f"tables: rows must sum to 1 over symbols, next states and end; state {state}"
            raise ValueError(f"{row} does not, got {float(total[state]):.6g}")
        known = {"probs": told / total.unsqueeze(-1)}
        if states > 1:
            known |= {"initial": first, "transition": moves_of(joint)}
        return cls(states, symbols, ends=end is not None).with_parameters(**known)

    @classmethod
    def from_hmm(cls, hmm: HiddenMarkovModel, *, ends: bool = False) -> LabelledHMM:
        """Build the labelled model that is the same as a hidden Markov model with known parameters.

        Args:
            hmm: with a ``Categorical`` emission and moves that are the same at every step.
            ends: whether its last symbol ends the string.

        Returns:
            The model: every query has the same answer as ``hmm`` gives, with ``ends`` for strings
            in which nothing follows the last symbol.

        Raises:
            ValueError: another emission, moves that vary, or unknown parameters.

        >>> from beliefzoo.models import HiddenMarkovModel
        >>> hmm = HiddenMarkovModel(2, Categorical(2)).with_parameters(
        ...     initial=[1, 0], transition=[[0.5, 0.5], [0, 1]], probs=[[0.9, 0.1], [0, 1]]
        ... )
        >>> LabelledHMM.from_hmm(hmm).tables().tables[0].tolist()
        [[0.45, 0.45], [0.0, 0.0]]
        """
        plain = type(hmm) is HiddenMarkovModel and type(hmm.emission) is Categorical
        requirement = "needs a HiddenMarkovModel with a Categorical emission"
        require(plain, "hmm", requirement, repr(hmm))
        fixed = not (hmm.inputs or hmm.timed or hmm.actions)
        require(fixed, "hmm", "needs moves that are the same at every step", repr(hmm.transition))
        symbols = hmm.emission.encoding_size
        require(symbols > ends, "ends", "needs a symbol beside the end", f"{symbols} symbol")
        blank = Sequences.from_tensors(hmm.observations.blank(1, 1), codes=True)
        laws = hmm.laws({}, blank)
        known = {"probs": hmm.known["probs"]}
        if hmm.states > 1:
            moves = laws.matrices.exp()[0, 0]
            known["initial"] = laws.log_initial.exp()[0]
            known["transition"] = moves.expand(symbols - ends, -1, -1)
        made = cls(hmm.states, symbols - ends, ends=ends).with_parameters(**known)
        made.names = hmm.names
        return made

    @classmethod
    def unifilar(
        cls,
        next_states: npt.ArrayLike | Tensor,
        *,
        ends: bool = False,
        symbol_concentration: float = 1.0,
    ) -> LabelledHMM:
        """Build a model in which state and symbol determine the next state.

        Args:
            next_states: (K, V) whole numbers, the next state; −1 where the symbol is not emitted.
            ends, symbol_concentration: as for ``LabelledHMM``.

        Returns:
            The model, with parameters ``initial`` and ``probs`` alone.

        Raises:
            ValueError: next states of another shape or range.

        >>> even = LabelledHMM.unifilar([[0, 1], [-1, 0]])  # ones come in pairs
        >>> sorted(even.priors)
        ['initial', 'probs']
        """
        to = as_tensor("next_states", next_states)
        states = len(to) if to.ndim == 2 else 0
        fits = to.numel() > 0 and to.ndim == 2 and bool(((to >= -1) & (to < states)).all())
        fits = fits and bool((to % 1 == 0).all())
        requirement = "needs (state, symbol) whole numbers from -1 to states - 1"
        require(fits, "next_states", requirement, to.tolist())
        allowed = to.unsqueeze(-1) == torch.arange(states)
        return cls(
            states,
            to.shape[1],
            ends=ends,
            symbol_concentration=symbol_concentration,
            allowed=allowed,
        )

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the model except ``priors``."""
        law, told = self.transition, self.emission
        assert isinstance(law, SymbolTransition)
        assert isinstance(told, Categorical)
        return {
            "states": self.states,
            "symbols": self.symbols,
            "ends": self.ends,
            "initial": self.initial,
            "concentration": law.concentration,
            "sticky": law.sticky,
            "symbol_concentration": told.concentration,
            "allowed": self.allowed,
            "ordered": self.ordered,
        }

    def __repr__(self) -> str:
        known = f", known={sorted(self.known)}" if self._known else ""
        ends = ", ends=True" if self.ends else ""
        return f"LabelledHMM(states={self.states}, symbols={self.symbols}{ends}{known})"

    def own_priors(self) -> Priors:
        own = super().own_priors()
        if self.allowed is not None and bool((self.allowed.sum(-1) <= 1).all()):
            own.pop("transition", None)
        return own

    @property
    def reorderable(self) -> bool:
        """True if the numbers of the states have no meaning, so that states can be exchanged."""
        return self.allowed is None and super().reorderable

    def redundant(self, priors: Priors) -> int:
        """Return the number of directions of parameters with these priors that change nothing.

        K (K − 1) changes of the basis of the beliefs, S with S 1 = 1, turn tables T_x into
        S⁻¹ T_x S and leave the law of the sequences as it is.
        """
        if self.allowed is None:
            free = self.states > 1 and {"transition", "probs"} <= set(priors)
            free = free and ("initial" in priors or self.initial == "stationary")
            return super().redundant(priors) + self.states * (self.states - 1) * free
        moves, emitted = self.allowed.sum(-1), self.allowed.any(-1)
        spare = int((self.states - moves.clamp_min(1)).sum()) * ("transition" in priors)
        return super().redundant(priors) + spare + int((~emitted).sum()) * ("probs" in priors)

    def coords(self) -> Coords:
        """Return labels along the axes of states, symbols and parameters."""
        names = self.names.symbols
        named = names is not None and len(names) == self.emission.encoding_size
        labels = [*names] if named and names is not None else [*map(str, range(self.symbols))]
        out = {**super().coords(), "symbol_before": labels[: self.symbols]}
        if self.ends:
            out["symbol"] = labels if named else [*labels, END]
        return out

    def shown(self, values: Parameters) -> dict[str, Tensor]:
        """Return parameter values with zeros where there is no move, and rows that sum to 1."""
        out = dict(values)
        if self.allowed is None:
            return out
        emitted = self.allowed.any(-1)
        if "probs" in out:
            end = emitted.new_ones(self.states, int(self.ends))
            out["probs"] = kept("probs", out["probs"], torch.cat([emitted, end], -1))
        if "transition" in out:
            out["transition"] = kept("transition", out["transition"], self._moves)
        return out

    @property
    def _moves(self) -> Tensor:
        """Which moves there are, (V, K, K); a state stays at what it does not emit."""
        assert self.allowed is not None
        stay = torch.eye(self.states, dtype=torch.bool)
        none = ~self.allowed.any(-1, keepdim=True)
        return torch.where(none, stay.unsqueeze(1), self.allowed).transpose(0, 1)

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""
        self._check_kind(data)
        if not self.ends:
            return
        inner = torch.arange(data.max_length) < data.lengths.unsqueeze(-1) - 1
        early = (data.codes() == self.symbols) & data.observed_steps & inner
        for n, t in early.nonzero()[:1].tolist():
            place = f"sequence {data.labels[n]!r}, step {t} of {int(data.lengths[n])}"
            requirement = f"nothing comes after the end of a string, which is code {self.symbols}"
            require(False, "data", requirement, f"an end in {place}")

    def laws(self, parameters: Parameters, data: Sequences) -> LabelledLaws:
        """Return the laws at given values of the unknown parameters.

        This is a pure function. Values may have leading axes of draws, the same for all that are
        given.
        """
        values = self.shown(self.complete(parameters))
        probs = values["probs"]
        if self.states > 1 and "transition" not in values:
            values["transition"] = self._moves.to(probs)
        tables = later(partial(self._tables, values))
        if self.states == 1:
            first = probs.new_zeros(*probs.shape[:-2], 1, 1)
        else:
            first = self.initial_law(values, lambda: tables()[..., -2:-1, :, :])
        y, mask = self.emission.observed(data)
        chosen = torch.where(mask, y + (y == self.symbols), self.symbols)
        choice = chosen[:, :-1].contiguous()
        return LabelledLaws(
            first, tables, data, self.emission, values, choice=choice, ends=self.ends
        )

    def _tables(self, values: Parameters) -> Tensor:
        """log P at every symbol, at a missing one and after the end, (…draws, 1, V + 2, K, K)."""
        told = values["probs"][..., : self.symbols]
        stay = torch.eye(self.states, dtype=told.dtype)
        moves = values.get("transition", told.new_ones(self.symbols, 1, 1))
        whole = torch.einsum("...kv,...vkj->...kj", told, moves)
        total = whole.sum(-1, keepdim=True)
        some = torch.where(total > 0, whole / torch.where(total > 0, total, 1), stay)
        lead = some.shape[:-2]
        parts = moves, some.unsqueeze(-3), stay.unsqueeze(-3)
        every = torch.cat([part.expand(*lead, *part.shape[-3:]) for part in parts], -3)
        return safe_log(every).unsqueeze(-4)

    def tables(self) -> Tables:
        """Return a model with known parameters as numbers, those of ``from_tables``.

        Raises:
            ValueError: unknown parameters.
        """
        blank = Sequences.from_tensors(self.observations.blank(1, 1), codes=True)
        laws = self.laws({}, blank)
        told = laws.parameters["probs"]
        moves = laws.parameters.get("transition", told.new_ones(self.symbols, 1, 1))
        joint = told[:, : self.symbols].mT.unsqueeze(-1) * moves
        return Tables(laws.log_initial.exp()[0], joint, told[:, -1] if self.ends else None)

    def next_symbol(self, beliefs: Tensor) -> Tensor:
        """Return p(x_t | x_1 … x_{t-1}), (…, V), with ``ends`` (…, V + 1), the end last.

        Args:
            beliefs: p(z_t | x_1 … x_{t-1}), (…, K), as ``predict`` gives.

        Raises:
            ValueError: beliefs of another size, or unknown parameters.

        >>> coin = LabelledHMM.from_tables([1.0], [[[0.5]], [[0.25]]], end=[0.25])
        >>> coin.next_symbol(torch.ones(1)).tolist()
        [0.5, 0.25, 0.25]
        """
        require_last(beliefs, self.states, "beliefs")
        told = self.shown(self.complete({}))["probs"]
        return beliefs @ told.to(beliefs)

    # Draws

    def _draw(self, parameters: Parameters, like: Sequences) -> tuple[Tensor, Tensor, Parameters]:
        return super()._draw(parameters, unseen(like))

    def simulate(self, parameters: Parameters, like: Sequences) -> Simulation:
        """Draw paths and symbols at given values, with lengths and gaps of ``like``; strings that
        end before are shorter.

        Uses torch's global generator.
        """
        if not self.ends:
            return super().simulate(parameters, like)
        whole = like._derived(mask=like.step_mask)
        drawn = super().simulate(parameters, whole)
        over = drawn.data.codes() == self.symbols
        lengths = torch.where(over.any(-1), over.int().argmax(-1) + 1, like.lengths)
        longest = int(lengths.max())
        inside = torch.arange(over.shape[-1]) < lengths.unsqueeze(-1)
        mask = like.observed_steps & inside
        values = drawn.data.values.masked_fill(~mask, 0)
        data = drawn.data._derived(values=values, mask=mask).head(longest)
        data = data._derived(lengths=lengths)
        states = drawn.states.masked_fill(~inside, -1)[:, :longest]
        return Simulation(states, data, drawn.parameters)

    # Starts of fits

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values of parameters, estimated from clusters of the data, to start a fit from.

        Where the moves are known, they are drawn as ``start_from_frames`` draws them.
        """
        if self.states == 1 or "transition" not in self.priors:
            return self.start_from_frames(data)
        return super().start(data)

    def start_from_frames(self, data: Sequences) -> dict[str, Tensor]:
        """Return values at random: symbols near their shares, moves anywhere."""
        y, mask = self.emission.observed(data)
        share = torch.bincount(y[mask], minlength=self.emission.encoding_size).double() + 1
        noise = torch.empty(self.states, len(share), dtype=torch.float64).exponential_()
        values = {"probs": share * (noise + 1), "initial": torch.ones(self.states).double()}
        moves = torch.empty(self.symbols, self.states, self.states, dtype=torch.float64)
        values["transition"] = moves.exponential_()
        return self._started(values)

    @property
    def m_step(self) -> MStep | None:
        """The M-step of EM; a missing symbol counts for nothing in it."""
        return self._from_counts if self.states > 1 else None

    def _from_counts(
        self, data: Sequences, weight: Tensor, counts: Tensor, warmth: float = 0.0
    ) -> dict[str, Tensor]:
        del warmth
        y, mask = self.emission.observed(data)
        told = weight.new_zeros(self.emission.encoding_size, self.states)
        told.index_add_(0, y[mask], weight[mask])
        every = counts[: self.symbols].sum(0) + (1 / self.states + torch.eye(self.states)) / 2
        values = {
            "initial": weight[:, 0].sum(0) + 1 / self.states,
            "probs": told.mT + 1 / len(told),
            "transition": counts[: self.symbols] + _SEEN * every,
        }
        return self._started(values)

    def _started(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of parameters from weights, beside the known ones."""
        rows = {n: (x / x.sum(-1, keepdim=True)).contiguous() for n, x in values.items()}
        return {name: rows[name] for name in rows if name in self._all} | self._known
