"""Emission families of discrete observations: symbols, bits and counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..checks import require_count, require_positive, require_scales
from ..data.sequences import Sequences
from ..trajectories import invert, safe_log
from .emission import (
    ClosedForm,
    Emission,
    Parameters,
    Priors,
    along_paths,
    feature_dims,
    group_means,
    over_time,
    per_feature,
    wide,
)
from .observations import Symbols, Vectors


@dataclass(frozen=True)
class Categorical(Emission):
    """Each state emits one of V symbols: O_k(y) = probs[k, y].

    Parameter ``probs`` (K, V), rows probs[k] ~ Dirichlet(concentration, …).

    Args:
        symbols: number of symbols V >= 1; the data are codes 0 to V − 1.
        concentration: prior pseudo-count of every symbol.

    Raises:
        ValueError: fewer than one symbol, or a concentration that is not positive.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(2, Categorical(symbols=3)).with_parameters(
    ...     initial=[1, 0], transition=[[0, 1], [1, 0]], probs=[[0, 0, 1], [1, 0, 0]]
    ... )
    >>> model.sample(1, 6, seed=0).data.codes()  # states that take turns, two of three symbols
    tensor([[2, 0, 2, 0, 2, 0]])
    """

    symbols: int
    concentration: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.symbols, "symbols")
        require_positive(self.concentration, "concentration")

    @property
    def observations(self) -> Symbols:
        return Symbols(self.symbols)

    @property
    def features(self) -> int:
        return 1

    def priors(self, states: int) -> Priors:
        return {"probs": _dirichlet_rows(states, self.symbols, self.concentration)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": ("state", "symbol")}

    def competing(self, states: int) -> Tensor:
        return torch.ones(states, self.shift_size, dtype=torch.bool)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        logs = safe_log(parameters["probs"])
        if shift is None:
            rows = logs.mT.contiguous().index_select(-2, y.flatten())  # of (…draws, symbol, K)
            picked = rows.unflatten(-2, y.shape)
        else:
            table = (over_time(logs, 2) + shift).log_softmax(-1)
            index = y[..., None, None].expand(*table.shape[:-1], 1)
            picked = table.gather(-1, index).squeeze(-1)
        return picked if bool(mask.all()) else torch.where(mask.unsqueeze(-1), picked, 0)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        probs = parameters["probs"]
        if shift is None:
            return _symbols(probs, paths)
        logits = _shifted(safe_log(probs), paths, shift)
        uniform = torch.rand((*paths.shape, 1), dtype=probs.dtype, device=probs.device)
        return invert(logits.softmax(-1).cumsum(-1), uniform)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        seen = torch.nn.functional.one_hot(y, self.symbols) * mask.unsqueeze(-1)
        return {"probs": _shares(seen.to(weight), weight)}

    def mean(self, parameters: Parameters) -> Tensor:
        return parameters["probs"]

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor:
        """Which symbol it is, (N, T, V)."""
        return torch.nn.functional.one_hot(y, self.symbols).double() * mask.unsqueeze(-1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """log p of every symbol, (…draws, K, V)."""
        return parameters["probs"].double().log()

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        one = torch.ones(self.symbols, dtype=torch.float64)
        return (ClosedForm("symbols", ("probs",), 0 * one, one),)


_LARGEST_RATE = 1e15
"""Beyond it torch's draws overflow; an explosive regression on lags gets there."""


@dataclass(frozen=True)
class Poisson(Emission):
    """Each state emits independent counts: O_k(y) = Π_f Poisson(y_f; rate[k, f]).

    Parameter ``rate`` (K,) for one feature, otherwise (K, F), in counts per step;
    rate ~ Gamma(shape, shape / typical).

    Args:
        features: number of counts per step F.
        typical: prior mean of a rate, in counts per step, one number or one per feature;
            ``scaled_to(data)`` sets it to the largest count, so that the rate of a rare state does
            not contradict the prior.
        shape: shape of the prior; 1 is an exponential distribution.

    Raises:
        ValueError: no feature, or a prior setting that is not positive.

    >>> from beliefzoo.models import Sequences
    >>> data = Sequences.from_arrays([[13, 14, 8, 10, 16, 26, 32, 27]])
    >>> Poisson().scaled_to(data).typical
    (32.0,)
    """

    features: int = 1
    typical: float | tuple[float, ...] = 10.0
    shape: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.features, "features")
        require_scales(self.typical, self.features, "typical", "feature")
        require_positive(self.shape, "shape")

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features, constraints.nonnegative_integer)

    @property
    def ordering(self) -> str | None:
        return "rate"

    def priors(self, states: int) -> Priors:
        size = (states, *per_feature(self.features))
        typical = torch.tensor(self.typical, dtype=torch.float64).expand(size)
        prior = dist.Gamma(torch.full_like(typical, self.shape), self.shape / typical)
        return {"rate": prior.to_event(len(size))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"rate": feature_dims(self.features)}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        rate = self.mean(parameters)
        y, seen = y.to(rate.dtype), mask.to(rate.dtype)
        constant = (y + 1).lgamma().mul(seen).sum(-1, keepdim=True)
        if shift is None:
            expected = torch.einsum("ntf,...kf->...ntk", seen, rate)
            return _weighted_logs(y * seen, rate) - expected - constant
        log_rate = over_time(safe_log(rate), 2) + shift
        y = y.unsqueeze(-2)
        terms = torch.where(y > 0, y * log_rate, 0) - log_rate.exp()
        return torch.where(mask.unsqueeze(-2), terms, 0).sum(-1) - constant

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        rate = self.mean(parameters)[paths]
        if shift is not None:
            rate = rate * along_paths(shift, paths).exp()
        return torch.poisson(rate.clamp_max(_LARGEST_RATE))

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        half = 0.5 / mask.sum(0).clamp_min(1)  # of a count among all frames, if there was none
        rate = group_means(y, mask, weight).maximum(half)
        return {"rate": rate.reshape(-1, *per_feature(self.features))}

    def mean(self, parameters: Parameters) -> Tensor:
        return wide(parameters["rate"], self.features)

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor:
        """y, whether it was observed, and the log density at the typical rate, (N, T, 2 F + 1)."""
        seen, typical = mask.double(), self._typical
        y = y.double() * seen
        usual = (y * typical.log() - seen * typical - (y + 1).lgamma()).sum(-1, keepdim=True)
        return torch.cat([y, seen, usual], -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """log of the rate over the typical one, minus their difference, and 1."""
        rate = self.mean(parameters).double()
        logs, one = (rate / self._typical).log(), torch.ones_like(rate[..., :1])
        return torch.cat([logs, self._typical - rate, one], -1)

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        return (ClosedForm("counts", ("rate",), 0 * self._typical, self._typical),)

    @property
    def _typical(self) -> Tensor:
        return torch.tensor(self.typical, dtype=torch.float64).expand(self.features)

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        # A log rate that is linear in the counts themselves grows without bounds.
        return super().lagged(parameters, y, mask).log1p()

    def scaled_to(self, data: Sequences) -> Poisson:
        largest = torch.where(data.mask, data.values, 0).flatten(0, 1).amax(0)
        return replace(self, typical=tuple(largest.double().clamp_min(1).tolist()))


@dataclass(frozen=True)
class Bernoulli(Emission):
    """Each state emits a vector of independent bits.

        O_k(y) = Π_f probs[k, f]^{y_f} (1 − probs[k, f])^{1 − y_f}

    Parameter ``probs`` (K,) for one feature, otherwise (K, F); probs ~ Beta(concentration,
    concentration).

    Args:
        features: number of bits per step F, such as the 88 keys of a piano.
        concentration: prior pseudo-counts of a 1 and of a 0.

    Raises:
        ValueError: no feature, or a concentration that is not positive.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(2, Bernoulli(features=3))
    >>> model.parameter_dims()["probs"], tuple(model.priors["probs"].event_shape)
    (('state', 'feature'), (2, 3))
    """

    features: int = 1
    concentration: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.features, "features")
        require_positive(self.concentration, "concentration")

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features, constraints.boolean)

    @property
    def ordering(self) -> str | None:
        return "probs"

    def priors(self, states: int) -> Priors:
        size = (states, *per_feature(self.features))
        side = torch.full(size, float(self.concentration))
        return {"probs": dist.Beta(side, side).to_event(len(size))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": feature_dims(self.features)}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        probs = self.mean(parameters)
        y, seen = y.to(probs.dtype), mask.to(probs.dtype)
        if shift is None:
            return _weighted_logs(y * seen, probs) + _weighted_logs((1 - y) * seen, 1 - probs)
        logits = over_time(_log_odds(probs), 2) + shift
        terms = torch.nn.functional.logsigmoid((2 * y - 1).unsqueeze(-2) * logits)
        return torch.where(mask.unsqueeze(-2), terms, 0).sum(-1)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        probs = self.mean(parameters)
        if shift is None:
            return torch.bernoulli(probs[paths])
        return torch.bernoulli(_shifted(_log_odds(probs), paths, shift).sigmoid())

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        half = 0.5 / mask.sum(0).clamp_min(1)  # of one among all frames, if all are the same
        probs = group_means(y, mask, weight).maximum(half).minimum(1 - half)
        return {"probs": probs.reshape(-1, *per_feature(self.features))}

    def mean(self, parameters: Parameters) -> Tensor:
        return wide(parameters["probs"], self.features)

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor:
        """Ones and zeros, (N, T, 2 F)."""
        seen = mask.double()
        ones = y.double() * seen
        return torch.cat([ones, seen - ones], -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """log p of a one, and of a zero."""
        probs = self.mean(parameters).double()
        return torch.cat([probs.log(), torch.log1p(-probs)], -1)

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        one = torch.ones(self.features, dtype=torch.float64)
        return (ClosedForm("bits", ("probs",), 0 * one, one),)


@dataclass(frozen=True)
class Multinomial(Emission):
    """Each state emits counts over V categories, given their total n.

        O_k(y) = n! / Π_v y_v! · Π_v probs[k, v]^{y_v}

    The total of a step is taken as given: it carries no information on the state. A step is
    observed as a whole or not at all. Parameter ``probs`` (K, V), rows probs[k] ~
    Dirichlet(concentration, …).

    Args:
        features: number of categories V >= 2.
        trials: total of every simulated observation.
        concentration: prior pseudo-count of every category.

    Raises:
        ValueError: fewer than two categories, no trial, or a concentration that is not positive.

    >>> import torch
    >>> votes = torch.tensor([[[7.0, 3.0]]])  # one step: seven and three of ten votes
    >>> probs = torch.tensor([[0.5, 0.5], [0.7, 0.3]])
    >>> score = Multinomial(features=2).score({"probs": probs}, votes, mask=votes >= 0)
    >>> [round(p, 4) for p in score.exp().flatten().tolist()]
    [0.1172, 0.2668]
    """

    features: int
    trials: int = 10
    concentration: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.features, "features", 2)
        require_count(self.trials, "trials")
        require_positive(self.concentration, "concentration")

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features, constraints.nonnegative_integer, whole=True)

    def priors(self, states: int) -> Priors:
        return {"probs": _dirichlet_rows(states, self.features, self.concentration)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"probs": ("state", "feature")}

    def competing(self, states: int) -> Tensor:
        return torch.ones(states, self.shift_size, dtype=torch.bool)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        probs = parameters["probs"]
        y = y.to(probs.dtype) * mask
        constant = ((y.sum(-1) + 1).lgamma() - (y + 1).lgamma().sum(-1)).unsqueeze(-1)
        if shift is None:
            return _weighted_logs(y, probs) + constant
        logs = (over_time(safe_log(probs), 2) + shift).log_softmax(-1)
        weight = y.unsqueeze(-2)
        return torch.where(weight > 0, weight * logs, 0).sum(-1) + constant

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        logits = _shifted(safe_log(parameters["probs"]), paths, shift)
        drawn: Tensor = dist.Multinomial(self.trials, logits=logits, validate_args=False).sample()
        return drawn

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"probs": _shares(y * mask, weight)}

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | z = k] for a total of ``trials``."""
        return self.trials * parameters["probs"]

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor:
        """Counts, and the log number of orders in which they can come, (N, T, V + 1)."""
        y = y.double() * mask
        orders = (y.sum(-1) + 1).lgamma() - (y + 1).lgamma().sum(-1)
        return torch.cat([y, orders.unsqueeze(-1)], -1)

    def coefficients(self, parameters: Parameters) -> Tensor:
        """log p of every category, and 1."""
        probs = parameters["probs"].double()
        return torch.cat([probs.log(), torch.ones_like(probs[..., :1])], -1)

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        counts = super().lagged(parameters, y, mask)
        return counts / counts.sum(-1, keepdim=True).clamp_min(1)


def _symbols(probs: Tensor, paths: Tensor) -> Tensor:
    """Draw one symbol per step from the row of ``probs`` (K, V) of its state, by bisection.

    The cumulative distributions of all rows are laid end to end, that of state k from k to k + 1,
    so that a single search serves all states. A symbol of probability zero has an interval of
    length zero and is never found.
    """
    states, size = probs.shape
    rows = probs.double().cumsum(-1)
    row = torch.arange(states, dtype=torch.float64, device=probs.device)
    ends = (rows / rows[:, -1:] + row.unsqueeze(-1)).flatten()
    uniform = torch.rand(paths.shape, dtype=torch.float64, device=probs.device)
    found = torch.searchsorted(ends, uniform + paths, right=True) - size * paths
    # k + u can be rounded up to k + 1, where the next state's law begins.
    last = (rows < rows[:, -1:]).sum(-1)
    return found.minimum(last[paths])


def _dirichlet_rows(states: int, size: int, concentration: float) -> dist.TorchDistribution:
    rows = torch.full((states, size), float(concentration))
    prior: dist.TorchDistribution = dist.Dirichlet(rows).to_event(1)
    return prior


def _shares(counts: Tensor, weight: Tensor) -> Tensor:
    """Shares of the categories in counts (M, V), per state, shrunk to the global shares."""
    overall = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * counts.shape[-1])
    total = weight.mT @ counts + overall
    return total / total.sum(-1, keepdim=True)


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


def _log_odds(probability: Tensor) -> Tensor:
    """log p / (1 − p), ±inf at 0 and 1 with gradient 0 there (torch.logit gives NaN)."""
    return safe_log(probability) - safe_log(1 - probability)


def _shifted(predictor: Tensor, paths: Tensor, shift: Tensor | None) -> Tensor:
    """The linear predictor (K, S) of the states along the paths, shifted: (N, T, S)."""
    chosen = predictor[paths]
    return chosen if shift is None else chosen + along_paths(shift, paths)
