"""Filters: from a sequence to a belief at every step, exactly or with a recurrent network.

Every filter takes the laws of a model for some data and returns the law of z_t given y_1 … y_t for
every sequence and time: log probabilities (N, T, K) of discrete states, ``GaussianBeliefs`` of
continuous ones. That the exact filter and the LSTM fit the same slot is the point of the library.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...models import LinearGaussianLaws, Model, Sequences, TrajectoryLaws
from ..exact import chains as exact
from ..exact import gaussian as exact_gaussian
from ..queries.linear import arguments
from .gaussian_beliefs import GaussianBeliefs

Beliefs = Tensor | GaussianBeliefs


class Filter(Protocol):
    """What a guide needs of a filter."""

    causal: bool

    def build(self, model: Model) -> None:
        """Make the weights for this model, or check that they fit it."""
        ...

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Read off the scale of the data, and of the states of the model at known parameters."""
        ...

    def __call__(self, laws: TrajectoryLaws) -> Beliefs:
        """Log beliefs (N, T, K), or normal beliefs about (N, T, D)."""
        ...


@runtime_checkable
class ScoredFilter(Filter, Protocol):
    """A filter whose belief at a step is read off scores of that step alone.

    A ``ForwardGuide`` adds the scores to the model's own transitions.
    """

    def scores(self, laws: TrajectoryLaws) -> Tensor:
        """The scores (N, T, width of the belief)."""
        ...

    def read_out(self, scores: Tensor) -> Beliefs:
        """The beliefs that scores stand for."""
        ...


class ExactFilter(nn.Module):
    """The forward algorithm: b_t(z) ∝ O(y_t|z) Σ_z' b_{t-1}(z') T(z|z').

    For linear-Gaussian laws the Kalman filter. As a guide's filter its ELBO is the evidence. No
    gradient flows through the beliefs: the ELBO is stationary in them at the filter, so its
    gradient in the parameters is exact without.
    """

    causal = True

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments that it was made with: none."""
        return {}

    def build(self, model: Model) -> None:
        """Nothing to build."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to calibrate."""

    def forward(self, laws: TrajectoryLaws) -> Beliefs:
        if laws.discrete is not None:
            chain = laws.discrete.chain  # its likelihood is kept by the laws, with its gradient
            with torch.no_grad():
                return exact.filter_chain(*chain).log_beliefs
        if laws.linear is not None:
            return _kalman(laws.linear)
        raise ValueError(
            "filter: ExactFilter needs discrete states or linear-Gaussian laws, got "
            f"{type(laws).__name__}"
        )


def _kalman(laws: LinearGaussianLaws) -> GaussianBeliefs:
    with torch.no_grad():
        found = exact_gaussian.filter(*arguments(laws.in_double()))
        unknown = found.covariances.isinf().any(-1).any(-1)
        if bool(unknown.any()):
            n, t = unknown.nonzero()[0].tolist()
            raise ValueError(
                "filter: with a diffuse start there is no belief before the data determine the "
                f"state, got an infinite variance in sequence {n}, step {t}"
            )
        return GaussianBeliefs.of_moments(found.means, found.covariances)
