"""Filters: from a sequence to a belief at every step, exactly or with a network.

Every filter takes the laws of a model for some data and returns the law of z_t given y_1 … y_t for
every sequence and time: log probabilities (N, T, K) of discrete states, ``GaussianBeliefs`` of
continuous ones. The exact filter and an LSTM can replace each other in a guide.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...models import LinearGaussianLaws, Model, Sequences, TrajectoryLaws
from ..exact import chains as exact
from ..exact import gaussian as exact_gaussian
from ..queries.linear import arguments
from .gaussian_beliefs import GaussianBeliefs

Beliefs = Tensor | GaussianBeliefs


class Filter(Protocol):
    """What a guide needs of a filter; your own class with these members can take its place.

    ``causal`` says that the belief at step t depends on y_1 … y_t alone.

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, evidence_gap
    >>> from beliefzoo.models import mess3
    >>> class Uniform(torch.nn.Module):
    ...     causal = True
    ...     def build(self, model):
    ...         self.states = model.states
    ...     def calibrate(self, model, data):
    ...         pass
    ...     def forward(self, laws):
    ...         return torch.zeros_like(laws.log_likelihood).log_softmax(-1)
    >>> model = mess3().model
    >>> gap = evidence_gap(BeliefGuide(model, Uniform()), model.sample(5, 10, seed=0).data)
    >>> gap.kl_filter_per_step > 0.5
    True
    """

    causal: bool

    def build(self, model: Model) -> None:
        """Makes the weights for this model, or checks that they fit it."""
        ...

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data, and of the model's states at known parameters."""
        ...

    def __call__(self, laws: TrajectoryLaws) -> Beliefs:
        """Returns log beliefs (N, T, K), or normal beliefs about (N, T, D)."""
        ...


@runtime_checkable
class ScoredFilter(Filter, Protocol):
    """A filter whose belief at a step is a function of scores of that step alone.

    A ``ForwardGuide`` needs such a filter: it adds the scores to the model's own transitions.

    >>> from beliefzoo.inference import ExactFilter, LSTMFilter, ScoredFilter
    >>> isinstance(LSTMFilter(hidden_size=8), ScoredFilter), isinstance(ExactFilter(), ScoredFilter)
    (True, False)
    """

    def scores(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the scores (N, T, width of the belief)."""
        ...

    def read_out(self, scores: Tensor) -> Beliefs:
        """Returns the beliefs that scores represent."""
        ...


class ExactFilter(nn.Module):
    """Exact filter as a guide's filter: b_t(z) ∝ O(y_t|z) Σ_z' b_{t-1}(z') T(z|z').

    For linear-Gaussian laws this is the Kalman filter. With it the ELBO of a ``BeliefGuide`` is the
    evidence. No gradient flows through the beliefs: the ELBO is stationary in them at the filter,
    so its gradient in the parameters is exact without.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, evidence_gap
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> gap = evidence_gap(BeliefGuide(model, ExactFilter()), model.sample(5, 10, seed=0).data)
    >>> bool((gap.log_evidence - gap.elbo).abs().max() < 1e-9)
    True
    """

    causal = True

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments that it was made with: none."""
        return {}

    def build(self, model: Model) -> None:
        """Checks that the model has exact inference; there are no weights."""
        if not model.exact:
            raise ValueError(
                "filter: ExactFilter needs a model with exact inference; use a recurrent filter, "
                f"got {model}"
            )

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Does nothing."""

    def forward(self, laws: TrajectoryLaws) -> Beliefs:
        """Returns log beliefs (N, T, K), or normal beliefs about (N, T, D)."""
        if laws.discrete is not None:
            chain = laws.discrete.chain  # the laws cache its likelihood, with the gradient
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
