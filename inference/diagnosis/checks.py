"""The checks of a diagnosis, each from one figure and its thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...models import Model, Sequences
from ..arviz_groups import Idata, convergence
from ..checking.evidence_gap import EvidenceGap
from ..checking.importance import Importance
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..queries.answers import smooth
from .belief_calibration import BeliefCalibration
from .pseudo_residuals import PseudoResiduals
from .record import Check, Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

RISE = 1.0, 10.0
"""Nats that the loss of all data still falls by in the last tenth of the steps: passes, look."""

R_HAT = 1.01, 1.05
ESS = 400.0, 100.0
VISITS = 10.0, 1.0
"""Expected steps in the least visited state: passes, look."""

GAP = 0.1, 1.0
"""Nats by which a guide's bound is below the log evidence of a sequence: passes, look."""

P = 0.01, 0.0001
"""p-values, the smallest of several times their number: passes, look."""

MISCALIBRATION = 0.01, 0.05
"""Expected calibration error, which counts if it is no chance: passes, look."""

SENSITIVE = 0.05
"""Sensitivity to a doubling of the prior's power."""

TAIL = 0.005
"""Share of replications beyond the data in one direction: passes above."""

FAR = 5.0
"""Standard deviations of the replications beyond which the data are no accident: fails above."""


def judged(value: float, limits: tuple[float, float], *, high: bool = False) -> Verdict:
    """The verdict on a figure that is good up to the first limit, or from it on if ``high``."""
    first, second = limits
    if math.isnan(value):
        return "look"
    if high:
        return "passes" if value >= first else "look" if value >= second else "fails"
    return "passes" if value <= first else "look" if value <= second else "fails"


def ended(fit: Fit) -> Check:
    """Whether the fit arrived."""
    if fit.converged is not None:
        words = fit.why_ended or "no reason recorded"
        bad: Verdict = "fails" if fit.why_ended == "unbounded" else "look"
        return Check(
            "gradient at the end",
            fit.gradient_norm,
            "passes" if fit.converged else bad,
            f"passes if converged to {fit.settings.tolerance:g} nats",
            "own",
            "" if fit.converged else f"not converged: {words}. {' '.join(fit.warnings)}".strip(),
        )
    total = fit.extent.steps if fit.extent is not None else math.nan
    tenth = max(1, len(fit.losses) // 10)
    before, last = fit.losses[-2 * tenth : -tenth].double(), fit.losses[-tenth:].double()
    rise = float(before.mean() - last.mean()) * total if len(before) else math.nan
    noise = float((before.var() / len(before) + last.var() / len(last)).sqrt()) * total
    verdict = judged(rise, RISE) if not rise < 3 * noise else "passes"
    return Check(
        "gain of the last steps, nats",
        rise,
        verdict,
        f"passes to {RISE[0]:g}, look to {RISE[1]:g}, or within its noise",
        "own",
        "" if verdict == "passes" else "the bound was still rising: more steps, or patience",
    )


def starts(fit: Fit) -> Check | None:
    """Whether several starts reached the best height."""
    agreeing, of = fit.restarts_agreeing, len(fit.restart_bounds)
    if agreeing is None or of < 2:
        return None
    return Check(
        "starts at the best height",
        float(agreeing),
        "passes" if agreeing > 1 else "look",
        f"two of {of} at least",
        "own",
        "" if agreeing > 1 else "one start alone found it: try more restarts",
    )


def chains(result: NutsFit, idata: Idata) -> list[Check]:
    """r̂, effective sample sizes and divergences."""
    found = convergence(idata)
    least = min(found.ess_bulk, found.ess_tail)
    divergent = float(result.divergences.double().mean())
    source = "Vehtari et al. 2021"
    return [
        Check("largest r̂", found.r_hat, judged(found.r_hat, R_HAT), _to(R_HAT), source),
        Check(
            "smallest effective sample size",
            least,
            judged(least, ESS, high=True),
            _from(ESS),
            source,
        ),
        Check(
            "divergent draws, share",
            divergent,
            judged(divergent, (0.0, 0.01)),
            _to((0.0, 0.01)),
            "Betancourt 2018",
            "" if not divergent else "raise target_accept, or reparameterise",
        ),
    ]


def visits(model: Model, data: Sequences) -> Check:
    """Expected steps in the least visited state."""
    with torch.no_grad():
        steps = smooth(model, data).sum((0, 1))
    least = int(steps.argmin())
    value = float(steps[least])
    verdict = judged(value, VISITS, high=True)
    return Check(
        "steps in the rarest state",
        value,
        verdict,
        _from(VISITS),
        "own",
        "" if verdict == "passes" else f"state {least} is hardly used: its numbers say little",
    )


def weights(found: Importance) -> list[Check]:
    """Pareto k̂ of the guide's draws."""
    limits = found.threshold, 1.0
    values = {
        "k̂ of the parameters": found.k_hat_parameters,
        "k̂ with the states": found.k_hat_joint,
    }
    return [
        Check(
            name,
            value,
            judged(value, limits),
            f"passes to {limits[0]:.2f}, look to 1",
            "Vehtari et al. 2024",
            ""
            if value <= limits[0]
            else "the guide's intervals may be too narrow: compare with nuts",
        )
        for name, value in values.items()
    ]


def gap(found: EvidenceGap) -> Check:
    """What the guide's beliefs lose, a sequence."""
    value = found.gap_per_step * found.steps / len(found.lengths)
    verdict = judged(value, GAP)
    return Check(
        "evidence gap, nats a sequence",
        value,
        verdict,
        _to(GAP),
        "own",
        "" if verdict == "passes" else "the guide's states are not the exact ones: gaps() says why",
    )


def residual_checks(found: PseudoResiduals) -> list[Check]:
    """Whether pseudo-residuals are uniform and independent."""
    advice = {
        "uniform": "the one-step predictive law has another shape than the data",
        "independent": "the past tells more than the model uses: more states, or another law",
    }
    out = []
    for name, values in found.tests().items():
        p = _smallest(values)
        verdict = judged(p, P, high=True)
        says = "" if verdict == "passes" else advice[name]
        if math.isnan(p):
            says = "too few residuals to tell"
        out.append(Check(f"residuals {name}, p", p, verdict, _from(P), "Dunn & Smyth 1996", says))
    return out


def prior(table: DataFrame) -> Check:
    """How much the prior says, of the number that it moves most."""
    worst = str(table["prior"].idxmax())
    value, data = float(table.loc[worst, "prior"]), float(table.loc[worst, "likelihood"])
    informed = f"prior and data may contradict each other on {worst}"
    verdict: Verdict = "passes" if value <= SENSITIVE else "look"
    weak = f"the data say little of {worst}, the prior much"
    return Check(
        "largest sensitivity to the prior",
        value,
        verdict,
        f"passes to {SENSITIVE:g}",
        "Kallioinen et al. 2024",
        "" if verdict == "passes" else informed if data > SENSITIVE else weak,
    )


def _smallest(values: Tensor) -> float:
    known = values[~values.isnan()]
    return min(1.0, float(known.min()) * len(known)) if len(known) else math.nan


def calibrated(found: BeliefCalibration) -> Check:
    """Whether states are as frequent as beliefs say."""
    chance = not found.p_value < P[0]
    verdict = "passes" if chance else judged(found.error, MISCALIBRATION)
    return Check(
        "calibration error of beliefs",
        found.error,
        verdict,
        f"{_to(MISCALIBRATION)}, or no more than chance",
        "own",
        "" if verdict == "passes" else "beliefs do not mean what they say: train the guide longer",
    )


def replicated(table: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """Statistics of the data among those of replications, a check each."""
    out = []
    for name, row in table.items():
        tail = row["tail"]
        if np.isnan(tail):
            continue
        near = min(tail, 1 - tail)
        away = abs(row["observed"] - row["mean"]) / row["sd"] if row["sd"] > 0 else math.inf
        bad = near <= 0 and away > FAR
        verdict: Verdict = "passes" if near >= TAIL else "fails" if bad else "look"
        low, high = row["low"], row["high"]
        out.append(
            Check(
                f"replicated {name}, tail",
                tail,
                verdict,
                f"passes from {TAIL:g} to {1 - TAIL:g}, fails {FAR:g} sd away",
                "Rubin 1984",
                ""
                if verdict == "passes"
                else f"data {row['observed']:.4g}, replications {low:.4g} to {high:.4g} (90 %)",
            )
        )
    return out


def _to(limits: tuple[float, float]) -> str:
    return f"passes to {limits[0]:g}, look to {limits[1]:g}"


def _from(limits: tuple[float, float]) -> str:
    return f"passes from {limits[0]:g}, look from {limits[1]:g}"
