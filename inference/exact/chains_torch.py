"""Recursions and matrix products on discrete chains in torch; used by :mod:`.chains`.

For any device; ``chains_cpu`` has the same recursions for the CPU. Shapes and meaning of the
arguments are given in ``chains`` and checked there, not here. Nothing here records gradients:
call it under ``torch.no_grad`` or inside an ``autograd.Function``.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_CHUNK = 2**22  # numbers held at once where single entries are recomputed
_BLOCK = 2**12  # rows summed in one product


class Gradient(Protocol):
    """Maps the gradient in the evidence ``(*D, N)`` to those in the chain's tensors."""

    def __call__(
        self, upstream: Tensor, transition: bool, last: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor | None]:
        """Marginals ``(*D, N, T, K)`` and expected transitions, both weighted by ``upstream``.

        The latter have the shape of ``log_transition``, and are None if not wanted. ``last`` is
        p(z_T) given more data than these.
        """
        ...


class Filtered(NamedTuple):
    """Filtered beliefs, predictions and increments of the evidence, all in nats.

    The attributes are

    - ``log_beliefs`` log p(z_t | y_{1:t}), ``(*D, N, T, K)``,
    - ``log_predicted`` log p(z_t | y_{1:t-1}), ``(*D, N, T, K)``,
    - ``log_increments`` log p(y_t | y_{1:t-1}), ``(*D, N, T)``.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains
    >>> chain = torch.zeros(1, 2), torch.zeros(1, 1, 2, 2), torch.zeros(3, 4, 2)
    >>> [tuple(x.shape) for x in chains.filter_chain(*(x - x.logsumexp(-1, True) for x in chain))]
    [(3, 4, 2), (3, 4, 2), (3, 4)]
    """

    log_beliefs: Tensor
    """``(*D, N, T, K)`` log p(z_t | y_{1:t}); beyond the length the last belief is repeated."""
    log_predicted: Tensor
    """``(*D, N, T, K)`` log p(z_t | y_{1:t-1}), always one step ahead of ``log_beliefs``."""
    log_increments: Tensor
    """``(*D, N, T)`` log p(y_t | y_{1:t-1}); 0 beyond the length."""


# --- matrix products, exact in the log domain -----------------------------------------------------
# Rows of states (*B, R, K) meet matrices (*B, R|1, K, K). The product runs in the probability
# domain; terms lost there to underflow are below finfo.tiny, hence harmless where the result
# exceeds the floor. Entries below it are recomputed as sums of logs.


@lru_cache
def _log_floor(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return math.log(info.tiny) - 2 * math.log(info.eps)


def _vecmat(rows: Tensor, matrix: Tensor) -> Tensor:
    if matrix.shape[-3] != 1:
        return (rows.unsqueeze(-2) @ matrix).squeeze(-2)
    # A lone matrix without draws folds into one product, whatever the rows' leading dimensions.
    lone = matrix.numel() == matrix.shape[-1] ** 2
    return rows @ (matrix.reshape(matrix.shape[-2:]) if lone else matrix.squeeze(-3))


def _exact_terms(
    mask: Tensor, log_rows: Tensor, log_matrix: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Index and log terms ``x_i + A_ij`` (entries, K) of the entries (row, j) in ``mask``."""
    size = log_rows.shape[-1]
    log_rows = log_rows.expand(mask.shape)
    columns = log_matrix.mT.expand(*mask.shape, size)
    for part in mask.nonzero().split(max(1, _CHUNK // size)):
        index = part.unbind(-1)
        yield index, log_rows[index[:-1]] + columns[index]


def log_product(
    log_rows: Tensor, log_matrix: Tensor, matrix: Tensor, likely: bool = False
) -> Tensor:
    """log Σ_i exp(x_i + A_ij) for rows x whose maximum is about 0; ``matrix`` is exp(A).

    ``likely``: no entry of the matrix is below the floor, hence no sum but zero is, since the
    greatest entry of a row is about 1.
    """
    total = _vecmat(log_rows.exp(), matrix)
    result = total.log()
    if likely:
        return result
    floor = math.exp(_log_floor(total.dtype))
    # Written so that a NaN beyond some length does not hide the others.
    if total.numel() and not total.min().item() >= floor:
        reach = _vecmat((log_rows > -math.inf).to(total), (log_matrix > -math.inf).to(total))
        for index, terms in _exact_terms((total < floor) & (reach > 0), log_rows, log_matrix):
            result[index] = terms.logsumexp(-1)
    return result


# The backward kernel B_ij = exp(x_i + A_ij - y_j), y = log exp(x) exp(A), is the law of the state
# before given the state after. Gradients and expected counts are sums with it; as above, columns
# with tiny exp(y) are done in logs, so that no quotient overflows.


def _inverse(log_totals: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-y), or 0 where exp(y) is below the floor, and the mask of those to be done in logs."""
    small = log_totals < _log_floor(log_totals.dtype)
    return (-log_totals).masked_fill(small, -math.inf).exp(), small & (log_totals > -math.inf)


def kernel_sums(log_rows: Tensor, log_matrix: Tensor, log_totals: Tensor, after: Tensor) -> Tensor:
    """Σ_j B_ij v_j."""
    inverse, small = _inverse(log_totals)
    result = log_rows.exp() * _vecmat(after * inverse, log_matrix.mT.exp())
    for index, terms in _exact_terms(small & (after != 0), log_rows, log_matrix):
        weights = (terms - log_totals[index].unsqueeze(-1)).exp()
        result.index_put_(index[:-1], weights * after[index].unsqueeze(-1), accumulate=True)
    return result


def kernel_pairs(
    log_rows: Tensor,
    log_matrix: Tensor,
    log_totals: Tensor,
    after: Tensor,
    before: Tensor | None = None,
) -> Tensor:
    """a_i B_ij v_j ``(*B, R|1, K, K)``, summed over rows that share a matrix; a = 1 if None."""
    inverse, small = _inverse(log_totals)
    left, right = log_rows.exp(), after * inverse
    left = left if before is None else left * before
    if log_matrix.shape[-3] == 1:
        # In blocks: one sum over 10^5 rows would lose two digits in float32.
        blocks = zip(left.split(_BLOCK, -2), right.split(_BLOCK, -2), strict=True)
        sums = torch.stack([x.mT @ y for x, y in blocks]).sum(0)
        pairs = sums.unsqueeze(-3) * log_matrix.exp()
    else:
        pairs = left.unsqueeze(-1) * right.unsqueeze(-2) * log_matrix.exp()
    for index, terms in _exact_terms(small & (after != 0), log_rows, log_matrix):
        weights = (terms - log_totals[index].unsqueeze(-1)).exp() * after[index].unsqueeze(-1)
        weights = weights if before is None else weights * before[index[:-1]]
        *batch, row, column = index
        row = row if pairs.shape[-3] > 1 else torch.zeros_like(row)
        pairs.mT.index_put_((*batch, row, column), weights, accumulate=True)
    return pairs


# All steps at once: (*D, N, S, K) with matrices (*D, N|1, S|1, K, K) are folded so that the axes
# along which a matrix is shared become rows, hence one large product instead of many small ones.


def fold_matrix(log_transition: Tensor) -> Tensor:
    """``(*D, 1, K, K)`` if shared by all, ``(*D, S, 1, K, K)`` by sequences, else as it is."""
    n, s = log_transition.shape[-4:-2]
    if n != 1:
        return log_transition
    return log_transition.squeeze(-3) if s == 1 else log_transition.transpose(-4, -3)


def fold(steps: Tensor, log_transition: Tensor) -> Tensor:
    """``(*D, N, S, K)`` as rows for :func:`fold_matrix`."""
    n, s = log_transition.shape[-4:-2]
    if n != 1:
        return steps
    return steps.flatten(-3, -2) if s == 1 else steps.transpose(-3, -2)


def unfold(rows: Tensor, log_transition: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`fold`; ``like`` has the axes N and S to restore."""
    n, s = log_transition.shape[-4:-2]
    if n != 1:
        return rows
    return rows.unflatten(-2, like.shape[-3:-1]) if s == 1 else rows.transpose(-3, -2)


def predict(log_beliefs: Tensor, log_transition: Tensor, choice: Tensor | None) -> Tensor:
    """log Σ_i β_t(i) P_t(i, j) of all steps ``(*D, N, T-1, K)``."""
    if choice is None:
        log_matrix = fold_matrix(log_transition)
        rows = log_product(fold(log_beliefs, log_transition), log_matrix, log_matrix.exp())
        return unfold(rows, log_transition, log_beliefs)
    log_predicted = torch.empty_like(log_beliefs)
    for chosen, log_matrix in _by_choice(log_transition, choice):
        rows = log_beliefs[..., chosen, :]
        log_predicted[..., chosen, :] = log_product(rows, log_matrix, log_matrix.exp())
    return log_predicted


def sums_over_steps(
    log_beliefs: Tensor,
    log_transition: Tensor,
    log_predicted: Tensor,
    after: Tensor,
    choice: Tensor | None,
) -> Tensor:
    """Σ_j B_t(i, j) v_t(j) of all steps ``(*D, N, T-1, K)``."""
    if choice is None:
        rows = (fold(x, log_transition) for x in (log_beliefs, log_predicted, after))
        log_rows, log_totals, values = rows
        sums = kernel_sums(log_rows, fold_matrix(log_transition), log_totals, values)
        return unfold(sums, log_transition, log_beliefs)
    before = torch.empty_like(log_beliefs)
    for chosen, log_matrix in _by_choice(log_transition, choice):
        log_rows, log_totals, values = (
            x[..., chosen, :] for x in (log_beliefs, log_predicted, after)
        )
        before[..., chosen, :] = kernel_sums(log_rows, log_matrix, log_totals, values)
    return before


def _by_choice(log_transition: Tensor, choice: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Steps ``(N, T-1)`` at which each matrix ``(*D, 1, K, K)`` was chosen."""
    for number, log_matrix in enumerate(log_transition.unbind(-3)):
        chosen = choice == number
        if bool(chosen.any()):
            yield chosen, log_matrix


def pairs_over_steps(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    after: Tensor,
    choice: Tensor | None,
    before: Tensor | None = None,
) -> Tensor:
    """Σ a B v over all steps from t to t + 1, reduced to the shape of ``log_transition``."""
    if choice is None:
        pairs = kernel_pairs(
            fold(log_beliefs, log_transition),
            fold_matrix(log_transition),
            fold(log_predicted, log_transition),
            fold(after, log_transition),
            None if before is None else fold(before, log_transition),
        )
        n, s = log_transition.shape[-4:-2]
        if n == 1:
            pairs = pairs.unsqueeze(-3) if s == 1 else pairs.transpose(-4, -3)
        return pairs.sum_to_size(log_transition.shape)
    sums = torch.zeros_like(log_transition)
    for chosen, log_matrix in _by_choice(log_transition, choice):
        log_rows, log_totals, values = (
            x[..., chosen, :] for x in (log_beliefs, log_predicted, after)
        )
        weights = None if before is None else before[..., chosen, :]
        pairs = kernel_pairs(log_rows, log_matrix, log_totals, values, weights)
        sums[..., int(choice[chosen][0]), :, :] = pairs.sum_to_size(log_matrix.shape)
    return sums


# --- the recursions -------------------------------------------------------------------------------


def step_mask(lengths: Tensor | None, like: Tensor) -> Tensor | None:
    """``(N, T)``, True within the sequences; None if there is no padding. ``like`` (…, T, K)."""
    steps = like.shape[-2]
    if lengths is None or bool((lengths == steps).all()):
        return None
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def step_matrices(
    log_transition: Tensor, choice: Tensor | None
) -> Callable[[int], tuple[Tensor, Tensor, bool]]:
    """t -> (log P, P) of the step from t to t + 1, ``(*D, N|1, K, K)``, and if all is ``likely``.

    That is asked once and not at each step, where a GPU would have to wait for the answer.
    """
    likely = bool((log_transition >= _log_floor(log_transition.dtype)).all())
    if choice is None and log_transition.shape[-3] == 1:
        fixed = log_transition.squeeze(-3)
        once = fixed, fixed.exp(), likely
        return lambda t: once

    def varying(t: int) -> tuple[Tensor, Tensor, bool]:
        if choice is None:
            log_matrix = log_transition[..., t, :, :]
        else:
            log_matrix = log_transition.squeeze(-4)[..., choice[:, t], :, :]
        return log_matrix, log_matrix.exp(), likely

    return varying


def _has_zeros(*tensors: Tensor) -> bool:
    return any(x.numel() and not x.min().item() > -math.inf for x in tensors)


def forward(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Filtered:
    """b_t ∝ O(y_t) (b_{t-1} P_{t-1}), the forward recursion."""
    inside = step_mask(lengths, log_likelihood)
    if inside is not None:
        log_likelihood = log_likelihood.where(inside.unsqueeze(-1), 0)
    matrices = step_matrices(log_transition, choice)
    zeros = _has_zeros(log_initial, log_transition, log_likelihood)
    observed = None if inside is None else inside.unsqueeze(-1).unbind(-2)
    leading = torch.broadcast_shapes(log_transition.shape[:-4], log_likelihood.shape[:-3])
    shape = torch.broadcast_shapes(log_initial.shape, (*leading, *log_likelihood.shape[-3::2]))
    log_prediction = log_initial.expand(shape)
    log_belief = log_prediction
    beliefs, predicted = [], []
    for t, evidence in enumerate(log_likelihood.unbind(-2)):
        if t > 0:
            log_prediction = log_product(log_belief, *matrices(t - 1))
        joint = log_prediction + evidence
        updated = joint.log_softmax(-1)
        if zeros:  # an impossible observation counts as missing
            impossible = joint.amax(-1, keepdim=True) == -math.inf
            updated = torch.where(impossible, log_prediction, updated)
        log_belief = updated if observed is None else torch.where(observed[t], updated, log_belief)
        predicted.append(log_prediction)
        beliefs.append(log_belief)
    log_predicted = torch.stack(predicted, -2)
    log_increments = (log_predicted + log_likelihood).logsumexp(-1)
    if inside is not None:
        log_increments = log_increments.where(inside, 0)
    return Filtered(torch.stack(beliefs, -2), log_predicted, log_increments)


def log_messages(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    last: Tensor | None = None,
) -> Tensor:
    """log s_t, s_t = P_t (s_{t+1} b_{t+1} / π_{t+1}), s = 1 from the last step on; b_t s_t is m_t.

    With b the filter, s is the scaled backward message p(y_{t+1:T} | z_t) / p(y_{t+1:T} | y_{1:t}).
    """
    mask, at_end = step_mask(lengths, log_beliefs), log_beliefs[..., -1, :]
    if mask is not None:
        log_beliefs, log_predicted = (
            x.where(mask.unsqueeze(-1), 0) for x in (log_beliefs, log_predicted)
        )
    matrices = step_matrices(log_transition, choice)
    lowest = torch.finfo(log_beliefs.dtype).min
    gains = (log_beliefs - log_predicted).masked_fill(log_predicted == -math.inf, -math.inf)
    inside = None if mask is None else mask.unsqueeze(-1).unbind(-2)
    leading = torch.broadcast_shapes(log_transition.shape[:-4], log_beliefs.shape[:-3])
    message = log_beliefs.new_zeros(*leading, *log_beliefs.shape[-3::2])
    if last is not None:  # m_T is given
        message = torch.where(last > 0, last.log() - at_end, -math.inf)
    messages = [message]
    for t, gain in reversed(list(enumerate(gains.unbind(-2)))[1:]):
        ratio = gain + message
        scale = ratio.amax(-1, keepdim=True).clamp_min(lowest)
        log_matrix, matrix, likely = matrices(t - 1)
        update = log_product(ratio - scale, log_matrix.mT, matrix.mT, likely) + scale
        message = update if inside is None else torch.where(inside[t], update, message)
        messages.append(message)
    return torch.stack(messages[::-1], -2)


def marginals(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    last: Tensor | None = None,
) -> Tensor:
    """m_T = b_T, m_t(i) = b_t(i) Σ_j P(i, j) m_{t+1}(j) / π_{t+1}(j); zero beyond the length."""
    mask = step_mask(lengths, log_beliefs)
    messages = log_messages(log_transition, log_beliefs, log_predicted, lengths, choice, last)
    if mask is not None:
        log_beliefs = log_beliefs.where(mask.unsqueeze(-1), 0)
    probabilities = (log_beliefs + messages).exp()
    return probabilities if mask is None else probabilities * mask.unsqueeze(-1)


def adjoints(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    gradient: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Tensor:
    """Adjoint of the marginals: c_1 = 0, c_{t+1}(j) = Σ_i (g_t(i) + c_t(i)) B_t(i, j)."""
    mask = step_mask(lengths, log_beliefs)
    if mask is not None:
        log_beliefs, log_predicted = (
            x.where(mask.unsqueeze(-1), 0) for x in (log_beliefs, log_predicted)
        )
    matrices = step_matrices(log_transition, choice)
    beliefs, log_rows = log_beliefs.exp().unbind(-2), log_beliefs.unbind(-2)
    inverse, small = (x.unbind(-2) for x in _inverse(log_predicted))
    direct, log_totals = gradient.unbind(-2), log_predicted.unbind(-2)
    in_logs = torch.stack([x.any() for x in small]).tolist()
    carried = [torch.zeros_like(direct[0])]
    for t in range(1, len(direct)):
        adjoint = direct[t - 1] + carried[-1]
        log_matrix, matrix, _ = matrices(t - 1)
        mean = _vecmat(adjoint * beliefs[t - 1], matrix) * inverse[t]
        if in_logs[t]:
            for index, terms in _exact_terms(small[t], log_rows[t - 1], log_matrix):
                weights = (terms - log_totals[t][index].unsqueeze(-1)).exp()
                mean[index] = (adjoint[index[:-1]] * weights).sum(-1)
        carried.append(mean)
    through = torch.stack(carried, -2)
    return through if mask is None else through * mask.unsqueeze(-1)


def evidence(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    both: bool,
) -> tuple[Tensor, Gradient]:
    """The evidence ``(*D, N)``, and a function for its gradient; ``both``: it will be needed."""
    del both
    filtered = forward(log_initial, log_transition, log_likelihood, lengths, choice)
    log_beliefs, log_predicted, increments = filtered
    possible = increments.amin(-1) > -math.inf

    def gradient(
        upstream: Tensor, transition: bool, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        smoothed = marginals(log_transition, log_beliefs, log_predicted, lengths, choice, last)
        # The sum is 1 up to rounding, which adds up over a long sequence in float32.
        smoothed /= smoothed.sum(-1, keepdim=True).clamp_min(torch.finfo(smoothed.dtype).tiny)
        smoothed *= upstream.where(possible, 0)[..., None, None]
        if not transition:
            return smoothed, None
        steps = (log_beliefs[..., :-1, :], log_predicted[..., 1:, :], smoothed[..., 1:, :])
        return smoothed, pairs_over_steps(log_transition, *steps, choice)

    return increments.sum(-1, dtype=torch.float64).to(log_likelihood.dtype), gradient


def best_paths(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Viterbi: paths ``(*D, N, T)``, arbitrary beyond the length, and log joints ``(*D, N)``."""
    mask = step_mask(lengths, log_likelihood)
    matrices = step_matrices(log_transition, choice)
    lowest = torch.finfo(log_likelihood.dtype).min
    steps = log_likelihood.unbind(-2)
    stay = torch.arange(log_likelihood.shape[-1], device=log_likelihood.device)
    leading = torch.broadcast_shapes(log_transition.shape[:-4], log_likelihood.shape[:-3])
    first = log_initial + steps[0]
    best = first.expand(torch.broadcast_shapes(first.shape, (*leading, 1, 1)))
    total = best.new_zeros(best.shape[:-1], dtype=torch.float64)
    pointers = []
    for t in range(1, len(steps)):
        # Scores relative to the best so far, the rest in float64: long paths keep their precision.
        scale = best.amax(-1, keepdim=True).clamp_min(lowest)
        total += scale.squeeze(-1)
        best = best - scale
        scores, pointer = (best.unsqueeze(-1) + matrices(t - 1)[0]).max(-2)
        scores = scores + steps[t]
        if mask is not None:
            inside = mask[:, t, None]
            scores, pointer = scores.where(inside, best), pointer.where(inside, stay)
        best = scores
        pointers.append(pointer)
    value, state = best.max(-1)
    path = [state]
    for pointer in reversed(pointers):
        path.append(pointer.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return torch.stack(path[::-1], -1), (total + value).to(log_likelihood.dtype)


def backward_draws(
    log_transition: Tensor,
    log_beliefs: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    n: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, bool]:
    """Paths ``(n, *D, N, T)`` drawn from the last step back, and whether all were possible."""
    mask = step_mask(lengths, log_beliefs)
    matrices = step_matrices(log_transition, choice)
    leading = torch.broadcast_shapes(log_transition.shape[:-4], log_beliefs.shape[:-3])
    if mask is not None:
        log_beliefs = log_beliefs.where(mask.unsqueeze(-1), 0)
    beliefs = log_beliefs.expand(*leading, -1, -1, -1).unbind(-2)
    tiny = torch.finfo(log_beliefs.dtype).tiny
    possible = torch.ones((), dtype=torch.bool, device=log_beliefs.device)
    path: list[Tensor] = []
    for t in reversed(range(len(beliefs))):
        logits = beliefs[t].expand(n, *beliefs[t].shape)
        if path:
            # The column of each draw's next state; past the last step there is none.
            columns = matrices(t)[0].mT.expand(*logits.shape, -1)
            column = columns.take_along_dim(path[-1][..., None, None], -2).squeeze(-2)
            logits = logits + (column if mask is None else column.where(mask[:, t + 1, None], 0))
        noise = torch.empty_like(logits, memory_format=torch.contiguous_format)
        noise = noise.exponential_(generator=generator).clamp_min(tiny).log()
        value, state = (logits - noise).max(-1)  # the Gumbel trick: exact zeros are never drawn
        possible = possible & (value > -math.inf).all()
        path.append(state)
    return torch.stack(path[::-1], -1), bool(possible)
