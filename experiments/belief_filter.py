"""Belief filter: does a recurrent network become the exact filter of a two-state chain.

States ±1 that switch with probability ε, observed as y = μ z + N(0, 1); the model is known, so all
that is learned is the belief. Networks in a `BeliefGuide` are trained by its bound and by forward
KL, and measured against the exact filter on held-out sequences. Beside them stand the trap of
causal guides without the model's backward kernel, trained by their plain bound; a mean-field guide
that sees the future; the best affine recursion; a network that was not trained; and the exact
filter in the same slot.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from tqdm import tqdm

from ..inference import (
    BeliefGuide,
    ElmanFilter,
    EvidenceGap,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    evidence_gap,
    filter,
    fit,
    smooth,
    update_errors,
)
from ..inference.arviz_groups import Idata, build, group
from ..inference.checking.best_chains import best_mean_field
from ..inference.filters.recurrent import Direction, RecurrentFilter
from ..inference.filters.slot import Filter
from ..inference.fitting.objectives import Objective
from ..inference.guides.guide import Guide
from ..models import HiddenMarkovModel, Laws, Model, Sequences, Simulation
from ..models.randomness import one_thread, seeded
from .command.report import Outcome, versions
from .command.seeds import interval, stream

Array = npt.NDArray[np.float64]
Network = Literal["lstm", "gru", "elman"]
NETWORKS: tuple[Network, ...] = get_args(Network)

REACH = {"kl_filter_per_step": 3e-4, "evidence_gap_per_step": 1e-4}
"""Nats that the LSTM in a BeliefGuide must stay below in every case; fixed before any run."""

EXACT = 1e-9
"""|ELBO − evidence| / |evidence| that the exact filter in the same slot must stay below."""

PUBLISHED_AFFINE = {(0.1, 1.0): 0.0007, (0.05, 0.5): 0.0043, (0.02, 0.5): 0.0152}
"""KL(filter ‖ best affine recursion), nats per step, on longer sequences without their start."""

AFTER_SWITCH = 3
"""A switch of the regime counts as recent on the step it happens and this many more."""

LAGS = 16
"""Steps after a switch that are drawn one by one."""

_BATCH = 500  # sequences whose beliefs are computed at once


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything: simulated sequences, weights, batches."""
    cases: tuple[tuple[float, float], ...] = ((0.1, 1.0), (0.05, 0.5), (0.02, 0.5))
    """Pairs (ε, μ): from a chain that forgets within ten steps to one where weak evidence has to be
    added up over fifty, and an affine recursion falls ever farther behind the filter."""
    seeds: int = 5
    """Fits of each kind, which differ in weights, training sequences and batches."""
    jobs: int = 2
    """Fits at the same time, one thread each. The numbers do not depend on it."""
    hidden_size: int = 16
    """Units of every network; the belief is one number, and 16 units reached it in a trial."""
    length: int = 100
    """Steps of a sequence: twice the mean time between switches of the slowest chain."""
    training_sequences: int = 40_000
    """Two passes over them in the default number of steps: there is nothing to overfit to."""
    heldout_sequences: int = 2000
    """Sequences on which everything is measured, the same for all fits of a case: the standard
    error of a belief's KL is then some hundredths of it."""
    steps: int = 1200
    """Gradient steps of every fit: with them the LSTM is well below the figures to reach, and the
    whole run takes about twenty minutes on two cores."""
    batch_size: int = 64
    """Sequences per step."""
    learning_rate: float = 3e-2
    """Adam's, falling along a cosine. High, but of .005, .01, .02 and .03, tried with other seeds
    and other sequences, it was best for all three networks."""
    gentle_learning_rate: float = 3e-3
    """Where a trained filter is trained on by the plain causal bound: a tenth, so that it is the
    objective that leads away from the filter and no rough first step."""
    sleep_steps: int = 400
    """Forward-KL steps before the bound, for the bidirectional mean-field guide only. Without them
    it ends with one state for the whole sequence where switches are rare, a local optimum with
    five to ten times the gap; all else is trained by its objective alone."""
    comparison_networks: tuple[Network, ...] = ("lstm",)
    """Networks that are also trained by forward KL and in the guides of the trap. With all three
    the run takes twice as long."""
    shown_sequences: int = 20
    """Held-out sequences of each case kept in posterior.nc."""
    draws: int = 200
    """Draws of their hidden states from the LSTM's guide, kept there as well."""

    def __post_init__(self) -> None:
        for name in (
            *("seeds", "hidden_size", "training_sequences", "steps", "batch_size"),
            *("shown_sequences", "draws"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name, least in (("length", 2), ("heldout_sequences", 10), ("sleep_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be >= {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "gentle_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be finite and > 0, got {getattr(self, name)}")
        good = [0 < epsilon <= 0.5 and 0 < mu < math.inf for epsilon, mu in self.cases]
        if not all(good) or len(set(self.cases)) != len(self.cases) or not good:
            raise ValueError(
                f"cases: needs distinct pairs with 0 < ε <= 0.5 and μ > 0, got {self.cases}"
            )


SMOKE: Mapping[str, object] = {
    "cases": ((0.1, 1.0),),
    "seeds": 2,
    "jobs": 1,
    "hidden_size": 4,
    "length": 20,
    "training_sequences": 64,
    "heldout_sequences": 50,
    "steps": 5,
    "sleep_steps": 5,
    "batch_size": 16,
    "shown_sequences": 5,
    "draws": 10,
}


# --- what is fitted -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A network, the guide it drives, and the objective it is trained by (None: not trained)."""

    network: Network
    guide: type[Guide]
    objective: Objective | None
    bidirectional: bool = False
    starts_from: str | None = None
    """Name of the method whose trained network is trained on, gently; None: from fresh weights."""
    sleeps_first: bool = False
    """Whether a phase of forward KL comes before the objective."""


def methods(comparison_networks: Sequence[Network]) -> dict[str, Method]:
    """Every kind of fit, by its name in the report."""
    found = {f"{name}/belief_guide": Method(name, BeliefGuide, "elbo") for name in NETWORKS}
    for name in comparison_networks:
        found |= {
            f"{name}/belief_guide_forward_kl": Method(name, BeliefGuide, "forward_kl"),
            f"{name}/plain_causal_mean_field": Method(name, MeanFieldGuide, "elbo"),
            f"{name}/plain_causal_mean_field_from_filter": Method(
                name, MeanFieldGuide, "elbo", starts_from=f"{name}/belief_guide"
            ),
            f"{name}/plain_causal_forward": Method(name, ForwardGuide, "elbo"),
            f"bidirectional_{name}/mean_field": Method(
                name, MeanFieldGuide, "elbo", bidirectional=True, sleeps_first=True
            ),
        }
    return found | {"baselines/untrained_lstm": Method("lstm", BeliefGuide, None)}


@dataclass(frozen=True)
class Measured:
    """A fit and how it did: nats per step of every held-out sequence, (N,)."""

    filter: Filter
    evidence_gap: Array
    kl_filter: Array | None
    kl_smoother: Array | None
    update_error: Array | None


def chain(epsilon: float, mu: float) -> HiddenMarkovModel:
    """The model of a case; state 0 is −1, state 1 is +1."""
    return HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5],
        transition=[[1 - epsilon, epsilon], [epsilon, 1 - epsilon]],
        mean=[-mu, mu],
        scale=[1.0, 1.0],
    )


def heldout(settings: Settings, case: int) -> Simulation:
    """The sequences of a case on which everything is measured."""
    model = chain(*settings.cases[case])
    return model.sample(settings.heldout_sequences, settings.length, seed=stream(settings, 0, case))


def train(
    settings: Settings, case: int, method: Method, number: int, start: Filter | None
) -> Measured:
    """One fit from its own seed, measured on the held-out sequences.

    Methods share seeds: fits of one number see the same sequences and, of networks of one kind,
    start from the same weights. ``start`` is the trained network that a method with
    ``starts_from`` goes on with.
    """
    seed = stream(settings, 1, case, number)
    model = chain(*settings.cases[case])
    with one_thread():
        data = model.sample(settings.training_sequences, settings.length, seed=seed).data
        with seeded(seed):
            network = copy.deepcopy(start) or _network(settings, method)
            guide = method.guide(model, network)
        if method.objective is None:
            guide.filter.calibrate(model, data)
        else:
            # With two passes over the training sequences there is nothing to stop early for.
            gentle = method.starts_from is not None
            how = FitSettings(
                steps=settings.steps,
                batch_size=settings.batch_size,
                learning_rate=settings.gentle_learning_rate if gentle else settings.learning_rate,
                sleep_steps=settings.sleep_steps if method.sleeps_first else 0,
                holdout=0,
                patience=None,
            )
            result = fit(
                model,
                guide,
                data,
                objective=method.objective,
                settings=how,
                seed=seed,
                progress=False,
            )
            guide = result.guide
        return measure(guide, heldout(settings, case).data)


def _network(settings: Settings, method: Method) -> RecurrentFilter:
    kind = {"lstm": LSTMFilter, "gru": GRUFilter, "elman": ElmanFilter}[method.network]
    direction: Direction = "both" if method.bidirectional else "forward"
    return kind(settings.hidden_size, direction=direction)


# --- how it is measured ---------------------------------------------------------------------------


def measure(guide: Guide, data: Sequences) -> Measured:
    """A guide beside exact inference, in float64; all sequences must be of one length."""
    gap = evidence_gap(guide, data)
    steps = data.max_length
    log_belief = log_beliefs(guide, data)
    causal = guide.filter.causal
    exact = filter(guide.model, data) if causal else smooth(guide.model, data)
    kl = divergence(exact, log_belief).mean(-1).numpy()
    return Measured(
        filter=guide.filter,
        evidence_gap=((gap.log_evidence - gap.elbo) / steps).numpy(),
        kl_filter=kl if causal else None,
        kl_smoother=None if causal else kl,
        update_error=None if gap.update_error is None else gap.update_error.mean(-1).numpy(),
    )


def log_beliefs(guide: Guide, data: Sequences) -> Tensor:
    """What the guide says of z_t at step t, (N, T, K).

    A ``ForwardGuide`` has no belief of its own. Its marginal q(z_t) is taken: its sweep runs
    forward, so with a causal network this depends on y_1 … y_t alone.
    """
    parts = []
    with torch.no_grad():
        for batch in data.batches(_BATCH):
            posterior = guide.posterior(guide.model.laws({}, batch))
            smallest = torch.finfo(posterior.mean.dtype).tiny
            own: Tensor | None = getattr(posterior, "log_beliefs", None)
            parts.append(posterior.mean.clamp_min(smallest).log() if own is None else own)
    return torch.cat(parts)


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) along the last axis, nats; p > 0."""
    return (p * (p.log() - log_q)).sum(-1)


def summary(fits: Sequence[Measured]) -> dict[str, Any]:
    """Figures of one method: mean over its fits, spread over fits, standard error over sequences.

    The fits share their held-out sequences: the standard error is that of the mean over
    sequences of the mean over fits, the interval holds the chance of training.
    """
    figures: dict[str, Any] = {}
    for name in ("kl_filter", "kl_smoother", "evidence_gap", "update_error"):
        fields = [getattr(one, name) for one in fits]
        if fields[0] is None:
            continue
        table = np.stack(fields)
        by_seed = table.mean(1)
        key = f"{name}_per_step"
        figures[key] = float(table.mean())
        figures[f"{key}_standard_error"] = _standard_error(table.mean(0))
        figures[f"{key}_by_seed"] = by_seed.tolist()
        if len(fits) > 1:
            figures[f"{key}_sd"] = float(by_seed.std(ddof=1))
            figures[f"{key}_interval95"] = interval(by_seed.tolist())
    return figures


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size))


@dataclass(frozen=True)
class Profile:
    """Where a network errs, means over held-out sequences, nats."""

    kl_filter_over_time: Array
    update_error_over_time: Array
    update_error_by_surprise: Array
    """In the ten deciles of the surprise −log p(y_t | y_<t)."""
    update_error_since_switch: Array
    """0, 1, … steps after the state changed; NaN for lags that do not occur."""
    update_error_after_switch: float
    update_error_elsewhere: float
    surprise_correlation: float
    """Spearman's, of update error and surprise over all steps."""

    def figures(self) -> dict[str, Any]:
        """What goes into the report; the lags after a switch are drawn only."""
        found = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name != "update_error_since_switch"
        }
        # NaN where no state ever changed, as can be in a handful of short sequences
        return {name: x for name, x in found.items() if isinstance(x, list) or math.isfinite(x)}


def profile(gap: EvidenceGap, test: Simulation) -> Profile:
    """The update error over time, against the surprise of y_t and against switches of the state."""
    assert gap.kl_filter is not None
    errors = update_errors(gap, test.data, states=test.states, lags=LAGS)
    assert errors.since_switch is not None
    recent = list(range(AFTER_SWITCH + 1))
    return Profile(
        kl_filter_over_time=gap.over_time(gap.kl_filter).numpy(),
        update_error_over_time=errors.over_time.mean.numpy(),
        update_error_by_surprise=errors.by_surprise.mean.numpy(),
        update_error_since_switch=errors.since_switch.mean[:LAGS].numpy(),
        update_error_after_switch=errors.since_switch.over(recent),
        update_error_elsewhere=errors.since_switch.over(range(AFTER_SWITCH + 1, LAGS + 2)),
        surprise_correlation=errors.surprise_correlation,
    )


# --- baselines ------------------------------------------------------------------------------------


class AffineFilter(nn.Module):
    """m_t = tanh(½ LLR(y_t) + a m_{t-1}), m_0 = 0: what a gate with weight a on m could do.

    The exact filter has artanh((1 − 2ε) m_{t-1}) in place of a m_{t-1}, with slope 1 − 2ε at m = 0
    and artanh(1 − 2ε) between m = −1 and m = 1.
    """

    causal = True

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def build(self, model: Model) -> None:
        """Nothing to build."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to calibrate."""

    def forward(self, laws: Laws) -> Tensor:
        half_ratio = (laws.log_likelihood[..., 1] - laws.log_likelihood[..., 0]) / 2
        logit = torch.empty_like(half_ratio)
        m = torch.zeros_like(half_ratio[:, 0])
        for t in range(half_ratio.shape[1]):
            logit[:, t] = half_ratio[:, t] + self.slope * m
            m = logit[:, t].tanh()
        # P(z = ±1) = (1 ± m) / 2 = 1 / (1 + exp(∓2 artanh m)), without cancellation
        return nn.functional.logsigmoid(torch.stack([-2 * logit, 2 * logit], -1))


def best_affine_slope(model: HiddenMarkovModel, data: Sequences) -> float:
    """The slope whose KL(filter ‖ affine recursion) is least on these very sequences.

    One number from all their steps: that it was chosen on them flatters the baseline by nothing
    that matters.
    """
    laws = model.laws({}, data)
    exact = filter(model, data)

    def kl(slope: float) -> float:
        return float(divergence(exact, AffineFilter(slope)(laws)).mean())

    return float(minimize_scalar(kl, bounds=(0.0, 5.0), method="bounded").x)


def _baselines(case: tuple[float, float], data: Sequences) -> dict[str, Any]:
    epsilon, _ = case
    model = chain(*case)
    with one_thread():
        slope = best_affine_slope(model, data)
        best = summary([measure(BeliefGuide(model, AffineFilter(slope)), data)])
        steep = summary(
            [measure(BeliefGuide(model, AffineFilter(math.atanh(1 - 2 * epsilon))), data)]
        )
    best = {name: value for name, value in best.items() if not name.endswith("by_seed")}
    if case in PUBLISHED_AFFINE:
        best["kl_filter_per_step_published"] = PUBLISHED_AFFINE[case]
    key = "kl_filter_per_step"
    return {"best_affine": {"slope": slope, **best, f"{key}_slope_at_certainty": steep[key]}}


def _floors(case: tuple[float, float], data: Sequences) -> dict[str, dict[str, float]]:
    """What is left where nothing is learned.

    The exact filter in the network's place: what the same code finds where there is no gap. The
    exact filter in a mean-field guide: why the trap is one, training finds a better bound. And the
    best that any mean-field guide could do.
    """
    model = chain(*case)
    with one_thread():
        gap = evidence_gap(BeliefGuide(model, ExactFilter()), data)
        trap = evidence_gap(MeanFieldGuide(model, ExactFilter()), data)
        best = best_mean_field(model.laws({}, data)).elbo()
    relative = ((gap.elbo - gap.log_evidence) / gap.log_evidence).abs()
    return {
        "exact_filter": {
            "evidence_gap_per_step": gap.gap_per_step,
            "evidence_gap_relative_largest": float(relative.max()),
            "kl_filter_per_step": gap.kl_filter_per_step,
            "update_error_per_step": gap.update_error_per_step,
        },
        "exact_filter_as_mean_field": {"evidence_gap_per_step": trap.gap_per_step},
        "best_mean_field": {
            "evidence_gap_per_step": float((gap.log_evidence - best).sum()) / gap.steps
        },
    }


# --- the experiment -------------------------------------------------------------------------------

Fits = dict[str, list[Measured]]
"""The fits of a case by method, in the order of their seeds."""


def run(settings: Settings) -> Outcome:
    """Fit everything, measure everything on the same held-out sequences."""
    fits = _fit_all(settings)
    figures: dict[str, Any] = {}
    shown = []
    for case, pair in enumerate(settings.cases):
        test = heldout(settings, case)
        baselines = _baselines(pair, test.data)
        profiles: dict[str, Profile] = {
            name: profile(_gap(pair, fits[case][f"{name}/belief_guide"][0], test), test)
            for name in NETWORKS
        }
        floors = _floors(pair, test.data)
        figures[case_name(*pair)] = {
            **_case_figures(fits[case], baselines, floors),
            "where_the_lstm_errs": profiles["lstm"].figures(),
        }
        shown.append(_shown(settings, case, test, fits[case], profiles, baselines, floors))
    figures["reach"] = _reach([figures[case_name(*pair)] for pair in settings.cases])
    return Outcome(figures, _posterior(settings, shown))


def case_name(epsilon: float, mu: float) -> str:
    """How a case is called in the report."""
    return f"eps{epsilon:g}_mu{mu:g}"


def _fit_all(settings: Settings) -> list[Fits]:
    """All fits, side by side; those that start from another's network in a second round."""
    kinds = methods(settings.comparison_networks)
    fits: list[Fits] = [defaultdict(list) for _ in settings.cases]
    for second in (False, True):
        plan = [
            (case, name, number)
            for name, method in kinds.items()
            if (method.starts_from is not None) == second
            for case in range(len(settings.cases))
            for number in range(settings.seeds)
        ]

        def start(case: int, name: str, number: int) -> Filter | None:
            origin = kinds[name].starts_from
            return None if origin is None else fits[case][origin][number].filter

        done = Parallel(n_jobs=settings.jobs, return_as="generator")(
            delayed(train)(settings, case, kinds[name], number, start(case, name, number))
            for case, name, number in plan
        )
        bar = tqdm(done, total=len(plan), unit="fit", disable=None)  # on a terminal only
        for (case, name, _), measured in zip(plan, bar, strict=True):
            fits[case][name].append(measured)
    return fits


def _gap(pair: tuple[float, float], fitted: Measured, test: Simulation) -> EvidenceGap:
    with one_thread():
        return evidence_gap(BeliefGuide(chain(*pair), fitted.filter), test.data)


def _case_figures(
    fits: Fits, baselines: dict[str, Any], floors: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Summaries as network -> method, and how far the trap is from the filter."""
    figures: dict[str, Any] = {"baselines": baselines, "floors": floors}
    for name, measured in fits.items():
        network, method = name.split("/")
        figures.setdefault(network, {})[method] = summary(measured)
    gap, kl = "evidence_gap_per_step", "kl_filter_per_step"
    for name in fits:
        network, method = name.split("/")
        one = figures[network][method]
        if method.startswith("plain_causal"):
            one["times_kl_of_belief_guide"] = one[kl] / figures[network]["belief_guide"][kl]
        # What causality and training cost beyond the family. A forward-structured family could
        # be exact, so there it is all of the gap.
        if "mean_field" in method:
            one["gap_beyond_family_per_step"] = one[gap] - floors["best_mean_field"][gap]
        elif method == "plain_causal_forward":
            one["gap_beyond_family_per_step"] = one[gap]
    return figures


def _reach(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures to reach, beside the worst case and the worst single fit."""
    ours = [case["lstm"]["belief_guide"] for case in cases]
    reach: dict[str, Any] = {}
    for key, bound in REACH.items():
        worst = max(one[key] for one in ours)
        reach[key] = {
            "bound": bound,
            "largest_over_cases": worst,
            "largest_over_fits": max(max(one[f"{key}_by_seed"]) for one in ours),
            "reached": "yes" if worst <= bound else "no",
        }
    exact = max(case["floors"]["exact_filter"]["evidence_gap_relative_largest"] for case in cases)
    reach["exact_filter_gap_relative"] = {
        "bound": EXACT,
        "largest_over_cases": exact,
        "reached": "yes" if exact <= EXACT else "no",
    }
    return reach


# --- posterior.nc ---------------------------------------------------------------------------------


def _shown(
    settings: Settings,
    case: int,
    test: Simulation,
    fits: Fits,
    profiles: Mapping[str, Profile],
    baselines: Mapping[str, Any],
    floors: Mapping[str, Mapping[str, float]],
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one case in posterior.nc, by name; `_DIMS` names their axes."""
    pair = settings.cases[case]
    model = chain(*pair)
    few = test.data[: min(settings.shown_sequences, len(test.data))]
    kinds = methods(settings.comparison_networks)
    beliefs = []
    with one_thread(), seeded(stream(settings, 2, case)):
        for name, method in kinds.items():
            guide = method.guide(model, fits[name][0].filter)
            beliefs.append(log_beliefs(guide, few)[..., 1].exp().numpy())
        lstm = BeliefGuide(model, fits["lstm/belief_guide"][0].filter)
        paths = lstm.posterior(model.laws({}, few)).sample_paths(settings.draws)
    missing = np.full(settings.seeds, np.nan)

    def by_fit(field: str) -> Array:
        values = [[getattr(one, field) for one in fits[name]] for name in kinds]
        return np.stack([missing if v[0] is None else np.stack(v).mean(1) for v in values])

    return {
        "hidden_state": (2 * paths - 1).to(torch.int8).numpy(),
        "y": few.values[..., 0].numpy(),
        "true_state": (2 * test.states[: len(few)] - 1).to(torch.int8).numpy(),
        "exact_filter": filter(model, few)[..., 1].numpy(),
        "exact_smoother": smooth(model, few)[..., 1].numpy(),
        "belief": np.stack(beliefs),
        **{field: by_fit(field) for field in ("kl_filter", "evidence_gap", "update_error")},
        **{
            field: np.stack([getattr(profiles[name], field) for name in NETWORKS])
            for field in _PROFILE_DIMS
        },
        "affine_kl": np.array(baselines["best_affine"]["kl_filter_per_step"]),
        "affine_gap": np.array(baselines["best_affine"]["evidence_gap_per_step"]),
        "mean_field_gap": np.array(floors["best_mean_field"]["evidence_gap_per_step"]),
        "switch_rate": np.array(pair[0]),
        "signal": np.array(pair[1]),
    }


_PROFILE_DIMS = {
    "kl_filter_over_time": ("network", "time"),
    "update_error_over_time": ("network", "time"),
    "update_error_by_surprise": ("network", "decile"),
    "update_error_since_switch": ("network", "lag"),
}
_SERIES = ("sequence", "time")
_DIMS: Mapping[str, tuple[str, ...]] = {
    "hidden_state": _SERIES,
    "y": _SERIES,
    "true_state": _SERIES,
    "exact_filter": _SERIES,
    "exact_smoother": _SERIES,
    "belief": ("approach", *_SERIES),
    "kl_filter": ("approach", "fit"),
    "evidence_gap": ("approach", "fit"),
    "update_error": ("approach", "fit"),
    **_PROFILE_DIMS,
    "affine_kl": (),
    "affine_gap": (),
    "mean_field_gap": (),
    "switch_rate": (),
    "signal": (),
}


def _posterior(settings: Settings, shown: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Idata:
    """Draws of the hidden states from the first LSTM's guide, and all that is drawn.

    The model has no unknown parameters. Beliefs are P(z_t = +1), nats are per step; ``fit`` counts
    the seeds, the beliefs and profiles are those of the first.
    """
    stacked = {name: np.stack([one[name] for one in shown]) for name in _DIMS}
    states = np.moveaxis(stacked.pop("hidden_state"), 1, 0)[None]  # chain, draw, case, …
    return build(
        {
            "posterior": {"hidden_state": states},
            "observed_data": {"y": stacked.pop("y")},
            "constant_data": stacked,
        },
        dims={name: ("case", *dims) for name, dims in _DIMS.items()},
        coords={
            "case": [case_name(*pair) for pair in settings.cases],
            "approach": list(methods(settings.comparison_networks)),
            "network": list(NETWORKS),
            "time": np.arange(1, settings.length + 1),
            "decile": np.arange(1, 11),
        },
        attrs={
            "experiment": "belief-filter",
            "seed": settings.seed,
            "settings": dataclasses.asdict(settings),
            "versions": versions(),
        },
    )


# --- drawings -------------------------------------------------------------------------------------

COLOURS = {"lstm": "tab:red", "gru": "tab:blue", "elman": "tab:green"}


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """The belief over a sequence; the distance of every method; where networks err."""
    return {
        "beliefs": _draw_beliefs(posterior),
        "distances": _draw_distances(posterior),
        "update_errors": _draw_update_errors(posterior),
    }


def _title(posterior: Idata, case: str) -> str:
    known = group(posterior, "constant_data").sel(case=case)
    return f"ε = {float(known['switch_rate']):g}, μ = {float(known['signal']):g}"


def _draw_beliefs(posterior: Idata) -> Figure:
    """One sequence a case: exact filter, LSTM over it, and the trap."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(10, 2.1 * len(cases) + 0.5), sharex=True, squeeze=False
    )
    time = known["time"].values
    for name, axis in zip(cases, axes[:, 0], strict=True):
        here = known.sel(case=name)
        states = here["true_state"].transpose("sequence", "time").values
        switches = (np.diff(states, axis=1) != 0).sum(1)
        typical = float(here["switch_rate"]) * (len(time) - 1)
        chosen = int(np.argmin(np.abs(switches - typical)))
        here = here.isel(sequence=chosen)
        axis.stairs(
            np.where(states[chosen] > 0, 1.04, -0.04),
            np.append(time, time[-1] + 1) - 0.5,
            baseline=-0.04,
            fill=True,
            color="0.9",
            label="hidden state is +1",
        )
        axis.plot(time, here["exact_filter"], color="black", lw=4, alpha=0.35, label="exact filter")
        lines = {
            "lstm/belief_guide": ("tab:red", "-", "LSTM, BeliefGuide"),
            "lstm/plain_causal_forward": ("tab:blue", "--", "LSTM, causal forward guide"),
            "lstm/plain_causal_mean_field": ("tab:purple", ":", "LSTM, causal mean-field"),
        }
        for method, (colour, style, label) in lines.items():
            if method in known["approach"].values:
                belief = here["belief"].sel(approach=method)
                axis.plot(time, belief, style, color=colour, lw=1.2, label=label)
        axis.set(ylim=(-0.04, 1.04), xlim=(0.5, time[-1] + 0.5), ylabel="P(z = +1 | y so far)")
        axis.set_title(_title(posterior, name), loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


_ROWS = {
    "belief_guide": "BeliefGuide",
    "belief_guide_forward_kl": "BeliefGuide, forward KL",
    "plain_causal_mean_field": "causal mean-field",
    "plain_causal_mean_field_from_filter": "causal mean-field, from the filter",
    "plain_causal_forward": "causal forward guide",
    "mean_field": "mean-field",
    "untrained_lstm": "BeliefGuide",
}


def _row(method: str) -> str:
    """A method's name beside its dots."""
    network, kind = method.split("/")
    *before, last = {"baselines": "untrained_lstm"}.get(network, network).split("_")
    return f"{' '.join([*before, _proper(last)])}: {_ROWS[kind]}"


def _draw_distances(posterior: Idata) -> Figure:
    """Every fit a dot: KL to the filter and evidence gap, by method and case."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    names = [str(name) for name in known["approach"].values]
    place = np.arange(len(names))[::-1]
    note: dict[str, Any] = {"color": "0.5", "fontsize": 8, "ha": "center", "va": "center"}
    figure, axes = plt.subplots(
        2,
        len(cases),
        figsize=(3.6 * len(cases) + 2.5, 0.56 * len(names) + 1.8),
        sharey=True,
        sharex="row",
        squeeze=False,
    )
    panels = (
        ("kl_filter", "kl_filter_per_step", "affine_kl", "KL(filter ‖ belief), nats per step"),
        ("evidence_gap", "evidence_gap_per_step", "affine_gap", "evidence − ELBO, nats per step"),
    )
    for row, (field, reach, affine, label) in zip(axes, panels, strict=True):
        for case, axis in zip(cases, row, strict=True):
            here = known.sel(case=case)
            values = here[field].transpose("approach", "fit").values
            colours = ["tab:red" if "/belief_guide" in name else "0.35" for name in names]
            for height, dots, colour in zip(place, values, colours, strict=True):
                axis.plot(dots, np.full(dots.size, height), "o", color=colour, ms=5, alpha=0.55)
                if np.isnan(dots).all():
                    axis.text(
                        0.5, height, "sees the future", **note, transform=axis.get_yaxis_transform()
                    )
            axis.axvline(REACH[reach], color="black", ls="--", lw=1, label="to be reached")
            axis.axvline(
                float(here[affine]), color="tab:blue", ls=":", lw=1.5, label="best affine recursion"
            )
            if field == "evidence_gap":
                free = [h for h, name in zip(place, names, strict=True) if "mean_field" in name]
                floor = np.full(len(free), float(here["mean_field_gap"]))
                axis.plot(floor, free, "k|", ms=11, label="best mean field, sequence by sequence")
            axis.set(xscale="log", xlabel=label)
            axis.set_yticks(place, [_row(name) for name in names])
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
            if field == "kl_filter":
                axis.set_title(_title(posterior, case), fontsize=10)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_update_errors(posterior: Idata) -> Figure:
    """The local update error over time, by surprise and after a switch."""
    known = group(posterior, "constant_data")
    cases = [str(name) for name in known["case"].values]
    columns = (
        ("update_error_over_time", "time", "step"),
        ("update_error_by_surprise", "decile", "decile of surprise −log p(y now | y before)"),
        ("update_error_since_switch", "lag", "steps since the state changed"),
    )
    figure, axes = plt.subplots(
        len(cases),
        3,
        figsize=(11, 2.4 * len(cases) + 0.6),
        sharey="row",
        sharex="col",
        squeeze=False,
    )
    for case, row in zip(cases, axes, strict=True):
        here = known.sel(case=case)
        for axis, (field, dim, label) in zip(row, columns, strict=True):
            for network in (str(name) for name in known["network"].values):
                values = here[field].sel(network=network)
                style = {"marker": "" if dim == "time" else "o", "ms": 3, "lw": 1.2}
                axis.semilogy(
                    known[dim], values, color=COLOURS[network], label=_proper(network), **style
                )
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(color="0.92")
            if case == cases[-1]:
                axis.set_xlabel(label)
        row[0].set_ylabel("update error, nats")
        row[0].set_title(_title(posterior, case), loc="left", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _proper(network: str) -> str:
    return "Elman" if network == "elman" else network.upper()
