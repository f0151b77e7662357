"""Transition laws with a structure: the same evidence with it as by the dense matrix."""

import pytest
import torch

from beliefzoo.inference import log_evidence
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.exact.structured import Banded, LowRank, Sparse
from beliefzoo.inference.queries import structures
from beliefzoo.models import (
    BandedTransition,
    Categorical,
    HiddenMarkovModel,
    LowRankTransition,
    MatrixTransition,
    SparseTransition,
)

RING = SparseTransition(tuple((i, (i + 1) % 6, (i + 2) % 6)[: 2 + i % 2] for i in range(6)))
LAWS = {
    "low-rank": (LowRankTransition(2), LowRank),
    "banded": (BandedTransition((-1, 0, 2)), Banded),
    "sparse": (RING, Sparse),
}


@pytest.mark.parametrize(("law", "kind"), LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("initial", ["free", "stationary"])
def test_evidence_and_gradient_are_those_of_the_dense_matrix(
    law: object, kind: type, initial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "STRUCTURED_STATES", 2)
    model = HiddenMarkovModel(6, Categorical(4), transition=law, initial=initial)  # type: ignore[arg-type]
    drawn = model.sample(3, [9, 1, 5], seed=1)
    values = {name: x.double().requires_grad_() for name, x in drawn.parameters.items()}
    known = model.with_parameters(**values)
    laws = known.laws({}, drawn.data)
    found = structures.structure(laws)
    assert isinstance(found, kind)
    torch.testing.assert_close(found.dense(), laws.log_transition[0, 0])  # type: ignore[attr-defined]
    ours = log_evidence(known, drawn.data)
    dense = exact.log_evidence(
        laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
    )
    torch.testing.assert_close(ours, dense)
    leaves = list(values.values())
    by_structure = torch.autograd.grad(ours.sum(), leaves, retain_graph=True)
    by_matrix = torch.autograd.grad(dense.sum(), leaves)
    for a, b in zip(by_structure, by_matrix, strict=True):
        torch.testing.assert_close(a, b)


def test_a_plain_matrix_and_draws_have_no_structure() -> None:
    plain = HiddenMarkovModel(4, Categorical(3), transition=MatrixTransition())
    drawn = plain.sample(2, 3, seed=0)
    assert structures.structure(plain.laws(drawn.parameters, drawn.data)) is None
    model = HiddenMarkovModel(4, Categorical(3), transition=LowRankTransition(2))
    draws = {name: prior.sample((5,)) for name, prior in model.priors.items()}
    assert structures.structure(model.laws(draws, drawn.data)) is None
