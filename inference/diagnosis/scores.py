"""Proper scores of forecasts: how much worse than certainty a forecast was, once the data came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_choice
from ..queries.linear import LinearForecast
from ..queries.outlook import Outlook

Score = Literal["log", "crps", "energy", "brier", "interval"]
Unit = Literal["origins", "sequences"]
Array = NDArray[np.float64]

SCORES: tuple[Score, ...] = ("log", "crps", "energy", "brier", "interval")

LARGEST_ENERGY = 2000
"""Draws that an energy score is computed from, at most; it looks at every pair of them."""


class Foretold(Protocol):
    """What scores read of a forecast: of :func:`forecast`, whatever the model."""

    @property
    def mean(self) -> Tensor | None:
        """Expected observations (N, H, F), or chances of symbols (N, H, symbols)."""

    @property
    def draws(self) -> Tensor:
        """Simulated continuations (S, N, H[, F])."""

    @property
    def outlook(self) -> Outlook | None:
        """The law of the observations."""

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles of the observations, (Q, N, H[, F])."""


@dataclass(frozen=True)
class Scores:
    """Losses of forecasts from O origins, of N sequences, H steps ahead; the lower, the better.

    Made by :func:`scores`, of one origin, and by :func:`leave_future_out`. NaN where nothing was
    observed, where a score is not of such data, or where a density is not known.

    Attributes:
        log: −log p(y) of all features of a step, nats, (O, N, H).
        crps: continuous ranked probability score, in the units of the data, (O, N, H, F).
        energy: energy score of all steps of a feature together, in its units, (O, N, F).
        brier: Σ_k (p_k − 1[y = k])² of symbols, from 0 to 2, (O, N, H, F).
        interval: score of the central interval, in the units of the data, (O, N, H, F).
        covered: 1 where the interval holds the observation, else 0, (O, N, H, F).
        level: probability of the interval.
        features: names of the features.

    >>> from beliefzoo.inference import forecast, scores
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> data = Sequences.from_arrays([[5, 6, 4, 5, 7], [1, 2, 2, 3, 4], [0, 2, 1, 0, 1]])
    >>> found = scores(forecast(model, data.head(3), 2, seed=0), data.after(3))
    >>> found.mean("crps").round(2)  # a row for each step ahead, a column for each feature
    array([[0.59],
           [1.08]])
    """

    log: Array = field(repr=False)
    crps: Array = field(repr=False)
    energy: Array = field(repr=False)
    brier: Array = field(repr=False)
    interval: Array = field(repr=False)
    covered: Array = field(repr=False)
    level: float
    features: tuple[str, ...]

    @property
    def unit(self) -> Unit:
        """What varies: the origins if there are several, else the sequences."""
        return "origins" if len(self.log) > 1 else "sequences"

    def mean(self, score: Score) -> Array:
        """Returns the mean loss: (H,) of ``log``, (F,) of ``energy``, else (H, F)."""
        return _each(self._losses(score), self.unit)[0]

    def standard_error(self, score: Score) -> Array:
        """Returns the standard error of the mean loss, in its shape.

        Sequences count as independent; over several origins losses may be autocorrelated, see
        :func:`compare_forecasts`.
        """
        return _each(self._losses(score), self.unit)[1]

    def coverage(self) -> Array:
        """Returns the share of observations that their interval held, (H, F)."""
        return _each(self.covered, self.unit)[0]

    def among(self, rows: NDArray[np.bool_]) -> Scores:
        """Returns the scores as those of some among more sequences, the others being NaN.

        Args:
            rows: True where a sequence is one of these, (N,).
        """

        def widened(part: Array) -> Array:
            out = np.full((len(part), len(rows), *part.shape[2:]), np.nan)
            out[:, rows] = part
            return out

        return self._of({name: widened(part) for name, part in self._parts().items()})

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Returns the scores of several origins as one record."""
        each = [part._parts() for part in parts]
        return parts[0]._of({n: np.concatenate([one[n] for one in each]) for n in each[0]})

    def _of(self, parts: Mapping[str, Array]) -> Scores:
        return Scores(**parts, level=self.level, features=self.features)

    def _parts(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in (*SCORES, "covered")}

    def __str__(self) -> str:
        origins, count, steps = self.log.shape
        each = f"{origins} origins, " if origins > 1 else ""
        lines = [
            f"scores of {count} sequence(s), {each}{steps} step(s) ahead; the lower the better"
        ]
        shown = [name for name in SCORES if name != "energy" and self._has(name)]
        held = f"{f'{100 * self.level:.0f} % holds':>12}" if self._has("interval") else ""
        for place, feature in enumerate(self.features):
            heads = "".join(f"{name:>20}" for name in shown)
            lines.append(f"{feature[:12]:>12}{heads}{held}")
            for step in range(steps):
                cells = "".join(f"{self._cell(name, step, place):>20}" for name in shown)
                share = f"{_printed(self.coverage()[step, place]):>12}" if held else ""
                lines.append(f"{f'{step + 1} ahead':>12}{cells}{share}")
            if self._has("energy"):
                value, error = self.mean("energy")[place], self.standard_error("energy")[place]
                lines.append(f"{'all steps':>12}  energy {_printed(value)} ± {_printed(error)}")
        return "\n".join(lines)

    def _has(self, score: Score) -> bool:
        return not bool(np.isnan(self._losses(score)).all())

    def _cell(self, score: Score, step: int, place: int) -> str:
        at = (step,) if score == "log" else (step, place)
        return f"{_printed(self.mean(score)[at])} ± {_printed(self.standard_error(score)[at])}"

    def _losses(self, score: Score) -> Array:
        require_choice(score, "score", SCORES)
        found: Array = getattr(self, score)
        return found


@boundary
def scores(forecast: Foretold, observed: Sequences, *, level: float = 0.9) -> Scores:
    r"""Scores a forecast by what came. The expected score is best for the law that is true.

    .. math::
        \mathrm{log} &= -\log p(y), \qquad
        \mathrm{crps} = E|X - y| - \tfrac12 E|X - X'| \\
        \mathrm{energy} &= E\lVert X - y \rVert - \tfrac12 E\lVert X - X' \rVert, \qquad
        \mathrm{brier} = \sum_k (p_k - 1[y = k])^2 \\
        \mathrm{interval} &= u - l + \tfrac{2}{1 - c} \bigl((l - y)_+ + (y - u)_+\bigr)

    X and X' are independent draws of the forecast, in the energy score of all steps of a feature
    at once; l and u are its quantiles (1 ∓ c) / 2. Numbers have the scores ``crps``, ``energy``
    and ``interval``, symbols ``brier``, and both ``log``, exactly where steps do not wait for the
    observations before them (lags, and switching models, whose ``log`` is NaN). The others are
    exact of linear models and symbols, and else of the forecast's draws, without bias.

    Args:
        forecast: of ``forecast``.
        observed: the first steps that came after the data of the forecast, of the same sequences;
            ``data.after(…)`` gives them. Missing elements are left out; symbols are read by name.
        level: probability c of the interval, in (0, 1).

    Returns:
        The losses with their means and standard errors; ``print`` shows a table.

    Raises:
        ValueError: a bad argument, or observations that do not belong to the forecast.

    Source: Gneiting & Raftery (2007).

    >>> from beliefzoo.inference import forecast, scores
    >>> from beliefzoo.models import Sequences, golden_mean
    >>> model = golden_mean().model
    >>> data = model.sample(50, 12, seed=0).data
    >>> found = scores(forecast(model, data.head(10), steps=2, seed=0), data.after(10))
    >>> print(found)
    scores of 50 sequence(s), 2 step(s) ahead; the lower the better
            code                 log               brier
         1 ahead    0.3743 ± 0.04935       0.27 ± 0.0356
         2 ahead    0.5401 ± 0.04148    0.3575 ± 0.03797
    """
    outlook = getattr(forecast, "outlook", None)
    made = "must be what forecast returned"
    require(isinstance(outlook, Outlook), "forecast", made, type(forecast).__name__)
    require(0 < level < 1, "level", "must be in (0, 1)", level)
    assert isinstance(outlook, Outlook)
    seen = outlook.read(observed)
    mask = (seen.mask if not seen.is_codes else seen.mask.unsqueeze(-1)).numpy()
    y = seen.values.double().reshape(mask.shape)
    density = None if outlook.density is None else outlook.density(seen)
    log = torch.full(mask.shape[:2], torch.nan) if density is None else -density
    symbols = _symbols(forecast, outlook, seen.features)
    ordered = np.array([name not in symbols for name in seen.features])
    parts = _of_numbers(forecast, y, level, mask & ordered)
    return Scores(
        log=np.where(mask.any(-1), log.double().numpy(), np.nan)[None],
        **{name: part[None] for name, part in parts.items()},
        brier=_brier(symbols, y, mask, seen.features)[None],
        level=level,
        features=seen.features,
    )


def _of_numbers(
    forecast: Foretold, y: Tensor, level: float, counted: NDArray[np.bool_]
) -> dict[str, Array]:
    """Scores of numbers; NaN where an element does not count."""
    steps = y.shape[1]
    draws = forecast.draws[:, :, :steps].double().reshape(-1, *y.shape)
    if isinstance(forecast, LinearForecast):
        crps = _normal_crps(y, forecast.mean[:, :steps], forecast.variance[:, :steps].sqrt())
    else:
        crps = _crps(y, draws)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = forecast.quantile(tails)[:, :, :steps].double().reshape(2, *y.shape)
    outside = (low - y).clamp_min(0) + (y - high).clamp_min(0)
    found = {
        "crps": crps,
        "interval": high - low + 2 / (1 - level) * outside,
        "covered": (outside == 0).double(),
    }
    out = {name: np.where(counted, part.numpy(), np.nan) for name, part in found.items()}
    return out | {"energy": _energy(y, draws, torch.from_numpy(counted))}


def _crps(y: Tensor, draws: Tensor) -> Tensor:
    """E|X − y| − ½ E|X − X'| over draws (S, …), pairs of different ones."""
    size = len(draws)
    if size == 1:
        return (draws[0] - y).abs()
    rank = torch.arange(size, dtype=torch.float64)
    weight = (2 * rank - size + 1) / (size * (size - 1))  # E|X − X'| = 2 Σ weight · sorted
    apart = torch.tensordot(weight, draws.sort(0).values, 1)
    out: Tensor = (draws - y).abs().mean(0) - apart
    return out


def _normal_crps(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    z = (y - mean) / sd
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    out: Tensor = sd * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return out


def _energy(y: Tensor, draws: Tensor, counted: Tensor) -> Array:
    """Energy scores (N, F) of the steps that count."""
    count, _, features = y.shape
    draws = draws[:LARGEST_ENERGY]
    out = np.full((count, features), np.nan)
    for n, f in np.ndindex(count, features):
        steps = counted[n, :, f]
        if bool(steps.any()):
            paths = draws[:, n, steps, f]
            apart = torch.pdist(paths).mean() if len(paths) > 1 else torch.zeros(())
            out[n, f] = float((paths - y[n, steps, f]).norm(dim=-1).mean() - 0.5 * apart)
    return out


def _symbols(forecast: Foretold, outlook: Outlook, features: tuple[str, ...]) -> dict[str, Tensor]:
    """Chances of the symbols (N, H, K) of every column that has symbols."""
    kind = outlook.model.observations
    named: Mapping[str, Tensor] = getattr(forecast, "symbols", {})
    if not kind.codes:
        columns = getattr(kind, "columns", ())
        return {features[columns.index(name)]: chance for name, chance in named.items()}
    if forecast.mean is not None:
        return {features[0]: forecast.mean}
    return {
        features[0]: kind.encode(forecast.draws.flatten(0, 1))
        .unflatten(0, forecast.draws.shape[:2])
        .double()
        .mean(0)
    }


def _brier(
    symbols: Mapping[str, Tensor], y: Tensor, mask: NDArray[np.bool_], features: tuple[str, ...]
) -> Array:
    out = np.full(y.shape, np.nan)
    for name, chance in symbols.items():
        place = features.index(name)
        chance = chance[:, : y.shape[1]].double()
        own = chance.gather(-1, y[..., place : place + 1].long())[..., 0]
        loss = chance.square().sum(-1) - 2 * own + 1
        out[..., place] = np.where(mask[..., place], loss.numpy(), np.nan)
    return out


def _printed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _chance(p: float) -> str:
    return "< .0001" if p < 1e-4 else f"= {p:.2g}"


# Means, their errors, and comparisons


@dataclass(frozen=True)
class ForecastComparison:
    """Mean losses of one forecaster less those of another; by :func:`compare_forecasts`.

    Attributes:
        score: the loss.
        unit: what varies, origins or sequences.
        units: how many there are.
        difference: for each step ahead, (H,); negative where the first is better.
        standard_error: of these, (H,).
        p_value: two-sided, of equal expected losses, (H,).
        overall: difference, standard error and p-value of the mean over the steps.

    >>> import numpy as np
    >>> from beliefzoo.inference import ForecastComparison
    >>> print(ForecastComparison(
    ...     "crps", "origins", 46, np.array([-0.3]), np.array([0.1]), np.array([0.02]),
    ...     (-0.3, 0.1, 0.02),
    ... ))
    crps of the first less that of the second, 46 origins
      1 ahead            -0.3 ± 0.1   p = 0.02
    the first is better
    """

    score: Score
    unit: Unit
    units: int
    difference: Array
    standard_error: Array
    p_value: Array
    overall: tuple[float, float, float]

    def __str__(self) -> str:
        lines = [f"{self.score} of the first less that of the second, {self.units} {self.unit}"]
        rows = [
            (f"{step + 1} ahead", *row)
            for step, row in enumerate(
                zip(self.difference, self.standard_error, self.p_value, strict=True)
            )
        ]
        if len(rows) > 1:
            rows.append(("together", *self.overall))
        if self.score == "energy":
            rows = [("all steps", *self.overall)]
        for name, value, error, p in rows:
            both = f"{_printed(value)} ± {_printed(error)}"
            lines.append(f"  {name:<9}{both:>20}   p {_chance(p)}")
        value, _, p = self.overall
        better = "the first is better" if value < 0 else "the second is better"
        return "\n".join([*lines, better if p < 0.05 else "no difference to be seen"])


@boundary
def compare_forecasts(
    first: Scores, second: Scores, score: Score = "log", *, feature: str | None = None
) -> ForecastComparison:
    r"""Tests whether two forecasters of the same data are equally good (Diebold & Mariano).

    .. math::
        t = \bar d \Big/ \sqrt{\hat\Omega / n}, \qquad
        \hat\Omega = \frac{2 \pi}{m} \sum_{j=1}^{m} I(2 \pi j / n)

    of the differences d of the losses over n origins, means over the sequences. They may be
    autocorrelated: Ω is their spectrum near zero, by m = ⌊n^⅓⌋ ordinates of the periodogram I, and
    t has 2m degrees of freedom. With one origin the d are of n independent sequences, Ω is their
    variance, and t has n − 1.

    Args:
        first, second: scores of the same observations.
        score: the loss to compare.
        feature: its feature, where there are several and the score is not ``"log"``.

    Returns:
        The differences at every horizon and together; ``print`` shows a table. The p-values of
        several horizons are not adjusted for their number. Of ``"energy"``, one for all steps.

    Raises:
        ValueError: scores of other observations or without this loss, or fewer than 4 origins or 2
            sequences.

    Source: Diebold & Mariano (1995); Coroneo & Iacone (2020).

    >>> from beliefzoo.inference import compare_forecasts, forecast, scores
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> def model(stay):
    ...     return HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...         initial=[0.5, 0.5], transition=[[stay, 1 - stay], [1 - stay, stay]], rate=[1, 9]
    ...     )
    >>> data = model(0.9).sample(100, 12, seed=0).data
    >>> true, wrong = (forecast(model(stay), data.head(10), 2, seed=0) for stay in (0.9, 0.3))
    >>> print(compare_forecasts(scores(true, data.after(10)), scores(wrong, data.after(10))))
    log of the first less that of the second, 100 sequences
      1 ahead       -0.6246 ± 0.101   p < .0001
      2 ahead    -0.09791 ± 0.04718   p = 0.041
      together    -0.3613 ± 0.06974   p < .0001
    the first is better
    """
    for name, given in (("first", first), ("second", second)):
        require(isinstance(given, Scores), name, "must be Scores", type(given).__name__)
    alike = first.log.shape == second.log.shape and first.features == second.features
    require(alike, "second", f"must be of the same data, {first.log.shape}", second.log.shape)
    same = score != "interval" or first.level == second.level
    require(same, "second", f"must have intervals of {first.level}, as the first", second.level)
    ours, theirs = (_of_feature(each, score, feature) for each in (first, second))
    same = np.array_equal(np.isnan(ours), np.isnan(theirs))
    require(same, "second", "must be of the same observations", "others missing")
    require(not np.isnan(ours).all(), "score", f"{score!r} is not known of such data", score)
    # Two that are infinite do not differ.
    losses = np.subtract(ours, theirs, out=np.zeros_like(ours), where=ours != theirs)
    mean, error, p, units = _each(losses, first.unit)
    least = 4 if first.unit == "origins" else 2
    enough = int(units.max()) >= least
    require(enough, "first", f"needs at least {least} {first.unit}", int(units.max()))
    whole = _each(_mean(losses, 2), first.unit)
    together = float(whole[0]), float(whole[1]), float(whole[2])
    return ForecastComparison(score, first.unit, int(whole[3]), mean, error, p, together)


def _of_feature(given: Scores, score: Score, feature: str | None) -> Array:
    """Losses (O, N, H); (O, N, 1) of the energy score."""
    losses = given._losses(score)
    if score == "log":
        return losses
    names = given.features
    needed = feature is not None or len(names) == 1
    require(needed, "feature", f"must be one of {names}", feature)
    place = 0 if feature is None else names.index(require_name(feature, names))
    return losses[..., None, place] if score == "energy" else losses[..., place]


def require_name(feature: str, names: tuple[str, ...]) -> str:
    """Returns the feature; raises ``ValueError`` if there is none of this name."""
    require(feature in names, "feature", f"must be one of {names}", feature)
    return feature


def _mean(values: Array, axis: int) -> Array:
    """Mean of the values that are not NaN; NaN if there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _each(losses: Array, unit: Unit) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Mean, standard error, p-value of a mean of 0, and units, of losses (O, N, …)."""
    series = _mean(losses, 1) if unit == "origins" else losses[0]
    shape = series.shape[1:]
    found = [_judged(column, unit) for column in series.reshape(len(series), -1).T]
    mean, error, p, units = (np.array(part).reshape(shape) for part in zip(*found, strict=True))
    return mean, error, p, units


def _judged(series: Array, unit: Unit) -> tuple[float, float, float, int]:
    from scipy import stats

    series = series[~np.isnan(series)]
    n = len(series)
    mean = float(series.mean()) if n else math.nan
    if n < (4 if unit == "origins" else 2) or not np.isfinite(series).all():
        return mean, math.nan, math.nan, n
    if unit == "origins":
        ordinates = int(n ** (1 / 3) + 1e-9)
        power = np.abs(np.fft.rfft(series - mean)[1 : ordinates + 1]) ** 2 / n
        error, freedom = math.sqrt(float(power.mean()) / n), 2 * ordinates
    else:
        error, freedom = float(series.std(ddof=1)) / math.sqrt(n), n - 1
    if error == 0:
        return mean, error, 1.0 if mean == 0 else 0.0, n
    return mean, error, float(2 * stats.t.sf(abs(mean) / error, freedom)), n
