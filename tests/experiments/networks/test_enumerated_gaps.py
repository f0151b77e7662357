"""Parts of evidence gaps by enumeration, against the guides' own laws of paths."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.experiments.networks.parts.enumerated_gaps import (
    PARTS,
    bounds,
    enumerated,
    listed,
    path_law,
)
from beliefzoo.inference import BeliefGuide, ForwardGuide, LSTMFilter, MeanFieldGuide
from beliefzoo.inference.guides.guide import Guide
from beliefzoo.models import Categorical, HiddenMarkovModel
from beliefzoo.models.randomness import seeded

SYMBOLS = torch.arange(2).unsqueeze(-1)


def model() -> HiddenMarkovModel:
    return HiddenMarkovModel(2, Categorical(2)).with_parameters(
        initial=[0.6, 0.4], transition=[[0.8, 0.2], [0.3, 0.7]], probs=[[0.9, 0.1], [0.25, 0.75]]
    )


def guide(kind: type[Guide]) -> Guide:
    with seeded(1):
        made = kind(model(), LSTMFilter(3))
    made.calibrate(model().sample(5, 3, seed=0).data)
    return made


def test_the_joint_law_is_that_of_the_tables() -> None:
    of, known = listed(model(), SYMBOLS, 2), model().known
    tables = [known[name].numpy() for name in ("initial", "transition", "probs")]
    start, move, emit = tables
    for (s, y), (p, z) in itertools.product(
        enumerate(of.data.codes().tolist()), enumerate(of.paths.tolist())
    ):
        expected = start[z[0]] * emit[z[0], y[0]] * move[z[0], z[1]] * emit[z[1], y[1]]
        assert float(of.joint[s, p].exp()) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(float(of.chance.sum()), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", [BeliefGuide, ForwardGuide, MeanFieldGuide])
def test_laws_of_paths_are_those_of_the_guides(kind: type[Guide]) -> None:
    of = listed(model(), SYMBOLS, 3)
    with torch.no_grad():
        posterior = guide(kind).posterior(model().laws({}, of.data))
    logs = posterior.scores if kind is ForwardGuide else posterior.log_beliefs  # type: ignore[attr-defined]
    q = path_law(of, kind, logs.double())
    paths = of.paths.unsqueeze(1).expand(-1, len(of.joint), -1)
    np.testing.assert_allclose(q.mT, posterior.path_log_prob(paths), atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(q.exp().sum(-1), 1, rtol=1e-9)
    np.testing.assert_allclose(bounds(of, kind, logs.double()), posterior.elbo(), atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [ForwardGuide, MeanFieldGuide])
def test_parts_by_enumeration_are_those_reported(kind: type[Guide]) -> None:
    found = enumerated(guide(kind), SYMBOLS, 2, starts=3, iterations=100, seed=0)
    assert found["largest_distance"] < 1e-5
    assert found["causality_by_enumeration"] > 1e-3  # there is something to find
    assert sum(found[f"{part}_as_reported"] for part in PARTS) > 0
