"""A wrapped LSTM: how many hidden states does a language model of letters hold?

A plain LSTM is trained to predict the next letter of English text. Then its weights are kept, and
hidden Markov models of 2 to 64 states are fitted around it, each with the LSTM for a filter: the
ELBO says how much of the model's evidence the belief that is read off the LSTM brings home, a
decoder how much of the exact filter its state holds. Samples of the LSTM and of every model are
compared, and the gates with what the exact filter does.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ..inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    SampleComparison,
    Wrapped,
    compare_samples,
    compare_wrapped,
    fit,
    log_evidence,
    lstm_log_likelihood,
    sample_lstm,
    wrap,
)
from ..inference.arviz_groups import Idata, group
from ..models import Categorical, HiddenMarkovModel, Sequences
from ..models.randomness import seeded
from .data import load_english_letters
from .language_models import LanguageModel, train
from .report import Outcome
from .seeds import over_seeds, summary

_GATES = (("f", "staying"), ("i", "surprise"), ("i", "information_gain"))
"""Pairs of a gate and what it might follow that are drawn."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seed: int = 0
    """Of everything: the split, weights, batches, starts, samples."""
    seeds: int = 5
    """LSTMs, which differ in weights and training text; each is wrapped in every model."""
    jobs: int = 1
    """LSTMs at the same time, one thread each. The numbers do not depend on it."""
    source: Literal["pydoc", "shakespeare"] = "pydoc"
    """The text, as of english-letters."""
    length: int = 64
    """Letters a sequence: about a dozen words, more than a state remembers."""
    sequences: int = 2500
    """Training sequences of one LSTM and its models, drawn from those not held out."""
    heldout: int = 600
    """Held-out sequences, on which everything is measured, the same for all."""
    hidden_size: int = 64
    """Units of the LSTM: as many as the states of the largest model."""
    training_steps: int = 1200
    """Gradient steps of the LSTM on the next letter; its held-out loss is nearly flat by then."""
    states: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Sizes of the models that it is wrapped in."""
    steps: int = 400
    """Gradient steps of each model and of the head that reads its belief off the LSTM."""
    restarts: int = 2
    """Starts of each model that are improved with the exact filter before…"""
    restart_steps: int = 300
    """…by so many steps, where the better one goes on."""
    samples: int = 800
    """Sequences drawn from the LSTM and from every model."""
    shown_states: int = 8
    """States of the model that is exported and drawn along a sentence; one of ``states``."""
    draws: int = 50
    """Draws in posterior.nc."""

    def __post_init__(self) -> None:
        if self.shown_states not in self.states or len(set(self.states)) < 2:
            raise ValueError(
                "states, shown_states: need two sizes or more, and the shown one among them, got "
                f"{self.states} and {self.shown_states}"
            )
        if min(self.states) < 2 or self.seeds < 1 or self.samples < 4 or self.length < 12:
            raise ValueError(
                "states, seeds, samples, length: must be >= 2, 1, 4, 12, got "
                f"{self.states}, {self.seeds}, {self.samples}, {self.length}"
            )


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 14,
    "sequences": 40,
    "heldout": 12,
    "hidden_size": 4,
    "training_steps": 3,
    "states": (2, 3),
    "shown_states": 3,
    "steps": 2,
    "restarts": 1,
    "restart_steps": 1,
    "samples": 8,
    "draws": 3,
}


class One(NamedTuple):
    """What comes of one LSTM."""

    figures: dict[str, Any]
    texts: dict[str, str]
    shown: Wrapped | None


def stream(settings: Settings, *key: int) -> int:
    """A seed for one purpose, independent of those with another key."""
    return int(np.random.SeedSequence([settings.seed, *key]).generate_state(1)[0])


def run(settings: Settings) -> Outcome:
    """Train and wrap every LSTM, measure all on the same held-out text."""
    plan = [(settings, number) for number in range(settings.seeds)]
    done: list[One] = over_seeds(_wrapped, plan, jobs=settings.jobs)
    figures = summary([one.figures for one in done])
    figures["sampled_text"] = done[0].texts
    assert done[0].shown is not None
    posterior = done[0].shown.to_arviz(draws=settings.draws, seed=settings.seed, sequences=20)
    posterior.attrs["experiment"] = "wrapped-lstm"
    return Outcome(figures, posterior)


def text(settings: Settings, number: int) -> tuple[Sequences, Sequences]:
    """Training text of one LSTM, and the text held out for all."""
    letters = load_english_letters(settings.length, source=settings.source)
    whole = letters[(letters.lengths == settings.length).nonzero()[:, 0]]
    rest = len(whole) - settings.heldout
    heldout, others = whole.split([settings.heldout, rest], seed=stream(settings, 0))
    (own,) = others.split([settings.sequences], seed=stream(settings, 1, number))
    return own, heldout


def _wrapped(settings: Settings, number: int) -> One:
    own, heldout = text(settings, number)
    seed = stream(settings, 2, number)
    language = _language_model(settings, own, seed)
    lstm, output = language.lstm, language.output
    drawn = sample_lstm(
        lstm, output, settings.samples, settings.length, symbols=own.symbols, seed=seed
    )
    around: dict[str, Wrapped] = {}
    models: dict[str, Any] = {}
    for states in settings.states:
        model = HiddenMarkovModel(states, Categorical(27))
        with warnings.catch_warnings():  # of many states some stay empty, which costs nothing
            warnings.filterwarnings("ignore", message="fit: states")
            one = wrap(
                lstm,
                model,
                own,
                output=output,
                heldout=heldout,
                settings=_fit_settings(settings),
                samples=settings.samples,
                seed=seed,
            )
            alone = _alone(settings, model, own, seed)
        name = f"{states}_states"
        around[name] = one
        models[name] = one.figures | {
            "evidence_per_step_of_the_same_model_fitted_without_the_lstm": _rate(alone, heldout)
        }
    figures = {
        "models": models,
        "lstm_log_probability_per_step": float(
            lstm_log_likelihood(lstm, output, heldout).sum() / heldout.n_steps
        ),
        "states": _preferred(around),
        **_baselines(settings, own, heldout, drawn, seed),
    }
    texts = {"lstm": _letters(drawn, 2), "text": _letters(heldout, 2)}
    for name, one in around.items():
        fresh = one.fit.fitted.sample(2, settings.length, seed=seed).data
        texts[f"model_of_{name}"] = _letters(fresh, 2, heldout.symbols)
    shown = around[f"{settings.shown_states}_states"] if number == 0 else None
    return One(figures, texts, shown)


def _language_model(settings: Settings, own: Sequences, seed: int) -> LanguageModel:
    with seeded(seed):
        language = LanguageModel(27, settings.hidden_size)

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for batch in own.batches(50, generator=generator):
                yield batch.codes()

    train(language, batches(), steps=settings.training_steps, learning_rate=1e-2)
    return language


def _fit_settings(settings: Settings) -> FitSettings:
    return FitSettings(
        steps=settings.steps,
        restarts=settings.restarts,
        restart_steps=settings.restart_steps,
        start="prior",
        sleep_steps=0,
        holdout=0,
        patience=None,
        parameter_learning_rate=5e-2,
    )


def _alone(settings: Settings, model: HiddenMarkovModel, own: Sequences, seed: int) -> Any:
    """The same model fitted with the exact filter: the evidence that there was to be had."""
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    how = _fit_settings(settings)
    return fit(model, guide, own, settings=how, seed=seed, progress=False).fitted


def _rate(model: HiddenMarkovModel, data: Sequences) -> float:
    return float(log_evidence(model, data).sum()) / data.n_steps


def _preferred(around: Mapping[str, Wrapped]) -> dict[str, int]:
    """Numbers of states."""
    found = compare_wrapped(around)
    names = {
        "preferred_by_evidence": found.preferred_by_evidence,
        "preferred_by_elbo": found.preferred_by_elbo,
        "fewest_within_two_standard_errors_of_the_best_elbo": found.held,
    }
    return {name: int(best.split("_")[0]) for name, best in names.items()}


def _baselines(
    settings: Settings, own: Sequences, heldout: Sequences, drawn: Sequences, seed: int
) -> dict[str, Any]:
    """Letters one by one and in pairs, as models and as samples; the text beside the LSTM's."""
    counts = torch.bincount(own.codes().flatten(), minlength=27).double() + 0.5
    single = counts / counts.sum()
    pairs = torch.full((27, 27), 0.5, dtype=torch.float64)
    before, after = own.codes()[:, :-1].flatten(), own.codes()[:, 1:].flatten()
    pairs.index_put_((before, after), torch.ones(len(before)).double(), accumulate=True)
    models = {
        "one_state": HiddenMarkovModel(1, Categorical(27)).with_parameters(probs=single[None]),
        "letter_pairs": HiddenMarkovModel(27, Categorical(27)).with_parameters(
            initial=single,
            transition=pairs / pairs.sum(-1, keepdim=True),
            probs=torch.eye(27, dtype=torch.float64),
        ),
    }
    evidence, distance = {}, {}
    for name, model in models.items():
        evidence[name] = _rate(model, heldout)
        rival = model.sample(settings.samples, settings.length, seed=seed).data
        distance[name] = _distances(compare_samples(drawn, rival))
    against = compare_samples(drawn, heldout)
    distance["text_held_out"] = _distances(against)
    return {
        "baselines": {"evidence_per_step": evidence, "samples_beside_those_of_the_lstm": distance}
    }


def _distances(found: SampleComparison) -> dict[str, Any]:
    out: dict[str, Any] = {f"{n}_grams": dataclasses.asdict(d) for n, d in found.n_grams.items()}
    out["run_lengths"] = dataclasses.asdict(found.runs)
    out["mutual_information_by_lag"] = {
        f"lag_{lag}": value for lag, value in enumerate(found.lag_information[1].tolist(), 1)
    }
    return out


def _letters(data: Sequences, n: int, symbols: tuple[str, ...] | None = None) -> str:
    names = data.symbols or symbols
    assert names is not None
    return " | ".join("".join(names[code] for code in row.tolist()) for row in data.codes()[:n])


# Drawings


def draw(posterior: Idata, figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Evidence by size, what is held of the belief, samples, gates, the belief along a sentence."""
    sizes = [int(name.split("_")[0]) for name in figures["models"] if name.endswith("_states")]
    return {
        "evidence": _draw_evidence(figures, sizes),
        "held": _draw_held(figures, sizes),
        "samples": _draw_samples(figures, sizes),
        "gates": _draw_gates(figures, sizes),
        "belief": _draw_belief(posterior),
    }


def _line(axis: Any, figures: Mapping[str, Any], sizes: list[int], path: str, **style: Any) -> None:
    """A figure of every model by its size, with intervals."""
    value, ends = [], []
    for states in sizes:
        place: Any = figures["models"][f"{states}_states"]
        *outer, last = path.split(".")
        for key in outer:
            place = place[key]
        value.append(place[last])
        ends.append(place[f"{last}_interval"])
    spread = np.abs(np.asarray(ends) - np.asarray(value)[:, None]).T
    axis.errorbar(sizes, value, yerr=spread, capsize=2, **style)


def _by_size(axis: Any, sizes: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xlabel("states of the model")


def _draw_evidence(figures: Mapping[str, Any], sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    alone = "evidence_per_step_of_the_same_model_fitted_without_the_lstm"
    _line(left, figures, sizes, alone, color="0.5", marker="s", label="evidence, fitted alone")
    _line(
        left,
        figures,
        sizes,
        "evidence_per_step",
        color="k",
        marker="o",
        label="evidence, fitted around the LSTM",
    )
    _line(
        left,
        figures,
        sizes,
        "elbo_per_step",
        color="tab:red",
        marker="o",
        label="ELBO with the LSTM as filter",
    )
    own = figures["lstm_log_probability_per_step"]
    left.axhline(own, color="tab:blue", lw=1, label="the LSTM itself")
    base = figures["baselines"]["evidence_per_step"]
    for name, style in (("letter_pairs", "--"), ("one_state", ":")):
        left.axhline(base[name], color="0.4", ls=style, lw=1, label=name.replace("_", " "))
    left.set(ylabel="nats per letter", title="Held-out text")
    left.legend(frameon=False, fontsize=8)
    _line(
        right, figures, sizes, "gap_per_step", color="tab:red", marker="o", label="evidence − ELBO"
    )
    _line(
        right,
        figures,
        sizes,
        "kl_filter_per_step",
        color="tab:purple",
        marker="o",
        label="KL(exact filter ‖ belief of the LSTM)",
    )
    _line(
        right,
        figures,
        sizes,
        "update_error_per_step",
        color="tab:green",
        marker="o",
        label="update error of a step",
    )
    right.set(ylabel="nats per letter", title="What the LSTM lacks for being the filter")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        _by_size(axis, sizes)
    return figure


_READ = {
    "LSTM_hc": ("LSTM, h and c", "tab:red", "o"),
    "LSTM_h": ("LSTM, h", "tab:orange", "o"),
    "LSTM_c": ("LSTM, c", "tab:pink", "o"),
    "untrained_LSTM_hc": ("untrained LSTM, h and c", "0.3", "s"),
    "last_2_inputs": ("last 2 letters", "0.5", "^"),
    "last_1_input": ("last letter", "0.7", "v"),
    "next_symbol_probabilities": ("exact next-letter probabilities", "tab:blue", "D"),
}


def _draw_held(figures: Mapping[str, Any], sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, (label, color, marker) in _READ.items():
        style = {"color": color, "marker": marker, "ms": 4, "lw": 1, "label": label}
        _line(left, figures, sizes, f"read_outs.{name}.decoder_kl", **style)
        _line(right, figures, sizes, f"read_outs.{name}.r_squared", **style)
    _line(
        left,
        figures,
        sizes,
        "read_outs.LSTM_hc.information",
        color="k",
        ls=":",
        label="all there is to know",
    )
    left.set(
        yscale="log", ylabel="decoder KL, nats per letter", title="What is missed of the belief"
    )
    right.set(ylabel="R² of the belief", title="What a linear read-out finds", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=8)
    left.legend(frameon=False, fontsize=7, loc="lower right")
    for axis in (left, right):
        _by_size(axis, sizes)
    return figure


def _draw_samples(figures: Mapping[str, Any], sizes: list[int]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    lengths = [1, 2, 3, 4]
    rivals = figures["baselines"]["samples_beside_those_of_the_lstm"]
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
    rows = {
        f"{size} states": (figures["models"][f"{size}_states"]["samples"], shade, "-")
        for size, shade in zip(sizes, shades, strict=True)
    }
    rows |= {
        "one state": (rivals["one_state"], "0.6", ":"),
        "letter pairs": (rivals["letter_pairs"], "0.4", "--"),
        "held-out text": (rivals["text_held_out"], "tab:blue", "-"),
    }
    for label, (found, color, style) in rows.items():
        value = [found[f"{n}_grams"]["jensen_shannon"] for n in lengths]
        left.plot(lengths, value, marker="o", ms=4, color=color, ls=style, label=label)
    floor = [rivals["text_held_out"][f"{n}_grams"]["jensen_shannon_floor"] for n in lengths]
    left.plot(lengths, floor, color="k", lw=3, alpha=0.3, label="floor: halves of one set")
    left.set_xticks(lengths)
    left.set(yscale="log", xlabel="n", ylabel="Jensen-Shannon divergence, nats")
    left.set_title("n-grams: samples of the LSTM against those of…")
    left.legend(frameon=False, fontsize=7)
    lags = range(1, 11)

    def information(found: Mapping[str, Any], whose: str = "") -> list[float]:
        table = found[f"mutual_information_by_lag{whose}"]
        return [table[f"lag_{lag}"] for lag in lags]

    for label, (found, color, style) in rows.items():
        whose = "_of_model" if label.endswith("states") else ""
        right.plot(lags, information(found, whose), color=color, ls=style, lw=1, label=label)
    whole = figures["models"][f"{sizes[0]}_states"]["samples"]
    right.plot(lags, information(whole, "_of_lstm"), color="tab:red", lw=2, label="LSTM")
    right.set(yscale="log", xlabel="letters apart", ylabel="mutual information, nats")
    right.set_title("Memory of the samples (sampling biases all upwards alike)")
    right.legend(frameon=False, fontsize=7)
    return figure


def _draw_gates(figures: Mapping[str, Any], sizes: list[int]) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
    for (gate, quantity), axis in zip(_GATES, axes, strict=True):
        for whose, label, color in (
            ("gates", "LSTM", "tab:red"),
            ("gates_of_the_untrained_network", "untrained", "0.5"),
        ):
            path = f"{whose}.{gate}.{quantity}"
            _line(
                axis,
                figures,
                sizes,
                f"{path}.absolute_correlation",
                color=color,
                marker="o",
                label=f"{label}, best unit: |correlation|",
            )
            _line(
                axis,
                figures,
                sizes,
                f"{path}.all_units_r_squared",
                color=color,
                marker="^",
                ls=":",
                label=f"{label}, all units: R²",
            )
        axis.set(title=f"gate {gate} and {quantity.replace('_', ' ')}", ylim=(0, 1.02))
        _by_size(axis, sizes)
    axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    return figure


def _draw_belief(posterior: Idata, letters: int = 64) -> Figure:
    states = group(posterior, "posterior_states")
    codes = group(posterior, "observed_data")["obs"].isel(sequence=0).values.astype(int)[:letters]
    names = [str(s) for s in group(posterior, "posterior")["symbol"].values]
    figure, axes = plt.subplots(2, 1, figsize=(11, 4.4), sharex=True, layout="constrained")
    rows = {"exact filter": "filtered_probability", "belief read off the LSTM": "guide_belief"}
    for (title, variable), axis in zip(rows.items(), axes, strict=True):
        table = states[variable].isel(sequence=0).transpose("state", "time").values[:, :letters]
        image = axis.imshow(table, aspect="auto", cmap="magma", vmin=0, vmax=1)
        axis.set(title=title, ylabel="state")
    axes[1].set_xticks(range(len(codes)), [names[code] for code in codes])
    axes[1].set_xlabel("letters of a held-out sentence")
    figure.colorbar(image, ax=axes, label="probability given the letters so far")
    return figure
