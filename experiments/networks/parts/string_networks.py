"""An LSTM that is trained on strings with an end until validation strings gain nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ....inference import NetworkLaw, SequenceLaw
from ....inference.machines.laws import log_conditionals
from ....models.randomness import generator_from, seeded
from ...parts.language_models import LanguageModel
from .string_laws import Counted

_BATCH = 128
"""Strings of a gradient step."""

_LEARNING_RATE, _CUT = 1e-2, 0.3
"""Learning rate of the first epochs, and its factor after an epoch that gains nothing."""

_GAIN = 1e-4
"""Nats a symbol: less is no gain."""

_PATIENCE = 3
"""Epochs in a row that gain nothing end the training."""


def string_network(
    fit: Counted, valid: Counted, symbols: int, hidden_size: int, *, epochs: int, seed: int
) -> tuple[NetworkLaw, float]:
    """The law of the best epoch's LSTM (float32), and its mean −log p of a validation symbol.

    Args:
        fit: strings that it is trained on, each as often as it is there.
        valid: strings that decide when the learning rate falls and when training ends.
        symbols: V; the end is code V.
        hidden_size: units of the one layer.
        epochs: at most.
        seed: of the first weights and the batches.
    """
    with seeded(seed):
        model = LanguageModel(symbols + 1, hidden_size).float()
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    generator = generator_from(seed)
    best, kept, vain = torch.inf, copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        for batch in _batches(fit, generator):
            optimizer.zero_grad()
            steps = sum(int((codes >= 0).sum()) for codes in batch)
            for codes in batch:
                (model(codes) * (int((codes >= 0).sum()) / steps)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss = _loss(model, valid)
        if loss < best - _GAIN:
            best, kept, vain = loss, copy.deepcopy(model.state_dict()), 0
            continue
        vain += 1
        if vain == _PATIENCE:
            break
        model.load_state_dict(kept)
        for group in optimizer.param_groups:
            group["lr"] *= _CUT
    model.load_state_dict(kept)
    return NetworkLaw(model.lstm.eval(), model.output, ends=True), best


def string_log_prob(law: SequenceLaw, data: Counted) -> Tensor:
    """log p of every string with its end, (N,)."""
    strings = data.data
    codes = strings.codes().where(strings.step_mask, 0)
    out = torch.empty(len(codes), dtype=torch.float64)
    order = strings.lengths.argsort()
    for rows in order.split(256):
        some = codes[rows, : int(strings.lengths[rows].max())]
        told = log_conditionals(law, some).gather(-1, some.unsqueeze(-1)).squeeze(-1)
        inside = torch.arange(some.shape[1]) < strings.lengths[rows].unsqueeze(-1)
        out[rows] = torch.where(inside, told, 0).sum(-1)
    return out


def _padded(data: Counted) -> Tensor:
    return data.data.codes().where(data.data.step_mask, -1)


def _batches(fit: Counted, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """All strings once, in random batches; short and long ones of a batch apart, for speed."""
    codes, lengths = _padded(fit), fit.data.lengths
    rows = torch.arange(len(codes)).repeat_interleave(fit.weights.long())
    for some in rows[torch.randperm(len(rows), generator=generator)].split(_BATCH):
        ordered = some[lengths[some].argsort()]
        cuts = len(some) // 2, len(some) * 7 // 8
        pieces = ordered.tensor_split(cuts)
        yield [codes[one, : int(lengths[one].max())] for one in pieces if len(one)]


@torch.no_grad()
def _loss(model: LanguageModel, data: Counted) -> float:
    """Mean −log p of a symbol, the end among them."""
    codes, lengths, total, steps = _padded(data), data.data.lengths, 0.0, 0
    rows = torch.arange(len(codes)).repeat_interleave(data.weights.long())
    for some in rows[lengths[rows].argsort()].split(500):
        part = codes[some, : int(lengths[some].max())]
        number = int((part >= 0).sum())
        total, steps = total + float(model(part)) * number, steps + number
    return total / steps
