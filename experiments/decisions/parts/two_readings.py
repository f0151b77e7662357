"""Both readings of a cell, fitted to the same data by the exact evidence."""

from __future__ import annotations

from typing import NamedTuple

from ....inference import BeliefGuide, ExactFilter, fit, log_evidence
from ....models import (
    HiddenMarkovModel,
    PolicyReading,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    as_policy,
    emission_of,
    read_as_inputs,
)
from ...parts.training import to_the_end
from .two_worlds import Case, read_alone

READINGS = ("emitted", "acting")
"""What y is to the nodes."""


class Readings(NamedTuple):
    """Models fitted to one data set."""

    emitted: HiddenMarkovModel
    acting: HiddenMarkovModel
    world: HiddenMarkovModel
    """The law of y beside ``acting``."""

    def evidence(self, data: Sequences, reads: int) -> tuple[float, float]:
        """log p(x, y) of either reading, nats."""
        acting = log_evidence(self.acting, read_as_inputs(data, reads))
        acting = acting + log_evidence(self.world, read_alone(data, reads))
        return float(log_evidence(self.emitted, data).sum()), float(acting.sum())


def true_readings(case: Case) -> Readings:
    """The models that make the data of either reading."""
    world = emission_of(case.emitted, slice(0, case.reads))
    return Readings(case.emitted, as_policy(case.emitted, case.reads), world)


def fitted(case: Case, data: Sequences, *, steps: int, rate: float, seed: int) -> Readings:
    """Both readings, fitted to the same data.

    Args:
        case: gives the sizes.
        data: of (y, x).
        steps: gradient steps of each fit.
        rate: of Adam, falling along a cosine.
        seed: of all.
    """

    def most_likely(model: HiddenMarkovModel, own: Sequences) -> HiddenMarkovModel:
        """At the parameters of highest likelihood, from a start read off the data."""
        guide = BeliefGuide(model.scaled_to(own), ExactFilter(), parameters="ml")
        how = to_the_end(steps=steps, batch_size=len(own), parameter_learning_rate=rate)
        found = fit(guide.model, guide, own, settings=how, seed=seed, progress=False).fitted
        assert isinstance(found, HiddenMarkovModel)
        return found

    k, family, reads = case.nodes, case.family, case.reads
    emitted = TemporalSigmoidBeliefNetwork(k, family(case.features))
    acting = PolicyReading(k, family(case.features - reads), inputs=reads)
    world = TemporalSigmoidBeliefNetwork(k, family(reads))
    return Readings(
        most_likely(emitted, data),
        most_likely(acting, read_as_inputs(data, reads)),
        most_likely(world, read_alone(data, reads)),
    )
