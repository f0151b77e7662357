"""Is a network Bayes' rule: gate by gate in natural parameters, and by its update in any others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.chains.nodes import node_states
from ...models.checks import require, require_alike, require_count, require_mask
from ...models.randomness import seeded
from ..exact import chains as exact
from ..export.gates import network_and_model
from ..filters.natural import NaturalLSTMFilter, stationary_normal, stationary_scores
from ..fitting.record import Fit
from ..guides.guide import BeliefGuide, Guide, parameters_of
from ..queries import answers as queries
from ..queries.linear import Moments

PARTS = "forget", "kept", "written"
"""What is compared: the gate f, the kept part s f c and the written part s i g."""

LEAST_CELL = 0.3
"""Departures of natural parameters below which the forget gate multiplies next to nothing: any
gate would do there."""


@dataclass(frozen=True)
class Agreement:
    """How well one quantity of a network agrees with that of Bayes' rule, step by step.

    Attributes:
        r_squared: 1 − Σ(x − x̂)² / Σ(x − x̄)², x̂ the network's: 1 only where they are equal;
            NaN where x is constant.
        slope: of the regression of the network's on that of Bayes' rule.
        interval: 95 % interval of the slope, by leaving out one sequence at a time.
        largest: largest difference over all steps.
        steps: number of steps compared.

    >>> import torch
    >>> from beliefzoo.inference import Agreement
    >>> exact = torch.arange(12.0).reshape(3, 4)
    >>> found = Agreement.of(0.5 * exact, exact, torch.ones(3, 4, dtype=torch.bool))
    >>> round(found.slope, 3), found.largest
    (0.5, 5.5)
    """

    r_squared: float
    slope: float
    interval: tuple[float, float]
    largest: float
    steps: int

    @classmethod
    @boundary
    def of(cls, network: Tensor, bayes: Tensor, inside: Tensor) -> Agreement:
        """Compares (N, T) with (N, T) at the steps of a mask (N, T)."""
        require_alike(network=network, bayes=bayes, inside=inside)
        require_mask(inside, "inside")
        x, y = (torch.where(inside, each, 0).double() for each in (bayes, network))
        count = inside.sum(-1).double()
        sums = torch.stack([count, x.sum(-1), y.sum(-1), (x * x).sum(-1), (x * y).sum(-1)], -1)
        whole, n = sums.sum(0), int((count > 0).sum())
        if whole[0] == 0:
            return cls(math.nan, math.nan, (math.nan, math.nan), math.nan, 0)
        spread = whole[3] - whole[1] ** 2 / whole[0]
        lost = ((y - x) ** 2).sum()
        flat = bool(spread <= 1e-12 * whole[3])
        slope = _slope(whole)
        without = _slope(whole - sums[count > 0])
        error = 1.96 * float(((n - 1) * (without - without.mean()).square().mean()).sqrt())
        return cls(
            math.nan if flat else float(1 - lost / spread),
            float(slope),
            (float(slope) - error, float(slope) + error),
            float((y - x).abs().max()),
            int(whole[0]),
        )


def _slope(sums: Tensor) -> Tensor:
    """The slope of a regression from (…, 5): n, Σx, Σy, Σx², Σxy."""
    n, x, y, xx, xy = sums.unbind(-1)
    return (xy - x * y / n) / (xx - x * x / n)


@dataclass(frozen=True)
class GateIdentity:
    """The gates of a network beside the factors of Bayes' rule; made by :func:`gate_identity`.

    Attributes:
        units: for every natural cell ``forget``, ``kept`` and ``written``.

    >>> from beliefzoo.inference import Agreement, GateIdentity
    >>> one = Agreement(0.99, 1.0, (0.99, 1.01), 0.1, 500)
    >>> GateIdentity(({"forget": one, "kept": one, "written": one},)).worst("kept")
    0.99
    """

    units: tuple[Mapping[str, Agreement], ...]

    def worst(self, part: str) -> float:
        """Returns the least R² of a part over the units."""
        return min(unit[part].r_squared for unit in self.units)

    def __str__(self) -> str:
        lines = [f"{'cell':<6}{'part':<10}{'R²':>9}{'slope':>9}{'95 % interval':>20}{'steps':>9}"]
        for number, unit in enumerate(self.units):
            for part, one in unit.items():
                low, high = one.interval
                lines.append(
                    f"{number:<6}{part:<10}{one.r_squared:>9.5f}{one.slope:>9.4f}"
                    f"{f'{low:.4f} … {high:.4f}':>20}{one.steps:>9}"
                )
        return "\n".join(lines)


@boundary
def gate_identity(
    guide: Guide | Fit, data: Sequences, *, least: float = LEAST_CELL
) -> GateIdentity:
    r"""Compares the gates of a :class:`NaturalLSTMFilter` with the factors of Bayes' rule.

    Of the exact filter's natural parameters, measured from their stationary value, c = λ − λ*:

    .. math:: c_t = \Phi(c_{t-1}) + u_t, \qquad f = \Phi(c_{t-1}) / c_{t-1}

    Φ is the transition, and u what the observation says: log O_k(y) − log O_K(y) of K states, the
    change of the logits of binary nodes, C (y − d) / R and C² / R of a normal belief. The forget
    gate is compared with f, the kept part s f c with Φ(c), the written part s i g with u; from the
    second step on.

    Args:
        guide: a guide with such a filter, or its fit; unknown parameters are at their medians.
        data: sequences that the filter was not trained on.
        least: size of c below which the forget gate is not compared.

    Returns:
        Agreement of every natural cell.

    Raises:
        ValueError: another filter, or data that the model cannot emit.

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, NaturalLSTMFilter, gate_identity
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="gaussian").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1, 1], scale=[1, 1]
    ... )
    >>> guide, _ = BeliefGuide(model, NaturalLSTMFilter(3)), torch.manual_seed(0)
    >>> found = gate_identity(guide, model.sample(10, 20, seed=0).data)  # of an untrained network
    >>> found.worst("forget") < 0.5
    True
    """
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    own, model = network_and_model(guide, None)
    require(
        isinstance(own, NaturalLSTMFilter),
        "guide",
        "needs a NaturalLSTMFilter: the gates of other networks have no units in which they could "
        "be compared; see update_agreement",
        type(own).__name__,
    )
    assert isinstance(own, NaturalLSTMFilter)
    require(least >= 0, "least", "must be >= 0", least)
    model.check_values(data)
    with torch.no_grad():
        gates = own.gates(model.laws({}, data))
        bayes = bayes_factors(model, data)
    scale = own.natural_scale
    i, f, g, c = (gates[name][:, :, 0, : own.natural].double() for name in "ifgc")
    parts = {
        "forget": (f[:, 1:], bayes["kept"] / bayes["before"]),
        "kept": (scale * f[:, 1:] * c[:, :-1], bayes["kept"]),
        "written": (scale * (i * g)[:, 1:], bayes["written"]),
    }
    later = data.step_mask[:, 1:]
    units = []
    for unit in range(own.natural):
        found = {}
        for name, (network, exactly) in parts.items():
            inside = later & exactly[..., unit].isfinite()
            if name == "forget":
                inside = inside & (bayes["before"][..., unit].abs() > least)
            found[name] = Agreement.of(network[..., unit], exactly[..., unit], inside)
        units.append(found)
    return GateIdentity(tuple(units))


def bayes_factors(model: Model, data: Sequences) -> dict[str, Tensor]:
    """The parts of the exact filter's update, from the second step on, (N, T − 1, cells) float64.

    Args:
        model: with known parameters.
        data: the sequences.

    Returns:
        ``before`` c_{t−1}, ``kept`` Φ(c_{t−1}) and ``written`` c_t − Φ(c_{t−1}).
    """
    if not model.belief.discrete:
        return _normal_factors(model, data)
    laws = model.laws({}, data)
    assert laws.discrete is not None
    found = exact.filter_chain(*laws.discrete.chain)
    rest = natural(stationary_scores(laws, model.belief), None)
    nodes = model.belief.nodes
    before, after = natural(found.log_beliefs, nodes), natural(found.log_predicted, nodes)
    if nodes is not None:
        rest = stationary_scores(laws, model.belief)
    return {
        "before": (before[:, :-1] - rest[:, 0]).double(),
        "kept": (after[:, 1:] - rest[:, 0]).double(),
        "written": (before - after)[:, 1:].double(),
    }


def natural(log_p: Tensor, nodes: int | None) -> Tensor:
    """log p(k) − log p(K) of laws (…, K), or the logits of k nodes."""
    if nodes is None:
        return log_p[..., :-1] - log_p[..., -1:]
    on = node_states(nodes).bool().mT  # (nodes, K)
    each = log_p.unsqueeze(-2)
    up, down = (each.masked_fill(~part, -torch.inf).logsumexp(-1) for part in (on, ~on))
    return up - down


def _normal_factors(model: Model, data: Sequences) -> dict[str, Tensor]:
    """Of mean times precision and of the precision, in units of the states as in the filter."""
    laws = model.laws({}, data).linear
    require(
        laws is not None and laws.size == 1, "model", "needs discrete states or one normal", model
    )
    assert laws is not None
    centre, settled = stationary_normal(laws, torch.zeros(1, dtype=torch.float64))
    require(
        float(settled) > 0,
        "model",
        "needs a state that settles, |a| < 1, to measure its natural parameters from",
        model,
    )

    def scores(law: Moments) -> Tensor:
        precision = law.covariance[..., 0, 0].reciprocal()
        return torch.stack([precision * (law.mean[..., 0] - centre), precision - settled], -1)

    after, predicted = scores(queries.filter(model, data)), scores(queries.predict(model, data))
    return {
        "before": after[:, :-1],
        "kept": predicted[:, 1:],
        "written": (after - predicted)[:, 1:],
    }


@boundary
def update_agreement(
    guide: Guide | Fit, data: Sequences, *, changes: int = 8, seed: int = 0
) -> Agreement:
    r"""Compares the update of any network's belief with Bayes' rule, whatever its coordinates.

    Two histories that differ in y_{t−1} alone lead to beliefs β and β' before y_t. Under Bayes'
    rule the beliefs after it differ by what the transition leaves of the difference:

    .. math:: \lambda_t' - \lambda_t = \Phi(\lambda_{t-1}') - \Phi(\lambda_{t-1})

    λ are log p(k) − log p(K) of the network's *own* beliefs, Φ is the transition of the model. Both
    sides are compared; nothing is asked of the gates, or of the coordinates of the state.

    Args:
        guide: a ``BeliefGuide`` with any filter, or its fit; unknown parameters are at their
            medians.
        data: sequences of at least two steps.
        changes: steps of each sequence whose history is changed, each to an observation that is
            drawn from all of the data.
        seed: of the steps and the changes.

    Returns:
        Agreement over all changes and coordinates.

    Raises:
        ValueError: another guide, continuous states, or no sequence of two steps.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, update_agreement
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> found = update_agreement(BeliefGuide(model, ExactFilter()), model.sample(5, 9, seed=0).data)
    >>> round(found.r_squared, 9), round(found.slope, 9)
    (1.0, 1.0)
    """
    own = guide.guide if isinstance(guide, Fit) else guide
    require(isinstance(own, BeliefGuide), "guide", "must be a BeliefGuide", type(own).__name__)
    assert isinstance(own, BeliefGuide)
    require(own.model.belief.discrete, "guide", "needs a model of discrete states", own.model)
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    require_count(changes, "changes")
    long = data.lengths > 1
    require(bool(long.any()), "data", "needs a sequence of two steps", data.max_length)
    data = data[long.nonzero()[:, 0]] if not bool(long.all()) else data
    model = parameters_of(own)
    model.check_values(data)
    network: list[Tensor] = []
    bayes: list[Tensor] = []
    with seeded(seed), torch.no_grad():
        first = _after(own, model, data)
        rows = torch.arange(len(data))
        for _ in range(changes):
            steps = 1 + (torch.rand(len(data)) * (data.lengths - 1)).long()
            changed = _after(own, model, _with_another(data, steps - 1))
            parts = zip((network, bayes), changed, first, strict=True)
            for found, now, then in parts:
                found.append((now - then)[rows, steps - 1])
    told, exactly = torch.stack(network, 1).flatten(1), torch.stack(bayes, 1).flatten(1)
    return Agreement.of(told, exactly, exactly.isfinite() & told.isfinite())


def _with_another(data: Sequences, steps: Tensor) -> Sequences:
    """The same sequences with the observation at one step of each replaced by another's."""
    seen = data.step_mask.nonzero()
    other = seen[torch.randint(len(seen), (len(data),))].unbind(1)
    values, mask, rows = data.values.clone(), data.mask.clone(), torch.arange(len(data))
    values[rows, steps], mask[rows, steps] = data.values[other], data.mask[other]
    return replace(data, values=values, mask=mask)


def _after(guide: BeliefGuide, model: Model, data: Sequences) -> tuple[Tensor, Tensor]:
    """λ_t of the network and Φ(λ_{t−1}), from the second step on, (N, T − 1, K − 1) each."""
    laws = model.laws({}, data)
    beliefs = guide.filter(laws)
    assert laws.discrete is not None
    assert isinstance(beliefs, Tensor)
    moved = beliefs[:, :-1].unsqueeze(-1) + laws.discrete.log_transition
    return natural(beliefs[:, 1:], None), natural(moved.logsumexp(-2), None)
