"""Reading of an LSTM: trained on data of either reading, which reading does its own law have?

As in `policy-reading`, bits y are emitted by a node that x tells of, or come from a world of their
own and act on it; gate, read-out and law of y are the same in both. Here an LSTM stands between:
it learns to predict the next (y, x), one of eight symbols, from data of one reading. Then only the
LSTM is asked. Sequences are drawn from its own law, both readings are fitted to some of them, and
their evidence of others says which reading the LSTM has. Since its law gives every sequence a
probability, so are known, in nats a step, KL(LSTM ‖ either reading), and KL(process ‖ LSTM).

Beside it: the same question to the data themselves; to the same networks untrained, whose law has
neither reading; and to networks that were swapped, trained to the end with the data of one reading
and then as long with those of the other, whose answer must turn with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch import Tensor

from ...inference import NetworkLaw
from ...inference.arviz_groups import Idata, group
from ...inference.machines.laws import sampled
from ...models import Sequences
from ...models.randomness import seeded
from ..command.report import Outcome, record
from ..command.seeds import (
    Figures,
    Repeated,
    Resumable,
    against,
    at_least,
    interval,
    over_seeds,
    stream,
)
from ..parts.language_models import LanguageModel, train
from .parts.two_readings import READINGS, Readings, fitted, true_readings
from .parts.two_worlds import Case, case_of, make

__all__ = ["SMOKE", "Settings", "draw", "run"]

CASE, SWITCH_RATE = "one_node_of_bits", 0.1

OF_DATA, TRAINED, SWAPPED, UNTRAINED = "data", "lstm", "swapped_lstm", "untrained_lstm"
ASKED = (OF_DATA, TRAINED, SWAPPED)
WHERE = {"emitted": "where_y_is_emitted", "acting": "where_y_acts"}
"""The readings in the report."""

REACH: Mapping[str, tuple[str, float]] = {
    **{
        f"{CASE}.{who}.{one}.{figure}": (">=", least)
        for who in ASKED
        for one in WHERE.values()
        for figure, least in (("share_right", 0.95), ("ahead_per_step_interval_low", 0.0))
    },
    f"{CASE}.{UNTRAINED}.largest_ahead_by_that_of_data": ("<=", 0.1),
}
"""What was to be reached, fixed before any run: shares of networks, nats a step, a ratio."""


@dataclass(frozen=True)
class Settings(Resumable, Repeated):
    """Settings of the experiment."""

    seeds: int = 8
    """Networks trained on data of either reading, each pair from the same weights."""
    hidden_size: int = 16
    """Units of an LSTM; the belief of the node is one number."""
    training_sequences: int = 3000
    """Sequences that a network learns from…"""
    length: int = 50
    """…and their steps: five switches of the node in each."""
    training_steps: int = 600
    """Gradient steps on the next symbol…"""
    batch: int = 64
    """…with so many sequences each…"""
    learning_rate: float = 2e-2
    """…by Adam, in one cycle."""
    samples: int = 60
    """Sequences of a law that both readings are fitted to…"""
    heldout: int = 200
    """…and sequences by which they are judged."""
    steps: int = 120
    """Gradient steps of a fit, as in policy-reading."""
    rate: float = 0.1
    """Their rate, falling along a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_steps", "batch", "steps")
        at_least(2, self, "training_sequences", "length", "samples", "heldout")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "hidden_size": 3,
    "training_sequences": 20,
    "length": 10,
    "training_steps": 2,
    "batch": 8,
    "samples": 6,
    "heldout": 6,
    "steps": 2,
}


# Bits as symbols


def as_codes(data: Sequences) -> Tensor:
    """(y, x) of every step but the first, which is not seen, as one number, (N, T)."""
    bits = data.values[:, 1:].long()
    return bits @ (2 ** torch.arange(bits.shape[-1] - 1, -1, -1))


def as_bits(codes: Tensor, features: int) -> Sequences:
    """The inverse: a first step that is not seen, then the bits."""
    bits = (codes.unsqueeze(-1) >> torch.arange(features - 1, -1, -1)) & 1
    values = torch.nn.functional.pad(bits.float(), (0, 0, 1, 0))
    seen = torch.ones_like(values, dtype=torch.bool)
    seen[:, 0] = False
    lengths = torch.full((len(values),), values.shape[1])
    return Sequences(values=values, mask=seen, lengths=lengths)


# Networks


def untrained(settings: Settings, case: Case, number: int) -> LanguageModel:
    """A network with new weights, the same for both readings."""
    with seeded(stream(settings, 1, number)):
        return LanguageModel(2**case.features, settings.hidden_size)


def learn(settings: Settings, network: LanguageModel, codes: Tensor, seed: int) -> LanguageModel:
    """Trains the network on sequences (N, T) of one reading; returns it."""

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            rows = torch.randint(len(codes), (settings.batch,), generator=generator)
            yield codes[rows]

    train(network, batches(), steps=settings.training_steps, learning_rate=settings.learning_rate)
    return network


def law_of(network: LanguageModel) -> NetworkLaw:
    """The network's own law; a copy, which stays when the network learns on."""
    return NetworkLaw(network.lstm.eval(), network.output)


# The question


def ahead(
    settings: Settings, case: Case, own: Sequences, heldout: Sequences, seed: int
) -> tuple[float, Readings]:
    """Held-out evidence of the emitted reading before the acting one, nats a step; the fits."""
    found = fitted(case, own, steps=settings.steps, rate=settings.rate, seed=seed)
    first, second = found.evidence(heldout, case.reads)
    return (first - second) / int(heldout.observed_steps.sum()), found


def asked(settings: Settings, case: Case, law: NetworkLaw, *key: int) -> dict[str, float]:
    """The question to a network: on sequences of its own law."""
    many, length = settings.samples, settings.length
    own = sampled(law, many, length, stream(settings, 2, *key))[0]
    codes, told = sampled(law, settings.heldout, length, stream(settings, 3, *key))
    heldout = as_bits(codes, case.features)
    seed = stream(settings, 4, *key)
    found, readings = ahead(settings, case, as_bits(own, case.features), heldout, seed)
    entropy = float(told.gather(-1, codes.unsqueeze(-1)).sum())
    emitted, acting = readings.evidence(heldout, case.reads)
    return {
        "emitted_ahead": found,
        "kl_from_the_emitted_reading": (entropy - emitted) / codes.numel(),
        "kl_from_the_acting_reading": (entropy - acting) / codes.numel(),
    }


def behind(case: Case, law: NetworkLaw, data: Sequences, reading: str) -> float:
    """KL(process ‖ network), nats a step, on data of the process."""
    codes, told, state = as_codes(data), [], law.start(len(data))
    for column in codes.unbind(1):
        next_law = law.next_log_probabilities(state)
        told.append(next_law.gather(-1, column.unsqueeze(-1)).sum())
        state = law.read(state, column)
    truth = true_readings(case).evidence(data, case.reads)[READINGS.index(reading)]
    return (truth - float(torch.stack(told).sum())) / codes.numel()


def work(settings: Settings, number: int) -> dict[str, dict[str, dict[str, float]]]:
    """Everything of one seed: who is asked, by the reading of the (last) training data."""
    case = case_of(CASE, SWITCH_RATE)
    size = settings.training_sequences, settings.length
    out: dict[str, dict[str, dict[str, float]]] = {who: {} for who in ASKED}
    codes, heldout, networks = {}, {}, {}
    for place, reading in enumerate(READINGS):
        key = place, number
        data = make(case, reading, *size, stream(settings, 5, *key)).data
        test = make(case, reading, settings.heldout, settings.length, stream(settings, 6, *key))
        codes[reading], heldout[reading] = as_codes(data), test.data
        few, seed = data[: settings.samples], stream(settings, 7, *key)
        out[OF_DATA][reading] = {"emitted_ahead": ahead(settings, case, few, test.data, seed)[0]}
    fresh = untrained(settings, case, number)
    out[UNTRAINED] = {"same": asked(settings, case, law_of(fresh), 0, number)}
    for place, reading in enumerate(READINGS):
        networks[reading] = learn(
            settings,
            untrained(settings, case, number),
            codes[reading],
            stream(settings, 8, place, number),
        )
        law = law_of(networks[reading])
        out[TRAINED][reading] = asked(settings, case, law, 1 + place, number)
        out[TRAINED][reading]["regret"] = behind(case, law, heldout[reading], reading)
    for place, reading in enumerate(READINGS):
        other = networks[READINGS[1 - place]]
        law = law_of(learn(settings, other, codes[reading], stream(settings, 9, place, number)))
        out[SWAPPED][reading] = asked(settings, case, law, 3 + place, number)
        out[SWAPPED][reading]["regret"] = behind(case, law, heldout[reading], reading)
    return out


# The experiment


def run(settings: Settings) -> Outcome:
    """Train, ask, count."""
    plan = [(settings, number) for number in range(settings.seeds)]
    found = over_seeds(work, plan, jobs=settings.jobs, kept=settings.kept)
    figures: dict[str, Any] = {
        who: {
            WHERE[reading]: answers([one[who][reading] for one in found], sign)
            for reading, sign in zip(READINGS, (1, -1), strict=True)
        }
        for who in ASKED
    }
    none = [one[UNTRAINED]["same"] for one in found]
    of_data = [abs(each["ahead_per_step"]) for each in figures[OF_DATA].values()]
    most = max(abs(one["emitted_ahead"]) for one in none)
    own = {name: value for name, value in answers(none, 1).items() if "right" not in name}
    figures[UNTRAINED] = own | {"largest_ahead_by_that_of_data": most / min(of_data)}
    return Outcome(against({CASE: figures}, REACH), _record(settings, found))


def answers(each: Sequence[Figures], sign: int) -> dict[str, Any]:
    """How often and by how much the reading with this sign is ahead, over networks."""
    gains = [sign * one["emitted_ahead"] for one in each]
    low, high = interval(gains)
    right = sum(gain > 0 for gain in gains)
    wilson = binomtest(right, len(gains)).proportion_ci(method="wilson")
    out: dict[str, Any] = {
        "share_right": right / len(gains),
        "share_right_interval": [wilson.low, wilson.high],
        "ahead_per_step": float(np.mean(gains)),
        "ahead_per_step_interval_low": low,
        "ahead_per_step_interval_high": high,
        "ahead_per_step_by_seed": gains,
    }
    for name in each[0]:
        if name != "emitted_ahead":
            values = [one[name] for one in each]
            mean = float(np.mean(values))
            out |= {f"{name}_per_step": mean, f"{name}_per_step_interval": interval(values)}
    return out


def _record(settings: Settings, found: Sequence[Mapping[str, Mapping[str, Figures]]]) -> Idata:
    gains = {
        f"{who}_{reading}": [one[who][reading]["emitted_ahead"] for one in found]
        for who in ASKED
        for reading in READINGS
    }
    gains[UNTRAINED] = [one[UNTRAINED]["same"]["emitted_ahead"] for one in found]
    runs = {"emitted_ahead": np.array([*gains.values()])}
    dims = {"emitted_ahead": ("asked", "number")}
    return record(settings, {"runs": runs}, dims=dims, coords={"asked": [*gains]})


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The answer of every network."""
    del figures
    runs = group(posterior, "runs")["emitted_ahead"]
    names = [str(name) for name in runs["asked"].values]
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for place, name in enumerate(names):
        color = "tab:blue" if "emitted" in name else "tab:red" if "acting" in name else "0.4"
        values = runs.sel(asked=name).values
        axis.plot(values, np.full(len(values), place), "o", color=color, alpha=0.6)
    axis.axvline(0, color="black", lw=0.7)
    words = {OF_DATA: "data", TRAINED: "LSTM", SWAPPED: "swapped LSTM", UNTRAINED: "untrained LSTM"}
    titles = []
    for name in names:
        who, _, reading = name.rpartition("_")
        titles.append(f"{words[who]}: y {reading}" if who in words else words[name])
    axis.set_yticks(range(len(names)), titles)
    axis.invert_yaxis()
    axis.set(
        xlabel="held-out evidence, emitted − acting (nats a step)",
        title="Which reading does its own law have? One dot a network",
    )
    return {"answers": figure}
