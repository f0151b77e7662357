"""Comparison of two sets of sequences of symbols: do they come from the same law?

Distances between finite samples are not zero even if the laws are the same. So each distance is
computed between half of one set and half of the other, and compared with its floor, the distance
between the two halves of one set: the same number of sequences on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ..queries.answers import log_evidence
from .evidence_gap import standard_error


@dataclass(frozen=True)
class Distance:
    """Distance between two empirical laws in two measures, each with its floor.

    Attributes:
        total_variation: ½ Σ |p − q|.
        total_variation_floor: the same between halves of one set.
        jensen_shannon: ½ KL(p ‖ m) + ½ KL(q ‖ m) in nats, m = (p + q) / 2.
        jensen_shannon_floor: the same between halves of one set.

    >>> from beliefzoo.inference import Distance
    >>> found = Distance(0.30, 0.28, jensen_shannon=0.055, jensen_shannon_floor=0.050)
    >>> round(found.excess, 3)
    0.005
    """

    total_variation: float
    total_variation_floor: float
    jensen_shannon: float
    jensen_shannon_floor: float

    @property
    def excess(self) -> float:
        """Jensen-Shannon divergence above its floor, nats; about 0 if the laws are the same."""
        return self.jensen_shannon - self.jensen_shannon_floor


@dataclass(frozen=True)
class SampleComparison:
    """Statistics of two sets of sequences of symbols; made by :func:`compare_samples`.

    Attributes:
        symbols: names of the V symbols.
        frequencies: frequencies of the symbols in each set, (V,).
        n_grams: distance between the laws of words of n symbols, by n.
        lag_information: mutual information of symbols 1 … L steps apart in each set, (L,) nats,
            corrected in first order for the bias of counting (Miller 1955), so that it may be
            negative.
        run_lengths: law of the length of runs of one symbol in each set, (R,) from length 1 on; the
            last entry is that length or more. Runs cut off by a sequence's ends count as they are.
        runs: distance between the two laws of run lengths.
        evidence_per_step: log p(set) / steps under the model, nats; None without a model.
        evidence_standard_error: its standard error over sequences.

    >>> from beliefzoo.inference import compare_samples
    >>> from beliefzoo.models import golden_mean
    >>> model = golden_mean().model
    >>> a, b = (model.sample(40, 30, seed=seed).data for seed in (0, 1))
    >>> found = compare_samples(a, b)
    >>> sorted(found.n_grams), found.lag_information[0].shape
    ([1, 2, 3, 4], torch.Size([10]))
    """

    symbols: tuple[str, ...]
    frequencies: tuple[Tensor, Tensor]
    n_grams: dict[int, Distance]
    lag_information: tuple[Tensor, Tensor]
    run_lengths: tuple[Tensor, Tensor]
    runs: Distance
    evidence_per_step: tuple[float, float] | None
    evidence_standard_error: tuple[float, float] | None

    def __str__(self) -> str:
        lines = [f"  {'distance':<14}{'TV':>9}{'floor':>9}{'JS, nats':>11}{'floor':>10}"]
        named = {f"{n}-grams": one for n, one in self.n_grams.items()} | {"run lengths": self.runs}
        for name, one in named.items():
            lines.append(
                f"  {name:<14}{one.total_variation:>9.4f}{one.total_variation_floor:>9.4f}"
                f"{one.jensen_shannon:>11.5f}{one.jensen_shannon_floor:>10.5f}"
            )
        if self.evidence_per_step is not None and self.evidence_standard_error is not None:
            pairs = zip(self.evidence_per_step, self.evidence_standard_error, strict=True)
            first, second = (f"{value:.4f} ± {error:.4f}" for value, error in pairs)
            lines.append(f"  log evidence of a step, nats: {first} (first), {second} (second)")
        return "\n".join(lines)


@boundary
def compare_samples(
    a: Sequences,
    b: Sequences,
    *,
    model: Model | None = None,
    longest: int = 4,
    lags: int = 10,
    most_runs: int = 20,
    seed: int = 0,
) -> SampleComparison:
    """Compares two sets of sequences of symbols by n-grams, mutual information and run lengths.

    Args:
        a, b: the sets; of the larger one only as many sequences are used as the smaller one has.
        model: with known parameters; its evidence of both sets is computed.
        longest: compare n-grams of 1 … ``longest`` symbols.
        lags: largest distance at which mutual information is computed.
        most_runs: runs of this length or more are counted together.
        seed: of the division into halves.

    Returns:
        The statistics.

    Raises:
        ValueError: sets that are not symbols, have different names, fewer than two sequences,
            missing symbols, or sequences not longer than ``longest`` and ``lags``; words too long
            to be numbered; a model that cannot emit the symbols or has unknown parameters.

    >>> from beliefzoo.inference import compare_samples
    >>> from beliefzoo.models import golden_mean, random_random_xor
    >>> golden, xor = golden_mean().model, random_random_xor().model
    >>> a, b, c = (m.sample(200, 30, seed=s).data for m, s in ((golden, 0), (golden, 1), (xor, 2)))
    >>> same, different = compare_samples(a, b), compare_samples(a, c)
    >>> round(same.n_grams[3].excess, 2), round(different.n_grams[3].excess, 2)
    (0.0, 0.15)
    """
    require_count(longest, "longest")
    require_count(lags, "lags")
    require_count(most_runs, "most_runs", 2)
    for name, data in ("a", a), ("b", b):
        _check_set(name, data, max(longest, lags + 1))
    require(
        a.symbols is None or b.symbols is None or a.symbols == b.symbols,
        "a, b",
        "must have the same symbols",
        f"{a.symbols} and {b.symbols}",
    )
    names = a.symbols or b.symbols
    size = len(names) if names else 1 + max(int(a.codes().max()), int(b.codes().max()))
    require(
        size**longest < 2**63,
        "longest",
        f"must be less, words of {size} symbols being numbered in 63 bits",
        longest,
    )
    pairs = _halves(a, b, seed)
    scored = None if model is None else [_evidence(model, data) for data in (a, b)]
    return SampleComparison(
        names or tuple(str(code) for code in range(size)),
        (_frequencies(a, size), _frequencies(b, size)),
        {n: _distance([_words(half, n, size) for half in pairs]) for n in range(1, longest + 1)},
        (_lag_information(a, lags, size), _lag_information(b, lags, size)),
        (_run_law(a, most_runs), _run_law(b, most_runs)),
        _distance([_runs(half).clamp_max(most_runs) for half in pairs]),
        None if scored is None else (scored[0][0], scored[1][0]),
        None if scored is None else (scored[0][1], scored[1][1]),
    )


def _check_set(name: str, data: Sequences, steps: int) -> None:
    codes = isinstance(data, Sequences) and data.is_codes
    came = "Sequences of numbers" if isinstance(data, Sequences) else type(data).__name__
    require(codes, name, "must be Sequences of symbols", came)
    require(len(data) >= 2, name, "needs two sequences or more", len(data))
    missing = int((data.step_mask & ~data.mask).sum())
    require(not missing, name, "needs symbols at every step", f"{missing} missing")
    shortest = int(data.lengths.min())
    require(shortest >= steps, name, f"needs sequences of {steps} symbols or more", shortest)


def _halves(a: Sequences, b: Sequences, seed: int) -> tuple[Sequences, ...]:
    """Two halves of a, two of b, each with the same number of sequences."""
    size = min(len(a), len(b)) // 2
    return (*a.split([size, size], seed=seed), *b.split([size, size], seed=seed))


def _distance(items: list[Tensor]) -> Distance:
    """Distance between the laws of items (n,) in two halves of a and two of b."""
    kinds, index = torch.cat(items).unique(return_inverse=True)
    parts = index.split([len(one) for one in items])
    laws = [torch.bincount(one, minlength=len(kinds)).double() / len(one) for one in parts]
    one, other, third, fourth = laws
    across, within = [(one, third), (other, fourth)], [(one, other), (third, fourth)]

    def mean(
        measure: Callable[[Tensor, Tensor], Tensor], sets: list[tuple[Tensor, Tensor]]
    ) -> float:
        return sum(float(measure(p, q)) for p, q in sets) / len(sets)

    return Distance(
        mean(_total_variation, across),
        mean(_total_variation, within),
        mean(_jensen_shannon, across),
        mean(_jensen_shannon, within),
    )


def _total_variation(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs().sum() / 2


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    entropies = [torch.xlogy(law, law).sum() for law in (p, q, middle)]
    return (entropies[0] + entropies[1]) / 2 - entropies[2]


def _frequencies(data: Sequences, size: int) -> Tensor:
    count = torch.bincount(data.codes()[data.step_mask], minlength=size).double()
    return count / count.sum()


def _words(data: Sequences, n: int, size: int) -> Tensor:
    """All words of n symbols as numbers in base ``size``, (words,)."""
    codes, steps = data.codes(), data.max_length - n + 1
    word = torch.zeros(len(data), steps, dtype=torch.int64)
    for place in range(n):
        word = word * size + codes[:, place : place + steps]
    return word[data.step_mask[:, n - 1 :]]


def _lag_information(data: Sequences, lags: int, size: int) -> Tensor:
    out = []
    for lag in range(1, lags + 1):
        both = data.step_mask[:, lag:]
        first, second = data.codes()[:, :-lag][both], data.codes()[:, lag:][both]
        joint = torch.bincount(first * size + second, minlength=size**2).double()
        joint = (joint / joint.sum()).reshape(size, size)
        laws = joint, joint.sum(0), joint.sum(1)
        whole, one, other = (torch.xlogy(law, law).sum() for law in laws)
        met, one_met, other_met = (int((law > 0).sum()) for law in laws)
        bias = (met - one_met - other_met + 1) / (2 * len(first))
        out.append(whole - one - other - bias)
    return torch.stack(out)


def _runs(data: Sequences) -> Tensor:
    """Lengths of all runs of one symbol, (runs,)."""
    codes, inside = data.codes(), data.step_mask
    begins = inside.clone()
    begins[:, 1:] &= codes[:, 1:] != codes[:, :-1]
    number = begins[inside].cumsum(0)  # sequence after sequence; each begins a run
    return torch.bincount(number)[1:]


def _run_law(data: Sequences, most: int) -> Tensor:
    count = torch.bincount(_runs(data).clamp_max(most), minlength=most + 1)[1:].double()
    return count / count.sum()


def _evidence(model: Model, data: Sequences) -> tuple[float, float]:
    """log p(data) a step, and its standard error over sequences."""
    each = log_evidence(model, data)
    return float(each.sum()) / data.n_steps, standard_error(each, data.lengths)
