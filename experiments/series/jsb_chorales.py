"""Chorales by J. S. Bach: deep Markov models and hidden Markov models of 88 pitches.

Hidden Markov models whose hundreds of states have a neural transition, and whose evidence is exact,
beside a deep Markov model with a bound, an importance-weighted estimate and its Pareto k̂. All on
the splits of Boulanger-Lewandowski et al. (2012), every pitch, test figures once at the end; what
is chosen is chosen by the validation split.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...inference import (
    BeliefGuide,
    DeepGuide,
    ExactFilter,
    Fit,
    FitSettings,
    TrajectoryNetwork,
    fit,
    log_evidence,
    to_arviz,
    weighted_evidence,
)
from ...inference.guides.particles import particle_filter
from ...models import (
    Bernoulli,
    DeepMarkovModel,
    HiddenMarkovModel,
    NeuralTransition,
    Regression,
    Sequences,
)
from ...models.randomness import seeded
from ..command.report import Outcome
from ..command.seeds import Figures
from ..data.loaders import load_jsb_chorales, load_musedata, load_piano_midi
from .drawings.jsb_chorales import draw
from .parts.pitches import PITCHES, Splits, baselines, cut, simulated

__all__ = ["SMOKE", "Settings", "draw", "run"]

Source = Literal["chorales", "piano-midi", "musedata", "simulated"]
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "chorales": {
        "deep Markov model, bound (Krishnan et al. 2017)": 6.926,
        "deep Markov model, importance-weighted (Krishnan et al. 2017)": 6.388,
        "deep Markov model with extra edges, bound (Krishnan et al. 2017)": 6.773,
        "deep Markov model, bound (Pyro tutorial)": 6.87,
        "STORN, bound (Bayer & Osendorfer 2014)": 6.91,
        "RNN (Boulanger-Lewandowski et al. 2012)": 8.71,
        "RNN-NADE (Boulanger-Lewandowski et al. 2012)": 5.56,
        "temporal sigmoid belief network, bound (Gan et al. 2015)": 7.48,
    },
    "piano-midi": {
        "deep Markov model, bound (Krishnan et al. 2017)": 7.980,
        "deep Markov model, importance-weighted (Krishnan et al. 2017)": 7.835,
    },
    "musedata": {
        "deep Markov model, bound (Krishnan et al. 2017)": 6.989,
        "deep Markov model, importance-weighted (Krishnan et al. 2017)": 6.831,
    },
    "simulated": {},
}
"""Nats per frame on the test split. Bounds, estimates and one-step predictions of networks that see
all earlier frames are different quantities."""

REACH = {"deep": 6.93, "hmm_256_states": 7.4, "hmm_1024_states": 7.0, "autoregressive_hmm": 6.7}
"""Nats per frame to reach on the chorales, fixed before any run."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of weights, minibatches and noise."""
    source: Source = "chorales"
    """The chorales, or one of two larger sets, from the folder BELIEFZOO_DATA; "simulated" are four
    voices that walk at random, for trying out."""
    longest: int = 200
    """Longer training sequences are cut into pieces (none of the chorales is)."""
    members: tuple[str, ...] = (
        "hmm_256_states",
        "hmm_1024_states",
        "autoregressive_hmm",
        "deep",
    )
    """Models that are fitted, of these four."""
    embedding: int = 64
    """Numbers per state of the neural transition."""
    width: int = 128
    """Units of its network."""
    hmm_epochs: int = 40
    """Passes over the training data, at most; the rate falls along a cosine."""
    hmm_rate: float = 1e-2
    """Learning rate of the hidden Markov models."""
    hmm_batch: int = 32
    """Sequences per step of these."""
    lagged_states: int = 256
    """States of the autoregressive model."""
    lag_width: int = 64
    """Units of the network by which the frame before acts on all states alike. A matrix of 88 × 88
    weights for each of 32 states was at 7.8 after nine passes."""
    lag_scale: float = 0.5
    """Prior scale of its weights, in units of 1/√fan-in."""
    states: int = 100
    """Components of the deep model's state, as in the paper."""
    transition_width: int = 200
    """Units of its gate and proposal, as in the paper."""
    emission_width: int = 100
    """Units of its emission's layers, as in the paper."""
    hidden_size: int = 200
    """Units of the network that reads backward; the paper's 600 take twice as long a pass."""
    epochs: int = 1100
    """Passes over the training data."""
    batch: int = 10
    """Sequences per step, half of the paper's: twice the steps in less than twice the time."""
    rate: float = 2e-3
    """Learning rate, seven times that of Pyro's tutorial; it falls along a cosine. 1e-3 and 5e-3
    were slower in short runs."""
    weight_scale: float = 2.0
    """Prior scale of the model's weights in units of 1/√fan-in. With 1 the fit ends in a model that
    has no use for its state (11.0), with 3 validation stays .4 behind training."""
    weight_decay: float = 1.7e-3
    """The same for the network that reads: a prior scale of .2 for each of its weights."""
    dropout: float = 0.1
    """Share of the pitches that the network does not see in training."""
    annealing: int = 400
    """Passes during which the divergence has less weight. With 40 of 700 passes the bound on the
    validation split ended at 7.15, with 300 of 900 below 6.99."""
    patience: int | None = None
    """Evaluations, one every five passes, without a better bound on the validation split before
    stopping; the best one is kept in any case."""
    importance_draws: int = 500
    """Weighted trajectories per test sequence."""
    particles: int = 200
    """Particles per sequence of a filter with the guide for its proposal: the better estimate.
    Whole trajectories of sixty steps and 100 components have too variable weights (k̂ above 1)."""
    export: int = 8
    """Test sequences in posterior.nc."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.members) - set(REACH))
        if unknown or not self.members:
            raise ValueError(f"members: must be some of {sorted(REACH)}, got {self.members}")


SMOKE: Mapping[str, object] = {
    "source": "simulated",
    "members": ("hmm_256_states", "autoregressive_hmm", "deep"),
    "embedding": 3,
    "width": 4,
    "hmm_epochs": 1,
    "lagged_states": 2,
    "lag_width": 3,
    "states": 3,
    "transition_width": 4,
    "emission_width": 5,
    "hidden_size": 6,
    "epochs": 3,
    "annealing": 1,
    "importance_draws": 25,
    "particles": 5,
    "export": 2,
}


def run(settings: Settings) -> Outcome:
    """Fit the members one after the other; figures on the test split at the end."""
    train, valid, test = _splits(settings)
    table: dict[str, Any] = {}
    last: Fit | None = None
    training: dict[str, Any] = {}
    for name in settings.members:
        result = _fit(name, settings, train, valid)
        table[name] = _figures(result, valid, test, settings) | {"reach": REACH[name]}
        print(f"{name}: {_sentence(table[name])}", flush=True)
        training[name] = {
            "step": result.evaluations[:, 0].tolist(),
            "validation_nats_per_frame": (-result.evaluations[:, 1]).tolist(),
        }
        last = result
    assert last is not None  # there is a member
    figures = {
        "nats_per_frame": table,
        "published_nats_per_frame": dict(PUBLISHED[settings.source]),
        "baselines_nats_per_frame": baselines(train, test),
        "training": training,
        "exported": settings.members[-1],
    }
    shown = test[: min(settings.export, len(test))]
    posterior = to_arviz(
        last,
        shown,
        draws=20,
        state_draws=10,
        predictive_draws=4,
        prior_draws=0,
        seed=settings.seed,
    )
    return Outcome(figures, posterior)


def _splits(settings: Settings) -> Splits:
    loaders = {
        "chorales": load_jsb_chorales,
        "piano-midi": load_piano_midi,
        "musedata": load_musedata,
        "simulated": simulated,
    }
    train, valid, test = loaders[settings.source]()
    return cut(train, settings.longest), valid, test


def _fit(name: str, settings: Settings, train: Sequences, valid: Sequences) -> Fit:
    if name == "deep":
        return _fit_deep(settings, train, valid)
    emission: Bernoulli | Regression = Bernoulli(PITCHES)
    states = {"hmm_256_states": 256, "hmm_1024_states": 1024}.get(name, settings.lagged_states)
    if name == "autoregressive_hmm":
        emission = Regression(
            emission, lags=1, weight_scale=settings.lag_scale, width=settings.lag_width
        )
    if settings.source == "simulated":
        states = min(states, 8)
    transition = NeuralTransition(settings.embedding, settings.width)
    model = HiddenMarkovModel(states, emission, transition=transition)
    per_epoch = max(1, len(train) // settings.hmm_batch)
    return fit(
        model,
        BeliefGuide(model, ExactFilter(), parameters="map"),
        train,
        heldout=valid,
        seed=settings.seed,
        settings=FitSettings(
            steps=settings.hmm_epochs * per_epoch,
            batch_size=settings.hmm_batch,
            parameter_learning_rate=settings.hmm_rate,
            start="frames",
            sleep_steps=0,
            evaluate_every=per_epoch,
            patience=6,
        ),
    )


def _fit_deep(settings: Settings, train: Sequences, valid: Sequences) -> Fit:
    model = DeepMarkovModel(
        settings.states,
        Bernoulli(PITCHES),
        transition_width=settings.transition_width,
        emission_width=settings.emission_width,
        weight_scale=settings.weight_scale,
    )
    per_epoch = max(1, len(train) // settings.batch)
    with seeded(settings.seed):  # the network's weights
        guide = DeepGuide(
            model,
            TrajectoryNetwork(settings.hidden_size, dropout=settings.dropout),
            annealing=settings.annealing * per_epoch,
        )
    return fit(
        model,
        guide,
        train,
        heldout=valid,
        seed=settings.seed,
        settings=FitSettings(
            steps=settings.epochs * per_epoch,
            batch_size=settings.batch,
            learning_rate=settings.rate,
            parameter_learning_rate=settings.rate,
            weight_decay=settings.weight_decay,
            sleep_steps=0,
            evaluate_every=5 * per_epoch,
            patience=settings.patience,
        ),
    )


def _figures(result: Fit, valid: Sequences, test: Sequences, settings: Settings) -> dict[str, Any]:
    """Negative bound and evidence in nats per frame, on the splits that are not trained on."""
    figures: dict[str, Any] = {"parameters": _count(result)}
    for name, data in (("validation", valid), ("test", test)):
        if result.model.exact:
            evidence = log_evidence(result.fitted, data)
            one = _per_frame("bound", evidence, data)  # the exact filter's bound is the evidence
            one |= _per_frame("evidence", evidence, data)
        else:
            began = time.monotonic()
            draws = settings.importance_draws
            told = weighted_evidence(result, data, draws=draws, seed=settings.seed)
            one = _per_frame("bound", told.bound, data)
            one |= _per_frame("importance_weighted", told.log_evidence, data)
            k_hat = told.k_hat[told.k_hat.isfinite()]
            one |= {
                "k_hat_reliable_share": told.reliable_share,
                "importance_draws": draws,
                "importance_seconds": time.monotonic() - began,
            }
            if len(k_hat):  # with few draws no tail may have a fit
                one["k_hat_median"] = float(k_hat.median())
            one |= _filtered(result, data, settings)
        figures[name] = one
    how = {"ending": result.ending, "fit_seconds": result.seconds, "steps": len(result.losses)}
    return figures | how


def _filtered(result: Fit, data: Sequences, settings: Settings) -> dict[str, float]:
    """The evidence by a particle filter, a few sequences at a time."""
    began = time.monotonic()
    found = [
        particle_filter(
            result.fitted,
            batch,
            particles=settings.particles,
            proposal=result.guide,
            seed=settings.seed,
        ).log_evidence
        for batch in data.batches(_FILTERED)
    ]
    return _per_frame("particle_filter", torch.cat(found), data) | {
        "particles": settings.particles,
        "particle_filter_seconds": time.monotonic() - began,
    }


_FILTERED = 8
"""Sequences that are filtered at once: all their particles are kept."""


def _count(result: Fit) -> int:
    return sum(prior.event_shape.numel() for prior in result.model.all_priors.values())


def _per_frame(name: str, log_p: Tensor, data: Sequences) -> dict[str, float]:
    """−log p a frame: all frames alike, and all sequences alike."""
    return {
        f"{name}_frame_weighted": -float(log_p.sum()) / data.n_steps,
        f"{name}_per_sequence": -float((log_p / data.lengths).mean()),
    }


def _sentence(row: Figures) -> str:
    test = row["test"]
    best = "evidence" if "evidence_frame_weighted" in test else "particle_filter"
    return (
        f"bound {test['bound_frame_weighted']:.3f} (per sequence "
        f"{test['bound_per_sequence']:.3f}), {best.replace('_', ' ')} "
        f"{test[f'{best}_frame_weighted']:.3f} nats per frame, reach {row['reach']}, "
        f"{row['fit_seconds']:.0f} s"
    )
