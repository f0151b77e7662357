"""A plain LSTM that predicts the next symbol, and how it is trained: nothing of ours in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """An LSTM on one-hot symbols with a linear head for the next one.

    The first symbol is predicted from the state of rest, h_0 = 0.
    """

    def __init__(self, symbols: int, hidden_size: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.lstm = nn.LSTM(symbols, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, symbols)

    def forward(self, codes: Tensor) -> Tensor:
        """Mean of −log p(x_t | x_1 … x_{t-1}) over codes (N, T), nats; a code of −1 is none."""
        read = codes[:, :-1].clamp_min(0)
        x = nn.functional.one_hot(read, self.symbols).to(self.output.weight)
        h = self.network(x)[0]
        before = torch.cat([torch.zeros_like(h[:, :1]), h], 1)
        scores = self.output(before).flatten(0, 1)
        return nn.functional.cross_entropy(scores, codes.flatten(), ignore_index=-1)

    @property
    def network(self) -> nn.RNNBase:
        """The recurrent network."""
        return self.lstm


class GRULanguageModel(LanguageModel):
    """The same with a GRU."""

    def __init__(self, symbols: int, hidden_size: int) -> None:
        super().__init__(symbols, hidden_size)
        del self.lstm
        self.gru = nn.GRU(symbols, hidden_size, batch_first=True)

    @property
    def network(self) -> nn.RNNBase:
        return self.gru


def train(
    model: LanguageModel,
    batches: Iterable[Tensor],
    *,
    steps: int,
    learning_rate: float,
    watch: Callable[[int], None] | None = None,
    watch_every: int = 100,
) -> None:
    """Adam on the mean loss of batches of codes (N, T), in one cycle of the learning rate.

    It rises over a tenth of the steps and falls along a cosine; gradients are cut to norm 1.
    ``watch`` is called with the steps done, every ``watch_every`` steps and at the end.
    """
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1
    )
    for step, codes in zip(range(1, steps + 1), batches, strict=False):
        loss = model(codes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        if watch is not None and (step % watch_every == 0 or step == steps):
            watch(step)
