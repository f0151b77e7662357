r"""How far a machine is from the network it was read from: step by step, on fresh sequences.

.. math:: \mathrm{KL}_t = \sum_x p(x \mid x_1 \dots x_{t-1}) \log
    \frac{p(x \mid x_1 \dots x_{t-1})}{q(x \mid x_1 \dots x_{t-1})}

The sum over the next symbol is done; only the pasts are drawn. The mean over steps of sequences of
the law p estimates KL(p ‖ q) of whole sequences, divided by their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_alike, require_count, require_seed
from ..checking.evidence_gap import standard_error
from ..filters.spectral import ObservableOperators
from .hankel import Words, spelled, word_probabilities
from .known_laws import OperatorLaw, law_of, renews
from .laws import (
    SequenceLaw,
    asked,
    ends_of,
    log_conditionals,
    read_checked,
    require_codes,
    sampled,
    taken,
)

_CONTEXTS = 5
"""Worst pasts that are listed."""

_SHOWN = 12
"""Symbols of a past that are printed: the last ones."""


_BURN_IN, _ONWARD, _PATHS = 100, 150, 4000
"""Steps left out and kept of paths that entropy rates are measured on, and their number."""


@dataclass(frozen=True)
class LawDivergence:
    """KL between the next-symbol laws of two laws, step by step; by :func:`law_divergence`.

    Attributes:
        mean: over all steps, nats a step.
        standard_error: of the mean, over sequences.
        quantile: 99 % of the steps have less.
        steps: (N, T) nats; 0 after the end of shorter sequences.
        contexts: the worst pasts, and the KL after each.

    >>> from beliefzoo.inference import LawDivergence
    >>> import torch
    >>> found = LawDivergence.of(torch.full((2, 3), 0.5), torch.tensor([[0, 1, 1], [1, 1, 1]]))
    >>> found.mean, found.contexts[0]
    (0.5, ('', 0.5))
    """

    mean: float
    standard_error: float
    quantile: float
    steps: Tensor
    contexts: tuple[tuple[str, float], ...]

    @classmethod
    @boundary
    def of(
        cls,
        steps: Tensor,
        codes: Tensor | None,
        names: tuple[str, ...] | None = None,
        lengths: Tensor | None = None,
    ) -> LawDivergence:
        """Summarises KL (N, T) before each symbol of codes (N, T); None: no pasts are listed."""
        require_alike(steps=steps, **({} if codes is None else {"codes": codes}))
        named = codes is None or names is None or int(codes.max()) < len(names)
        require(named, "names", "needs one for each code", names)
        if lengths is None:
            lengths = torch.full((len(steps),), steps.shape[1])
        whole = tuple(lengths.shape) == (len(steps),) and not lengths.is_floating_point()
        fits = whole and bool(((lengths >= 0) & (lengths <= steps.shape[1])).all())
        fits = fits and bool(lengths.any())
        needed = f"needs {len(steps)} whole numbers from 0 to {steps.shape[1]}, not all 0"
        require(fits, "lengths", needed, lengths.tolist())
        inside = torch.arange(steps.shape[1]) < lengths.unsqueeze(-1)
        steps = torch.where(inside, steps, 0)
        worst: dict[str, float] = {}
        order = torch.where(inside, steps, -1).flatten().argsort(descending=True, stable=True)
        for place in order[: int(lengths.sum())].tolist() if codes is not None else ():
            assert codes is not None
            row, step = divmod(place, steps.shape[1])
            word = spelled(codes[row, max(0, step - _SHOWN) : step], names)
            worst.setdefault("…" * (step > _SHOWN) + word, float(steps[row, step]))
            if len(worst) == _CONTEXTS:
                break
        within = steps[inside]
        return cls(
            float(within.mean()),
            standard_error(steps.sum(-1), lengths),
            float(within.quantile(0.99)) if within.numel() <= 2**24 else math.nan,
            steps,
            tuple(worst.items()),
        )

    def __str__(self) -> str:
        lines = [
            f"{self.mean:.3g} ± {self.standard_error:.1g} nats a step, 99 % of the steps below "
            f"{self.quantile:.3g}; most after"
        ]
        lines += [f"  {nats:>10.3g}  {word or '(nothing)'}" for word, nats in self.contexts]
        return "\n".join(lines)


@boundary
def law_divergence(
    law: object,
    other: object,
    data: Sequences | None = None,
    *,
    sequences: int = 1000,
    length: int = 24,
    seed: int = 0,
) -> LawDivergence:
    r"""Measures KL(law ‖ other) a step, by the exact sum over the next symbol.

    Args:
        law: a :class:`SequenceLaw`, for instance a ``NetworkLaw``; or a known model of symbols
            (``HiddenMarkovModel``, ``LabelledHMM``, ``LabelledChain``, ``ObservableOperators``).
        other: the same.
        data: sequences without missing symbols whose pasts are compared; None: sequences drawn from
            ``law``, with which the mean is the divergence of whole sequences. Laws of strings are
            compared on one string after another.
        sequences: number of sequences to draw.
        length: of each.
        seed: of these draws.

    Returns:
        Mean, spread, and the worst pasts.

    Raises:
        ValueError: laws of different symbols, a law of strings and another one, or data that the
            laws do not know.

    >>> from beliefzoo.inference import law_divergence
    >>> from beliefzoo.models import golden_mean
    >>> law_divergence(golden_mean(0.5), golden_mean(0.5)).mean
    0.0
    >>> round(law_divergence(golden_mean(0.5), golden_mean(0.6)).mean, 3)
    0.013
    """
    one, two = law_of(law), law_of(other)
    require(two.symbols == one.symbols, "other", f"must have {one.symbols} symbols", two.symbols)
    if ends_of(one) != ends_of(two):
        argument, law = ("law", one) if ends_of(two) else ("other", two)
        needed = "must begin anew after its last symbol, which ends strings of the other law"
        require(renews(law), argument, needed, "a law that goes on")
    require_count(sequences, "sequences", 2)
    require_count(length, "length")
    require_seed(seed, optional=False)
    lengths = None
    if data is None:
        codes, told = sampled(one, sequences, length, seed)
    else:
        codes, lengths = codes_of(one, data)
        told = log_conditionals(one, codes)
    return LawDivergence.of(kl(told, log_conditionals(two, codes)), codes, lengths=lengths)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p (log p − log q) over the last axis; 0 log 0 = 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1).clamp_min(0)


def codes_of(law: SequenceLaw, data: Sequences) -> tuple[Tensor, Tensor]:
    """Codes (N, T), 0 after the end of shorter sequences, and lengths (N,), of complete sequences.

    Raises:
        ValueError: missing symbols, other data, or symbols that the law does not know.
    """
    fits = isinstance(data, Sequences) and data.is_codes
    require(fits, "data", "must be Sequences of symbols (codes=True)", type(data).__name__)
    missing = int((data.step_mask & ~data.observed_steps).sum())
    require(missing == 0, "data", "needs every symbol", f"{missing} missing")
    codes = data.codes().where(data.step_mask, 0)
    require_codes(law, codes)
    return codes, data.lengths


def update_divergence(
    law: SequenceLaw,
    operators: ObservableOperators,
    words: Words,
    codes: Tensor,
    lengths: Tensor | None = None,
) -> LawDivergence:
    r"""Is the law's own update Bayes' rule of the machine? KL step by step, on codes (N, T).

    The law's belief in the machine's coordinates is what it says itself of the futures, b(u) =
    F(u, ·) V: nothing is fitted. Compared are the law of the next symbol after u x, and what the
    machine predicts from b(u) by one application of its Bayes rule. Errors of earlier steps do not
    enter, and what lies outside the machine's directions counts.
    """
    longest = codes.shape[1] if lengths is None else int(lengths.max())
    require(longest > 1, "data", "needs a sequence of two symbols or more", f"{longest} at most")
    machine = OperatorLaw.of(operators)
    state, found = law.start(len(codes)), []
    for step, column in enumerate(codes.unbind(1)):
        parts = [
            word_probabilities(law, taken(state, some), words) @ operators.basis
            for some in torch.arange(len(codes)).split(256)
        ]
        onward = machine.read((torch.cat(parts),), column)
        if step + 1 < codes.shape[1]:
            state = read_checked(law, state, column)
            told = machine.next_log_probabilities(onward)
            found.append(kl(asked(law, state), told))
    later = None if lengths is None else lengths - 1
    return LawDivergence.of(torch.stack(found, 1), codes[:, 1:], lengths=later)


def entropy_rate(law: SequenceLaw, *, seed: int = 0) -> tuple[float, float]:
    """Mean entropy of the next symbol on long paths of a law, nats, and its standard error."""
    log_p = sampled(law, _PATHS, _BURN_IN + _ONWARD, seed)[1][:, _BURN_IN:]
    p = log_p.exp()
    each = -torch.where(p > 0, p * log_p, 0).sum(-1).mean(-1)
    return float(each.mean()), float(each.std()) / math.sqrt(len(each))
