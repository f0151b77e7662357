"""A wrapped LSTM: how many hidden states does a language model of letters hold?

A plain LSTM is trained to predict the next letter of English text. Then its weights are kept, and
hidden Markov models of 2 to 64 states are fitted around it, each with the LSTM for a filter: the
ELBO says how much of the model's evidence the belief that is read off the LSTM brings home, a
decoder how much of the exact filter its state holds, and whether an untrained network would hold as
much. Samples of the LSTM and of every model are
compared, and the gates with what the exact filter does.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...inference import (
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
from ...models import Categorical, HiddenMarkovModel, Sequences
from ...models.randomness import seeded
from ..command.report import Outcome
from ..command.seeds import Repeated, over_seeds, stream, summary
from ..parts.language_models import LanguageModel, train
from ..parts.text_windows import held_apart
from .drawings.wrapped_lstm import draw


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    source: Literal["pydoc", "shakespeare"] = "pydoc"
    """The text, as of english-letters."""
    length: int = 64
    """Letters a sequence: about a dozen words, more than a state remembers."""
    sequences: int = 2200
    """Training sequences of one LSTM and its models, drawn from those that share no run of 16
    letters with those held out: half of the text does."""
    heldout: int = 600
    """Held-out sequences, on which everything is measured, the same for all."""
    hidden_size: int = 64
    """Units of the LSTM: as many as the states of the largest model."""
    training_steps: int = 1200
    """Gradient steps of the LSTM on the next letter; its held-out loss is nearly flat by then."""
    states: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Sizes of the models that it is wrapped in."""
    steps: int = 400
    """Gradient steps of each model and of the head that reads its belief off the LSTM, from where
    the model fitted alone, with its exact filter and for as many steps, has ended."""
    restarts: int = 2
    """Starts of the model alone that are improved by…"""
    restart_steps: int = 150
    """…so many steps before; the better one goes on."""
    samples: int = 800
    """Sequences drawn from the LSTM and from every model."""
    shown_states: int = 8
    """States of the model that is exported and drawn along a sentence; one of ``states``."""
    draws: int = 50
    """Draws in posterior.nc."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    "states": (2, 3),
    "hidden_size": 4,
    "training_steps": 3,
    "shown_states": 3,
    "steps": 2,
    "restarts": 1,
    "restart_steps": 1,
    "samples": 8,
    "draws": 3,
}


__all__ = ["SMOKE", "Settings", "draw", "run"]


class One(NamedTuple):
    """What comes of one LSTM."""

    figures: dict[str, Any]
    texts: dict[str, str]
    shown: Wrapped | None


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
    others, heldout = held_apart(
        settings.length, settings.heldout, source=settings.source, seed=stream(settings, 0)
    )
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
            alone = _alone(settings, model, own, seed)
            one = wrap(
                lstm,
                model,
                own,
                output=output,
                heldout=heldout,
                settings=_fit_settings(settings, _inside(alone)),
                samples=settings.samples,
                seed=seed,
            )
        name = f"{states}_states"
        around[name] = one
        models[name] = one.figures | {
            "evidence_per_step_of_the_same_model_fitted_without_the_lstm": _rate(alone, heldout),
            "decoder_kl_less_than_of_the_untrained_network": _advantage(one),
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


def _fit_settings(settings: Settings, start: Mapping[str, Tensor] | None = None) -> FitSettings:
    return FitSettings(
        steps=settings.steps,
        restarts=settings.restarts if start is None else 1,
        restart_steps=settings.restart_steps,
        start=start or "prior",
        sleep_steps=0,
        holdout=0,
        patience=None,
        parameter_learning_rate=5e-2,
    )


def _alone(
    settings: Settings, model: HiddenMarkovModel, own: Sequences, seed: int
) -> HiddenMarkovModel:
    """The same model fitted with the exact filter: the evidence that there was to be had."""
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    how = _fit_settings(settings)
    found = fit(model, guide, own, settings=how, seed=seed, progress=False).fitted
    assert isinstance(found, HiddenMarkovModel)
    return found


def _inside(fitted: HiddenMarkovModel) -> dict[str, Tensor]:
    """Its probabilities, none of them 0: a fit starts inside the simplex."""
    raised = {name: value.clamp_min(1e-6) for name, value in fitted.known.items()}
    return {name: value / value.sum(-1, keepdim=True) for name, value in raised.items()}


def _advantage(one: Wrapped) -> float:
    """Nats of the belief that h and c hold and those of an untrained network do not."""
    pair = one.readouts.untrained["hc"].decoder_kl, one.readouts.state["hc"].decoder_kl
    assert pair[0] is not None
    assert pair[1] is not None
    return pair[0] - pair[1]


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
