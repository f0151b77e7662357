"""The emission law O(y | z): what every family has to say, and regression on inputs and lags.

A family is a small frozen description. Its parameters live outside it, in a mapping from names to
tensors whose axes are (…draws, state, …), so that priors, guides, samplers and known values all go
through the same functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from .sequences import Sequences

Parameters = Mapping[str, Tensor]
Priors = dict[str, dist.TorchDistribution]


class Emission(ABC):
    """The emission law of K states.

    ``score`` returns log O_k(y_t), shape (…draws, N, T, K), with zeros for elements that are
    missing; ``draw`` samples observations for given paths. Both take an optional ``shift`` that is
    added to the linear predictor (mean, log rate, logits) of every state.
    """

    features: int
    codes: bool = False
    ordering: str | None = None
    """The parameter by which states can be named in increasing order; None if there is none."""

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
        """log O_k(y_t), shape (…draws, N, T, K); missing elements add nothing."""

    @abstractmethod
    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        """Observations for paths (N, T): (N, T) codes or (N, T, F)."""

    @abstractmethod
    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Parameter values from frames y (M, F) softly assigned to states by weight (M, K)."""

    @abstractmethod
    def mean(self, parameters: Parameters) -> Tensor:
        """E[y | z = k], shape (…draws, K, F); for codes the probabilities of the symbols."""

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` if the observations cannot come from this family."""
        if data.is_codes:
            raise ValueError(
                f"data: {type(self).__name__} needs numbers (sequence, time, feature), "
                "got integer codes; build the Sequences with codes=False"
            )
        if data.n_features != self.features:
            raise ValueError(
                f"data: {type(self).__name__}(features={self.features}) needs "
                f"{self.features} feature(s), got {data.n_features}"
            )

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        """Values and mask in the form that ``score`` takes."""
        return data.values, data.mask

    @property
    def encoding_size(self) -> int:
        """Number of channels of ``encode``."""
        return self.features

    def encode(self, y: Tensor) -> Tensor:
        """What a recurrent network reads of the observations: (N, T, E) floats."""
        return y

    @property
    def shift_size(self) -> int:
        """Width of the linear predictor."""
        return self.features

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        """What an autoregression reads of an earlier observation: (…, N, T, 1|K, E).

        Zero where it is missing. Families with a mean centre by it, so that a missing or
        non-existing lag means "at its mean".
        """
        seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
        return (self.encode(y) * seen).unsqueeze(-2)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient names (``covariance``) to the family's own parameters."""
        return dict(values)

    def scaled_to(self, data: Sequences) -> Emission:
        """The same family with priors on the scale of the data."""
        del data
        return self


def per_feature(size: int) -> tuple[int, ...]:
    """Trailing shape of a parameter: one feature has no axis of its own."""
    return () if size == 1 else (size,)


def feature_dims(size: int, *names: str) -> tuple[str, ...]:
    """Axis names that go with ``per_feature``."""
    return ("state", *names) if size == 1 else ("state", *names, "feature")


def wide(parameter: Tensor, features: int) -> Tensor:
    """The parameter with its feature axis, also when there is one feature only."""
    return parameter.unsqueeze(-1) if features == 1 else parameter


def over_time(parameter: Tensor, trailing: int) -> Tensor:
    """(…draws, K, rest) -> (…draws, 1, 1, K, rest), to broadcast over sequences and time."""
    return parameter.unsqueeze(-trailing - 1).unsqueeze(-trailing - 1)


def group_means(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted means of frames per state (K, F), pulled to the global mean by ``pull`` frames."""
    seen = mask.to(y.dtype)
    overall = (y * seen).sum(0) / seen.sum(0).clamp_min(1)
    total = weight.mT @ (y * seen) + pull * overall
    return total / (weight.mT @ seen + pull)


def group_spreads(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted standard deviations of frames per state (K, F), never zero."""
    mean = group_means(y, mask, weight, pull)
    seen = mask.to(y.dtype)
    overall = (y * seen).sum(0) / seen.sum(0).clamp_min(1)
    variance = ((y - overall).square() * seen).sum(0) / seen.sum(0).clamp_min(1)
    variance = variance.clamp_min(torch.finfo(y.dtype).eps)
    residual = (y.unsqueeze(1) - mean).square() * seen.unsqueeze(1)
    total = torch.einsum("mk,mkf->kf", weight, residual) + pull * variance
    return (total / (weight.mT @ seen + pull)).sqrt().maximum(0.05 * variance.sqrt())


@dataclass(frozen=True)
class Regression(Emission):
    r"""Any family with a linear predictor that also depends on inputs and on its own past.

    .. math:: \eta_{tk} = \eta_k + B_k u_t + \sum_{l=1}^{L} A_{kl}\, \phi(y_{t-l})

    η is the mean (Gaussian, Student-t, mixture), the log rate (Poisson) or the logits (Bernoulli,
    categorical, multinomial). φ is y − mean_k for families with a location, the observation itself
    for counts and bits, one-hot for codes; lags that are missing or lie before the start count as
    φ = 0. ``lags=1`` with a Gaussian is the autoregressive HMM (Hamilton 1989), ``inputs`` the
    emission half of the input-output HMM (Bengio & Frasconi 1995).
    """

    base: Emission
    inputs: int = 0
    lags: int = 0
    weight_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.inputs < 0 or self.lags < 0 or self.inputs + self.lags == 0:
            raise ValueError(
                "Regression: needs inputs >= 1 or lags >= 1, got "
                f"inputs={self.inputs}, lags={self.lags}"
            )
        if isinstance(self.base, Regression):
            raise ValueError("Regression: base must be a plain family, got another Regression")

    @property
    def features(self) -> int:  # type: ignore[override]
        return self.base.features

    @property
    def codes(self) -> bool:  # type: ignore[override]
        return self.base.codes

    @property
    def ordering(self) -> str | None:  # type: ignore[override]
        return self.base.ordering

    def priors(self, states: int) -> Priors:
        out = self.base.priors(states)
        size = self.base.shift_size
        if self.inputs:
            out["input_weight"] = _weights((states, size, self.inputs), self.weight_scale)
        if self.lags:
            shape = (states, self.lags, size, self.base.encoding_size)
            out["lag_weight"] = _weights(shape, self.weight_scale / 2)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out = self.base.dims()
        if self.inputs:
            out["input_weight"] = ("state", "predictor", "input")
        if self.lags:
            out["lag_weight"] = ("state", "lag", "predictor", "predictor_from")
        return out

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        return self.base.score(parameters, y, mask, self._add(parameters, y, mask, shift))

    def _add(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None
    ) -> Tensor | None:
        if not self.lags:
            return shift
        past = self.base.lagged(parameters, y, mask)
        weight = parameters["lag_weight"]
        for lag in range(1, min(self.lags, y.shape[1] - 1) + 1):
            moved = torch.zeros_like(past)
            moved[..., lag:, :, :] = past[..., :-lag, :, :]
            part = torch.einsum(
                "...ntke,...kse->...ntks", *_match(moved, weight[..., lag - 1, :, :])
            )
            shift = part if shift is None else shift + part
        return shift

    def from_inputs(self, parameters: Parameters, inputs: Tensor | None) -> Tensor | None:
        """B_k u_t, shape (…draws, N, T, K, S)."""
        if not self.inputs:
            return None
        assert inputs is not None  # the model checked the data
        weight = parameters["input_weight"]
        return torch.einsum("ntu,...ksu->...ntks", inputs.to(weight.dtype), weight)

    def draw(
        self,
        parameters: Parameters,
        paths: Tensor,
        shift: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Observations for paths; ``past`` are the last observations before them and their mask."""
        if not self.lags:
            return self.base.draw(parameters, paths, shift)
        before = 0 if past is None else past[0].shape[1]
        ys = [] if past is None else list(past[0].split(1, 1))
        seen = [] if past is None else list(past[1].split(1, 1))
        for t in range(paths.shape[1]):  # each observation depends on the ones before it
            here = None if shift is None else shift[..., t : t + 1, :, :]
            recent = slice(max(0, before + t - self.lags), None)
            if ys:
                blank = torch.zeros_like(ys[0])
                y = torch.cat([*ys[recent], blank], 1)
                mask = torch.cat([*seen[recent], torch.zeros_like(seen[0])], 1)
                own = self._add(parameters, y, mask, None)
                own = None if own is None else own[..., -1:, :, :]
                here = own if here is None else here if own is None else here + own
            drawn = self.base.draw(parameters, paths[:, t : t + 1], here)
            ys.append(drawn)
            seen.append(torch.ones_like(drawn, dtype=torch.bool))
        return torch.cat(ys[before:], 1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        out = self.base.start(y, mask, weight)
        states, size = weight.shape[1], self.base.shift_size
        if self.inputs:
            out["input_weight"] = weight.new_zeros(states, size, self.inputs)
        if self.lags:
            width = self.base.encoding_size
            out["lag_weight"] = weight.new_zeros(states, self.lags, size, width)
        return out

    def mean(self, parameters: Parameters) -> Tensor:
        return self.base.mean(parameters)

    def check(self, data: Sequences) -> None:
        self.base.check(data)
        width = 0 if data.inputs is None else data.inputs.shape[-1]
        if self.inputs and width != self.inputs:
            raise ValueError(
                f"data.inputs: Regression(inputs={self.inputs}) needs {self.inputs} column(s), "
                f"got {width}"
            )

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return self.base.observed(data)

    @property
    def encoding_size(self) -> int:
        return self.base.encoding_size

    def encode(self, y: Tensor) -> Tensor:
        return self.base.encode(y)

    @property
    def shift_size(self) -> int:
        return self.base.shift_size

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.natural(values)

    def scaled_to(self, data: Sequences) -> Emission:
        return Regression(self.base.scaled_to(data), self.inputs, self.lags, self.weight_scale)


def _weights(shape: tuple[int, ...], scale: float) -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(shape), scale).to_event(len(shape))


def _match(past: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cast and broadcast (…, N, T, 1|K, E) against (…draws, K, S, E) for one einsum."""
    past = past.to(weight.dtype)
    states = weight.shape[-3]
    return past.expand(*past.shape[:-2], states, past.shape[-1]), weight
