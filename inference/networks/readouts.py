r"""Linear read-outs of a belief from the state of a network, tested on held-out sequences.

There are two, both linear in the state s_t. The decoder predicts a distribution,

.. math:: q(z | s) = \mathrm{softmax}(W s + w), \qquad \min_W \sum_t KL(b_t \,\|\, q(\cdot | s_t)),

and is measured in nats; least squares predicts the probabilities (or means) and is measured by R².
A figure needs a comparison: a state that is close to the last few inputs, or to the next symbol's
probabilities, or a random function of the past, can also predict a belief well. Hence the three
controls of ``lstm_readouts``.

Source: Shai et al. (2024), Transformers represent belief state geometry in their residual stream,
for R².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from ...models import Sequences
from ...models.beliefs import divergence
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.randomness import seeded
from .network_inputs import check_lstm, network_inputs, states_of, weight_of

LARGEST_TABLE = 256
"""Up to so many words of the last n symbols the window is told as a word, beyond symbol by symbol:
a linear read-out of words is any function of the window."""

_RIDGE = 1e-9
"""Half of this times the squared weights (of standardised features) is added to the KL, lest they
grow without end where a belief is certain."""

_NEGLIGIBLE = 1e-10
"""Directions with less than this share of the largest variance are rounding, and left out."""

_ITERATIONS = 200
"""Of L-BFGS; it mostly stops before."""


@dataclass(frozen=True)
class BeliefReadout:
    """Quality of a linear read-out of a belief on held-out sequences; all nats are per step.

    Attributes:
        r_squared: 1 − Σ|b_t − b̂_t|² / Σ|b_t − b̄|² over all steps and components, for
            continuous states of their means; NaN if the belief is constant.
        decoder_kl: mean of KL(b_t ‖ q(·|s_t)); None for continuous states.
        decoder_kl_standard_error: its standard error over sequences.
        information: mean of KL(b_t ‖ b̄), the decoder KL of features without information.
        features: number of features.

    >>> from beliefzoo.inference import BeliefReadout
    >>> found = BeliefReadout(
    ...     r_squared=0.97,
    ...     decoder_kl=0.01,
    ...     decoder_kl_standard_error=0.001,
    ...     information=0.4,
    ...     features=16,
    ... )
    >>> found.share
    0.975
    """

    r_squared: float
    decoder_kl: float | None
    decoder_kl_standard_error: float | None
    information: float | None
    features: int

    @property
    def share(self) -> float:
        """1 − decoder KL / information: the share of the belief held by the features."""
        if self.decoder_kl is None or self.information is None:
            return math.nan
        return 1 - self.decoder_kl / self.information if self.information > 0 else math.nan


@boundary
def belief_readout(
    features: Tensor,
    beliefs: Tensor,
    inside: Tensor | None = None,
    *,
    heldout: float = 0.5,
    units: int = 0,
    seed: int = 0,
) -> BeliefReadout:
    """Fits linear read-outs of a belief to some sequences and measures them on the others.

    Args:
        features: (N, T, D), for instance the outputs and cells of a network.
        beliefs: (N, T, K), probabilities of states.
        inside: (N, T) bool, the steps to use, for instance ``data.step_mask``; None: all.
        heldout: share of the sequences used for measuring, drawn by ``seed``.
        units: 0 for the linear decoder; otherwise the number of tanh units of a hidden layer before
            the softmax. R² stays linear.
        seed: of the split, and of the hidden layer's initial weights.

    Returns:
        R² and divergence of the read-outs.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, beliefs that are no
            probabilities, fewer than two sequences, or a bad option.

    >>> import torch
    >>> from beliefzoo.inference import belief_readout
    >>> beliefs = torch.rand(40, 10, 3, generator=torch.Generator().manual_seed(0))
    >>> beliefs = beliefs / beliefs.sum(-1, keepdim=True)
    >>> mixed = beliefs @ torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    >>> round(belief_readout(mixed, beliefs).r_squared, 3)  # two numbers hold three probabilities
    1.0
    >>> belief_readout(mixed[..., :1], beliefs).r_squared < 0.9  # one number does not
    True
    """
    sets = _split(features, beliefs, inside, heldout, seed)
    total = beliefs.sum(-1)
    total = total if inside is None else total[inside]
    require(
        bool(((total - 1).abs() < 1e-4).all()) and bool((beliefs >= 0).all()),
        "beliefs",
        "needs probabilities along the last axis",
        f"sums of {float(total.min()):.4g} to {float(total.max()):.4g}",
    )
    require_count(units, "units", 0)
    with seeded(seed):
        decoder = _decoder(sets.train, sets.train_target, units)
    with torch.no_grad():
        each = divergence(sets.test_target.log(), decoder(sets.test).log_softmax(-1))
        mean = sets.train_target.mean(0).clamp_min(1e-300).log()
        nothing = divergence(sets.test_target.log(), mean.expand_as(sets.test_target))
    return BeliefReadout(
        _r_squared(sets),
        float(each.mean()),
        _standard_error(each, sets.owner),
        float(nothing.mean()),
        features.shape[-1],
    )


@boundary
def mean_readout(
    features: Tensor,
    means: Tensor,
    inside: Tensor | None = None,
    *,
    heldout: float = 0.5,
    seed: int = 0,
) -> BeliefReadout:
    """Fits a least-squares read-out of means, of normal beliefs or of binary nodes.

    Args:
        features: (N, T, D'), for instance the outputs and cells of a network.
        means: (N, T, D), in units of the state.
        inside, heldout, seed: as of :func:`belief_readout`.

    Returns:
        R² on held-out sequences; there is no decoder.

    Raises:
        ValueError: as :func:`belief_readout`.

    >>> import torch
    >>> from beliefzoo.inference import mean_readout
    >>> means = torch.randn(30, 10, 2, generator=torch.Generator().manual_seed(0))
    >>> features = torch.cat([means[..., :1], torch.zeros(30, 10, 1)], -1)  # one of two means
    >>> round(mean_readout(features, means).r_squared, 1)
    0.4
    """
    sets = _split(features, means, inside, heldout, seed)
    return BeliefReadout(_r_squared(sets), None, None, None, features.shape[-1])


@dataclass(frozen=True)
class Readouts:
    """Read-outs of an LSTM's state and their controls; made by :func:`lstm_readouts`.

    Attributes:
        state: read-outs from the output ``h``, the cell ``c`` and both, ``hc``.
        untrained: the same for a network of the same size with torch's random initial weights.
        window: read-outs from the last n inputs: any function of few symbols, otherwise linear.
        next_symbol: from the exact probabilities of the next symbol; None if not given.

    >>> import torch
    >>> from beliefzoo.inference import filter as exact_filter
    >>> from beliefzoo.inference import lstm_readouts
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission=Categorical(2)).with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], probs=[[0.8, 0.2], [0.2, 0.8]]
    ... )
    >>> data, lstm = model.sample(20, 5, seed=0).data, torch.nn.LSTM(2, 4, batch_first=True)
    >>> found = lstm_readouts(lstm, data, exact_filter(model, data), windows=1)
    >>> list(found.rows)[:3], found.next_symbol is None
    (['LSTM h', 'LSTM c', 'LSTM hc'], True)
    """

    state: Mapping[str, BeliefReadout]
    untrained: Mapping[str, BeliefReadout]
    window: Mapping[int, BeliefReadout]
    next_symbol: BeliefReadout | None

    @property
    def rows(self) -> dict[str, BeliefReadout]:
        """All read-outs, by a description."""
        out = {f"LSTM {name}": one for name, one in self.state.items()}
        out |= {f"untrained LSTM {name}": one for name, one in self.untrained.items()}
        out |= {f"last {n} input{'s' * (n > 1)}": one for n, one in self.window.items()}
        if self.next_symbol is not None:
            out["next symbol's probabilities"] = self.next_symbol
        return out

    def __str__(self) -> str:
        lines = [f"  {'read from':<28}{'R²':>8}  {'decoder KL, nats':>17}  {'share held':>10}"]
        for name, one in self.rows.items():
            kl = "" if one.decoder_kl is None else f"{one.decoder_kl:.2e}"
            explained, held = (
                "" if math.isnan(x) else f"{x:.4f}" for x in (one.r_squared, one.share)
            )
            lines.append(f"  {name:<28}{explained:>8}  {kl:>17}  {held:>10}")
        return "\n".join(lines)


@boundary
def lstm_readouts(
    lstm: nn.LSTM,
    data: Sequences,
    beliefs: Tensor,
    *,
    next_symbol: Tensor | None = None,
    means: bool = False,
    windows: int = 4,
    heldout: float = 0.5,
    units: int = 0,
    seed: int = 0,
) -> Readouts:
    """Fits read-outs of beliefs from the state of an LSTM, with three controls.

    The controls are an untrained LSTM, windows of the last inputs, and the probabilities of the
    next symbol.

    Args:
        lstm: reads the data, symbols as one-hot vectors; the state is that of the last layer.
        data: the sequences.
        beliefs: of the current state given the past and the present, (N, T, K); means (N, T, D) if
            ``means``.
        next_symbol: probabilities of the next symbol given the same, (N, T, V), a control.
        means: the beliefs are means, not probabilities.
        windows: controls read the last 1 … ``windows`` inputs; 0 for none.
        heldout, units, seed: as of :func:`belief_readout`; ``seed`` also draws the untrained
            network.

    Returns:
        Read-outs of the state (h, c, both) and of the controls.

    Raises:
        ValueError: an LSTM that is bidirectional, has a projection, or reads inputs of another
            width; otherwise as :func:`belief_readout`.

    >>> import torch
    >>> from beliefzoo.inference import filter as exact_filter
    >>> from beliefzoo.inference import lstm_readouts
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission=Categorical(2)).with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], probs=[[0.8, 0.2], [0.2, 0.8]]
    ... )
    >>> data = model.sample(40, 8, seed=0).data
    >>> lstm = torch.nn.LSTM(2, 4, batch_first=True)  # in practice a trained one
    >>> found = lstm_readouts(lstm, data, exact_filter(model, data), windows=2)
    >>> list(found.state), list(found.window)
    (['h', 'c', 'hc'], [1, 2])
    >>> found.window[2].r_squared > found.window[1].r_squared
    True
    """
    check_lstm(lstm)
    require_count(windows, "windows", 0)
    x = network_inputs(lstm, data)
    inside = data.step_mask
    if next_symbol is not None:
        _check_field("next_symbol", next_symbol, inside)

    def read(features: Tensor) -> BeliefReadout:
        if means:
            return mean_readout(features, beliefs, inside, heldout=heldout, seed=seed)
        return belief_readout(features, beliefs, inside, heldout=heldout, units=units, seed=seed)

    def of(network: nn.LSTM) -> dict[str, BeliefReadout]:
        h, c = states_of(network, x)
        return {"h": read(h), "c": read(c), "hc": read(torch.cat([h, c], -1))}

    return Readouts(
        of(lstm),
        of(untrained_like(lstm, seed)),
        {n: read(window(data, n, lstm.input_size)) for n in range(1, windows + 1)},
        None if next_symbol is None else read(next_symbol),
    )


def untrained_like(lstm: nn.LSTM, seed: int) -> nn.LSTM:
    """A network of the same sizes with torch's random first weights."""
    with seeded(seed):
        return nn.LSTM(
            lstm.input_size,
            lstm.hidden_size,
            num_layers=lstm.num_layers,
            bias=lstm.bias,
            batch_first=True,
        ).to(weight_of(lstm).dtype)


def window(data: Sequences, n: int, channels: int) -> Tensor:
    """The last n inputs at every step, (N, T, …) float64; zeros before the first.

    Symbols as one-hot vectors of (channels + 1)^n words if these are few, otherwise as n one-hot
    vectors of ``channels``; numbers as they are. Missing inputs are read as zeros.
    """
    require_count(n, "n")
    if data.is_codes and (channels + 1) ** n <= LARGEST_TABLE:
        code = torch.where(data.observed_steps, data.codes() + 1, 0)
        word = torch.zeros_like(code)
        for back in range(n):
            word = word * (channels + 1) + nn.functional.pad(code, (back, 0))[:, : code.shape[1]]
        return nn.functional.one_hot(word, (channels + 1) ** n).double()
    if data.is_codes:
        now = nn.functional.one_hot(data.codes(), channels) * data.observed_steps.unsqueeze(-1)
    else:
        now = data.values * data.mask
    now = now.double()
    return torch.cat(
        [nn.functional.pad(now, (0, 0, back, 0))[:, : now.shape[1]] for back in range(n)], -1
    )


@dataclass(frozen=True)
class _Sets:
    """Steps of the fitted and of the held-out sequences; features without mean, white."""

    train: Tensor
    train_target: Tensor
    test: Tensor
    test_target: Tensor
    owner: Tensor
    """Which sequence a held-out step is of."""


def _split(
    features: Tensor, target: Tensor, inside: Tensor | None, heldout: float, seed: int
) -> _Sets:
    _require_tensor("features", features)
    shape = tuple(features.shape)
    require(len(shape) == 3, "features", "needs shape (sequences, steps, features)", shape)
    inside = torch.ones(shape[:2], dtype=torch.bool) if inside is None else inside
    _require_tensor("inside", inside)
    require(
        tuple(inside.shape) == shape[:2] and inside.dtype == torch.bool,
        "inside",
        f"needs bools of shape {shape[:2]}",
        f"{inside.dtype} of shape {tuple(inside.shape)}",
    )
    for name, values in ("features", features), ("beliefs", target):
        _check_field(name, values, inside)
    share = isinstance(heldout, Real) and 0 < heldout < 1
    require(share, "heldout", "must be in (0, 1)", repr(heldout))
    some = inside.any(1).nonzero()[:, 0]  # sequences with steps to use
    n = len(some)
    require(n >= 2, "features", "needs two sequences or more with steps that count", n)
    test_size = min(max(round(heldout * n), 1), n - 1)
    with seeded(seed):
        order = torch.randperm(n)
    chosen = torch.zeros(shape[0], dtype=torch.bool)
    chosen[some[order[:test_size]]] = True
    test, train = inside & chosen.unsqueeze(-1), inside & ~chosen.unsqueeze(-1)
    features, target = features.detach().double(), target.detach().double()
    fitted, judged = _white(features[train], features[test])
    owner = torch.arange(shape[0]).unsqueeze(-1).expand(shape[:2])[test]
    return _Sets(fitted, target[train], judged, target[test], owner)


def _require_tensor(name: str, values: object) -> None:
    require(isinstance(values, Tensor), name, "must be a tensor", type(values).__name__)


def _check_field(name: str, values: Tensor, inside: Tensor) -> None:
    """Raises ``ValueError`` unless these are finite numbers (N, T, …) at the steps used."""
    _require_tensor(name, values)
    shape = tuple(inside.shape)
    fits = values.ndim == 3 and tuple(values.shape[:2]) == shape
    require(fits, name, f"needs shape ({shape[0]}, {shape[1]}, …)", tuple(values.shape))
    require(bool(values[inside].isfinite().all()), name, "needs finite numbers", "others")


def _white(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by an affine map after which the first has mean 0 and covariance 1.

    A linear read-out of the result predicts the same as one of the features, and is fitted faster.
    """
    mean, spread = train.mean(0), train.std(0, correction=0)
    varied = spread > 1e-12 * (1 + mean.abs())
    train = (train[:, varied] - mean[varied]) / spread[varied]
    test = (test[:, varied] - mean[varied]) / spread[varied]
    found = torch.linalg.eigh(train.mT @ train / len(train))
    value, vector = found.eigenvalues, found.eigenvectors
    kept = value > _NEGLIGIBLE * value.amax() if len(value) else value > 0
    turn = vector[:, kept] / value[kept].sqrt()
    return train @ turn, test @ turn


def _least_squares(sets: _Sets) -> Tensor:
    """Read-outs of the held-out steps: white features need no matrix to be inverted."""
    mean = sets.train_target.mean(0)
    weights = sets.train.mT @ (sets.train_target - mean) / len(sets.train)
    return mean + sets.test @ weights


def _r_squared(sets: _Sets) -> float:
    error = sets.test_target - _least_squares(sets)
    around = sets.test_target - sets.test_target.mean(0)
    total = float(around.square().sum())
    return 1 - float(error.square().sum()) / total if total > 0 else math.nan


def _decoder(x: Tensor, target: Tensor, units: int) -> Callable[[Tensor], Tensor]:
    """Scores of the states from white features, fitted by L-BFGS in float64."""
    width = units or x.shape[-1]
    bias = target.mean(0).clamp_min(1e-6).log().requires_grad_()
    if units:
        turn = torch.randn(x.shape[-1], units).to(x) / math.sqrt(max(1, x.shape[-1]))
        turn.requires_grad_()
        shift = torch.zeros(units, dtype=x.dtype, requires_grad=True)
        weight = torch.randn(width, target.shape[-1]).to(x) / math.sqrt(width)
        weight.requires_grad_()
        parameters, penalised = [turn, shift, weight, bias], [turn, weight]

        def scores(y: Tensor) -> Tensor:
            return (y @ turn + shift).tanh() @ weight + bias
    else:
        weight = torch.zeros(width, target.shape[-1], dtype=x.dtype, requires_grad=True)
        parameters, penalised = [weight, bias], [weight]

        def scores(y: Tensor) -> Tensor:
            return y @ weight + bias

    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = -(target * scores(x).log_softmax(-1)).sum(-1).mean()
        penalty = sum((one.square().sum() for one in penalised), x.new_zeros(()))
        total = fit + _RIDGE / 2 * penalty
        total.backward()
        return total

    optimizer.step(loss)
    return scores


def _standard_error(each: Tensor, owner: Tensor) -> float:
    """Standard error of the mean over steps, for independent sequences; NaN for one."""
    places, index = owner.unique(return_inverse=True)
    n = len(places)
    if n < 2:
        return math.nan
    count = torch.bincount(index, minlength=n).double()
    total = torch.zeros(n, dtype=each.dtype).index_add_(0, index, each - each.mean())
    return float(total.std()) * math.sqrt(n) / float(count.sum())
