"""Gates σ(W_h h' + W_y y + b) of k binary nodes: what they read, how good they are, the best one.

Their weights are kept in one matrix (k, k + F + 1): of the nodes before, of what is observed, bias.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...inference import (
    BeliefGuide,
    LSTMFilter,
    NaturalLSTMFilter,
    evidence_gap,
    gate_identity,
    update_agreement,
)
from ...inference.networks.gate_identity import LEAST_CELL, PARTS, bayes_factors
from ...models import HiddenMarkovModel, Model, NodeGate, Sequences, node_states


class Pairs(NamedTuple):
    """Nodes before h' (M, k), what is observed y (M, F), and the nodes h (M, k) drawn with it."""

    before: Tensor
    y: Tensor
    after: Tensor

    @property
    def inputs(self) -> Tensor:
        """What a gate reads, with a constant for its bias: (M, k + F + 1)."""
        return torch.cat([self.before, self.y, torch.ones_like(self.y[:, :1])], -1)


class Posterior(NamedTuple):
    """p(h | h', y) of M pairs, by enumeration: the law of the 2^k states, and of each node."""

    law: Tensor
    on: Tensor

    def divergence(self, logits: Tensor) -> float:
        """Mean over the pairs of KL(p ‖ q), q of independent nodes with these logits: nats a step.

        The total correlation of p, which no such q can say, and the divergence of every node.
        """
        cross = torch.nn.functional.softplus(logits) - self.on * logits
        return float((cross.sum(-1) - torch.special.entr(self.law).sum(-1)).mean())

    @property
    def total_correlation(self) -> float:
        """The divergence from the product of the nodes' own laws, nats a step."""
        return self.divergence(self.on.logit(eps=1e-15))


def posterior(model: HiddenMarkovModel, pairs: Pairs) -> Posterior:
    """T(h | h') O(y | h), normalised."""
    nodes = pairs.before.shape[-1]
    laws = model.laws({}, Sequences.from_tensors(pairs.y[None]))
    places = (pairs.before @ 2.0 ** torch.arange(nodes - 1, -1, -1).double()).long()
    law = (laws.log_transition[0, 0, places] + laws.log_likelihood[0]).softmax(-1)
    return Posterior(law, law @ node_states(nodes))


def error(exact: Posterior, logits: Tensor) -> float:
    """Largest error of the product law's probability of a state."""
    states = node_states(logits.shape[-1])
    log_q = logits @ states.mT - torch.nn.functional.softplus(logits).sum(-1, keepdim=True)
    return float((exact.law - log_q.exp()).abs().max())


def weights_of(gate: NodeGate) -> Tensor:
    """The weights of a gate, (k, k + F + 1)."""
    return torch.cat([gate.node_weight, gate.natural_weight, gate.bias.unsqueeze(-1)], -1)


def best_gate(inputs: Tensor, targets: Tensor, steps: int = 12) -> Tensor:
    """Weights (k, inputs) whose cross-entropy to targets in [0, 1] is least, by Newton's method.

    It is convex, one logistic regression a node: hard targets are simulated nodes (the forward KL),
    soft ones their probabilities. The first steps are taken on a part of the data.
    """
    weights = inputs.new_zeros(targets.shape[-1], inputs.shape[-1])
    few = max(len(inputs) // 20, min(len(inputs), 5000))
    for step in range(steps):
        part = slice(None) if step >= steps - 4 else slice(few)
        x, p = inputs[part], targets[part]
        q = (x @ weights.mT).sigmoid()
        for node in range(len(weights)):
            spread = (q[:, node] * (1 - q[:, node])).unsqueeze(-1)
            curvature = x.mT @ (spread * x) + 1e-6 * torch.eye(x.shape[-1]).double()
            slope = x.mT @ (p[:, node] - q[:, node])
            weights[node] += torch.linalg.solve(curvature, slope)
    return weights


def gate_score(weights: Tensor, pairs: Pairs) -> Tensor:
    """log p(h | h', y) of every pair under a gate with weights (k, inputs), nats (M,)."""
    sign = 2 * pairs.after - 1
    return torch.nn.functional.logsigmoid(sign * (pairs.inputs @ weights.mT)).sum(-1)


def two_gates_for_one(first: Pairs, second: Pairs) -> float:
    """By how many nats a gate for each describes pairs better than one gate, less what chance does.

    Chance gives half a nat a weight: twice the gain is χ² with as many degrees of freedom (Wilks).
    """
    both = Pairs(*(torch.cat(parts) for parts in zip(first, second, strict=True)))
    one = best_gate(both.inputs, both.after)
    apart = sum(
        float(gate_score(best_gate(part.inputs, part.after), part).sum())
        for part in (first, second)
    )
    return apart - float(gate_score(one, both).sum()) - one.numel() / 2


def renamed(pairs: Pairs) -> list[Pairs]:
    """The same bits under all names of the nodes, with on for off."""
    nodes = pairs.before.shape[-1]
    out = []
    for order in itertools.permutations(range(nodes)):
        for flip in itertools.product((0.0, 1.0), repeat=nodes):
            turned = torch.tensor(flip, dtype=torch.float64)
            bits = ((part[:, list(order)] - turned).abs() for part in (pairs.before, pairs.after))
            before, after = bits
            out.append(Pairs(before, pairs.y, after))
    return out


# Forget gates of an LSTM beside the factor of Bayes' rule

KL = "kl_filter_per_step"
"""Of a network's belief from the exact filter's, in reports."""

BINS = 40
"""Of the observation, for the best function of it."""


def gate_figures(guide: BeliefGuide, test: Sequences, *, changes: int, seed: int) -> dict[str, Any]:
    """Distances to the exact filter, and gates beside the factors of Bayes' rule.

    Args:
        guide: of a model with known parameters.
        test: sequences that its network was not trained on.
        changes: changed histories of every sequence, for the update of networks without units.
        seed: of the changes.
    """
    gap = evidence_gap(guide, test)
    figures: dict[str, Any] = {
        KL: gap.kl_filter_per_step,
        "evidence_gap_per_step": gap.gap_per_step,
    }
    if guide.model.belief.discrete:
        update = update_agreement(guide, test, changes=changes, seed=seed)
        figures["update_r_squared"] = update.r_squared
    if isinstance(guide.filter, NaturalLSTMFilter):
        found = gate_identity(guide, test)
        for part in PARTS:
            figures[f"{part}_r_squared"] = found.worst(part)
            figures[f"{part}_slope"] = float(np.mean([unit[part].slope for unit in found.units]))
    else:
        figures["best_unit_correlation"] = best_unit(guide, test)
    return figures


def gate_rows(guide: BeliefGuide, test: Sequences) -> dict[str, Tensor]:
    """c before a step, what gate, kept and written part of the first cell are, and should be.

    Each (N, T − 1), from the second step on.
    """
    own = guide.filter
    assert isinstance(own, NaturalLSTMFilter)
    with torch.no_grad():
        gates = own.gates(guide.model.laws({}, test))
        bayes = bayes_factors(guide.model, test)
    scale = float(own.natural_scale[0])
    i, f, g, c = (gates[key][:, :, 0, 0].double() for key in "ifgc")
    return {
        "forget_gate": f[:, 1:],
        "kept": scale * f[:, 1:] * c[:, :-1],
        "written": scale * (i * g)[:, 1:],
        "before": bayes["before"][..., 0],
        "exact_kept": bayes["kept"][..., 0],
        "exact_written": bayes["written"][..., 0],
    }


def best_unit(guide: BeliefGuide, test: Sequences) -> float:
    """Largest |correlation| of a forget gate with the factor of Bayes' rule, least of all cells."""
    bayes = bayes_factors(guide.model, test)
    assert isinstance(guide.filter, LSTMFilter)
    with torch.no_grad():
        forget = guide.filter.gates(guide.model.laws({}, test))["f"][:, 1:, 0].double()
    best = []
    for cell in range(bayes["kept"].shape[-1]):
        kept, before = bayes["kept"][..., cell], bayes["before"][..., cell]
        inside = before.abs() > LEAST_CELL
        both = torch.cat([(kept / before)[inside].unsqueeze(-1), forget[inside]], -1)
        best.append(float(torch.corrcoef(both.mT)[0, 1:].nan_to_num().abs().max()))
    return min(best)


def overgrown(guide: BeliefGuide, factor: float) -> BeliefGuide:
    """The guide with all weights of its LSTM but the read-out's multiplied."""
    other = copy.deepcopy(guide)
    assert isinstance(other.filter, LSTMFilter)
    assert other.filter.network is not None
    with torch.no_grad():
        for weight in other.filter.network.parameters():
            weight.mul_(factor)
    return other


def of_the_observation_alone(model: Model, test: Sequences) -> float:
    """R² of the best function of y_t for the first forget gate: means over bins of the first half
    of the sequences, tested on the second half; a missing y_t has a bin of its own. One feature."""
    bayes = bayes_factors(model, test)
    kept, before = bayes["kept"][..., 0], bayes["before"][..., 0]
    target, inside = kept / before, (before.abs() > LEAST_CELL) & test.step_mask[:, 1:]
    y, seen = (each.reshape(len(kept), -1)[:, 1:] for each in (test.values, test.mask))
    y = y.double().contiguous()
    half = torch.zeros_like(inside)
    half[: len(half) // 2] = True
    edges = y[half & seen].quantile(torch.linspace(0, 1, BINS + 1, dtype=y.dtype)[1:-1])
    where = torch.where(seen, torch.bucketize(y, edges), BINS)
    bins = range(BINS + 1)
    guess = torch.stack([_mean(target[half & inside & (where == one)]) for one in bins])
    left = target[~half & inside]
    lost = (left - guess[where][~half & inside]).square().sum()
    return float(1 - lost / (left - left.mean()).square().sum())


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_tensor(0.5)
