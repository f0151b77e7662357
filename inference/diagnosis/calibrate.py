"""Simulation-based calibration: is a method's posterior right on average over the prior?"""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import seeded
from ..exact import chains as exact
from ..export.sample import sample_of
from ..fitting.draws import batches, blocks
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..fitting.sweeps import FailedJob, sweep
from ..queries.batches import require_data, require_model
from ..queries.evidence import log_evidence

Method = Callable[[Model, Sequences, int], Fit | NutsFit]
Ranks = NDArray[np.int64]

LEVELS = 0.5, 0.9
"""Of the central intervals whose coverage is shown."""

LIKELIHOOD = "log likelihood"
"""The quantity that tells a posterior from the prior, whose other ranks are uniform too."""

_SIMULATIONS = 2000
"""Sets of uniform ranks that a p-value is measured by."""


@dataclass(frozen=True)
class Calibration:
    """Ranks of the true values among draws of their posteriors; made by :func:`calibrate`.

    Attributes:
        names: of the quantities.
        ranks: of the truth among the draws, 0 … draws, (replications, quantities).
        draws: draws of each posterior.
        failures: replications whose fit raised.

    >>> import numpy as np
    >>> from beliefzoo.inference import Calibration
    >>> random = np.random.default_rng(0)
    >>> ranks = np.stack([random.integers(0, 100, 300), random.integers(30, 70, 300)], 1)
    >>> print(Calibration(("rate", "scale"), ranks, 99, ()))
    300 replications, 99 draws each
    quantity    50 % covers   90 % covers   mean rank        p
    rate               0.47          0.89        0.53     0.38
    scale              1.00          1.00        0.51    5e-04   too wide
    calibrated but for scale
    """

    names: tuple[str, ...]
    ranks: Ranks
    draws: int
    failures: tuple[FailedJob, ...] = field(default=(), repr=False)

    def coverage(self, level: float) -> NDArray[np.float64]:
        """Returns the share of replications whose central interval holds the truth, (quantities,).

        Args:
            level: probability of the intervals, in (0, 1).
        """
        require(0 < level < 1, "level", "must be in (0, 1)", level)
        place = (self.ranks + 0.5) / (self.draws + 1)
        out: NDArray[np.float64] = (abs(place - 0.5) <= level / 2).mean(0)
        return out

    def p_values(self) -> NDArray[np.float64]:
        """Returns p-values (quantities,) of the hypotheses that ranks are uniform.

        The statistic is the least probable height of the ranks' distribution function over all
        ranks, P of a binomial law, as in simultaneous bands; its law is that of uniform ranks.
        """
        count = len(self.ranks)
        null = _least_of_uniform(count, self.draws)
        least = np.array([_least(column, self.draws) for column in self.ranks.T])
        below = (null[None] <= least[:, None]).sum(1)
        out: NDArray[np.float64] = (below + 1) / (len(null) + 1)
        return out

    @property
    def flagged(self) -> tuple[str, ...]:
        """Quantities whose p-value times their number is below .05."""
        p = self.p_values() * len(self.names)
        return tuple(name for name, value in zip(self.names, p, strict=True) if value < 0.05)

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "quantity"))) + 1
        shares = [self.coverage(level) for level in LEVELS]
        heads = "".join(f"{f'{100 * level:.0f} % covers':>14}" for level in LEVELS)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        lines = [
            f"{len(self.ranks)} replications, {self.draws} draws each{failed}",
            f"{'quantity':<{width}}{heads}{'mean rank':>12}{'p':>9}",
        ]
        flagged, p = self.flagged, self.p_values()
        for place, name in enumerate(self.names):
            middle = float(self.ranks[:, place].mean()) / self.draws
            covers = "".join(f"{share[place]:>14.2f}" for share in shares)
            fault = f"   {self._fault(place)}" if name in flagged else ""
            number = f"{p[place]:.2f}" if p[place] >= 0.01 else f"{p[place]:.0e}"
            lines.append(f"{name:<{width}}{covers}{middle:>12.2f}{number:>9}{fault}")
        verdict = f"calibrated but for {', '.join(flagged)}" if flagged else "calibrated"
        return "\n".join([*lines, verdict])

    def _fault(self, place: int) -> str:
        """What the ranks of a quantity say is wrong: draws too high or low, narrow or wide."""
        u = (self.ranks[:, place] + 0.5) / (self.draws + 1)
        error = 1 / math.sqrt(12 * len(u))
        shifted, spread = (u.mean() - 0.5) / error, (u.var() - 1 / 12) * math.sqrt(180 * len(u))
        if abs(shifted) > abs(spread):
            return "draws too low" if shifted > 0 else "draws too high"
        return "too narrow" if spread > 0 else "too wide"


@boundary
def calibrate(
    method: Method,
    model: Model,
    like: Sequences,
    *,
    replications: int = 200,
    draws: int = 99,
    folder: str | Path | None = None,
    name: str | None = None,
    workers: int | None = 1,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    r"""Tests a method of inference on data simulated from the model's own prior.

    .. math::
        \theta \sim p(\theta), \quad y \sim p(y \mid \theta), \quad
        \theta_1 \dots \theta_L \sim q(\theta \mid y): \qquad
        \#\{l : f(\theta_l, y) < f(\theta, y)\} \sim U\{0 \dots L\}

    if q is the posterior, for every unknown number f and for the log likelihood f = log p(y | θ),
    which shows a q that is wide like the prior. Give a model whose states the prior tells apart
    (``ordered=True``): the names of others are exchanged between truth and fit.

    Args:
        method: takes model, data and a seed, and returns the result of ``fit`` (of a posterior) or
            of ``nuts``.
        model: whose prior parameters are drawn from.
        like: sequences whose lengths, gaps, times, inputs and actions the simulations share.
        replications: simulated sets of data.
        draws: draws L of each posterior; those of NUTS are evenly spaced.
        folder: where finished replications are kept, so that a call that was interrupted goes on;
            None: nowhere.
        name: of the method, in the folder; needed there for a lambda.
        workers: replications at the same time; see ``sweep``.
        seed: of everything.
        progress: show a progress bar.

    Returns:
        The ranks, with coverage and p-values; ``print`` shows a table.

    Raises:
        ValueError: a bad argument, a point estimate, or a method that fails every time.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018); Modrák et al. (2023); Säilynoja,
    Bürkner & Vehtari (2022).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, calibrate, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(1, "poisson")
    >>> def method(model, data, seed):
    ...     guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    ...     settings = FitSettings(steps=60, parameter_learning_rate=0.1)
    ...     return fit(model, guide, data, settings=settings, seed=seed, progress=False)
    >>> like = Sequences.from_arrays([[0] * 20])
    >>> found = calibrate(method, model, like, replications=8, draws=19, progress=False)
    >>> found.names, found.ranks.shape
    (('rate', 'log likelihood'), (8, 2))
    """
    require_model(model)
    require_data(like)
    require(callable(method), "method", "must be a function", type(method).__name__)
    require_count(replications, "replications", 2)
    require_count(draws, "draws", 2)
    require(bool(model.priors), "model", "needs unknown parameters", model)
    work = partial(_replicate, method, model, model.names.read(like), draws)
    if name is None:
        own = getattr(method, "__qualname__", type(method).__name__)
        named = folder is None or "<" not in own
        require(named, "name", "must be given to keep results of such a function", own)
        name = f"{getattr(method, '__module__', '')}.{own}"
    jobs = [{"seed": seed, "replication": number} for number in range(replications)]
    with tempfile.TemporaryDirectory() as nowhere:
        found = sweep(
            work,
            jobs,
            nowhere if folder is None else folder,
            name=f"calibrate {name} {model!r} {draws} {_fingerprint(model, like, seed)}",
            workers=workers,
            progress=progress,
        )
    done = [result for result in found.results if result is not None]
    if not done:
        raise ValueError(f"method: failed every time, at first by {found.failures[0].message}")
    names = tuple(done[0])
    ranks = np.array([[one[each] for each in names] for one in done], dtype=np.int64)
    return Calibration(names, ranks, draws, found.failures)


def _replicate(
    method: Method, model: Model, like: Sequences, draws: int, job: Mapping[str, Any]
) -> dict[str, int]:
    """Ranks of the quantities in one replication."""
    seed = int(np.random.SeedSequence([job["seed"], job["replication"]]).generate_state(1)[0])
    truth, data = _simulated(model, like, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the ranks say what they would
        result = method(model, data, seed)
    require(isinstance(result, Fit | NutsFit), "method", "must return a fit", type(result).__name__)
    with seeded(seed + 1), torch.no_grad():
        sample = sample_of(result, draws)
        require(not sample.constant, "method", "needs a posterior with a spread", "a point")
        places = torch.linspace(0, sample.total - 1, draws).round().long()
        values = sample.at(places)
        ranks = {
            label: rank
            for name, drawn in values.items()
            for label, rank in _ranks(name, truth[name], drawn)
        }
        if model.exact:
            together = {name: torch.cat([truth[name][None], x]) for name, x in values.items()}
            heights = _heights(model, together, data, draws + 1)
            ranks[LIKELIHOOD] = _rank(heights[0], heights[1:])
    return ranks


def _simulated(model: Model, like: Sequences, seed: int) -> tuple[dict[str, Tensor], Sequences]:
    with seeded(seed):
        truth = {name: prior.sample().double() for name, prior in model.priors.items()}
        return truth, model.simulate(truth, like).data


def _fingerprint(model: Model, like: Sequences, seed: int) -> str:
    """Tells priors and data apart that print alike: a digest of one simulation."""
    truth, data = _simulated(model, like, seed)
    parts = [*truth.values(), data.values, data.mask, data.lengths]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]


def _heights(model: Model, values: Mapping[str, Tensor], data: Sequences, draws: int) -> Tensor:
    """log p(y | θ) of every draw, (draws,)."""
    if not model.has_paths:
        each = ({name: x[s] for name, x in values.items()} for s in range(draws))
        return torch.stack([log_evidence(model.laws(one, data)).sum() for one in each])
    out = torch.zeros(draws, dtype=torch.float64)
    for _, batch in batches(model, data):
        for block in blocks(model, batch, values, draws):
            out[block.place] += exact.log_evidence(*block.chain).sum(-1)
    return out


def _ranks(name: str, truth: Tensor, drawn: Tensor) -> list[tuple[str, int]]:
    """The rank of every scalar that varies, with its name."""
    out = []
    for place in np.ndindex(*truth.shape):
        each = drawn[(slice(None), *place)]
        if bool((each != truth[place]).any()):
            label = f"{name}[{', '.join(map(str, place))}]" if truth.numel() > 1 else name
            out.append((label, _rank(truth[place], each)))
    return out


def _rank(truth: Tensor, drawn: Tensor) -> int:
    """Draws below the truth; ties count by chance."""
    ties = int((drawn == truth).sum())
    return int((drawn < truth).sum()) + int(torch.randint(ties + 1, ()))


def _least(ranks: Ranks, draws: int) -> float:
    """The least probable height of the distribution function of ranks, two-sided."""
    from scipy import stats

    count, at = len(ranks), np.arange(1, draws + 1)
    below = (ranks[:, None] < at).sum(0)
    law = stats.binom(count, at / (draws + 1))
    return float(np.minimum(law.cdf(below), law.sf(below - 1)).min())


@lru_cache(maxsize=8)
def _least_of_uniform(count: int, draws: int) -> NDArray[np.float64]:
    """The same of sets of uniform ranks."""
    from scipy import stats

    random, at = np.random.default_rng(0), np.arange(1, draws + 1)
    law = stats.binom(count, (at / (draws + 1))[None])
    out = []
    for _ in range(_SIMULATIONS // 100):
        counts = random.multinomial(count, np.full(draws + 1, 1 / (draws + 1)), size=100)
        below = counts.cumsum(1)[:, :-1]
        out.append(np.minimum(law.cdf(below), law.sf(below - 1)).min(1))
    return np.concatenate(out)
