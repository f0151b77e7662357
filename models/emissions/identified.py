"""The number of directions in which the parameters of a law change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import biject_to

from ..checks import require
from ..randomness import seeded
from .emission import Emission, Parameters, Priors

MOST_COUNTED = 1000
"""Weights of networks up to which the directions that change something are counted."""

EXTRA = 5
"""Numbers by which there are more than parameters, so that a rank is not short by chance."""

_NULL = 1e-10
"""Singular values below this share of the largest are zero."""

_ATTEMPTS = 50
"""Points that are tried, as a law can be undefined at many of them."""

_STEPS = 7
"""Steps of the sequences on which a law is tried out; more than it has lags."""


@runtime_checkable
class RedundantLaw(Protocol):
    """A law with directions of its parameters along which its distribution stays the same.

    A law without this method has none.
    """

    def redundant(self, priors: Priors, states: int) -> int:
        """Return the number of these directions, while all parameters but those with ``priors``
        stay as they are.

        Parameters of other laws may be among them.
        """


def unconstrained_size(priors: Priors) -> int:
    """Number of unconstrained dimensions of parameters with these priors."""
    return sum(
        math.prod(biject_to(_support(prior)).inverse_shape(prior.event_shape))
        for prior in priors.values()
    )


def redundant_directions(law: object, priors: Priors, states: int) -> int:
    """Directions of the unconstrained parameters with ``priors`` that leave a law as it is."""
    return law.redundant(priors, states) if isinstance(law, RedundantLaw) else 0


def _support(prior: Any) -> Any:
    return prior.support


def dimension(compute: Callable[[Parameters], Tensor], priors: Priors) -> int:
    """Dimension of the set of values of a function of parameters with these priors.

    It is the rank of the Jacobian at a point drawn from the priors, the larger of two unless the
    first is full; the numbers that the function returns are mixed at random into a few more than
    there are parameters. Points that the function refuses by a ``ValueError`` are passed over.

    Raises:
        ValueError: more parameters than can be counted in this way, or no point is accepted.
    """
    size = unconstrained_size(priors)
    require(
        size <= MOST_COUNTED,
        "parameters",
        f"needs their number where a law of networks has more than {MOST_COUNTED} weights",
        size,
    )
    found: list[int] = []
    for attempt in range(_ATTEMPTS):
        try:
            found.append(_rank(compute, priors, size) if size else 0)
        except ValueError:
            if attempt == _ATTEMPTS - 1 and not found:
                raise
        if len(found) == 2 or found[-1:] == [size]:
            break
    return max(found)


def _rank(compute: Callable[[Parameters], Tensor], priors: Priors, size: int) -> int:
    bijections = {name: biject_to(_support(prior)) for name, prior in priors.items()}
    free = {
        name: bijections[name].inv(prior.sample().double()).detach().requires_grad_()
        for name, prior in priors.items()
    }
    with torch.enable_grad():
        out = compute({name: bijections[name](x) for name, x in free.items()}).flatten()
        out = out.double().asinh()  # of the same rank, and none drowns the others
        mixed = (torch.randn(size + EXTRA, len(out), dtype=torch.float64) @ out).unbind()
    rows = []
    for one in mixed:
        parts = torch.autograd.grad(
            one, list(free.values()), retain_graph=True, materialize_grads=True
        )
        rows.append(torch.cat([part.flatten() for part in parts]))
    jacobian = torch.stack(rows)
    length = jacobian.norm(dim=0)
    turned = length > _NULL * length.max()  # the others are nothing but rounding
    found = torch.linalg.svdvals(jacobian[:, turned] / length[turned])
    return int((found > _NULL * found.max()).sum()) if len(found) else 0


def redundant_by_rank(law: Emission, priors: Priors, states: int) -> int:
    """``redundant`` of an emission law that contains networks, by trying it out on its own draws.

    Raises:
        ValueError: more parameters than can be counted in this way.
    """
    own = law.priors(states)
    unknown = {name: prior for name, prior in own.items() if name in priors}
    size = unconstrained_size(unknown)
    sequences = math.ceil(2 * (size + 20) / _STEPS) + 20

    def scores(values: Parameters) -> Tensor:
        parameters = rest | dict(values)
        shift = law.from_inputs(parameters, inputs)
        with torch.no_grad():
            y = law.draw(parameters, paths, shift)
        seen = torch.ones(y.shape, dtype=torch.bool)
        return law.score(parameters, y, seen, shift)

    with seeded(0):
        rest = {name: prior.sample().double() for name, prior in own.items()}
        paths = torch.randint(states, (sequences, _STEPS + law.lags))
        inputs = torch.randn(*paths.shape, law.inputs, dtype=torch.float64)
        return size - dimension(scores, unknown)
