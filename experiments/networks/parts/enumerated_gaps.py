"""Family, causality and amortization of a guide by listing all sequences and all paths.

Nothing of `gaps` is used: laws of paths are tables over K^T paths, bounds are sums over them, the
best members are found by L-BFGS from many random starts, once with numbers of their own for every
sequence and once for every prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ....inference import BeliefGuide, ForwardGuide, gaps
from ....inference.guides.guide import Guide
from ....models import HiddenMarkovModel, Sequences, node_states
from ....models.randomness import one_thread, seeded

SPREAD = 2.0
"""Standard deviation of the logits that a search starts from."""

PARTS = ("family", "causality", "amortization")


class Listed(NamedTuple):
    """All S = M^T sequences of a model, and all P = K^T paths."""

    data: Sequences
    paths: Tensor
    """(P, T)."""
    joint: Tensor
    """log p(path, sequence), (S, P)."""
    initial: Tensor
    transition: Tensor
    """Logs, (K,) and (K, K)."""

    @property
    def chance(self) -> Tensor:
        """p(sequence), (S,)."""
        return self.joint.logsumexp(-1).exp()


def listed(model: HiddenMarkovModel, symbols: Tensor, length: int) -> Listed:
    """All sequences of so many steps over symbols (M, F), and what the model says of them."""
    grid = torch.cartesian_prod(*[torch.arange(len(symbols))] * length).reshape(-1, length)
    data = Sequences.from_tensors(symbols[grid], codes=not symbols.is_floating_point())
    laws = model.laws({}, data).discrete
    assert laws is not None
    initial = laws.log_initial.double().reshape(-1, laws.log_initial.shape[-1])[0]
    moves = laws.log_transition.double()[0, 0]
    paths = torch.cartesian_prod(*[torch.arange(len(initial))] * length).reshape(-1, length)
    steps = torch.arange(length)
    joint = laws.log_likelihood.double()[:, steps, paths].sum(-1)  # (S, P, T) before the sum
    joint = joint + initial[paths[:, 0]] + moves[paths[:, :-1], paths[:, 1:]].sum(-1)
    return Listed(data, paths, joint, initial, moves)


def path_law(of: Listed, guide: type[Guide], logs: Tensor) -> Tensor:
    """log q(path), (S, P), of the guide whose steps have these logs of beliefs (S, T, K).

    Backward kernels of a ``BeliefGuide``, scores of a ``ForwardGuide``, or independent steps.
    """
    paths, length = of.paths, of.paths.shape[1]
    if issubclass(guide, ForwardGuide):
        first = (of.initial + logs[:, 0]).log_softmax(-1)
        out = first[:, paths[:, 0]]
        for t in range(1, length):
            moves = (of.transition + logs[:, t, None]).log_softmax(-1)
            out = out + moves[:, paths[:, t - 1], paths[:, t]]
        return out
    logs = logs.log_softmax(-1)
    if not issubclass(guide, BeliefGuide):
        return logs[:, torch.arange(length), paths].sum(-1)
    out = logs[:, -1][:, paths[:, -1]]
    for t in range(length - 1):
        back = (logs[:, t, :, None] + of.transition).log_softmax(-2)  # of z_t given z_{t+1}
        out = out + back[:, paths[:, t], paths[:, t + 1]]
    return out


def bounds(of: Listed, guide: type[Guide], logs: Tensor) -> Tensor:
    """The ELBO of every sequence, (S,): Σ q (log p − log q) over all paths."""
    q = path_law(of, guide, logs)
    return (q.exp() * (of.joint - q)).sum(-1)


@one_thread()
def enumerated(
    guide: Guide, symbols: Tensor, length: int, *, starts: int, iterations: int, seed: int
) -> dict[str, float]:
    """Every part by enumeration and as `gaps` finds it: nats a sequence, means over all of them.

    Args:
        guide: of a model with discrete states and known parameters.
        symbols: all that can be observed at a step, codes (M, 1) or vectors (M, F).
        length: steps of a sequence.
        starts: random ones of every search.
        iterations: of L-BFGS from each, at most.
        seed: of the starts.
    """
    model = cast(HiddenMarkovModel, guide.model)
    of, kind = listed(model, symbols, length), type(guide)
    with torch.no_grad():
        posterior = guide.posterior(model.laws({}, of.data))
    name = "scores" if issubclass(kind, ForwardGuide) else "log_beliefs"
    own = bounds(of, kind, getattr(posterior, name).double())
    belief = getattr(guide.filter, "belief", None)
    nodes = getattr(belief, "nodes", None) or 1
    states = node_states(nodes).mT if nodes > 1 else torch.eye(len(of.initial)).double()

    def best(rows: Callable[[Tensor], Tensor], size: int, whole: bool) -> Tensor:
        """Bounds of the best member whose logits come from a table (size, T, k or K)."""
        found = []
        for _ in range(starts):
            start = SPREAD * torch.randn(size, length, len(states), dtype=torch.float64)
            table = _climbed(
                lambda x: of.chance @ bounds(of, kind, rows(x) @ states), start, iterations
            )
            found.append(bounds(of, kind, rows(table) @ states))
        each = torch.stack(found)
        return each[(each @ of.chance).argmax()] if whole else each.amax(0)

    with seeded(seed), torch.no_grad():
        free = best(lambda x: x, len(of.joint), False)
        causal = best(_by_prefix(len(symbols), length), len(of.joint), True)
    if not guide.filter.causal:
        causal = free
    evidence = of.joint.logsumexp(-1)
    parts = {
        "family": evidence - free,
        "causality": free - causal,
        "amortization": causal - own,
    }
    library = gaps(guide, of.data)
    out = {}
    for part, values in parts.items():
        out[f"{part}_by_enumeration"] = float(of.chance @ values)
        out[f"{part}_as_reported"] = float(of.chance @ getattr(library, part).double())
    out["largest_distance"] = max(
        abs(out[f"{part}_by_enumeration"] - out[f"{part}_as_reported"]) for part in PARTS
    )
    return out


def _by_prefix(symbols: int, length: int) -> Callable[[Tensor], Tensor]:
    """Rows of a table for every sequence: that of the first sequence with the same prefix."""
    place = torch.arange(symbols**length)
    first = [place - place % symbols ** (length - t - 1) for t in range(length)]

    def rows(table: Tensor) -> Tensor:
        return torch.stack([table[at, t] for t, at in enumerate(first)], 1)

    return rows


def _climbed(objective: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Tensor:
    """Where L-BFGS ends."""
    numbers = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [numbers], max_iter=iterations, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -objective(numbers)
        loss.backward()
        return loss.detach()

    with torch.enable_grad():
        optimizer.step(closure)
    return numbers.detach()
