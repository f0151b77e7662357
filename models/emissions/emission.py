"""The emission law O(y | z): what every family has to say.

A family is a small frozen description. Its parameters live outside it, in a mapping from names to
tensors whose axes are (…draws, state, …), so that priors, guides, samplers and known values all go
through the same functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from .observations import Observations

Parameters = Mapping[str, Tensor]
Priors = dict[str, dist.TorchDistribution]


class Emission(ABC):
    """The emission law of K states.

    A family says what it observes, its parameters (``priors``, ``dims``), and how they are used:
    ``score`` returns log O_k(y_t), shape (…draws, N, T, K); ``draw`` samples observations for given
    paths. Both take an optional ``shift`` (…draws, N, T, 1|K, predictor), which is added to the
    linear predictor of every state: to the mean, the log rate, or the logits.
    """

    if TYPE_CHECKING:
        # Families are dataclasses with ``features`` for a field, and a dataclass would take a
        # property that it inherits for the field's default.
        @property
        def features(self) -> int:
            """Numbers observed per step, F; 1 for codes."""

    @property
    @abstractmethod
    def observations(self) -> Observations:
        """The kind of data that this is a law of."""

    @abstractmethod
    def priors(self, states: int) -> Priors:
        """Prior of every parameter; each has the state as first axis of its event."""

    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of every parameter, the state first."""

    @abstractmethod
    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        """log O_k(y_t), shape (…draws, N, T, K); missing elements add exactly nothing."""

    @abstractmethod
    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        """Observations for paths (N, T): (N, T) codes or (N, T, F). One draw of the parameters."""

    @abstractmethod
    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Parameter values from frames y (M, F) softly assigned to states by weight (M, K)."""

    @abstractmethod
    def mean(self, parameters: Parameters) -> Tensor:
        """E[y | z = k], shape (…draws, K, F); for codes the probabilities of the symbols."""

    @property
    def ordering(self) -> str | None:
        """The parameter by which states can be named in increasing order; None if there is none."""
        return None

    @property
    def inputs(self) -> int:
        """Number of input columns that the law reads."""
        return 0

    @property
    def lags(self) -> int:
        """Number of earlier observations that the law reads."""
        return 0

    @property
    def codes(self) -> bool:
        """Whether the observations are integer codes."""
        return self.observations.codes

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` if the observations cannot come from this law."""
        self.observations.check(data, type(self).__name__)
        require_inputs(data, self.inputs, type(self).__name__)

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        """Values and mask in the form that ``score`` takes."""
        return self.observations.read(data)

    def emitting(self, data: Sequences) -> Tensor:
        """Steps of which there is a law of the observation, (N, T) bool."""
        return data.step_mask

    @property
    def encoding_size(self) -> int:
        """Number of channels of ``encode``."""
        return self.observations.channels

    def encode(self, y: Tensor) -> Tensor:
        """What a recurrent network reads of the observations: (N, T, encoding_size) floats."""
        return self.observations.encode(y)

    @property
    def shift_size(self) -> int:
        """Width of the linear predictor."""
        return self.observations.channels

    @property
    def predictor_scale(self) -> Tensor:
        """The unit in which the linear predictor is measured, (shift_size,)."""
        return torch.ones(self.shift_size)

    def from_inputs(self, parameters: Parameters, inputs: Tensor | None) -> Tensor | None:
        """The shift that inputs (N, T, U) cause, (…draws, N, T, K, shift_size); None if none."""
        del parameters, inputs
        return None

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        """What an autoregression reads of an earlier observation: (…, N, T, 1|K, shift_size).

        Zero where it is missing. Families with a mean centre by it, so that a missing or
        non-existing lag means "at its mean".
        """
        del parameters
        seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
        return torch.where(seen, self.encode(y), 0).unsqueeze(-2)

    def given(self, data: Sequences) -> Emission:
        """The law that ``score`` and ``draw`` follow for these data: for most families itself."""
        del data
        return self

    def continued(
        self,
        parameters: Parameters,
        paths: Tensor,
        shift: Tensor | None,
        past: tuple[Tensor, Tensor],
    ) -> Tensor:
        """``draw`` for paths that follow on ``past``, earlier observations and their mask."""
        del past
        return self.draw(parameters, paths, shift)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient names (``covariance``) to the family's own parameters."""
        return dict(values)

    def scaled_to(self, data: Sequences) -> Emission:
        """The same family with priors on the scale of the data."""
        del data
        return self


# Parameters of one number per feature, such as a rate, have shape (state,) for a single feature and
# (state, feature) for several, so that HiddenMarkovModel(2, "poisson") has two rates and not a
# (2, 1) table. The next three functions are all that knows of this.


def per_feature(size: int) -> tuple[int, ...]:
    """Trailing shape of a parameter with one number per feature: () or (size,)."""
    return () if size == 1 else (size,)


def feature_dims(size: int, *names: str) -> tuple[str, ...]:
    """Axis names of such a parameter; ``names`` stand between state and feature."""
    return ("state", *names) if size == 1 else ("state", *names, "feature")


def wide(parameter: Tensor, features: int) -> Tensor:
    """Such a parameter with its feature axis, (…draws, state, feature), also for one feature."""
    return parameter.unsqueeze(-1) if features == 1 else parameter


def over_time(parameter: Tensor, trailing: int) -> Tensor:
    """A parameter with axes of size 1 for sequence and time, before its ``trailing`` last axes.

    (…draws, state, feature) with ``trailing=2`` becomes (…draws, 1, 1, state, feature), which
    broadcasts against observations (sequence, time, 1, feature).
    """
    return parameter.unsqueeze(-trailing - 1).unsqueeze(-trailing - 1)


def along_paths(table: Tensor, paths: Tensor) -> Tensor:
    """Rows of a table (N, T, 1|K, S) of the states that paths (N, T) are in: (N, T, S)."""
    if table.shape[-2] == 1:
        return table.squeeze(-2)
    index = paths[..., None, None].expand(*paths.shape, 1, table.shape[-1])
    return table.gather(-2, index).squeeze(-2)


_LARGE, _BLOCK = 2**22, 2**20
"""Numbers per intermediate above which a score is taken in blocks, and numbers per block."""


def in_blocks(
    score: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    y: Tensor,
    mask: Tensor,
    shift: Tensor | None,
    width: int,
) -> Tensor:
    """``score(y, mask, shift)`` (…draws, N, T, K), in blocks of steps if there are many.

    For families whose scores pass through ``width`` numbers per step, states times features: these
    are held for one block at a time, and computed again for the gradient. The score of a step must
    depend on that step alone.
    """
    steps = mask.shape[0] * mask.shape[1]
    if steps * width <= _LARGE:
        return score(y, mask, shift)
    rows = max(1, _BLOCK // width)
    whole = [y.flatten(0, 1)[None], mask.flatten(0, 1)[None]]
    blocks = [part.split(rows, 1) for part in whole]
    shifts: Iterable[Tensor | None] = repeat(None)
    if shift is not None:
        shifts = shift.flatten(-4, -3).unsqueeze(-4).split(rows, -3)
    scored = [
        checkpoint(score, *block, use_reentrant=False, preserve_rng_state=False)
        for block in zip(*blocks, shifts, strict=False)
    ]
    joined: Tensor = torch.cat(scored, -2).squeeze(-3).unflatten(-2, mask.shape[:2])
    return joined


def group_means(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted means of frames per state (K, F), pulled to the global mean by ``pull`` frames."""
    seen = mask.to(y.dtype)
    overall = (y * seen).sum(0) / seen.sum(0).clamp_min(1)
    total = weight.mT @ (y * seen) + pull * overall
    return total / (weight.mT @ seen + pull)


LEAST_SPREAD = 0.05
"""No fit starts with less noise than this, in standard deviations of the feature: frames that a law
fits without a rest would have none, and a small move of it would then cost any number of nats."""


def group_spreads(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted standard deviations of frames per state (K, F), never zero."""
    mean = group_means(y, mask, weight, pull)
    seen = mask.to(y.dtype)
    _, variance = overall_moments(y, mask)
    residual = (y.unsqueeze(1) - mean).square() * seen.unsqueeze(1)
    total = torch.einsum("mk,mkf->kf", weight, residual) + pull * variance
    return (total / (weight.mT @ seen + pull)).sqrt().maximum(LEAST_SPREAD * variance.sqrt())


def overall_moments(y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances (F,) of frames y (M, F), whatever state they are of."""
    seen = mask.to(y.dtype)
    count = seen.sum(0).clamp_min(1)
    mean = (y * seen).sum(0) / count
    variance = ((y - mean).square() * seen).sum(0) / count
    # A feature that never varies has no scale of its own; any spread that is not tiny will do.
    return mean, torch.where(variance > 0, variance, 1)
