r"""An LSTM with a head for the next symbol as a law of sequences: samples, log probabilities.

.. math:: p(x_1, \dots, x_T) = \prod_t \mathrm{softmax}(\mathrm{output}(h_{t-1}))_{x_t}

with h_0 = 0: the head's output for the zero state is the law of the first symbol.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import seeded
from .network_inputs import check_lstm, network_inputs, weight_of

_STEPS_AT_ONCE = 2**17
"""Steps that are scored at once."""


def check_output(lstm: nn.LSTM, output: object) -> None:
    """Raises ``ValueError`` unless the head maps outputs of the LSTM to a score for each symbol."""
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
    """Context manager: no dropout inside; restores the modes afterwards."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in before:  # submodules may have had other modes
            part.training = training


@boundary
def sample_lstm(
    lstm: nn.LSTM,
    output: nn.Module,
    n: int,
    length: int,
    *,
    symbols: Sequence[str] | None = None,
    seed: int | None = None,
) -> Sequences:
    """Draws sequences of symbols from an LSTM as a language model.

    Args:
        lstm: reads one-hot symbols.
        output: its head, from h_t to unnormalised log probabilities of x_{t+1}.
        n: number of sequences.
        length: number of symbols in each.
        symbols: their names.
        seed: makes the draws reproducible and leaves torch's global generator unchanged.

    Returns:
        The sequences.

    Raises:
        ValueError: an LSTM that is bidirectional or has a projection, a head of another size, or
            numbers below 1.

    >>> import torch
    >>> from beliefzoo.inference import sample_lstm
    >>> lstm, head = torch.nn.LSTM(3, 8, batch_first=True), torch.nn.Linear(8, 3)
    >>> _ = torch.nn.init.zeros_(head.weight), head.bias.data.copy_(torch.tensor([0.0, -99, -99]))
    >>> data = sample_lstm(lstm, head, n=2, length=5, symbols=("a", "b", "c"), seed=0)
    >>> data.values.tolist()  # a head that always says "a"
    [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
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
        # Each symbol is an input of the next step, so the loop over time is unavoidable.
        for _ in range(length):
            law = output(state[0][-1]).softmax(-1)
            drawn.append(torch.multinomial(law, 1).squeeze(-1))
            x = nn.functional.one_hot(drawn[-1], size).to(like)
            _, state = lstm(x.unsqueeze(1 if lstm.batch_first else 0), state)
    return Sequences.from_tensors(
        torch.stack(drawn, 1).cpu().unsqueeze(-1), codes=True, symbols=symbols
    )


@boundary
def lstm_log_likelihood(lstm: nn.LSTM, output: nn.Module, data: Sequences) -> Tensor:
    """Log probability log p(x_t | x_1 … x_{t-1}) of symbols under an LSTM and its head.

    A missing symbol is read as a vector of zeros. The output after it is not a conditional
    probability of the LSTM's law of complete sequences.

    Args:
        lstm: reads one-hot symbols.
        output: its head, from h_t to unnormalised log probabilities of x_{t+1}.
        data: N sequences of at most T symbols.

    Returns:
        Nats, (N, T) float64; 0 where missing.

    Raises:
        ValueError: as for :func:`sample_lstm`, or data with another number of symbols.

    >>> import torch
    >>> from beliefzoo.inference import lstm_log_likelihood
    >>> from beliefzoo.models import mess3
    >>> lstm, head = torch.nn.LSTM(3, 8, batch_first=True), torch.nn.Linear(8, 3)
    >>> _ = torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    >>> data = mess3().model.sample(1, 2, seed=0).data
    >>> lstm_log_likelihood(lstm, head, data).numpy().round(4)  # log ⅓
    array([[-1.0986, -1.0986]])
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
