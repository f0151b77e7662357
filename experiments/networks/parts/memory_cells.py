"""Recurrent networks of few units whose state is a mean, with their gates exposed.

`CellMean` and `ElmanMean` read features (N, T, F). The others, whose mean is that of a level, read
y (N, T) in units of its spread, and beside it what is known of its noise, (N, T, 0 or 1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ....inference import recurrent_gates
from ....inference.filters.recurrences import affine_scan


class Parts(NamedTuple):
    """Mean in units of y, gates i and f, (N, T) each."""

    mean: Tensor
    i: Tensor | None = None
    f: Tensor | None = None


class LinearCell(nn.Module):
    """c_t = f c_{t-1} + i y_t: a memory cell whose candidate is linear, and the mean itself.

    Its gates read what an LSTM's would but for its own output: y, what is known of the noise, and
    the outputs of ``counting`` units of an LSTM that reads the latter alone, since the gain does
    not depend on y. So the cell is an affine recurrence, run for all steps at once.
    """

    def __init__(self, told: int, counting: int) -> None:
        super().__init__()
        self.counting = nn.LSTM(told, counting, batch_first=True) if counting else None
        self.gates = nn.Linear(1 + told + counting, 2)

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean and gates of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        read = [y.unsqueeze(-1), told]
        if self.counting is not None:
            out = self.counting(told)[0]
            read.append(torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1))
        i, f = self.gates(torch.cat(read, -1)).sigmoid().unbind(-1)
        return Parts(affine_scan(f, i * y), i, f)


class StandardCell(nn.Module):
    """``torch.nn.LSTM`` of one unit; the mean is an affine function of its cell.

    The candidate starts twenty times smaller than usual, and the read-out as much larger: where
    tanh is close to a line, as it must end.
    """

    def __init__(self, told: int) -> None:
        super().__init__()
        self.network = nn.LSTM(1 + told, 1, batch_first=True)
        self.head = nn.Linear(1, 1)
        with torch.no_grad():
            for weight in self.network.parameters():
                weight[2] /= 20  # rows i, f, g, o
            self.head.weight.fill_(20)

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean and gates of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        parts = recurrent_gates(self.network, torch.cat([y.unsqueeze(-1), told], -1))
        c, i, f = (parts[name][:, :, 0] for name in "cif")
        return Parts(self.head(c).squeeze(-1), i.squeeze(-1), f.squeeze(-1))

    def retention(self, y: Tensor, told: Tensor) -> Tensor:
        """∂c_t / ∂c_{t-1}, (N, T − 1): f, and what comes through h_{t-1} = o tanh(c_{t-1})."""
        parts = recurrent_gates(self.network, torch.cat([y.unsqueeze(-1), told], -1))
        i, f, g, o, c = (parts[name][:, :, 0, 0] for name in "ifgoc")
        back: Any = self.network.weight_hh_l0
        to_i, to_f, to_g, _ = back[:, 0]
        i, f, g, o, before = i[:, 1:], f[:, 1:], g[:, 1:], o[:, :-1], c[:, :-1]
        through = before * f * (1 - f) * to_f + g * i * (1 - i) * to_i + i * (1 - g**2) * to_g
        kept: Tensor = f + through * o * (1 - before.tanh() ** 2)
        return kept


class NormalBelief(nn.Module):
    """A cell whose mean is that of a normal belief, with a variance that is learned beside it."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """What the cell says."""
        parts: Parts = self.cell(y, told)
        return parts


class CellMean(nn.Module):
    """An LSTM of one unit whose cell is the mean: nothing is read out, nothing can be rescaled."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.network = nn.LSTM(features, 1, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        """The mean of z_t, (N, T)."""
        return recurrent_gates(self.network, y)["c"][:, :, 0, 0]


class ElmanMean(nn.Module):
    """An Elman network with an affine read-out of the mean."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.network = nn.RNN(features, units, batch_first=True)
        self.head = nn.Linear(units, 1)

    def forward(self, y: Tensor) -> Tensor:
        """The mean of z_t, (N, T)."""
        out: Tensor = self.head(self.network(y)[0])
        return out.squeeze(-1)


class Elman(nn.Module):
    """An Elman network of one unit."""

    def __init__(self, told: int) -> None:
        super().__init__()
        self.mean = ElmanMean(1 + told, 1)

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        return Parts(self.mean(torch.cat([y.unsqueeze(-1), told], -1)))
