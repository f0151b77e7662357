"""Emission families with discrete outputs: symbols, bits and counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from .emissions import (
    Emission,
    Parameters,
    Priors,
    feature_dims,
    group_means,
    over_time,
    per_feature,
    wide,
)
from .sequences import Sequences
from .trajectories import safe_log


def _require(condition: bool, argument: str, requirement: str, came: object) -> None:
    if not condition:
        raise ValueError(f"{argument}: {requirement}, got {came}")


def _weighted_logs(weight: Tensor, probability: Tensor) -> Tensor:
    """Σ_f w_f log p_kf with 0 log 0 = 0 and w log 0 = -inf, as one matrix product.

    ``weight`` (N, T, F), ``probability`` (…draws, K, F); returns (…draws, N, T, K).
    """
    zero = probability == 0
    logs = torch.where(zero, 1, probability).log()
    total = torch.einsum("ntf,...kf->...ntk", weight, logs)
    if zero.any():
        hit = torch.einsum("ntf,...kf->...ntk", (weight > 0).to(weight), zero.to(weight))
        total = total.masked_fill(hit > 0, -torch.inf)
    return total


@dataclass(frozen=True)
class Categorical(Emission):
    """One of V symbols: O_k(y) = probs[k, y]; ``concentration`` of the Dirichlet prior of a row."""

    symbols: int
    concentration: float = 1.0
    codes: ClassVar[bool] = True  # type: ignore[misc]

    def __post_init__(self) -> None:
        _require(self.symbols >= 2, "symbols", "Categorical needs at least 2", self.symbols)
        _require(self.concentration > 0, "concentration", "must be > 0", self.concentration)

    @property
    def features(self) -> int:  # type: ignore[override]
        return 1

    def priors(self, states: int) -> Priors:
        rows = torch.full((states, self.symbols), float(self.concentration))
        return {"probs": dist.Dirichlet(rows).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": ("state", "symbol")}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        logs = safe_log(parameters["probs"])
        if shift is None:
            picked = logs[..., y].movedim(-3, -1)  # (…draws, K, N, T) -> (…draws, N, T, K)
        else:
            table = (over_time(logs, 2) + shift).log_softmax(-1)
            index = y[..., None, None].expand(*table.shape[:-1], 1)
            picked = table.gather(-1, index).squeeze(-1)
        return torch.where(mask.unsqueeze(-1), picked, 0)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        logits = safe_log(parameters["probs"])[paths]
        if shift is not None:
            logits = logits + _at(shift, paths)
        cumulative = logits.softmax(-1).cumsum(-1)
        uniform = torch.rand(*paths.shape, 1, dtype=cumulative.dtype) * cumulative[..., -1:]
        return (cumulative <= uniform).sum(-1).clamp_max(self.symbols - 1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        seen = torch.nn.functional.one_hot(y, self.symbols).to(weight) * mask.unsqueeze(-1)
        overall = (seen.sum(0) + 0.5) / (seen.sum() + 0.5 * self.symbols)
        counts = weight.mT @ seen + overall
        return {"probs": counts / counts.sum(-1, keepdim=True)}

    def mean(self, parameters: Parameters) -> Tensor:
        return parameters["probs"]

    def check(self, data: Sequences) -> None:
        top = int(data.codes().max())
        _require(
            top < self.symbols,
            "data",
            f"Categorical(symbols={self.symbols}) needs codes 0 to {self.symbols - 1}",
            f"code {top}",
        )

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return data.codes(), data.observed_steps

    @property
    def encoding_size(self) -> int:
        return self.symbols

    def encode(self, y: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(y, self.symbols).to(torch.get_default_dtype())

    @property
    def shift_size(self) -> int:
        return self.symbols


@dataclass(frozen=True)
class Poisson(Emission):
    """Counts: O_k(y) = Π_f Poisson(y_f; rate[k, f]), rate ~ Gamma(shape, shape / typical)."""

    features: int = 1
    typical: float = 10.0
    shape: float = 1.0
    ordering: ClassVar[str] = "rate"  # type: ignore[misc]

    def __post_init__(self) -> None:
        _require(self.features >= 1, "features", "Poisson needs at least 1", self.features)
        _require(min(self.typical, self.shape) > 0, "typical, shape", "must be > 0", self)

    def priors(self, states: int) -> Priors:
        shape = (states, *per_feature(self.features))
        prior = dist.Gamma(torch.full(shape, self.shape), self.shape / self.typical)
        return {"rate": prior.to_event(len(shape))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"rate": feature_dims(self.features)}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        rate = wide(parameters["rate"], self.features)
        y, seen = y.to(rate.dtype), mask.to(rate.dtype)
        constant = ((y + 1).lgamma() * seen).sum(-1, keepdim=True)
        if shift is None:
            expected = torch.einsum("ntf,...kf->...ntk", seen, rate)
            return _weighted_logs(y * seen, rate) - expected - constant
        log_rate = over_time(safe_log(rate), 2) + shift
        y, seen = y.unsqueeze(-2), seen.unsqueeze(-2)
        return (torch.where(y > 0, y * log_rate, 0) - log_rate.exp()).mul(seen).sum(-1) - constant

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        rate = wide(parameters["rate"], self.features)[paths]
        return torch.poisson(rate if shift is None else rate * _at(shift, paths).exp())

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        rate = group_means(y, mask, weight).clamp_min(1e-2)
        return {"rate": rate.reshape(-1, *per_feature(self.features))}

    def mean(self, parameters: Parameters) -> Tensor:
        return wide(parameters["rate"], self.features)

    def check(self, data: Sequences) -> None:
        super().check(data)
        _check_counts(data, "Poisson")

    def scaled_to(self, data: Sequences) -> Poisson:
        seen = data.values[data.mask].double()
        return replace(self, typical=max(float(seen.mean()), 0.1))


@dataclass(frozen=True)
class Bernoulli(Emission):
    """Vectors of bits: O_k(y) = Π_f probs[k, f]^{y_f} (1 − probs[k, f])^{1 − y_f}.

    probs ~ Beta(concentration, concentration).
    """

    features: int = 1
    concentration: float = 1.0
    ordering: ClassVar[str] = "probs"  # type: ignore[misc]

    def __post_init__(self) -> None:
        _require(self.features >= 1, "features", "Bernoulli needs at least 1", self.features)
        _require(self.concentration > 0, "concentration", "must be > 0", self.concentration)

    def priors(self, states: int) -> Priors:
        shape = (states, *per_feature(self.features))
        side = torch.full(shape, self.concentration)
        return {"probs": dist.Beta(side, side).to_event(len(shape))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": feature_dims(self.features)}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        probs = wide(parameters["probs"], self.features)
        y, seen = y.to(probs.dtype), mask.to(probs.dtype)
        if shift is None:
            return _weighted_logs(y * seen, probs) + _weighted_logs((1 - y) * seen, 1 - probs)
        logits = over_time(probs.logit(), 2) + shift
        sign = (2 * y - 1).unsqueeze(-2)
        return torch.nn.functional.logsigmoid(sign * logits).mul(seen.unsqueeze(-2)).sum(-1)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        probs = wide(parameters["probs"], self.features)[paths]
        if shift is not None:
            probs = (probs.logit() + _at(shift, paths)).sigmoid()
        return torch.bernoulli(probs)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        probs = group_means(y, mask, weight).clamp(2e-3, 1 - 2e-3)
        return {"probs": probs.reshape(-1, *per_feature(self.features))}

    def mean(self, parameters: Parameters) -> Tensor:
        return wide(parameters["probs"], self.features)

    def check(self, data: Sequences) -> None:
        super().check(data)
        seen = data.values[data.mask]
        bad = seen[(seen != 0) & (seen != 1)]
        _require(not len(bad), "data", "Bernoulli needs values 0 or 1", bad[:1].tolist())


@dataclass(frozen=True)
class Multinomial(Emission):
    """Counts over V categories given their total: O_k(y) = n!/Π y_v! Π probs[k, v]^{y_v}.

    The total n of a step is taken as given (it tells nothing of the state); ``trials`` is the
    total of simulated observations. A step is observed whole or not at all.
    """

    features: int
    trials: int = 10
    concentration: float = 1.0

    def __post_init__(self) -> None:
        _require(self.features >= 2, "features", "Multinomial needs at least 2", self.features)
        _require(self.trials >= 1, "trials", "must be >= 1", self.trials)
        _require(self.concentration > 0, "concentration", "must be > 0", self.concentration)

    def priors(self, states: int) -> Priors:
        rows = torch.full((states, self.features), float(self.concentration))
        return {"probs": dist.Dirichlet(rows).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": ("state", "feature")}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        probs = parameters["probs"]
        y = y.to(probs.dtype) * mask
        constant = (y.sum(-1) + 1).lgamma() - (y + 1).lgamma().sum(-1)
        if shift is None:
            return _weighted_logs(y, probs) + constant.unsqueeze(-1)
        logs = (over_time(safe_log(probs), 2) + shift).log_softmax(-1)
        weight = y.unsqueeze(-2)
        return torch.where(weight > 0, weight * logs, 0).sum(-1) + constant.unsqueeze(-1)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        logits = safe_log(parameters["probs"])[paths]
        if shift is not None:
            logits = logits + _at(shift, paths)
        drawn: Tensor = torch.distributions.Multinomial(
            self.trials, logits=logits, validate_args=False
        ).sample()
        return drawn

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        seen = y * mask
        overall = (seen.sum(0) + 0.5) / (seen.sum() + 0.5 * self.features)
        counts = weight.mT @ seen + overall
        return {"probs": counts / counts.sum(-1, keepdim=True)}

    def mean(self, parameters: Parameters) -> Tensor:
        return parameters["probs"]

    def check(self, data: Sequences) -> None:
        super().check(data)
        _check_counts(data, "Multinomial")
        partly = data.mask.any(-1) & ~data.mask.all(-1)
        _require(
            not bool(partly.any()),
            "data",
            "Multinomial needs steps that are observed whole or not at all",
            f"{int(partly.sum())} step(s) with some categories missing",
        )


def _check_counts(data: Sequences, family: str) -> None:
    seen = data.values[data.mask]
    bad = seen[(seen < 0) | (seen != seen.round())]
    _require(not len(bad), "data", f"{family} needs whole numbers >= 0", bad[:1].tolist())


def _at(shift: Tensor, paths: Tensor) -> Tensor:
    """The shift (N, T, 1|K, S) of the state that each path is in: (N, T, S)."""
    if shift.shape[-2] == 1:
        return shift.squeeze(-2)
    index = paths[..., None, None].expand(*paths.shape, 1, shift.shape[-1])
    return shift.gather(-2, index).squeeze(-2)
