"""The mixture Kalman filter: particles for the regimes of a switching linear model, Kalman within.

Given a regime path the model is linear-Gaussian, so a particle is a path with its exact Gaussian
belief (Chen & Liu 2000). Every particle is continued with every next regime, and the resampling of
Fearnhead & Clifford (2003) keeps each continuation at most once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models import Sequences, SwitchingLaws, SwitchingLinearSSM
from ...models.boundary import boundary
from ...models.checks import Impossible, require_choice, require_count
from ...models.randomness import seeded
from ...models.trajectories import one_hot
from .batches import Future, from_last_step, quantile
from .outlook import Outlook
from .possible import seen_at


@dataclass(frozen=True)
class RegimeParticles:
    """Result of the mixture Kalman filter on N sequences of a switching model with K regimes.

    exp(``log_evidence``) is an unbiased estimate of p(y), and exact while all K^T regime paths have
    a particle (without recurrence). Moments are Rao-Blackwellised over the last regime.

    Attributes:
        log_evidence: log p(y_n), (N,) nats.
        log_increments: log p(y_t | y_1 … y_{t-1}), (N, T), zero beyond the length.
        regimes: p(s_t | y_1 … y_t), (N, T, K), zero beyond the length.
        mean: E[z_t | y_1 … y_t], (N, T, D).
        covariance: Cov[z_t | y_1 … y_t], (N, T, D, D).
        effective: effective number of particles after each step, (N, T).
        paths: draws of whole regime paths given all data, by ancestry, (S, N, T); −1 beyond the
            length. In long sequences, early steps descend from few particles.

    >>> from beliefzoo.inference import mixture_kalman
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> data = Sequences.from_arrays([[0.1, 0.0, 0.1, 5.0, 1.0]])
    >>> found = mixture_kalman(model, data, particles=32, draws=5)  # exact: all 2^5 paths
    >>> found.log_evidence.shape, found.regimes.shape, found.paths.shape
    (torch.Size([1]), torch.Size([1, 5, 2]), torch.Size([5, 1, 5]))
    """

    log_evidence: Tensor
    log_increments: Tensor
    regimes: Tensor
    mean: Tensor
    covariance: Tensor
    effective: Tensor
    paths: Tensor


@dataclass(frozen=True)
class RegimeForecast:
    """Forecast of a switching model, H steps ahead, by simulation; made by :func:`forecast`.

    Attributes:
        regimes: probabilities of the regimes (N, H, K), means over the draws.
        mean: expected observation (N, H, F), mean over the draws.
        draws: simulated observations (S, N, H, F).
        states: simulated trajectories (S, N, H, K + D).
        outlook: how observations are read, for :func:`scores`.

    >>> from beliefzoo.inference import forecast
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> data = Sequences.from_arrays([[0.1, 5.0, 1.0]])
    >>> found = forecast(model, data, steps=2, draws=200, seed=0)
    >>> found.draws.shape, bool(found.regimes[0, 0, 1] > 0.5)
    (torch.Size([200, 1, 2, 1]), True)
    """

    regimes: Tensor
    mean: Tensor
    draws: Tensor
    states: Tensor
    outlook: Outlook | None = field(default=None, repr=False)

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Returns the quantile q of the draws, (N, H, F); of several q, (Q, N, H, F).

        Raises:
            ValueError: q outside [0, 1].
        """
        return quantile(self.draws, q)


@boundary
def mixture_kalman(
    model: SwitchingLinearSSM,
    data: Sequences,
    *,
    particles: int = 100,
    draws: int = 100,
    seed: int = 0,
    impossible: Impossible = "raise",
) -> RegimeParticles:
    """Filters the regimes and the state of a switching model by the mixture Kalman filter.

    With ``model.recurrent`` the regimes depend on the state, which is then also drawn, from its
    exact conditional law given the particle's past and y_t; the evidence stays unbiased.

    Args:
        model: with all parameters known.
        data: N sequences.
        particles: number per sequence.
        draws: number of regime paths to draw.
        seed: of all draws; torch's global generator is left unchanged.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Evidence, filtered regimes and states, and regime paths.

    Raises:
        ValueError: an unknown parameter, data that cannot come from the model, or no particle left
            with a finite likelihood; names sequence and time.

    Source: Chen & Liu (2000); Fearnhead & Clifford (2003).

    >>> from beliefzoo.inference import mixture_kalman
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> found = mixture_kalman(model, Sequences.from_arrays([[0.1, 0.0, 0.1, 5.0, 1.0]]))
    >>> found.regimes[0, :, 1].numpy().round(2)  # probability of the wild regime
    array([0.5 , 0.06, 0.01, 1.  , 1.  ])
    """
    require_count(draws, "draws")
    return possible_particles(model, data, particles, draws, seed, impossible)[0]


def possible_particles(
    model: SwitchingLinearSSM,
    data: Sequences,
    particles: int,
    draws: int,
    seed: int,
    impossible: Impossible,
) -> tuple[RegimeParticles, SwitchingLaws]:
    """``mixture_kalman``, and the laws for the data without what was treated as missing."""
    require_count(particles, "particles", 2)
    require_choice(impossible, "impossible", ("raise", "missing"))
    model.check(data)
    with seeded(seed), torch.no_grad():
        run = _Run(model.laws({}, data), particles, impossible)
        found, laws = run.result(draws), run.laws
        if not torch.equal(run.seen, laws.data.mask):
            laws = model.laws({}, seen_at(laws.data, run.seen))
    return found, laws


def forecast_regimes(
    model: SwitchingLinearSSM,
    data: Sequences,
    future: Future,
    impossible: Impossible,
    *,
    particles: int = 100,
) -> RegimeForecast:
    """Continues every sequence from the beliefs of the mixture Kalman filter.

    Raises:
        ValueError: as ``mixture_kalman``, or covariates that are missing.
    """
    model.check(data)
    driven = from_last_step(model, data, future)
    with seeded(future.seed), torch.no_grad():
        run = _Run(model.laws({}, data), particles, impossible)
        for t in range(data.max_length):
            run.advance(t)
        states = [run.last_states(future.draws)]
        laws = model.laws({}, driven)
        for t in range(future.steps):
            states.append(laws.draw_next(states[-1], t))
        ahead = torch.stack(states[1:], -2)
        mean, scale = laws.emitted(ahead)
        drawn = mean + scale * torch.randn_like(mean)
    outlook = Outlook(model, (len(data), future.steps), None)
    return RegimeForecast(ahead[..., : model.regimes].mean(0), mean.mean(0), drawn, ahead, outlook)


class _Run:
    """One pass; B = particles, candidates (B, N, K)."""

    def __init__(self, laws: SwitchingLaws, particles: int, impossible: Impossible) -> None:
        self.laws = laws
        self.impossible = impossible
        self.seen = laws.data.mask.clone()
        self.size = particles
        self.noise = laws.noise
        self.variance = laws.observation_scale.square()
        n, d = len(laws.data), len(laws.initial_mean)
        some = laws.drift
        self.rows = torch.arange(n)
        self.mean = some.new_zeros(particles, n, d)
        self.covariance = some.new_zeros(particles, n, d, d)
        self.regime = torch.zeros(particles, n, dtype=torch.int64)
        self.log_weight = some.new_full((particles, n), -math.log(particles))
        if laws.recurrence is None:  # equal at first: one represents all
            self.log_weight = some.new_full((particles, n), -torch.inf)
            self.log_weight[0] = 0
        self.ends = self._belief

    @property
    def _belief(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.log_weight, self.regime, self.mean, self.covariance

    def advance(self, t: int) -> tuple[Tensor, ...]:
        """One step; the beliefs of sequences that end here are kept from then on."""
        found = self._step(t)
        here = self.laws.lengths == t + 1
        self.ends = tuple(  # type: ignore[assignment]
            torch.where(here.reshape(1, -1, *[1] * (now.ndim - 2)), now, kept)
            for now, kept in zip(self._belief, self.ends, strict=True)
        )
        return found

    def last_states(self, draws: int) -> Tensor:
        """Draws of the state at every sequence's last step, (S, N, K + D)."""
        log_weight, regime, mean, covariance = self.ends
        place = torch.multinomial(log_weight.T.exp(), draws, replacement=True).T
        columns = torch.arange(len(self.rows))
        z = mean[place, columns]
        if self.laws.recurrence is None:  # otherwise drawn already
            factor = torch.linalg.cholesky(covariance[place, columns])
            z = z + (factor @ torch.randn_like(z).unsqueeze(-1)).squeeze(-1)
        return torch.cat([one_hot(regime[place, columns], self.laws.regimes, z.dtype), z], -1)

    def result(self, draws: int) -> RegimeParticles:
        steps = [self.advance(t) for t in range(self.laws.data.max_length)]
        increments, regimes, means, covariances, effective, ancestors, chosen = map(
            torch.stack, zip(*steps, strict=True)
        )
        inside = self.laws.data.step_mask
        increments = increments.T * inside
        return RegimeParticles(
            increments.sum(-1),
            increments,
            regimes.movedim(0, 1) * inside.unsqueeze(-1),
            means.movedim(0, 1),
            covariances.movedim(0, 1),
            effective.T,
            self._traced(ancestors, chosen, draws).masked_fill(~inside, -1),
        )

    def _check(self, total: Tensor, t: int) -> None:
        bad = (~total.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                "particles: none has a finite likelihood left in sequence "
                f"{self.laws.data.labels[bad[0]]!r} at step {t}, got log p(y_t | past) = "
                f"{float(total[bad[0]])}"
            )

    def _step(self, t: int) -> tuple[Tensor, ...]:
        log_prior, mean, covariance = self._predicted(t)
        mask = self.laws.data.mask[:, t]
        log_weight, total, *moved = self._conditioned(log_prior, mean, covariance, mask, t)
        lost = ~total.isfinite()
        if self.impossible == "missing" and bool(lost.any()):
            seen = self.seen[:, t] = mask & ~lost.unsqueeze(-1)
            log_weight, total, *moved = self._conditioned(log_prior, mean, covariance, seen, t)
        mean, covariance = moved
        self._check(total, t)
        share = (log_weight - total.unsqueeze(-1)).exp()
        centre = (share.unsqueeze(-1) * mean).sum((0, 2))
        apart = mean - centre.unsqueeze(-2)
        spread = covariance + apart.unsqueeze(-1) * apart.unsqueeze(-2)
        moments = centre, (share[..., None, None] * spread).sum((0, 2))
        ancestor = self._keep(share, mean, covariance)
        effective = 1 / (2 * self.log_weight).exp().sum(0)
        return total, share.sum(0), *moments, effective, ancestor, self.regime

    def _conditioned(
        self, log_prior: Tensor, mean: Tensor, covariance: Tensor, mask: Tensor, t: int
    ) -> tuple[Tensor, ...]:
        """Log weights (B, N, K), their log sums (N,), means and covariances given y_t."""
        mean, covariance, log_likelihood = condition(
            mean,
            covariance,
            self.laws.data.values[:, t].to(mean).unsqueeze(-2),
            mask.unsqueeze(-2),
            self.laws.loading,
            self.laws.intercept,
            self.variance,
        )
        log_weight = self.log_weight.unsqueeze(-1) + log_prior + log_likelihood
        total = log_weight.movedim(1, 0).flatten(1).logsumexp(-1)
        return log_weight, total, mean, covariance

    def _predicted(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """log p(s_t | past) (B, N, K), and mean and covariance of z_t for every regime."""
        laws = self.laws
        shape = (*self.regime.shape, laws.regimes)
        if t == 0:
            covariance = torch.diag_embed(laws.initial_scale.square())
            return (
                laws.log_initial.expand(shape),
                laws.initial_mean.expand(*shape, -1),
                covariance.expand(*shape, -1, -1),
            )
        table = laws.log_transition[:, min(t - 1, laws.log_transition.shape[1] - 1)]
        log_prior = table[self.rows % len(table), self.regime]
        if laws.recurrence is not None:
            log_prior = (log_prior + self.mean @ laws.recurrence.mT).log_softmax(-1)
        mean = torch.einsum("kij,bnj->bnki", laws.dynamics, self.mean) + laws.drift
        moved = laws.dynamics @ self.covariance.unsqueeze(-3) @ laws.dynamics.mT
        return log_prior, mean, moved + self.noise

    def _keep(self, share: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        """Chooses the continuations to keep; returns the particles that they come from."""
        n = share.shape[1]
        # Regime by regime: with the regimes of a particle side by side, evenly spaced ticks would
        # give all particles the same one.
        flat = share.permute(1, 2, 0).flatten(1)  # (N, K * B)
        index, weight = resample(flat, self.size)
        index = index.T
        ancestor, self.regime = index % self.size, index // self.size
        columns = torch.arange(n)
        self.mean = mean[ancestor, columns, self.regime]
        self.covariance = covariance[ancestor, columns, self.regime]
        self.log_weight = weight.T.log()
        if self.laws.recurrence is not None:
            factor = torch.linalg.cholesky(self.covariance)
            noise = torch.randn_like(self.mean).unsqueeze(-1)
            self.mean = self.mean + (factor @ noise).squeeze(-1)
            self.covariance = torch.zeros_like(self.covariance)
        return ancestor

    def _traced(self, ancestors: Tensor, chosen: Tensor, draws: int) -> Tensor:
        """Regime paths (S, N, T) of draws from the last particles, followed back."""
        weight = self.log_weight.T.exp()
        place = torch.multinomial(weight, draws, replacement=True).T  # (S, N)
        paths = []
        for t in reversed(range(len(chosen))):
            paths.append(chosen[t].gather(0, place))
            place = ancestors[t].gather(0, place)
        return torch.stack(paths[::-1], -1)


def condition(
    mean: Tensor,
    covariance: Tensor,
    y: Tensor,
    mask: Tensor,
    loading: Tensor,
    intercept: Tensor,
    variance: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (…, D), covariance (…, D, D) and log density (…) of z ~ N given y = C z + d + noise.

    ``y`` and ``mask`` (…, F), ``loading`` (…, F, D), ``intercept`` and ``variance`` (…, F)
    broadcast. The noise is independent, so features enter one after the other.
    """
    total = torch.zeros_like(mean[..., 0])
    for f in range(y.shape[-1]):
        row, seen = loading[..., f, :], mask[..., f]
        with_state = (covariance @ row.unsqueeze(-1)).squeeze(-1)
        spread = (with_state * row).sum(-1) + variance[..., f]
        error = y[..., f] - intercept[..., f] - (mean * row).sum(-1)
        gain = torch.where(seen, 1 / spread, 0).unsqueeze(-1) * with_state
        mean = mean + gain * error.unsqueeze(-1)
        covariance = covariance - gain.unsqueeze(-1) * with_state.unsqueeze(-2)
        term = -0.5 * (error.square() / spread + spread.log() + math.log(2 * math.pi))
        total = total + torch.where(seen, term, 0)
    return mean, 0.5 * (covariance + covariance.mT), total


def resample(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Keeps at most ``size`` of M weighted items, each at most once, without bias.

    Item i stays with probability min(w_i / c, 1), with c such that ``size`` stay on average, and
    then has weight max(w_i, c), which minimises the sum of squared errors (Fearnhead & Clifford
    2003). If no more than ``size`` weights are positive, all stay as they are.

    Items are chosen by evenly spaced points along the list, so similar items should be neighbours.

    Args:
        weight: (N, M), rows sum to 1.
        size: number of items to keep.

    Returns:
        Indices (N, size) and their weights; unused places have weight 0.
    """
    n, items = weight.shape
    ordered = weight.sort(-1, descending=True).values
    top = min(size, items)
    # Summed from below: 1 − (sum of the larger) would lose the smallest weights to rounding.
    tail = ordered.flip(-1).cumsum(-1).flip(-1)[:, :top]
    level = tail / (size - torch.arange(top, device=weight.device))
    whole = (ordered[:, :top] > level).sum(-1, keepdim=True)  # these are kept with certainty
    threshold = level.gather(1, whole.clamp_max(top - 1))
    threshold = torch.where((weight > 0).sum(-1, keepdim=True) <= size, 0, threshold)
    stay = torch.where(weight > 0, (weight / threshold).clamp_max(1), 0)
    reach = stay.cumsum(-1)
    ticks = torch.arange(1, size + 1, device=weight.device) - torch.rand(
        n, 1, dtype=weight.dtype, device=weight.device
    )
    index = torch.searchsorted(reach, ticks)
    used = index < items
    index = index.clamp_max(items - 1)
    kept = weight.gather(1, index) / stay.gather(1, index).clamp_min(1e-300)
    kept = torch.where(used, kept, 0)
    return index, kept / kept.sum(-1, keepdim=True)
