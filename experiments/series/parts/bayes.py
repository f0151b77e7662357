"""Full Bayes, as experiments do it: NUTS for reference, guides beside it.

`NutsSettings` and `GuideSettings` are bases of an experiment's `Settings`, as in `training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....inference import FitSettings, NutsFit, nuts
from ....inference.arviz_groups import Idata, convergence
from ....inference.fitting.start import Start
from ....models import Model, Sequences


@dataclass(frozen=True)
class NutsSettings:
    """Settings of the chains."""

    chains: int = 4
    """NUTS chains."""
    warmup: int = 250
    """Warm-up steps of a chain."""
    chain_draws: int = 350
    """Draws kept of a chain; four chains then have some thousand effective ones."""
    jobs: int = 2
    """Fits and chains that run at the same time; no number depends on it."""


@dataclass(frozen=True)
class GuideSettings:
    """Settings of variational fits whose posterior is judged."""

    bayes_steps: int = 1500
    """Gradient steps of a variational fit; where it begins at the mode, 400 of them at most."""
    bayes_particles: int = 2
    """Draws of the parameters per step."""
    draws: int = 1000
    """Draws of a guide that its posterior is judged by."""

    def variational(self, **changes: object) -> FitSettings:
        """Settings of one variational fit, which takes all its steps.

        Args:
            changes: fields of `FitSettings` that differ.
        """
        how: dict[str, Any] = {"steps": self.bayes_steps, "particles": self.bayes_particles}
        return FitSettings(**{**how, "patience": None, **changes})


SMOKE_CHAINS: Mapping[str, object] = {"chains": 2, "warmup": 4, "chain_draws": 15, "jobs": 1}
SMOKE_GUIDES: Mapping[str, object] = {"bayes_steps": 3, "draws": 30}
"""Replacements with which both take seconds."""


def sampled(
    settings: NutsSettings,
    model: Model,
    data: Sequences,
    *,
    seed: int,
    start: Start | Mapping[str, Tensor] = "kmeans",
    target_accept: float = 0.9,
) -> NutsFit:
    """The posterior of all parameters by NUTS; the arguments are those of `nuts`."""
    return nuts(
        model,
        data,
        chains=settings.chains,
        draws=settings.chain_draws,
        warmup=settings.warmup,
        seed=seed,
        jobs=settings.jobs,
        start=start,
        target_accept=target_accept,
    )


def chain_figures(posterior: Idata, chains: NutsFit) -> dict[str, object]:
    """Convergence of the chains, and the time that they took."""
    worst = convergence(posterior)
    return {
        "r_hat_largest": worst.r_hat,
        "ess_bulk_smallest": worst.ess_bulk,
        "ess_tail_smallest": worst.ess_tail,
        "divergences": int(chains.divergences.sum()),
        "seconds": chains.seconds,
    }


def split_r_hat(draws: Tensor) -> float:
    """Largest split R̂ of draws (chains, draws, …) (Gelman et al. 2013, section 11.4)."""
    half = draws.shape[1] // 2
    split = torch.cat([draws[:, :half], draws[:, half : 2 * half]])
    within = split.var(1).mean(0)
    between = split.mean(1).var(0)
    return float((((half - 1) / half * within + between) / within).sqrt().max())


def beside(
    reference: Mapping[str, Tensor], guide: Mapping[str, Tensor], *, correction: int = 1
) -> dict[str, object]:
    """Draws of a guide beside those of NUTS: errors of means in units of its sd, ratios of sds.

    Args:
        reference: by parameter, (chains, draws, …).
        guide: by parameter, (draws, …).
        correction: taken off the number of draws in the standard deviations.
    """
    miss, ratio = {}, {}
    for name, chains in reference.items():
        gold, drawn = chains.flatten(0, 1), guide[name]
        sd = gold.std(0, correction=correction)
        miss[name] = (drawn.mean(0) - gold.mean(0)) / sd
        ratio[name] = drawn.std(0, correction=correction) / sd
    return {
        "mean_error_in_sd_largest": max(float(x.abs().max()) for x in miss.values()),
        "sd_ratio_smallest": min(float(x.min()) for x in ratio.values()),
        "sd_ratio_largest": max(float(x.max()) for x in ratio.values()),
        "mean_error_in_sd": {name: _plain(x) for name, x in miss.items()},
        "sd_ratio": {name: _plain(x) for name, x in ratio.items()},
    }


def _plain(x: Tensor) -> Any:
    """One number, or all in a row."""
    return x.flatten().tolist() if x.ndim else x.item()
