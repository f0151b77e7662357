"""Hidden Markov models in continuous time: panel data, observed at irregular times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy.typing as npt
import pyro.distributions as dist
from torch.distributions import Distribution

from ..boundary import boundary
from ..checks import require, require_count
from ..emissions.emission import Emission
from ..emissions.misclassification import Misclassification
from .generators import Effects, GeneratorTransition
from .hmm import HiddenMarkovModel

Pair = tuple[int, int]


@boundary
def ContinuousTimeHMM(
    states: int,
    emission: Emission | str | type[Distribution] | None = None,
    *,
    jumps: Iterable[Pair] | npt.ArrayLike | None = None,
    errors: Iterable[Pair] = (),
    exact: Sequence[int] = (),
    inputs: int = 0,
    effects: Effects | None = None,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a hidden Markov model whose state jumps at rates and is observed at irregular times.

    .. math::
        p(z_1) \prod_t [\exp(G Δ_t)]_{z_t z_{t+1}} \prod_t O(y_t | z_t), \quad
        Δ_t = times_{t+1} - times_t

    The model is ``HiddenMarkovModel(states, emission, transition=GeneratorTransition(…))`` and can
    do all that hidden Markov models can. It reads ``data.times``; steps with the same time
    are several observations of one state.

    By default the state itself is observed, as codes, except for the ``errors`` by which it is
    mistaken for another one (``Misclassification``): a multi-state Markov model for panel data,
    with or without misclassification. A known first state is given by ``with_parameters(initial=[1,
    0, …])``; mask the first observation (a missing code) if the state was known beforehand, as it
    then says nothing about the errors.

    Args:
        states: number of hidden states.
        emission: an emission law in place of the observed state with errors.
        jumps: pairs (from, to) of states with a jump, or a boolean matrix; by default all pairs.
        errors: pairs (state, state that it is mistaken for).
        exact: absorbing states whose time of entry is observed exactly, such as death.
        inputs: number of input columns that the rates depend on.
        effects: which column acts on which jumps; see ``GeneratorTransition``.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Jackson (2011), Multi-state models for panel data, J. Statistical Software 38(8).

    >>> model = ContinuousTimeHMM(3, jumps=[(0, 1), (1, 0), (0, 2), (1, 2)], exact=[2])
    >>> known = model.with_parameters(
    ...     generator=[[-0.3, 0.2, 0.1], [0.1, -0.4, 0.3], [0, 0, 0]], initial=[1, 0, 0]
    ... )
    >>> known.sample(100, 4, times=[0.0, 1.0, 2.5, 7.0], seed=0).data.max_length
    4
    """
    require_count(states, "states")
    if emission is None:
        emission = Misclassification(states, tuple(errors))
    else:
        require(not tuple(errors), "errors", "belong to the default emission", repr(emission))
    transition = GeneratorTransition(
        jumps=jumps,  # type: ignore[arg-type]  # made pairs of, and checked, there
        exact=tuple(exact),
        inputs=inputs,
        effects=effects,
    )
    return HiddenMarkovModel(states, emission, transition=transition, priors=priors)
