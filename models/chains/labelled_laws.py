"""The laws of a chain whose symbols choose the moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy.typing as npt
import torch
from torch import Tensor

from ..checks import require, require_count
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors
from ..model import as_tensor
from ..trajectories import invert, safe_log
from .hmm import Laws
from .laws import MatrixTransition

_EXACT = 1e-12
"""Rows that miss a sum of 1 by less stay as they are: a saved model loads to the same numbers."""


@dataclass(frozen=True)
class SymbolTransition:
    """A transition matrix for each symbol: P(z' | z, x) = transition[x, z, z'].

    The symbol that z_t emits acts on z_t → z_{t+1}. It is the law of ``LabelledHMM``, whose laws
    choose the matrices: without the emission, the move at a missing symbol is unknown.

    Args:
        symbols: number of symbols V that a move can follow.
        concentration: prior pseudo-count of every move.
        sticky: additional prior pseudo-counts on staying.

    Raises:
        ValueError: no symbol, or a prior setting out of range.
    """

    symbols: int
    concentration: float = 1.0
    sticky: float = 0.0
    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.symbols, "symbols")
        MatrixTransition(self.concentration, self.sticky)  # checks both settings

    def priors(self, states: int) -> Priors:
        one = MatrixTransition(self.concentration, self.sticky).priors(states)["transition"]
        return {"transition": one.expand((self.symbols,)).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition": ("symbol_before", "state", "state_to")}

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        rows = counts / counts.sum(-1, keepdim=True)
        return {"transition": rows.expand(self.symbols, *rows.shape).clone()}

    def check(self, data: Sequences) -> None:
        """Accept any data."""

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Raise ``ValueError``: the emission is needed too, see ``LabelledHMM``."""
        raise ValueError("transition: depends on the symbols; use LabelledHMM")


@dataclass(frozen=True)
class LabelledLaws(Laws):
    """The laws of a labelled chain: a step's symbol chooses among the matrices of its move.

    The last two matrices are those of a missing symbol and of the end. ``parameters`` have zeros
    where the model allows no move. See ``Laws`` for the rest.
    """

    ends: bool = False

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log O_k(x_t), (…draws, N, T, K); where the symbol of a string is missing that goes on,
        the probability that it goes on.
        """
        scores = super().log_likelihood
        if not self.ends:
            return scores
        log_on = safe_log(1 - self.parameters["probs"][..., -1]).to(scores)
        data, last = self.data, self.lengths.unsqueeze(-1) - 1
        inside = torch.arange(data.max_length, device=last.device) < last
        missing = (inside & ~data.observed_steps).unsqueeze(-1)
        return torch.where(missing, log_on[..., None, None, :], scores)

    def draw(self, paths: Tensor, past: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sample the symbols of hidden paths (N, T), given each state and the next; after an end
        there are only ends.
        """
        del past
        probs, moves = self.parameters["probs"], self.parameters.get("transition")
        states, size = probs.shape[-2:]
        paths, going = paths.clamp_min(0), size - int(self.ends)
        joint = probs[:, :going].unsqueeze(1)
        joint = joint.expand(-1, states, -1) if moves is None else joint * moves.permute(1, 2, 0)
        chances = joint[paths[:, :-1], paths[:, 1:]]
        chances = torch.cat([chances, probs[paths[:, -1:], :going]], 1)
        y = invert(chances.cumsum(-1), torch.rand(*paths.shape, 1).to(probs))
        if not self.ends:
            return y
        ended = torch.rand(paths.shape).to(probs) < probs[paths, -1]
        return y.masked_fill(ended.cumsum(-1) > 0, going)

    def draw_each(self, paths: Tensor) -> Tensor:
        """Draw the symbol of every step of paths (N, T), whatever the others are."""
        return self.draw(paths.reshape(-1, 1)).reshape(paths.shape)

    def draw_on(self, paths: Tensor, before: Sequences) -> Tensor:
        """Draw symbols after the first step of paths (N, T), which is the last step of ``before``;
        a string that has ended stays so.
        """
        y = self.draw(paths[:, 1:])
        if not self.ends:
            return y
        end = self.emission.encoding_size - 1
        last, seen = self.emission.observed(before)
        rows, place = torch.arange(len(before)), before.lengths - 1
        over = (last[rows, place] == end) & seen[rows, place]
        return y.masked_fill(over.unsqueeze(-1), end)


def unseen(data: Sequences) -> Sequences:
    """Return the same sequences with every symbol missing."""
    return data._derived(values=torch.zeros_like(data.values), mask=torch.zeros_like(data.mask))


def moves_of(joint: Tensor) -> Tensor:
    """Moves at each symbol, (V, K, K), from p(x, z' | z); a state stays at what it never emits."""
    total = joint.sum(-1, keepdim=True)
    stay = torch.eye(joint.shape[-1]).to(joint)
    return torch.where(total > 0, joint / torch.where(total > 0, total, 1), stay)


def kept(name: str, rows: Tensor, inside: Tensor) -> Tensor:
    """Rows (…, M) with zeros outside of what there is, normalised."""
    kept = torch.where(inside, rows, 0)
    total = kept.sum(-1, keepdim=True)
    requirement = "needs in every row a probability > 0 of what is allowed"
    require(bool((total > 0).all()), name, requirement, "a row without")
    return torch.where((total - 1).abs() > _EXACT, kept / total, kept)


def checked_moves(allowed: npt.ArrayLike | Tensor, states: int, symbols: int, ends: bool) -> Tensor:
    """Return the mask (K, V, K) of moves, or raise ``ValueError``: a state needs a way on."""
    given = as_tensor("allowed", allowed)
    shape = int(states), int(symbols), int(states)
    fits = tuple(given.shape) == shape and bool(((given == 0) | (given == 1)).all())
    require(fits, "allowed", f"needs True or False in shape {shape}", tuple(given.shape))
    moves = given > 0
    stuck = (~moves.flatten(1).any(-1)).nonzero().flatten().tolist()
    require(ends or not stuck, "allowed", "needs a move from every state", f"none from {stuck}")
    return moves
