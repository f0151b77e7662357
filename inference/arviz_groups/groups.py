"""Groups of inference data on both majors of ArviZ: making them, and reading them.

ArviZ is loaded here alone, when first needed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from arviz import InferenceData
    from numpy.typing import ArrayLike, NDArray

Idata: TypeAlias = "InferenceData | xr.DataTree"
"""What the installed ArviZ calls inference data."""

_Entry = TypeVar("_Entry")

SAMPLES = ("chain", "draw")
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


@cache
def arviz() -> Any:
    """ArviZ, loaded when first needed since that takes seconds; its functions carry few types."""
    with warnings.catch_warnings():
        # 0.23 announces its successor once a day; both are supported, so the warning is silenced.
        message = r"\s*ArviZ is undergoing"
        warnings.filterwarnings("ignore", category=FutureWarning, message=message)
        import arviz
    return arviz


def is_arviz_1() -> bool:
    """Whether the installed ArviZ is of major 1 or later, by its metadata."""
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
    reserved = {*SAMPLES, *labels, *(name for names in dims.values() for name in names)}
    datasets = {
        name: _dataset(name, variables, _scoped(dims, name), _scoped(labels, name), reserved)
        for name, variables in groups.items()
        if variables
    }
    if not datasets:
        raise ValueError(f"groups must hold at least one variable; got {dict(groups)}")
    return assemble(datasets, {key: _attribute(key, value) for key, value in (attrs or {}).items()})


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
    datasets = datasets_of(idata)
    if name not in datasets:
        raise ValueError(f"idata must have a group {name!r}; it has {', '.join(datasets)}")
    return datasets[name]


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

    given = datasets_of(idata)
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
    return assemble(out, idata.attrs)


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
        if name in SAMPLES:
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

    leading = SAMPLES if group_name in _SAMPLED_GROUPS else ()
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


def assemble(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> Idata:
    """The container of the installed ArviZ."""
    if is_arviz_1():
        return tree_of(datasets, attrs)
    idata: Idata = arviz().InferenceData(attrs=dict(attrs), **datasets)
    return idata


def tree_of(datasets: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> xr.DataTree:
    """The container of ArviZ 1.x, which NetCDF files are written from under both majors."""
    import xarray as xr

    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **datasets})


def datasets_of(idata: Idata) -> dict[str, xr.Dataset]:
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
