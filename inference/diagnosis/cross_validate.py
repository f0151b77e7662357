"""Cross-validation: how well fits to some of the sequences predict the others."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count, require_seed
from ..fitting.sweeps import sweep
from ..pareto import log_sum_exp
from ..queries.batches import require_data
from .held_out import step_table
from .leave_future_out import Refit

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CrossValidation:
    """Log densities of sequences that a fit has not seen; made by :func:`cross_validate`.

    Attributes:
        elpd_i: log p(y_n | the sequences of other folds) by model, (N,) nats.
        folds: fold of every sequence, (N,).

    >>> import numpy as np
    >>> from beliefzoo.inference import CrossValidation
    >>> one, two = np.array([-9.0, -8.0, -12.0, -7.0]), np.array([-8.0, -8.5, -9.0, -6.0])
    >>> print(CrossValidation({"1 state": one, "2 states": two}, np.array([0, 1, 0, 1])))
    4 sequences in 2 folds, held-out log density in nats
                 elpd      se  difference      se
    2 states    -31.5    2.63           0       0
    1 state       -36    4.32        -4.5    2.87
    """

    elpd_i: Mapping[str, Array] = field(repr=False)
    folds: NDArray[np.int64] = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Returns one row per model, best first, with the columns of :func:`compare`.

        ``elpd`` and ``se`` in nats, ``difference`` to the best and ``se_difference``. The errors
        take sequences as independent; that fits share data, they leave out.
        """
        import pandas as pd

        names = sorted(self.elpd_i, key=lambda name: -self.elpd_i[name].sum())
        best = self.elpd_i[names[0]]
        rows = []
        for name in names:
            own = self.elpd_i[name]
            # Two that are −∞ do not differ.
            gap = np.subtract(own, best, out=np.zeros_like(own), where=own != best)
            rows.append((own.sum(), _error(own), gap.sum(), _error(gap)))
        columns = ["elpd", "se", "difference", "se_difference"]
        return pd.DataFrame(rows, index=pd.Index(names, name="model"), columns=columns)

    def __str__(self) -> str:
        count = f"{len(self.folds)} sequences in {self.folds.max() + 1} folds"
        lines = [f"{count}, held-out log density in nats"]
        width = max(map(len, self.elpd_i))
        lines.append(f"{'':<{width}}{'elpd':>9}{'se':>8}{'difference':>12}{'se':>8}")
        for name, *values in self.table().itertuples():
            cells = "".join(
                f"{value:>{size}.3g}" if size == 8 else f"{value:>{size}.5g}"
                for value, size in zip(values, (9, 8, 12, 8), strict=True)
            )
            lines.append(f"{name:<{width}}{cells}")
        return "\n".join(lines)


@boundary
def cross_validate(
    refits: Mapping[str, Refit],
    data: Sequences,
    *,
    folds: int = 10,
    draws: int = 1000,
    folder: str | Path | None = None,
    workers: int | None = 1,
    seed: int = 0,
    progress: bool = True,
) -> CrossValidation:
    r"""Computes how well fits to the sequences of all folds but one predict those of that fold.

    .. math::
        \mathrm{elpd} = \sum_n \log p(y_n \mid y_{\text{other folds}})
        = \sum_n \log \frac1S \sum_s p(y_n \mid \theta_s)

    with draws θ_s of the fit that has not seen the fold of sequence n.

    Args:
        refits: by name of the model, a function that takes the sequences of the other folds and
            returns the result of ``fit`` or of ``nuts``.
        data: two or more sequences.
        folds: parts of the data, of equal size up to one sequence, drawn at random; as many as
            there are sequences leaves out one after the other.
        draws: draws S of a guide's parameters; of NUTS all are used.
        folder: where finished fits are kept, so that a call that was interrupted goes on, for
            these data and names of models; None: nowhere. Take another one for other functions.
        workers: fits at the same time; see ``sweep``, which runs them on the chosen backend.
        seed: of folds and draws.
        progress: show a progress bar.

    Returns:
        The density of every sequence under every model; ``print`` shows a table.

    Raises:
        ValueError: a bad argument, a single sequence, a model without exact inference, or a fit
            that fails.

    Source: Vehtari & Lampinen (2002).

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, cross_validate, fit
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> truth = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> def of(states):
    ...     def refit(data):
    ...         model = HiddenMarkovModel(states, "poisson")
    ...         guide = BeliefGuide(model, ExactFilter(), parameters="map")
    ...         return fit(model, guide, data, settings=FitSettings(restarts=1), progress=False)
    ...     return refit
    >>> models = {"1 state": of(1), "2 states": of(2)}
    >>> data = truth.sample(12, 20, seed=0).data
    >>> found = cross_validate(models, data, folds=3, progress=False)
    >>> bool(found.table()["difference"]["1 state"] < -100)
    True
    """
    require_data(data)
    named = isinstance(refits, Mapping) and bool(refits) and all(isinstance(n, str) for n in refits)
    require(named, "refits", "must map names of models to functions", type(refits).__name__)
    for name, refit in refits.items():
        require(callable(refit), f"refits[{name!r}]", "must be a function", type(refit).__name__)
    alone = "needs at least 2 sequences to leave some out; leave_future_out judges a single one"
    require(len(data) > 1, "data", alone, len(data))
    require_count(folds, "folds", 2)
    require(folds <= len(data), "folds", f"must be at most the {len(data)} sequences", folds)
    require_count(draws, "draws")
    require_seed(seed, optional=False)
    order = np.random.default_rng(seed % 2**64).permutation(len(data))
    fold_of = np.empty(len(data), dtype=np.int64)
    fold_of[order] = np.arange(len(data)) % folds
    jobs = [{"model": name, "fold": k, "seed": seed} for name in refits for k in range(folds)]
    with tempfile.TemporaryDirectory() as nowhere:
        found = sweep(
            partial(_held_out, dict(refits), data, fold_of, draws),
            jobs,
            nowhere if folder is None else folder,
            name=f"cross_validate {draws} {folds} {_fingerprint(data)}",
            workers=workers,
            progress=progress,
        )
    for failed in found.failures:
        name = failed.settings["model"]
        raise ValueError(f"refits[{name!r}]: failed by {failed.kind}: {failed.message}")
    elpd = {name: np.empty(len(data)) for name in refits}
    for job, result in zip(jobs, found.results, strict=True):
        assert result is not None  # or it is among the failures
        values = [-math.inf if value is None else value for value in result["elpd"]]
        elpd[str(job["model"])][fold_of == job["fold"]] = values
    return CrossValidation(elpd, fold_of)


def _held_out(
    refits: Mapping[str, Refit],
    data: Sequences,
    fold_of: NDArray[np.int64],
    draws: int,
    job: Mapping[str, Any],
) -> dict[str, list[float | None]]:
    """log p(y_n | the other folds) of the sequences of one fold; None for −∞."""
    own = fold_of == job["fold"]
    result = refits[job["model"]](data[~own])
    _, steps = step_table(result, data[own], draws)
    each = np.nansum(steps, 2).T
    possible = np.isfinite(each).any(1)
    out = np.full(len(each), -math.inf)
    out[possible] = log_sum_exp(each[possible]) - math.log(each.shape[1])
    return {"elpd": [float(value) if math.isfinite(value) else None for value in out]}


def _fingerprint(data: Sequences) -> str:
    """A digest that tells data apart."""
    parts = (data.values, data.mask, data.lengths, data.times, data.actions, data.inputs)
    known = [part.numpy().tobytes() if part is not None else b"" for part in parts]
    return hashlib.sha256(b"|".join(known)).hexdigest()[:16]


def _error(values: Array) -> float:
    """Standard error of the sum of independent values; NaN of infinite ones."""
    if not np.isfinite(values).all():
        return math.nan
    return math.sqrt(len(values)) * float(values.std(ddof=1))
