"""The inputs that a user's own network reads from data, and its states."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...models import Sequences
from ...models.boundary import boundary
from ...models.checks import require
from ..filters.recurrences import recurrent_gates

EMBEDDED = " (of one behind an embedding: fold_embedding(lstm, embedding))"
"""What to do with an LSTM that does not read symbols itself, for the messages of errors."""


def check_lstm(lstm: object) -> None:
    """Raises ``ValueError`` unless this is an LSTM that reads forward, without projection."""
    require(
        isinstance(lstm, nn.LSTM),
        "lstm",
        f"must be a torch.nn.LSTM{EMBEDDED}",
        type(lstm).__name__,
    )
    assert isinstance(lstm, nn.LSTM)
    require(
        not lstm.bidirectional,
        "lstm",
        "must read forward only: a state that knows the future is no belief about the past",
        "bidirectional=True",
    )
    require(
        not lstm.proj_size,
        "lstm",
        "must have no projection: its output would not have a unit for each of the cell's",
        f"proj_size={lstm.proj_size}",
    )


def weight_of(network: nn.RNNBase) -> Tensor:
    """Returns the first weight of the network: its dtype and device."""
    return next(network.parameters()).detach()


def network_inputs(lstm: nn.LSTM, data: Sequences) -> Tensor:
    """The inputs of the LSTM, (N, T, input_size) in the dtype of its weights.

    Symbols become one-hot vectors, all zero where missing; numbers are used as they are, zero where
    missing.

    Raises:
        ValueError: data of another width than the LSTM's ``input_size``.
    """
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    size, dtype = lstm.input_size, weight_of(lstm).dtype
    if not data.is_codes:
        require(
            data.n_features == size,
            "lstm",
            f"needs input_size={data.n_features}, the number of features of the data",
            f"input_size={size}",
        )
        return data.values.to(dtype) * data.mask
    named = None if data.symbols is None else len(data.symbols)
    top = int(data.codes().max())
    fits = size == named if named is not None else top < size
    require(
        fits,
        "lstm",
        "needs as many inputs as there are symbols, which it reads as one-hot vectors "
        f"({named if named is not None else f'at least {top + 1}'} here)" + EMBEDDED,
        f"input_size={size}",
    )
    return nn.functional.one_hot(data.codes(), size).to(dtype) * data.mask.unsqueeze(-1)


def states_of(lstm: nn.LSTM, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs h and cells c of the last layer on inputs (N, T, input_size), (N, T, units) each."""
    with torch.no_grad():
        parts = recurrent_gates(lstm, x)
    return parts["h"][:, :, -1], parts["c"][:, :, -1]


@boundary
def fold_embedding(lstm: nn.LSTM, embedding: nn.Embedding) -> nn.LSTM:
    """Replaces an embedding in front of an LSTM by the LSTM's first weights.

    The embedding's table is multiplied into the weights of the first layer.

    Args:
        lstm: reads the embedding's vectors.
        embedding: of V symbols.

    Returns:
        An LSTM on one-hot symbols (V inputs) with the outputs of ``lstm(embedding(codes))``.

    Raises:
        ValueError: an LSTM that ``wrap`` refuses, or an embedding of another width.

    >>> import torch
    >>> from beliefzoo.inference import fold_embedding
    >>> embedding, lstm = torch.nn.Embedding(27, 5), torch.nn.LSTM(5, 8, batch_first=True)
    >>> folded, codes = fold_embedding(lstm, embedding), torch.tensor([[0, 5, 26]])
    >>> one_hot = torch.nn.functional.one_hot(codes, 27).float()
    >>> torch.allclose(folded(one_hot)[0], lstm(embedding(codes))[0], atol=1e-6)
    True
    """
    check_lstm(lstm)
    require(
        isinstance(embedding, nn.Embedding) and embedding.embedding_dim == lstm.input_size,
        "embedding",
        f"must be a torch.nn.Embedding of {lstm.input_size} numbers a symbol",
        repr(embedding),
    )
    folded = nn.LSTM(
        embedding.num_embeddings,
        lstm.hidden_size,
        num_layers=lstm.num_layers,
        bias=lstm.bias,
        dropout=lstm.dropout,
        batch_first=True,
    ).to(weight_of(lstm).dtype)
    weights = copy.deepcopy(lstm.state_dict())
    weights["weight_ih_l0"] = weights["weight_ih_l0"] @ embedding.weight.detach().mT
    folded.load_state_dict(weights)
    return folded.train(lstm.training)
