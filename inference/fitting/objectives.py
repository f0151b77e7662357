"""The objectives of a fit: one scalar to minimise, in nats per step, for a minibatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from ...models import Sequences
from ..guides.guide import Guide, ParameterDraw, Posterior
from ..guides.particles import log_evidence_by_particles

Objective = Literal["elbo", "iwae", "fivo", "rws", "forward_kl"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@runtime_checkable
class Weighed(Protocol):
    """A posterior that computes its weights without densities of the chain."""

    def log_weights(self, paths: Tensor) -> Tensor:
        """Return log p(y, z) − log q(z | y) of draws, (draws, N) nats."""


class Batch(NamedTuple):
    """A minibatch, its weight (all sequences / sequences here), and draws per sequence.

    ``noise`` seeds the draws after the parameters if several processes share a minibatch.
    """

    data: Sequences
    scale: float
    particles: int
    noise: int | None = None


Loss = Callable[[Guide, Batch], Tensor]


def elbo(guide: Guide, batch: Batch) -> Tensor:
    """−ELBO: E_q[log q(θ) − log p(θ)] + Σ_n E_q[log q(z_n|y_n) − log p(y_n, z_n)].

    Exact in the states, or from one path per sequence if the guide has no closed form;
    ``particles`` draws of the parameters (and paths). For discrete states it equals Pyro's
    ``TraceMeanField_ELBO`` for the same draws, without computing the log densities of paths that
    the latter does not use.
    """
    loss = torch.zeros(())
    for _ in range(batch.particles):
        draw, laws = _draw(guide, batch)
        loss = loss - (draw.log_prior - draw.log_q)
        loss = loss - batch.scale * guide.bound(laws).sum()
    return loss / batch.particles


def iwae(guide: Guide, batch: Batch) -> Tensor:
    """−(log p(θ) − log q(θ) + Σ_n log (1/S) Σ_s w_ns), w_ns = p(y_n, z_ns | θ) / q(z_ns | y_n, θ).

    S paths per sequence for one draw of the parameters; as S grows it tends to the exact evidence
    in the states (Burda et al. 2016). Continuous states are reparametrised; for discrete ones the
    guide's gradient is VIMCO's (Mnih & Rezende 2016).
    """
    draw, laws = _draw(guide, batch)
    posterior = guide.posterior(laws)
    paths = posterior.sample_paths(batch.particles)
    if laws.discrete is None:
        each = log_mean_exp(log_weights(posterior, paths))
        return -(draw.log_prior - draw.log_q) - batch.scale * each.sum()
    log_q = posterior.path_log_prob(paths)
    log_w = _joint(posterior, paths) - log_q
    bound = log_mean_exp(log_w)
    credit = (bound - _without_each(log_w.detach())).detach()
    surrogate = bound + (credit * log_q).sum(0) - (credit * log_q).sum(0).detach()
    return -(draw.log_prior - draw.log_q) - batch.scale * surrogate.sum()


def fivo(guide: Guide, batch: Batch) -> Tensor:
    """−(log p(θ) − log q(θ) + Σ_n log Ẑ_n), Ẑ_n the evidence by a filter with S particles.

    The guide proposes the particles, which are resampled when fewer than half are effective
    (Maddison et al. 2017; Le et al. 2018; Naesseth et al. 2018). As S grows it tends to the exact
    evidence, while IWAE's weights of whole paths degenerate with their length. For continuous
    states; the gradient leaves out the contribution of resampling.
    """
    draw, laws = _draw(guide, batch)
    if laws.discrete is not None:
        raise ValueError(
            "objective: 'fivo' needs continuous states, whose draws have a gradient; got discrete "
            "ones, for which 'elbo' is exact in the states"
        )
    found = log_evidence_by_particles(laws, guide.posterior(laws), batch.particles)
    return -(draw.log_prior - draw.log_q) - batch.scale * found.sum()


def _without_each(log_w: Tensor) -> Tensor:
    """The bound with each weight replaced by the geometric mean of the others, (S, N)."""
    draws = len(log_w)
    if draws == 1:
        return torch.zeros_like(log_w)
    others = (log_w.sum(0) - log_w) / (draws - 1)
    total = log_w.logsumexp(0)
    # Sum of the others: by subtraction, except for the largest weight, where that would cancel.
    largest = log_w == log_w.amax(0)
    rest = total + torch.log1p(-(log_w - total).exp().clamp_max(0.75))
    apart = log_w.masked_fill(_first(largest), -torch.inf).logsumexp(0)
    rest = torch.where(_first(largest), apart, rest)
    return torch.logaddexp(rest, others) - math.log(draws)


def _first(flags: Tensor) -> Tensor:
    """Only the first True along axis 0."""
    return flags & (flags.cumsum(0) == 1)


def rws(guide: Guide, batch: Batch) -> Tensor:
    """Reweighted wake-sleep (Bornschein & Bengio 2015).

    The parameters follow the importance-weighted joint (wake); the guide's network follows log q of
    the weighted draws of the data (wake) and of simulations (sleep), half each.
    """
    draw, laws = _draw(guide, batch)
    fixed = _constant(guide, draw, batch.data)
    posterior = guide.posterior(fixed)
    paths = posterior.sample_paths(batch.particles).detach()
    log_q = posterior.path_log_prob(paths)
    log_p = _joint(guide.posterior(laws, learn=False), paths)
    log_w = (log_p - log_q).detach()
    # Impossible draws have weight zero, and 0 · −∞ would be NaN; a sequence with impossible draws
    # only does not contribute.
    told = ~log_w.isneginf()
    weight = torch.where(told, log_w, torch.finfo(log_w.dtype).min).softmax(0) * told
    wake = -torch.where(told, weight * (log_p + 0.5 * log_q), 0).sum()
    sleep = 0.5 * _sleep(guide, draw, batch.data)
    return -(draw.log_prior - draw.log_q) + batch.scale * (wake + sleep)


def forward_kl(guide: Guide, batch: Batch) -> Tensor:
    """The network is trained on simulations of the model, −log q(z|y) for (z, y) ~ p (sleep).

    Unknown parameters follow the ELBO with the network held constant.
    """
    draw, laws = _draw(guide, batch)
    loss = batch.scale * _sleep(guide, draw, batch.data)
    if guide.model.priors:
        bound = guide.posterior(laws, learn=False).elbo().sum()
        loss = loss - (draw.log_prior - draw.log_q) - batch.scale * bound
    return loss


LOSSES: dict[Objective, Loss] = {
    "elbo": elbo,
    "iwae": iwae,
    "fivo": fivo,
    "rws": rws,
    "forward_kl": forward_kl,
}


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(log_w) along ``dim``."""
    size = torch.tensor(float(log_w.shape[dim]), dtype=log_w.dtype)
    return log_w.logsumexp(dim) - size.log()


def _draw(guide: Guide, batch: Batch) -> tuple[ParameterDraw, Any]:
    draw = guide.draw_parameters()
    if batch.noise is not None:
        torch.manual_seed(batch.noise)
    return draw, guide.model.laws(draw.values, batch.data)


def _constant(guide: Guide, draw: ParameterDraw, data: Sequences) -> Any:
    return guide.model.laws({name: v.detach() for name, v in draw.values.items()}, data)


def log_weights(posterior: Posterior, paths: Tensor) -> Tensor:
    """log p(y, z) − log q(z | y) of draws of a posterior, (draws, N) nats.

    Gaussian posteriors have it without densities of the chain, which singular noise has not.
    """
    if isinstance(posterior, Weighed):
        return posterior.log_weights(paths)
    return _joint(posterior, paths) - posterior.path_log_prob(paths)


def _joint(posterior: Posterior, paths: Tensor) -> Tensor:
    return posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths)


def _sleep(guide: Guide, draw: ParameterDraw, data: Sequences) -> Tensor:
    values = {name: v.detach() for name, v in draw.values.items()}
    simulated = guide.model.simulate(values, data)
    laws = guide.model.laws(values, simulated.data)
    return guide.sleep_loss(laws, simulated.states).sum()
