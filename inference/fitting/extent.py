"""The size of what was fitted, as far as a summary needs it after the data are gone."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from ...models import Model, Sequences
from ...models.data.folders import Data
from .criteria import free_parameters

COUNTED = 60
"""Parameters up to which the free ones are counted in every fit; networks of 600 weights take
minutes."""


class Extent(NamedTuple):
    """Numbers of the training data and the model.

    Attributes:
        sequences: sequences.
        steps: time steps of all of them.
        observed: steps at which anything was observed; None for data that were not in memory.
        parameters: free parameters, see ``information_criteria``; None if they were not counted.

    >>> from beliefzoo.inference.fitting.extent import Extent
    >>> Extent(1, 107, 107, 6).steps
    107
    """

    sequences: int
    steps: int
    observed: int | None = None
    parameters: int | None = None


def extent_of(model: Model, data: Data, *, counted: bool) -> Extent:
    """Returns the size of a model and its training data; free parameters only if ``counted``."""
    if not isinstance(data, Sequences):
        return Extent(len(data), data.n_steps)
    parameters = None
    if counted:
        # Summaries do without the number where a law is refused at every point that is tried.
        with contextlib.suppress(ValueError, RuntimeError):
            parameters = free_parameters(model, model.priors, data)
    return Extent(len(data), data.n_steps, int(data.observed_steps.sum()), parameters)
