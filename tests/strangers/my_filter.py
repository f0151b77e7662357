"""Filters of somebody who uses beliefzoo: by hand, and around a network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from beliefzoo.inference import GaussianBeliefs
from beliefzoo.models import GaussianBelief, Model, Sequences, TrajectoryLaws


@dataclass(frozen=True)
class Glance:
    """The belief of who looks at the last observation alone, told in half precision."""

    sharpness: float = 1.0
    causal = True

    def build(self, model: Model) -> None:
        if not model.exact:
            raise ValueError(f"model: Glance needs likelihoods of states, got {model}")

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to read off the data."""

    def __call__(self, laws: TrajectoryLaws) -> Tensor:
        assert laws.discrete is not None
        return (self.sharpness * laws.discrete.log_likelihood).log_softmax(-1).half()


class Leaky(nn.Module):
    """Evidence that leaks away: s_t = leak ⊙ s_{t-1} + log O(y_t), the belief its softmax."""

    causal = True

    def __init__(self, leak: float = 0.5) -> None:
        super().__init__()
        self.leak = leak

    @property
    def configuration(self) -> dict[str, Any]:
        return {"leak": self.leak}

    def build(self, model: Model) -> None:
        if not hasattr(self, "logit"):
            start = torch.tensor(self.leak).logit()
            self.logit = nn.Parameter(start.expand(model.states).clone())

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to read off the data."""

    def scores(self, laws: TrajectoryLaws) -> Tensor:
        assert laws.discrete is not None
        told = laws.discrete.log_likelihood.log_softmax(-1)
        leak, kept = self.logit.sigmoid().to(told), []
        score = torch.zeros_like(told[..., 0, :])
        for now in told.unbind(-2):
            score = leak * score + now
            kept.append(score)
        return torch.stack(kept, -2)

    def read_out(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1)

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        return self.read_out(self.scores(laws))


class Habit(nn.Module):
    """A moving average of one number, as the mean of a normal belief of constant width."""

    causal = True

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight
        self.log_width = nn.Parameter(torch.zeros(1))
        self.configuration_ = {"weight": weight}

    @property
    def configuration(self) -> dict[str, Any]:
        return self.configuration_

    def build(self, model: Model) -> None:
        if model.belief != GaussianBelief(1):
            raise ValueError(f"model: Habit believes in one number, got {model}")

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to read off the data."""

    def forward(self, laws: TrajectoryLaws) -> GaussianBeliefs:
        mean, kept = torch.zeros(len(laws.data), 1), []
        for y in laws.data.values.float().mean(-1, keepdim=True).unbind(1):
            mean = mean + self.weight * (y - mean)
            kept.append(mean)
        means = torch.stack(kept, 1)
        return GaussianBeliefs(means, self.log_width.exp().expand_as(means))


class Attention(nn.Module):
    """One layer of attention to the past, which returns bfloat16."""

    def __init__(self, channels: int, size: int = 4) -> None:
        super().__init__()
        self.sizes = channels, size
        self.embed = nn.Linear(channels, size)
        self.layer = nn.TransformerEncoderLayer(size, 2, 8, batch_first=True)

    @property
    def configuration(self) -> dict[str, Any]:
        return {"channels": self.sizes[0], "size": self.sizes[1]}

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        ahead = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        out: Tensor = self.layer(self.embed(x), src_mask=ahead)
        return out.bfloat16()
