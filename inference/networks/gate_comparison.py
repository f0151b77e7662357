"""Correlation of a network's gates with quantities of a model's exact posterior.

In a memory cell that is exact (docs/science.md, I6 and I7) the forget gate is the probability that
the state was kept, or the share of the prediction that survives the observation, and the input gate
is the gain: the weight of the observation. The corresponding quantities of the posterior are:

==================  ============================================================================
staying             P(z_t = z_{t-1} | y_1 … y_t), of discrete states
retention           tr(P_t P⁻_t⁻¹) / D of continuous states, 1 − K C for one; P⁻, P predicted and
                    filtered covariance
surprise            −log p(y_t | y_1 … y_{t-1})
information gain    KL(b_t ‖ π_t): from the prediction to the belief
==================  ============================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.beliefs import divergence
from ...models.boundary import boundary
from ...models.checks import Impossible, require
from ..exact import chains as exact
from ..queries import answers as queries
from ..queries.batches import BATCH
from ..queries.chains import require_discrete
from ..queries.possible import possible_data, require_possible
from .readouts import mean_readout

_HEAD = ("gate", "quantity", "best unit", "correlation", "R², all units")

GATES = ("i", "f", "o")
"""The gates of an LSTM, by torch's names."""


def posterior_quantities(
    model: Model, data: Sequences, *, impossible: Impossible = "raise"
) -> dict[str, Tensor]:
    """Quantities of the exact filter at every step; the module defines them.

    Args:
        model: with an exact filter and known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        (N, T) float64 by name, zero beyond the length. At the first step ``staying`` is 0.

    Raises:
        ValueError: a model without exact filter, or unknown parameters.

    >>> from beliefzoo.inference import posterior_quantities
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> found = posterior_quantities(model, Sequences.from_arrays([[0, 1, 9, 8]]))
    >>> sorted(found), found["staying"].numpy().round(2)[0]
    (['information gain', 'staying', 'surprise'], array([0., 1., 0., 1.]))
    """
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    if impossible != "raise":
        data = possible_data(model, data, impossible)
    if getattr(model, "has_paths", False):
        return _of_states(model, data)
    require(
        getattr(model, "exact", False),
        "model",
        "needs a hidden Markov model or a linear-Gaussian one",
        model,
    )
    return _of_means(model, data)


def _of_states(model: Model, data: Sequences) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {"staying": [], "surprise": [], "information gain": []}
    model.complete({})
    model.check_values(data)
    for batch in data.batches(BATCH):
        own = model.laws({}, batch)
        require_possible(own)
        laws = require_discrete(own)
        inside, wide = batch.step_mask, data.max_length - batch.max_length
        with torch.no_grad():
            found = exact.filter_chain(*laws.chain)
            predicted = found.log_predicted
            if model.scheduled(batch) is not batch:  # a step's law is a density of its time
                predicted = queries.predict(model, batch).log()
            stay = laws.matrices.diagonal(dim1=-2, dim2=-1)  # (N|1, T-1|1, K)
            stay = stay if laws.choice is None else stay[0][laws.choice]
            kept = found.log_beliefs[:, :-1] + stay + laws.log_likelihood[:, 1:]
            staying = torch.zeros(inside.shape, dtype=torch.float64)
            staying[:, 1:] = (kept.logsumexp(-1) - found.log_increments[:, 1:]).exp()
            one = {
                "staying": staying,
                "surprise": -found.log_increments,
                "information gain": divergence(found.log_beliefs, predicted),
            }
        for name, values in one.items():
            values = torch.where(inside, values, 0)
            parts[name].append(torch.nn.functional.pad(values, (0, wide)))
    return {name: torch.cat(each) for name, each in parts.items()}


def _of_means(model: Model, data: Sequences) -> dict[str, Tensor]:
    before, after = queries.predict(model, data), queries.filter(model, data)
    known = data.step_mask & before.covariance.isfinite().all(-1).all(-1)
    unit = torch.eye(before.mean.shape[-1], dtype=torch.float64)
    prior = torch.where(known[..., None, None], before.covariance, unit)
    posterior = torch.where(known[..., None, None], after.covariance, unit)
    shift = torch.where(known.unsqueeze(-1), after.mean - before.mean, 0).unsqueeze(-1)
    inverse = torch.linalg.pinv(prior, hermitian=True)
    kept = (posterior @ inverse).diagonal(dim1=-2, dim2=-1)
    moved = (shift * (inverse @ shift)).sum((-1, -2))
    values = torch.linalg.eigvals(posterior @ inverse).real.clamp_min(1e-300)
    gain = (kept.sum(-1) + moved - len(unit) - values.log().sum(-1)) / 2
    out = {
        "retention": kept.mean(-1),
        "surprise": -queries.step_log_likelihood(model, data),
        "information gain": gain,
    }
    return {name: torch.where(known, each, 0) for name, each in out.items()}


@dataclass(frozen=True)
class BestUnit:
    """The unit of a gate that correlates most with a quantity.

    Attributes:
        layer, unit: the unit.
        correlation: Pearson's, over the steps from the second on; with its sign.
        all_units_r_squared: R² on held-out sequences of the quantity regressed on all units of the
            gate in all layers.

    >>> from beliefzoo.inference import BestUnit
    >>> found = BestUnit(layer=0, unit=3, correlation=-0.93, all_units_r_squared=0.97)
    >>> found.correlation**2 < found.all_units_r_squared
    True
    """

    layer: int
    unit: int
    correlation: float
    all_units_r_squared: float


@dataclass(frozen=True)
class GateComparison:
    """Correlations of gates with quantities of the posterior; made by :func:`compare_gates`.

    Attributes:
        correlations: gate → quantity → Pearson correlation of every unit, (layers, units).
        best: gate → quantity → the unit with the largest |correlation|.

    >>> import torch
    >>> from beliefzoo.inference import compare_gates
    >>> belief = torch.rand(6, 20, generator=torch.Generator().manual_seed(0))
    >>> gates = {"f": torch.stack([belief, belief.square()], -1).unsqueeze(2)}
    >>> inside = torch.ones(6, 20, dtype=torch.bool)
    >>> found = compare_gates(gates, {"staying": belief}, inside)
    >>> found.correlations["f"]["staying"].shape, found.best["f"]["staying"].unit
    (torch.Size([1, 2]), 0)
    """

    correlations: dict[str, dict[str, Tensor]]
    best: dict[str, dict[str, BestUnit]]

    def __str__(self) -> str:
        lines = ["  {:<6}{:<20}{:>10}{:>13}{:>15}".format(*_HEAD)]
        for gate, rows in self.best.items():
            for quantity, one in rows.items():
                place = f"{one.layer}:{one.unit}"
                lines.append(
                    f"  {gate:<6}{quantity:<20}{place:>10}{one.correlation:>13.3f}"
                    f"{one.all_units_r_squared:>15.3f}"
                )
        return "\n".join(lines)


@boundary
def compare_gates(
    gates: dict[str, Tensor],
    quantities: dict[str, Tensor],
    inside: Tensor,
    *,
    seed: int = 0,
) -> GateComparison:
    """Correlates every unit of the gates with every quantity, from the second step on.

    Compare with an untrained network of the same size: the best of many units correlates with any
    quantity to some degree, and gates read the input even if nothing was learned.

    Args:
        gates: (N, T, layers, units) by name, from :func:`recurrent_gates`; those in ``GATES`` are
            used.
        quantities: (N, T) by name, from :func:`posterior_quantities`.
        inside: (N, T) bool, the steps to use.
        seed: of the held-out sequences for the joint regression on all units.

    Returns:
        Correlations of all units, and the best unit of each gate.

    Raises:
        ValueError: no gate among ``GATES``, or shapes that do not fit.

    >>> import torch
    >>> from beliefzoo.inference import compare_gates, posterior_quantities, recurrent_gates
    >>> from beliefzoo.models import mess3
    >>> model, _ = mess3().model, torch.manual_seed(0)
    >>> data = model.sample(20, 10, seed=0).data
    >>> symbols = torch.nn.functional.one_hot(data.values.long(), 3).float()
    >>> gates = recurrent_gates(torch.nn.LSTM(3, 4, batch_first=True), symbols)
    >>> found = compare_gates(gates, posterior_quantities(model, data), data.step_mask)
    >>> best = found.best["f"]["staying"]  # of an untrained network
    >>> -1 <= best.correlation <= 1
    True
    """
    named = [name for name in GATES if name in gates]
    require(bool(named), "gates", f"needs some of {GATES}", sorted(gates))
    for name, each in {"inside": inside, **gates, **quantities}.items():
        require(isinstance(each, Tensor), name, "must be a tensor", type(each).__name__)
    shape = tuple(gates[named[0]].shape)
    require(len(shape) == 4, "gates", "need shape (sequences, steps, layers, units)", shape)
    require(
        tuple(inside.shape) == shape[:2] and inside.dtype == torch.bool,
        "inside",
        f"needs bools of shape {shape[:2]}",
        f"{inside.dtype} of shape {tuple(inside.shape)}",
    )
    for name, one in quantities.items():
        require(one.shape == inside.shape, name, f"needs shape {shape[:2]}", tuple(one.shape))
    later = inside.clone()
    later[:, 0] = False
    correlations: dict[str, dict[str, Tensor]] = {}
    best: dict[str, dict[str, BestUnit]] = {}
    for name in named:
        units = gates[name].detach().double()
        correlations[name], best[name] = {}, {}
        for quantity, target in quantities.items():
            found = _correlations(units[later], target[later].double())
            place = int(found.abs().argmax())
            layer, unit = divmod(place, found.shape[-1])
            joint = mean_readout(units.flatten(2), target.unsqueeze(-1), later, seed=seed)
            correlations[name][quantity] = found
            best[name][quantity] = BestUnit(layer, unit, float(found[layer, unit]), joint.r_squared)
    return GateComparison(correlations, best)


def _correlations(x: Tensor, y: Tensor) -> Tensor:
    """Correlations of x (n, layers, units) with y (n,); 0 where one is constant."""
    x, y = x - x.mean(0), y - y.mean()
    scale = x.square().sum(0).sqrt() * y.square().sum().sqrt()
    product = torch.einsum("nlu,n->lu", x, y)
    return torch.where(scale > 0, product / scale, 0)
