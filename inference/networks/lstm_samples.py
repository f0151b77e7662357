"""An LSTM with a head for the next symbol is itself a law of sequences: its samples and scores.

.. math:: p(x_1, \\dots, x_T) = \\prod_t \\mathrm{softmax}(\\mathrm{output}(h_{t-1}))_{x_t}

with h_0 = 0: what the head says of the state of rest is the law of the first symbol.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...models import Sequences
from ...models.checks import require, require_count
from ...models.randomness import seeded
from .network_inputs import check_lstm, network_inputs, weight_of

_STEPS_AT_ONCE = 2**17
"""Steps that are scored at once."""


def check_output(lstm: nn.LSTM, output: object) -> None:
    """Raise ``ValueError`` unless the head maps outputs of the LSTM to a score for each symbol."""
    require(
        isinstance(output, nn.Module),
        "output",
        "must be a torch.nn.Module, the head for the next symbol",
        type(output).__name__,
    )
    assert isinstance(output, nn.Module)
    needed = (1, lstm.input_size)
    try:
        with torch.no_grad(), evaluating(output):
            came: object = tuple(output(weight_of(lstm).new_zeros(1, lstm.hidden_size)).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        came = f"an error ({error})"
    require(
        came == needed,
        "output",
        f"must map (…, {lstm.hidden_size}), the LSTM's outputs, to (…, {lstm.input_size}) scores, "
        "one for each symbol that it reads",
        came,
    )


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Without dropout inside; as it was afterwards."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in before:  # a part may have been in another mode than the whole
            part.training = training


def sample_lstm(
    lstm: nn.LSTM,
    output: nn.Module,
    n: int,
    length: int,
    *,
    symbols: Sequence[str] | None = None,
    seed: int | None = None,
) -> Sequences:
    """n sequences of symbols drawn from the LSTM as a language model.

    Args:
        lstm: reads one-hot symbols.
        output: its head, from h_t to unnormalised log probabilities of x_{t+1}.
        n: number of sequences.
        length: symbols in each.
        symbols: their names.
        seed: makes the draw reproducible and leaves torch's global generator untouched.

    Raises:
        ValueError: an LSTM that is bidirectional or has a projection, a head of another size, or
            numbers below 1.
    """
    check_lstm(lstm)
    check_output(lstm, output)
    require_count(n, "n")
    require_count(length, "length")
    size = lstm.input_size
    like = weight_of(lstm)
    shape = (lstm.num_layers, n, lstm.hidden_size)
    state = like.new_zeros(shape), like.new_zeros(shape)
    drawn: list[Tensor] = []
    with seeded(seed), torch.no_grad(), evaluating(lstm, output):
        # Every symbol is read before the next is drawn: this loop over time cannot be saved.
        for _ in range(length):
            law = output(state[0][-1]).softmax(-1)
            drawn.append(torch.multinomial(law, 1).squeeze(-1))
            x = nn.functional.one_hot(drawn[-1], size).to(like)
            _, state = lstm(x.unsqueeze(1 if lstm.batch_first else 0), state)
    return Sequences.from_tensors(torch.stack(drawn, 1).cpu(), codes=True, symbols=symbols)


def lstm_log_likelihood(lstm: nn.LSTM, output: nn.Module, data: Sequences) -> Tensor:
    """log p(x_t | x_1 … x_{t-1}) by the LSTM and its head, (N, T) nats float64; 0 where missing.

    A missing symbol is read as no symbol, a vector of zeros. What the LSTM then says of the next
    ones is no conditional of its own law of whole sequences.

    Raises:
        ValueError: as of ``sample_lstm``, or data of another number of symbols.
    """
    check_lstm(lstm)
    check_output(lstm, output)
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    require(data.is_codes, "data", "must be symbols", "numbers")
    size = max(1, _STEPS_AT_ONCE // data.max_length)
    parts = []
    with torch.no_grad(), evaluating(lstm, output):
        for first in range(0, len(data), size):
            batch = data[first : first + size]
            x = network_inputs(lstm, batch)
            h = lstm(x if lstm.batch_first else x.transpose(0, 1))[0]
            h = h if lstm.batch_first else h.transpose(0, 1)
            before = nn.functional.pad(h[:, :-1], (0, 0, 1, 0))
            scores = output(before).double().log_softmax(-1)
            picked = scores.gather(-1, batch.codes().unsqueeze(-1)).squeeze(-1)
            picked = torch.where(batch.mask, picked, 0)
            parts.append(nn.functional.pad(picked, (0, data.max_length - picked.shape[1])))
    return torch.cat(parts)
