"""Belief or bit: does a network feed back a probability or a state.

States ±1 switch with probability ε and are observed as y = μ z + N(0, 1). With m = P(+1) − P(−1) of
the step before, the exact filter is ½ logit P(z_t = +1) = μ y_t + artanh((1 − 2ε) m), which is no
gate; a gate σ(W_h h + W_y y + b) of h = (1 + m) / 2 adds a m instead, a = W_h / 4 (in ½ logit per
unit of m; W_h itself is in logits per unit of h). Two slopes have a meaning. Near m = 0 the filter
has a = 1 − 2ε, W_h = 4 (1 − 2ε): what is fed back is a belief. Between m = −1 and m = +1, where the
state is known, it has a = artanh(1 − 2ε), W_h = 2 log((1 − ε) / ε): what is fed back is a sampled
bit, and the gate is the exact p(z_t | z_{t-1}, y_t).

One logistic unit is trained both ways, as a deterministic filter by its bound and as a guide that
samples its bit; an LSTM is trained as a filter, and the slope of its belief on its own previous
belief is read. Beside them: the best affine recursion, computed on its own, the exact filter and a
recursion with the slope of the bit, both put through the same reading, and an untrained LSTM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize

from ...inference import (
    BeliefGuide,
    ExactFilter,
    LSTMFilter,
    SampledBitGuide,
    SigmoidFilter,
    evidence_gap,
    fit,
)
from ...inference.arviz_groups import Idata
from ...inference.filters.slot import Filter
from ...inference.fitting.objectives import Objective
from ...inference.guides.guide import Guide
from ...models import Sequences
from ...models.beliefs import divergence
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import (
    Figures,
    Repeated,
    against,
    at_least,
    interval,
    over_seeds,
    stream,
    summary,
)
from ..parts.training import Drawn, GradientSteps, Simulated
from .drawings.belief_or_bit import draw
from .parts.reference_filters import AffineFilter
from .parts.two_states import (
    BINS,
    PUBLISHED_AFFINE,
    affine_gap,
    best_affine_slope,
    chain,
    readings,
    slopes,
)

__all__ = ["SMOKE", "Settings", "draw", "run"]

LEAST_TIMES = 4.0
"""The LSTM's KL(filter ‖ belief) must be so many times smaller than the best affine recursion's."""
LEAST_EXCLUDED = 1
"""Each slope's 95 % interval must exclude at least so many of the two readings."""


@dataclass(frozen=True)
class Settings(Drawn, GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    cases: tuple[tuple[float, float], ...] = ((0.1, 1.0), (0.05, 0.5), (0.02, 0.5))
    """Pairs (ε, μ): the two slopes are .8 and 1.10, .9 and 1.47, .96 and 1.95."""
    hidden_size: int = 16
    """Units of the LSTM; its belief is one number. Half as many came just short in a trial."""
    length: int = 100
    """Steps of a sequence: twice the mean time between switches of the slowest chain."""
    training_sequences: int = 20_000
    steps: int = 1500
    """Gradient steps of an LSTM."""
    gate_steps: int = 600
    """Gradient steps of a single unit: it has five numbers to learn."""
    learning_rate: float = 3e-2
    """Adam's for an LSTM, falling along a cosine."""
    gate_learning_rate: float = 0.2
    """The same for a single unit, whose weights have to go as far as 8."""
    near_zero: float = 0.3
    """The LSTM's slope at m = 0 is that of a line through the steps with |m| below this. The exact
    filter, read in the same way, says how much the curve bends there."""
    certain: float = 0.95
    """Its slope between certainties is read from the steps with |m| beyond this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_sequences", "steps", "gate_steps")
        at_least(1, self, "draws")
        for name in ("near_zero", "certain"):
            value = getattr(self, name)
            require(0 < value < 1, name, "must be in (0, 1)", value)
        fits = self.cases and all(0 < e < 0.5 and mu > 0 for e, mu in self.cases)
        require(bool(fits), "cases", "needs pairs with 0 < ε < .5 and μ > 0", self.cases)


SMOKE: Mapping[str, object] = {
    "cases": ((0.1, 1.0),),
    "seeds": 2,
    "hidden_size": 3,
    "length": 20,
    "training_sequences": 64,
    "heldout_sequences": 60,
    "steps": 3,
    "gate_steps": 3,
    "batch_size": 16,
    "draws": 5,
}


class Kind(NamedTuple):
    """A network in a guide, and the objective it is trained by (None: not trained)."""

    guide: type[Guide]
    unit: bool
    objective: Objective | None


KINDS: Mapping[str, Kind] = {
    "deterministic_unit": Kind(BeliefGuide, True, "elbo"),
    "sampled_bit": Kind(SampledBitGuide, True, "forward_kl"),
    "sampled_bit_by_its_bound": Kind(SampledBitGuide, True, "elbo"),
    "lstm": Kind(BeliefGuide, False, "elbo"),
    "untrained_lstm": Kind(BeliefGuide, False, None),
}
"""Forward KL leads the sampled bit to p(z_t | z_{t-1}, y_t); its bound does not have to (I2)."""

READ = ("deterministic_unit", "sampled_bit", "lstm")
"""Whose slopes must tell the two readings apart."""


class Measured(NamedTuple):
    """Figures of one fit, and the curve of its belief on its previous belief."""

    figures: dict[str, float]
    curve: Array
    """Mean of ½ logit P(z_t = +1) − μ y_t by bins of m_{t-1}, (bins,)."""
    filter: Filter


def case_name(epsilon: float, mu: float) -> str:
    """How a case is called in the report."""
    return f"switch_rate_{epsilon:g}_signal_{mu:g}".replace(".", "p")


def heldout(settings: Settings, case: int) -> Sequences:
    """The sequences of a case on which everything is measured."""
    model = chain(*settings.cases[case])
    seed = stream(settings, 0, case)
    return model.sample(settings.heldout_sequences, settings.length, seed=seed).data


def train(settings: Settings, case: int, name: str, number: int) -> Measured:
    """One fit from its own seed, measured on the held-out sequences."""
    seed, kind = stream(settings, 1, case, number), KINDS[name]
    model = chain(*settings.cases[case])
    data = model.sample(settings.training_sequences, settings.length, seed=seed).data
    with seeded(seed):
        network: Filter = SigmoidFilter() if kind.unit else LSTMFilter(settings.hidden_size)
        guide = kind.guide(model, network)
    if kind.objective is None:
        guide.filter.calibrate(model, data)
        return measured(settings, case, guide)
    how = settings.fit_settings()
    if kind.unit:
        unit = {"steps": settings.gate_steps, "learning_rate": settings.gate_learning_rate}
        how = settings.fit_settings(**unit)
    options: dict[str, Any] = {"settings": how, "seed": seed, "progress": False}
    found = fit(model, guide, data, objective=kind.objective, **options)
    return measured(settings, case, found.guide)


def measured(settings: Settings, case: int, guide: Guide) -> Measured:
    """How far a guide is from the filter, and which slope it has."""
    data, (_, mu) = heldout(settings, case), settings.cases[case]
    figures = {"evidence_gap_per_step": evidence_gap(guide, data).gap_per_step}
    with torch.no_grad():
        posterior: Any = guide.posterior(guide.model.laws({}, data))
        log_beliefs = getattr(posterior, "log_beliefs", posterior.mean.clamp_min(1e-12).log())
    exact = ExactFilter()(guide.model.laws({}, data))
    assert isinstance(exact, torch.Tensor)
    figures["kl_filter_per_step"] = float(divergence(exact, log_beliefs).mean())
    half = ((log_beliefs[..., 1] - log_beliefs[..., 0]) / 2).double().numpy()
    added, before = half - mu * data.values[..., 0].double().numpy(), np.tanh(half)
    added, before = added[:, 1:].reshape(-1), before[:, :-1].reshape(-1)
    if isinstance(guide.filter, SigmoidFilter):
        gate = guide.filter.gate
        figures["slope"] = float(gate.node_weight) / 4
        figures["gain"] = float(gate.natural_weight) / (2 * mu)
    else:
        figures |= slopes(before, added, settings.near_zero, settings.certain)
    count, total = (np.histogram(before, BINS, weights=w)[0] for w in (None, added))
    curve = np.where(count > 20, total / np.maximum(count, 1), np.nan)
    return Measured(figures, curve, guide.filter)


# The best affine recursion, in NumPy


def best_affine(settings: Settings, case: int) -> dict[str, float]:
    """The best recursions: by KL with the exact input weight, by the bound with both weights free.

    The second is what a single deterministic unit trained by its bound should find.
    """
    data, (epsilon, mu) = heldout(settings, case), settings.cases[case]
    model = chain(epsilon, mu)
    slope = best_affine_slope(model, data)
    best = measured(settings, case, BeliefGuide(model, AffineFilter(slope))).figures
    y = data.values[..., 0].double().numpy()
    found = minimize(
        lambda x: affine_gap(x[0], x[1], y, epsilon, mu),
        (slope, 1.0),
        method="Nelder-Mead",
        options={"xatol": 1e-3, "fatol": 1e-9},
    )
    out = {
        "slope_by_kl": slope,
        "kl_filter_per_step": best["kl_filter_per_step"],
        "slope_by_bound": float(found.x[0]),
        "gain_by_bound": float(found.x[1]),
        "evidence_gap_per_step": float(found.fun),
    }
    if (epsilon, mu) in PUBLISHED_AFFINE:
        out["kl_filter_per_step_published"] = PUBLISHED_AFFINE[epsilon, mu]
    return out


# The experiment


def run(settings: Settings) -> Outcome:
    """Fit everything, measure everything on the same held-out sequences."""
    cases = range(len(settings.cases))
    plan = [
        (settings, case, name, number)
        for case in cases
        for name in KINDS
        for number in range(settings.seeds)
    ]
    done = over_seeds(train, plan, jobs=settings.jobs)
    fits: dict[tuple[int, str], list[Measured]] = {}
    for (_, case, name, _), one in zip(plan, done, strict=True):
        fits.setdefault((case, name), []).append(one)
    figures: dict[str, Any] = {}
    reach: dict[str, tuple[str, float]] = {}
    controls = []
    with one_thread():
        for case, pair in enumerate(settings.cases):
            controls.append(controls_of(settings, case))
            mine = {name: fits[case, name] for name in KINDS}
            name = case_name(*pair)
            figures[name] = case_figures(settings, case, mine, controls[-1])
            reach[f"{name}.lstm.times_better_than_best_affine"] = (">=", LEAST_TIMES)
            reach |= {f"{name}.{kind}.readings_excluded": (">=", LEAST_EXCLUDED) for kind in READ}
    return Outcome(against(figures, reach), _posterior(settings, fits, controls, figures))


def controls_of(settings: Settings, case: int) -> dict[str, Measured]:
    """The exact filter, and a recursion with the bit's slope, through the same reading."""
    epsilon, mu = settings.cases[case]
    model = chain(epsilon, mu)
    kinds: dict[str, Filter] = {
        "exact_filter": ExactFilter(),
        "recursion_with_the_slope_of_the_bit": AffineFilter(readings(epsilon)["bit"]),
    }
    return {
        name: measured(settings, case, BeliefGuide(model, kind)) for name, kind in kinds.items()
    }


def case_figures(
    settings: Settings,
    case: int,
    fits: Mapping[str, Sequence[Measured]],
    controls: Mapping[str, Measured],
) -> dict[str, object]:
    """Every network, control and baseline of a case."""
    epsilon, _ = settings.cases[case]
    affine = best_affine(settings, case)
    out: dict[str, Any] = {
        "slope_of_a_reading": readings(epsilon),
        "best_affine_recursion": affine,
        **{name: dict(one.figures) for name, one in controls.items()},
    }
    for name, measured_ones in fits.items():
        found: dict[str, Any] = summary([one.figures for one in measured_ones])
        out[name] = found
        if KINDS[name].objective is None:  # its belief hardly moves: no slope to speak of
            for key in [key for key in found if key.startswith("slope")]:
                del found[key]
            continue
        low, high = interval([one.figures["slope"] for one in measured_ones])
        excluded = [read for read, slope in readings(epsilon).items() if not low <= slope <= high]
        found["readings_excluded"] = len(excluded)
        found["reading_excluded"] = " and ".join(excluded) or "none"
        distance = {read: abs(found["slope"] - x) for read, x in readings(epsilon).items()}
        found["nearer_reading"] = min(distance, key=lambda read: distance[read])
        better = affine["kl_filter_per_step"] / found["kl_filter_per_step"]
        found["times_better_than_best_affine"] = better
    return out


def _of_a_case(
    settings: Settings, controls: Sequence[Mapping[str, Measured]], figures: Figures
) -> dict[str, Array]:
    """Arrays of posterior.nc with one number a case: what the fits are drawn beside."""
    affine = [figures[case_name(*pair)]["best_affine_recursion"] for pair in settings.cases]
    kl = np.array([one["kl_filter_per_step"] for one in affine])
    read = [readings(epsilon) for epsilon, _ in settings.cases]
    return {
        "switch_rate": np.array([epsilon for epsilon, _ in settings.cases]),
        "signal": np.array([mu for _, mu in settings.cases]),
        "affine_slope": np.array([one["slope_by_bound"] for one in affine]),
        "affine_kl": kl,
        "kl_to_reach": kl / LEAST_TIMES,
        "slope_of_a_belief": np.array([one["belief"] for one in read]),
        "slope_of_a_bit": np.array([one["bit"] for one in read]),
        **{
            f"slope_{name}": np.array([one[name].figures["slope"] for one in controls])
            for name in controls[0]
        },
    }


def _paths(settings: Settings, case: int, lstm: Filter) -> tuple[npt.NDArray[Any], Array]:
    """Draws of the hidden states of a few sequences from an LSTM's guide, and the sequences."""
    model, few = chain(*settings.cases[case]), heldout(settings, case)[: settings.shown_sequences]
    with seeded(stream(settings, 2, case)), torch.no_grad():
        paths = BeliefGuide(model, lstm).posterior(model.laws({}, few)).sample_paths(settings.draws)
    return (2 * paths - 1).to(torch.int8).numpy(), few.values[..., 0].double().numpy()


def _posterior(
    settings: Settings,
    fits: Mapping[tuple[int, str], list[Measured]],
    controls: Sequence[Mapping[str, Measured]],
    figures: Figures,
) -> Idata:
    """Draws of the hidden states from the first LSTM's guide, and all that is drawn."""
    cases, kinds = range(len(settings.cases)), list(KINDS)
    shown = [_paths(settings, case, fits[case, "lstm"][0].filter) for case in cases]
    of_a_case = _of_a_case(settings, controls, figures)

    def by_fit(name: str) -> Array:
        rows = [[fits[case, kind] for kind in kinds] for case in cases]
        return np.array([[[x.figures.get(name, np.nan) for x in f] for f in r] for r in rows])

    curves = [
        [one.curve for one in (*(fits[case, k][0] for k in kinds), *controls[case].values())]
        for case in cases
    ]
    each, by = ("case", "sequence", "step"), ("case", "network", "fit")
    return record(
        settings,
        {
            "posterior": {"hidden_state": np.stack([drawn for drawn, _ in shown], 1)[None]},
            "observed_data": {"y": np.stack([y for _, y in shown])},
            "constant_data": {
                "slope": by_fit("slope"),
                "kl_filter": by_fit("kl_filter_per_step"),
                "added": np.array(curves),
                **of_a_case,
            },
        },
        dims={
            "hidden_state": each,
            "y": each,
            "slope": by,
            "kl_filter": by,
            "added": ("case", "curve", "belief_before"),
            **dict.fromkeys(of_a_case, ("case",)),
        },
        coords={
            "case": [case_name(*pair) for pair in settings.cases],
            "network": kinds,
            "curve": [*kinds, *controls[0]],
            "belief_before": (BINS[:-1] + BINS[1:]) / 2,
            "step": np.arange(1, settings.length + 1),
        },
    )
