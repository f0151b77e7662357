"""Starting values improved by EM from several starts, for laws that say what the M-step is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.chains.start import FRAMES
from ..exact import chains as exact

STARTS = 12
"""At most, the given one and random ones: of four states a third of them lead to the best…"""

AGREEING = 3
"""…and fewer if as many as these lead to it…"""

ALIKE = 1.0
"""…up to this difference in nats."""

COOLING = 0.9
"""Factor of the least scale from one step to the next; and…"""

WARM_STEPS = 45
"""…the steps until it is a hundredth of the data's spread."""

SHORT_STEPS = 150
"""Steps after which the starts are compared."""

LONG_STEPS = 300
"""Further steps from the best start, at most."""

GAIN = 0.03
"""Nats: where a step gains less, the fit itself does as well."""

Values = dict[str, Tensor]


class _Found(NamedTuple):
    """Values, and log p(y) at those before the last step."""

    values: Values
    evidence: float


def start_by_em(model: Model, data: Sequences, values: Values) -> Values:
    """Values of a model of discrete states improved by EM (Baum and others 1970).

    Every step counts moves and observations by their posterior probability and lets the model read
    its parameters off these, see ``Model.m_step``. EM ends at the local maximum that is nearest, so
    that it begins at several starts (random ones beside the given one), each with scales that are
    wide first and then fall, and goes on from the one of the highest evidence. Draws from torch's
    global generator.
    """
    data = data[: max(1, FRAMES // data.max_length)]
    found: list[_Found] = []
    for number in range(STARTS):
        start = model.start_from_frames(data) if number else values
        found.append(_improved(model, data, start, WARM_STEPS, SHORT_STEPS))
        best = max(found, key=lambda one: one.evidence)
        if sum(best.evidence - one.evidence < ALIKE for one in found) == AGREEING:
            break
    return _improved(model, data, best.values, 0, LONG_STEPS).values


def _improved(model: Model, data: Sequences, values: Values, warm: int, steps: int) -> _Found:
    """EM that begins with so many warm steps, until it gains little."""
    assert model.m_step is not None
    before = -torch.inf
    for step in range(steps):
        weight, counts, evidence = _expected(model, data, values)
        if evidence < before + GAIN:
            if step >= warm:
                break
            warm = step  # nothing left to wait for
        warmth = COOLING**step if step < warm else 0.0
        values, before = model.m_step(data, weight, counts, warmth), evidence
    return _Found(values, evidence)


def _expected(model: Model, data: Sequences, values: Values) -> tuple[Tensor, Tensor, float]:
    """p(z_t | y) (N, T, K), expected numbers of moves after each action (A, K, K), log p(y).

    The expectations are the derivatives of the evidence by log O and log T.
    """
    with torch.enable_grad():
        unknown = {name: value for name, value in values.items() if name in model.priors}
        laws = model.laws(unknown, data).discrete
        assert laws is not None  # only such are counted
        initial, moves, likelihood, lengths, choice = laws.chain
        tables, scores = moves.detach().requires_grad_(), likelihood.detach().requires_grad_()
        total = exact.log_evidence(initial, tables, scores, lengths, choice).sum()
        counts, weight = torch.autograd.grad(total, (tables, scores))
    return weight, counts.squeeze(0), float(total.detach())
