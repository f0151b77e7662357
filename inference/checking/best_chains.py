"""The best member of a family of posteriors over discrete states, free at every step.

Nothing is amortized here: each sequence has parameters of its own at each step, which may depend on
the whole sequence. The evidence minus the ELBO of the best member is due to the family alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ...models import DiscreteLaws
from ...models.chains.nodes import node_log_probabilities, product_law
from ..exact import chains as exact
from ..guides.posteriors import Backward, Forward, MeanField, PathPosterior

_SWEEPS = 300
"""Of coordinate ascent at most."""

_STILL = 1e-11
"""Largest change of a probability in a sweep at which the ascent has arrived."""

_ITERATIONS = 400
"""Of L-BFGS at most."""

GLANCE = 50
"""Iterations from each of several starts, before the best of them is followed."""


@dataclass(frozen=True)
class DiscreteFamily:
    """Posteriors of one kind whose law at each step is given by a row of numbers.

    ``kind`` joins the steps: ``Backward`` (see docs/science.md, I1), ``Forward``, ``MeanField``.
    The numbers are K logits, or with ``nodes`` the k logits of a product of Bernoulli laws over 2^k
    states (for ``Forward``, the weights of a score that is linear in the nodes).
    """

    kind: type[Backward] | type[Forward] | type[MeanField]
    nodes: int | None = None

    def member(self, laws: DiscreteLaws, numbers: Tensor) -> PathPosterior:
        """The posterior with these numbers (N, T, K or k)."""
        logs = numbers.log_softmax(-1) if self.nodes is None else product_law(numbers)
        return self.kind(laws, logs)

    def numbers(self, posterior: PathPosterior) -> Tensor:
        """The numbers of a posterior of this family, (N, T, K or k)."""
        name = "scores" if self.kind is Forward else "log_beliefs"
        logs: Tensor = getattr(posterior, name)
        return self.of_log_law(logs.detach())

    def of_log_law(self, logs: Tensor) -> Tensor:
        """Numbers whose law is, or of nodes has the log odds of, a log law (N, T, states)."""
        logs = logs.clamp_min(-30.0)  # exact zeros are approached, so that gradients stay finite
        if self.nodes is None:
            return logs
        single = 2 ** torch.arange(self.nodes - 1, -1, -1)  # states with one node on
        return logs[..., single] - logs[..., :1]

    def of_marginals(self, log_law: Tensor) -> Tensor:
        """Numbers of the product law with the nodes' marginals; a log law itself without nodes."""
        if self.nodes is None:
            return log_law.clamp_min(-30.0)
        on, off = node_log_probabilities(log_law)
        return (on - off).clamp(-30.0, 30.0)


def best_free(family: DiscreteFamily, laws: DiscreteLaws, own: PathPosterior) -> Tensor:
    """The largest ELBO of each sequence over the family, (N,), never below that of ``own``.

    A ``MeanField`` of single states is optimised by coordinate ascent, the others by L-BFGS, from
    several starts including ``own``; a better optimum that all of them miss is possible.
    """
    if family.kind is MeanField and family.nodes is None:
        return best_mean_field(laws, cast(MeanField, own).log_beliefs.detach()).elbo()
    starts = [family.numbers(own), family.of_marginals(exact.filter_chain(*laws.chain).log_beliefs)]
    if family.kind is not Backward:
        paths = exact.most_likely_path(*laws.chain)[0].clamp_min(0)
        hard = _sharp(paths, laws.log_likelihood.shape[-1])
        starts += [family.of_marginals(x) for x in (exact.smooth_chain(*laws.chain), hard)]

    def total(numbers: Tensor) -> Tensor:
        return family.member(laws, numbers).elbo().sum()

    begun = torch.stack([*starts, *(ascend(total, start, GLANCE) for start in starts)])
    with torch.no_grad():
        bounds = torch.stack([family.member(laws, numbers).elbo() for numbers in begun])
    # Sequences are separate problems: each continues from its own best.
    best = ascend(total, begun[bounds.argmax(0), torch.arange(begun.shape[1])])
    with torch.no_grad():
        return torch.maximum(family.member(laws, best).elbo(), bounds.amax(0))


def ascend(
    objective: Callable[[Tensor], Tensor], start: Tensor, iterations: int = _ITERATIONS
) -> Tensor:
    """Maximises a differentiable objective (nats) by L-BFGS from ``start``; float64."""
    numbers = start.double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [numbers],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -objective(numbers)
        loss.backward()
        return loss

    optimizer.step(closure)
    return numbers.detach()


def best_mean_field(laws: DiscreteLaws, *starts: Tensor) -> MeanField:
    """The best independent steps for every sequence, each free to depend on all of it.

    Coordinate ascent on the bound, odd and even steps in turn, from the smoother, from the most
    likely path and from any further log laws (N, T, K) given; the best result is returned. The
    evidence minus its bound is the family gap of every mean-field guide, unless all starts miss a
    better optimum.
    """
    states = laws.log_likelihood.shape[-1]
    paths = exact.most_likely_path(*laws.chain)[0].clamp_min(0)
    tried: Sequence[Tensor] = exact.smooth_chain(*laws.chain), _sharp(paths, states), *starts
    found = torch.stack([_coordinate_ascent(laws, start) for start in tried])
    bounds = torch.stack([MeanField(laws, log_q).elbo() for log_q in found])
    return MeanField(laws, found[bounds.argmax(0), torch.arange(found.shape[1])])


def _sharp(paths: Tensor, states: int) -> Tensor:
    """Log laws (N, T, K) that are almost certain of paths (N, T)."""
    hard = torch.nn.functional.one_hot(paths, states).double()
    return (hard * 0.998 + 0.002 / states).log()


def _coordinate_ascent(laws: DiscreteLaws, log_q: Tensor) -> Tensor:
    """q_t ∝ O(y_t|·) exp(E_q[log T(·|z_{t-1}) + log T(z_{t+1}|·)])."""
    steps = log_q.shape[1]
    odd = (torch.arange(steps) % 2 == 1).unsqueeze(-1)
    onward = torch.arange(1, steps) < laws.lengths.unsqueeze(-1)
    table = laws.log_transition.expand(-1, max(steps - 1, 1), -1, -1)
    moves = table[:, : steps - 1]
    for _ in range(_SWEEPS):
        before = log_q
        for turn in (odd, ~odd):
            q = log_q.exp()
            score = laws.log_likelihood.clone()
            score[:, 0] += laws.log_initial
            if steps > 1:
                from_past = (q[:, :-1].unsqueeze(-2) @ moves).squeeze(-2)
                from_future = (moves @ q[:, 1:].unsqueeze(-1)).squeeze(-1)
                score[:, 1:] += from_past
                score[:, :-1] += torch.where(onward.unsqueeze(-1), from_future, 0)
            log_q = torch.where(turn, score.log_softmax(-1), log_q)
        if float((log_q.exp() - before.exp()).abs().max()) < _STILL:
            break
    return log_q
