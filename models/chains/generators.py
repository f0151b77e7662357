"""Jumps in continuous time: the transition law of a chain that is observed at irregular times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_positive, require_scales
from ..data.moments import input_scales
from ..data.requirements import require_inputs, require_times
from ..data.sequences import Sequences
from ..emissions.emission import Emission, Parameters, Priors
from ..emissions.misclassification import Misclassification, Pairs, state_pairs
from ..model import Simulation
from ..trajectories import safe_log
from .laws import ChainModel

Effects = tuple[tuple[int, Pairs], ...]

_PRINTED = 1e-5
"""Rows of a generator whose sum is this close to 0, relative to their largest entry, are taken for
printed and rounded ones, and corrected."""

_DEGREE = 16
"""Terms of the exponential series: with at most half an expected jump the rest is below 1e-17."""

_MOST_DOUBLINGS = 50
"""After 2^49 expected jumps in a gap, the chain has reached its limit to all digits."""

_BISECTIONS = 60
"""Steps that find the time of a jump within its gap to all digits of float64."""


def generator_matrix(rates: Tensor, jumps: Pairs, states: int) -> Tensor:
    """Generator (…, K, K) with ``rates`` (…, J) at the jumps (from, to) and rows that sum to 0."""
    moves = torch.zeros(len(jumps), states, states)
    for number, (origin, target) in enumerate(jumps):
        moves[number, origin, target], moves[number, origin, origin] = 1, -1
    flat = rates @ moves.flatten(1).to(rates)
    return flat.reshape(*rates.shape[:-1], states, states)


def transition_probabilities(generator: Tensor, gaps: Tensor) -> Tensor:
    r"""P(Δ) = exp(G Δ) of generators (…, K, K) and gaps Δ >= 0 of shape (…): (…, K, K).

    .. math:: \exp(G Δ) = \left[e^{-h} \sum_n \frac{h^n}{n!} R^n\right]^{2^s},
        \quad R = I + G / λ, \quad h = λ Δ / 2^s \le 1/2

    λ is the largest rate of leaving a state. No term is negative, so nothing cancels: small
    probabilities are right to nearly all digits, and probabilities that must be 0 are 0, which the
    usual Padé approximation does not achieve (Grassmann 1977; Jensen 1953). Differentiable.
    """
    states = generator.shape[-1]
    identity = torch.eye(states, dtype=generator.dtype, device=generator.device)
    leaving = -generator.detach().diagonal(dim1=-2, dim2=-1).amin(-1)
    expected = (leaving * gaps).clamp_max(2.0 ** (_MOST_DOUBLINGS - 1))
    most = float(expected.max()) if expected.numel() else 0.0
    doublings = max(0, math.ceil(math.log2(most)) + 1) if most > 0 else 0
    # Gaps stay as they are, unless clamped above, where the chain has reached its limit.
    gaps = torch.where(leaving > 0, expected / torch.where(leaving > 0, leaving, 1), 0)
    size = (gaps / 2**doublings)[..., None, None]
    rate = leaving[..., None, None]
    step = (generator + rate * identity) * size
    out = _series(step, identity) * (-rate * size).exp()
    for _ in range(doublings):
        # Rows sum to 1 up to rounding errors, which would double at each squaring. The sum is
        # constant and needs no gradient.
        out = out / out.detach().sum(-1, keepdim=True)
        out = out @ out
    rows: Tensor = out / out.detach().sum(-1, keepdim=True)
    return rows


def _series(x: Tensor, identity: Tensor) -> Tensor:
    """Σ_{n < 16} x^n / n!, by powers of x⁴ (Paterson & Stockmeyer 1973)."""
    square = x @ x
    cube, fourth = square @ x, square @ square

    def four(first: int) -> Tensor:
        a, b, c, d = (1 / math.factorial(first + k) for k in range(4))
        return a * identity + b * x + c * square + d * cube

    out = four(_DEGREE - 4)
    for first in range(_DEGREE - 8, -1, -4):
        out = out @ fourth + four(first)
    return out


class _Steps(NamedTuple):
    """The U different steps in the data, and which of them every step is."""

    choice: Tensor
    """(N, T-1)"""
    gap: Tensor
    """Time that passes, (U,) float64."""
    entered: Tensor
    """The state that is entered at the end, known to the moment; -1 otherwise. (U,)"""
    inputs: Tensor | None
    """Inputs at the beginning, (U, columns)."""


@boundary
@dataclass(frozen=True)
class GeneratorTransition:
    r"""Jumps in continuous time: between observations Δ apart, the chain moves by exp(G Δ).

    .. math::
        T_t(j \mid i) = [\exp(G(x_t) Δ_t)]_{ij}, \quad
        G_{ij}(x) = rate_{ij} \exp\Big(\sum_e effect_e\, x_{c(e)} [(i, j) \in J_e]\Big),
        \quad Δ_t = times_{t+1} - times_t

    for the allowed jumps (i, j); all other rates are 0 and rows of G sum to 0. Inputs keep their
    value from the beginning of a step to its end. Steps at the same moment (Δ = 0) are several
    observations of the same state. The numbers of the states have a meaning: they
    are never relabelled.

    Parameters: ``jump_rate`` (J,) ~ LogNormal(log typical, spread), per unit of ``times``, in the
    order of ``jumps``; ``jump_effect`` (E,) ~ Normal(0, effect_scale / input_scale).
    ``with_parameters(generator=…)`` takes the matrix instead of the rates.

    **Exact times.** When an absorbing state d among ``exact`` is observed, the time is that of the
    entry (a death), and the chain was in another state until then. The step then has a density
    instead of a probability, Σ_{r≠d} [exp(G Δ)]_{ir} G_{rd} towards d and 0 elsewhere. This needs a
    ``Misclassification`` emission without errors of d.

    Args:
        jumps: pairs (from, to), or a boolean matrix; by default all pairs.
        exact: absorbing states whose time of entry is observed exactly.
        inputs: number of input columns.
        effects: pairs (column, jumps on which it has the same effect); by default every column has
            a separate effect on every jump.
        typical: prior median of a rate; ``scaled_to(data)`` sets it to one jump per mean gap.
        spread: prior standard deviation of a log rate.
        effect_scale: prior standard deviation of an effect: log of the rate ratio per unit.
        input_scale: unit of the inputs, one number or one per column; ``scaled_to(data)`` sets it
            to their standard deviation, of an indicator to its size.

    Raises:
        ValueError: jumps that are not pairs of different states, an exact state that can be left or
            not entered, effects without inputs or of jumps that do not exist, or a prior setting
            that is not positive.

    Source: Kalbfleisch & Lawless (1985), J. American Statistical Association 80; for exact times
    Jackson (2011), J. Statistical Software 38(8).

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> law = GeneratorTransition(jumps=[(0, 1)])
    >>> data = Sequences.from_arrays([[0.0, 0.0, 0.0]], times=[[0.0, 1.0, 3.0]])
    >>> law({"jump_rate": torch.tensor([0.5])}, data).exp()[0, :, 0]  # stay: e^-0.5, e^-1
    tensor([[0.6065, 0.3935],
            [0.3679, 0.6321]])
    """

    jumps: Pairs | None = None
    exact: tuple[int, ...] = ()
    inputs: int = 0
    effects: Effects | None = None
    typical: float = 1.0
    spread: float = 2.0
    effect_scale: float = 1.0
    input_scale: float | tuple[float, ...] = 1.0

    reorderable = False  # which jumps there are depends on the states' numbers

    def __post_init__(self) -> None:
        require_count(self.inputs, "inputs", 0)
        for name in ("typical", "spread", "effect_scale"):
            require_positive(getattr(self, name), name)
        require_scales(self.input_scale, self.inputs, "input_scale", "column")
        set_ = object.__setattr__  # a frozen dataclass
        if self.jumps is not None:
            set_(self, "jumps", state_pairs(_listed(self.jumps), None, "jumps"))
            require(bool(self.jumps), "jumps", "must have at least one", self.jumps)
        set_(self, "exact", tuple(self.exact))
        for state in self.exact:
            require_count(state, "exact", 0)
        require(
            not self.exact or self.jumps is not None,
            "exact",
            "needs jumps, none of which leaves these states",
            self.exact,
        )
        for state in self.exact:
            ends = [[pair[side] for pair in self.jumps or ()] for side in (0, 1)]
            fits = state not in ends[0] and state in ends[1]
            require(fits, "exact", "must be states that jumps enter and none leaves", state)
        if self.effects is not None:
            set_(self, "effects", self._checked(self.effects))

    def _checked(self, effects: Any) -> Effects:
        require(self.inputs > 0, "effects", "needs inputs", "inputs=0")
        checked = []
        for column, jumps in effects:
            require_count(column, "effects", 0)
            require(column < self.inputs, "effects", f"has columns below {self.inputs}", column)
            pairs = state_pairs(jumps, None, "effects")
            known = self.jumps is None or set(pairs) <= set(self.jumps)
            require(bool(pairs) and known, "effects", f"must act on jumps of {self.jumps}", pairs)
            checked.append((int(column), pairs))
        return tuple(checked)

    def allowed(self, states: int) -> Pairs:
        """Return the jumps (from, to) of so many states, in the order of ``jump_rate``."""
        if self.jumps is None:
            return tuple((i, j) for i in range(states) for j in range(states) if i != j)
        fits = _size(self.jumps) == states
        requirement = f"must name states in 0..{states - 1}, the last one among them"
        require(fits, "jumps", requirement, self.jumps)
        return self.jumps

    def coords(self, states: int) -> dict[str, list[str]]:
        """Return names of the jumps, ``"0→1"``, and of effects: columns and their jumps."""
        effects = [
            f"{column} on " + ", ".join(f"{origin}→{target}" for origin, target in jumps)
            for column, jumps in self.acting(states)
        ]
        jumps = [f"{origin}→{target}" for origin, target in self.allowed(states)]
        return {"jump": jumps, "effect": effects}

    def acting(self, states: int) -> Effects:
        """Return column and jumps of every effect, in the order of ``jump_effect``."""
        if self.effects is not None:
            return self.effects
        jumps = self.allowed(states)
        return tuple((column, (jump,)) for column in range(self.inputs) for jump in jumps)

    def priors(self, states: int) -> Priors:
        count = len(self.allowed(states))
        typical = torch.full((count,), math.log(self.typical), dtype=torch.float64)
        priors: Priors = {"jump_rate": dist.LogNormal(typical, self.spread).to_event(1)}
        if self.inputs:
            scales = torch.tensor(self.input_scale, dtype=torch.float64).expand(self.inputs)
            width = self.effect_scale / scales[[column for column, _ in self.acting(states)]]
            priors["jump_effect"] = dist.Normal(torch.zeros_like(width), width).to_event(1)
        return priors

    def redundant(self, priors: Priors, states: int) -> int:
        """Count the effects that are sums of other effects of the same column."""
        if "jump_effect" not in priors:
            return 0
        acting, jumps = self.acting(states), self.allowed(states)
        out = len(acting)
        for column in {column for column, _ in acting}:
            rows = [[float(jump in on) for jump in jumps] for c, on in acting if c == column]
            out -= int(torch.linalg.matrix_rank(torch.tensor(rows, dtype=torch.float64)))
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        effect = {"jump_effect": ("effect",)} if self.inputs else {}
        return {"jump_rate": ("jump",), **effect}

    def generator(
        self, parameters: Parameters, states: int, inputs: Tensor | None = None
    ) -> Tensor:
        """Return G (…draws, K, K), or (…draws, U, K, K) at inputs (U, columns)."""
        rates, jumps = parameters["jump_rate"], self.allowed(states)
        if inputs is not None:
            acting = self.acting(states)
            acts = torch.tensor([[jump in on for jump in jumps] for _, on in acting]).to(rates)
            columns = torch.tensor([column for column, _ in acting], device=rates.device)
            drive = parameters["jump_effect"].unsqueeze(-2) * inputs.to(rates)[:, columns]
            rates = rates.unsqueeze(-2) * (drive @ acts).exp()
        return generator_matrix(rates, jumps, states)

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, N, T-1, K, K); densities where an entry is exact."""
        states = self._states(parameters)
        rates = parameters["jump_rate"]
        if data.max_length == 1:
            still = safe_log(torch.eye(states).to(rates))
            return still.expand(*rates.shape[:-1], 1, 1, states, states)
        steps = self._steps(data)
        double = {name: parameters[name].double() for name in self.dims()}
        generator = self.generator(double, states, steps.inputs)
        if steps.inputs is None:
            generator = generator.unsqueeze(-3)
        log_step = safe_log(self._step_matrices(generator, steps)).to(rates.dtype)
        chosen = log_step.index_select(-3, steps.choice.flatten())
        return chosen.reshape(*rates.shape[:-1], *steps.choice.shape, states, states)

    def _step_matrices(self, generator: Tensor, steps: _Steps) -> Tensor:
        moved = transition_probabilities(generator, steps.gap)
        if bool((steps.entered < 0).all()):
            return moved
        states = moved.shape[-1]
        target = steps.entered.clamp_min(0)
        into = torch.nn.functional.one_hot(target, states).to(moved)  # (U, K)
        rate = (generator * into.unsqueeze(-2)).sum(-1) * (1 - into)  # from every state except d
        density = (moved @ rate.unsqueeze(-1)) * into.unsqueeze(-2)
        return torch.where((steps.entered >= 0)[:, None, None], density, moved)

    def _states(self, parameters: Parameters) -> int:
        """Number of states, from the jumps or else from the number of rates."""
        if self.jumps is not None:
            return _size(self.jumps)
        return math.isqrt(parameters["jump_rate"].shape[-1]) + 1  # K (K - 1) rates

    def _steps(self, data: Sequences) -> _Steps:
        require_times(data, "GeneratorTransition", equal=True)
        assert data.times is not None
        gap, index = data.times.diff(dim=1).unique(return_inverse=True)
        entered, inputs = torch.full_like(gap, -1, dtype=torch.int64), None
        if self.exact:
            code = data.codes()[:, 1:]
            exact = data.observed_steps[:, 1:] & torch.isin(code, torch.tensor(self.exact).to(code))
            first, index = _joined(torch.where(exact, code + 1, 0), index)
            entered, gap = first[0] - 1, gap[first[1]]
        if self.inputs:
            assert data.inputs is not None
            rows, at = data.inputs[:, :-1].flatten(0, 1).unique(dim=0, return_inverse=True)
            first, index = _joined(at.reshape(index.shape), index)
            inputs, gap, entered = rows[first[0]], gap[first[1]], entered[first[1]]
        return _Steps(index, gap, entered, inputs)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Start with one jump per typical gap from every state, in proportion to the counts."""
        jumps = self.allowed(len(counts))
        index = torch.tensor(jumps, dtype=torch.int64).reshape(-1, 2).mT
        share = (counts / counts.sum(-1, keepdim=True))[index[0], index[1]]
        values = {"jump_rate": share.clamp_min(_LEAST_SHARE) * self.typical}
        if self.inputs:
            values["jump_effect"] = share.new_zeros(len(self.acting(len(counts))))
        return values

    def scaled_to(self, data: Sequences) -> GeneratorTransition:
        """Return the same law with one jump per mean gap of the data as the typical rate."""
        self.check(data)
        assert data.times is not None
        gaps = data.times.diff(dim=1)[data.step_mask[:, 1:]]
        gaps = gaps[gaps > 0]
        typical = 1 / float(gaps.mean()) if len(gaps) else self.typical
        if not self.inputs:
            return replace(self, typical=typical)
        return replace(self, typical=typical, input_scale=input_scales(data))

    def natural(self, values: Mapping[str, Tensor], states: int) -> dict[str, Tensor]:
        """Translate ``generator``, the matrix of all rates, to ``jump_rate``."""
        out = dict(values)
        if "generator" not in out:
            return out
        matrix = out.pop("generator")
        shape = (states, states)
        require(matrix.shape == shape, "generator", f"needs shape {shape}", tuple(matrix.shape))
        require(bool(matrix.isfinite().all()), "generator", "needs finite numbers", matrix.tolist())
        jumps = self.allowed(states)
        index = torch.tensor(jumps).mT
        rest = matrix.clone()
        rest[index[0], index[1]] = 0
        rest.fill_diagonal_(0)
        for origin, target in rest.nonzero().tolist():
            raise ValueError(
                f"generator: needs 0 where no jump is allowed, got {float(matrix[origin, target])} "
                f"from {origin} to {target}; allowed are {jumps}"
            )
        sums, largest = matrix.sum(-1), matrix.abs().amax(-1)
        for row in (sums.abs() > _PRINTED * largest).nonzero().flatten().tolist():
            raise ValueError(
                f"generator: needs rows that sum to 0, got {float(sums[row])} in row {row}"
            )
        out["jump_rate"] = matrix[index[0], index[1]]
        return out

    # Data

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless all steps have times."""
        require_inputs(data, self.inputs, "GeneratorTransition")
        require_times(data, "GeneratorTransition", equal=True)

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the observations identify the exact states."""
        require(
            model.initial == "free",
            "initial",
            "must be 'free' in continuous time (known values are set with with_parameters)",
            repr(model.initial),
        )
        if model.states == 1:
            return
        emission = model.emission
        self.allowed(model.states)
        for state in self.exact:
            fits = isinstance(emission, Misclassification) and not any(
                state in pair for pair in emission.errors
            )
            require(
                fits,
                "exact",
                f"needs an emission Misclassification without errors from or to state {state}",
                emission,
            )

    def check_moves(self, data: Sequences, emission: Emission, first: Tensor | None) -> None:
        """Raise ``ValueError`` if no allowed jumps lead to what is observed.

        ``first`` (K,) marks the states in which a sequence can begin; all if None.
        """
        if not isinstance(emission, Misclassification):
            return
        self._check_after(data)
        y, mask = emission.observed(data)
        possible = emission.possible(y, mask)
        reach = self._reach(emission.states).to(y.device)
        assert data.times is not None
        still = data.times.diff(dim=1) == 0
        jumps = self._jumps(emission.states).to(y.device)  # into exact states, at their moment
        jumps[:, [state for state in range(len(jumps)) if state not in self.exact]] = 0
        now = possible[:, 0] if first is None else possible[:, 0] & first.to(y.device)
        for t in range(data.max_length):
            if t:
                moved = now.double() @ reach
                stayed = now.double() @ jumps + now
                now = (torch.where(still[:, t - 1, None], stayed, moved) > 0) & possible[:, t]
            lost = ~now.any(-1) & data.step_mask[:, t]
            for n in lost.nonzero().flatten()[:1].tolist():
                raise ValueError(
                    f"data: needs observations that the allowed jumps {self.allowed(len(reach))} "
                    f"lead to, got state {int(y[n, t])} after {_history(y[n, :t], mask[n, :t])} in "
                    f"sequence {data.labels[n]!r}, step {t}{_at(data, n, t)}"
                )
            now = now | ~data.step_mask[:, t, None]

    def _check_after(self, data: Sequences) -> None:
        """Refuse observations after an entry with a known time: the chain stays in that state."""
        if not self.exact:
            return
        code, seen = data.codes(), data.observed_steps
        entered = seen & torch.isin(code, torch.tensor(self.exact).to(code))
        late = seen[:, 1:] & (entered.cumsum(1)[:, :-1] > 0)
        for n, t in late.nonzero()[:1].tolist():
            raise ValueError(
                f"data: must have nothing after the entry into an absorbing state of {self.exact}, "
                f"got state {int(code[n, t + 1])} in sequence {data.labels[n]!r}, step {t + 1}"
                f"{_at(data, n, t + 1)}"
            )

    def _jumps(self, states: int) -> Tensor:
        """Which jumps are allowed, (K, K) float64 zeros and ones."""
        jumps = torch.zeros(states, states, dtype=torch.float64)
        for origin, target in self.allowed(states):
            jumps[origin, target] = 1
        return jumps

    def _reach(self, states: int) -> Tensor:
        """Whether one state leads to another after any time, (K, K) float64."""
        reach = self._jumps(states) + torch.eye(states, dtype=torch.float64)
        for _ in range(max(1, states.bit_length())):
            reach = ((reach @ reach) > 0).double()
        return reach

    # Simulation

    def scheduled(self, data: Sequences) -> Sequences:
        """Return the data as visits at given times, none of them an entry into an exact state."""
        if not self.exact:
            return data
        other = next(state for state, _ in self.allowed(_size(self.jumps or ())))
        return dataclasses.replace(
            data, values=torch.where(data.mask, torch.full_like(data.values, other), 0)
        )

    def entered(self, simulation: Simulation) -> Simulation:
        """Return the visits with the entries into exact states at their exact times.

        The first visit at which such a state was found moves back to the time of the entry, which
        is drawn given the states before and after; nothing is observed later on.
        """
        paths, data, parameters = simulation
        now, before = paths[:, 1:], paths[:, :-1]
        exact = torch.tensor(self.exact).to(paths)
        found = torch.isin(now, exact) & ~torch.isin(before, exact)
        if not bool(found.any()):
            return simulation
        assert data.times is not None
        rows, place = found.nonzero().mT
        low, high = data.times[rows, place], data.times[rows, place + 1]
        inputs = None if data.inputs is None or not self.inputs else data.inputs[rows, place]
        double = {name: parameters[name].double() for name in self.dims()}
        generator = self.generator(double, self._states(parameters), inputs)
        wait = _waits(generator, high - low, before[rows, place], now[rows, place])
        times = data.times.clone()
        times[rows, place + 1] = (low + wait).clamp(low.nextafter(high), high)
        late = torch.zeros_like(data.step_mask)
        late[:, 2:] = found.cumsum(1)[:, :-1] > 0
        dead = torch.isin(paths[:, :1], exact)
        late[:, 1:] |= dead
        mask = data.mask & ~(late if data.is_codes else late.unsqueeze(-1))
        inside = torch.where(data.step_mask, times, -torch.inf)
        times = inside.cummax(1).values  # the padding repeats the last time
        seen = dataclasses.replace(data, times=times, mask=mask, values=data.values * mask)
        return Simulation(paths, seen, parameters)


_LEAST_SHARE = 1e-3
"""Least share of a jump among those out of a state, at the start of a fit."""


def _listed(jumps: Any) -> Any:
    """Pairs as they are; of a boolean matrix its True entries off the diagonal."""
    table = np.asarray(jumps)
    if table.dtype != np.bool_:
        return jumps
    square = table.ndim == 2 and table.shape[0] == table.shape[1]
    fits = square and not table.diagonal().any()
    require(fits, "jumps", "a boolean matrix must be square with a diagonal of False", jumps)
    return [tuple(pair) for pair in np.argwhere(table).tolist()]


def _size(jumps: Iterable[tuple[int, int]]) -> int:
    return 1 + max(map(max, jumps))


def _joined(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The different pairs in two tables of whole numbers >= 0, and which pair is at every place."""
    base = int(second.max()) + 1
    pairs, index = (first * base + second).unique(return_inverse=True)
    return (pairs // base, pairs % base), index


def _waits(generator: Tensor, gaps: Tensor, origin: Tensor, target: Tensor) -> Tensor:
    """Times of entry into ``target`` (M,) from ``origin`` (M,), given that they lie in the gaps.

    They invert P_{od}(s) / P_{od}(gap) by bisection; d is absorbing.
    """
    row = torch.arange(len(gaps), device=gaps.device)

    def reached(time: Tensor) -> Tensor:
        return transition_probabilities(generator, time)[row, origin, target]

    level = torch.rand(len(gaps), dtype=gaps.dtype, device=gaps.device) * reached(gaps)
    low, high = torch.zeros_like(gaps), gaps
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = reached(middle) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _history(codes: Tensor, seen: Tensor) -> str:
    shown = codes[seen].tolist()[-3:]
    return f"{'… ' * (int(seen.sum()) > 3)}{shown}" if shown else "nothing"


def _at(data: Sequences, n: int, t: int) -> str:
    return "" if data.times is None else f", time {float(data.times[n, t]):g}"
