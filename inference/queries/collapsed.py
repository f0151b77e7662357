"""The Pyro program of a model with its hidden states summed out."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from pyro import poutine

from ...models import Model, Sequences
from ...models.checks import require
from .evidence import log_evidence
from .kinds import inexact


def collapsed(model: Model) -> Callable[..., None]:
    r"""Pyro program of a model's parameters alone, the hidden states summed or integrated out.

    .. math:: p(\theta) \prod_n p(y_n | \theta)

    It has no site ``states``: autoguides, Laplace approximations and NUTS of Pyro take it as it is,
    while the model itself has discrete states that they refuse. ``nuts`` and ``fit`` need it not.

    Args:
        model: a model with exact inference.

    Returns:
        A program to call with the data, and with ``scale``, the weight of a sequence: (all
        sequences) / (sequences in the batch). It has the factor ``obs`` of every sequence.

    Raises:
        ValueError: a model without exact inference.

    >>> import pyro
    >>> from beliefzoo.inference import collapsed
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> from pyro.infer import SVI, Trace_ELBO
    >>> from pyro.infer.autoguide import AutoNormal
    >>> program = collapsed(HiddenMarkovModel(2, "poisson"))
    >>> guide = AutoNormal(program)
    >>> svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    >>> loss = svi.step(Sequences.from_arrays([[1, 0, 8, 9, 9, 0]]))
    >>> sorted(guide.median())
    ['initial', 'rate', 'transition']
    """
    require(isinstance(model, Model), "model", "must be a model of beliefzoo.models", repr(model))
    if not model.exact:
        raise inexact(model)

    def program(data: Sequences, *, scale: float = 1.0) -> None:
        evidence = log_evidence(model.laws(model.sample_parameters(), data))
        with pyro.plate("sequence", len(data)), poutine.scale(scale=scale):
            pyro.factor("obs", evidence)

    return program
