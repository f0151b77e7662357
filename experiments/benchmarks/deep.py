"""A training epoch of a deep Markov model beside the literal Pyro program with two sites per step.

Both have the sizes of Krishnan, Shalit & Sontag (2017) and Pyro's tutorial on the same chorales,
and take minibatches of the same sequences. Before anything is timed both give the ELBO, and its
gradient in every weight, of the same weights and the same drawn trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ...inference import DeepGuide, TrajectoryNetwork
from ...inference.fitting.objectives import Batch, elbo
from ...inference.guides.deep import DeepPosterior
from ...models import Bernoulli, DeepLaws, DeepMarkovModel, Sequences
from ..command.seeds import Figures
from ..data.loaders import load_jsb_chorales
from .parts import fresh
from .parts.comparison import Timed
from .parts.turns import in_turn


@dataclass(frozen=True)
class Settings(Timed):
    """Settings of the benchmark."""

    states: int = 100
    """Components of the state, as in the tutorial."""
    transition_width: int = 200
    """Units of gate and proposal, as there."""
    emission_width: int = 100
    """Units of the emission's layers, as there."""
    hidden_size: int = 600
    """Units of the recurrent network, as there."""
    batch_size: int = 20
    """Sequences of a step, as there."""
    source: Literal["chorales", "coins"] = "chorales"
    """The training chorales (from the folder BELIEFZOO_DATA), or tossed coins for trying out."""
    sequences: int = 229
    """Sequences of an epoch, at most: all."""
    rounds: int = 3
    """Epochs of each, in turn."""


SMOKE: Mapping[str, object] = {
    "states": 3,
    "transition_width": 4,
    "emission_width": 5,
    "hidden_size": 6,
    "batch_size": 4,
    "source": "coins",
    "sequences": 9,
    "rounds": 1,
}

REACH = 5.0
"""Times that an epoch is to be faster than the literal program's; fixed before any run."""

TOLERANCE = 1e-5
"""Relative difference of the two ELBOs on the same draws, in float64, above which nothing is
timed."""

PITCHES = 88


def run(settings: Settings) -> dict[str, object]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(settings: Settings) -> dict[str, object]:
    """Agreement of the two, seconds of an epoch of each, and their ratio."""
    pyro.clear_param_store()
    torch.manual_seed(settings.seed)
    data = _data(settings)
    model = DeepMarkovModel(
        settings.states,
        Bernoulli(PITCHES),
        transition_width=settings.transition_width,
        emission_width=settings.emission_width,
        initial="transition",
    )
    guide = DeepGuide(model, TrajectoryNetwork(settings.hidden_size), parameters="ml")
    guide = guide.fresh(model.start(data))
    literal = SitePerStep(settings)
    literal.take(guide)
    batches = [
        data[first : first + settings.batch_size]
        for first in range(0, len(data), settings.batch_size)
    ]
    figures: dict[str, Any] = {"agreement": _agreement(guide, literal, batches[0])}
    timings = in_turn(
        {"this_library": _our_epoch(guide, batches), "literal_program": literal.epoch(batches)},
        rounds=settings.rounds,
    )
    for name, timing in timings.items():
        figures[name] = timing.figures() | {"seconds_per_epoch": timing.median / 1e3}
    ours, literals = (np.array(timings[name].milliseconds) for name in timings)
    figures["times_faster"] = float(np.median(literals / ours))
    figures["times_faster_least"] = float((literals / ours).min())
    figures["times_faster_to_reach"] = REACH
    figures["steps_per_epoch"] = len(batches)
    return figures


def _data(settings: Settings) -> Sequences:
    if settings.source == "chorales":
        train = load_jsb_chorales()[0]
        return train[: min(settings.sequences, len(train))]
    lengths = torch.randint(2, 8, (settings.sequences,))
    bits = torch.bernoulli(torch.full((settings.sequences, 7, PITCHES), 0.05))
    return Sequences.from_tensors(bits, lengths=lengths.clamp_max(7))


def _our_epoch(guide: DeepGuide, batches: list[Sequences]) -> Callable[[], None]:
    """What a fit does in an epoch."""
    optimizer = torch.optim.Adam(guide.parameters(), lr=3e-4)
    guide.train()

    def epoch() -> None:
        for batch in batches:
            loss = elbo(guide, Batch(batch, 1.0, 1)) / batch.n_steps
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(guide.parameters(), 5.0)
            optimizer.step()

    return epoch


class SitePerStep(nn.Module):
    """The model and guide as one writes them first in Pyro: two sample statements per time step."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size, width = settings.states, settings.transition_width
        units, hidden = settings.emission_width, settings.hidden_size
        relu = nn.ReLU()
        self.gate: Any = nn.Sequential(nn.Linear(size, width), relu, nn.Linear(width, size))
        self.proposal: Any = nn.Sequential(nn.Linear(size, width), relu, nn.Linear(width, size))
        self.linear, self.scale = nn.Linear(size, size), nn.Linear(size, size)
        layers = nn.Linear(size, units), relu, nn.Linear(units, units), relu
        self.emitter: Any = nn.Sequential(*layers, nn.Linear(units, PITCHES))
        self.rnn: Any = nn.RNN(PITCHES, hidden, nonlinearity="relu", batch_first=True)
        self.into, self.mean = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.raw = nn.Linear(hidden, size)
        self.z_0, self.z_q_0 = (nn.Parameter(torch.zeros(size)) for _ in range(2))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, hidden))

    def take(self, guide: DeepGuide) -> None:
        """Take over the weights of the library's model and guide."""
        with torch.no_grad():
            given = _laid_out(_leaves(guide, torch.float32), guide.model.states)
            for own, value in self.pairs(given):
                own.copy_(value)
            second: Any = self.rnn.bias_hh_l0  # torch's network has two biases of the same use
            second.zero_()

    def pairs(self, given: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Own weights beside those of the library, or their gradients, by name."""
        layer: Any
        rows: list[tuple[Any, str]] = [(self.z_0, "initial_origin"), (self.z_q_0, "origin")]
        dense: dict[str, tuple[Any, ...]] = {
            "transition_gate": (self.gate[0], self.gate[2]),
            "transition_proposal": (self.proposal[0], self.proposal[2]),
        }
        for name, layers in dense.items():
            for number, layer in enumerate(layers):
                rows += [(layer.weight, f"{name}_weight{number}")]
                rows += [(layer.bias, f"{name}_bias{number}")]
        for layer, name in ((self.linear, "linear"), (self.scale, "scale")):
            rows += [(layer.weight, f"transition_{name}_weight")]
            rows += [(layer.bias, f"transition_{name}_bias")]
        for number, place in enumerate((0, 2, 4)):
            layer = self.emitter[place]
            rows += [(layer.weight, f"emission_network_weight{number}")]
            bias = f"emission_network_bias{number}" if number < 2 else "logits"
            rows += [(layer.bias, bias)]
        rows += [(self.rnn.weight_ih_l0, "rnn_in"), (self.rnn.bias_ih_l0, "rnn_bias")]
        rows += [(self.rnn.weight_hh_l0, "rnn_hidden"), (self.h_0, "rnn_origin")]
        rows += [(self.into.weight, "into_weight"), (self.into.bias, "into_bias")]
        rows += [(self.mean.weight, "mean_weight"), (self.mean.bias, "mean_bias")]
        rows += [(self.raw.weight, "raw_weight"), (self.raw.bias, "raw_bias")]
        return [(own, given[name].reshape(own.shape)) for own, name in rows]

    def moved(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, proposal = torch.sigmoid(self.gate(z)), self.proposal(z)
        mean = (1 - gate) * self.linear(z) + gate * proposal
        return mean, nn.functional.softplus(self.scale(torch.relu(proposal)))

    def model(self, y: Tensor, turned: Tensor, mask: Tensor, lengths: Tensor) -> None:
        """p(z, y): a site for the state and a site for the observation, every step."""
        pyro.module("literal", self)
        z: Tensor = self.z_0.expand(len(y), -1)
        with pyro.plate("sequences", len(y)):
            for t in pyro.markov(range(1, y.shape[1] + 1)):
                inside = mask[:, t - 1 : t]
                mean, scale = self.moved(z)
                z = pyro.sample(f"z_{t}", dist.Normal(mean, scale).mask(inside).to_event(1))
                law = dist.Bernoulli(logits=self.emitter(z)).mask(inside).to_event(1)
                pyro.sample(f"y_{t}", law, obs=y[:, t - 1])

    def guide(self, y: Tensor, turned: Tensor, mask: Tensor, lengths: Tensor) -> None:
        """q(z | y): a site for the state, every step, from the network that reads backward."""
        pyro.module("literal", self)
        packed = pack_padded_sequence(turned, lengths, batch_first=True, enforce_sorted=False)
        h_0 = self.h_0.expand(1, len(y), -1).contiguous()
        hidden = pad_packed_sequence(self.rnn(packed, h_0)[0], batch_first=True)[0]
        hidden = _turned(hidden, lengths)
        z = self.z_q_0.expand(len(y), -1)
        with pyro.plate("sequences", len(y)):
            for t in pyro.markov(range(1, y.shape[1] + 1)):
                combined = 0.5 * (torch.tanh(self.into(z)) + hidden[:, t - 1])
                scale = nn.functional.softplus(self.raw(combined))
                law = dist.Normal(self.mean(combined), scale).mask(mask[:, t - 1 : t])
                z = pyro.sample(f"z_{t}", law.to_event(1))

    def epoch(self, batches: list[Sequences]) -> Callable[[], None]:
        """An epoch of SVI."""
        prepared = [_padded(batch) for batch in batches]
        optimizer = ClippedAdam({"lr": 3e-4, "clip_norm": 10.0})
        svi = SVI(self.model, self.guide, optimizer, loss=Trace_ELBO())

        def epoch() -> None:
            with pyro.validation_enabled(False):
                for arguments in prepared:
                    svi.step(*arguments)

        return epoch


def _padded(batch: Sequences, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Observations, the same turned around in time, mask and lengths."""
    y, lengths = batch.values.to(dtype), batch.lengths
    return y, _turned(y, lengths), batch.step_mask, lengths


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """(N, T, …) turned around in time within each length."""
    steps = torch.arange(x.shape[1])
    index = (lengths.unsqueeze(-1) - 1 - steps).clamp_min(0)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _leaves(guide: DeepGuide, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of the library's model and network, by name; logits for probabilities."""
    values = {name: value.to(dtype) for name, value in guide.median().items()}
    values["logits"] = torch.logit(values.pop("probs"))
    for value in values.values():
        value.requires_grad_()
    return values | dict(guide.filter.named_parameters())


def _laid_out(leaves: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The weights, or their gradients, in the layout of ``torch.nn.Linear``."""
    from_model = ("transition", "emission", "initial", "logits")
    out = {
        name: value.t() if value.ndim == 2 else value
        for name, value in leaves.items()
        if name.startswith(from_model)
    }
    mean, raw = leaves["out.weight"].split(size), leaves["out.bias"].split(size)
    return out | {
        "origin": leaves["origin"],
        "rnn_in": leaves["readers.0.into.weight"][:, :PITCHES],  # the rest reads what is missing
        "rnn_bias": leaves["readers.0.into.bias"],
        "rnn_hidden": leaves["readers.0.onward"].t(),
        "rnn_origin": leaves["readers.0.origin"],
        "into_weight": leaves["into.weight"],
        "into_bias": leaves["into.bias"],
        "mean_weight": mean[0],
        "mean_bias": raw[0],
        "raw_weight": mean[1],
        "raw_bias": raw[1],
    }


def _agreement(guide: DeepGuide, literal: SitePerStep, batch: Sequences) -> dict[str, float]:
    """ELBO per step of both at the same weights and trajectories, and how far they are apart.

    In float64. The gradient is that of the ELBO with the trajectories as functions of the weights.

    Raises:
        ValueError: if they differ.
    """
    guide.double()
    literal.double()
    leaves = _leaves(guide, torch.float64)
    values = {name: leaves[name] for name in leaves if name in guide.model.parameter_names}
    laws = guide.model.laws(values | {"probs": leaves["logits"].sigmoid()}, batch)
    noise = torch.randn(1, len(batch), *laws.states().event_shape, dtype=torch.float64)
    posterior = guide.posterior(laws)
    ours = _estimate(posterior.laws, posterior, posterior.path(noise))
    theirs = _literal_estimate(literal, batch, noise[0])
    gradients = dict(zip(leaves, torch.autograd.grad(ours, list(leaves.values())), strict=True))
    pairs = literal.pairs(_laid_out(gradients, guide.model.states))
    found = torch.autograd.grad(theirs, [own for own, _ in pairs])
    worst = max(
        float((mine - yours).abs().max() / yours.abs().max().clamp_min(1e-12))
        for (_, mine), yours in zip(pairs, found, strict=True)
    )
    value, other = float(ours.detach()), float(theirs.detach())
    error = abs(value - other) / abs(other)
    if not (error < TOLERANCE and worst < TOLERANCE):
        raise ValueError(
            f"ELBO: needs to agree with the literal program's to {TOLERANCE}, got {value} and "
            f"{other}, and gradients that differ by {worst} of their largest entry"
        )
    guide.float()
    literal.float()
    return {
        "elbo_per_step": value / batch.n_steps,
        "literal_elbo_per_step": other / batch.n_steps,
        "relative_difference": error,
        "largest_relative_difference_of_a_gradient": worst,
    }


def _estimate(laws: DeepLaws, posterior: DeepPosterior, paths: Tensor) -> Tensor:
    """log p(z, y) − log q(z | y) of one trajectory of every sequence, summed."""
    log_p = laws.chain_log_prob(paths) + laws.emission_log_prob(paths)
    return (log_p - posterior.path_log_prob(paths)).sum()


def _literal_estimate(literal: SitePerStep, batch: Sequences, noise: Tensor) -> Tensor:
    """The same by the literal programs, their guide's noise replaced by the given one."""
    arguments = _padded(batch, torch.float64)
    with _Noise(noise):
        trace = poutine.trace(literal.guide).get_trace(*arguments)
    model = poutine.trace(poutine.replay(literal.model, trace=trace)).get_trace(*arguments)
    return torch.as_tensor(model.log_prob_sum() - trace.log_prob_sum())


class _Noise(Messenger):
    """Draws z_t as mean + scale · noise_t."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, message: Any) -> None:
        if not message["name"].startswith("z_"):
            return
        law = message["fn"].base_dist
        while hasattr(law, "base_dist"):
            law = law.base_dist
        t = int(message["name"].removeprefix("z_"))
        message["value"] = law.loc + law.scale * self.noise[:, t - 1]
        message["done"] = True


def table(figures: Figures) -> str:
    """Seconds of an epoch, and their ratio."""
    ours, literal = figures["this_library"], figures["literal_program"]
    agreement = figures["agreement"]["relative_difference"]
    return "\n".join(
        [
            f"this library: {ours['seconds_per_epoch']:.3g} s an epoch",
            f"literal program: {literal['seconds_per_epoch']:.3g} s an epoch",
            f"{figures['times_faster']:.2f} times faster (reach: {REACH:g}), "
            f"ELBOs on the same draws {agreement:.1e} apart",
        ]
    )


def draw(figures: Figures) -> dict[str, Figure]:
    """Seconds of an epoch."""
    figure, axis = plt.subplots(figsize=(7, 2.2))
    names = {"this_library": "this library", "literal_program": "two Pyro sites\nper time step"}
    seconds = [figures[name]["seconds_per_epoch"] for name in names]
    axis.barh(list(names.values()), seconds, color=["tab:red", "tab:grey"])
    for row, value in enumerate(seconds):
        axis.annotate(
            f"{value:.3g} s", (value, row), (6, 0), textcoords="offset points", va="center"
        )
    axis.set(xlabel="seconds an epoch", xlim=(0, 1.15 * max(seconds)))
    axis.set_title(f"{figures['times_faster']:.1f} times faster (reach: {REACH:g})")
    axis.invert_yaxis()
    return {"epoch": figure}
