"""Any distribution of one number, of Pyro or torch, as an emission."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from ..boundary import boundary
from ..checks import require, require_count
from ..data.sequences import Sequences
from ..randomness import TURNS
from .arguments import (
    VECTORS,
    Given,
    Interval,
    Prior,
    Scaling,
    Setting,
    arguments_of,
    interval_of,
    scaling_of,
    setting,
    settings_of,
)
from .emission import (
    Emission,
    Parameters,
    Priors,
    along_paths,
    feature_dims,
    in_blocks,
    over_time,
    per_feature,
    wide,
)
from .likelihood import Moments, likeliest
from .observations import Numbers, Vectors, bounds_of, inside_of
from .units import Moves, measured, moves_of

_PULL = 0.01
"""Frames of all data that are added to those of every state: a cluster of one has no width."""

_NUMBERS = 2**15
"""Numbers, frames × states × features, that a fit to frames is read off, or a bit more."""

_NARROWEST, _WIDEST = 1.0, 3.0
"""Least and greatest standard deviation of the prior of a logarithm."""

_PROBES = 0.9, 1.6
"""Unconstrained values of the parameters at which a distribution is asked what it is like."""

_TAKEN = "initial", "transition", "states", "obs", "state", "feature"
"""Names that models and their samples have already."""


@boundary
@dataclass(frozen=True, init=False, repr=False)
class FromDistribution(Emission):
    r"""Any distribution of one number, of Pyro or torch, as an emission.

    .. math:: O_k(y) = \prod_f p(y_f;\ \theta_{kf})

    p is the density of ``family``, and θ are its arguments. Each has one value per state, shape
    (state,), or with several features one per state and feature, (state, feature); features are
    independent given the state. The distribution itself says where its arguments lie:
    ``FromDistribution(dist.Gamma)`` has the positive parameters ``concentration`` and ``rate``, and
    ``HiddenMarkovModel(2, dist.Gamma)`` is short for it. Of arguments that exclude each other
    (``probs`` and ``logits``) the first is used, unless you name another.

    The prior of a positive parameter is LogNormal(c, w), that of a real one Normal(c, w), and that
    of one in an interval is uniform. ``scaled_to(data)`` sets c and w to the middle and the range
    of maximum likelihood estimates, those from all data and from each quarter of the sorted data: a
    state can be as wide as the data or as narrow as a part of them, in any unit, and a location can
    lie wherever data do. The w of a logarithm is kept between 1 and 3. Before, c = 0 and w = 2.

    Where mean, median or mode depends on one parameter alone and increases with it (``loc`` of a
    Laplace, LogNormal or VonMises distribution, ``rate`` of a Poisson), ``ordered=True`` sorts the
    states by this parameter, and a ``Regression`` acts on it: on the parameter itself if it is
    real, on its logarithm if it is positive, on its log odds if it is a probability. ``mean`` is
    NaN where the distribution has no mean (Cauchy).

    Args:
        family: a class of distributions with a log density, such as ``pyro.distributions.Gamma``,
            or a function that returns a distribution; name where each argument of a function lies.
            A model with a function can be fitted but not saved.
        features: numbers observed per step, F.
        settings: pairs (name, setting), the same as ``arguments``.
        scaling: triples (parameter, c, w) for the priors, with one number per feature.
        **arguments: settings of arguments by name. A number (or one per feature) fixes an argument
            for all states: ``df=4.0``. A constraint says where a parameter lies:
            ``mean=constraints.positive``. A distribution of one number is the prior of a
            parameter: ``rate=dist.Gamma(2.0, 1.0)``.

    Raises:
        ValueError: the family is no distribution of single numbers with a log density; a setting
            belongs to no argument; it is unknown where an argument lies; or the support depends on
            fitted parameters (Uniform), because no gradient finds its ends.

    >>> import pyro.distributions as dist
    >>> emission = FromDistribution(dist.StudentT, df=4.0)
    >>> emission, list(emission.priors(2))
    (FromDistribution(StudentT, df=4.0), ['loc', 'scale'])

    A Gamma distribution with its mean as a parameter, by which states can be sorted:

    >>> def gamma(mean, shape):
    ...     return dist.Gamma(shape, shape / mean)
    >>> positive = dist.constraints.positive
    >>> FromDistribution(gamma, mean=positive, shape=positive).ordering
    'mean'
    """

    family: Callable[..., Distribution]
    features: int
    settings: tuple[tuple[str, Setting], ...]
    scaling: Scaling

    def __init__(
        self,
        family: Callable[..., Distribution],
        features: int = 1,
        *,
        settings: tuple[tuple[str, Setting], ...] = (),
        scaling: Scaling = (),
        **arguments: Given,
    ) -> None:
        kind = family if isinstance(family, type) else Distribution
        require(
            callable(family)
            and issubclass(kind, Distribution)
            and not isinstance(family, Distribution),
            "family",
            "must be a class of distributions, or a function that returns a distribution",
            repr(family),
        )
        require_count(features, "features")
        given = {name: setting(name, value) for name, value in arguments.items()}
        fields = {
            "family": family,
            "features": int(features),
            "settings": tuple({**settings_of(settings), **given}.items()),
            "scaling": scaling_of(scaling, int(features)),
        }
        for name, field in fields.items():
            object.__setattr__(self, name, field)
        for name, value in self.settings:
            size = len(value) if isinstance(value, tuple) else 1
            fits = size in (1, self.features)
            require(fits, name, f"needs one number, or one a feature ({self.features})", size)
        self._check_arguments()
        _ = self._support  # refuses what has none

    def __repr__(self) -> str:
        size = [f"features={self.features}"] if self.features > 1 else []
        settings = [f"{name}={value}" for name, value in self.settings]
        return f"FromDistribution({', '.join([self._name, *size, *settings])})"

    @property
    def _name(self) -> str:
        return getattr(self.family, "__name__", repr(self.family))

    # What the distribution is like, found out by asking it at a few values of its parameters

    @cached_property
    def _arguments(self) -> dict[str, Setting]:
        """What is said of every argument that the distribution is made with."""
        needed, optional = arguments_of(self.family, self._name, dict(self.settings))
        fits = bool(_lying(needed | optional))
        came = f"{self._name} with values of {list(needed)}"
        require(fits, "family", f"needs a single number to fit a state ({VECTORS})", came)
        why: Exception | None = None
        # Arguments that may be left out often stand for one another: as few as will do.
        for size in range(len(optional) + 1):
            for chosen in combinations(optional, size):
                arguments = needed | {name: optional[name] for name in chosen}
                if not _lying(arguments):
                    continue
                try:
                    self._law(self._probe(arguments), arguments)
                except (ValueError, TypeError, AttributeError, RuntimeError) as error:
                    why = why or error
                else:
                    return arguments
        raise ValueError(
            f"family: needs a distribution that can be made with {sorted(needed)}, got "
            f"{self._name} ({why})"
        )

    def _probe(self, arguments: Mapping[str, Setting]) -> dict[str, Tensor]:
        """Values (2, F) of the parameters, small ones and large ones."""
        fitted = _lying(arguments)
        free = torch.tensor(_PROBES, dtype=torch.float64).unsqueeze(-1).expand(-1, self.features)
        return _values(fitted, [free] * len(fitted))

    def _check_arguments(self) -> None:
        arguments = self._arguments
        taken = sorted(set(self._fitted) & set(_TAKEN))
        require(not taken, "family", "needs arguments of other names than those of a model", taken)
        for name, value in arguments.items():
            if isinstance(value, Interval):
                ends = (value.low > -torch.inf) + (value.high < torch.inf)
                fits = ends != 1 or value == Interval(0.0)
                require(fits, name, f"needs a prior on {value} ({name}=a distribution)", "none")
        unknown = sorted({name for name, *_ in self.scaling} - set(self._fitted))
        require(not unknown, "scaling", f"needs names of {list(self._fitted)}", unknown)

    @cached_property
    def _fitted(self) -> dict[str, constraints.Constraint]:
        """The parameters, and where each of them lies."""
        return _lying(self._arguments)

    @cached_property
    def _support(self) -> constraints.Constraint:
        """Where observations lie, without ends at which some density is zero or infinite."""
        law = self._law(self._probe(self._arguments))
        fits = isinstance(law, Distribution)
        require(fits, "family", "must return a distribution", f"{self._name} with {law!r}")
        single = tuple(law.event_shape) == () and law.batch_shape[:-1] == (len(_PROBES),)
        came = f"{self._name} with shapes {tuple(law.batch_shape)} and {tuple(law.event_shape)}"
        require(single, "family", f"needs a distribution of one number ({VECTORS})", came)
        try:
            support: Any = law.support
            low, high = bounds_of(support)
            inside = inside_of(support)
            _log_prob(law, inside)
        except (NotImplementedError, AttributeError, RuntimeError) as error:
            raise ValueError(
                "family: needs a log density and a support, in double precision, got "
                f"{self._name} ({type(error).__name__} {error})"
            ) from error
        moves = any(b.ndim > 1 and bool((b != b[:1]).any()) for b in (low, high))
        require(
            not moves,
            "family",
            "needs a support that does not depend on what is fitted: give the arguments that it "
            "depends on a value",
            self._name,
        )
        ends = _row(low), _row(high)
        if isinstance(support, type(constraints.real) | type(constraints.boolean)):
            return support
        if support.is_discrete:
            return Numbers(*ends, closed=(True, True), whole=True)

        def closed(bound: Tensor) -> bool:
            there = torch.where(bound.isfinite(), bound, inside).expand(law.batch_shape)
            return bool((_log_prob(law, there).isfinite() & support.check(there)).all())

        return Numbers(*ends, closed=(closed(low), closed(high)))

    @property
    def observations(self) -> Vectors:
        support = self._support
        for known in (constraints.real, constraints.boolean):  # others know them by identity
            support = known if isinstance(support, type(known)) else support
        return Vectors(self.features, support)

    @property
    def scored_at_once(self) -> int:
        return self.features

    def check(self, data: Sequences) -> None:
        self.observations.check(data, self._name)

    @cached_property
    def ordering(self) -> str | None:
        probes = torch.tensor(_PROBES, dtype=torch.float64)
        own, others = (
            probes[index].unsqueeze(-1).expand(-1, self.features)
            for index in (torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
        )
        for name in self._fitted:
            free = [own if other == name else others for other in self._fitted]
            law = self._law(_values(self._fitted, free))
            for place in (_mean(law), _median(law), _mode(law)):
                low, high = place[:2], place[2:]
                alone = all(torch.allclose(rows[:1], rows, rtol=1e-9) for rows in (low, high))
                if alone and bool((low < high).all()):  # NaN is not even close to itself
                    return name
        return None

    @cached_property
    def _circular(self) -> bool:
        """Whether observations are angles, all the same after a full turn."""
        law = self._law(self._probe(self._arguments))
        angles = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64)[:, None, None]
        here, there = (_log_prob(law, angles + turn) for turn in (0.0, 2 * math.pi))
        real = isinstance(self._support, type(constraints.real))
        varies = bool((here - here[:1]).abs().max() > 1e-3)
        return real and varies and torch.allclose(here, there, rtol=1e-6, atol=1e-6)

    # The law

    def _law(
        self, parameters: Parameters, arguments: Mapping[str, Setting] | None = None
    ) -> Distribution:
        """The distribution at parameters with a feature axis, (…, F), of one shape."""
        arguments = self._arguments if arguments is None else arguments
        like = next(iter(parameters.values()))
        fixed = {
            name: torch.as_tensor(value, dtype=like.dtype, device=like.device)
            for name, value in arguments.items()
            if isinstance(value, float | tuple)
        }
        shared = dict(zip(parameters, torch.broadcast_tensors(*parameters.values()), strict=True))
        with _unvalidated():
            return self.family(**fixed, **shared)

    def priors(self, states: int) -> Priors:
        size = (states, *per_feature(self.features))
        scale = {name: (centre, width) for name, centre, width in self.scaling}
        out: Priors = {}
        for name in self._fitted:
            said = self._arguments[name]
            if isinstance(said, Prior):
                prior = said.law
            else:
                assert isinstance(said, Interval)
                prior = _default_prior(said, *scale.get(name, ((0.0,), (2.0,))), size)
            out[name] = prior.expand(size).to_event(len(size))
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {name: feature_dims(self.features) for name in self._fitted}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        values = self._wide(parameters)
        like = next(iter(values.values()))
        y = torch.where(mask, y.to(like.dtype), self._blank.to(like))
        values = {name: over_time(value, 2) for name, value in values.items()}

        def score(y: Tensor, mask: Tensor, shift: Tensor | None) -> Tensor:
            terms = _log_prob(self._law(self._shifted(values, shift)), y.unsqueeze(-2))
            return torch.where(mask.unsqueeze(-2), terms, 0).sum(-1)

        return in_blocks(score, y, mask, shift, max(value.numel() for value in values.values()))

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        values = {name: value[paths] for name, value in self._wide(parameters).items()}
        along = None if shift is None else along_paths(shift, paths)
        law = self._law(self._shifted(values, along))
        with _unvalidated():
            drawn: Tensor = law.sample().to(next(iter(values.values())))
        return drawn

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | z = k], shape (…draws, K, F); NaN where the distribution has no mean."""
        return _mean(self._law(self._wide(parameters)))

    def _wide(self, parameters: Parameters) -> dict[str, Tensor]:
        return {name: wide(parameters[name], self.features) for name in self._fitted}

    @property
    def _blank(self) -> Tensor:
        """Some value (F,) that can be observed, to stand for what is missing."""
        return inside_of(self._support).expand(self.features)

    # The linear predictor

    @property
    def _predictor(self) -> str:
        name = self.ordering
        if name is None:
            raise ValueError(
                "emission: needs a distribution whose mean or median depends on one parameter "
                f"alone, since inputs and lags act on it, got {self}"
            )
        return name

    def _shifted(self, values: Mapping[str, Tensor], shift: Tensor | None) -> Mapping[str, Tensor]:
        if shift is None:
            return values
        name = self._predictor
        link = transform_to(self._fitted[name])
        return {**values, name: link(link.inv(values[name]) + shift)}

    @property
    def predictor_scale(self) -> Tensor:
        name = self._predictor
        unit = torch.ones(self.features)
        for scaled, _, width in self.scaling:
            if scaled == name and self._real(name):
                unit = torch.tensor(width, dtype=torch.float64).expand(self.features)
        return unit

    def _real(self, name: str) -> bool:
        return isinstance(self._fitted[name], type(constraints.real))

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        name = self._predictor
        if self._support.is_discrete:
            return super().lagged(parameters, y, mask).log1p()
        if not self._real(name) or not isinstance(self._support, type(constraints.real)):
            raise ValueError(f"lags: must be 0 unless observations are reals or counts, got {self}")
        centre = over_time(wide(parameters[name], self.features), 2)
        return torch.where(mask.unsqueeze(-2), y.to(centre.dtype).unsqueeze(-2) - centre, 0)

    # Fits to frames

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        free = self._likeliest(y, mask, weight.unsqueeze(-1).expand(-1, -1, self.features))
        shape = (-1, *per_feature(self.features))
        return {n: v.reshape(shape) for n, v in _values(self._fitted, free).items()}

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        """Return y in no unit with far values drawn in: lone ones make no clusters.

        Angles are points on a circle. What is missing is NaN.
        """
        y, (low, high) = torch.where(mask, y.double(), torch.nan), bounds_of(self._support)
        if self._circular:
            return torch.cat([y.cos(), y.sin()], -1)
        below, middle, above = y.flatten(0, 1).nanquantile(torch.tensor([0.25, 0.5, 0.75]).to(y), 0)
        if self._support.is_discrete or bool(high.isfinite().all()):
            return y
        if bool(low.isfinite().all()):
            size = middle - low
            return ((y - low) / torch.where(size > 0, size, 1)).clamp_min(0).log1p()
        width = above - below
        drawn_in: Tensor = ((y - middle) / torch.where(width > 0, width, 1)).asinh()
        return drawn_in

    def ranks(self, laws: Parameters) -> Tensor | None:
        by = super().ranks(laws)
        if by is not None:
            return by
        mean = self.mean(laws)[:, 0]
        return None if bool(mean.isnan().any()) else mean

    def scaled_to(self, data: Sequences) -> FromDistribution:
        rows = data.observed_steps
        y, seen = data.values[rows].double(), data.mask[rows]
        # Quarters by size, of every feature; what is missing comes last and has no weight.
        rank = torch.where(seen, y, torch.inf).argsort(0).argsort(0)
        quarter = (4 * rank) // seen.sum(0).clamp_min(1)
        members = [torch.ones_like(y), *((quarter == part).to(y) for part in range(4))]
        free = self._likeliest(y, seen, torch.stack(members, 1))
        ends = [torch.where(seen, y, far) for far in (torch.inf, -torch.inf)]
        least, most = ends[0].amin(0), ends[1].amax(0)
        scaling = []
        for place, (name, fits) in enumerate(zip(self._fitted, free, strict=True)):
            if self._arguments[name] in (Interval(), Interval(0.0)):
                low, high = fits.min(0).values, fits.max(0).values
                if self._moves is not None and self._moves.locates(place):  # also rare states
                    low = torch.where(least.isfinite(), low.minimum(least), low)
                    high = torch.where(most.isfinite(), high.maximum(most), high)
                width = high - low
                if not self._real(name):
                    width = width.clamp(_NARROWEST, _WIDEST)
                width = torch.where(width > 0, width, 1)
                scaling.append((name, tuple(((low + high) / 2).tolist()), tuple(width.tolist())))
        return replace(self, scaling=tuple(scaling))

    def widened(self, factor: float) -> FromDistribution:
        name = self.ordering
        scaling = tuple(
            (
                own,
                at,
                tuple(factor * x for x in width) if own == name and self._real(own) else width,
            )
            for own, at, width in self.scaling
        )
        return self if scaling == self.scaling else replace(self, scaling=scaling)

    def _likeliest(self, y: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """Unconstrained parameters (P, K, F) that maximize Σ_m w_mkf log p(y_mf).

        They are found in a unit of the data's own, if the law of data in other units is of the same
        family, and so move with the unit of the data exactly.
        """
        stride = max(1, weight.numel() // _NUMBERS)
        y, seen, weight = y[::stride].double(), seen[::stride], weight[::stride].double()
        shown = seen.unsqueeze(1).to(weight)
        weight = shown * (weight + _PULL / shown.sum(0).clamp_min(1))
        origin, unit = measured(y, seen, self._moves)
        y = torch.where(seen, (y - origin) / unit, self._blank)

        def log_density(free: Tensor, frames: slice) -> Tensor:
            return _log_prob(self._law(_values(self._fitted, free)), y[frames].unsqueeze(1))

        moments = Moments.of(y, weight)
        places = [moments.places(constraint) for constraint in self._fitted.values()]
        bounded = [not self._real(name) for name in self._fitted]
        found = likeliest(log_density, places, weight, bounded)
        return found if self._moves is None else self._moves(found, origin, unit)

    @cached_property
    def _moves(self) -> Moves | None:
        """How the parameters move with the unit of the data; None if other units are no choice."""
        low, high = bounds_of(self._support)
        whole = bool(((low == 0) | low.isinf()).all() and high.isinf().all())
        if self._support.is_discrete or not whole:
            return None

        def log_density(y: Tensor, free: Tensor) -> Tensor:
            free = free.expand(-1, -1, self.features)
            return _log_prob(self._law(_values(self._fitted, free)), y)

        real = [self._real(name) for name in self._fitted]
        positive = [interval_of(said) == Interval(0.0) for said in self._fitted.values()]
        return moves_of(log_density, real, positive, float(low.min()))


def _lying(arguments: Mapping[str, Setting]) -> dict[str, constraints.Constraint]:
    """Where arguments lie that have no value."""
    out = {}
    for name, said in arguments.items():
        if isinstance(said, Interval):
            out[name] = said.constraint
        elif isinstance(said, Prior):
            interval = interval_of(said.law.support)
            assert interval is not None  # checked when it was given
            out[name] = interval.constraint
    return out


def _values(
    fitted: Mapping[str, constraints.Constraint], free: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Parameters from their unconstrained values."""
    return {
        name: transform_to(constraint)(value)
        for (name, constraint), value in zip(fitted.items(), free, strict=True)
    }


def _default_prior(
    interval: Interval, centre: tuple[float, ...], width: tuple[float, ...], size: tuple[int, ...]
) -> Any:
    if interval == Interval(0.0, 1.0):
        return dist.Beta(torch.ones(size), 1.0)
    if interval.low > -torch.inf and interval.high < torch.inf:
        return dist.Uniform(torch.full(size, interval.low), interval.high)
    at, wide = (torch.tensor(x, dtype=torch.float64).expand(size) for x in (centre, width))
    return dist.Normal(at, wide) if interval == Interval() else dist.LogNormal(at, wide)


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Without Pyro's checks, whose switch belongs to the process: threads take turns."""
    with TURNS, dist.validation_enabled(False):
        yield


def _log_prob(law: Distribution, y: Tensor) -> Tensor:
    with _unvalidated():
        return law.log_prob(y)


def _mean(law: Distribution) -> Tensor:
    try:
        return law.mean
    except NotImplementedError:
        return torch.full(law.batch_shape, torch.nan)


def _median(law: Distribution) -> Tensor:
    try:
        return law.icdf(torch.tensor(0.5, dtype=torch.float64).expand(law.batch_shape))
    except NotImplementedError:
        return torch.full(law.batch_shape, torch.nan)


def _mode(law: Distribution) -> Tensor:
    try:
        return law.mode
    except NotImplementedError:
        return torch.full(law.batch_shape, torch.nan)


def _row(bound: Tensor) -> Tensor:
    """A bound of all features as one number, others as one a feature."""
    row = bound[0] if bound.ndim > 1 else bound
    return row.flatten()[0] if bool((row == row.flatten()[0]).all()) else row
