"""Small neural networks whose weights are ordinary parameters of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from .emission import Parameters, Priors


@dataclass(frozen=True)
class Perceptron:
    r"""x_{l+1} = a(x_l W_l + b_l), the last layer without a; a is tanh or relu.

    Priors: W_l ~ N(0, scale² / fan-in), b_l ~ N(0, scale²). Without ``offset`` the last layer has
    no bias, for networks whose output is added to a parameter anyway.
    """

    name: str
    sizes: tuple[int, ...]
    activation: Literal["tanh", "relu"] = "tanh"
    scale: float = 1.0
    offset: bool = True

    @property
    def _last(self) -> int:
        return len(self.sizes) - 2

    def _has_bias(self, layer: int) -> bool:
        return self.offset or layer < self._last

    def priors(self) -> Priors:
        out: Priors = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(self.sizes)):
            scale = self.scale / math.sqrt(fan_in)
            weight = dist.Normal(torch.zeros(fan_in, fan_out), scale).to_event(2)
            out[f"{self.name}_weight{layer}"] = weight
            if self._has_bias(layer):
                bias = dist.Normal(torch.zeros(fan_out), self.scale).to_event(1)
                out[f"{self.name}_bias{layer}"] = bias
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {}
        for layer in range(self._last + 1):
            ends = f"{self.name}_unit{layer}", f"{self.name}_unit{layer + 1}"
            out[f"{self.name}_weight{layer}"] = ends
            if self._has_bias(layer):
                out[f"{self.name}_bias{layer}"] = ends[1:]
        return out

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Output for x (…, sizes[0]); parameters may have leading axes of draws."""
        for layer in range(self._last + 1):
            weight = parameters[f"{self.name}_weight{layer}"]
            bias = parameters[f"{self.name}_bias{layer}"] if self._has_bias(layer) else None
            if bias is None:
                x = x @ weight
            elif x.ndim == 2 and weight.ndim == 2:  # one pass over the output less
                x = torch.addmm(bias, x, weight)
            else:
                x = x @ weight + bias.unsqueeze(-2)
            if layer < self._last:
                x = x.tanh() if self.activation == "tanh" else x.relu()
        return x
