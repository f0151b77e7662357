"""Update errors by time and event: where a network departs from Bayes' rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_alike, require_count
from .evidence_gap import EvidenceGap, standard_error


@dataclass(frozen=True)
class EventTable:
    """Means of a quantity of every step, grouped by event.

    Attributes:
        event: what the steps are grouped by.
        names: names of the E groups.
        mean: mean over the steps of each group, (E,); NaN over no steps.
        standard_error: over sequences, (E,); NaN for a single sequence.
        steps: number of steps in each group, (E,).
        share: share of the total over all steps that falls into each group, (E,).

    >>> import torch
    >>> from beliefzoo.inference import EventTable
    >>> groups = torch.tensor([[0, 0, 1], [0, 1, -1]])
    >>> values = torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, 9.0]])
    >>> table = EventTable.of("weather", ["dry", "wet"], groups, values)
    >>> table.mean.tolist(), table.steps.tolist()
    ([2.0, 5.0], [3, 2])
    """

    event: str
    names: tuple[str, ...]
    mean: Tensor
    standard_error: Tensor
    steps: Tensor
    share: Tensor

    @classmethod
    @boundary
    def of(cls, event: str, names: Sequence[str], groups: Tensor, values: Tensor) -> EventTable:
        """Groups values (N, T) by ``groups`` (N, T), indices into ``names`` or −1 for none."""
        require_alike(groups=groups, values=values)
        rows = []
        whole = float(values[groups >= 0].sum())
        for place in range(len(names)):
            inside = groups == place
            totals, counts = torch.where(inside, values, 0).sum(-1), inside.sum(-1)
            steps = int(counts.sum())
            mean = float(totals.sum()) / steps if steps else torch.nan
            error = standard_error(totals, counts) if steps else torch.nan
            share = float(totals.sum()) / whole if whole else torch.nan
            rows.append((mean, error, float(steps), share))
        mean, error, steps, share = torch.tensor(rows, dtype=torch.float64).T
        return cls(event, tuple(names), mean, error, steps.long(), share)

    def over(self, places: Sequence[int]) -> float:
        """Returns the mean over the steps of several groups; NaN if they have none."""
        index = torch.tensor(places)
        steps = self.steps[index]
        total = torch.where(steps > 0, self.mean[index] * steps, 0).sum()
        return float(total / steps.sum())

    def __str__(self) -> str:
        """Rows of the groups that occurred."""
        head = f"{self.event:<24}{'mean':>11}{'':>10}{'steps':>9}{'share':>8}"
        rows = zip(self.names, self.mean, self.standard_error, self.steps, self.share, strict=True)
        return "\n".join(
            [head]
            + [
                f"  {name:<22}{float(mean):>11.3e} ± {float(error):.1e}{int(steps):>9}{share:>8.1%}"
                for name, mean, error, steps, share in rows
                if steps
            ]
        )


@dataclass(frozen=True)
class UpdateErrors:
    """Update error u_t = KL(β_t ‖ Bayes(β_{t-1}, y_t)) by event; made by :func:`update_errors`.

    In nats per step. It is local: errors of earlier steps do not enter (docs/science.md, I1).

    Attributes:
        over_time: by time step.
        by_surprise: by surprise −log p(y_t | y_1 … y_{t-1}) under the exact filter, in equal shares
            of the steps.
        since_switch: by the steps since the true state changed; None if it is not given.
        by_missing: by whether y_t was observed, observed in part, or missing; None if nothing is
            missing.
        surprise_correlation: Spearman's correlation of update error and surprise over all steps.

    >>> from beliefzoo.inference import BeliefGuide, LSTMFilter, evidence_gap, update_errors
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> data = model.sample(20, 10, seed=0).data
    >>> found = update_errors(evidence_gap(BeliefGuide(model, LSTMFilter(4)), data), data, bins=3)
    >>> found.over_time.mean.shape, found.by_surprise.steps.sum().item()
    (torch.Size([10]), 200)
    """

    over_time: EventTable
    by_surprise: EventTable
    since_switch: EventTable | None
    by_missing: EventTable | None
    surprise_correlation: float

    def __str__(self) -> str:
        tables = self.by_surprise, self.since_switch, self.by_missing, self.over_time
        parts = ["update error, nats", *(str(table) for table in tables if table is not None)]
        parts.append(f"rank correlation with surprise: {self.surprise_correlation:.3f}")
        return "\n".join(parts)


@boundary
def update_errors(
    gap: EvidenceGap,
    data: Sequences,
    *,
    states: Tensor | None = None,
    bins: int = 10,
    lags: int = 16,
) -> UpdateErrors:
    """Groups the update error of a guide with causal beliefs by what happened at each step.

    Args:
        gap: result of ``evidence_gap`` for these data.
        data: the sequences.
        states: true hidden states or regimes (N, T), integers, for instance of a simulation.
        bins: number of equal shares of the steps by surprise.
        lags: number of steps after a switch with a row of their own; later steps share one.

    Returns:
        Tables of the mean error by event.

    Raises:
        ValueError: a gap of a guide without causal beliefs; data or states of another shape.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, evidence_gap, update_errors
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> simulated = model.sample(20, 10, seed=0)
    >>> gap = evidence_gap(BeliefGuide(model, ExactFilter()), simulated.data)
    >>> found = update_errors(gap, simulated.data, states=simulated.states, lags=2)
    >>> found.since_switch.names
    ('0', '1', '2 or more', 'no switch yet')
    >>> bool(found.over_time.mean.abs().max() < 1e-9)  # the exact filter makes no error
    True
    """
    require(
        isinstance(gap, EvidenceGap), "gap", "must be what evidence_gap returns", type(gap).__name__
    )
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    error = gap.update_error
    if error is None:
        raise ValueError("gap: needs the update errors of a BeliefGuide, got a guide without")
    inside = data.step_mask
    shape, came = tuple(error.shape), tuple(inside.shape)
    require(came == shape, "data", f"must be those of the gap, {shape}", came)
    require_count(bins, "bins")
    require_count(lags, "lags")
    error = error.detach().double()
    surprise = gap.surprise.double()
    time = torch.arange(shape[1]).expand(shape).masked_fill(~inside, -1)
    switches = None
    if states is not None:
        require(isinstance(states, Tensor), "states", "must be a tensor", type(states).__name__)
        require(
            tuple(states.shape) == shape and not states.is_floating_point(),
            "states",
            f"must be whole numbers of shape {shape}",
            f"{states.dtype} of shape {tuple(states.shape)}",
        )
        switches = _since_switch(states, inside, error, lags)
    ranks = torch.stack([_ranks(x[inside]) for x in (error, surprise)])
    return UpdateErrors(
        EventTable.of("step", [str(t + 1) for t in range(shape[1])], time, error),
        EventTable.of(
            "surprise", _bin_names(surprise[inside], bins), _bins(surprise, inside, bins), error
        ),
        switches,
        _by_missing(data, error),
        float(torch.corrcoef(ranks)[0, 1]),
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share their mean rank, since symbols often have equal surprise."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0) - 1
    ranks: Tensor = (last - (count - 1) / 2).double()[place]
    return ranks


@boundary
def steps_since_switch(states: Tensor) -> Tensor:
    """Counts the steps since the hidden state last changed.

    Args:
        states: integers, (N, T).

    Returns:
        int64 (N, T): 0 at a step where it changes, −1 before the first change.

    Raises:
        ValueError: anything but a tensor with two axes.

    >>> import torch
    >>> from beliefzoo.inference import steps_since_switch
    >>> steps_since_switch(torch.tensor([[5, 5, 2, 2, 2, 5]])).tolist()
    [[-1, -1, 0, 1, 2, 0]]
    """
    require(states.ndim == 2, "states", "must be (N, T)", tuple(states.shape))
    steps = torch.arange(states.shape[1]).expand_as(states)
    changed = torch.zeros_like(states, dtype=torch.bool)
    changed[:, 1:] = states[:, 1:] != states[:, :-1]
    last = torch.where(changed, steps, -1).cummax(1).values
    return torch.where(last >= 0, steps - last, -1)


def _since_switch(states: Tensor, inside: Tensor, error: Tensor, lags: int) -> EventTable:
    lag = steps_since_switch(states).clamp_max(lags)
    groups = torch.where(lag < 0, lags + 1, lag).masked_fill(~inside, -1)
    names = [*(str(n) for n in range(lags)), f"{lags} or more", "no switch yet"]
    return EventTable.of("steps since a switch", names, groups, error)


def _bins(values: Tensor, inside: Tensor, bins: int) -> Tensor:
    """Index of the share of the steps, by rank; −1 beyond the length."""
    groups = torch.full_like(inside, -1, dtype=torch.int64)
    flat = values[inside]
    place = torch.empty(len(flat), dtype=torch.int64)
    for number, part in enumerate(flat.argsort().tensor_split(bins)):
        place[part] = number
    groups[inside] = place
    return groups


def _bin_names(values: Tensor, bins: int) -> list[str]:
    """Number and range of each share; with symbols several shares may have the same range."""
    names = []
    for number, part in enumerate(values.sort().values.tensor_split(bins), 1):
        ends = [round(float(x), 9) + 0.0 for x in (part[:1].sum(), part[-1:].sum())]
        span = f"{ends[0]:.3g} to {ends[1]:.3g}" if len(part) else "none"
        names.append(f"{number}: {span}")
    return names


def _by_missing(data: Sequences, error: Tensor) -> EventTable | None:
    mask = data.mask if data.mask.ndim == 3 else data.mask.unsqueeze(-1)
    seen, whole = mask.any(-1), mask.all(-1)
    groups = torch.where(whole, 0, torch.where(seen, 1, 2)).masked_fill(~data.step_mask, -1)
    if not bool((groups > 0).any()):
        return None
    return EventTable.of("observation", ("seen", "seen in part", "missing"), groups, error)
