"""The gates of a recurrent network over time, as an xarray Dataset and as ArviZ data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.data.summary import missing_elements
from ..arviz_groups import Idata, build
from ..filters.recurrences import check_inputs, check_network, recurrent_gates
from ..filters.recurrent import RecurrentFilter
from ..fitting.provenance import source_commit
from ..fitting.record import Fit
from ..guides.guide import Guide, parameters_of
from .sample import Array, as_array

if TYPE_CHECKING:
    import xarray as xr

GATE_DIMS = "sequence", "time", "layer", "unit"
"""Dimensions of every gate."""

_MEANINGS: Mapping[str, str] = {
    "i": "input gate",
    "f": "forget gate",
    "g": "candidate",
    "o": "output gate",
    "c": "cell",
    "h": "output",
    "r": "reset gate",
    "z": "update gate",
    "n": "candidate",
}

Recurrent = nn.RNNBase | RecurrentFilter | Guide | Fit


@boundary
def gates(
    network: Recurrent, data: Sequences | Tensor, *, model: Model | None = None
) -> xr.Dataset:
    r"""Returns all gates, cells and outputs of a recurrent network at every step of every sequence.

    Names are torch's. ``torch.nn.LSTM``, with h_0 = c_0 = 0 (a bias for each of the two products):

    .. math::
        i, f, o = \sigma(W y_t + U h_{t-1} + b), \quad g = \tanh(W y_t + U h_{t-1} + b), \quad
        c_t = f c_{t-1} + i g, \quad h_t = o \tanh(c_t)

    ``torch.nn.GRU``: r, z, n, h; ``torch.nn.RNN``: h. Dropout between layers is off.

    Args:
        network: a ``torch.nn`` LSTM, GRU or RNN with any number of layers; a recurrent filter; a
            guide or a fit whose filter is recurrent, with unknown parameters at their medians.
        data: for a ``torch.nn`` network its input, a tensor (sequences, steps, input_size), or
            ``Sequences`` without missing elements, whose codes are read as one-hot vectors; for a
            filter, guide or fit the ``Sequences`` of its model.
        model: for a recurrent filter outside a guide, the model that it was built for.

    Returns:
        A Dataset with dims (sequence, time, layer, unit), NaN beyond the length of a sequence, in
        the dtype of the network.

    Raises:
        ValueError: a network that reads backward or has a projection; data of another width, or
            with missing elements; a filter that is exact, or given without a model.

    >>> import torch
    >>> from beliefzoo.inference import gates
    >>> lstm = torch.nn.LSTM(input_size=3, hidden_size=8, batch_first=True)
    >>> found = gates(lstm, torch.zeros(2, 10, 3))
    >>> list(found.data_vars), dict(found.sizes)
    (['i', 'f', 'g', 'o', 'c', 'h'], {'sequence': 2, 'time': 10, 'layer': 1, 'unit': 8})
    """
    if isinstance(network, nn.RNNBase):
        own = network
        check_network(network)
        with torch.no_grad():
            found = recurrent_gates(network, _inputs(network, data))
    else:
        filter, model = network_and_model(network, model)
        if not isinstance(data, Sequences):
            raise ValueError(
                f"data: must be Sequences for a {type(network).__name__}, got {type(data).__name__}"
            )
        model.check_values(data)
        data = model.names.read(data)
        assert filter.network is not None  # it is built
        own = filter.network
        with torch.no_grad():
            found = filter.gates(model.laws({}, data))
    arrays = {name: _within(part.numpy(force=True), data) for name, part in found.items()}
    return _dataset(arrays, data, type(own).__name__)


def gates_of(result: Fit, data: Sequences) -> dict[str, Array]:
    """Returns the variables of ``gates(result, data)`` as arrays."""
    return {str(name): each.values for name, each in gates(result, data).data_vars.items()}


@boundary
def export_gates(
    network: Recurrent, data: Sequences | Tensor, *, model: Model | None = None
) -> Idata:
    """Exports :func:`gates` as the group ``gates`` of ArviZ data, which ``write`` saves as NetCDF.

    Args:
        network, data, model: as of :func:`gates`.

    Returns:
        Inference data; with ``Sequences`` their values are the group ``observed_data``.

    Raises:
        ValueError: as :func:`gates`.

    >>> import torch
    >>> from beliefzoo.inference import arviz_groups, export_gates
    >>> gru = torch.nn.GRU(input_size=3, hidden_size=8, batch_first=True)
    >>> idata = export_gates(gru, torch.zeros(2, 10, 3))
    >>> sorted(arviz_groups.group(idata, "gates").data_vars)
    ['h', 'n', 'r', 'z']
    """
    found = gates(network, data, model=model)
    arrays = {str(name): variable.values for name, variable in found.data_vars.items()}
    groups: dict[str, dict[str, Array]] = {"gates": arrays}
    dims: dict[str, tuple[str, ...]] = gate_dims(arrays)
    coords = {str(name): values.values for name, values in found.coords.items()}
    if isinstance(data, Sequences):
        groups["observed_data"] = {"obs": np.where(as_array(data.mask), data.values.cpu(), np.nan)}
        feature = () if data.is_codes else ("feature",)
        dims["obs"] = ("sequence", "time", *feature)
        coords |= {} if data.is_codes else {"feature": np.array(data.features)}
    attrs = {"network": found.attrs["network"]}
    if commit := source_commit():
        attrs["git_commit"] = commit
    return build(groups, dims=dims, coords=coords, attrs=attrs)


def gate_dims(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the dimensions of these variables of the group ``gates``, as ``build`` takes them."""
    return {f"gates/{name}": GATE_DIMS for name in names}


def _dataset(arrays: Mapping[str, Array], data: Sequences | Tensor, kind: str) -> xr.Dataset:
    import xarray as xr

    sequences, steps, layers, units = next(iter(arrays.values())).shape
    labels = np.array(data.labels) if isinstance(data, Sequences) else np.arange(sequences)
    variables = {
        name: (GATE_DIMS, array, {"long_name": _MEANINGS[name]}) for name, array in arrays.items()
    }
    counts = zip(GATE_DIMS[1:], (steps, layers, units), strict=True)
    coords = {"sequence": labels, **{name: np.arange(size) for name, size in counts}}
    return xr.Dataset(variables, coords=coords, attrs={"network": kind})


def _within(array: Array, data: Sequences | Tensor) -> Array:
    if not isinstance(data, Sequences):
        return array
    inside = as_array(data.step_mask)[..., None, None]
    return np.where(inside, array, np.asarray(np.nan, array.dtype))


def network_and_model(
    network: RecurrentFilter | Guide | Fit, model: Model | None
) -> tuple[RecurrentFilter, Model]:
    """Return a filter with gates, and the model whose laws it reads, parameters at their medians.

    Raises:
        ValueError: a filter without a model, or one without gates of a forward network.
    """
    if isinstance(network, RecurrentFilter):
        filter: Any = network
        if filter.head is None or model is None:
            raise ValueError(
                "network: a filter reads the data of a model that it was built for; give model=…, "
                f"a guide or a fit, got {type(network).__name__} with model={model!r}"
            )
        filter.build(model)  # raises for another model
    else:
        guide = network.guide if isinstance(network, Fit) else network
        if not isinstance(guide, Guide):
            raise ValueError(
                "network: must be a torch.nn LSTM, GRU or RNN, a recurrent filter, a guide or a "
                f"fit, got {type(network).__name__}"
            )
        filter, model = guide.filter, parameters_of(guide)
    if not isinstance(filter, RecurrentFilter):
        raise ValueError(f"network: needs a recurrent filter, got {type(filter).__name__}")
    if filter.direction != "forward":
        raise ValueError(
            f"network: gates are those of a network that reads forward, got {filter.direction!r}"
        )
    return filter, model


def model_of(network: Recurrent) -> Model | None:
    """Returns the model of a guide or fit, parameters at their medians; None for networks."""
    guide = network.guide if isinstance(network, Fit) else network
    return parameters_of(guide) if isinstance(guide, Guide) else None


def _inputs(network: nn.RNNBase, data: Sequences | Tensor) -> Tensor:
    """The inputs of the network, (N, T, input_size)."""
    like = next(network.parameters())
    if isinstance(data, Tensor):
        check_inputs(network, data, "data")
        return data.to(like)
    if not isinstance(data, Sequences):
        raise ValueError(
            f"data: must be Sequences or a tensor (sequences, steps, {network.input_size}), got "
            f"{type(data).__name__}"
        )
    missing = missing_elements(data)
    if missing:
        raise ValueError(
            "data: a torch.nn network reads whole sequences; give a tensor with what it reads for "
            f"missing elements, got {missing} of them"
        )
    if not data.is_codes:
        check_inputs(network, data.values, "data")
        return data.values.to(like)
    top = int(data.codes().max())
    if top >= network.input_size:
        raise ValueError(
            f"data: a network with input_size={network.input_size} reads codes below that, got "
            f"{top}"
        )
    return nn.functional.one_hot(data.codes().clamp_min(0), network.input_size).to(like)
