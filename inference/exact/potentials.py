"""Normalised forward messages of a chain of potentials, with their gradient."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import chains as exact


class _FilterBeliefs(torch.autograd.Function):
    """One forward sweep by the kernels of ``chains``, and one backward sweep for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, log_initial: Tensor, log_potential: Tensor, log_likelihood: Tensor
    ) -> Tensor:
        found = exact.filter_chain(log_initial, log_potential, log_likelihood)
        ctx.save_for_backward(log_potential, found.log_beliefs, found.log_predicted)
        ctx.shape = log_initial.shape
        return found.log_beliefs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_potential, log_beliefs, log_predicted = ctx.saved_tensors
        potential, beliefs = log_potential.exp(), log_beliefs.exp()
        # States without a path to them have prediction 0 and gradient 0.
        reached = ~log_predicted.isneginf()
        largest = 0.9 * math.log(torch.finfo(beliefs.dtype).max)
        inverse = torch.where(reached, -log_predicted, -torch.inf).clamp_max(largest).exp()
        # A constant added to all scores of a step changes no belief: the gradient sums to 0.
        to_score = (gradient - beliefs * gradient.sum(-1, keepdim=True)).masked_fill(~reached, 0)
        ratio = torch.empty_like(beliefs)
        steps = potential.shape[1]
        for t in range(beliefs.shape[1] - 1, 0, -1):
            torch.mul(to_score[:, t], inverse[:, t], out=ratio[:, t])
            table = potential[:, min(t - 1, steps - 1)]
            if len(table) == 1:
                onward = ratio[:, t] @ table[0].mT
            else:
                onward = (table @ ratio[:, t].unsqueeze(-1)).squeeze(-1)
            to_score[:, t - 1].addcmul_(beliefs[:, t - 1], onward)
        moves = None
        if ctx.needs_input_grad[1]:
            before, after = beliefs[:, :-1], ratio[:, 1:]
            if potential.shape[:2] == (1, 1):
                moves = potential * (before.flatten(0, 1).mT @ after.flatten(0, 1))
            else:
                pairs = before.unsqueeze(-1) * after.unsqueeze(-2)
                moves = (potential * pairs).sum_to_size(log_potential.shape)
        return to_score[:, 0].sum_to_size(ctx.shape).clone(), moves, to_score


def filter_beliefs(log_initial: Tensor, log_potential: Tensor, log_likelihood: Tensor) -> Tensor:
    r"""Normalised forward messages of a chain of potentials; differentiable.

    .. math::
        \beta_1(z) \propto e^{\mathrm{initial}(z) + s_1(z)}, \qquad
        \beta_t(z) \propto e^{s_t(z)} \sum_{z'} \beta_{t-1}(z') e^{\mathrm{potential}_t(z', z)}

    This is the exact filter if the potentials are the logs of a model's laws. Rows of potentials
    need not be normalised: use it for a filter of your own that learns them. Memory is of order
    N T K besides the potentials.

    Args:
        log_initial: (N|1, K).
        log_potential: (N|1, T-1|1, K, K), from row to column.
        log_likelihood: scores s, (N, T, K).

    Returns:
        log β, (N, T, K).

    Raises:
        ValueError: shapes or dtypes that do not fit.

    >>> import torch
    >>> from beliefzoo.inference import filter_beliefs
    >>> potential = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()  # not a stochastic matrix
    >>> scores = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    >>> log_beliefs = filter_beliefs(torch.zeros(1, 2), potential[None, None], scores)
    >>> log_beliefs.exp().detach().numpy().round(4)[0]
    array([[0.7311, 0.2689],
           [0.6155, 0.3845]], dtype=float32)
    >>> log_beliefs[0, 1, 0].backward()
    >>> scores.grad.numpy().round(4)[0]
    array([[ 0.1597, -0.1597],
           [ 0.3845, -0.3845]], dtype=float32)
    """
    arguments = log_initial, log_potential, log_likelihood
    return cast(Tensor, _FilterBeliefs.apply(*arguments))  # type: ignore[no-untyped-call]
