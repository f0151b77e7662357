"""The machine of a network: read off its own law, with what is not in it and how far it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count, require_positive, require_seed
from ..filters.spectral import ObservableOperators
from .certificates import LawDivergence, codes_of, kl, update_divergence
from .hankel import Plan, Spectrum, difference_of, plan_of, spectrum_of
from .laws import OperatorLaw, SequenceLaw, law_of, log_conditionals, sampled

_SHOWN = 8
"""Singular values that are printed, beyond those of the machine."""

_BURN_IN, _ONWARD, _PATHS = 100, 150, 4000
"""Steps left out and kept of paths that the entropy rate is measured on."""


@dataclass(frozen=True)
class Machine:
    r"""A machine read off the law of a network; made by :func:`machine_of`.

    Attributes:
        operators: observable operators of ``states`` dimensions.
        states: their number r.
        singular_values: of the law's Hankel matrix, largest first.
        floor: singular values below are not counted as the network's.
        floor_from: where the floor comes from.
        ranks: number of singular values above the floor with futures of at most 1, 2, … symbols.
        curve: KL(network ‖ operators) a step, nats, for 1, 2, … states, on sequences of their own.
        divergence: KL(network ‖ machine) step by step, on fresh sequences of the network.
        small: whether a small machine was found: the rank has stopped growing with the futures.
        plan: which words the Hankel matrix is made of.
        law: the network's; None once the machine was read from a file.

    >>> from beliefzoo.inference import machine_of
    >>> from beliefzoo.models import golden_mean
    >>> found = machine_of(golden_mean())  # a known machine in the network's place
    >>> found.states, round(found.entropy_rate[0], 2)  # 2/3 log 2
    (2, 0.46)
    """

    operators: ObservableOperators
    states: int
    singular_values: Tensor
    floor: float
    floor_from: str
    ranks: tuple[int, ...]
    curve: tuple[float, ...]
    divergence: LawDivergence
    small: bool
    plan: Plan
    law: SequenceLaw | None = field(repr=False)

    @cached_property
    def entropy_rate(self) -> tuple[float, float]:
        """Entropy rate of the machine, nats, and its standard error.

        The mean entropy of the next symbol on long paths of the machine.
        """
        told = sampled(OperatorLaw.of(self.operators), _PATHS, _BURN_IN + _ONWARD, 0)[1]
        log_p = told[:, _BURN_IN:]
        p = log_p.exp()
        each = -torch.where(p > 0, p * log_p, 0).sum(-1).mean(-1)
        return float(each.mean()), float(each.std()) / math.sqrt(len(each))

    @property
    def normalisation(self) -> float:
        """Largest entry of Σ_x A_x e − e: 0 if the probabilities of all words sum to 1."""
        end = self.operators.end
        return float((self.operators.operators.sum(0).mT @ end - end).abs().max())

    def update_error(self, data: Sequences | None = None, *, seed: int = 0) -> LawDivergence:
        """Is the network's update Bayes' rule of this machine? KL step by step.

        The network's belief in the machine's coordinates is what it says itself of the futures;
        nothing is fitted. Compared are its law of the next symbol and what Bayes' rule of the
        machine predicts from its belief one symbol before.

        Args:
            data: sequences of one length; None: 200 fresh ones of the network.
            seed: of these.

        Raises:
            ValueError: data that the law does not know, or a machine that was read from a file,
                without its network.
        """
        if self.law is None:
            raise ValueError("found: needs the network, got a machine that was read from a file")
        if data is None:
            codes = sampled(self.law, 200, self.divergence.steps.shape[1], seed)[0]
        else:
            codes = codes_of(self.law, data)
        return update_divergence(self.law, self.operators, self.plan.suffixes, codes)

    def __str__(self) -> str:
        shown = self.singular_values[: self.states + _SHOWN].tolist()
        values = " ".join(f"{value:.3g}" for value in shown[: self.states])
        below = " ".join(f"{value:.2g}" for value in shown[self.states :])
        rate, error = self.entropy_rate
        lines = [
            f"machine of {self.states} states, from {self.plan}",
            f"  singular values {values} | {below}",
            f"  floor           {self.floor:.3g} ({self.floor_from})",
            f"  KL(network ‖ machine) {self.divergence}",
            f"  entropy rate    {rate:.5f} ± {error:.1g} nats",
            f"  normalisation   off by {self.normalisation:.1g}",
        ]
        if not self.small:
            lines.append(
                "  no small machine: directions above the floor with futures of up to 1, 2, … "
                f"symbols: {', '.join(map(str, self.ranks))}; KL with 1, 2, … states: "
                + ", ".join(f"{nats:.2g}" for nats in self.curve)
            )
        beyond = shown[self.states :]
        if beyond:
            said = "not in the network, being below the floor" if beyond[0] < self.floor else ""
            lines.append(f"  left out        what has {beyond[0]:.2g} or less; {said}".rstrip("; "))
        return "\n".join(lines)


@boundary
def machine_of(
    network: object,
    head: nn.Module | None = None,
    embedding: nn.Module | None = None,
    *,
    states: int | None = None,
    regret: float | None = None,
    other: object | None = None,
    tolerance: float = 1e-3,
    largest: int = 16,
    prefixes: int = 1500,
    suffixes: int = 130,
    samples: int = 1000,
    length: int = 24,
    gigabytes: float = 4.0,
    seed: int = 0,
    progress: bool = False,
) -> Machine:
    r"""Reads the machine off a network: only the network's own law of sequences is asked.

    The Hankel matrix F(u, v) = p(v | u) over words u of the past and v of the future has the rank
    of the smallest machine with linear belief; its singular vectors give the machine's operators.
    How many directions count is fixed by, in this order, ``states``; a floor, the larger one of
    √``regret`` and of the distance between the matrices of two trainings (``other``); or
    ``tolerance``: the fewest states with KL(network ‖ machine) below it.

    Args:
        network: ``torch.nn.LSTM``, ``GRU`` or ``RNN`` in evaluation mode with its ``head``, or a
            :class:`SequenceLaw` (``PrefixLaw`` makes one of a function), or a known model.
        head: from the network's outputs to scores of the V symbols.
        embedding: from codes to the network's inputs; None: one-hot vectors.
        states: number of states; None: it is found.
        regret: KL(truth ‖ network) a step, nats, where it is known: held-out loss minus entropy.
        other: the law of another training of the network, as a :class:`SequenceLaw`.
        tolerance: nats a step.
        largest: most states that are tried.
        prefixes: most words of the past; all of up to some length, or drawn if these would be
            shorter than four symbols.
        suffixes: most words of the future; likewise, two symbols.
        samples: sequences of the network that machines are compared on, and as many fresh ones.
        length: of each, and of drawn pasts.
        gigabytes: of memory that the moments may take.
        seed: of all draws.
        progress: show bars, which say time and memory first.

    Returns:
        The machine, which prints its figures.

    Raises:
        ValueError: a network in training mode or reading backward, a head or an embedding of the
            wrong size, NaN or probabilities that do not sum to 1, more symbols than fit into
            memory, or a bad option.

    Source: Hsu, Kakade & Zhang (2012); Ayache, Eyraud & Goudian (2018); docs/science.md, I10.

    >>> import torch
    >>> from beliefzoo.inference import machine_of
    >>> _ = torch.manual_seed(0)
    >>> lstm, head = torch.nn.LSTM(2, 4).eval(), torch.nn.Linear(4, 2)  # in practice trained ones
    >>> found = machine_of(lstm, head, states=2)
    >>> found.states, found.divergence.mean < 1e-3
    (2, True)
    """
    law = law_of(network, head, embedding)
    counts = {"largest": largest, "prefixes": prefixes, "suffixes": suffixes, "length": length}
    for name, value in counts.items():
        require_count(value, name)
    require_count(samples, "samples", 2)
    require_count(states, "states", optional=True)
    for name, number in ("tolerance", tolerance), ("gigabytes", gigabytes):
        require_positive(number, name)
    if regret is not None:
        require_positive(regret, "regret", zero=True)
    require_seed(seed, optional=False)
    plan = plan_of(
        law, prefixes=prefixes, suffixes=suffixes, length=length, gigabytes=gigabytes, seed=seed
    )
    spectrum = spectrum_of(law, plan, seed=seed, progress=progress)
    floor, floor_from = _floor(law, spectrum, regret, other, seed)
    most = min(max(largest, states or 1), spectrum.rank(0))
    codes, told = sampled(law, samples, length, seed + 1)
    curve = [_distance(spectrum.operators(rank), codes, told) for rank in range(1, most + 1)]
    if states is not None:
        require(states <= most, "states", f"needs at most {most}, the rank of the law", states)
    chosen = _chosen(spectrum, curve, states, floor, floor_from, tolerance)
    operators = spectrum.operators(chosen.states)
    fresh, fresh_told = sampled(law, samples, length, seed + 2)
    machine = OperatorLaw.of(operators)
    return Machine(
        operators,
        chosen.states,
        spectrum.singular_values,
        chosen.floor,
        chosen.floor_from,
        spectrum.ranks(chosen.floor),
        tuple(curve),
        LawDivergence.of(kl(fresh_told, log_conditionals(machine, fresh)), fresh),
        chosen.small,
        plan,
        law,
    )


class _Choice(NamedTuple):
    states: int
    floor: float
    floor_from: str
    small: bool


def _chosen(
    spectrum: Spectrum,
    curve: list[float],
    states: int | None,
    floor: float,
    floor_from: str,
    tolerance: float,
) -> _Choice:
    """The number of states: as given, by the floor, or by the tolerance."""
    rank, most = spectrum.rank(floor), len(curve)
    if floor_from:
        ranks = spectrum.ranks(floor)
        steady = len(ranks) < 2 or ranks[-1] <= ranks[-2]
        return _Choice(states or min(rank, most), floor, floor_from, steady and rank <= most)
    within = next((n for n, nats in enumerate(curve, 1) if nats <= tolerance), most)
    count = states or within
    values = spectrum.singular_values
    floor = max(float(values[count]) if count < len(values) else 0.0, spectrum.rounding)
    said = f"the first direction left out; KL <= {tolerance:g} is reached with {within} states"
    small = curve[within - 1] <= tolerance
    if not small:
        said = f"the first direction left out; KL <= {tolerance:g} is not reached"
    return _Choice(count, floor, said, small)


def _floor(
    law: SequenceLaw, spectrum: Spectrum, regret: float | None, other: object, seed: int
) -> tuple[float, str]:
    """The larger one of the floors that are known, and its name; no name if there is none."""
    known = []
    if regret is not None:
        known.append((math.sqrt(regret), "square root of the regret"))
    if other is not None:
        apart = difference_of(law, law_of(other), spectrum.plan, seed=seed)
        known.append((apart, "distance to the matrix of the other training"))
    return max(known, default=(spectrum.rounding, ""))


def _distance(operators: ObservableOperators, codes: Tensor, told: Tensor) -> float:
    return float(kl(told, log_conditionals(OperatorLaw.of(operators), codes)).mean())
