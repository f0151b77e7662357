"""ArviZ on both of its majors: groups, NetCDF files, Pareto diagnostics, leave-one-out.

ArviZ 0.x keeps results in an `InferenceData`, ArviZ 1.x in an `xarray.DataTree`. Every function
here gives and takes whichever the installed ArviZ uses, and a file written under one major reads
under the other. This is the only module of the library that imports ArviZ, and it needs nothing
else but numpy, xarray, netCDF4 and ``pareto``. ArviZ and xarray are loaded when first needed.

References:
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25.
    Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and likelihood
    sensitivity with power-scaling, Statistics and Computing 34.
    Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC, Statistics and Computing 27.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

from .pareto import LEAST_WEIGHTS, k_threshold, log_sum_exp, smooth

if TYPE_CHECKING:
    import xarray as xr
    from arviz import InferenceData
    from numpy.typing import ArrayLike, NDArray

Idata: TypeAlias = "InferenceData | xr.DataTree"
"""What the installed ArviZ calls inference data."""

_Entry = TypeVar("_Entry")

_SAMPLES = ("chain", "draw")
_SAMPLED_GROUPS = (
    "posterior",
    "posterior_predictive",
    "predictions",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "log_prior",
    "sample_stats",
)
_FIXED_GROUPS = ("observed_data", "constant_data")
_FREE_GROUPS = ("posterior_states", "gates", "runs", "diagnosis")
GROUPS = _SAMPLED_GROUPS + _FIXED_GROUPS + _FREE_GROUPS
"""Groups that `build` knows."""

_ROOM = 2**16  # bytes: a disk with less room is full
_SEAL = re.compile(rb"beliefzoo netcdf ([0-9a-f]{64})\n")
_SEAL_SIZE = 82


@cache
def _arviz() -> Any:
    """ArviZ, loaded when first needed since that takes seconds; its functions carry few types."""
    with warnings.catch_warnings():
        # 0.23 announces its successor once a day; both are supported, so the warning is silenced.
        message = r"\s*ArviZ is undergoing"
        warnings.filterwarnings("ignore", category=FutureWarning, message=message)
        import arviz
    return arviz


def _is_arviz_1() -> bool:
    return int(version("arviz").split(".")[0]) >= 1


def build(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    *,
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, ArrayLike] | None = None,
    attrs: Mapping[str, object] | None = None,
) -> Idata:
    """Makes inference data with named dimensions from plain arrays.

    Args:
        groups: group name -> variable name -> array. In `posterior`, `posterior_predictive`,
            `predictions`, `prior`, `prior_predictive`, `log_likelihood`, `log_prior` and
            `sample_stats` an array has shape (chain, draw, *dims of the variable); in
            `observed_data` and `constant_data` it has only the variable's dims. In
            `posterior_states` a variable has exactly the dims given, `chain` and `draw` included if
            it has these, since draws of states are large and often fewer than those of the
            parameters; likewise in `gates`, the gates of a network, in `runs`, figures over seeds,
            data sets or networks, and in `diagnosis`, the checks of a fit. A group without
            variables is left out.
        dims: variable name -> names of its dimensions; a variable not named has none beyond
            chain and draw. The key "group/variable" applies to one group only.
        coords: dimension -> labels, distinct and as many as the dimension is long. The key
            "group/dimension" labels a dimension in one group only, which may then have another
            length there. Dimensions not named here count from 0, as `chain` always does and `draw`
            does unless labelled for a group.
        attrs: attributes of the whole. Strings and real numbers are kept as they are, anything
            else is stored as JSON text, since NetCDF has no other types.

    Returns:
        `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (1.x).

    Raises:
        ValueError: an unknown group, a variable named like a dimension, an array whose shape does
            not fit its dims, its coords or the other variables of its group, repeated labels, or an
            attribute that JSON cannot hold.

    >>> from beliefzoo.inference import arviz_groups
    >>> idata = arviz_groups.build(
    ...     {"posterior": {"rate": [[[2.0, 8.0], [2.1, 7.9]]]}},
    ...     dims={"rate": ["state"]},
    ...     coords={"state": ["low", "high"]},
    ... )
    >>> arviz_groups.group(idata, "posterior")["rate"].sel(state="high").values.tolist()
    [[8.0, 7.9]]
    """
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise ValueError(f"groups must be among {', '.join(GROUPS)}; got {', '.join(unknown)}")
    _check_scopes(dims, coords or {})
    labels = _labels(coords or {})
    reserved = {*_SAMPLES, *labels, *(name for names in dims.values() for name in names)}
    datasets = {
        name: _dataset(name, variables, _scoped(dims, name), _scoped(labels, name), reserved)
        for name, variables in groups.items()
        if variables
    }
    if not datasets:
        raise ValueError(f"groups must hold at least one variable; got {dict(groups)}")
    return _assemble(
        datasets, {key: _attribute(key, value) for key, value in (attrs or {}).items()}
    )


def group(idata: Idata, name: str) -> xr.Dataset:
    """Returns the group `name` as a Dataset, under either major version of ArviZ.

    Args:
        idata: inference data.
        name: of a group.

    Raises:
        ValueError: no such group.

    >>> from beliefzoo.inference import arviz_groups
    >>> idata = arviz_groups.build({"observed_data": {"obs": [1, 2]}}, dims={"obs": ["time"]})
    >>> dict(arviz_groups.group(idata, "observed_data").sizes)
    {'time': 2}
    """
    datasets = _datasets(idata)
    if name not in datasets:
        raise ValueError(f"idata must have a group {name!r}; it has {', '.join(datasets)}")
    return datasets[name]


def write(idata: Idata, path: str | os.PathLike[str]) -> None:
    """Writes a NetCDF file, completely or not at all, replacing an existing one.

    Numbers are compressed without loss and have checksums. Either ArviZ major version reads the
    file; `read` alone gives back labels with zeros or lone surrogates, which a NetCDF file cannot
    hold as they are.

    Args:
        idata: what to write.
        path: the file.

    Raises:
        ValueError: the folder of `path` does not exist.
        OSError: the disk is full; names the file.

    >>> import pathlib, tempfile
    >>> from beliefzoo.inference import arviz_groups, write
    >>> idata = arviz_groups.build({"posterior": {"rate": [[4.1, 3.9]]}}, dims={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(idata, f"{folder}/posterior.nc")
    ...     [path.name for path in pathlib.Path(folder).iterdir()]
    ['posterior.nc']
    """
    encoding = {
        f"/{name}": {
            str(key): {"zlib": True, "complevel": 1, "fletcher32": True}  # a checksum of HDF5
            for key, variable in dataset.variables.items()
            if variable.dtype.kind in "biuf" and variable.ndim > 0
        }
        for name, dataset in _datasets(idata).items()
    }
    tree = _tree({name: _escaped(one) for name, one in _datasets(idata).items()}, idata.attrs)
    with replacing(path) as unfinished:
        tree.to_netcdf(unfinished, engine="netcdf4", format="NETCDF4", encoding=encoding)
        _seal(unfinished)


def read(path: str | os.PathLike[str]) -> Idata:
    """Reads a NetCDF file written by `write` or by ArviZ of either major version, into memory.

    Args:
        path: the file.

    Returns:
        `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (1.x).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not NetCDF or is incomplete.

    >>> import tempfile
    >>> from beliefzoo.inference import arviz_groups, read, write
    >>> idata = arviz_groups.build({"observed_data": {"obs": [1, 2, 3]}}, dims={"obs": ["time"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(idata, f"{folder}/data.nc")
    ...     again = read(f"{folder}/data.nc")
    >>> arviz_groups.group(again, "observed_data")["obs"].values.tolist()
    [1, 2, 3]
    """
    import xarray as xr

    if not _path(path).is_file():
        raise FileNotFoundError(f"path must be a NetCDF file; there is none at {path}")
    _require_seal(_path(path))
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            nodes = tree.children.items()
            datasets = {name: _unescaped(node.to_dataset().load()) for name, node in nodes}
            return _assemble(datasets, tree.attrs)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"path must be a complete NetCDF file; {path}: {error}") from error


def _seal(path: Path) -> None:
    """Append the checksum of a file, which HDF5 does not read, to it."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(b"beliefzoo netcdf %b\n" % digest.encode())


def _require_seal(path: Path) -> None:
    """Raise ``ValueError`` for a file that ends in the checksum of other bytes: HDF5 may crash."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _SEAL_SIZE))
        left, sealed = file.tell(), _SEAL.fullmatch(file.read())
        if sealed is None:  # written by ArviZ
            return
        file.seek(0)
        digest = hashlib.sha256()
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != sealed[1]:
        raise ValueError(f"path must be a complete NetCDF file; {path}: other bytes than written")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that is moved onto it when the block ends without error.

    A reader of `path` sees the old file or the new one, never a part of either; after an error
    the old file stays and the temporary one is gone.

    Raises:
        ValueError: if the folder of `path` does not exist.
    """
    target = _path(path)
    if not target.parent.is_dir():
        raise ValueError(f"path must lie in an existing folder; {target.parent} is none")
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as folder:
        # A folder of its own: the file inside is made with the user's usual permissions.
        unfinished = Path(folder) / target.name
        try:
            yield unfinished
            os.replace(unfinished, target)
        except (OSError, RuntimeError) as error:  # HDF5 does not say why it cannot write
            if shutil.disk_usage(target.parent).free < _ROOM:
                said = os.strerror(errno.ENOSPC)
                raise OSError(errno.ENOSPC, said, os.fspath(target)) from error
            raise


def _path(given: str | os.PathLike[str]) -> Path:
    """The path; ``ValueError`` for what is none."""
    if not isinstance(given, str | os.PathLike) or "\0" in str(given):
        raise ValueError(f"path: must be a path, got {given!r}")
    return Path(given)


class ConvergenceWarning(UserWarning):
    """Says that a fit may not have arrived, or that its posterior cannot be relied on.

    Of a point estimate: the steps were used up or no step gained anything, the likelihood has no
    maximum, or only one of several starts reached the best height; ``Fit.warnings`` keeps it.

    Args:
        message: what may be wrong, and what to try.

    >>> import warnings
    >>> from beliefzoo.inference import BeliefGuide, ConvergenceWarning, ExactFilter
    >>> from beliefzoo.inference import FitSettings, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson")
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     result = fit(model, guide, data, settings=FitSettings(steps=1), progress=False)
    >>> caught[0].category is ConvergenceWarning, str(caught[0].message)[:28]
    (True, 'fit: not converged, steps us')
    """

    def __init__(self, message: str) -> None:  # documented like all public names
        super().__init__(message)


@dataclass(frozen=True)
class LeaveOneOut:
    """Expected log predictive density (elpd) by Pareto-smoothed leave-one-out; made by :func:`loo`.

    Attributes:
        elpd: Σ_i log p(y_i | y_-i), nats.
        se: its standard error, from the variation over units; NaN for a single unit.
        p: effective number of parameters.
        unit: what is left out, for instance "sequence".
        draws: number of posterior draws.
        elpd_i: elpd of each unit, in the row-major order of the log-likelihood's dimensions,
            without padding.
        pareto_k: Pareto k̂ of each unit, in the same order.

    >>> import numpy as np
    >>> from beliefzoo.inference import LeaveOneOut
    >>> found = LeaveOneOut(
    ...     elpd=-20.0, se=2.0, p=1.5, unit="sequence", draws=1000,
    ...     elpd_i=np.array([-9.0, -11.0]), pareto_k=np.array([0.2, 0.9]),
    ... )
    >>> found.unreliable  # units whose k̂ is above 0.67
    1
    """

    elpd: float
    se: float
    p: float
    unit: str
    draws: int
    elpd_i: NDArray[np.float64] = field(repr=False)
    pareto_k: NDArray[np.float64] = field(repr=False)

    @property
    def unreliable(self) -> int:
        """Number of units whose k̂ is above `k_threshold`."""
        return int(np.sum(self.pareto_k > k_threshold(self.draws)))


@dataclass(frozen=True)
class Convergence:
    """Worst convergence diagnostics of Markov chains over all parameters; not for a guide's draws.

    Attributes:
        r_hat: largest rank-normalised split r̂; 1 if all chains agree, at most 1.01 is the usual
            requirement.
        ess_bulk: smallest effective sample size for means.
        ess_tail: smallest effective sample size for 5 % and 95 % quantiles.

    >>> from beliefzoo.inference import Convergence
    >>> found = Convergence(r_hat=1.003, ess_bulk=830.0, ess_tail=610.0)
    >>> found.r_hat < 1.01 and min(found.ess_bulk, found.ess_tail) > 400
    True
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float


def convergence(idata: Idata) -> Convergence:
    """Computes r̂ and effective sample sizes of the Markov chains in the group ``posterior``.

    Args:
        idata: with at least two chains of four draws each.

    Returns:
        The worst figures over all parameters.

    Raises:
        ValueError: fewer than two chains, four draws each, or no parameter that varies.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, convergence
    >>> draws = np.random.default_rng(0).normal(size=(4, 500))
    >>> def r_hat(draws):
    ...     idata = arviz_groups.build({"posterior": {"rate": draws}}, dims={})
    ...     return round(convergence(idata).r_hat, 1)
    >>> r_hat(draws), r_hat(draws + [[0.0], [0.0], [0.0], [5.0]])  # one chain elsewhere
    (1.0, 1.5)
    """
    posterior = group(idata, "posterior")
    chains, draws = (posterior.sizes.get(name, 0) for name in ("chain", "draw"))
    if chains < 2 or draws < 4:
        raise ValueError(
            f"idata: convergence needs at least 2 chains of 4 draws, got {chains} of {draws}"
        )
    worst: list[tuple[float, float, float]] = []
    for variable in posterior.data_vars.values():
        table = np.asarray(variable.transpose("chain", "draw", ...), dtype=np.float64)
        for scalar in np.moveaxis(table.reshape(chains, draws, -1), -1, 0):
            if np.ptp(scalar) > 0:  # a constant, such as a zero in a matrix, converged long ago
                worst.append(
                    (
                        float(_arviz().rhat(scalar)),
                        float(_arviz().ess(scalar, method="bulk")),
                        # 1.x asks for the quantiles; these are the defaults of 0.x.
                        float(_arviz().ess(scalar, method="tail", prob=(0.05, 0.95))),
                    )
                )
    if not worst:
        raise ValueError("idata: convergence needs a parameter that varies, got constants alone")
    r_hat, bulk, tail = zip(*worst, strict=True)
    return Convergence(max(r_hat), min(bulk), min(tail))


def prior_sensitivity(idata: Idata) -> Any:
    """Tells how far the posterior moves when the prior, or the likelihood, counts a little more.

    The draws are weighted by p(θ)^(α−1), or p(y | θ)^(α−1), with α = .99 and 1.01; the sensitivity
    is the cumulative Jensen–Shannon distance of the weighted law of a number from its own, a
    doubling of α. Above .05 in both columns prior and data may contradict each other; above it in
    the prior alone, the data say little.

    Args:
        idata: the result of ``to_arviz``, of a fit whose parameters have a spread.

    Returns:
        A pandas DataFrame, one row per number that varies, columns ``prior`` and ``likelihood``.

    Raises:
        ValueError: no log prior or log-likelihood of draws, as for point estimates.

    Source: Kallioinen, Paananen, Bürkner & Vehtari (2024).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, prior_sensitivity
    >>> mean = np.random.default_rng(0).normal(5, 0.7, size=(1, 4000))  # of N(0, 1) and N(10, 1)
    >>> idata = arviz_groups.build(
    ...     {
    ...         "posterior": {"mean": mean},
    ...         "log_prior": {"joint": -(mean**2) / 2},
    ...         "log_likelihood": {"obs": -((10 - mean) ** 2) / 2},
    ...     },
    ...     dims={},
    ... )
    >>> (prior_sensitivity(idata) > 0.05).loc["mean"].tolist()
    [True, True]
    """
    import xarray as xr

    for needed in ("log_prior", "log_likelihood"):
        group(idata, needed)
    new, parts = _is_arviz_1(), ("prior", "likelihood")
    with np.errstate(invalid="ignore"):  # of numbers that do not vary, which are left out
        found = [
            _arviz().psense(idata, group=part) if new else _arviz().psens(idata, component=part)
            for part in parts
        ]
    rows: dict[str, list[float]] = {}
    for name, variable in group(idata, "posterior").data_vars.items():
        spread = variable.std(_SAMPLES)
        for place in np.ndindex(*spread.shape):
            if float(spread.values[place]) > 0:
                at = [str(spread[dim].values[i]) for dim, i in zip(spread.dims, place, strict=True)]
                label = f"{name}[{', '.join(at)}]" if at else str(name)
                rows[label] = [float(each[name].values[place]) for each in found]
    columns = zip(parts, zip(*rows.values(), strict=True), strict=True)
    data = {part: ("number", list(values)) for part, values in columns}
    return xr.Dataset(data, coords={"number": list(rows)}).to_dataframe()


def loo(idata: Idata, unit: str = "sequence") -> LeaveOneOut:
    """Pareto-smoothed leave-one-out over the units of one log-likelihood variable.

        elpd = Σ_i log Σ_s w̃_is p(y_i | θ_s) / Σ_s w̃_is,   w_is = 1 / p(y_i | θ_s)

    Args:
        idata: with the group `log_likelihood`.
        unit: what to leave out: the last dimension of the variable to use, of `log_likelihood` or,
            if none there ends in it, of the variables of `sample_stats` whose names end in
            "log_likelihood". `"sequence"` leaves out whole sequences. `"time"` uses the variable of
            log p(y_t | y_<t, θ) and leaves out one such factor at a time; later factors still
            condition on y_t. Units that are NaN in every draw are padding and are left out.

    Returns:
        A `LeaveOneOut`. A `ConvergenceWarning` counts the units whose k̂ cannot be relied on.

    Raises:
        ValueError: not exactly one such variable ends in `unit`, fewer than 25 draws, or a
            log-likelihood that is +inf, NaN in some draws only, or -inf.

    Source: Vehtari, Gelman & Gabry (2017); Vehtari et al. (2024).

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, loo
    >>> values = np.random.default_rng(0).normal(-10.0, 0.1, size=(4, 250, 8))
    >>> idata = arviz_groups.build(
    ...     {"log_likelihood": {"obs": values}}, dims={"obs": ["sequence"]}
    ... )
    >>> found = loo(idata)
    >>> round(found.elpd), found.unreliable
    (-80, 0)
    """
    draws = _unit_log_likelihood(idata, unit)
    samples = draws.shape[1]
    if samples < LEAST_WEIGHTS:
        raise ValueError(f"idata must hold at least {LEAST_WEIGHTS} draws; got {samples}")
    if not np.isfinite(draws).all():
        bad = int(np.argmin(np.isfinite(draws).all(1)))
        raise ValueError(
            f"log_likelihood over {unit!r} must be finite, or NaN in all draws of a padded unit; "
            f"unit {bad} holds {draws[bad][~np.isfinite(draws[bad])][0]}"
        )
    weights, k = smooth(-draws, _relative_efficiency(idata, draws))
    elpd_i = log_sum_exp(weights + draws)
    limit = k_threshold(samples)
    if (bad := int((k > limit).sum())) > 0:
        warnings.warn(
            f"loo: the values of {bad} of {len(k)} units cannot be relied on: k̂ up to "
            f"{k.max():.2f}, above {limit:.2f}; leave these units out in fits of their own, or "
            "take more draws",
            ConvergenceWarning,
            stacklevel=2,
        )
    in_sample = log_sum_exp(draws) - math.log(samples)
    return LeaveOneOut(
        elpd=float(elpd_i.sum()),
        se=_standard_error(elpd_i),
        p=float((in_sample - elpd_i).sum()),
        unit=unit,
        draws=samples,
        elpd_i=elpd_i,
        pareto_k=k,
    )


def compare(models: Mapping[str, Idata], unit: str = "sequence") -> Any:
    """Compares models of the same data by leave-one-out, best first.

    Args:
        models: name -> inference data with `log_likelihood`; also `observed_data` if present, which
            must be the same for all.
        unit: as in `loo`.

    Returns:
        A pandas DataFrame, one row per model, with the columns `elpd`, `se`, `difference` (elpd
        minus that of the best, so ≤ 0), `se_difference` (from the differences of each unit; NaN for
        a single unit), `p` and `worst_k`. A difference of less than about 4 nats, or of few
        standard errors, does not separate models.

    Raises:
        ValueError: as in `loo`, for no model at all, and for models of different data.

    >>> import numpy as np
    >>> from beliefzoo.inference import arviz_groups, compare
    >>> noise = np.random.default_rng(0).normal(0, 0.1, size=(4, 250, 8))
    >>> models = {
    ...     f"{k} states": arviz_groups.build(
    ...         {"log_likelihood": {"obs": mean + noise}}, dims={"obs": ["sequence"]}
    ...     )
    ...     for k, mean in ((1, -12.0), (2, -10.0))
    ... }
    >>> compare(models)["difference"].round(2).to_dict()
    {'2 states': 0.0, '1 states': -16.0}
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"models must name at least one model; got {models!r}")
    results = {name: loo(idata, unit) for name, idata in models.items()}
    first = next(iter(models))
    for name in models:
        ours, theirs = results[first].elpd_i.size, results[name].elpd_i.size
        if ours != theirs:
            raise ValueError(
                f"models must share their data; {first!r} has {ours} units of {unit!r}, "
                f"{name!r} has {theirs}"
            )
        if not _same_observations(models[first], models[name]):
            raise ValueError(f"models must share their data; {name!r} and {first!r} do not")
    order = sorted(results, key=lambda name: -results[name].elpd)
    gaps = [results[name].elpd_i - results[order[0]].elpd_i for name in order]
    columns = {
        "elpd": [results[name].elpd for name in order],
        "se": [results[name].se for name in order],
        "difference": [gap.sum() for gap in gaps],
        "se_difference": [_standard_error(gap) for gap in gaps],
        "p": [results[name].p for name in order],
        "worst_k": [results[name].pareto_k.max() for name in order],
    }
    rows = {name: ("model", values) for name, values in columns.items()}
    import xarray as xr

    return xr.Dataset(rows, coords={"model": order}).to_dataframe()


def by_step(idata: Idata) -> Idata:
    """Lays the observed steps of all sequences of an export on one axis ``step``.

    For functions of ArviZ that take one axis of observations, such as ``az.plot_loo_pit``,
    ``az.plot_ppc_pit`` and ``az.plot_ppc_rootogram``. Draws are those with a replication of the
    data: export with ``predictive_draws`` equal to ``draws`` for all.

    Leave-one-out is then of the terms log p(y_t | y_1 … y_{t-1}, θ), as ``loo(idata, "time")``.
    Replications are of whole sequences with new states, so transforms say whether the law of a
    single step fits, and those of neighbours depend on each other as the steps do.

    Args:
        idata: the result of ``to_arviz``.

    Returns:
        ``observed_data`` and ``posterior_predictive`` with ``obs`` (step[, feature]), the sequence
        and time of each step as coordinates, counts and codes whole; ``log_likelihood`` likewise,
        if ``idata`` has it, its ``step_log_likelihood`` and a single feature; ``posterior``.

    Raises:
        ValueError: no ``obs`` (sequence, time[, feature]), or none that was observed.

    >>> from beliefzoo.inference import arviz_groups, by_step
    >>> idata = arviz_groups.build(
    ...     {"observed_data": {"obs": [[1.0, 0.0, 2.0], [9.0, float("nan"), float("nan")]]}},
    ...     dims={"obs": ["sequence", "time"]},
    ... )
    >>> arviz_groups.group(by_step(idata), "observed_data")["obs"].values.tolist()
    [1.0, 0.0, 2.0, 9.0]
    """
    import xarray as xr

    given = _datasets(idata)
    obs = given.get("observed_data", xr.Dataset()).get("obs")
    if obs is None or not {"sequence", "time"} <= set(obs.dims):
        came = "none" if obs is None else f"one of {obs.dims}"
        raise ValueError(f"idata must have observations (sequence, time[, feature]); got {came}")
    seen = obs.notnull()
    seen = seen.any("feature") if "feature" in obs.dims else seen
    places = np.flatnonzero(seen.transpose("sequence", "time"))
    if not places.size:
        raise ValueError("idata must have an observed step; got none")

    def laid(variable: xr.DataArray) -> xr.DataArray:
        steps = variable.stack(step=("sequence", "time")).isel(step=places).reset_index("step")
        return steps.transpose(..., "step", *(["feature"] * ("feature" in steps.dims)))

    out = {"observed_data": laid(obs).to_dataset(name="obs")}
    out |= {name: given[name] for name in ("posterior",) if name in given}
    terms = given.get("sample_stats", xr.Dataset()).get("step_log_likelihood")
    if terms is not None and "log_likelihood" in given and "feature" not in obs.coords:
        out["log_likelihood"] = laid(terms).to_dataset(name="obs")
    if "posterior_predictive" in given:
        replicas = laid(given["posterior_predictive"]["obs"])
        if "log_likelihood" in given:  # else the draws of a point estimate, which are all the same
            out = {name: _of_draws(dataset, replicas) for name, dataset in out.items()}
        out["posterior_predictive"] = replicas.to_dataset(name="obs")
        if bool((replicas == replicas.round()).all()):  # counts, which were floats beside a NaN
            for name in ("observed_data", "posterior_predictive"):
                out[name] = out[name].astype(np.int64)
    return _assemble(out, idata.attrs)


def _of_draws(dataset: xr.Dataset, like: xr.DataArray) -> xr.Dataset:
    """The draws of a group that another variable has too."""
    return dataset.sel(draw=like["draw"]) if "draw" in dataset.dims else dataset


def _check_scopes(*entries: Mapping[str, Any]) -> None:
    for name in (name for part in entries for name in part if "/" in name):
        if name.split("/")[0] not in GROUPS:
            raise ValueError(f"dims and coords must name a group before '/'; got {name!r}")


def _scoped(entries: Mapping[str, _Entry], group_name: str) -> dict[str, _Entry]:
    """The entries that hold in a group: its own, "group/name", before those for all."""
    prefix = f"{group_name}/"
    general = {name: entry for name, entry in entries.items() if "/" not in name}
    own = {
        name.removeprefix(prefix): entry
        for name, entry in entries.items()
        if name.startswith(prefix)
    }
    return general | own


def _labels(coords: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Coordinates as one-dimensional arrays of distinct labels."""
    labels = {}
    for name, values in coords.items():
        if name in _SAMPLES:
            raise ValueError(f"coords must not label {name!r}, which counts from 0")
        array = np.asarray(values)
        if array.ndim != 1:
            raise ValueError(f"coords[{name!r}] must be one-dimensional; got shape {array.shape}")
        if any(str(label).endswith("\0") for label in cast("Sequence[Any]", values)):
            raise ValueError(f"coords[{name!r}] must not end in zeros, which numpy drops")
        if len(set(array.tolist())) != array.size:
            raise ValueError(f"coords[{name!r}] must be distinct; got {array.tolist()}")
        labels[name] = array
    return labels


def _dataset(
    group_name: str,
    variables: Mapping[str, ArrayLike],
    dims: Mapping[str, Sequence[str]],
    labels: Mapping[str, NDArray[Any]],
    reserved: set[str],
) -> xr.Dataset:
    """One group, every shape checked against dims, labels and the group's other variables."""
    import xarray as xr

    leading = _SAMPLES if group_name in _SAMPLED_GROUPS else ()
    sizes = {name: (values.size, "coords") for name, values in labels.items()}
    data = {}
    for name, values in variables.items():
        where = f"{group_name}[{name!r}]"
        if name in reserved:
            raise ValueError(f"{where} must not bear the name of a dimension")
        names = (*leading, *dims.get(name, ()))
        array = np.asarray(values)
        if array.dtype.kind not in "biufU":
            raise ValueError(f"{where} must hold numbers or strings; got dtype {array.dtype}")
        if array.ndim != len(names):
            raise ValueError(f"{where} must have the dims {names}; got shape {array.shape}")
        if len(set(names)) != len(names):
            raise ValueError(f"dims of {name!r} must be distinct; got {names}")
        for dim, size in zip(names, array.shape, strict=True):
            known, source = sizes.setdefault(dim, (size, where))
            if size != known:
                raise ValueError(
                    f"{where} must have {known} along {dim!r} as {source} has; "
                    f"got shape {array.shape} for the dims {names}"
                )
        data[name] = (names, array)
    used = {dim for names, _ in data.values() for dim in names}
    coords = {dim: labels.get(dim, np.arange(sizes[dim][0])) for dim in sizes if dim in used}
    return xr.Dataset(data, coords=coords)


def _attribute(name: str, value: Any) -> str | int | float:
    """An attribute as NetCDF can store it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | float) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"attrs[{name!r}] must be a value that JSON can hold; {error}") from error


def _assemble(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> Idata:
    """The container of the installed ArviZ."""
    if _is_arviz_1():
        return _tree(datasets, attrs)
    idata: Idata = _arviz().InferenceData(attrs=dict(attrs), **datasets)
    return idata


def _tree(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> xr.DataTree:
    import xarray as xr

    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **datasets})


def _datasets(idata: Idata) -> dict[str, xr.Dataset]:
    """Group name -> Dataset.

    Raises:
        ValueError: what is no inference data.
    """
    import xarray as xr

    if isinstance(idata, xr.DataTree):
        return {name: node.to_dataset() for name, node in idata.children.items()}
    if isinstance(idata, type) or not all(hasattr(idata, it) for it in ("groups", "to_netcdf")):
        raise ValueError(f"idata: must be inference data of ArviZ, got {type(idata).__name__}")
    return {name: idata[name] for name in idata.groups()}


_ESCAPED = "escaped"
"""Attribute of a variable whose strings a file holds with the backslashes of Python's literals."""

_NOT_IN_FILES = re.compile("[\0\ud800-\udfff]")
"""NetCDF's strings end at a zero, and its UTF-8 has no lone surrogates."""


def _escaped(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with strings that a file can hold."""

    def unheld(variable: xr.Variable) -> bool:
        text = variable.dtype.kind == "U"
        return text and bool(_NOT_IN_FILES.search("".join(variable.values.flat)))

    names = [name for name, variable in dataset.variables.items() if unheld(variable)]
    return _recoded(
        dataset, names, lambda text: text.encode("unicode_escape").decode("ascii"), True
    )


def _unescaped(dataset: xr.Dataset) -> xr.Dataset:
    """What `_escaped` was given."""
    names = [name for name, variable in dataset.variables.items() if _ESCAPED in variable.attrs]
    return _recoded(
        dataset, names, lambda text: text.encode("ascii").decode("unicode_escape"), False
    )


def _recoded(
    dataset: xr.Dataset, names: Sequence[Any], recode: Callable[[str], str], escaped: bool
) -> xr.Dataset:
    variables = {}
    for name in names:
        old = dataset.variables[name]
        texts = np.array([recode(str(text)) for text in old.values.flat]).reshape(old.shape)
        attrs = {key: value for key, value in old.attrs.items() if key != _ESCAPED}
        variables[name] = old.dims, texts, attrs | ({_ESCAPED: 1} if escaped else {})
    return dataset.assign(variables)


def _standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the sum of independent values."""
    return math.sqrt(values.size) * float(values.std(ddof=1)) if values.size > 1 else math.nan


def _unit_log_likelihood(idata: Idata, unit: str) -> NDArray[np.float64]:
    """Log-likelihoods as (units, draws), padding left out."""
    variable = _ending_in(unit, group(idata, "log_likelihood"), idata).transpose(..., *_SAMPLES)
    samples = variable.sizes["chain"] * variable.sizes["draw"]
    draws = np.asarray(variable.values, dtype=np.float64).reshape(-1, samples)
    kept = draws[~np.isnan(draws).all(axis=1)]
    if not kept.size:
        raise ValueError(f"log_likelihood over {unit!r} must have a unit that is not NaN")
    return kept


def _ending_in(unit: str, dataset: xr.Dataset, idata: Idata) -> xr.DataArray:
    """The one variable of log-likelihoods whose last dimension is `unit`."""
    import xarray as xr

    rest = _datasets(idata).get("sample_stats", xr.Dataset())
    spare = rest[[name for name in rest.data_vars if str(name).endswith("log_likelihood")]]
    found: dict[str, tuple[str, ...]] = {}
    for place in (dataset, spare):
        ending = {str(name): tuple(map(str, v.dims)) for name, v in place.data_vars.items()}
        names = [name for name, dims in ending.items() if dims and dims[-1] == unit]
        if len(names) == 1:
            return place[names[0]]
        found |= ending
        if names:
            break
    raise ValueError(
        f"unit must be the last dimension of one variable of log_likelihood; got {unit!r}, "
        f"and the variables are {found}"
    )


def _relative_efficiency(idata: Idata, draws: NDArray[np.float64]) -> float:
    """Effective over actual draws of the likelihoods p(y_i | θ_s), averaged over units.

    It only sets the length of the tail, so two hundred units are enough to judge it by. Draws of
    one chain count as independent, as in ArviZ.
    """
    import xarray as xr

    sizes = group(idata, "log_likelihood").sizes
    chains, samples = sizes["chain"], draws.shape[1]
    if chains == 1:
        return 1.0
    chosen = draws[np.unique(np.linspace(0, len(draws) - 1, 200).astype(int))]
    chosen = chosen[np.ptp(chosen, axis=1) > 0]
    if not chosen.size:
        return 1.0
    likelihood = np.exp(chosen - chosen.max(axis=1, keepdims=True)).reshape(
        -1, chains, sizes["draw"]
    )
    dataset = xr.Dataset({"likelihood": (("unit", *_SAMPLES), likelihood)})
    effective = np.asarray(_arviz().ess(dataset, method="mean")["likelihood"])
    effective = effective[np.isfinite(effective)]
    if not effective.size:
        return 1.0
    return float(np.clip(effective.mean() / samples, 1.0 / samples, 1.0))


def _same_observations(one: Idata, other: Idata) -> bool:
    """Whether the observed data are equal; missing ones do not differ."""
    ours, theirs = _datasets(one).get("observed_data"), _datasets(other).get("observed_data")
    return ours is None or theirs is None or bool(ours.equals(theirs))
