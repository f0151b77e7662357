"""Kalman gain: an LSTM's memory cell is a Kalman filter, its input gate a signal-to-noise ratio.

A level walks at random and is observed with noise. Kalman's filter keeps 1 − K of what it believed
and adds K of what it sees, m_t = (1 − K_t) m_{t-1} + K_t y_t, with K_t = σ(log(P⁻_t / R_t)): a
memory cell with f = 1 − K and i = K. One unit is trained at four ratios of the noises, its belief's
mean read from its cell. Where observations are missing, or each comes with a noise of its own, the
gain changes from step to step and must be computed: the logit of the input gate is then compared
with the log signal-to-noise ratio.

All networks learn by least squares from simulated levels, whose minimum is the posterior mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ..inference import construct, filter, recurrent_gates, sample_states, steady_state
from ..inference.arviz_groups import Idata, build
from ..inference.recurrences import affine_scan
from ..models import LinearGaussianSSM, LocalLevel, Sequences
from ..models.randomness import one_thread, seeded
from . import drawings_kalman_gain as drawings
from .report import Outcome, versions
from .seeds import falls_short, over_seeds, summary

Array = npt.NDArray[np.float64]
Kind = Literal["steady", "missing", "noisy"]

RATIOS: Mapping[str, float] = {
    "ratio_one_hundredth": 0.01,
    "ratio_one_tenth": 0.1,
    "ratio_one": 1.0,
    "ratio_ten": 10.0,
}
"""Q / R, variance of a move by that of an observation, which is 1."""

CELLS = ("linear_cell", "lstm_of_one_unit", "elman_of_one_unit")
"""What is trained where the gain is constant."""

CHANGING = ("linear_cell_with_counting_units", "lstm_with_counting_units", "linear_cell")
"""What is trained where it is not."""

REACH = {
    **{f"{ratio}.linear_cell.distance_from_gain": ("<=", 0.01) for ratio in RATIOS},
    **{f"{ratio}.lstm_of_one_unit.distance_from_gain": ("<=", 0.03) for ratio in RATIOS},
    **{
        f"{ratio}.{cell}.squared_error_over_kalman": ("<=", 1.01)
        for ratio in RATIOS
        for cell in CELLS[:2]
    },
    **{
        f"{kind}.linear_cell_with_counting_units.gate_r_squared": (">=", 0.99)
        for kind in ("missing_observations", "noise_that_changes")
    },
}
"""What was to be reached, fixed before any run; figures are means over seeds.

Mean |f − (1 − K)|; mean squared error of the level by Kalman's; R² of logit i regressed on
log(P⁻ / R).
"""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything: simulated sequences, weights, batches."""
    seeds: int = 5
    """Fits of each kind, which differ in weights and training sequences."""
    jobs: int = 1
    """Fits at the same time, one thread each. The numbers do not depend on it."""
    length: int = 40
    """Steps of a sequence: at Q/R = .01 Kalman's filter forgets in ten."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured, the same for all fits."""
    steps: int = 1000
    """Gradient steps of a fit where the gain is constant."""
    changing_steps: int = 2000
    """The same where it changes, and there is more to learn."""
    batch_size: int = 128
    """Sequences per step, new ones every time."""
    learning_rate: float = 3e-2
    """Adam's, falling along a cosine."""
    changing_learning_rate: float = 1e-2
    """The same where the gain changes: a network of several units is less forgiving."""
    changing_ratio: float = 0.3
    """Q / R where the gain changes: P⁻ then varies by a factor of three or so."""
    missing: float = 0.5
    """Probability that an observation is missing, each by itself."""
    noise_spread: float = 1.0
    """Standard deviation of log R_t about 0, each step by itself."""
    counting_units: int = 8
    """Units that read what is known of the noise, so as to know P⁻; the cell itself cannot."""
    shown: int = 10
    """Held-out sequences kept in posterior.nc."""
    draws: int = 200
    """Draws of their levels from the exact posterior, kept there as well."""

    def __post_init__(self) -> None:
        for name in ("seeds", "length", "heldout_sequences", "steps", "counting_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"missing: must be in [0, 1), got {self.missing}")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 8,
    "heldout_sequences": 20,
    "steps": 3,
    "changing_steps": 3,
    "batch_size": 10,
    "counting_units": 2,
    "shown": 3,
    "draws": 5,
}


# The level and its filter


class Case(NamedTuple):
    """A random walk with its observations and its Kalman filter, each (N, T) float64."""

    ratio: float
    level: Tensor
    """z_t."""
    y: Tensor
    """Zero where missing."""
    seen: Tensor
    """Whether y_t is there."""
    noise: Tensor
    """R_t."""
    predicted: Tensor
    """P⁻_t."""
    gain: Tensor
    """K_t; zero where y_t is missing."""
    mean: Tensor
    """m_t."""


def stream(settings: Settings, *key: int) -> int:
    """A seed for one purpose, independent of those with another key."""
    return int(np.random.SeedSequence([settings.seed, *key]).generate_state(1)[0])


def settled(ratio: float) -> float:
    """P⁻ of the steady filter at R = 1: (q + √(q² + 4 q)) / 2."""
    return (ratio + math.sqrt(ratio**2 + 4 * ratio)) / 2


def level_model(ratio: float) -> LinearGaussianSSM:
    """The local level at R = 1, begun where its filter has settled."""
    return LinearGaussianSSM(LocalLevel(initial_variance=settled(ratio))).with_parameters(
        level_variance=ratio, observation_variance=1.0
    )


def simulated(settings: Settings, kind: Kind, ratio: float, n: int) -> Case:
    """New sequences and their filter; uses torch's global generator."""
    shape = n, settings.length
    moves = torch.randn(shape, dtype=torch.float64) * math.sqrt(ratio)
    moves[:, 0] *= math.sqrt(settled(ratio) / ratio)
    level = moves.cumsum(1)
    noise, seen = torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)
    if kind == "noisy":
        noise = (settings.noise_spread * torch.randn(shape, dtype=torch.float64)).exp()
    if kind == "missing":
        seen = torch.rand(shape) >= settings.missing
        seen[:, 0] |= ~seen.any(1)  # a sequence shows at least one
    y = (level + noise.sqrt() * torch.randn(shape, dtype=torch.float64)) * seen
    return Case(ratio, level, y, seen, noise, *kalman(ratio, y, seen, noise))


def kalman(ratio: float, y: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P⁻, K and m of every step."""
    before, mean = y.new_full((len(y),), settled(ratio)), y.new_zeros(len(y))
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in range(y.shape[1]):
        gain = seen[:, t] * before / (before + noise[:, t])
        mean = (1 - gain) * mean + gain * y[:, t]
        out.append((before, gain, mean))
        before = (1 - gain) * before + ratio
    predicted, gains, means = (torch.stack(each, 1) for each in zip(*out, strict=True))
    return predicted, gains, means


def heldout(settings: Settings, kind: Kind, ratio: float) -> Case:
    """The sequences on which everything is measured."""
    with seeded(stream(settings, 0)):
        return simulated(settings, kind, ratio, settings.heldout_sequences)


# Networks: all read y in units of its spread, and beside it what is known of its noise


def unit(settings: Settings, ratio: float) -> float:
    """Standard deviation of y halfway through a sequence."""
    return math.sqrt(settled(ratio) + ratio * settings.length / 2 + 1)


def inputs(settings: Settings, kind: Kind, case: Case) -> tuple[Tensor, Tensor]:
    """y in its unit (N, T), and log R_t or a flag of what is missing, (N, T, 0 or 1)."""
    y = (case.y / unit(settings, case.ratio)).float()
    known = {"steady": [], "missing": [~case.seen], "noisy": [case.noise.log()]}[kind]
    told = torch.stack(known, -1).float() if known else torch.zeros(*y.shape, 0)
    return y, told


class Parts(NamedTuple):
    """Mean in units of y, gates i and f, (N, T) each."""

    mean: Tensor
    i: Tensor | None = None
    f: Tensor | None = None


class LinearCell(nn.Module):
    """c_t = f c_{t-1} + i (w y_t + b): a memory cell whose candidate is linear, the mean itself.

    Its gates read what an LSTM's would but for its own output: y, what is known of the noise, and
    the outputs of ``counting`` units of an LSTM that reads the latter alone, since the gain does
    not depend on y. So the cell is an affine recurrence, run for all steps at once.
    """

    def __init__(self, told: int, counting: int) -> None:
        super().__init__()
        self.counting = nn.LSTM(told, counting, batch_first=True) if counting else None
        self.gates = nn.Linear(1 + told + counting, 2)
        self.weight = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean and gates of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        read = [y.unsqueeze(-1), told]
        if self.counting is not None:
            out = self.counting(told)[0]
            read.append(torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], 1))
        i, f = self.gates(torch.cat(read, -1)).sigmoid().unbind(-1)
        return Parts(affine_scan(f, i * (self.weight * y + self.bias)), i, f)


class StandardCell(nn.Module):
    """``torch.nn.LSTM``; the mean is an affine function of the cell of its first unit."""

    def __init__(self, told: int, counting: int) -> None:
        super().__init__()
        self.network = nn.LSTM(1 + told, 1 + counting, batch_first=True)
        self.head = nn.Linear(1, 1)

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean and gates of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        parts = recurrent_gates(self.network, torch.cat([y.unsqueeze(-1), told], -1))
        c, i, f = (parts[name][:, :, 0, :1] for name in "cif")
        return Parts(self.head(c).squeeze(-1), i.squeeze(-1), f.squeeze(-1))


class Elman(nn.Module):
    """``torch.nn.RNN`` of one unit with an affine read-out of the mean."""

    def __init__(self, told: int) -> None:
        super().__init__()
        self.network = nn.RNN(1 + told, 1, batch_first=True)
        self.head = nn.Linear(1, 1)

    def forward(self, y: Tensor, told: Tensor) -> Parts:
        """Mean of y (N, T) and what is known of its noise (N, T, 0 or 1)."""
        out = self.network(torch.cat([y.unsqueeze(-1), told], -1))[0]
        return Parts(self.head(out).squeeze(-1))


def network(settings: Settings, kind: Kind, name: str) -> nn.Module:
    """A network of this name with new weights."""
    told = 0 if kind == "steady" else 1
    counting = settings.counting_units if name.endswith("counting_units") else 0
    if name.startswith("elman"):
        return Elman(told)
    return (LinearCell if name.startswith("linear") else StandardCell)(told, counting)


def trained(settings: Settings, kind: Kind, ratio: float, name: str, number: int) -> nn.Module:
    """One network, by least squares on new simulations at every step."""
    steps, rate = settings.steps, settings.learning_rate
    if kind != "steady":
        steps, rate = settings.changing_steps, settings.changing_learning_rate
    size = unit(settings, ratio)
    with seeded(stream(settings, 1, number)):
        model = network(settings, kind, name)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            case = simulated(settings, kind, ratio, settings.batch_size)
            mean = model(*inputs(settings, kind, case)).mean
            loss = (mean - (case.level / size).float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            fall.step()
    return model


# Measures


class Measured(NamedTuple):
    """A network on held-out sequences."""

    figures: dict[str, Any]
    mean: Array
    i: Array | None
    f: Array | None


def work(settings: Settings, kind: Kind, ratio: float, name: str, number: int) -> Measured:
    """Train one network and measure it."""
    model = trained(settings, kind, ratio, name, number)
    return measured(settings, kind, model, heldout(settings, kind, ratio))


@torch.no_grad()
def measured(settings: Settings, kind: Kind, model: nn.Module, case: Case) -> Measured:
    """How far a network is from the filter, and its gates from the gain."""
    parts = model(*inputs(settings, kind, case))
    mean = parts.mean.double() * unit(settings, case.ratio)
    figures = errors(mean, case)
    figures["weights"] = f"{sum(weight.numel() for weight in model.parameters())}"
    if parts.i is None or parts.f is None:
        return Measured(figures, mean.numpy(), None, None)
    i, f = parts.i.double(), parts.f.double()
    # Before the first step there is nothing to forget.
    figures["distance_from_gain"] = float((f - (1 - case.gain))[:, 1:].abs().mean())
    figures["mean_forget_gate"] = float(f[:, 1:].mean())
    if kind != "steady":
        ratio = (case.predicted / case.noise).log()[case.seen].numpy()
        logit = i.clamp(1e-9, 1 - 1e-6).logit()[case.seen].numpy()
        varies = logit.std() > 1e-9
        figures["gate_r_squared"] = float(np.corrcoef(ratio, logit)[0, 1] ** 2) if varies else 0.0
        figures["gate_slope"] = float(np.polyfit(ratio, logit, 1)[0])
    return Measured(figures, mean.numpy(), i.numpy(), f.numpy())


def errors(mean: Tensor, case: Case) -> dict[str, Any]:
    """Squared error of a mean (N, T) by Kalman's, and the KL of its belief from the filter's.

    The belief has the filter's own variance P = (1 − K) P⁻, so that the KL is (m − m*)² / 2 P.
    """
    best = (case.mean - case.level).square().mean()
    variance = (1 - case.gain) * case.predicted
    return {
        "squared_error_over_kalman": float((mean - case.level).square().mean() / best),
        "kl_filter_per_step": float(((mean - case.mean).square() / (2 * variance)).mean()),
    }


def fixed_gain(case: Case) -> tuple[float, Tensor]:
    """The constant gain of least squared error on these sequences, and its means."""

    def means(gain: float) -> Tensor:
        share = gain * case.seen.double()
        return affine_scan(1 - share, share * case.y)

    found = minimize_scalar(
        lambda gain: float((means(gain) - case.level).square().mean()),
        bounds=(0, 1),
        method="bounded",
    )
    return float(found.x), means(float(found.x))


def baselines(settings: Settings, kind: Kind, case: Case) -> dict[str, Any]:
    """Kalman's own error, the best constant gain, the last observation, an untrained network."""
    gain, means = fixed_gain(case)
    with seeded(stream(settings, 2)):
        untrained = network(settings, kind, "lstm_of_one_unit")
    last = affine_scan(1 - case.seen.double(), case.y)
    return {
        "kalman": {"squared_error": float((case.mean - case.level).square().mean())},
        "best_fixed_gain": {**errors(means, case), "gain": gain},
        "last_observation": errors(last, case),
        "untrained_lstm_of_one_unit": measured(settings, kind, untrained, case).figures,
    }


# The experiment


@one_thread()
def run(settings: Settings) -> Outcome:
    """Train everything, measure everything on the same held-out sequences."""
    plan: list[tuple[Kind, float, str]]
    plan = [("steady", ratio, cell) for ratio in RATIOS.values() for cell in CELLS]
    changing = settings.changing_ratio
    plan += [(kind, changing, cell) for kind in ("missing", "noisy") for cell in CHANGING]
    jobs = [(settings, *one, number) for one in plan for number in range(settings.seeds)]
    done = iter(over_seeds(work, jobs, jobs=settings.jobs))
    fits = {one: [next(done) for _ in range(settings.seeds)] for one in plan}
    figures: dict[str, Any] = {"reach": {path: list(bound) for path, bound in REACH.items()}}
    for kind, ratio in dict.fromkeys((kind, ratio) for kind, ratio, _ in plan):
        case = heldout(settings, kind, ratio)
        own: dict[str, Any] = baselines(settings, kind, case)
        if kind != "noisy":  # the library's noise is the same for all sequences
            own["constructed"] = _by_the_library(kind, case)
        for (of, at, name), each in fits.items():
            if (of, at) == (kind, ratio):
                own[name] = summary([one.figures for one in each])
        figures[_title(kind, ratio)] = own
    figures["not_reached"] = falls_short(figures, REACH)
    return Outcome(figures, _posterior(settings, fits))


def _title(kind: Kind, ratio: float) -> str:
    if kind != "steady":
        return {"missing": "missing_observations", "noisy": "noise_that_changes"}[kind]
    return next(name for name, value in RATIOS.items() if value == ratio)


def _by_the_library(kind: Kind, case: Case) -> dict[str, float]:
    """The library's Kalman filter on the same sequences, and the network that it writes."""
    model = level_model(case.ratio)
    values = torch.where(case.seen, case.y, torch.nan).unsqueeze(-1)
    data = Sequences.from_array(values.numpy())
    found = filter(model, data).mean[..., 0]
    out = {"library_filter_largest_difference": float((found - case.mean).abs().max())}
    if kind == "steady":
        out["largest_error"] = float((construct(model).mean(data) - case.mean).abs().max())
        steady = float(steady_state(model).gain)
        out["gain"] = steady
    return out


def _posterior(settings: Settings, fits: Mapping[tuple[Kind, float, str], list[Measured]]) -> Idata:
    """Draws of the level from the exact posterior, and all that is drawn, of the first seed."""
    shown, arrays = settings.shown, {}
    case = heldout(settings, "missing", settings.changing_ratio)
    values = torch.where(case.seen, case.y, torch.nan).unsqueeze(-1)[:shown]
    data = Sequences.from_array(values.numpy())
    model = level_model(case.ratio)
    paths = sample_states(model, data, settings.draws, seed=stream(settings, 3))
    for kind, ratio in dict.fromkeys((kind, ratio) for kind, ratio, _ in fits):
        case, title = heldout(settings, kind, ratio), _title(kind, ratio)
        for name in ("level", "y", "seen", "noise", "predicted", "gain", "mean"):
            arrays[f"{title}_exact_{name}"] = getattr(case, name).double().numpy()
    for (kind, ratio, name), each in fits.items():
        for part in ("mean", "i", "f"):
            if getattr(each[0], part) is not None:
                arrays[f"{_title(kind, ratio)}_{name}_{part}"] = getattr(each[0], part)
    return build(
        {
            "posterior": {"level": paths[..., 0].numpy()[None]},
            "observed_data": {"y": values[..., 0].numpy()},
            "constant_data": arrays,
        },
        dims={
            **dict.fromkeys(arrays, ("heldout", "step")),
            "level": ("sequence", "step"),
            "y": ("sequence", "step"),
        },
        coords={"step": np.arange(1, settings.length + 1)},
        attrs={
            "experiment": "kalman-gain",
            "seed": settings.seed,
            "settings": dataclasses.asdict(settings),
            "versions": versions(),
        },
    )


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Gates beside the gain, input gates beside the signal-to-noise ratio, errors."""
    return {
        "gains": drawings.gains(posterior, figures, RATIOS),
        "signal_to_noise": drawings.ratios(posterior, figures, CHANGING),
        "errors": drawings.errors(figures, RATIOS),
    }
