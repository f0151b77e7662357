"""Irregular times: an LSTM that is told the gaps learns how fast to forget.

An Ornstein-Uhlenbeck process is observed with noise at random times. Its filter keeps
e^{−θΔ} (1 − K) of what it believed before: long gaps wash the past out. A recurrent network in a
`BeliefGuide`, told the time since the step before, is measured against it on held-out sequences,
and so is what it keeps of the past; beside it a network that is not told the gaps. At uniform gaps
the process is checked to be a model in discrete time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...inference import BeliefGuide, ExactFilter, evidence_gap, filter, log_evidence
from ...inference.arviz_groups import Idata
from ...inference.filters.recurrent import RecurrentFilter
from ...inference.filters.slot import Filter
from ...models import LinearDynamics, LinearGaussianSSM, OrnsteinUhlenbeck, Sequences, Simulation
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Repeated, against, at_least, each_seed, interval, stream, summary
from ..parts.contenders import Contender
from ..parts.training import GradientSteps, Kept, Simulated, positive
from .drawings.irregular_times import draw

__all__ = ["SMOKE", "Settings", "draw", "run"]

RATE, VARIANCE, NOISE = 0.5, 1.0, 0.5
"""θ, stationary variance, variance of the observation noise."""

REACH = {
    "uniform_gaps.largest_difference": ("<=", 1e-8),
    "lstm_told_the_gaps.unexplained_over_that_of_the_gap_alone_interval_high": ("<=", 0.5),
}
"""What was to be reached, fixed before any run.

Largest difference of filter moments between continuous and discrete time at uniform gaps. Of what
the LSTM told the gaps keeps of its belief: 1 − R² against e^{−θΔ} (1 − K), over all held-out steps,
in units of the 1 − R² of the best function of the gap alone, at the upper end of the 95 % interval
over seeds. Most of what is kept follows from the gap, so a correlation says little.
"""

BY_THE_GAP = "unexplained_by_the_best_function_of_the_gap"
"""Name of a figure: 1 − R²."""

_STEP = 1e-4
"""Of the central differences, in double precision."""


@dataclass(frozen=True)
class Settings(Kept, GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    jobs: int = 2
    heldout_sequences: int = 500
    hidden_size: int = 32
    """Units of every network."""
    training_sequences: int = 5000
    """New ones for every fit; more than the network can learn by heart."""
    length: int = 40
    """Observations a sequence."""
    shortest: float = 0.05
    """Gaps are log-uniform from here, where almost nothing of the belief before is forgotten, its
    share e^{−θΔ} being .98…"""
    longest: float = 8.0
    """…to here, where e^{−θΔ} = .02 of the past is left."""
    steps: int = 2000
    batch_size: int = 100
    learning_rate: float = 1e-2
    draws: int = 200
    """Draws of their hidden states from the LSTM's guide, kept there as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_sequences", "steps", "shown", "draws")
        positive(self, "shortest")
        require(self.longest > self.shortest, "longest", "must be > shortest", self.longest)


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "jobs": 1,
    "hidden_size": 4,
    "training_sequences": 40,
    "heldout_sequences": 20,
    "length": 12,
    "steps": 3,
    "batch_size": 10,
    "shown": 3,
    "draws": 5,
}


METHODS: Mapping[str, Contender] = {
    "lstm_told_the_gaps": Contender("lstm", gaps=True),
    "gru_told_the_gaps": Contender("gru", gaps=True),
    "lstm_not_told_the_gaps": Contender("lstm", gaps=False),
}


class Measured(NamedTuple):
    """A fit and how it did on the held-out sequences."""

    filter: RecurrentFilter
    gap_per_step: float
    """Evidence − ELBO, nats."""
    kl_per_step: float
    """KL(exact filter ‖ belief), nats."""
    unexplained: float
    """1 − R² of what the network keeps against e^{−θΔ} (1 − K), over all steps."""
    correlation: float
    """Of the same."""
    retention: Array
    """What it keeps, (N, T − 1)."""
    gate: float
    """Largest |correlation| of a single forget (or update) gate with e^{−θΔ} (1 − K)."""


# The process


def known_model() -> LinearGaussianSSM:
    """The process at its values."""
    return LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=RATE, mean=0.0, stationary_variance=VARIANCE, observation_variance=NOISE
    )


def simulated(settings: Settings, sequences: int, seed: int) -> Simulation:
    """Sequences at random times."""
    rng = np.random.default_rng(seed)
    low, high = math.log(settings.shortest), math.log(settings.longest)
    gaps = np.exp(rng.uniform(low, high, (sequences, settings.length)))
    return known_model().sample(sequences, settings.length, times=gaps.cumsum(1), seed=seed)


def heldout(settings: Settings) -> Simulation:
    """The sequences on which everything is measured."""
    return simulated(settings, settings.heldout_sequences, stream(settings, 0))


def exact_retention(data: Sequences) -> tuple[Array, Array]:
    """Gaps Δ_t and e^{−θΔ_t} (1 − K_t) of every step but the first, (N, T − 1), and K_t = P_t / R.

    The filtered variance is P_t = K_t R.
    """
    assert data.times is not None
    gaps = data.times.diff(dim=1).numpy()
    gain = filter(known_model(), data).covariance[:, 1:, 0, 0].numpy() / NOISE
    return gaps, np.exp(-RATE * gaps) * (1 - gain)


def retention(network: Filter, data: Sequences) -> Array:
    """(∂m_t / ∂y_{t-1}) / (∂m_{t-1} / ∂y_{t-1}) of every step but the first, (N, T − 1).

    What a belief keeps of the one before: for Kalman's e^{−θΔ} (1 − K). By central differences.
    """
    model, columns = known_model(), []
    for step in range(data.max_length - 1):
        ends = []
        for sign in (1, -1):
            values = data.values.double().clone()
            values[:, step] += sign * _STEP
            moved = Sequences.from_tensors(values, times=data.times)
            with torch.no_grad():
                beliefs: Any = network(model.laws({}, moved))
            ends.append(beliefs.mean[:, step : step + 2, 0].double())
        change = ends[0] - ends[1]
        columns.append((change[:, 1] / change[:, 0]).numpy())
    return np.stack(columns, 1)


# Fits


def _train(settings: Settings, name: str, number: int) -> Measured:
    """One fit from its own seed; fits of one number see the same sequences."""
    seed = stream(settings, 1, number)
    data = simulated(settings, settings.training_sequences, seed).data
    how, size = settings.fit_settings(), settings.hidden_size
    guide = METHODS[name].trained(known_model(), data, how, seed, hidden_size=size)
    return _measured(settings, guide)


def _measured(settings: Settings, guide: Any) -> Measured:
    data, model = heldout(settings).data, known_model()
    gap = evidence_gap(guide, data)
    _, exact = exact_retention(data)
    network: RecurrentFilter = guide.filter.double()
    ours = retention(network, data)
    gates = network.gates(model.laws({}, data))
    gate = gates["f" if "f" in gates else "z"][:, 1:, 0].detach().numpy()
    assert gap.kl_filter is not None  # the guide's belief is causal
    single = [abs(_correlation(gate[..., unit], exact)) for unit in range(gate.shape[-1])]
    return Measured(
        network,
        float((gap.log_evidence - gap.elbo).mean()) / settings.length,
        float(gap.kl_filter.mean()),
        _unexplained(ours, exact),
        _correlation(ours, exact),
        ours,
        max(single),
    )


def _unexplained(ours: Array, exact: Array) -> float:
    """1 − R²: mean square of what is missed by the variance of what was to be found."""
    return float(np.mean((ours - exact) ** 2) / exact.var())


def _correlation(x: Array, y: Array) -> float:
    return float(np.corrcoef(x.reshape(-1), y.reshape(-1))[0, 1])


# The experiment


def run(settings: Settings) -> Outcome:
    """Fit everything, measure everything on the same held-out sequences."""
    found = each_seed(_train, settings, [(name,) for name in METHODS])
    fits = {name: measured for (name,), measured in found.items()}
    floors = _floors(settings)
    figures: dict[str, Any] = {
        "rate": RATE,
        "uniform_gaps": _uniform(settings),
        "floors": floors,
        **{name: _figures(measured, floors[BY_THE_GAP]) for name, measured in fits.items()},
    }
    return Outcome(against(figures, REACH), _posterior(settings, fits))


@one_thread()
def _uniform(settings: Settings) -> dict[str, float]:
    """The process and the autoregression that it is at uniform gaps, on the same sequences."""
    gap = 0.7
    times = gap * torch.arange(settings.length, dtype=torch.float64)
    data = known_model().sample(20, settings.length, times=times, seed=settings.seed).data
    decay = math.exp(-RATE * gap)
    discrete = LinearGaussianSSM(LinearDynamics(1), intercept=False).with_parameters(
        transition=[[decay]],
        process_variance=[VARIANCE * (1 - decay**2)],
        initial_mean=[0.0],
        initial_variance=[VARIANCE],
        loading=[[1.0]],
        observation_variance=NOISE,
    )
    one, other = filter(known_model(), data), filter(discrete, data)
    evidence = log_evidence(known_model(), data) - log_evidence(discrete, data)
    differences = (one.mean - other.mean, one.covariance - other.covariance, evidence)
    return {
        "gap": gap,
        "largest_difference": max(float(x.abs().max()) for x in differences),
        "log_evidence_difference": float(evidence.abs().max()),
    }


@one_thread()
def _floors(settings: Settings) -> dict[str, float]:
    """The exact filter by the same measures, and what the gap alone tells of what it keeps.

    The best function of the gap, means over a hundred bins, is found on other sequences.
    """
    data = heldout(settings).data
    gaps, exact = exact_retention(data)
    measured = retention(ExactFilter(), data)
    gap = evidence_gap(BeliefGuide(known_model(), ExactFilter()), data)
    others, known = exact_retention(
        simulated(settings, settings.heldout_sequences, stream(settings, 3)).data
    )
    order = np.argsort(others.reshape(-1))
    bins = np.array_split(order, min(100, len(order)))
    middle = [others.reshape(-1)[one].mean() for one in bins]
    by_gap = np.interp(gaps, middle, [known.reshape(-1)[one].mean() for one in bins])
    return {
        "exact_filter_retention_error": float(np.abs(measured - exact).max()),
        "exact_filter_gap_per_step": float((gap.log_evidence - gap.elbo).mean()) / settings.length,
        BY_THE_GAP: _unexplained(by_gap, exact),
        "correlation_of_the_best_function_of_the_gap": _correlation(by_gap, exact),
        "evidence_per_step": float(gap.log_evidence.mean()) / settings.length,
    }


def _figures(fits: list[Measured], by_the_gap: float) -> dict[str, Any]:
    out = summary(
        [
            {
                "evidence_gap_per_step": one.gap_per_step,
                "kl_filter_per_step": one.kl_per_step,
                "retention_unexplained": one.unexplained,
                "unexplained_over_that_of_the_gap_alone": one.unexplained / by_the_gap,
                "retention_correlation": one.correlation,
                "best_single_gate_correlation": one.gate,
            }
            for one in fits
        ]
    )
    high = interval([one.unexplained / by_the_gap for one in fits])[1]
    return out | {"unexplained_over_that_of_the_gap_alone_interval_high": high}


def _posterior(settings: Settings, fits: Mapping[str, list[Measured]]) -> Idata:
    """Draws of the hidden states from the first LSTM's guide, and all that is drawn."""
    test = heldout(settings)
    few = test.data[: settings.shown]
    model = known_model()
    belief: dict[str, Tensor] = {}
    for name, measured in fits.items():
        with torch.no_grad():
            found: Any = measured[0].filter(model.laws({}, few))
        belief[f"{name}_mean"] = found.mean[..., 0]
        belief[f"{name}_sd"] = found.variance[..., 0].sqrt()
    guide = BeliefGuide(model, fits["lstm_told_the_gaps"][0].filter)
    with seeded(stream(settings, 2)), torch.no_grad():
        paths = guide.posterior(model.laws({}, few)).sample_paths(settings.draws)
    exact = filter(model, few)
    gaps, kept = exact_retention(test.data)
    assert few.times is not None
    arrays = {
        "gap": gaps,
        "exact_retention": kept,
        "times": few.times.numpy(),
        "exact_mean": exact.mean[..., 0].numpy(),
        "exact_sd": exact.covariance[..., 0, 0].sqrt().numpy(),
        "true_state": test.states[: settings.shown, :, 0].numpy(),
        **{f"{name}_retention": measured[0].retention for name, measured in fits.items()},
        **{name: value.double().numpy() for name, value in belief.items()},
    }
    shown = {"times", "true_state"}
    dims = {
        name: ("sequence", "step")
        if name in shown or name.endswith(("_mean", "_sd"))
        else ("heldout", "later_step")
        for name in arrays
    }
    return record(
        settings,
        {
            "posterior": {"hidden_state": paths[..., 0].numpy()[None]},
            "observed_data": {"y": few.values[..., 0].double().numpy()},
            "constant_data": arrays,
        },
        dims={"hidden_state": ("sequence", "step"), "y": ("sequence", "step"), **dims},
        coords={"step": np.arange(1, settings.length + 1)},
    )
