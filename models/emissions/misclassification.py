"""Observations of the state itself, or of a state that it is mistaken for."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import StickBreakingTransform, Transform

from ..checks import require, require_count, require_positive
from ..data.sequences import Sequences
from .counts import Categorical
from .emission import Emission, Parameters, Priors
from .observations import Symbols

Pairs = tuple[tuple[int, int], ...]

_PRINTED = 1e-5
"""Rows whose sum is this close to 1 are taken for printed and rounded ones, and normalised."""


@dataclass(frozen=True)
class Misclassification(Emission):
    r"""Each state is observed as itself, or as one of the states that it is mistaken for.

    .. math:: O_k(k) = 1 - \sum_e error_e [from_e = k], \quad O_k(j) = error_e
        \text{ where } e = (k, j)

    All other observations are impossible; without errors the state is observed exactly. The
    parameter ``error`` (E,) has one probability for each of ``errors``; (1 − Σ error, error) of a
    state is Dirichlet(correct, concentration, …). ``with_parameters(probs=…)`` takes the whole
    table (state, symbol) instead. The numbers of the states have a meaning: they are never
    relabelled.

    Args:
        states: number of states, and of symbols.
        errors: pairs (state, state that it is mistaken for), sorted by the first.
        concentration: prior pseudo-count of each error.
        correct: prior pseudo-count of a correct observation.

    Raises:
        ValueError: fewer than two states, errors that are not pairs of different states or that are
            repeated, or a pseudo-count that is not positive.

    Source: Jackson, Sharples, Thompson, Duffy & Couto (2003), The Statistician 52
    (misclassification of stages of a disease).

    >>> import torch
    >>> diagnosis = Misclassification(3, errors=[(0, 1), (1, 0)])  # healthy, ill, dead
    >>> diagnosis.table({"error": torch.tensor([0.05, 0.2])})
    tensor([[0.9500, 0.0500, 0.0000],
            [0.2000, 0.8000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """

    states: int
    errors: Pairs = ()
    concentration: float = 1.0
    correct: float = 5.0

    reorderable = False  # the states are what is shown

    def __post_init__(self) -> None:
        require_count(self.states, "states", 2)
        pairs = state_pairs(self.errors, self.states, "errors")
        object.__setattr__(self, "errors", tuple(sorted(pairs)))
        require_positive(self.concentration, "concentration")
        require_positive(self.correct, "correct")

    @property
    def features(self) -> int:
        return 1

    @property
    def observations(self) -> Symbols:
        return Symbols(self.states)

    @property
    def symbols(self) -> int:
        """Number of symbols."""
        return self.states

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of errors of each state that has any, in order."""
        origins = [origin for origin, _ in self.errors]
        return tuple(origins.count(origin) for origin in dict.fromkeys(origins))

    def priors(self, states: int) -> Priors:
        require(states == self.states, "states", f"{self} has {self.states}", states)
        if not self.errors:
            return {}
        return {"error": PartialDirichlet(self.sizes, self.concentration, self.correct)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"error": ("misclassification",)} if self.errors else {}

    def table(self, parameters: Parameters) -> Tensor:
        """Return O_k(y), (…draws, state, symbol)."""
        eye = torch.eye(self.states, dtype=torch.float64)
        if not self.errors:
            some = next(iter(parameters.values()), eye)
            return eye.to(some)
        error = parameters["error"]
        moves = torch.zeros(len(self.errors), self.states, self.states)
        for number, (origin, seen) in enumerate(self.errors):
            moves[number, origin, seen], moves[number, origin, origin] = 1, -1
        flat = error @ moves.flatten(1).to(error)
        moved = flat.reshape(*flat.shape[:-1], *eye.shape)
        return (eye.to(error) + moved).clamp_min(0)

    def possible(self, y: Tensor, mask: Tensor) -> Tensor:
        """Return the states that observations y (N, T) can come from, (N, T, K) bool; all where
        missing.
        """
        table = torch.eye(self.states, dtype=torch.bool)
        for origin, seen in self.errors:
            table[origin, seen] = True
        return table.to(y.device).mT[y] | ~mask.unsqueeze(-1)

    def competing(self, states: int) -> Tensor:
        every = torch.arange(states)[None]
        return self.possible(every, torch.ones_like(every, dtype=torch.bool))[0].mT

    @property
    def _plain(self) -> Categorical:
        return Categorical(self.states)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        return self._plain.score({"probs": self.table(parameters)}, y, mask, shift)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        return self._plain.draw({"probs": self.table(parameters)}, paths, shift)

    def coords(self, states: int) -> dict[str, list[str]]:
        """Return names of the errors, ``"0→1"``."""
        del states
        return {"misclassification": [f"{origin}→{seen}" for origin, seen in self.errors]}

    def labels(self, data: Sequences) -> Tensor:
        """Return the observed states, right or wrong, (N, T); −1 where nothing was observed."""
        y, mask = self.observed(data)
        return torch.where(mask, y, -1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return the prior mean: frames are assigned to the states that they show."""
        del y, mask
        if not self.errors:
            return {}
        prior = PartialDirichlet(self.sizes, self.concentration, self.correct)
        return {"error": prior.mean.to(weight)}

    def mean(self, parameters: Parameters) -> Tensor:
        return self.table(parameters)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate ``probs``, the table (state, symbol) of all probabilities, to ``error``."""
        out = dict(values)
        if "probs" not in out:
            return out
        probs = out.pop("probs")
        shape = (self.states, self.states)
        require(probs.shape == shape, "probs", f"needs shape {shape}", tuple(probs.shape))
        allowed = self.possible(torch.arange(self.states)[None], torch.ones(1, 1).bool())[0].mT
        bad = ((probs < 0) | ((probs != 0) & ~allowed)).nonzero().tolist()
        if bad:
            origin, seen = bad[0]
            raise ValueError(
                f"probs: needs probabilities >= 0, and 0 where {self} has no error, got "
                f"{float(probs[origin, seen])} for state {origin} observed as {seen}"
            )
        off = (probs.sum(-1) - 1).abs() > _PRINTED
        require(not bool(off.any()), "probs", "needs rows of sum 1", probs.sum(-1).tolist())
        if self.errors:
            index = torch.tensor(self.errors).mT
            out["error"] = (probs / probs.sum(-1, keepdim=True))[index[0], index[1]]
        return out


def state_pairs(given: Any, states: int | None, argument: str) -> Pairs:
    """Pairs of different states, each once, as tuples of whole numbers.

    Raises:
        ValueError: anything else.
    """
    requirement = "must be different pairs (from, to) of different states"
    if states is not None:
        requirement += f" in 0..{states - 1}"
    try:
        pairs = tuple((int(origin), int(target)) for origin, target in given)
        whole = all(p == tuple(q) for p, q in zip(pairs, given, strict=True))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {requirement}, got {given!r}") from error
    top = max((max(pair) for pair in pairs), default=0)
    within = all(min(pair) >= 0 and pair[0] != pair[1] for pair in pairs)
    fits = whole and within and (states is None or top < states)
    require(fits and len(set(pairs)) == len(pairs), argument, requirement, given)
    return pairs


class PartialDirichlet(dist.TorchDistribution):
    r"""Blocks of a vector, each a Dirichlet vector without its last entry.

    .. math:: (x_{b1}, …, x_{bm}, 1 - \sum_i x_{bi})
        \sim Dirichlet(concentration, …, concentration, rest)

    The density is that of the remaining entries. Event shape (Σ sizes,).
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, sizes: Sequence[int], concentration: float = 1.0, rest: float = 1.0) -> None:
        self.sizes = tuple(sizes)
        self.concentration = torch.as_tensor(concentration, dtype=torch.get_default_dtype())
        self.rest = torch.as_tensor(rest, dtype=torch.get_default_dtype())
        super().__init__(torch.Size(), torch.Size([sum(self.sizes)]), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return Subsimplices(self.sizes)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PartialDirichlet:
        out = copy.copy(self)
        out._batch_shape = torch.Size(batch_shape)
        return out

    def _block(self, size: int, dtype: torch.dtype | None = None) -> dist.Dirichlet:
        concentration = torch.cat([self.concentration.expand(size), self.rest.expand(1)])
        return dist.Dirichlet(concentration.to(dtype), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.cat([self._block(size).mean[:-1] for size in self.sizes])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        parts = [self._block(size).sample(shape) for size in self.sizes]
        return torch.cat([part[..., :-1] for part in parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = (_closed(part) for part in value.split(self.sizes, -1))
        return torch.stack([self._block(x.shape[-1] - 1, x.dtype).log_prob(x) for x in blocks]).sum(
            0
        )


class Subsimplices(constraints.Constraint):
    """Vectors whose blocks have entries >= 0 with sum at most 1."""

    is_discrete = False
    event_dim = 1

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        sums = torch.stack([part.sum(-1) for part in value.split(self.sizes, -1)], -1)
        inside: Tensor = (value >= 0).all(-1) & (sums <= 1).all(-1)
        return inside

    def __repr__(self) -> str:
        return f"Subsimplices({self.sizes})"


class _Broken(Transform):
    """Stick-breaking of every block."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.codomain = Subsimplices(sizes)
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Broken) and other.sizes == self.sizes

    def __hash__(self) -> int:
        return hash(self.sizes)

    def _call(self, x: Tensor) -> Tensor:
        parts = (StickBreakingTransform()(part)[..., :-1] for part in x.split(self.sizes, -1))
        return torch.cat(list(parts), -1)

    def _inverse(self, y: Tensor) -> Tensor:
        parts = (StickBreakingTransform().inv(_closed(part)) for part in y.split(self.sizes, -1))
        return torch.cat(list(parts), -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        pieces = zip(x.split(self.sizes, -1), y.split(self.sizes, -1), strict=True)
        terms = [StickBreakingTransform().log_abs_det_jacobian(a, _closed(b)) for a, b in pieces]
        return torch.stack(terms).sum(0)


@biject_to.register(Subsimplices)
@transform_to.register(Subsimplices)
def _subsimplices(constraint: Subsimplices) -> _Broken:
    return _Broken(constraint.sizes)


def _closed(part: Tensor) -> Tensor:
    """Append to a block the entry that makes its sum 1."""
    tiny = torch.finfo(part.dtype).tiny
    return torch.cat([part, (1 - part.sum(-1, keepdim=True)).clamp_min(tiny)], -1)
