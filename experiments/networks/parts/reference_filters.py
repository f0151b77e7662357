"""Filters that need no training: floors and baselines."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ....inference import ExactFilter, SampledBitGuide, SigmoidFilter, filter_beliefs
from ....inference.filters.gaussian_beliefs import GaussianBeliefs
from ....inference.filters.slot import Beliefs
from ....models import DiscreteLaws, LinearLaws, Model, Sequences, TrajectoryLaws
from ....models.chains.nodes import node_probabilities, product_law


class _Fixed(nn.Module):
    """A filter with nothing to build or calibrate."""

    causal = True

    def build(self, model: Model) -> None:
        """Nothing to build."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to calibrate."""


def discrete(laws: TrajectoryLaws) -> DiscreteLaws:
    """These laws as those of a chain of discrete states, which they must be."""
    found = laws.discrete
    assert found is not None
    return found


class AffineFilter(_Fixed):
    """m_t = tanh(½ LLR(y_t) + a m_{t-1}), m_0 = 0: what a gate with weight a on m could do.

    The exact filter has artanh((1 − 2ε) m_{t-1}) in place of a m_{t-1}, with slope 1 − 2ε at m = 0
    and artanh(1 − 2ε) between m = −1 and m = 1.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        told = discrete(laws).log_likelihood
        half_ratio = (told[..., 1] - told[..., 0]) / 2
        logit = torch.empty_like(half_ratio)
        m = torch.zeros_like(half_ratio[:, 0])
        for t in range(half_ratio.shape[1]):
            logit[:, t] = half_ratio[:, t] + self.slope * m
            m = logit[:, t].tanh()
        # P(z = ±1) = (1 ± m) / 2 = 1 / (1 + exp(∓2 artanh m)), without cancellation
        return nn.functional.logsigmoid(torch.stack([-2 * logit, 2 * logit], -1))


class SampledMarginals(_Fixed):
    """Marginals of the guide whose gate is the exact p(h_t | h_{t-1}, y_t): no filter (I2)."""

    def __init__(self, model: Model, gate: SigmoidFilter) -> None:
        super().__init__()
        self._guide = [SampledBitGuide(model, gate)]  # in a list: its weights are not ours

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        mean: Tensor = self._guide[0].posterior(laws).mean
        return mean.clamp_min(1e-300).log()


class BestProduct(_Fixed):
    """The exact filter's marginals of single nodes: the floor of product beliefs (I5)."""

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        exact: Tensor = ExactFilter()(laws)
        return product_law(node_probabilities(exact.exp()).logit())


class BlindFilter(_Fixed):
    """The exact filter of one who does not see the inputs: with the mean transition."""

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        chain = discrete(laws)
        mean = chain.log_transition.exp().mean((0, 1), keepdim=True)
        return filter_beliefs(chain.log_initial[:1], mean.log(), chain.log_likelihood)


class FixedGainFilter(_Fixed):
    """m_t = p_t + K (y_t − C p_t − d), p_t = A m_{t-1} + b, with one K for all steps.

    K and the covariance are those that the Kalman filter tends to where nothing is missing; missing
    elements are left out. For time-invariant models of which all is seen it is the Kalman filter
    but for the first steps: what gates that are mere biases could do.
    """

    def forward(self, laws: LinearLaws) -> GaussianBeliefs:
        blank = torch.zeros(1, 300, laws.values.shape[-1])
        long = dataclasses.replace(laws, data=Sequences.from_tensors(blank))
        covariance = ExactFilter()(long).covariance[0, -1]
        a, b = laws.transition[0, 0], laws.offset[0, 0]
        c, d, r = laws.loading[0, 0], laws.intercept[0, 0], laws.observation_noise[0, 0]
        spread = a @ covariance @ a.mT + laws.noise[0, 0]
        gain = torch.linalg.solve(c @ spread @ c.mT + r, c @ spread).mT
        predicted = laws.initial_mean.expand(len(laws.data), -1)
        means = []
        for t in range(laws.data.max_length):
            residual = laws.values[:, t].double() - d - predicted @ c.mT
            mean = predicted + torch.where(laws.mask[:, t], residual, 0) @ gain.mT
            means.append(mean)
            predicted = mean @ a.mT + b
        wide = covariance.expand(len(laws.data), laws.data.max_length, -1, -1)
        return GaussianBeliefs.of_moments(torch.stack(means, 1), wide)


class Given(_Fixed):
    """Beliefs that were computed before, in the place of a filter."""

    def __init__(self, beliefs: Beliefs) -> None:
        super().__init__()
        self.beliefs = beliefs

    def forward(self, laws: TrajectoryLaws) -> Beliefs:
        return self.beliefs


class SteadyGain(_Fixed):
    """Kalman's filter of z_t = a z_{t-1} + N(0, q), y = z + N(0, r), always in its steady state."""

    def __init__(self, a: float, q: float, r: float) -> None:
        super().__init__()
        p = q
        for _ in range(1000):  # the Riccati recursion, contracting
            p = a * a * p * r / (p + r) + q
        self.factor, self.gain, self.variance = a, p / (p + r), p * r / (p + r)

    def forward(self, laws: TrajectoryLaws) -> GaussianBeliefs:
        assert laws.linear is not None
        y = laws.linear.values[..., 0].double()
        mean, means = torch.zeros_like(y[:, 0]), []
        for column in y.unbind(1):
            mean = self.factor * mean + self.gain * (column - self.factor * mean)
            means.append(mean)
        mean = torch.stack(means, 1).unsqueeze(-1)
        return GaussianBeliefs(mean, torch.full_like(mean, self.variance**0.5))


def window_beliefs(laws: TrajectoryLaws, prior: Tensor, size: int) -> Tensor:
    """log p(z_t | the last ``size`` observations), (N, T, K); fewer at the beginning."""
    told, table = discrete(laws).log_likelihood, discrete(laws).log_transition[0, 0]
    steps, out = told.shape[1], ExactFilter()(laws)
    assert isinstance(out, Tensor)
    if size >= steps:
        return out
    beliefs = prior[:, : steps - size + 1]  # of the windows' first steps
    for ago in range(size):
        if ago:
            beliefs = (beliefs.unsqueeze(-1) + table).logsumexp(-2)
        beliefs = (beliefs + told[:, ago : steps - size + 1 + ago]).log_softmax(-1)
    return torch.cat([out[:, : size - 1], beliefs], 1)
