"""The memory cell as a decision process whose gates are drawn, and the LSTM as its relaxation.

A gate of an LSTM is a number between 0 and 1. Here it is the chance of a bit: to keep what is in
the cell, to write a sign into it, to show the cell. The cell is then a state on which actions work,
c_t = f_t c_{t−1} + w_t with f ∈ {0, 1}, w ∈ {−1, 0, 1}; the policy that draws them is
σ(W_h h_{t−1} + W_y y_t + b), and h_t ∈ {−1, 0, 1} is what is shown. The LSTM is what remains when
every bit is replaced by its chance. All paths of few units are enumerated, so that the distance is
exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models import POMDP
from ...models.boundary import boundary
from ...models.checks import require, require_count, require_positive
from ..filters.recurrences import check_inputs, check_network

LARGEST_UNITS, LARGEST_STEPS = 3, 6
"""Up to here the joint states of the cells, (2 T + 1)^k 3^k, are summed over."""

_SHOWN = (-1, 0, 1)


@dataclass(frozen=True)
class CellLaw:
    """What the stochastic cells do and what the LSTM makes of it; by ``StochasticCell.compare``.

    Attributes:
        mean: E[c_t] of the stochastic cells, (N, T, k).
        relaxed: c_t of the LSTM, (N, T, k).
        shown: law of what all units show, (N, T, 3^k); the last unit changes fastest, in the order
            −1, 0, 1.
        nats: KL(law of the bits of all gates at t ‖ the LSTM's gates, bit by bit), (N, T).
        total_correlation: the part of ``nats`` that no product over bits could avoid, (N, T).

    >>> import torch
    >>> from beliefzoo.inference import StochasticCell
    >>> lstm, _ = torch.nn.LSTM(1, 2, batch_first=True), torch.manual_seed(0)
    >>> law = StochasticCell(lstm).compare(torch.ones(1, 4, 1))
    >>> law.shown.shape, bool((law.nats >= law.total_correlation).all())
    (torch.Size([1, 4, 9]), True)
    """

    mean: Tensor
    relaxed: Tensor
    shown: Tensor
    nats: Tensor
    total_correlation: Tensor

    @property
    def error(self) -> float:
        """Root mean square of c_t − E[c_t]."""
        return float((self.relaxed - self.mean).square().mean().sqrt())


@boundary
class StochasticCell:
    r"""Cells whose gates are drawn with the chances that an LSTM's weights give.

    .. math::
        f, i, o \sim \sigma(a / τ), \quad w = i · (\pm 1),\ E[\pm 1] = \tanh(a_g / τ), \quad
        c_t = f c_{t-1} + w

    and h_t = o sign(c_t) with chance |tanh(c_t / τ)|, otherwise 0; a = W_y y_t + W_h h_{t−1} + b.
    At τ = 1 the chances, taken for the bits, are the equations of the LSTM (docs/science.md, I11).
    They are exact in two cases: as τ → 0 nothing is left to chance, and with W_h = 0 keep, write
    and sign are independent of the cell, so that E[c_t] is the LSTM's c_t at any τ (I7).

    Args:
        lstm: one layer that reads forward, of up to three units.
        temperature: τ > 0.

    Raises:
        ValueError: another network, or a temperature that is not positive.

    >>> import torch
    >>> from beliefzoo.inference import StochasticCell
    >>> lstm, _ = torch.nn.LSTM(2, 2, batch_first=True), torch.manual_seed(0)
    >>> x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    >>> StochasticCell(lstm).compare(x).error > 0.001  # the cells depend on each other
    True
    >>> with torch.no_grad():
    ...     _ = lstm.weight_hh_l0.zero_()
    >>> StochasticCell(lstm).compare(x).error < 1e-12
    True
    """

    def __init__(self, lstm: nn.LSTM, *, temperature: float = 1.0) -> None:
        check_network(lstm)
        require(
            isinstance(lstm, nn.LSTM) and lstm.num_layers == 1 and lstm.batch_first,
            "lstm",
            "must be a torch.nn.LSTM of one layer, batch first",
            lstm,
        )
        size = lstm.hidden_size
        require(size <= LARGEST_UNITS, "lstm", f"can have up to {LARGEST_UNITS} units", size)
        require_positive(temperature, "temperature")
        self.lstm, self.temperature, self.units = lstm, float(temperature), size
        own = {name: weight.detach().double() for name, weight in lstm.named_parameters()}
        self._read, self._turned = own["weight_ih_l0"], own["weight_hh_l0"]
        self._bias = torch.zeros(4 * size, dtype=torch.float64)
        if lstm.bias:
            self._bias = own["bias_ih_l0"] + own["bias_hh_l0"]

    def compare(self, x: Tensor) -> CellLaw:
        """Sums over all paths of all units, beside the relaxation.

        Args:
            x: inputs (N, T, input_size), T up to six.

        Raises:
            ValueError: inputs of another width or length.
        """
        check_inputs(self.lstm, x, "x")
        steps = x.shape[1]
        require(steps <= LARGEST_STEPS, "x", f"can have up to {LARGEST_STEPS} steps", steps)
        laws = [self._one(each.detach().double()) for each in x]
        return CellLaw(*(torch.stack(part) for part in zip(*laws, strict=True)))

    def _logits(self, x: Tensor, h: Tensor) -> Tensor:
        """Logits of all bits given h (…, k): i, f, the sign, o, (…, 4 k)."""
        told = (self._read @ x + h @ self._turned.mT + self._bias) / self.temperature
        i, f, g, o = told.chunk(4, -1)
        return torch.cat([i, f, 2 * g, o], -1)

    def _one(self, x: Tensor) -> tuple[Tensor, ...]:
        """Fields of ``CellLaw`` for one sequence."""
        steps, units = len(x), self.units
        values = torch.arange(-steps, steps + 1, dtype=torch.float64)
        size = len(values)
        all_shown = torch.cartesian_prod(*[torch.tensor(_SHOWN)] * units).reshape(-1, units)
        # What is shown, then the cells: nothing is in them at first, and nothing was shown.
        law = torch.zeros(3**units, *[size] * units, dtype=torch.float64)
        law[(3**units // 2, *[steps] * units)] = 1.0
        h = c = torch.zeros(units, dtype=torch.float64)
        order = [2 * unit + 1 for unit in range(units)] + [2 * unit for unit in range(units)]
        found: list[tuple[Tensor, ...]] = []
        for told in x:
            before = law.flatten(1).sum(1)
            each, own = self._logits(told, all_shown.double()), self._logits(told, h)
            moves = self._moves(values, *_gates(each))
            after = torch.zeros(*[size, 3] * units, dtype=torch.float64)
            for place in before.nonzero()[:, 0].tolist():
                after += _moved(law[place], moves[place])
            law = after.permute(order).reshape(3**units, *[size] * units)
            i, f, g, o = _gates(own)
            c = f * c + i * g
            h = o * (c / self.temperature).tanh()
            nats = _divergences(before, each, own)
            found.append((_means(law, values), c, law.flatten(1).sum(1), *nats))
        return tuple(torch.stack(part) for part in zip(*found, strict=True))

    def _moves(self, values: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor) -> Tensor:
        """p(c', h' | c) of units whose gates are (…), (…, cells, cells, 3)."""
        size = len(values)
        moves = torch.zeros(*f.shape, size, size, dtype=torch.float64)
        for keep, chance in ((1, f), (0, 1 - f)):
            for write, share in ((-1, i * (1 - g) / 2), (0, 1 - i), (1, i * (1 + g) / 2)):
                to = keep * values + write + size // 2
                target = nn.functional.one_hot(to.long().clamp(0, size - 1), size)
                moves = moves + (chance * share)[..., None, None] * target
        return moves.unsqueeze(-1) * self._show(values, o).unsqueeze(-3)

    def _show(self, values: Tensor, o: Tensor) -> Tensor:
        """p(h | c) of units whose output gates are (…), (…, cells, 3)."""
        chance = o.unsqueeze(-1) * (values / self.temperature).tanh().abs()
        return torch.stack([chance * (values < 0), 1 - chance, chance * (values > 0)], -1)

    def pomdp(self, steps: int) -> POMDP:
        """Returns one unit as a decision process: the cell is hidden, what is shown is observed.

        Actions are all of keep or drop, write −1, nothing or 1, and show or hide. Their law given
        y_t and what was shown is the policy.

        Args:
            steps: the largest cell that is told apart.

        >>> import torch
        >>> from beliefzoo.inference import StochasticCell
        >>> StochasticCell(torch.nn.LSTM(1, 1, batch_first=True)).pomdp(2).action_names[:3]
        ('keep, write -1, show', 'keep, write -1, hide', 'keep, write 0, show')
        """
        require_count(steps, "steps")
        values = torch.arange(-steps, steps + 1, dtype=torch.float64)
        one, no = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        names, moves, shows = [], [], []
        for keep in (1, 0):
            for write in _SHOWN:
                for show in (1, 0):
                    words = "keep" if keep else "drop", "show" if show else "hide"
                    names.append(f"{words[0]}, write {write}, {words[1]}")
                    gates = one * abs(write), one * keep, one * write, no
                    moves.append(self._moves(values, *gates).sum(-1))
                    shows.append(self._show(values, one * show))
        start = (values == 0).double()
        return POMDP.from_tables(
            torch.stack(moves).numpy(),
            torch.stack(shows).numpy(),
            initial=start.numpy(),
            states=[f"c = {value:g}" for value in values.tolist()],
            actions=names,
            observations=[f"h = {value}" for value in _SHOWN],
        )


def _moved(law: Tensor, moves: Tensor) -> Tensor:
    """Σ_c p(c) Π_j p(c'_j, h'_j | c_j): cells (C, …) to (C', 3, C', 3, …)."""
    for move in moves:  # always the first axis; what it becomes goes to the end
        law = torch.tensordot(law, move, dims=([0], [0]))
    return law


def _means(law: Tensor, values: Tensor) -> Tensor:
    """E[c_j] of all units, (k,)."""
    units = law.ndim - 1
    cells = law.sum(0)
    found = []
    for unit in range(units):
        others = [other for other in range(units) if other != unit]
        found.append((cells.sum(others) if others else cells) @ values)
    return torch.stack(found)


def _gates(logits: Tensor) -> tuple[Tensor, ...]:
    """Chances of i and f, mean sign, chance of o, (…, k) each."""
    i, f, g, o = logits.chunk(4, -1)
    return i.sigmoid(), f.sigmoid(), (g / 2).tanh(), o.sigmoid()


def _divergences(weight: Tensor, each: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """KL(Σ_h weight_h Π Bernoulli(each_h) ‖ Π Bernoulli(own)), and the mixture's total correlation.

    Args:
        weight: (H,).
        each: logits, (H, bits).
        own: logits, (bits,).
    """
    used = weight > 0
    weight, each = weight[used], each[used]
    on, off = each.sigmoid(), (-each).sigmoid()
    joint = weight
    for share in torch.stack([off, on], -1).unbind(1):  # all values of all bits in one axis
        joint = (joint.reshape(len(weight), -1, 1) * share.unsqueeze(1)).flatten(1)
    law, up, down = joint.sum(0), weight @ on, weight @ off
    entropy = -torch.special.xlogy(law, law).sum()
    log_up, log_down = (nn.functional.logsigmoid(sign * own) for sign in (1, -1))
    crossed = -(up * log_up + down * log_down).sum()
    alone = -(torch.special.xlogy(up, up) + torch.special.xlogy(down, down)).sum()
    return crossed - entropy, alone - entropy
