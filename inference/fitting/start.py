"""Starting values of a fit, computed from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import biject_to

from ...models import Model, SequenceFolder, Sequences
from ...models.checks import require, warn
from ...models.data.folders import Data
from ...models.priors import support_of
from ...models.randomness import seeded
from .start_em import start_by_em

Start = Literal["kmeans", "frames", "prior"]
STARTS: tuple[Start, ...] = get_args(Start)


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
            ``"frames"`` does the same with random frames as cluster centres (of decision processes,
            with random labels; both go on to the best of several by EM); or values by name, where
            names left out are drawn from the prior. For models without discrete states,
            ``"kmeans"`` uses what ``Model.start`` computes from the data.
        seed: of the draws and of the clustering; torch's global generator is left unchanged.

    Returns:
        Values by name, float64. States are in increasing order of the family's
        location, unless known parameters determine them.

    Raises:
        ValueError: unknown ``start``, data that cannot come from the model, or values by name that
            are no unknown parameters, have the wrong shape or are outside the support.

    >>> from beliefzoo.inference import starting_values
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[1, 0, 2, 1, 0, 18, 22, 20, 19, 1, 1]])
    >>> model = HiddenMarkovModel(states=2, emission="poisson")
    >>> starting_values(model, data)["rate"].numpy().round(1)
    array([ 2. , 16.8])
    """
    require(isinstance(model, Model), "model", "must be a model of beliefzoo.models", repr(model))
    require_start(start)
    data = data.sample(seed=seed) if isinstance(data, SequenceFolder) else data
    model.check(data)
    found = checked_starts(model, model.names.read(data), start, seed, 1)
    return {name: value[0] for name, value in found.items()}


def with_settled_names(model: Model, start: Start | Mapping[str, Tensor], caller: str) -> Model:
    """The model without names that neither data nor start settle, of which the user is warned."""
    given = _inside(model, start) if isinstance(start, Mapping) else {}
    said = model.undecided(given)
    if not said:
        return model
    warn(f"{caller}: {said}")
    return model.unnamed()


def checked_starts(
    model: Model,
    data: Sequences,
    start: Start | Mapping[str, Tensor],
    seed: int,
    count: int,
    em: bool = True,
) -> dict[str, Tensor]:
    """Several starts, (count, …) by name, for data that the model has checked and read.

    Those read off the data are improved by ``em`` where the model has an M-step.
    """
    given: list[dict[str, Tensor]] = []
    if isinstance(start, Mapping):
        given = [_inside(model, start)] * count
    with seeded(seed), torch.no_grad():
        values = {n: prior.sample(torch.Size([count])) for n, prior in model.priors.items()}
        if values and start in ("kmeans", "frames"):
            given = _read_off(model, data, start, count, em)
    for name, prior in model.priors.items():
        own = [one[name] for one in given if name in one]
        if len(own) < count:
            continue
        told = torch.stack(own).double()
        # A user's prior can exclude the value estimated from the data: keep the prior's draw.
        inside = support_of(prior).check(told).reshape(count, -1).all(-1)
        shape = (count, *[1] * (told.ndim - 1))
        values[name] = torch.where(inside.reshape(shape), told, values[name].double())
    return {name: value.double() for name, value in values.items()}


def require_start(start: object, argument: str = "start") -> None:
    """Raise ``ValueError`` unless it is the name of a start, or values by name."""
    named = isinstance(start, str) and start in STARTS
    by_name = isinstance(start, Mapping) and all(isinstance(name, str) for name in start)
    requirement = f"must be one of {STARTS} or values by name"
    require(named or by_name, argument, requirement, repr(start))


def _read_off(
    model: Model, data: Sequences, start: str, count: int, em: bool
) -> list[dict[str, Tensor]]:
    data = data.to("cpu")
    if start == "kmeans":
        found = [model.start(data) for _ in range(count)]
    else:
        found = model.starts_from_frames(data, count)
    improved = em and model.m_step is not None
    return [start_by_em(model, data, one) for one in found] if improved else found


def _inside(model: Model, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values by the parameters' own names, all inside the support."""
    values = model.accepted(start)
    known = sorted(set(model.own_known) & set(values))
    if known:
        raise ValueError(f"start: needs parameters that are not known to the model, got {known}")
    values = {name: value.detach() for name, value in values.items()}
    for name, value in values.items():
        if not bool(biject_to(support_of(model.priors[name])).inv(value).isfinite().all()):
            raise ValueError(
                f"start[{name!r}]: needs values inside the support, none at its edge, "
                f"got {value.tolist()}"
            )
    return values
