"""Kalman gain: an LSTM's memory cell is a Kalman filter, its input gate a signal-to-noise ratio.

A level walks at random and is observed with noise. Kalman's filter keeps 1 − K of what it believed
and adds K of what it sees, m_t = (1 − K_t) m_{t-1} + K_t y_t, with K_t = σ(log(P⁻_t / R_t)): a
memory cell with f = 1 − K and i = K. One unit is trained at four ratios of the noises, its belief's
mean read from its cell. Where observations are missing, or each comes with a noise of its own, the
gain changes from step to step and must be computed: the logit of the input gate is then compared
with the log signal-to-noise ratio.

Networks learn by least squares from simulated levels, whose minimum is the posterior mean; where
the gain is constant the two cells also learn by the ELBO of a `BeliefGuide`, from what is observed
alone, their mean and a learned variance being the belief. The recurrent weights of the standard
cell are decayed: a candidate that reads h_{t-1}, a multiple of c_{t-1} where tanh is linear, can
share the keeping with the forget gate in any proportion, and the gates are known only up to that.
One fit goes without, and shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...inference import construct, filter, sample_states, steady_state
from ...inference.arviz_groups import Idata
from ...inference.filters.recurrences import affine_scan
from ...models import Sequences
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, each_seed, stream, summary
from ..parts.training import GradientSteps, Kept
from .drawings import kalman_gain as drawings
from .parts.descent import descend
from .parts.memory_cells import Elman, LinearCell, NormalBelief, StandardCell
from .parts.walks import Case, elbo, errors, fixed_gain, level_model, settled

Kind = Literal["steady", "missing", "noisy"]

RATIOS: Mapping[str, float] = {
    "ratio_one_hundredth": 0.01,
    "ratio_one_tenth": 0.1,
    "ratio_one": 1.0,
    "ratio_ten": 10.0,
}
"""Q / R, variance of a move by that of an observation, which is 1."""

BY_ELBO = "_by_the_elbo"
CELLS = ("linear_cell", "lstm_of_one_unit", "elman_of_one_unit")
BOUNDED = tuple(f"{cell}{BY_ELBO}" for cell in CELLS[:2])
"""What is trained where the gain is constant, by least squares and by the ELBO."""

FREE, FREE_RATIO = "lstm_of_one_unit_without_decay", "ratio_one"
"""What is trained beside them at one ratio."""

CHANGING = ("linear_cell_with_counting_units", "linear_cell")
"""What is trained where it is not."""

REACH = {
    **{
        f"{ratio}.{cell}{how}.distance_from_gain": ("<=", most)
        for ratio in RATIOS
        for cell, most in zip(CELLS, (0.01, 0.03), strict=False)
        for how in ("", BY_ELBO)
    },
    **{
        f"{ratio}.{cell}.squared_error_over_kalman": ("<=", 1.01)
        for ratio in RATIOS
        for cell in (*CELLS[:2], *BOUNDED)
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
class Settings(Kept, GradientSteps, Repeated):
    """Settings of the experiment."""

    length: int = 40
    """Steps of a sequence: at Q/R = .01 Kalman's filter forgets in ten."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured, the same for all fits."""
    steps: int = 300
    """Gradient steps of a fit where the gain is constant, on new sequences every time…"""
    iterations: int = 250
    """…and iterations of L-BFGS after them, to the bottom of a valley that Adam walks along for
    ever: f + i = 1 matters for the whole level, the gain itself for the last move alone."""
    training_sequences: int = 1000
    """Sequences of these iterations; two dozen weights cannot learn 40 000 steps by heart."""
    recurrent_decay: float = 0.1
    """Weight of the squared recurrent weights in the loss (variances of an observation). At weights
    of zero it costs nothing, and there the exact filter is within reach."""
    changing_steps: int = 3000
    """Gradient steps where the gain changes, and there is more to learn."""
    batch_size: int = 256
    """Sequences per step, new ones every time."""
    learning_rate: float = 1e-2
    changing_learning_rate: float = 3e-2
    """The same where the gain changes."""
    changing_ratio: float = 0.3
    """Q / R where the gain changes: P⁻ then varies by a factor of three or so."""
    missing: float = 0.5
    """Probability that an observation is missing, each by itself."""
    noise_spread: float = 1.0
    """Standard deviation of log R_t about 0, each step by itself."""
    counting_units: int = 8
    """Units that read what is known of the noise, so as to know P⁻; the cell itself cannot."""
    draws: int = 200
    """Draws of their levels from the exact posterior, kept there as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "length", "heldout_sequences", "steps", "counting_units")
        require(0 <= self.missing < 1, "missing", "must be in [0, 1)", self.missing)


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 8,
    "heldout_sequences": 20,
    "steps": 3,
    "iterations": 2,
    "training_sequences": 10,
    "changing_steps": 3,
    "batch_size": 10,
    "counting_units": 2,
    "shown": 3,
    "draws": 5,
}


# Levels and networks


def simulated(settings: Settings, kind: Kind, ratio: float, n: int) -> Case:
    """New sequences; uses torch's global generator."""
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
    return Case(ratio, level, y, seen, noise)


def heldout(settings: Settings, kind: Kind, ratio: float) -> Case:
    """The sequences on which everything is measured."""
    with seeded(stream(settings, 0)):
        return simulated(settings, kind, ratio, settings.heldout_sequences)


def unit(settings: Settings, ratio: float) -> float:
    """Standard deviation of y halfway through a sequence."""
    return math.sqrt(settled(ratio) + ratio * settings.length / 2 + 1)


def inputs(settings: Settings, kind: Kind, case: Case) -> tuple[Tensor, Tensor]:
    """y in its unit (N, T), and log R_t or a flag of what is missing, (N, T, 0 or 1)."""
    y = (case.y / unit(settings, case.ratio)).float()
    known = {"steady": [], "missing": [~case.seen], "noisy": [case.noise.log()]}[kind]
    told = torch.stack(known, -1).float() if known else torch.zeros(*y.shape, 0)
    return y, told


def network(settings: Settings, kind: Kind, name: str) -> nn.Module:
    """A network of this name with new weights."""
    told = 0 if kind == "steady" else 1
    counting = settings.counting_units if name.endswith("counting_units") else 0
    if name.startswith("elman"):
        return Elman(told)
    return LinearCell(told, counting) if name.startswith("linear") else StandardCell(told)


def trained(settings: Settings, kind: Kind, ratio: float, name: str, number: int) -> nn.Module:
    """One network, by least squares or the ELBO on simulations."""
    steps, rate = settings.steps, settings.learning_rate
    if kind != "steady":
        steps, rate = settings.changing_steps, settings.changing_learning_rate
    with seeded(stream(settings, 1, number)):
        model = network(settings, kind, name)
        if name in BOUNDED:
            model = NormalBelief(model)
        decayed = name.startswith("lstm") and name != FREE
        decay = settings.recurrent_decay if decayed else 0.0
        new = partial(simulated, settings, kind, ratio, settings.batch_size)
        losses = (_loss(settings, kind, model, new()) + _decayed(model, decay) for _ in count())
        descend(model, losses, steps=steps, learning_rate=rate)
        if kind == "steady":
            case = simulated(settings, kind, ratio, settings.training_sequences)
            _to_the_bottom(settings, model.double(), case, decay)
    model = model.float()
    return model.cell if isinstance(model, NormalBelief) else model


def _loss(settings: Settings, kind: Kind, model: nn.Module, case: Case) -> Tensor:
    """Mean squared error of the level, in variances of an observation; or −ELBO a step, nats."""
    size, like = unit(settings, case.ratio), next(model.parameters())
    y, told = inputs(settings, kind, case)
    mean: Tensor = model(y.to(like), told.to(like)).mean
    if isinstance(model, NormalBelief):
        seen, variance = case.y.to(like), model.log_variance.exp()
        return -elbo(mean * size, variance, seen, case.ratio).mean() / settings.length
    return (mean - (case.level / size).to(like)).square().mean() * size**2


def _decayed(model: nn.Module, decay: float) -> Tensor:
    """Weighted sum of the squared recurrent weights."""
    named = model.named_parameters()
    back = [weight.square().sum() for name, weight in named if name.endswith("weight_hh_l0")]
    return decay * torch.stack(back).sum() if back else torch.zeros(())


def _to_the_bottom(settings: Settings, model: nn.Module, case: Case, decay: float) -> None:
    """The loss on one set of sequences until nothing moves."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=settings.iterations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = _loss(settings, "steady", model, case) + _decayed(model, decay)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)


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
    read = inputs(settings, kind, case)
    parts = model(*read)
    mean = parts.mean.double() * unit(settings, case.ratio)
    figures = errors(mean, case)
    figures["weights"] = f"{sum(weight.numel() for weight in model.parameters())}"
    if parts.i is None or parts.f is None:
        return Measured(figures, mean.numpy(), None, None)
    i, f = parts.i.double(), parts.f.double()
    # Before the first step there is nothing to forget.
    figures["distance_from_gain"] = float((f - (1 - case.gain))[:, 1:].abs().mean())
    figures["mean_forget_gate"] = float(f[:, 1:].mean())
    if isinstance(model, StandardCell):
        kept = model.retention(*read).double() - (1 - case.gain[:, 1:])
        figures["distance_of_retention_from_gain"] = float(kept.abs().mean())
    if kind != "steady":
        ratio = (case.predicted / case.noise).log()[case.seen].numpy()
        logit = i.clamp(1e-9, 1 - 1e-6).logit()[case.seen].numpy()
        varies = logit.std() > 1e-9
        figures["gate_r_squared"] = float(np.corrcoef(ratio, logit)[0, 1] ** 2) if varies else 0.0
        figures["gate_slope"] = float(np.polyfit(ratio, logit, 1)[0])
    return Measured(figures, mean.numpy(), i.numpy(), f.numpy())


def baselines(settings: Settings, kind: Kind, case: Case) -> dict[str, object]:
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
    plan = [("steady", ratio, cell) for ratio in RATIOS.values() for cell in (*CELLS, *BOUNDED)]
    plan += [("steady", RATIOS[FREE_RATIO], FREE)]
    changing = settings.changing_ratio
    plan += [(kind, changing, cell) for kind in ("missing", "noisy") for cell in CHANGING]
    fits = each_seed(work, settings, plan)
    figures: dict[str, Any] = {}
    for kind, ratio in dict.fromkeys((kind, ratio) for kind, ratio, _ in plan):
        case = heldout(settings, kind, ratio)
        own: dict[str, Any] = baselines(settings, kind, case)
        if kind != "noisy":  # the library's noise is the same for all sequences
            own["constructed"] = _by_the_library(kind, case)
        for (of, at, name), each in fits.items():
            if (of, at) == (kind, ratio):
                own[name] = summary([one.figures for one in each])
        figures[_title(kind, ratio)] = own
    return Outcome(against(figures, REACH), _posterior(settings, fits))


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
        out["gain"] = float(steady_state(model).gain)
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
    return record(
        settings,
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
    )


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Gates beside the gain, input gates beside the signal-to-noise ratio, errors."""
    return {
        "gains": drawings.gains(posterior, figures, RATIOS),
        "signal_to_noise": drawings.ratios(posterior, figures, CHANGING),
        "errors": drawings.errors(figures, RATIOS),
    }
