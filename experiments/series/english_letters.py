"""English letters: a two-state HMM and its LSTM guide find the vowels.

A hidden Markov model with two states reads English text letter by letter, knowing nothing of
spelling. Fitted together with an LSTM that must produce the belief, it separates vowels (and the
space) from consonants, and the LSTM becomes the model's exact filter while the model is learned.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import (
    BeliefGuide,
    Fit,
    FitSettings,
    LSTMFilter,
    evidence_gap,
    fit,
    log_evidence,
    to_arviz,
)
from ...inference.arviz_groups import Idata, group
from ...models import Categorical, HiddenMarkovModel, Sequences
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome
from ..command.seeds import Figures
from ..parts.text_windows import held_apart

VOWELS = "aeiou"
CONSONANTS = "bcdfghjklmnpqrstvwxz"  # y is neither
CONSONANT_SHARE = 0.8  # of the consonants that must be on the other side; fixed in advance


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of the split, the starts, the batches and the noise."""
    replicates: int = 1
    """Fits with seeds seed, seed + 1, …; the first is drawn. 10 for the claim on seeds."""
    jobs: int = 1
    """Replicates fitted at the same time."""
    source: Literal["pydoc", "shakespeare"] = "pydoc"
    """The text: Python's own help topics, on every machine; or 100 000 letters of Shakespeare from
    $BELIEFZOO_DATA."""
    length: int = 100
    """Characters per sequence: long enough to forget the start, short enough to batch."""
    sequences: int = 1200
    """Training sequences; 120 000 letters determine the 54 parameters to about 1 %."""
    heldout: int = 250
    """Held-out sequences: 25 000 letters, on which all figures are computed. Those for training
    share no run of 16 letters with them, which more than half of the text does."""
    hidden_size: int = 32
    """Units of the LSTM. The belief is one number; 32 units leave room to learn it fast."""
    steps: int = 800
    """Gradient steps of model and LSTM together; the bound is flat well before."""
    batch_size: int = 64
    """Sequences per step."""
    restarts: int = 4
    """Random starts tried with the exact filter before; two of three single starts end in a local
    optimum some .09 nats/char below."""
    restart_steps: int = 150
    """Steps per start: enough to tell the optima apart."""
    start: Literal["prior", "kmeans"] = "prior"
    """Starts drawn from the prior know nothing of the data; "kmeans" clusters the letters by their
    neighbours and finds the vowels before the fit begins."""
    draws: int = 200
    """Posterior draws in posterior.nc."""


SMOKE: Mapping[str, object] = {
    "sequences": 60,
    "heldout": 20,
    "length": 40,
    "steps": 10,
    "restarts": 2,
    "restart_steps": 3,
    "draws": 10,
    "hidden_size": 8,
    "replicates": 2,
}


@one_thread()
def run(settings: Settings) -> Outcome:
    """Fit every replicate; compare each with exact inference on the held-out text."""
    train, heldout = _text(settings)
    jobs = Parallel(n_jobs=settings.jobs)
    done = jobs(
        delayed(_replicate)(settings, settings.seed + number, train, heldout, number == 0)
        for number in range(settings.replicates)
    )
    first, climb, _ = done[0]
    each = [one for _, _, one in done]
    gaps = [figures["evidence_gap_per_char"] for figures in each]
    found = [figures["vowel_solution"] for figures in each]
    figures = {
        "evidence_gap_per_char": float(np.mean(gaps)),
        "evidence_gap_per_char_largest": float(np.max(gaps)),
        "vowel_solution": f"{round(sum(found))} of {len(found)} seeds",
        "vowel_solution_share": float(np.mean(found)),
        "reach": {"evidence_gap_per_char": 1e-4, "vowel_solution_share": 0.9},
        "by_seed": {f"seed{settings.seed + n}": one for n, one in enumerate(each)},
        "baselines": _baselines(train, heldout),
        "training": climb,
    }
    posterior = to_arviz(
        first, heldout[: min(100, len(heldout))], draws=settings.draws, seed=settings.seed
    )
    return Outcome(figures, posterior)


def _text(settings: Settings) -> tuple[Sequences, Sequences]:
    others, heldout = held_apart(settings.length, settings.heldout, source=settings.source, seed=0)
    (train,) = others.split([settings.sequences], seed=0)
    return train, heldout


@one_thread()  # also where replicates run in processes of their own
def _replicate(
    settings: Settings, seed: int, train: Sequences, heldout: Sequences, show: bool
) -> tuple[Fit | None, dict[str, list[float]], dict[str, Any]]:
    model = HiddenMarkovModel(2, Categorical(_symbols(train)))
    with seeded(seed):  # the network's weights
        guide = BeliefGuide(model, LSTMFilter(settings.hidden_size))
    watched = heldout[:200]
    climb: dict[str, list[float]] = {"step": [], "evidence_per_char": [], "elbo_per_char": []}

    def watch(step: int, now: Any) -> None:
        gap = evidence_gap(now, watched)
        climb["step"].append(float(step))
        climb["evidence_per_char"].append(gap.evidence_per_step)
        climb["elbo_per_char"].append(gap.elbo_per_step)

    began = time.monotonic()
    result = fit(
        model,
        guide,
        train,
        settings=FitSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            start=settings.start,
            restarts=settings.restarts,
            restart_steps=settings.restart_steps,
            patience=None,
            evaluate_every=25,
        ),
        seed=seed,
        progress=show,
        callback=watch if show else None,
    )
    gap = evidence_gap(result, heldout)
    figures = {
        "evidence_gap_per_char": gap.gap_per_step,
        "evidence_gap_standard_error": gap.gap_standard_error,
        "kl_filter_per_char": gap.kl_filter_per_step,
        "update_error_per_char": gap.update_error_per_step,
        "evidence_per_char": gap.evidence_per_step,
        "elbo_per_char": gap.elbo_per_step,
        "vowel_solution": float(is_vowel_solution(result.fitted.known["probs"])),
        "fit_seconds": time.monotonic() - began,
        "restart_bounds_per_char": result.restart_bounds.tolist(),
    }
    return (result if show else None), climb, figures


def _symbols(data: Sequences) -> int:
    assert data.symbols is not None
    return len(data.symbols)


def is_vowel_solution(probs: torch.Tensor) -> bool:
    """One state emits every vowel more than the other does, which emits most consonants more."""
    letters = "_abcdefghijklmnopqrstuvwxyz"
    more = probs[0] > probs[1]
    vowels = {bool(more[letters.index(v)]) for v in VOWELS}
    if len(vowels) > 1:
        return False
    side = vowels.pop()
    others = sum(bool(more[letters.index(c)]) != side for c in CONSONANTS)
    return others >= CONSONANT_SHARE * len(CONSONANTS)


def _baselines(train: Sequences, heldout: Sequences) -> dict[str, float]:
    """Log probability per character of letters drawn independently, and of letter pairs."""
    size = _symbols(train)
    counts = torch.bincount(train.codes().flatten(), minlength=size).double() + 0.5
    single = (counts / counts.sum()).log()
    pairs = torch.zeros(size, size, dtype=torch.float64) + 0.5
    before, after = train.codes()[:, :-1].flatten(), train.codes()[:, 1:].flatten()
    pairs.index_put_((before, after), torch.ones(len(before)).double(), accumulate=True)
    chain = (pairs / pairs.sum(-1, keepdim=True)).log()
    y = heldout.codes()
    markov = single[y[:, 0]].sum() + chain[y[:, :-1], y[:, 1:]].sum()
    one_state = HiddenMarkovModel(1, Categorical(size)).with_parameters(probs=single.exp()[None])
    return {
        "one_state_per_char": float(log_evidence(one_state, heldout).sum()) / heldout.n_steps,
        "letter_pairs_per_char": float(markov) / heldout.n_steps,
    }


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Letters of each state, the belief along a sentence, the bound on its way to the evidence."""
    return {
        "letters": _draw_letters(posterior),
        "belief": _draw_belief(posterior),
        "training": _draw_training(figures["training"], figures["baselines"]),
    }


def _draw_letters(posterior: Idata) -> Figure:
    probs = group(posterior, "posterior")["probs"].stack(sample=("chain", "draw"))
    mean = probs.mean("sample").transpose("state", "symbol").values
    low, high = np.quantile(probs.transpose("state", "symbol", "sample").values, (0.05, 0.95), -1)
    symbols = [str(s) for s in probs["symbol"].values]
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, sharey=True)
    names = _names(mean, symbols)
    for state, axis in enumerate(axes):
        shade = [
            "tab:orange" if s in VOWELS else "tab:grey" if s in "_y" else "tab:blue"
            for s in symbols
        ]
        spread = np.abs(np.stack([low[state], high[state]]) - mean[state])
        axis.bar(symbols, mean[state], color=shade, yerr=spread, error_kw={"lw": 0.8})
        axis.set_ylabel(f"p(letter | {names[state]})")
    axes[0].set_title(
        "What each state emits (orange: vowels, blue: consonants; bars: 90 % interval)"
    )
    return figure


def _names(probs: npt.NDArray[np.float64], symbols: list[str]) -> list[str]:
    """The two states by what they emit more of than the other, of p(letter | state)."""
    share = probs[:, [s in VOWELS for s in symbols]].sum(1)
    return ["vowels", "consonants"] if share[0] > share[1] else ["consonants", "vowels"]


def _draw_belief(posterior: Idata, letters: int = 70) -> Figure:
    states = group(posterior, "posterior_states")
    exact = states["filtered_probability"].isel(sequence=0).transpose("time", "state").values
    guide = states["guide_belief"].isel(sequence=0).transpose("time", "state").values
    codes = group(posterior, "observed_data")["obs"].isel(sequence=0).values.astype(int)
    symbols = [str(s) for s in group(posterior, "posterior")["symbol"].values]
    emitted = group(posterior, "posterior")["probs"].mean(("chain", "draw"))
    names = _names(emitted.transpose("state", "symbol").values, symbols)
    letters = min(letters, len(codes))
    place = np.arange(letters)
    figure, axis = plt.subplots(figsize=(10, 2.8))
    axis.plot(place, exact[:letters, 1], color="black", lw=3, alpha=0.35, label="exact filter")
    axis.plot(place, guide[:letters, 1], "o-", color="tab:red", ms=3, lw=0.9, label="LSTM")
    axis.set_xticks(place, [symbols[code] for code in codes[:letters]])
    axis.set(ylim=(-0.03, 1.03), ylabel=f"p({names[1]} | letters so far)")
    axis.legend(loc="upper right", ncols=2, bbox_to_anchor=(1, 1.18), frameon=False)
    axis.set_title("The belief along a held-out sentence", loc="left")
    return figure


def _draw_training(training: Figures, baselines: Mapping[str, float]) -> Figure:
    step = np.asarray(training["step"])
    evidence, bound = (np.asarray(training[k]) for k in ("evidence_per_char", "elbo_per_char"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    left.plot(step, evidence, color="black", lw=3, alpha=0.35, label="evidence (exact)")
    left.plot(step, bound, color="tab:red", lw=1, label="ELBO of the LSTM guide")
    left.axhline(baselines["one_state_per_char"], color="grey", ls=":", label="one state")
    left.set(xlabel="step", ylabel="nats per character", title="Held-out text")
    left.legend()
    right.semilogy(step, np.maximum(evidence - bound, 1e-9), color="tab:red")
    right.axhline(1e-4, color="grey", ls="--", label="reach: 1e-4")
    right.set(xlabel="step", ylabel="evidence − ELBO, nats per character", title="The gap")
    right.legend()
    return figure
