"""Fits in any unit: do default fits find the largest likelihood, whatever the unit and the offset.

For every family random models are simulated, the values (and times, where there are any) multiplied
by anything between 1e-6 and 1e6 and moved by up to 1e6 standard deviations. A default fit by
maximum likelihood is then compared to the best of many climbs on the standardised data, in
coordinates and from starts of their own. A fit more than a tenth of a nat below has missed; it says
so if it has not converged, or if only one of its starts reached its height.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.cluster.vq import kmeans2
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import constraints

from ...inference import BeliefGuide, ExactFilter, fit
from ...inference.arviz_groups import Idata, group
from ...inference.queries.evidence import log_evidence
from ...models import HiddenMarkovModel, Model, Sequences
from ...models.randomness import seeded
from ..command.report import Outcome, record, write_text
from ..command.seeds import Repeated, at_least, falls_short, over_seeds, stream
from ..parts.random_models import FAMILIES, Array, Random

__all__ = ["SMOKE", "Settings", "draw", "run"]

NEAR = 0.1
"""Nats below the best known maximum from which on a fit has missed it."""

REACH = {"share_found": (">=", 0.98), "silent_misses": ("<=", 0.0)}
"""Of every family; fixed before any run."""

SHARPEST = 5e-2
"""Standard deviation of a state, over that of the data, below which a maximum is one of the
likelihood's poles (a state that owns a few equal values), to which nothing is compared."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    families: tuple[str, ...] = (
        *("gaussian", "poisson", "categorical", "student_t", "mixture", "autoregressive"),
        *("local_level", "trend_and_season", "ornstein_uhlenbeck", "continuous_time"),
    )
    """Hidden Markov models with five emissions, with autoregressive states and in continuous time;
    linear models in discrete and in continuous time."""
    seeds: int = 200
    """Cases of each family: 98 % are told from 95 %."""
    restarts: int = 20
    """Climbs on the standardised data, half from draws of the prior, half from clusters."""
    steps: int = 2000
    """Of such a climb, at most: many times what a smooth function of ten numbers needs."""
    decades: float = 6.0
    """Units are 10 to the power of minus this to this."""
    offset: float = 6.0
    """Offsets are up to 10 to this power standard deviations."""
    climbs: str = ""
    """A folder that keeps where the climbs ended, a file a case: a run that was interrupted, or
    that compares other fits to the same climbs, reads them there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "restarts", "steps")
        at_least(0, self, "decades", "offset")
        if not self.families or not set(self.families) <= set(FAMILIES):
            raise ValueError(f"families: needs some of {list(FAMILIES)}, got {self.families}")


SMOKE: Mapping[str, object] = {
    "families": ("gaussian", "local_level"),
    "seeds": 2,
    "restarts": 2,
    "steps": 15,
}


# --- cases ----------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A model, data in some unit, the same data standardised, and what this adds to log p(y)."""

    model: Model
    data: Sequences
    standard: Sequences
    constant: float


def case(settings: Settings, family: str, number: int) -> Case:
    """A case of a family; the same number gives the same simulation."""
    seed = stream(settings, list(FAMILIES).index(family), number)
    random = np.random.default_rng(seed)
    known = FAMILIES[family](random)
    times = np.cumsum(random.exponential(1.0, known.length) + 1e-3)
    y = known.truth.sample(
        1, known.length, seed=seed, times=times if known.timed else None
    ).data.values[0]
    clock = [_any_unit(random, settings, times)] if known.timed else None
    if family in ("poisson", "categorical"):
        same = Sequences.from_arrays([y.numpy()], codes=family == "categorical")
        return Case(known.model, same, same, 0.0)
    x = _any_unit(random, settings, y[:, 0].double().numpy())
    z, unit = _standardised(x)
    data = Sequences.from_arrays([x], times=clock)
    standard = Sequences.from_arrays([z], times=clock and [_standardised(clock[0])[0]])
    linear = known.model.laws(_drawn(known.model, seed), standard).linear
    free = len(x) - (0 if linear is None else linear.diffuse.shape[-1])  # of a flat first state
    return Case(known.model, data, standard, -free * float(np.log(unit)))


def _drawn(model: Model, seed: int) -> dict[str, Tensor]:
    with seeded(seed):
        return {name: prior.sample().double() for name, prior in model.priors.items()}


def _any_unit(random: Random, settings: Settings, x: Array) -> Array:
    unit = 10.0 ** random.uniform(-settings.decades, settings.decades)
    offset = random.choice([-1, 1]) * 10.0 ** random.uniform(0, settings.offset)
    moved: Array = unit * (x + offset * x.std())
    return moved


def _standardised(x: Array) -> tuple[Array, float]:
    unit = float(x.std())
    return (x - x.mean()) / unit, unit


# --- the best of many climbs ----------------------------------------------------------------------


class Free:
    """Parameters as one unconstrained vector: logits, logarithms, logits of shares, reals."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.supports = {name: _base(prior.support) for name, prior in model.priors.items()}
        self.shapes = {name: prior.event_shape for name, prior in model.priors.items()}

    def values(self, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([shape.numel() for shape in self.shapes.values()])
        out = {}
        for part, (name, shape) in zip(parts, self.shapes.items(), strict=True):
            one, support = part.reshape(shape), self.supports[name]
            if support is constraints.simplex:
                one = one.softmax(-1)
            elif support is constraints.real:
                pass
            else:
                one = one.exp()
            out[name] = one
        return out

    def vector(self, values: Mapping[str, Tensor]) -> Array:
        parts = [
            v if self.supports[n] is constraints.real else v.clamp_min(1e-8).log()
            for n, v in values.items()
        ]
        return torch.cat([part.double().reshape(-1) for part in parts]).numpy()


def _base(support: Any) -> Any:
    """The constraint of a single number or row: a simplex, the reals, or the positive numbers."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def best_known(settings: Settings, one: Case, seed: int) -> list[float]:
    """Where climbs on the standardised data end, nats, but for those at poles of the likelihood."""
    if not settings.climbs:
        return _climbed(settings, one, seed)
    data = np.nan_to_num(one.standard.values.double().numpy()).tobytes()
    key = f"{settings.restarts} {settings.steps} {seed} {one.model!r}".encode()
    path = Path(settings.climbs) / f"{hashlib.sha256(key + data).hexdigest()[:32]}.json"
    if path.exists():
        return [float(height) for height in json.loads(path.read_text())]
    heights = _climbed(settings, one, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(heights))
    return heights


def _climbed(settings: Settings, one: Case, seed: int) -> list[float]:
    model = one.model.scaled_to(one.standard)
    free = Free(model)

    def loss(x: Array) -> tuple[float, Array]:
        point = torch.tensor(x, requires_grad=True)
        try:
            value = -log_evidence(model.laws(free.values(point), one.standard)).sum()
            (slope,) = torch.autograd.grad(value, point)
        except (ValueError, RuntimeError):  # singular at the edge
            return 1e10, np.zeros_like(x)
        if not bool(value.isfinite()) or not bool(slope.isfinite().all()):
            return 1e10, np.zeros_like(x)
        return value.item(), slope.numpy()

    heights = []
    for number in range(settings.restarts):
        start = free.vector(_start(model, one.standard, stream(settings, seed, number), number))
        found = minimize(
            loss,
            start.clip(-18, 18),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-25, 25)] * len(start),
            options={
                "maxiter": settings.steps,
                "maxfun": 3 * settings.steps,
                "maxcor": 20,
                "ftol": 1e-13,
                "gtol": 1e-6,
            },
        )
        height = -float(found.fun)
        if height > -1e9 and not _pole(free.values(torch.tensor(found.x))):
            heights.append(height)
    return heights


def _pole(values: Mapping[str, Tensor]) -> bool:
    return "scale" in values and bool(values["scale"].min() < SHARPEST)


def _start(model: Model, data: Sequences, seed: int, number: int) -> dict[str, Tensor]:
    """A draw from the prior; every second time states lie at the centres of clusters."""
    values = _drawn(model, seed)
    name = "mean" if "mean" in values else "rate" if "rate" in values else ""
    if number % 2 == 0 or name not in ("mean", "rate") or not isinstance(model, HiddenMarkovModel):
        return values
    x = data.values[0].double().numpy()
    size = values[name].numel()
    random = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty cluster
        centres, labels = kmeans2(x, size, minit="points", rng=random)
    values[name] = torch.from_numpy(centres[:, 0].reshape(values[name].shape))
    if name == "rate":
        values[name] = values[name].clamp_min(0.1)
    if "scale" in values:
        spread = [x[labels == k].std() if (labels == k).sum() > 1 else 0.5 for k in range(size)]
        values["scale"] = torch.tensor(spread).reshape(values["scale"].shape).clamp_min(0.05)
    return values


# --- the default fit ------------------------------------------------------------------------------


def compared(settings: Settings, family: str, number: int) -> dict[str, float]:
    """A default fit beside the best that is known; heights in nats of the standardised data."""
    one = case(settings, family, number)
    guide = BeliefGuide(one.model, ExactFilter(), parameters="ml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of states that are hardly ever visited
        began = time.perf_counter()
        result = fit(one.model, guide, one.data, seed=number, progress=False)
        seconds = time.perf_counter() - began
    with torch.no_grad():
        height = float(log_evidence(result.fitted.laws({}, one.data)).sum()) - one.constant
    heights = best_known(settings, one, stream(settings, list(FAMILIES).index(family), number, 1))
    best = max([height, *heights])
    return {
        "missed_by": best - height,
        "converged": float(bool(result.converged)),
        "starts_agreeing": float(result.restarts_agreeing or 0),
        "starts": float(len(result.restart_bounds)),
        "climbs_that_found_it": sum(h > best - NEAR for h in heights) / settings.restarts,
        "seconds": seconds,
    }


def run(settings: Settings) -> Outcome:
    """Fit all cases."""
    plan = [(settings, family, n) for family in settings.families for n in range(settings.seeds)]
    done = iter(over_seeds(compared, plan, jobs=settings.jobs))
    each = {
        family: {name: np.array(values) for name, values in _columns(done, settings.seeds).items()}
        for family in settings.families
    }
    families = {family: figures_of(one) for family, one in each.items()}
    short = [
        f"{family}.{one}" for family, found in families.items() for one in falls_short(found, REACH)
    ]
    figures = {"reach": REACH, "not_reached": short, "families": families}
    names = next(iter(each.values()))
    groups = {
        "runs": {
            name: np.stack([each[family][name] for family in settings.families]) for name in names
        }
    }
    dims = dict.fromkeys(names, ("family", "case"))
    coords = {"family": list(settings.families)}
    return Outcome(figures, record(settings, groups, dims=dims, coords=coords))


def _columns(done: Iterator[Mapping[str, float]], count: int) -> dict[str, list[float]]:
    rows = [next(done) for _ in range(count)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def figures_of(cases: Mapping[str, Array]) -> dict[str, float]:
    """Of one family: what was found, what was missed, and what of that is said.

    Args:
        cases: what ``compared`` returns, (cases,) each.
    """
    missed = cases["missed_by"] > NEAR
    said = (cases["converged"] == 0) | (cases["starts_agreeing"] == 1)
    silent = missed & ~said
    return {
        "share_found": float(1 - missed.mean()),
        "misses": int(missed.sum()),
        "silent_misses": int(silent.sum()),
        "largest_silent_miss": float(cases["missed_by"][silent].max(initial=0.0)),
        "false_alarms": int((said & ~missed).sum()),
        "seconds_median": float(np.median(cases["seconds"])),
        "climbs_that_found_it_median": float(np.median(cases["climbs_that_found_it"])),
    }


# --- what is shown --------------------------------------------------------------------------------


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """How far every fit is below the best that is known, hollow where it says so."""
    found = group(posterior, "runs")
    families = found["family"].values.tolist()
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.45 * len(families)))
    for row, family in enumerate(families):
        cases = {str(name): one.sel(family=family).values for name, one in found.items()}
        said = (cases["converged"] == 0) | (cases["starts_agreeing"] == 1)
        place = row + np.linspace(-0.3, 0.3, len(said))
        miss = cases["missed_by"].clip(1e-8)
        axis.scatter(miss[~said], place[~said], s=14, color="C0", alpha=0.7)
        axis.scatter(miss[said], place[said], s=14, facecolor="none", color="C1")
        share = figures["families"][family]["share_found"]
        axis.text(1.01, row, f"{share:.1%}", transform=axis.get_yaxis_transform(), va="center")
    axis.axvline(NEAR, color="grey", lw=0.8)
    axis.set_xscale("log")
    axis.set_yticks(range(len(families)), [str(one).replace("_", " ") for one in families])
    axis.invert_yaxis()
    axis.set(
        xlabel="nats below the best that is known (at least 1e-8; hollow: the fit says so)",
        title="Default fits, and the share that found the maximum",
    )
    return {"misses": figure}
