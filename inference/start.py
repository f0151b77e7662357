"""Where a fit starts: parameter values read off the data.

Random starts of a latent-state model end with dead states more often than not; a start that already
assigns frames to states does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ..models import HiddenMarkovModel, Sequences
from ..models.randomness import seeded

Start = Literal["kmeans", "frames", "prior"]
STARTS: tuple[Start, ...] = get_args(Start)

_FRAMES = 20_000
"""Frames that are clustered; a start needs no more."""

_CERTAINTY = 0.8
"""Weight of a frame's own cluster; the rest is spread, so that no state starts at a corner."""


def starting_values(
    model: HiddenMarkovModel,
    data: Sequences,
    start: Start | Mapping[str, Tensor] = "kmeans",
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Values of the model's unknown parameters to start a fit from.

    Args:
        model: gives the families; parameters that it knows are left out.
        data: the training data.
        start: ``"prior"`` draws from the prior; ``"kmeans"`` clusters the frames (for symbols: the
            symbols, by what comes before and after them) and reads every law off the clusters;
            ``"frames"`` does the same with random frames for cluster centres; or values by name.
        seed: of the draws and of the clustering.

    Raises:
        ValueError: unknown ``start``, or values that are no parameters of the model.
    """
    dtype = torch.get_default_dtype()
    with seeded(seed), torch.no_grad():
        values = {name: prior.sample() for name, prior in model.priors.items()}
        if isinstance(start, Mapping):
            unknown = sorted(set(start) - set(values))
            if unknown:
                raise ValueError(
                    f"start: no such unknown parameters {unknown}; got {sorted(start)}"
                )
            values.update({name: torch.as_tensor(v, dtype=dtype) for name, v in start.items()})
            return values
        if start not in STARTS:
            raise ValueError(f"start: must be one of {STARTS} or values by name, got {start!r}")
        if start == "prior" or (model.states == 1 and model.emission.codes):
            return values
        read = _from_clusters(model, data, start, seed)
    values.update({name: v.to(dtype) for name, v in read.items() if name in values})
    return values


def _from_clusters(
    model: HiddenMarkovModel, data: Sequences, start: Start, seed: int
) -> dict[str, Tensor]:
    y, mask = model.emission.observed(data)
    member = _cluster_symbols if model.emission.codes else _cluster_frames
    labels = member(model, data, start == "kmeans", seed)  # (N, T), -1 where nothing was seen
    seen = labels >= 0
    weight = torch.nn.functional.one_hot(labels[seen], model.states).double()
    weight = _CERTAINTY * weight + (1 - _CERTAINTY) / model.states
    frames = y[seen] if model.emission.codes else y[seen].double()
    values = model.emission.start(frames, mask[seen], weight)
    order = _order(model, values)
    values = {name: v[order] if v.shape[:1] == order.shape else v for name, v in values.items()}
    rank = order.argsort()
    labels = torch.where(seen, rank[labels.clamp_min(0)], -1)
    values.update(model.transition.start(_transition_counts(labels, model.states)))
    first = torch.nn.functional.one_hot(labels[:, 0].clamp_min(0), model.states).double()
    initial = (first * (labels[:, :1] >= 0)).sum(0) + 1
    return {**values, "initial": initial / initial.sum()}


def _order(model: HiddenMarkovModel, values: Mapping[str, Tensor]) -> Tensor:
    """States by the family's location where it has one, so that starts look alike."""
    name = model.emission.ordering
    if name is None or name not in values:
        return torch.arange(model.states)
    location = values[name].reshape(model.states, -1)[:, 0]
    if model.ordered:  # strictly increasing, as the ordered prior demands
        ranks = location.argsort().argsort()
        gap = 1e-3 * (location.max() - location.min()) + 1e-6
        values[name].add_((gap * ranks).reshape(values[name].shape))
    return location.argsort()


def _transition_counts(labels: Tensor, states: int) -> Tensor:
    """Counts of consecutive labels, pulled to staying by one expected visit each."""
    pairs = (labels[:, :-1] >= 0) & (labels[:, 1:] >= 0)
    flat = labels[:, :-1][pairs] * states + labels[:, 1:][pairs]
    counts = torch.bincount(flat, minlength=states * states).double().reshape(states, states)
    return counts + 1.0 / states + 0.5 * torch.eye(states, dtype=torch.float64)


def _cluster_frames(model: HiddenMarkovModel, data: Sequences, lloyd: bool, seed: int) -> Tensor:
    y, mask = model.emission.observed(data)
    seen = mask.any(-1)
    weight = mask[seen].double()
    x = y[seen].double()
    mean = (x * weight).sum(0) / weight.sum(0).clamp_min(1)
    spread = (((x - mean).square() * weight).sum(0) / weight.sum(0).clamp_min(1)).sqrt()
    x = ((x - mean) / torch.where(spread > 0, spread, 1)) * weight  # missing: at the mean
    labels = torch.full(seen.shape, -1, dtype=torch.int64)
    labels[seen] = _kmeans(x.numpy(), model.states, lloyd, seed)
    return labels


def _cluster_symbols(model: HiddenMarkovModel, data: Sequences, lloyd: bool, seed: int) -> Tensor:
    """Symbols by their neighbours: the laws of the symbol before and after, weighted by use."""
    y, seen = model.emission.observed(data)
    size = model.emission.encoding_size
    pairs = seen[:, :-1] & seen[:, 1:]
    flat = y[:, :-1][pairs] * size + y[:, 1:][pairs]
    counts = torch.bincount(flat, minlength=size * size).double().reshape(size, size)
    use = torch.bincount(y[seen], minlength=size).double()
    context = torch.cat([counts, counts.mT], -1) / use.clamp_min(1).unsqueeze(-1)
    used = int((use > 0).sum())
    states = min(model.states, used)
    member = _kmeans(context.sqrt().numpy(), states, lloyd, seed, (use + 1e-9).numpy())
    return torch.where(seen, torch.as_tensor(member, dtype=torch.int64)[y], -1)


def _kmeans(
    x: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    states: int,
    lloyd: bool,
    seed: int,
    weight: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None,
) -> Tensor:
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(x))[:_FRAMES]
    sample = x[chosen]
    distinct = np.unique(sample, axis=0)
    states = min(states, len(distinct))
    centres: str | np.ndarray[tuple[int, int], np.dtype[np.float64]] = "k-means++"
    if not lloyd:
        centres = distinct[rng.permutation(len(distinct))[:states]]
    fitted = KMeans(
        states, init=centres, n_init=1, max_iter=100 if lloyd else 1, random_state=seed
    ).fit(sample, sample_weight=None if weight is None else weight[chosen])
    return torch.as_tensor(fitted.predict(x), dtype=torch.int64)
