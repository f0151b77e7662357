"""What a belief over the hidden state of a model consists of."""

from __future__ import annotations

from dataclasses import dataclass


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
