"""Starting values for chains: every law is estimated from clusters of the frames.

Random starts of a latent-state model usually end with dead states; a start that already assigns
frames to states does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..clusters import Array, at_random, generator, kmeans
from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..emissions.emission import Emission, closed_forms
from ..priors import elementary, support_of
from .laws import OwnStart, ScaledLaw

if TYPE_CHECKING:
    from .hmm import HiddenMarkovModel

FRAMES = 20_000
"""Most frames that are clustered and used to estimate the laws; a start needs no more."""

_NUMBERS = 2**22
"""Steps × states × starts that are estimated at once."""

_CERTAINTY, _CERTAINTY_OF_SYMBOLS = 0.95, 0.8
"""Share of its own cluster in a state's law; the rest is the law of all frames.

It is smaller for symbols, because a cluster has all frames of a symbol or none, unlike a state.
"""

_APART = 0.02
"""Least distance of neighbours among ordered values, in units of their mean distance."""

_ROUNDING = 1e-14
"""Least distance of ordered means, in units of the largest: some fifty spacings of float64."""

_NEIGHBOURS = 128
"""Symbols are compared by neighbours in this many groups, or by each if there are fewer."""


def start_of_chain(
    model: HiddenMarkovModel, data: Sequences, *, lloyd: bool = True
) -> dict[str, Tensor]:
    """Estimate starting values of a hidden Markov model's parameters from the data.

    The emission law does it, if clusters of frames would not serve it (``OwnStart``). All others
    start from clusters: their laws from the frames of each cluster, the transition from the
    clusters' moves. Draws from torch's global generator.

    Args:
        model: gives the laws; its known parameters help to distinguish the states.
        data: sequences of the model's kind.
        lloyd: whether to cluster by k-means; otherwise random frames are the centres.
    """
    return starts_of_chain(model, data, 1, lloyd=lloyd)[0]


def starts_of_chain(
    model: HiddenMarkovModel, data: Sequences, count: int, *, lloyd: bool = False
) -> list[dict[str, Tensor]]:
    """Estimate several starting values, which differ where centres are random."""
    found = None
    if isinstance(model.emission, OwnStart):
        found = model.emission.start_chain(model, data, lloyd=lloyd)
    if found is not None:
        law: OwnStart = model.emission  # type: ignore[assignment]
        others = (law.start_chain(model, data, lloyd=lloyd) for _ in range(count - 1))
        return [found, *(one for one in others if one is not None)]
    size = max(1, _NUMBERS // (data.mask.numel() * model.states))
    parts = (min(size, count - done) for done in range(0, count, size))
    return [one for part in parts for one in _from_clusters(model, data, lloyd, part)]


def _from_clusters(
    model: HiddenMarkovModel, data: Sequences, lloyd: bool, count: int
) -> list[dict[str, Tensor]]:
    emission, states = model.emission, model.states
    y, mask = emission.observed(data)
    y = y if emission.codes else y.double()
    named = emission.labels(data)
    seen = data.observed_steps if named is None else named >= 0
    seen = seen.nonzero()
    some = seen[torch.randperm(len(seen))[:FRAMES]].unbind(1)
    if named is not None:
        labels = named.expand(count, *named.shape)
    elif _located(model):
        one = torch.ones(len(some[0]), 1, dtype=torch.float64)
        nearest = _nearest(model, data, emission.start(y[some], mask[some], one))
        labels = nearest.expand(count, *nearest.shape)
    else:
        labels = clustered(model, y, mask, some, lloyd, count)
    sure = _CERTAINTY_OF_SYMBOLS if emission.codes else _CERTAINTY
    own = torch.nn.functional.one_hot(labels[:, some[0], some[1]], states).double()
    share = (own.sum(1, keepdim=True) + 1) / (own.shape[1] + states)
    weights = sure * own + (1 - sure) * share
    law = model.transition
    if isinstance(law, ScaledLaw):
        law = law.scaled_to(data)  # rates per unit of time need the gaps
    first = torch.stack([(labels[:, :, 0] == k).sum(-1) for k in range(states)], -1).double() + 1
    found = []
    several = zip(
        _laws_of(emission, y[some], mask[some], weights),
        _transition_counts(labels, states),
        first / first.sum(-1, keepdim=True),
        strict=True,
    )
    for laws, counts, initial in several:
        order = torch.arange(states) if named is not None else _order(model, laws, counts)
        transition = law.start(counts[order][:, order])
        started = model.initial_law.start(initial[order])
        found.append({**_named(model, laws, order), **transition, **started})
    return found


def _laws_of(
    emission: Emission, y: Tensor, mask: Tensor, weights: Tensor
) -> list[dict[str, Tensor]]:
    """The laws of states for frames y (M, …) and each of the weights (S, M, K)."""
    if not closed_forms(emission):
        return [emission.start(y, mask, weight) for weight in weights]
    # These families estimate every state by itself.
    count, _, states = weights.shape
    every = emission.start(y, mask, weights.transpose(0, 1).flatten(1))
    parts = {name: x.unflatten(0, (count, states)).unbind() for name, x in every.items()}
    return [{name: part[s] for name, part in parts.items()} for s in range(count)]


# Frames to states: labels (N, T), −1 where nothing was observed


def _located(model: HiddenMarkovModel) -> bool:
    """Whether the known parameters determine where each state's observations lie."""
    emission = model.emission
    return emission.ordering in model.known or set(emission.dims()) <= set(model.known)


def _nearest(model: HiddenMarkovModel, data: Sequences, common: Mapping[str, Tensor]) -> Tensor:
    """The state of highest likelihood; unknown parameters have their values for all frames."""
    emission, states = model.emission, model.states
    laws = {name: model.known[name] for name in emission.dims() if name in model.known}
    unknown = {name: v for name, v in common.items() if name not in laws}
    laws |= {name: v.expand(states, *v.shape[1:]) for name, v in unknown.items()}
    labels = torch.full(data.observed_steps.shape, -1)
    at = 0
    for part in data.batches(256):
        shift = emission.from_inputs(laws, part.inputs)
        likeliest = emission.score(laws, *emission.observed(part), shift).argmax(-1)
        labels[at : at + len(part), : part.max_length] = likeliest
        at += len(part)
    return torch.where(data.observed_steps, labels, -1)


def clustered(
    model: HiddenMarkovModel,
    y: Tensor,
    mask: Tensor,
    some: tuple[Tensor, ...],
    lloyd: bool,
    count: int = 1,
) -> Tensor:
    """Labels of the steps, (S, N, T), by clusters of symbols, of frames, or of windows of frames.

    ``lloyd`` asks for k-means; otherwise ``count`` times random centres.
    """
    emission, states = model.emission, model.states
    if emission.codes:
        labels = _cluster_symbols(y, mask, emission.encoding_size, states, lloyd, count)
        if labels is not None:
            return labels
    x = _standardised(emission.coordinates(y, mask).double())
    if not _varied(x[some], states):
        x = _windows(x)
    steps = mask if mask.ndim == 2 else mask.any(-1)
    labels = torch.full((count, *steps.shape), -1)
    sample, frames = x[some].numpy(), x[steps].numpy()
    labels[:, steps] = (
        kmeans(sample, frames, states) if lloyd else at_random(sample, frames, states, count)
    )
    return labels


def _varied(frames: Tensor, count: int) -> bool:
    """Whether there are so many different frames (M, D)."""
    few = frames[: 64 * count]
    return len(few.unique(dim=0)) >= count or len(frames.unique(dim=0)) >= count


def _standardised(x: Tensor) -> Tensor:
    """Coordinates with mean 0 and standard deviation 1 over what was observed, 0 for NaN."""
    seen = ~x.isnan()
    mean, spread = overall_moments(x.flatten(0, 1), seen.flatten(0, 1))
    return torch.where(seen, (x - mean) / spread, 0)


def _windows(x: Tensor, reach: int = 4) -> Tensor:
    """Every frame with those around it, since few distinct values do not distinguish states."""
    padded = torch.nn.functional.pad(x, (0, 0, reach, reach))
    return torch.cat([padded[:, s : s + x.shape[1]] for s in range(2 * reach + 1)], -1)


def _cluster_symbols(
    y: Tensor, seen: Tensor, size: int, states: int, lloyd: bool, count: int
) -> Tensor | None:
    """Clusters of symbols by their neighbours; None if there are too few symbols."""
    columns = min(size, _NEIGHBOURS)
    group = torch.randperm(size) % columns
    pairs = seen[:, :-1] & seen[:, 1:]
    here, there = y[:, :-1][pairs], y[:, 1:][pairs]
    flat = torch.cat([here * 2 * columns + group[there], (there * 2 + 1) * columns + group[here]])
    counts = torch.bincount(flat, minlength=size * 2 * columns).reshape(size, 2 * columns)
    use = torch.bincount(y[seen], minlength=size).double()
    used = use > 0
    context = (counts[used] / use[used].unsqueeze(-1)).sqrt()
    if len(context.unique(dim=0)) < states:
        return None
    member = torch.zeros(count, size, dtype=torch.int64)
    x = context.numpy()
    if lloyd:
        member[:, used] = kmeans(x, x, states, weight=use[used].numpy())
    else:
        member[:, used] = at_random(x, x, states, count)
    return torch.where(seen, member[:, y], -1)


# Names of the states


def _transition_counts(labels: Tensor, states: int) -> Tensor:
    """Counts (S, K, K) of consecutive labels (S, N, T), with one expected visit per state that
    favours staying."""
    before, after = labels[..., :-1], labels[..., 1:]
    pairs = (before >= 0) & (after >= 0)
    place = torch.arange(len(labels))[:, None, None] * states + before
    flat = (place * states + after)[pairs]
    counts = torch.bincount(flat, minlength=len(labels) * states * states).double()
    eye = torch.eye(states, dtype=torch.float64)
    return counts.reshape(-1, states, states) + 1.0 / states + 0.5 * eye


def _order(model: HiddenMarkovModel, laws: Mapping[str, Tensor], counts: Tensor) -> Tensor:
    """The cluster that belongs to each state."""
    known, ranks = model.known.get("transition"), model.emission.ranks(laws)
    if model.ordering is not None and model.ordering[0] in laws:
        name, column = model.ordering
        ranks = laws[name] if column is None else laws[name][:, column]
    if _located(model) or model.timed:
        return torch.arange(model.states)
    if known is not None and not model.ordered:
        return _matched(known.clamp_min(1e-6).log().numpy(), counts.numpy())
    return torch.arange(model.states) if ranks is None else ranks.argsort()


def _named(
    model: HiddenMarkovModel, laws: Mapping[str, Tensor], order: Tensor
) -> dict[str, Tensor]:
    """The laws of the states from those of the clusters."""
    axes = model.emission.dims()
    named = {key: law[order] if axes[key][0] == "state" else law for key, law in laws.items()}
    if model.ordering is not None and model.ordering[0] in {*model.priors} & {*named}:
        name, column = model.ordering
        support = support_of(model.emission.priors(model.states)[name])
        named[name] = _column_apart(named[name], column, support)
    return named


def _column_apart(law: Tensor, column: int | None, support: constraints.Constraint) -> Tensor:
    """The parameter with its values, or those in a column, increasing and not too close."""
    if column is None:
        return _apart(law, support)
    entry = elementary(support)
    assert entry is not None
    if not isinstance(entry, type(constraints.simplex)):
        law = law.clone()
        law[:, column] = _apart(law[:, column], entry)
        return law
    chosen = _apart(law[:, column], constraints.unit_interval).unsqueeze(-1)
    moved = law * (1 - chosen) / (1 - law[:, column : column + 1])
    moved[:, column : column + 1] = chosen
    return moved


def _matched(log_transition: Array, counts: Array) -> Tensor:
    """The cluster of each state for which the clusters' transitions are most likely."""
    from scipy.optimize import quadratic_assignment  # loaded when first needed

    options = {"maximize": True, "rng": generator()}  # a search by swaps
    found = [quadratic_assignment(log_transition, counts, "2opt", options) for _ in range(10)]
    return torch.from_numpy(max(found, key=lambda one: float(one.fun)).col_ind)


def _apart(location: Tensor, support: constraints.Constraint) -> Tensor:
    """Increasing values, moved up (in their unconstrained form) if neighbours are too close."""
    bijection = biject_to(support)
    x = bijection.inv(location)
    extent, largest = float(x[-1] - x[0]), float(x.abs().max())
    # Rounding must not close a gap: means are in units of the data, logs and logits have none.
    real = getattr(support, "base_constraint", support) is constraints.real
    finest = _ROUNDING * largest if real else 1e-3
    gap = max(_APART * (extent or largest or 1.0) / (len(x) - 1), finest)
    steps = gap * torch.arange(len(x), dtype=x.dtype)
    moved: Tensor = bijection((x - steps).cummax(0).values + steps)
    return moved
