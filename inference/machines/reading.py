"""Reads the machine off a network: Hankel matrix, number of states, refinement, certificates."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from ...models.boundary import boundary
from ...models.checks import require, require_count, require_flag, require_positive, require_seed
from ..filters.spectral import ObservableOperators
from .certificates import LawDivergence, kl
from .hankel import Spectrum, difference_of, plan_of, spectrum_of
from .known_laws import OperatorLaw, law_of
from .laws import SequenceLaw, ends_of, log_conditionals, sampled
from .machine import Machine
from .refinement import (
    Refined,
    Target,
    from_operators,
    observable,
    refined_hmm,
    refined_operators,
)


@boundary
def machine_of(
    network: object,
    head: nn.Module | None = None,
    embedding: nn.Module | None = None,
    *,
    ends: bool = False,
    states: int | None = None,
    regret: float | None = None,
    other: object | None = None,
    tolerance: float = 1e-3,
    largest: int = 16,
    prefixes: int = 1500,
    suffixes: int = 130,
    samples: int = 1000,
    length: int = 24,
    refine: bool = True,
    restarts: int = 3,
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

    A network may be a law of strings: the last of its symbols ends one, and the probabilities of
    all finite strings sum to 1, or what is missing is that of never ending. It is asked for one
    string after another. The end is the last symbol of the operators, and the hidden Markov model
    has ``ends=True``.

    Args:
        network: ``torch.nn.LSTM``, ``GRU`` or ``RNN`` in evaluation mode with its ``head``, or a
            :class:`SequenceLaw` (``PrefixLaw`` makes one of a function), or a known model.
        head: from the network's outputs to scores of the V symbols.
        embedding: from codes to the network's inputs; None: one-hot vectors.
        ends: whether the last symbol of ``head`` ends a string; of other laws it is known.
        states: number of states; None: it is found.
        regret: KL(truth ‖ network) a step, nats, where it is known: held-out loss minus entropy.
        other: the law of another training of the network, as a :class:`SequenceLaw`.
        tolerance: nats a step.
        largest: most states that are tried.
        prefixes: most words of the past; all of up to some length, or drawn if these would be
            shorter than four symbols.
        suffixes: most words of the future; likewise, two symbols.
        samples: sequences of the network that machines are fitted to, as many others on which they
            are compared, and as many fresh ones that the winner is measured on.
        length: of each, and of drawn pasts; 2 or more, and longer than the network's memory: what
            it remembers beyond is in no figure.
        refine: move the operators towards the network, and fit a hidden Markov model (with moves
            that may depend on the symbol) from them, both with the network's own next-symbol laws.
        restarts: starts of the hidden Markov model in corners of what the network predicts, besides
            one in its clusters.
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
    >>> found = machine_of(lstm, torch.nn.Linear(4, 3), ends=True, states=1, samples=20)
    >>> found.hmm  # of strings: the third score is that of the end
    LabelledHMM(states=1, symbols=2, ends=True, known=['probs'])
    """
    require_flag(ends, "ends")
    law = law_of(network, head, embedding, ends=ends)
    counts = {"largest": largest, "prefixes": prefixes, "suffixes": suffixes, "length": length}
    for name, value in counts.items():
        require_count(value, name, 2 if name == "length" else 1)
    _check(restarts, samples, states, tolerance, gigabytes, regret, seed)
    plan = plan_of(
        law, prefixes=prefixes, suffixes=suffixes, length=length, gigabytes=gigabytes, seed=seed
    )
    spectrum = spectrum_of(law, plan, seed=seed, progress=progress)
    most = min(max(largest, states or 1), spectrum.rank(0))
    if states is not None:
        require(states <= most, "states", f"needs at most {most}, the rank of the law", states)
    fit, judge, fresh = (Target(*sampled(law, samples, length, seed + k)) for k in (3, 1, 2))
    made = [OperatorLaw.of(spectrum.operators(rank)) for rank in range(1, most + 1)]
    curve = [float(_apart(one, judge).mean()) for one in made]
    floor = _floor(law, spectrum, regret, other, seed)
    chosen = _chosen(spectrum, curve, states, *floor, tolerance)
    operators = spectrum.operators(chosen.states)
    machines = [Refined(from_operators(operators), 0.0, "as read off")]
    tried: tuple[tuple[str, float], ...] = ()
    if refine:
        hmm, tried = refined_hmm(
            operators, law, plan.suffixes, fit, restarts=restarts, seed=seed, progress=progress
        )
        machines += [hmm, refined_operators(operators, fit, ends=ends_of(law))]
    best = min(machines, key=lambda one: float(_apart(one.machine.law(), judge).mean()))
    return _measured(law, spectrum, chosen, curve, operators, machines, best, tried, fresh)


def _check(
    restarts: object,
    samples: object,
    states: object,
    tolerance: object,
    gigabytes: object,
    regret: object,
    seed: object,
) -> None:
    require_count(restarts, "restarts", 0)
    require_count(samples, "samples", 2)
    require_count(states, "states", optional=True)
    require_positive(tolerance, "tolerance")
    require_positive(gigabytes, "gigabytes")
    if regret is not None:
        require_positive(regret, "regret", zero=True)
    require_seed(seed, optional=False)


def _measured(
    law: SequenceLaw,
    spectrum: Spectrum,
    chosen: _Choice,
    curve: list[float],
    operators: ObservableOperators,
    machines: list[Refined],
    best: Refined,
    tried: tuple[tuple[str, float], ...],
    fresh: Target,
) -> Machine:
    far = [LawDivergence.of(_apart(one.machine.law(), fresh), fresh.codes) for one in machines]
    plan, hmm = spectrum.plan, machines[1].machine if len(machines) > 1 else None
    return Machine(
        operators=operators if best is machines[0] else observable(best.machine, plan.suffixes),
        kind=best.kind,
        states=chosen.states,
        singular_values=spectrum.singular_values,
        floor=chosen.floor,
        floor_from=chosen.floor_from,
        ranks=spectrum.ranks(chosen.floor),
        curve=tuple(curve),
        divergence=next(far[place] for place, one in enumerate(machines) if one is best),
        hmm_tables=hmm,
        hmm_divergence=None if hmm is None else far[1],
        starts=tried,
        small=chosen.small,
        asked=str(plan),
        ends=plan.ends,
        law=law,
        futures=plan.suffixes,
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


def _apart(machine: SequenceLaw, target: Target) -> Tensor:
    """KL(network ‖ machine) step by step, (N, T)."""
    return kl(target.log_p, log_conditionals(machine, target.codes))
