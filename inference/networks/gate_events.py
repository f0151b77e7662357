"""Gates of a network together with quantities of the exact belief at the same steps.

With b the filter and π its prediction, π_{t+1} = b_t T_{a_t}:

====================  ==========================================================================
information gain      KL(b_t ‖ π_t): what the observation adds, nats
carried information   I(z_{t-1}; z_t | y_1 … y_{t-1}, a_{t-1}): what remains of the belief before,
                      H(π_t) − Σ_z b_{t-1}(z) H(T(· | z, a_{t-1})), nats
entropy               H(b_t), nats
reset                 whether the transition forgets the state: all rows of T_{a_{t-1}} are equal,
                      as for opening a door in the tiger problem
====================  ==========================================================================

and ``staying`` and ``surprise`` of ``posterior_quantities``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import Impossible, require
from ..export.gates import Recurrent, gates, model_of
from ..export.sample import as_array
from ..queries import answers as queries
from ..queries.batches import BATCH
from ..queries.chains import require_discrete
from ..queries.possible import possible_data
from .gate_comparison import posterior_quantities

if TYPE_CHECKING:
    import xarray as xr

_SAME = 1e-9
"""Rows of probabilities that differ by less are the same."""


@boundary
def belief_events(
    model: Model, data: Sequences, *, impossible: Impossible = "raise"
) -> dict[str, Tensor]:
    """Quantities of the exact belief over discrete states at every step; the module defines them.

    Args:
        model: with discrete states and known parameters.
        data: N sequences of at most T steps, with actions if the model has them.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        (N, T) float64 by name, zero beyond the length. At the first step ``carried information``
        and ``reset`` are 0.

    Raises:
        ValueError: a model without discrete states, or unknown parameters.

    >>> from beliefzoo.inference import belief_events
    >>> from beliefzoo.models import ActionSequence, tiger
    >>> model = tiger()
    >>> data = model.rollout(ActionSequence((0, 0, 1, 0)), episodes=1, length=4, seed=0).data
    >>> events = belief_events(model, data)  # listen, listen, open a door, listen
    >>> events["reset"].tolist(), events["carried information"].numpy().round(2)[0]
    ([[0.0, 0.0, 0.0, 1.0]], array([0.  , 0.69, 0.42, 0.  ]))
    """
    fits = getattr(model, "has_paths", False)
    require(fits, "model", "needs discrete states", model)
    if impossible != "raise":
        data = possible_data(model, data, impossible)
    out = posterior_quantities(model, data)
    parts = [_of_batch(model, batch) for batch in data.batches(BATCH)]
    for name in parts[0]:
        wide = [
            torch.nn.functional.pad(part[name], (0, data.max_length - part[name].shape[1]))
            for part in parts
        ]
        out[name] = torch.cat(wide)
    return out


def _of_batch(model: Model, data: Sequences) -> dict[str, Tensor]:
    laws = require_discrete(model.laws({}, model.scheduled(data)))
    with torch.no_grad():
        belief, predicted = queries.filter(model, data), queries.predict(model, data)
        moves = laws.matrices
        rows = _entropy(moves.exp())  # (N|1, A|T-1|1, K)
        alike = (moves.exp().diff(dim=-2).abs() < _SAME).all(-1).all(-1).double()
        if laws.choice is not None:
            rows, alike = rows[0][laws.choice], alike[0][laws.choice]
        inside = data.step_mask
        own = _entropy(predicted[:, 1:]) - (belief[:, :-1] * rows).sum(-1)
        later = {"carried information": own.clamp_min(0), "reset": alike.expand_as(own)}
        out = {name: torch.nn.functional.pad(each, (1, 0)) for name, each in later.items()}
        out["entropy"] = _entropy(belief)
        return {name: torch.where(inside, each, 0) for name, each in out.items()}


def _entropy(probability: Tensor) -> Tensor:
    terms: Tensor = torch.special.xlogy(probability, probability)
    return -terms.sum(-1)


@boundary
def gates_and_beliefs(
    network: Recurrent, data: Sequences, *, model: Model | None = None
) -> xr.Dataset:
    """Gates of a network over time, with :func:`belief_events` of a model at the same steps.

    Args:
        network: a ``torch.nn`` network, a recurrent filter, a guide or a fit, as for
            :func:`gates`.
        data: the sequences.
        model: the model of the belief; default: that of a guide or fit, at the medians of its
            parameters.

    Returns:
        The dataset of :func:`gates`, with the events as further variables (sequence, time), their
        names with ``_`` for blanks; NaN beyond the length.

    Raises:
        ValueError: as for :func:`gates` and :func:`belief_events`; no model where one is needed.

    >>> from beliefzoo.inference import BeliefGuide, LSTMFilter, gates_and_beliefs
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> guide = BeliefGuide(model, LSTMFilter(hidden_size=4))
    >>> found = gates_and_beliefs(guide, model.sample(2, 5, seed=0).data)
    >>> found["f"].dims, found["information_gain"].dims
    (('sequence', 'time', 'layer', 'unit'), ('sequence', 'time'))
    """
    judged = model_of(network) if model is None else model
    requirement = "is needed for a network that is in no guide"
    require(judged is not None, "model", requirement, type(network).__name__)
    assert judged is not None
    found = gates(network, data, model=model)
    inside = as_array(data.step_mask)
    for name, each in belief_events(judged, data).items():
        values = np.where(inside, as_array(each), np.nan)
        key = name.replace(" ", "_")
        found[key] = (("sequence", "time"), values, {"long_name": name})
    return found
