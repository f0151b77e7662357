"""Exact inference on discrete Markov chains: evidence, filter, smoother, Viterbi, path samples.

A chain has K states, N sequences padded to T steps, and any leading draw dimensions ``*D``
(broadcast against each other; an axis of size 1 is shared, and is not expanded in memory):

- ``log_initial``     ``(*D, N|1, K)``            log p(z_1)
- ``log_transition``  ``(*D, N|1, T-1|1, K, K)``  log p(z_{t+1} = column | z_t = row)
- ``log_likelihood``  ``(*D, N, T, K)``           log O_k(y_t) in nats; 0 where the step is missing
- ``lengths``         ``(N,)`` int64              1 <= length <= T; None: every sequence has T steps
- ``choice``          ``(N, T-1)`` int64          which matrix drives step t (an action, a time gap)

With ``choice``, ``log_transition`` is ``(*D, 1, A, K, K)``, the A matrices to choose from.

All in one precision (float32 or float64) and on one device; ``-inf`` is an exact zero. Zeros are
kept exact in both directions: a state gets ``-inf`` only where no path leads, however small its
probability. Likelihoods and beliefs beyond a sequence's length are ignored, whatever they are.

If y_t is impossible given the past, the evidence is ``-inf`` with zero gradient, and everything
else but Viterbi treats y_t as missing, so that no NaN arises and later steps remain meaningful.

Gradients flow through :func:`log_evidence`, :func:`predicted_beliefs` and
:func:`backward_marginals` (first order, analytic); the other functions return constants.
Every argument that does not fit is a ``ValueError``.

On the CPU the recursions are machine code (``chains_cpu``), elsewhere torch
(``chains_torch``).
"""

import math
from collections.abc import Mapping
from importlib import import_module
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
    """What ``chains_torch`` and ``chains_cpu`` both have."""

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
    """Machine code for the CPU, torch elsewhere. Imported when first used: numba takes a while."""
    name = "chains_cpu" if tensor.device.type == "cpu" else "chains_torch"
    return cast(_Recursions, import_module(f".{name}", __package__))


def _check_chain(
    log_transition: Tensor,
    steps: Mapping[str, Tensor],
    lengths: Tensor | None,
    choice: Tensor | None,
    initial: Mapping[str, Tensor] | None = None,
) -> None:
    """Refuse what does not fit.

    ``steps`` holds the arguments of shape ``(*D, N, T, K)``, ``initial`` that of ``(*D, N|1, K)``.
    """
    initial = initial or {}
    (name, first), *_ = steps.items()
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
    """Refuse lengths that are not int64 ``(N,)`` in 1 … T."""
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
    if not isinstance(value, int) or value < 1:
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
    """The evidence in parts of the time, of which only the belief before each is kept.

    A part begins with the last step of the one before it, whose observation is in its initial law
    already. Hence its transitions are all there, and the gradient in its initial law is the
    posterior of the state that the part before it ends in.
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
    """The steps from ``start`` on, behind the one before them."""
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
    """log p(y_{1:T}) in nats ``(*D, N)``, all states summed out.

    Differentiable (first order): the gradient is the posterior, p(z_1 | y) for ``log_initial``, the
    expected transition counts for ``log_transition``, p(z_t | y) for ``log_likelihood``, summed
    over shared axes. Memory is of order N T K. An impossible sequence gives -inf, gradient zero.

    With ``segment``, beliefs are kept every so many steps only and the others computed again for
    the gradient: besides the likelihoods and their gradient, memory is of order N K (segment +
    T / segment), at two to three times the time.
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
    """Beliefs p(z_t | y_{1:t}), predictions p(z_t | y_{1:t-1}), increments log p(y_t | y_{1:t-1}).

    Beyond a sequence's length the last belief is repeated, so ``log_beliefs[..., -1, :]`` is the
    final belief of every sequence. After an impossible observation (increment -inf) the belief is
    the prediction.
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
    """log p(z_t | y_{1:T}) ``(*D, N, T, K)``; beyond the length the last marginal is repeated."""
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
    """Per transition: log belief before it, log prediction and smoothed marginal after it."""
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
    """p(z_t, z_{t+1} | y_{1:T}) ``(*D, N, T-1, K, K)``, zero beyond the length.

    The only function that holds K x K numbers per sequence and step.
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
    """Expected number of transitions given the data, Σ_t p(z_t, z_{t+1} | y) ``(*D, N, K, K)``."""
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
    """log p(z_{T+h} | y_{1:T}), h = 1..H ``(*D, N, H, K)``, from the final belief ``(*D, N, K)``.

    ``log_transition`` ``(*D, N|1, H|1, K, K)`` holds the H = ``steps`` transitions to come, or with
    ``choice`` (N, H) the matrices to choose from.
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
    """States that the exact filter can hold, p(z_t | y_{1:t}) > 0 ``(*D, N, T, K)`` bool.

    Depends on the zeros of the arguments only; beyond the length as the last step.
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
    """log Σ_i β_t(i) P_t(i, j), all steps in one product."""

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
    """log π ``(*D, N, T, K)``: π_1 = p(z_1), π_{t+1}(z') = Σ_z β_t(z) p(z' | z).

    For normalised ``log_beliefs`` β ``(*D, N, T, K)`` of any origin. Differentiable in all three
    arguments (first order); where π is exactly 0 the gradient is 0.
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
    """The marginals are linear in m going back; their adjoint is the same kernel going forward."""

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
    """Marginals m ``(*D, N, T, K)`` of the trajectory law that beliefs β and the chain define.

    q(z_{1:T}) = β_T(z_T) Π_t β_t(z_t) p(z_{t+1} | z_t) / π_{t+1}(z_{t+1}), hence m_T = β_T at each
    sequence's last step and m_t(z) = β_t(z) Σ_z' p(z' | z) m_{t+1}(z') / π_{t+1}(z') before it.

    ``log_predicted`` is what :func:`predicted_beliefs` gives for ``log_beliefs``; both have shape
    ``(*D, N, T, K)``. Where π = 0, the ratio is 0: a belief in a state that cannot be reached loses
    that mass. Probabilities, not logs; exactly 0 beyond the length. With β the filter, m is the
    smoother. Differentiable in the three tensors (first order); memory of order N T K.
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
    """Predictions and marginals by one sweep each way, the gradient by one more."""

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
    """:func:`predicted_beliefs` and their :func:`backward_marginals` in one go.

    On the CPU, and if no transition is very unlikely, this takes three sweeps where the two take
    many passes; otherwise it is the two.
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
    """Σ_t E_m[log π + log O − log β] with its gradient by one sweep."""

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
    r"""The bound on the evidence that beliefs β give ``(*D, N)``, in nats.

    .. math:: \sum_t E_{m_t}[\log π_t(z_t) + \log O_t(z_t) - \log β_t(z_t)]

    with π of :func:`predicted_beliefs` and m of :func:`backward_marginals`. It is the evidence if β
    is the filter. Differentiable in the four tensors (first order, analytic): a sweep each way, and
    one more for the gradient, with memory of order N T K. A bound of -inf has gradient zero.
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
    """Viterbi: argmax_z p(z_{1:T}, y_{1:T}) and the log of that maximum in nats.

    Returns int64 paths ``(*D, N, T)``, -1 beyond the length, and ``(*D, N)``. If every path is
    impossible the log probability is -inf and the path arbitrary. Holds N K² scores at a time.
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
    """Draws from p(z_{1:T} | y_{1:T}), int64 ``(n, *D, N, T)``, -1 beyond the length."""
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
    """Draws from the law of :func:`backward_marginals`, int64 ``(n, *D, N, T)``, -1 as padding.

    z_T ~ β_T, then z_t ~ β_t(z) p(z_{t+1} | z) / π_{t+1}(z_{t+1}). Raises ``ValueError`` if a draw
    is in a state that the beliefs before it cannot reach.
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
