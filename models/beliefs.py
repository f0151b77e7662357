"""What a belief over the hidden state of a model consists of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiscreteBelief:
    """Probabilities of ``states`` states.

    With ``nodes`` the states are those of k binary nodes, 2^k in number, and a belief is a product
    of Bernoulli laws, one a node: what a layer of logistic units can say.
    """

    states: int
    nodes: int | None = None

    @property
    def width(self) -> int:
        """Free numbers of a belief: a logit per state, or per node."""
        return self.states if self.nodes is None else self.nodes


@dataclass(frozen=True)
class GaussianBelief:
    """A normal law of ``size`` dimensions, with a covariance that is ``full`` or diagonal."""

    size: int
    full: bool = True

    @property
    def width(self) -> int:
        """Free numbers of a belief: mean, and Cholesky factor or standard deviations."""
        return self.size + (self.size * (self.size + 1) // 2 if self.full else self.size)


Belief = DiscreteBelief | GaussianBelief


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence of discrete beliefs.

    .. math:: KL(p \| q) = \sum_k p_k (\log p_k - \log q_k), \quad 0 \log 0 = 0

    Args:
        log_p: log probabilities (…, K), −∞ where a state is impossible.
        log_q: log probabilities (…, K).

    Returns:
        Nats, (…); ∞ where q rules out a state that p does not.

    >>> divergence(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log())
    tensor(0.6931)
    """
    possible = ~log_p.isneginf()
    difference = torch.where(possible, log_p, 0) - torch.where(possible, log_q, 0)
    return (log_p.exp() * difference).sum(-1)
