"""Laws of networks: recurrent ones of torch with a head, and any function of the prefix."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...models.boundary import boundary
from ...models.checks import require, require_count, require_flag
from .laws import State, renewed, shape_of


@boundary
class NetworkLaw:
    r"""The law of a recurrent network of torch with a head for the next symbol.

    .. math:: p(x_t \mid x_1 \dots x_{t-1}) = \mathrm{softmax}(\mathrm{head}(h_{t-1}))_{x_t}

    with h_0 = 0, unless ``begin`` is read first. The network is copied and computes in float64.

    Args:
        network: ``torch.nn.LSTM``, ``GRU`` or ``RNN`` of any depth that reads forward, in
            evaluation mode.
        head: maps its outputs (n, H) to unnormalised log probabilities (n, V).
        embedding: maps codes (n,) to the network's inputs; None: one-hot vectors.
        begin: code of a mark that was read before the first symbol in training; None: there was
            none.
        ends: whether the last of the head's symbols ends a string; the network need not be able to
            read it. It begins anew after that.

    Raises:
        ValueError: another network, one that reads backward too, one in training mode, dropout in
            training mode, or a head or embedding of the wrong size.

    >>> import torch
    >>> from beliefzoo.inference import NetworkLaw
    >>> lstm, head = torch.nn.LSTM(3, 8, num_layers=2).eval(), torch.nn.Linear(8, 3)
    >>> law = NetworkLaw(lstm, head)
    >>> state = law.read(law.start(4), torch.tensor([0, 1, 2, 0]))
    >>> law.next_log_probabilities(state).exp().sum(-1).numpy().round(6)
    array([1., 1., 1., 1.])
    """

    def __init__(
        self,
        network: nn.RNNBase,
        head: nn.Module,
        embedding: nn.Module | None = None,
        *,
        begin: int | None = None,
        ends: bool = False,
    ) -> None:
        _check_network(network)
        require_flag(ends, "ends")
        if begin is not None:
            require_count(begin, "begin", 0)
        _check_mode("head", head)
        if embedding is not None:
            _check_mode("embedding", embedding)
        self._network = copy.deepcopy(network).double().eval()
        self._head = copy.deepcopy(head).double().eval()
        self._embedding = None if embedding is None else copy.deepcopy(embedding).double().eval()
        width = network.proj_size or network.hidden_size
        scores = _tried(self._head, torch.zeros(1, width, dtype=torch.float64))
        wanted = f"must map (n, {width}), the network's outputs, to (n, symbols) scores"
        fits = isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[1] >= 2
        require(fits, "head", wanted, shape_of(scores))
        assert isinstance(scores, Tensor)
        self.symbols, self.ends = scores.shape[1], ends
        read = self.symbols - ends  # the end is followed by a start
        self._codes = read if begin is None else max(read, begin + 1)
        self._check_inputs(begin)
        sizes = [width] + [network.hidden_size] * isinstance(network, nn.LSTM)
        rest = tuple(torch.zeros(1, network.num_layers, h, dtype=torch.float64) for h in sizes)
        self._start = rest if begin is None else self._onward(rest, torch.tensor([begin]))

    def _check_inputs(self, begin: int | None) -> None:
        width, codes = self._network.input_size, self._codes
        if self._embedding is None:
            spare = {self.symbols} if self.ends else set()
            require(
                width in {codes} | spare or (begin is not None and width > codes),
                "head",
                f"must give one score for each of the {width} symbols that the "
                "network reads as one-hot vectors (or there is an embedding=…)"
                + ", and one for the end"
                * self.ends,
                f"{self.symbols} scores",
            )
        else:
            read = _tried(self._embedding, torch.arange(codes))
            fits = isinstance(read, Tensor) and tuple(read.shape) == (codes, width)
            require(fits, "embedding", f"must map codes to {(codes, width)} inputs", shape_of(read))

    def start(self, n: int) -> State:
        """Returns the state of rest, (n, layers, H) each, after ``begin`` if there is one."""
        return tuple(part.expand(n, -1, -1) for part in self._start)

    def read(self, state: State, codes: Tensor) -> State:
        """Returns the state after one more symbol; after the end of a string, the start."""
        after = self._onward(state, codes.clamp_max(self._codes - 1))
        return renewed(after, codes == self.symbols - 1, self._start) if self.ends else after

    @torch.no_grad()
    def _onward(self, state: State, codes: Tensor) -> State:
        net = self._network
        if self._embedding is None:
            x = nn.functional.one_hot(codes, net.input_size).double()
        else:
            x = self._embedding(codes)
        layers = tuple(part.transpose(0, 1).contiguous() for part in state)
        given = layers if isinstance(net, nn.LSTM) else layers[0]
        came = net(x.unsqueeze(1 if net.batch_first else 0), given)[1]
        after = came if isinstance(came, tuple) else (came,)
        return tuple(part.transpose(0, 1) for part in after)

    @torch.no_grad()
    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns the logarithm of the softmax of the head's scores."""
        scores: Tensor = self._head(state[0][:, -1]).log_softmax(-1)
        return scores


@boundary
class PrefixLaw:
    """Any autoregressive law, given by a function of the prefix.

    Args:
        scores: maps codes (n, t), the symbols so far, to unnormalised log probabilities (n, V) of
            the next one, without padding: all prefixes of a call have the same length.
        symbols: V, with ``ends`` the end among them.
        begin: code of a mark that is put before every prefix, for functions that cannot read an
            empty one; None: none is.
        ends: whether symbol V − 1 ends a string; prefixes begin after it.

    Raises:
        ValueError: fewer than two symbols, or something that cannot be called.

    >>> import torch
    >>> from beliefzoo.inference import PrefixLaw
    >>> law = PrefixLaw(lambda codes: torch.zeros(len(codes), 3), symbols=3)
    >>> law.next_log_probabilities(law.start(1)).exp()
    tensor([[0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """

    def __init__(
        self,
        scores: Callable[[Tensor], Tensor],
        symbols: int,
        *,
        begin: int | None = None,
        ends: bool = False,
    ) -> None:
        require(callable(scores), "scores", "must be a function", type(scores).__name__)
        require_count(symbols, "symbols", 2)
        require_flag(ends, "ends")
        if begin is not None:
            require_count(begin, "begin", 0)
        self._scores, self.symbols, self._begin, self.ends = scores, symbols, begin, ends

    def start(self, n: int) -> State:
        """Returns the empty prefix, or the mark, (n, 0 or 1), and where it begins, (n,)."""
        begin = [] if self._begin is None else [self._begin]
        codes = torch.tensor(begin, dtype=torch.int64).expand(n, -1)
        return codes, torch.zeros(n, dtype=torch.int64)

    def read(self, state: State, codes: Tensor) -> State:
        """Returns the prefix with one more symbol; after the end of a string, one that begins."""
        before, first = state
        if self.ends:
            ended = codes == self.symbols - 1
            place = before.shape[1] + (self._begin is None)
            first = torch.where(ended, place, first)
            codes = codes if self._begin is None else torch.where(ended, self._begin, codes)
        return torch.cat([before, codes.unsqueeze(1)], 1), first

    @torch.no_grad()
    def next_log_probabilities(self, state: State) -> Tensor:
        """Returns the logarithm of the softmax of the scores."""
        codes, first = state
        out = torch.empty(len(codes), self.symbols, dtype=torch.float64)
        for place in first.unique().tolist():
            rows = (first == place).nonzero().squeeze(1)
            scores, shape = self._scores(codes[rows, place:]), (len(rows), self.symbols)
            fits = isinstance(scores, Tensor) and tuple(scores.shape) == shape
            require(fits, "scores", f"must give a tensor of shape {shape}", shape_of(scores))
            out[rows] = scores.double().log_softmax(-1)
        return out


def _check_network(network: object) -> None:
    kinds = nn.LSTM | nn.GRU | nn.RNN
    require(
        isinstance(network, kinds),
        "network",
        "must be torch.nn.LSTM, GRU or RNN",
        type(network).__name__,
    )
    assert isinstance(network, nn.RNNBase)
    require(not network.bidirectional, "network", "must read forward only", "bidirectional=True")
    drawn = f" (with dropout={network.dropout:g} it draws its law anew)" * (network.dropout > 0)
    require(
        not network.training,
        "network",
        f"must be in evaluation mode: call network.eval(){drawn}",
        "training mode",
    )


def _check_mode(argument: str, module: object) -> None:
    require(isinstance(module, nn.Module), argument, "must be a torch.nn.Module", shape_of(module))
    assert isinstance(module, nn.Module)
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    random = [type(part).__name__ for part in module.modules() if isinstance(part, kinds)]
    trains = any(part.training for part in module.modules() if isinstance(part, kinds))
    needed = f"must be in evaluation mode: call {argument}.eval()"
    require(not trains, argument, needed, f"{', '.join(random)} in training mode")


@torch.no_grad()
def _tried(module: nn.Module | None, x: Tensor) -> object:
    assert module is not None
    try:
        came: object = module(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return error
    return came
