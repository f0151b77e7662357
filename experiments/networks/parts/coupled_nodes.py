"""Networks of coupled nodes: the nearest diagonal chain, an LSTM for their beliefs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....models import HiddenMarkovModel, node_states
from ..drawings.coupled_nodes import HEADS


def projected(model: HiddenMarkovModel, length: int) -> tuple[dict[str, Tensor], float]:
    """The diagonal chain that is nearest where the nodes are seen, and how far it is.

    Minimises E KL(T(·|h) ‖ Π_j T_j(·|h_j)) over the stationary law of h by enumeration: T_j(1|b) is
    the probability that node j comes on given that it was b. Returns its parameters and the mean of
    that divergence over the steps of sequences of this length, nats a step. What is seen tells less
    than the nodes do: with the true emission it loses no more than this in the evidence, on
    average, and the best diagonal model no more than it.
    """
    assert model.nodes is not None
    states = node_states(model.nodes)
    table = model.transition(model.complete({}), None)[0, 0].exp()  # type: ignore[arg-type]
    law = torch.linalg.matrix_power(table, 4096)[0]
    on = table @ states
    logits = []
    total = torch.zeros(len(states), dtype=torch.float64)
    for before in (0.0, 1.0):
        weight = law.unsqueeze(-1) * (states == before)
        mean = (weight * on).sum(0) / weight.sum(0)
        cross = on * (on / mean).log() + (1 - on) * ((1 - on) / (1 - mean)).log()
        total = total + ((states == before) * cross).sum(-1)
        logits.append(mean.logit())
    values = {"node_bias": logits[0], "node_weight": logits[1] - logits[0]}
    now = model.initial_law(model.complete({}), None).exp().reshape(-1)  # type: ignore[arg-type]
    lost = 0.0
    for _ in range(length - 1):
        lost, now = lost + float(now @ total), now @ table
    return values, lost / length


class Network(nn.Module):
    """An LSTM with a read-out of a logit a node or a logit a state."""

    def __init__(self, features: int, size: int, nodes: int, head: str) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, size, batch_first=True)
        self.head = nn.Linear(size, nodes if head == HEADS[0] else 2**nodes)
        self.nodes = nodes if head == HEADS[0] else 0

    def cross_entropy(self, y: Tensor, exact: Tensor) -> Tensor:
        """−Σ_h b_t(h) log β_t(h), (N, T)."""
        scores: Tensor = self.head(self.lstm(y)[0])
        if not self.nodes:
            return -(exact * scores.log_softmax(-1)).sum(-1)
        on = (exact @ node_states(self.nodes).float()).clamp(0, 1)
        return (nn.functional.softplus(scores) - on * scores).sum(-1)


def information(exact: Tensor) -> dict[str, float]:
    """Means over all steps: I(h_t; y_1 … y_t), entropy, total correlation of the belief; nats."""
    exact = exact.double()
    nodes = exact.shape[-1].bit_length() - 1
    on = (exact @ node_states(nodes)).clamp(0, 1)
    entropy = torch.special.entr(exact).sum(-1)
    single = (torch.special.entr(on) + torch.special.entr(1 - on)).sum(-1)
    prior = torch.special.entr(exact.flatten(0, 1).mean(0)).sum()
    return {
        "information": float(prior - entropy.mean()),
        "entropy": float(entropy.mean()),
        "total_correlation": float((single - entropy).mean()),
    }
