"""Starting values of a fit, computed from the data.

Random starts of a latent-state model usually end with dead states; a start that already assigns
frames to states does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ...models import (
    ActionEmission,
    GeneratorTransition,
    HiddenMarkovModel,
    MemoryEmission,
    Misclassification,
    Model,
    NodeEmission,
    SequenceFolder,
    Sequences,
)
from ...models.chains.memory import MemoryTransition
from ...models.clusters import generator, kmeans
from ...models.data.folders import Data
from ...models.randomness import seeded
from .start_actions import start_of_actions
from .start_memory import start_of_memory
from .start_nodes import start_of_nodes

Start = Literal["kmeans", "frames", "prior"]
STARTS: tuple[Start, ...] = get_args(Start)

_FRAMES = 20_000
"""Frames that are clustered and that the laws are read off; a start needs no more."""

_CERTAINTY, _CERTAINTY_OF_SYMBOLS = 0.95, 0.8
"""Share of its own cluster in a state's law; the rest is the law of all frames.

Less for symbols: a cluster has all frames of a symbol or none, as no state in truth has.
"""

_APART = 0.02
"""Least distance of neighbours among ordered values, in units of their mean distance."""

_NEIGHBOURS = 128
"""Symbols are compared by neighbours in this many groups, or by each if there are fewer."""

Array = npt.NDArray[np.float64]


def starting_values(
    model: Model,
    data: Data,
    start: Start | Mapping[str, Tensor] = "kmeans",
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Computes starting values of a model's unknown parameters from data.

    Args:
        model: gives the families. Known parameters are left out, and the others fit them: with
            known means, for instance, frames belong to the nearest states.
        data: the training data; of a folder a sample is read, see ``SequenceFolder.sample``.
        start: ``"prior"`` draws from the prior; ``"kmeans"`` clusters the frames (for symbols: the
            symbols, by what comes before and after them) and estimates every law from the clusters;
            ``"frames"`` does the same with random frames as cluster centres; or values by name,
            where names left out are drawn from the prior. For models without discrete states,
            ``"kmeans"`` uses what ``Model.start`` computes from the data.
        seed: of the draws and of the clustering; torch's global generator is left unchanged.

    Returns:
        Values by name, in torch's default dtype. States are in increasing order of the family's
        location, unless known parameters determine them.

    Raises:
        ValueError: unknown ``start``, data that cannot come from the model, or values by name that
            are no unknown parameters, have the wrong shape or are outside the support.

    >>> from beliefzoo.inference import starting_values
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[1, 0, 2, 1, 0, 18, 22, 20, 19, 1, 1]])
    >>> model = HiddenMarkovModel(states=2, emission="poisson")
    >>> starting_values(model, data)["rate"].numpy().round(1)
    array([ 2. , 16.8], dtype=float32)
    """
    if not isinstance(start, Mapping) and start not in STARTS:
        raise ValueError(f"start: must be one of {STARTS} or values by name, got {start!r}")
    if start == "frames" and not isinstance(model, HiddenMarkovModel):
        raise ValueError(f"start: 'frames' is for models of discrete states, got {model}")
    data = data.sample(seed=seed) if isinstance(data, SequenceFolder) else data
    model.check(data)
    given = _inside(model, start) if isinstance(start, Mapping) else {}
    with seeded(seed), torch.no_grad():
        values = {name: prior.sample() for name, prior in model.priors.items()}
        if values and start in ("kmeans", "frames"):
            given = _read_off(model, data.to("cpu"), lloyd=start == "kmeans")
    for name, prior in model.priors.items():
        # A prior of the user's own can exclude what the data say; its draw then stays.
        if name in given and bool(_support(prior).check(given[name]).all()):
            values[name] = given[name]
    return {name: value.to(torch.get_default_dtype()) for name, value in values.items()}


def _read_off(model: Model, data: Sequences, lloyd: bool) -> dict[str, Tensor]:
    if isinstance(model, HiddenMarkovModel):
        if model.nodes is not None and isinstance(model.emission, NodeEmission):
            return start_of_nodes(model, data)
        if isinstance(model.emission, MemoryEmission) and isinstance(
            model.transition, MemoryTransition
        ):
            return start_of_memory(model, data)
        if isinstance(model.emission, ActionEmission) and model.states > 1:
            some = data[: max(1, _FRAMES // data.max_length)]
            return start_of_actions(model, some, _labels_given_actions(model, some, lloyd))
        return _from_clusters(model, data, lloyd)
    return model.start(data)


def _inside(model: Model, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values by the parameters' own names, all inside the support."""
    values = model.with_parameters(**start).known  # checks names, shapes and supports
    known = sorted(name for name, value in model.known.items() if values[name] is not value)
    if known:
        raise ValueError(f"start: needs parameters that are not known to the model, got {known}")
    values = {name: value.detach() for name, value in values.items() if name in model.priors}
    for name, value in values.items():
        if not bool(biject_to(_support(model.priors[name])).inv(value).isfinite().all()):
            raise ValueError(
                f"start[{name!r}]: needs values inside the support, none at its edge, "
                f"got {value.tolist()}"
            )
    return values


def _support(prior: dist.TorchDistribution) -> constraints.Constraint:
    support: constraints.Constraint | None = prior.support
    assert support is not None  # torch's type for laws that declare none
    return support


def _from_clusters(model: HiddenMarkovModel, data: Sequences, lloyd: bool) -> dict[str, Tensor]:
    emission, states = model.emission, model.states
    y, mask = emission.observed(data)
    y = y if emission.codes else y.double()
    seen = data.observed_steps.nonzero()
    some = seen[torch.randperm(len(seen))[:_FRAMES]].unbind(1)
    if isinstance(emission, Misclassification):
        labels = torch.where(mask, y, -1)
    elif _located(model):
        one = torch.ones(len(some[0]), 1, dtype=torch.float64)
        labels = _nearest(model, data, emission.start(y[some], mask[some], one))
    else:
        labels = _clustered(model, y, mask, some, lloyd)
    sure = _CERTAINTY_OF_SYMBOLS if emission.codes else _CERTAINTY
    own = torch.nn.functional.one_hot(labels[some], states).double()
    share = (own.sum(0) + 1) / (len(own) + states)
    laws = emission.start(y[some], mask[some], sure * own + (1 - sure) * share)
    order = _order(model, laws, _transition_counts(labels, states))
    laws = _named(model, laws, order)
    labels = torch.where(labels >= 0, order.argsort()[labels], -1)
    first = labels[:, 0]
    initial = torch.bincount(first[first >= 0], minlength=states).double() + 1
    law = model.transition
    if isinstance(law, GeneratorTransition):
        law = law.scaled_to(data)  # rates per unit of time need the gaps
    transition = law.start(_transition_counts(labels, states))
    return {**laws, **transition, **model.initial_law.start(initial / initial.sum())}


# Frames to states: labels (N, T), −1 where nothing was observed


def _located(model: HiddenMarkovModel) -> bool:
    """Whether it is known where each state's observations lie."""
    emission = model.emission
    return emission.ordering in model.known or set(emission.dims()) <= set(model.known)


def _nearest(model: HiddenMarkovModel, data: Sequences, common: Mapping[str, Tensor]) -> Tensor:
    """The state of highest likelihood; its unknown parameters have their values for all frames."""
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


def _labels_given_actions(model: HiddenMarkovModel, data: Sequences, lloyd: bool) -> Tensor:
    """The state of highest likelihood where the laws are known, else clusters."""
    emission = model.emission
    assert isinstance(emission, ActionEmission)
    y, mask = emission.observed(data)
    seen = data.observed_steps
    if set(emission.family.dims()) <= set(model.known):
        law = replace(emission, rewards=False).given(data)
        labels = law.score(model.known, y, mask).argmax(-1)
    else:
        y = y if emission.codes else y.double()
        labels = _clustered(model, y, mask, seen.nonzero().unbind(1), lloyd)
    return torch.where(seen, labels, -1)


def _clustered(
    model: HiddenMarkovModel, y: Tensor, mask: Tensor, some: tuple[Tensor, ...], lloyd: bool
) -> Tensor:
    emission, states = model.emission, model.states
    if emission.codes:
        labels = _cluster_symbols(y, mask, emission.encoding_size, states, lloyd)
        if labels is not None:
            return labels
    seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
    x = _standardised(emission.encode(y).double(), seen)
    if len(x[some].unique(dim=0)) < states:
        x = _windows(x)
    steps = seen.any(-1)
    labels = torch.full(steps.shape, -1)
    labels[steps] = kmeans(x[some].numpy(), x[steps].numpy(), states, lloyd=lloyd)
    return labels


def _standardised(x: Tensor, seen: Tensor) -> Tensor:
    """Features with mean 0 and standard deviation 1 over what was observed, 0 elsewhere."""
    weight = seen.double()
    count = weight.sum((0, 1)).clamp_min(1)
    centred = (x - (x * weight).sum((0, 1)) / count) * weight
    spread = (centred.square().sum((0, 1)) / count).sqrt()
    return centred / torch.where(spread > 0, spread, 1)


def _windows(x: Tensor, reach: int = 4) -> Tensor:
    """Every frame with those around it: states are told apart by more than few distinct values."""
    padded = torch.nn.functional.pad(x, (0, 0, reach, reach))
    return torch.cat([padded[:, s : s + x.shape[1]] for s in range(2 * reach + 1)], -1)


def _cluster_symbols(y: Tensor, seen: Tensor, size: int, states: int, lloyd: bool) -> Tensor | None:
    """Symbols by the laws of the symbols before and after; None if there are too few for that."""
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
    member = torch.zeros(size, dtype=torch.int64)
    x = context.numpy()
    member[used] = kmeans(x, x, states, lloyd=lloyd, weight=use[used].numpy())
    return torch.where(seen, member[y], -1)


# Names of the states


def _transition_counts(labels: Tensor, states: int) -> Tensor:
    """Counts of consecutive labels, pulled to staying by one expected visit each."""
    pairs = (labels[:, :-1] >= 0) & (labels[:, 1:] >= 0)
    flat = labels[:, :-1][pairs] * states + labels[:, 1:][pairs]
    counts = torch.bincount(flat, minlength=states * states).double().reshape(states, states)
    return counts + 1.0 / states + 0.5 * torch.eye(states, dtype=torch.float64)


def _order(model: HiddenMarkovModel, laws: Mapping[str, Tensor], counts: Tensor) -> Tensor:
    """The cluster of each state."""
    name, known = model.emission.ordering, model.known.get("transition")
    numbered = isinstance(model.emission, Misclassification) or isinstance(
        model.transition, GeneratorTransition
    )
    if _located(model) or numbered:
        return torch.arange(model.states)
    if known is not None and not model.ordered:
        return _matched(known.clamp_min(1e-6).log().numpy(), counts.numpy())
    if name is not None and name in laws:
        return laws[name].reshape(model.states, -1)[:, 0].argsort()
    return torch.arange(model.states)


def _named(
    model: HiddenMarkovModel, laws: Mapping[str, Tensor], order: Tensor
) -> dict[str, Tensor]:
    """The laws of the states from those of the clusters."""
    axes, name = model.emission.dims(), model.emission.ordering
    named = {key: law[order] if axes[key][0] == "state" else law for key, law in laws.items()}
    if model.ordered and model.states > 1 and name is not None and name in model.priors:
        named[name] = _apart(named[name], _support(model.emission.priors(model.states)[name]))
    return named


def _matched(log_transition: Array, counts: Array) -> Tensor:
    """The cluster of each state that makes the transitions of the clusters most likely."""
    from scipy.optimize import quadratic_assignment  # loaded when first needed

    options = {"maximize": True, "rng": generator()}  # a search by swaps, from several starts
    found = [quadratic_assignment(log_transition, counts, "2opt", options) for _ in range(10)]
    return torch.from_numpy(max(found, key=lambda one: float(one.fun)).col_ind)


def _apart(location: Tensor, support: constraints.Constraint) -> Tensor:
    """Increasing values, moved up (in their unconstrained form) where neighbours are too near."""
    bijection = biject_to(support)
    x = bijection.inv(location)
    extent, largest = float(x[-1] - x[0]), float(x.abs().max())
    # Rounding must not close a gap: means are in units of the data, logs and logits have none.
    real = getattr(support, "base_constraint", support) is constraints.real
    finest = 1e-6 * largest if real else 1e-3
    gap = max(_APART * (extent or largest or 1.0) / (len(x) - 1), finest)
    steps = gap * torch.arange(len(x), dtype=x.dtype)
    moved: Tensor = bijection((x - steps).cummax(0).values + steps)
    return moved
