"""The slowest obvious methods for Gaussian chains, in float64; imports nothing of ours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Chain = Sequence[Tensor]


def _entry(tensor: Tensor, *places: int) -> Tensor:
    """The entry of an array whose axes of size 1 are shared."""
    for place in places:
        tensor = tensor[place if len(tensor) > 1 else 0]
    return tensor


def sweep(gain: Tensor, shift: Tensor, last: Tensor, lengths: list[int]) -> Tensor:
    """x_t = G_t x_{t+1} + c_t back from ``last``, step by step; zero beyond the length."""
    rows = []
    for n, length in enumerate(lengths):
        steps = [last[..., n, :]]
        for t in reversed(range(length - 1)):
            g = _entry(gain, n, t)
            steps.insert(0, torch.einsum("ij,...j->...i", g, steps[0]) + shift[..., n, t, :])
        beyond = [torch.zeros_like(steps[0])] * (shift.shape[-2] + 1 - length)
        rows.append(torch.stack(steps + beyond, -2))
    return torch.stack(rows, -3)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: list[int]) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t back from ``last``, step by step; zero beyond the length."""
    rows = []
    for n, length in enumerate(lengths):
        steps = [_entry(last, n)]
        for t in reversed(range(length - 1)):
            g = _entry(gain, n, t)
            steps.insert(0, g @ steps[0] @ g.mT + _entry(noise, n, t))
        beyond = [torch.zeros_like(steps[0])] * (noise.shape[1] + 1 - length)
        rows.append(torch.stack(steps + beyond))
    return torch.stack(rows)


# --- the joint law of a whole sequence, written out -----------------------------------------------
# ``chain`` holds initial_mean, initial_covariance, diffuse, transition, offset, noise, loading,
# intercept, observation_noise; axes of size 1 are shared.


class Joint(NamedTuple):
    """z = mean + directions δ + N(0, covariance), of all observed elements y and all states."""

    states: Tensor
    state_directions: Tensor
    state_covariance: Tensor
    observed: Tensor
    observed_directions: Tensor
    observed_covariance: Tensor
    between: Tensor
    """Covariance of states and observed elements."""
    values: Tensor


def joint(chain: Chain, values: Tensor, mask: Tensor, n: int, steps: int) -> Joint:
    """Of the first ``steps`` steps of sequence n, as one Gaussian vector."""
    mean, covariance, diffuse, transition, offset, noise, loading, intercept, variance = chain
    size, features = diffuse.shape[0], values.shape[-1]
    first, start, spread = _entry(mean, n), _entry(covariance, n), []
    moves = [[torch.eye(size, dtype=values.dtype)]]  # moves[t][k]: from the k-th shock to z_t
    means = [first]
    for t in range(steps - 1):
        a = _entry(transition, n, t)
        means.append(a @ means[-1] + _entry(offset, n, t))
        moves.append([a @ move for move in moves[-1]] + [torch.eye(size, dtype=values.dtype)])
        spread.append(_entry(noise, n, t))
    zero = torch.zeros(size, size, dtype=values.dtype)
    rows = [torch.cat(row + [zero] * (steps - len(row)), 1) for row in moves]
    operator, shocks = torch.cat(rows), torch.block_diag(start, *spread)
    states = operator @ shocks @ operator.mT
    directions = operator[:, :size] @ diffuse
    seen = mask[n, :steps].reshape(-1)
    c = torch.block_diag(*(_entry(loading, n, t) for t in range(steps)))[seen]
    d = torch.cat([_entry(intercept, n, t) for t in range(steps)])[seen]
    r = torch.block_diag(*(_entry(variance, n, t) for t in range(steps)))[seen][:, seen]
    center = torch.cat(means)
    assert c.shape[1] == steps * size
    assert len(seen) == steps * features
    return Joint(
        center,
        directions,
        states,
        c @ center + d,
        c @ directions,
        c @ states @ c.mT + r,
        states @ c.mT,
        values[n, :steps].reshape(-1)[seen],
    )


def log_evidence(chain: Chain, values: Tensor, mask: Tensor, lengths: list[int]) -> Tensor:
    """log ∫ N(y; mean + X δ, Σ) dδ, but for (2π)^(q/2), by dense matrices."""
    found = []
    for n, length in enumerate(lengths):
        law = joint(chain, values, mask, n, length)
        rest = law.values - law.observed
        inverse = torch.linalg.inv(law.observed_covariance)
        total = len(rest) * math.log(2 * math.pi) + torch.logdet(law.observed_covariance)
        total = total + rest @ inverse @ rest
        if chain[2].shape[1]:
            x = law.observed_directions
            information, score = x.mT @ inverse @ x, x.mT @ inverse @ rest
            total = total + torch.logdet(information)
            total = total - score @ torch.linalg.solve(information, score)
        found.append(-0.5 * total)
    return torch.stack(found)


def posterior(
    chain: Chain, values: Tensor, mask: Tensor, n: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Mean (T D,) and covariance (T D, T D) of all states given the first ``steps`` steps."""
    law = joint(chain, values, mask, n, steps)
    gain = torch.linalg.solve(law.observed_covariance, law.between.mT).mT
    rest = law.values - law.observed
    mean = law.states + gain @ rest
    covariance = law.state_covariance - gain @ law.between.mT
    if chain[2].shape[1]:
        x = law.observed_directions
        weighted = torch.linalg.solve(law.observed_covariance, x).mT
        variance = torch.linalg.inv(weighted @ x)
        left = law.state_directions - gain @ x
        mean = mean + left @ variance @ weighted @ rest
        covariance = covariance + left @ variance @ left.mT
    return mean, covariance
