"""Kinds of beliefs over the hidden state of a model, and the divergence of two beliefs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiscreteBelief:
    """The kind of belief that is a vector of probabilities of K states.

    With ``nodes`` the states are the 2^k joint states of k binary nodes, and a belief is a product
    of Bernoulli distributions, one per node, as a layer of logistic units can express it.

    Args:
        states: number of states K.
        nodes: number of nodes k; None if the states are not made of nodes.

    >>> DiscreteBelief(8).width, DiscreteBelief(8, nodes=3).width  # logits of states, of nodes
    (8, 3)
    """

    states: int
    nodes: int | None = None
    discrete: ClassVar[Literal[True]] = True

    @property
    def width(self) -> int:
        """How many free numbers a belief has: a logit per state, or per node."""
        return self.states if self.nodes is None else self.nodes


@dataclass(frozen=True)
class GaussianBelief:
    """The kind of belief that is a normal distribution.

    Args:
        size: number of dimensions D.
        full: whether the covariance is full or diagonal.

    >>> GaussianBelief(3).width, GaussianBelief(3, full=False).width  # mean, and factor or scales
    (9, 6)
    """

    size: int
    full: bool = True
    discrete: ClassVar[Literal[False]] = False
    nodes: ClassVar[None] = None

    @property
    def width(self) -> int:
        """How many free numbers a belief has: mean, and Cholesky factor or standard deviations."""
        return self.size + (self.size * (self.size + 1) // 2 if self.full else self.size)


Belief = DiscreteBelief | GaussianBelief


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return the Kullback–Leibler divergence of discrete beliefs.

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
