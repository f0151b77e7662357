"""Exact inference on discrete Markov chains: evidence, filter, smoother, Viterbi, path samples.

A chain has K states, N sequences padded to T steps, and any leading draw dimensions ``*D``
(broadcast against each other; an axis of size 1 is shared, and is not expanded in memory):

- ``log_initial``     ``(*D, N|1, K)``            log p(z_1)
- ``log_transition``  ``(*D, N|1, T-1|1, K, K)``  log p(z_{t+1} = column | z_t = row)
- ``log_likelihood``  ``(*D, N, T, K)``           log O_k(y_t) in nats; 0 where the step is missing
- ``lengths``         ``(N,)`` int64              1 <= length <= T; None: every sequence has T steps
- ``choice``          ``(N, T-1)`` int64          which matrix drives step t (an action, a time gap)

With ``choice``, ``log_transition`` is ``(*D, 1, A, K, K)``, the A matrices to choose from.

All tensors have one precision (float32 or float64) and are on one device; ``-inf`` is an exact
zero. Zeros are kept exact: a state gets ``-inf`` only if no path leads to it, however small its
probability. Likelihoods and beliefs beyond a sequence's length are ignored.

If y_t is impossible given the past, the evidence is ``-inf`` with gradient zero, and all other
functions except Viterbi treat y_t as missing, so that no NaN arises and later steps remain
meaningful.

Gradients flow through :func:`log_evidence`, :func:`predicted_beliefs`,
:func:`backward_marginals`, :func:`join_beliefs` and :func:`belief_elbo` (first order, analytic);
the other functions return constants. Every function raises ``ValueError`` for an argument whose
shape, precision, device or range does not fit.

On the CPU the recursions are compiled by numba (``chains_cpu``), elsewhere they run in torch
(``chains_torch``).
"""

import math
from collections.abc import Mapping
from importlib import import_module
from numbers import Integral
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import chains_torch as kernels
from .chains_torch import Filtered, Gradient, step_mask

__all__ = [
    "Filtered",
    "backward_marginals",
    "belief_elbo",
    "expected_transitions",
    "filter_chain",
    "join_beliefs",
    "log_evidence",
    "most_likely_path",
    "pair_marginals",
    "predict_states",
    "predicted_beliefs",
    "sample_backward",
    "sample_paths",
    "smooth_chain",
    "support",
]


class _Recursions(Protocol):
    """The functions that ``chains_torch`` and ``chains_cpu`` both provide."""

    def evidence(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        both: bool,
        /,
    ) -> tuple[Tensor, Gradient]: ...

    def forward(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        /,
    ) -> Filtered: ...

    def log_messages(
        self,
        log_transition: Tensor,
        log_beliefs: Tensor,
        log_predicted: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        /,
    ) -> Tensor: ...

    def marginals(
        self,
        log_transition: Tensor,
        log_beliefs: Tensor,
        log_predicted: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        /,
    ) -> Tensor: ...

    def adjoints(
        self,
        log_transition: Tensor,
        log_beliefs: Tensor,
        log_predicted: Tensor,
        gradient: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        /,
    ) -> Tensor: ...

    def best_paths(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        /,
    ) -> tuple[Tensor, Tensor]: ...

    def backward_draws(
        self,
        log_transition: Tensor,
        log_beliefs: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        n: int,
        generator: torch.Generator | None,
        /,
    ) -> tuple[Tensor, bool]: ...


def _recursions(tensor: Tensor) -> _Recursions:
    """Returns compiled recursions for the CPU, torch ones elsewhere; numba loads on first use."""
    name = "chains_cpu" if tensor.device.type == "cpu" else "chains_torch"
    return cast(_Recursions, import_module(f".{name}", __package__))


def _check_chain(
    log_transition: Tensor,
    steps: Mapping[str, Tensor],
    lengths: Tensor | None,
    choice: Tensor | None,
    initial: Mapping[str, Tensor] | None = None,
) -> None:
    """Raises ValueError if shapes, precisions or devices do not fit together.

    ``steps`` holds the arguments of shape ``(*D, N, T, K)``, ``initial`` that of ``(*D, N|1, K)``.
    """
    initial = initial or {}
    (name, first), *_ = steps.items()
    for argument, given in {**steps, **initial, "log_transition": log_transition}.items():
        if not isinstance(given, Tensor) or given.is_meta or given.layout != torch.strided:
            kind = type(given).__name__
            came = f"{given.layout} on {given.device}" if isinstance(given, Tensor) else kind
            raise ValueError(f"{argument} must be a dense tensor in memory; got {came}")
    if first.ndim < 3 or 0 in first.shape[-3:]:
        raise ValueError(f"{name} must have shape (..., N, T, K), none 0; got {tuple(first.shape)}")
    n, t, k = first.shape[-3:]
    expected: dict[str, tuple[tuple[int, ...], ...]] = dict.fromkeys(steps, ((n,), (t,), (k,)))
    expected |= dict.fromkeys(initial, ((n, 1), (k,)))
    expected["log_transition"] = ((n, 1), (t - 1, 1), (k,), (k,))
    if choice is not None:
        count = log_transition.shape[-3] if log_transition.ndim > 2 else 0
        expected["log_transition"] = ((1,), (count,), (k,), (k,))
        _check_choice(choice, n, t, count, first.device)
    tensors = {**steps, **initial, "log_transition": log_transition}
    for name, tensor in tensors.items():
        axes = expected[name]
        sizes = tensor.shape[-len(axes) :]
        if len(sizes) < len(axes) or any(s not in a for s, a in zip(sizes, axes, strict=True)):
            wanted = ", ".join("|".join(map(str, dict.fromkeys(axis))) for axis in axes)
            raise ValueError(f"{name} must have shape (..., {wanted}); got {tuple(tensor.shape)}")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != first.dtype:
            raise ValueError(f"{name} must be float32 or float64 as all others; got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on {first.device} as all others; got {tensor.device}")
    leading = {name: tuple(x.shape[: -len(expected[name])]) for name, x in tensors.items()}
    try:
        torch.broadcast_shapes(*leading.values())
    except RuntimeError as error:
        raise ValueError(f"leading dimensions must broadcast; got {leading}") from error
    if lengths is not None:
        check_lengths(lengths, n, t, first.device)


def check_lengths(lengths: Tensor, n: int, t: int, device: torch.device) -> None:
    """Raises ValueError unless ``lengths`` is int64 ``(N,)`` with values in 1 … T.

    Args:
        lengths: the tensor to check.
        n: number of sequences N.
        t: number of steps T.
        device: device the lengths must be on.

    Raises:
        ValueError: another shape, dtype, device or range.

    >>> import torch
    >>> from beliefzoo.inference.exact.chains import check_lengths
    >>> check_lengths(torch.tensor([3, 9]), n=2, t=5, device=torch.device("cpu"))
    Traceback (most recent call last):
    ValueError: lengths must be in 1..5; got 3..9
    """
    if lengths.shape != (n,) or lengths.dtype != torch.int64 or lengths.device != device:
        raise ValueError(
            f"lengths must be int64 of shape ({n},) on {device}; "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)} on {lengths.device}"
        )
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < 1 or longest > t:
        raise ValueError(f"lengths must be in 1..{t}; got {shortest}..{longest}")


def _check_choice(choice: Tensor, n: int, t: int, count: int, device: torch.device) -> None:
    if choice.shape != (n, t - 1) or choice.dtype != torch.int64 or choice.device != device:
        raise ValueError(
            f"choice must be int64 of shape ({n}, {t - 1}) on {device}; "
            f"got {choice.dtype} of shape {tuple(choice.shape)} on {choice.device}"
        )
    if choice.numel() and not 0 <= int(choice.min()) <= int(choice.max()) < count:
        raise ValueError(
            f"choice must be in 0..{count - 1}, the matrices of log_transition; "
            f"got {int(choice.min())}..{int(choice.max())}"
        )


def _check_model(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> None:
    steps, initial = {"log_likelihood": log_likelihood}, {"log_initial": log_initial}
    _check_chain(log_transition, steps, lengths, choice, initial)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1; got {value!r}")


# --- evidence, filter, smoother -------------------------------------------------------------------


class _LogEvidence(torch.autograd.Function):
    """The gradient of the evidence is the posterior: marginals, and expected transition counts."""

    @staticmethod
    def forward(
        ctx: Any,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
    ) -> Tensor:
        evidence, ctx.gradient = _recursions(log_likelihood).evidence(
            log_initial, log_transition, log_likelihood, lengths, choice, any(ctx.needs_input_grad)
        )
        # Kept by torch, which notices if they are changed in place before the gradient is taken.
        ctx.save_for_backward(log_initial, log_transition, log_likelihood)
        return evidence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_initial, _, log_likelihood = ctx.saved_tensors
        marginals, counts = ctx.gradient(gradient, ctx.needs_input_grad[1])
        # A copy: two leaves must not get views of one tensor as their gradients.
        initial = marginals[..., 0, :].sum_to_size(log_initial.shape).clone()
        return initial, counts, marginals.sum_to_size(log_likelihood.shape), None, None


class _BySegments(torch.autograd.Function):
    """The evidence computed in segments of time, of which only the belief before each is kept.

    Each segment starts with the last step of the one before it, whose observation is already part
    of the segment's initial law. Hence no transition is left out, and the gradient with respect to
    that initial law is the posterior of the state in which the previous segment ends.
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
        segment: int,
    ) -> Tensor:
        arguments = log_transition, log_likelihood, lengths, choice
        filter_part = _recursions(log_likelihood).forward
        before, total = log_initial, torch.zeros((), dtype=torch.float64)
        ctx.borders = []
        for start in range(0, log_likelihood.shape[-2], segment):
            ctx.borders.append(before)
            filtered = filter_part(before, *_part(start, segment, *arguments))
            total = total + filtered.log_increments.sum(-1, dtype=torch.float64)
            before = filtered.log_beliefs[..., -1, :].clone()
        ctx.save_for_backward(log_initial, log_transition, log_likelihood, lengths, choice)
        ctx.segment, ctx.possible = segment, total > -math.inf
        return total.to(log_likelihood.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_initial, log_transition, log_likelihood, lengths, choice = ctx.saved_tensors
        arguments = log_transition, log_likelihood, lengths, choice
        evidence = _recursions(log_likelihood).evidence
        gradient = gradient.where(ctx.possible, 0)
        one, last = torch.ones_like(gradient), None
        plain = torch.equal(gradient, one)
        counts = torch.zeros_like(log_transition) if ctx.needs_input_grad[1] else None
        to_likelihood = torch.zeros_like(log_likelihood)
        for number in reversed(range(len(ctx.borders))):
            start = number * ctx.segment
            part = _part(start, ctx.segment, *arguments)
            _, gradient_of = evidence(ctx.borders[number], *part, False)
            marginals, moves = gradient_of(one, counts is not None and plain, last)
            if counts is not None:
                moves = moves if plain else gradient_of(gradient, True, last)[1]
                _add_counts(counts, moves, start, choice)
            last = marginals[..., 0, :]
            own = marginals[..., min(start, 1) :, :] * gradient[..., None, None]
            place = to_likelihood[..., start : start + ctx.segment, :]
            place += own.sum_to_size(place.shape)
        assert last is not None
        initial = (last * gradient.unsqueeze(-1)).sum_to_size(log_initial.shape)
        return initial, counts, to_likelihood, None, None, None


def _part(
    start: int,
    segment: int,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The steps from ``start`` on, together with the step before them."""
    first = max(start - 1, 0)
    likelihood = log_likelihood[..., first : start + segment, :]
    if start:
        likelihood = likelihood.clone()
        likelihood[..., 0, :] = 0
    n, length = likelihood.shape[-3:-1]
    every = torch.full((n,), log_likelihood.shape[-2], device=likelihood.device)
    own = ((every if lengths is None else lengths) - first).clamp(1, length)
    moves = slice(first, first + length - 1)
    if choice is not None:
        return log_transition, likelihood, own, choice[:, moves]
    if log_transition.shape[-3] > 1:
        log_transition = log_transition[..., moves, :, :]
    return log_transition, likelihood, own, None


def _add_counts(counts: Tensor, part: Tensor | None, start: int, choice: Tensor | None) -> None:
    assert part is not None
    if choice is not None or counts.shape[-3] == 1:
        counts += part
    else:
        first = max(start - 1, 0)
        counts[..., first : first + part.shape[-3], :, :] += part


def log_evidence(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
    *,
    segment: int | None = None,
) -> Tensor:
    """Log evidence log p(y_{1:T}), with the states summed out.

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.
        segment: keep the belief of every ``segment``-th step only and recompute the others for the
            gradient. Memory besides the likelihoods and their gradient falls from order N T K to
            N K (segment + T / segment); the time rises two- to threefold.

    Returns:
        Nats, ``(*D, N)``; -inf for an impossible sequence. Differentiable (first order): the
        gradient is p(z_1 | y) for ``log_initial``, the expected transition counts for
        ``log_transition``, p(z_t | y) for ``log_likelihood``, summed over shared axes; zero for an
        impossible sequence.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> likelihood = torch.tensor([[[0.7, 0.1], [0.7, 0.1], [0.1, 0.6]]]).log().requires_grad_()
    >>> evidence = chains.log_evidence(initial, transition, likelihood)
    >>> round(evidence.exp().item(), 6)
    0.037875
    >>> evidence.backward()
    >>> likelihood.grad[0, -1].numpy().round(4)  # p(z_3 | y_1, y_2, y_3)
    array([0.5446, 0.4554], dtype=float32)
    """
    arguments = log_initial, log_transition, log_likelihood, lengths, choice
    _check_model(*arguments)
    if segment is not None:
        _check_count("segment", segment)
        return cast(Tensor, _BySegments.apply(*arguments, segment))  # type: ignore[no-untyped-call]
    return cast(Tensor, _LogEvidence.apply(*arguments))  # type: ignore[no-untyped-call]


@torch.no_grad()
def filter_chain(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Filtered:
    """Filtered beliefs p(z_t | y_{1:t}), predictions p(z_t | y_{1:t-1}), log p(y_t | y_{1:t-1}).

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        :class:`Filtered`, in logs. Beyond a sequence's length the last belief is repeated, so that
        ``log_beliefs[..., -1, :]`` is the final belief of every sequence. After an impossible
        observation (increment -inf) the belief is the prediction.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> likelihood = torch.tensor([[[0.6, 0.2], [0.6, 0.2]]]).log()
    >>> found = chains.filter_chain(initial, transition, likelihood)
    >>> found.log_beliefs.exp().numpy().round(4)[0]
    array([[0.75  , 0.25  ],
           [0.8878, 0.1122]], dtype=float32)
    >>> found.log_increments.exp().numpy().round(4)[0]
    array([0.4 , 0.49], dtype=float32)
    """
    arguments = log_initial, log_transition, log_likelihood, lengths, choice
    _check_model(*arguments)
    return _recursions(log_likelihood).forward(*arguments)


@torch.no_grad()
def smooth_chain(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Smoothed marginals log p(z_t | y_{1:T}).

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        ``(*D, N, T, K)``; beyond the length the last marginal is repeated.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]]).log()
    >>> likelihood = torch.tensor([[[0.8, 0.2], [1.0, 1.0], [0.8, 0.2]]]).log()  # y_2 is missing
    >>> chains.smooth_chain(initial, transition, likelihood).exp().numpy().round(3)[0, :, 0]
    array([0.9 , 0.89, 0.9 ], dtype=float32)
    """
    arguments = log_initial, log_transition, log_likelihood, lengths, choice
    _check_model(*arguments)
    recursions = _recursions(log_likelihood)
    beliefs, predicted, _ = recursions.forward(*arguments)
    messages = recursions.log_messages(log_transition, beliefs, predicted, lengths, choice)
    log_marginals = beliefs + messages
    # The sum is 1 up to rounding, which adds up over a long sequence in float32.
    total = log_marginals.logsumexp(-1, keepdim=True)
    return log_marginals - total.clamp_min(torch.finfo(total.dtype).min)


def _smoothed_pairs(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each transition: the log belief before it, and the prediction and marginal after it."""
    arguments = log_initial, log_transition, log_likelihood, lengths, choice
    _check_model(*arguments)
    recursions = _recursions(log_likelihood)
    beliefs, predicted, _ = recursions.forward(*arguments)
    after = recursions.marginals(log_transition, beliefs, predicted, lengths, choice)
    after /= after.sum(-1, keepdim=True).clamp_min(torch.finfo(after.dtype).tiny)
    return beliefs[..., :-1, :], predicted[..., 1:, :], after[..., 1:, :]


def _every_step(log_transition: Tensor, choice: Tensor | None, after: Tensor) -> Tensor:
    """The matrices of all steps ``(*D, N, T-1, K, K)``, expanded or gathered."""
    if choice is not None:
        return log_transition.squeeze(-4)[..., choice, :, :]
    shape = (*log_transition.shape[:-4], *after.shape[-3:-1], *log_transition.shape[-2:])
    return log_transition.expand(shape)


@torch.no_grad()
def pair_marginals(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Posterior of neighbouring states, p(z_t, z_{t+1} | y_{1:T}).

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        Probabilities ``(*D, N, T-1, K, K)``, zero beyond the length. No other function holds K x K
        numbers for every sequence and step.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> likelihood = torch.tensor([[[0.6, 0.2], [0.6, 0.2]]]).log()
    >>> chains.pair_marginals(initial, transition, likelihood).numpy().round(4)[0, 0]
    array([[0.8265, 0.0306],
           [0.0612, 0.0816]], dtype=float32)
    """
    before, predicted, after = _smoothed_pairs(
        log_initial, log_transition, log_likelihood, lengths, choice
    )
    matrices = _every_step(log_transition, choice, after)
    return kernels.kernel_pairs(before, matrices, predicted, after)


@torch.no_grad()
def expected_transitions(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Expected number of transitions given the data, Σ_t p(z_t, z_{t+1} | y_{1:T}).

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        Counts ``(*D, N, K, K)``, from row to column.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]]).log()
    >>> likelihood = torch.tensor([[[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5]).log()
    >>> chains.expected_transitions(initial, transition, likelihood).numpy().round(2)[0]
    array([[3.98, 1.01],
           [0.04, 3.98]], dtype=float32)
    """
    steps = _smoothed_pairs(log_initial, log_transition, log_likelihood, lengths, choice)
    n, _, k = steps[0].shape[-3:]
    leading = log_transition.shape[:-4]
    if choice is None and log_transition.shape[-3] == 1:
        per_sequence = log_transition.expand(*leading, n, 1, k, k)
        return kernels.kernel_pairs(steps[0], per_sequence, *steps[1:]).squeeze(-3)
    counts = steps[2].new_zeros(*steps[2].shape[:-2], k, k)
    matrix_of = kernels.step_matrices(log_transition, choice)
    each = zip(*(x.unbind(-2) for x in steps), strict=True)
    for step, (before, predicted, after) in enumerate(each):
        matrix = matrix_of(step)[0].expand(*leading, n, k, k)
        counts += kernels.kernel_pairs(before, matrix, predicted, after)
    return counts


@torch.no_grad()
def predict_states(
    log_belief: Tensor, log_transition: Tensor, steps: int, choice: Tensor | None = None
) -> Tensor:
    """Predictive distribution of the states to come, log p(z_{T+h} | y_{1:T}) for h = 1 … H.

    Args:
        log_belief: log of the final belief, ``(*D, N, K)``.
        log_transition: the H transitions to come, ``(*D, N|1, H|1, K, K)``, or with ``choice`` the
            matrices to choose from, ``(*D, 1, A, K, K)``.
        steps: H.
        choice: the matrix of each step, ``(N, H)`` int64.

    Returns:
        ``(*D, N, H, K)``.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> belief = torch.tensor([[1.0, 0.0]]).log()
    >>> chains.predict_states(belief, transition, steps=3).exp().numpy().round(3)[0]
    array([[0.9  , 0.1  ],
           [0.83 , 0.17 ],
           [0.781, 0.219]], dtype=float32)
    """
    _check_count("steps", steps)
    if log_belief.ndim < 2:
        raise ValueError(f"log_belief must have shape (..., N, K); got {tuple(log_belief.shape)}")
    n, k = log_belief.shape[-2:]
    nothing = log_belief.new_zeros(n, steps + 1, k)  # no observations: the filter only predicts
    _check_chain(log_transition, {"log_belief": nothing}, None, choice, {"log_belief": log_belief})
    predicted = _recursions(log_belief).forward(log_belief, log_transition, nothing, None, choice)
    return predicted.log_predicted[..., 1:, :]


@torch.no_grad()
def support(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """The states that the exact filter can hold: where p(z_t | y_{1:t}) > 0.

    It depends on the zeros of the arguments only.

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        Bool ``(*D, N, T, K)``; beyond the length as at the last step.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[1.0, 0.0, 0.0]]).log()
    >>> forward_only = torch.tensor([[[[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]]]]).log()
    >>> chains.support(initial, forward_only, torch.zeros(1, 3, 3)).int().numpy()[0]
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]], dtype=int32)
    """
    _check_model(log_initial, log_transition, log_likelihood, lengths, choice)
    initial, transition, likelihood = (
        torch.zeros_like(x).masked_fill(x == -math.inf, -math.inf)
        for x in (log_initial, log_transition, log_likelihood)
    )
    forward = _recursions(log_likelihood).forward
    return forward(initial, transition, likelihood, lengths, choice).log_beliefs > -math.inf


# --- the backward factorisation of any beliefs, the filter's or a network's -----------------------


class _Predict(torch.autograd.Function):
    """log Σ_i β_t(i) P_t(i, j) of all steps in one matrix product."""

    @staticmethod
    def forward(
        ctx: Any, log_beliefs: Tensor, log_transition: Tensor, choice: Tensor | None
    ) -> Tensor:
        log_predicted = kernels.predict(log_beliefs, log_transition, choice)
        ctx.save_for_backward(log_beliefs, log_transition, log_predicted, choice)
        return log_predicted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_beliefs, log_transition, log_predicted, choice = ctx.saved_tensors
        after = gradient.masked_fill(log_predicted == -math.inf, 0)
        steps = log_beliefs, log_predicted, after
        beliefs = kernels.sums_over_steps(log_beliefs, log_transition, *steps[1:], choice)
        if not ctx.needs_input_grad[1]:
            return beliefs, None, None
        return beliefs, kernels.pairs_over_steps(log_transition, *steps, choice), None


def predicted_beliefs(
    log_initial: Tensor,
    log_transition: Tensor,
    log_beliefs: Tensor,
    choice: Tensor | None = None,
) -> Tensor:
    """One-step predictions of any beliefs: π_1 = p(z_1), π_{t+1}(z') = Σ_z β_t(z) p(z' | z).

    Args:
        log_initial: log p(z_1), ``(*D, N|1, K)``.
        log_transition: ``(*D, N|1, T-1|1, K, K)``; see the module.
        log_beliefs: log β, normalised, ``(*D, N, T, K)``; of a filter, a network or anything else.
        choice: the matrix of each step, ``(N, T-1)`` int64.

    Returns:
        log π, ``(*D, N, T, K)``. Differentiable in the three tensors (first order), with gradient
        zero where π is exactly zero.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> beliefs = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]).log()
    >>> chains.predicted_beliefs(initial, transition, beliefs).exp().numpy().round(3)[0]
    array([[0.5  , 0.5  ],
           [0.725, 0.275]], dtype=float32)
    """
    initial = {"log_initial": log_initial}
    _check_chain(log_transition, {"log_beliefs": log_beliefs}, None, choice, initial)
    leading = torch.broadcast_shapes(
        log_initial.shape[:-2], log_transition.shape[:-4], log_beliefs.shape[:-3]
    )
    n, t, k = log_beliefs.shape[-3:]
    first = log_initial.expand(*leading, n, k).unsqueeze(-2)
    if t == 1:
        return first.clone()
    before = log_beliefs[..., :-1, :].expand(*leading, -1, -1, -1)
    after = _Predict.apply(before, log_transition, choice)  # type: ignore[no-untyped-call]
    return torch.cat([first, after], -2)


class _BackwardMarginals(torch.autograd.Function):
    """Marginals are linear in m, backwards in time; the adjoint runs the same kernel forwards."""

    @staticmethod
    def forward(
        ctx: Any,
        log_transition: Tensor,
        log_beliefs: Tensor,
        log_predicted: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
    ) -> Tensor:
        steps = log_transition, log_beliefs, log_predicted
        marginals = _recursions(log_beliefs).marginals(*steps, lengths, choice)
        ctx.save_for_backward(*steps, marginals, lengths, choice)
        return marginals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_transition, log_beliefs, log_predicted, marginals, lengths, choice = ctx.saved_tensors
        # A state that q never visits has no effect; its gradient may be NaN (as that of m log m).
        gradient = gradient.masked_fill(marginals == 0, 0)
        carried = _recursions(log_beliefs).adjoints(
            log_transition, log_beliefs, log_predicted, gradient, lengths, choice
        )
        adjoints = gradient + carried
        counts = None
        if ctx.needs_input_grad[0]:
            mask = step_mask(lengths, log_beliefs)
            if mask is not None:  # what lies beyond the length may be NaN
                log_beliefs, log_predicted = (
                    x.where(mask.unsqueeze(-1), 0) for x in (log_beliefs, log_predicted)
                )
            counts = kernels.pairs_over_steps(
                log_transition,
                log_beliefs[..., :-1, :],
                log_predicted[..., 1:, :],
                marginals[..., 1:, :],
                choice,
                adjoints[..., :-1, :],
            )
        return counts, adjoints * marginals, -carried * marginals, None, None


def backward_marginals(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Marginals of the law of paths that beliefs β and the chain's backward kernels define.

    The law is q(z_{1:T}) = β_T(z_T) Π_t β_t(z_t) p(z_{t+1} | z_t) / π_{t+1}(z_{t+1}). Hence
    m_T = β_T at the last step of a sequence, and before it
    m_t(z) = β_t(z) Σ_z' p(z' | z) m_{t+1}(z') / π_{t+1}(z'). If β is the filter, m is the smoother.

    Args:
        log_transition: ``(*D, N|1, T-1|1, K, K)``; see the module.
        log_beliefs: log β, normalised, ``(*D, N, T, K)``.
        log_predicted: log π as :func:`predicted_beliefs` returns it for ``log_beliefs``.
        lengths, choice: see the module.

    Returns:
        Probabilities m (not logs), ``(*D, N, T, K)``, exactly 0 beyond the length. Differentiable
        in the three tensors (first order), with memory of order N T K. Where π = 0 the ratio counts
        as 0: a belief in a state that cannot be reached loses that mass.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> likelihood = torch.tensor([[[0.7, 0.1], [0.7, 0.1], [0.1, 0.6]]]).log()
    >>> found = chains.filter_chain(initial, transition, likelihood)
    >>> m = chains.backward_marginals(transition, found.log_beliefs, found.log_predicted)
    >>> bool(torch.allclose(m.log(), chains.smooth_chain(initial, transition, likelihood)))
    True
    """
    steps = {"log_beliefs": log_beliefs, "log_predicted": log_predicted}
    _check_chain(log_transition, steps, lengths, choice)
    leading = torch.broadcast_shapes(
        log_transition.shape[:-4], log_beliefs.shape[:-3], log_predicted.shape[:-3]
    )
    beliefs, predicted = (x.expand(*leading, -1, -1, -1) for x in steps.values())
    arguments = log_transition, beliefs, predicted, lengths, choice
    return cast(Tensor, _BackwardMarginals.apply(*arguments))  # type: ignore[no-untyped-call]


class _Join(torch.autograd.Function):
    """Predictions and marginals by one sweep in each direction, and their gradient by a third."""

    @staticmethod
    def forward(
        ctx: Any, log_transition: Tensor, log_beliefs: Tensor, joined: Any
    ) -> tuple[Tensor, Tensor]:
        ctx.joined, ctx.shapes = joined, (log_transition.shape, log_beliefs.shape)
        ctx.save_for_backward(log_transition, log_beliefs)
        shaped = joined.rows.shaped
        return shaped(joined.predicted).log()[..., 1:, :], shaped(joined.marginals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_after: Tensor, to_marginals: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # torch notices changes in place
        transition_shape, beliefs_shape = ctx.shapes
        to_predicted = torch.nn.functional.pad(to_after, (0, 0, 1, 0))
        beliefs, counts = ctx.joined.gradient(to_predicted, to_marginals, ctx.needs_input_grad[0])
        shaped = None if counts is None else counts.reshape(transition_shape)
        return shaped, ctx.joined.rows.shaped(beliefs).sum_to_size(beliefs_shape), None


def join_beliefs(
    log_initial: Tensor,
    log_transition: Tensor,
    log_beliefs: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`predicted_beliefs` and their :func:`backward_marginals` in one call.

    On the CPU, unless some transition is very unlikely, three compiled sweeps do the work of many
    passes; otherwise the two functions are called.

    Args:
        log_initial, log_transition, log_beliefs, lengths, choice: as of the two functions.

    Returns:
        log π and the marginals m, both ``(*D, N, T, K)``.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> beliefs = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log()
    >>> log_predicted, marginals = chains.join_beliefs(initial, transition, beliefs)
    >>> marginals.numpy().round(4)[0]
    array([[0.7475, 0.2525],
           [0.9   , 0.1   ]], dtype=float32)
    """
    initial = {"log_initial": log_initial}
    _check_chain(log_transition, {"log_beliefs": log_beliefs}, lengths, choice, initial)
    draws = torch.broadcast_shapes(
        log_initial.shape[:-2], log_transition.shape[:-4], log_beliefs.shape[:-3]
    )
    log_beliefs = log_beliefs.expand(*draws, -1, -1, -1)
    joined = _joined(log_transition, log_beliefs, lengths, choice)
    if joined is None:
        predicted = predicted_beliefs(log_initial, log_transition, log_beliefs, choice)
        return predicted, backward_marginals(
            log_transition, log_beliefs, predicted, lengths, choice
        )
    after, marginals = _Join.apply(log_transition, log_beliefs, joined)  # type: ignore[no-untyped-call]
    first = log_initial.unsqueeze(-2).expand(*after.shape[:-2], 1, -1)
    return torch.cat([first, after], -2), marginals


def _joined(
    log_transition: Tensor, log_beliefs: Tensor, lengths: Tensor | None, choice: Tensor | None
) -> Any:
    recursions: Any = _recursions(log_beliefs)
    if not hasattr(recursions, "Joined"):
        return None
    return recursions.Joined.of(log_transition, log_beliefs, lengths, choice)


class _BeliefElbo(torch.autograd.Function):
    """Σ_t E_m[log π + log O − log β], with its gradient by one sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        log_beliefs: Tensor,
        joined: Any,
    ) -> Tensor:
        bound, ctx.residual = joined.elbo(log_initial, log_likelihood)
        ctx.joined, ctx.possible = joined, bound > -math.inf
        ctx.save_for_backward(log_initial, log_transition, log_likelihood, log_beliefs)
        return cast(Tensor, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_initial, log_transition, log_likelihood, _ = ctx.saved_tensors
        joined, share = ctx.joined, gradient.where(ctx.possible, 0)[..., None, None]
        to_each = joined.rows.shaped(joined.marginals) * share
        residual = torch.where(share != 0, ctx.residual * share, 0)
        beliefs, counts = joined.gradient(to_each, residual, ctx.needs_input_grad[1])
        return (
            to_each[..., 0, :].sum_to_size(log_initial.shape).clone(),
            None if counts is None else counts.reshape(log_transition.shape),
            to_each.sum_to_size(log_likelihood.shape),
            joined.rows.shaped(beliefs).sub_(to_each),
            None,
        )


def belief_elbo(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    log_beliefs: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    r"""Evidence lower bound of the law of paths that beliefs β and the backward kernels define.

    .. math:: \sum_t E_{m_t}[\log π_t(z_t) + \log O_t(z_t) - \log β_t(z_t)]

    with π of :func:`predicted_beliefs` and m of :func:`backward_marginals`. It equals the evidence
    if β is the filter; see docs/science.md, I1.

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.
        log_beliefs: log β, normalised, ``(*D, N, T, K)``.

    Returns:
        Nats, ``(*D, N)``. Differentiable in the four tensors (first order, analytic); a bound of
        -inf has gradient zero. Takes one sweep in each direction and one for the gradient, with
        memory of order N T K.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    >>> likelihood = torch.tensor([[[0.7, 0.1], [0.7, 0.1], [0.1, 0.6]]]).log()
    >>> chain = initial, transition, likelihood
    >>> uniform = torch.full((1, 3, 2), 0.5).log()
    >>> exact = chains.filter_chain(*chain).log_beliefs
    >>> [round(chains.belief_elbo(*chain, beliefs).item(), 4) for beliefs in (uniform, exact)]
    [-4.2693, -3.2735]
    >>> round(chains.log_evidence(*chain).item(), 4)
    -3.2735
    """
    steps = {"log_beliefs": log_beliefs, "log_likelihood": log_likelihood}
    _check_chain(log_transition, steps, lengths, choice, {"log_initial": log_initial})
    draws = torch.broadcast_shapes(
        log_initial.shape[:-2],
        log_transition.shape[:-4],
        *(x.shape[:-3] for x in (log_likelihood, log_beliefs)),
    )
    beliefs = log_beliefs.expand(*draws, -1, -1, -1)
    joined = _joined(log_transition, beliefs, lengths, choice)
    if joined is not None:
        arguments = log_initial, log_transition, log_likelihood, beliefs, joined
        return cast(Tensor, _BeliefElbo.apply(*arguments))  # type: ignore[no-untyped-call]
    log_predicted = predicted_beliefs(log_initial, log_transition, beliefs, choice)
    marginals = backward_marginals(log_transition, beliefs, log_predicted, lengths, choice)
    residual = torch.where(marginals > 0, log_predicted + log_likelihood - beliefs, 0)
    impossible = (residual == -math.inf).any(-1).any(-1)
    terms = residual.where(~impossible[..., None, None], 0).mul(marginals).sum(-1)
    bound = terms.sum(-1, dtype=torch.float64).to(terms.dtype)
    return torch.where(impossible, -math.inf, bound)


# --- whole paths ----------------------------------------------------------------------------------


@torch.no_grad()
def most_likely_path(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    choice: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Most likely path of states, argmax_z p(z_{1:T}, y_{1:T}), by the Viterbi algorithm.

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.

    Returns:
        Paths, int64 ``(*D, N, T)``, -1 beyond the length; and their log p(z_{1:T}, y_{1:T}) in
        nats, ``(*D, N)``. If every path is impossible, the latter is -inf and the path arbitrary.
        Holds N K² scores at a time.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]]).log()
    >>> likelihood = torch.tensor([[[0.9, 0.1], [0.3, 0.7], [0.9, 0.1], [0.1, 0.9]]]).log()
    >>> path, log_joint = chains.most_likely_path(initial, transition, likelihood)
    >>> path.tolist(), round(log_joint.item(), 4)
    ([[0, 0, 0, 0]], -4.7265)
    """
    arguments = log_initial, log_transition, log_likelihood, lengths, choice
    _check_model(*arguments)
    paths, log_joint = _recursions(log_likelihood).best_paths(*arguments)
    mask = step_mask(lengths, log_likelihood)
    return paths if mask is None else paths.where(mask, -1), log_joint


def sample_paths(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    n: int = 1,
    generator: torch.Generator | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Draws of whole paths from the posterior p(z_{1:T} | y_{1:T}).

    Args:
        log_initial, log_transition, log_likelihood, lengths, choice: the chain; see the module.
        n: number of draws.
        generator: source of random numbers; None: torch's global one.

    Returns:
        int64 ``(n, *D, N, T)``, -1 beyond the length.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> initial = torch.tensor([[0.5, 0.5]]).log()
    >>> transition = torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]]).log()
    >>> likelihood = torch.tensor([[[0.8, 0.2], [1.0, 1.0], [0.8, 0.2]]]).log()
    >>> generator = torch.Generator().manual_seed(0)
    >>> draws = chains.sample_paths(initial, transition, likelihood, n=10_000, generator=generator)
    >>> share = (draws == 0).double().mean(0)[0]  # draws of state 0 at each step
    >>> exact = chains.smooth_chain(initial, transition, likelihood).exp()[0, :, 0]
    >>> bool((share - exact).abs().max() < 0.01)
    True
    """
    _check_count("n", n)
    filtered = filter_chain(log_initial, log_transition, log_likelihood, lengths, choice)
    return sample_backward(log_transition, filtered.log_beliefs, lengths, n, generator, choice)


@torch.no_grad()
def sample_backward(
    log_transition: Tensor,
    log_beliefs: Tensor,
    lengths: Tensor | None = None,
    n: int = 1,
    generator: torch.Generator | None = None,
    choice: Tensor | None = None,
) -> Tensor:
    """Draws of paths from the law of :func:`backward_marginals`.

    z_T ~ β_T, then z_t ~ β_t(z) p(z_{t+1} | z) / π_{t+1}(z_{t+1}) going backwards in time.

    Args:
        log_transition: ``(*D, N|1, T-1|1, K, K)``; see the module.
        log_beliefs: log β, ``(*D, N, T, K)``.
        lengths, choice: see the module.
        n: number of draws.
        generator: source of random numbers; None: torch's global one.

    Returns:
        int64 ``(n, *D, N, T)``, -1 beyond the length.

    Raises:
        ValueError: an argument that does not fit; a draw of a state that the beliefs before it
            cannot reach.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> stay = torch.eye(2).log().reshape(1, 1, 2, 2)
    >>> beliefs = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]]).log()
    >>> chains.sample_backward(stay, beliefs, n=2).tolist()
    [[[1, 1, 1]], [[1, 1, 1]]]
    """
    _check_count("n", n)
    _check_chain(log_transition, {"log_beliefs": log_beliefs}, lengths, choice)
    paths, possible = _recursions(log_beliefs).backward_draws(
        log_transition, log_beliefs, lengths, choice, n, generator
    )
    if not possible:
        raise ValueError(
            "log_beliefs must give mass only to states that the belief a step before can reach "
            "through log_transition; got a draw that is in no such state"
        )
    mask = step_mask(lengths, log_beliefs)
    return paths if mask is None else paths.where(mask, -1)
