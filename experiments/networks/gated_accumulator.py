"""Gated accumulator: the memory cell of an LSTM is an exact posterior mean, where it can be.

A memory is kept or dropped, and written to or not, at every step; what is seen tells of keeping,
writing and of the value that is offered, each by a channel of its own. The mean of the memory given
the past is then c_t = f c_{t-1} + i g with f = P(keep|y), i = P(write|y), g = E[value|y]: an LSTM
of one unit, whose weights can be written down. Here they are, and here they are learned, in two
ways: from simulated memories by least squares, whose minimum is the posterior mean, and from what
is observed alone, by the ELBO of a `BeliefGuide` whose belief is what the gates say. Beside them:
Elman networks, gates that do not read, and two models of observation for which no cell is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...inference import (
    ConstructedCell,
    construct,
    failing_conditions,
    filter,
    log_evidence,
    recurrent_gates,
    sample_states,
)
from ...inference.arviz_groups import Idata
from ...models import GatedAccumulator, HiddenMarkovModel, ResetModel, Sequences, memory_states
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, each_seed, stream, summary
from ..parts.training import GradientSteps, Kept
from .drawings import gated_accumulator as drawings
from .parts.descent import descend
from .parts.memory_bounds import gate_bound
from .parts.memory_cells import CellMean, ElmanMean

KEEP, WRITE, POSITIVE = 0.85, 0.4, 0.6
"""P(u = 1), P(v = 1), P(x = 1): a memory lasts some six steps, and prior odds must be learned."""

EXACT = ("accumulator", "reset")
"""Models for which the cell is the mean."""

VIOLATING = ("leaking_accumulator", "accumulator_with_a_shared_channel")
"""Models for which it is not: y tells of the memory before; a feature tells of keep and write."""

BY_ELBO = "lstm_of_one_unit_by_the_elbo"
CELLS = ("lstm_of_one_unit", BY_ELBO)

REACH = {
    "accumulator.constructed.largest_error": ("<=", 1e-6),
    "reset.constructed.largest_error": ("<=", 1e-6),
    **{
        f"{case}.{cell}.{gate}_gate_correlation": (">=", 0.99)
        for case in EXACT
        for cell in CELLS
        for gate in ("forget", "input")
    },
    "accumulator.elman_over_lstm_least_ratio": (">=", 1.0),
    "reset.elman_over_lstm_least_ratio": (">=", 1.0),
    "leaking_accumulator.refused_by_name": (">=", 1),
    "accumulator_with_a_shared_channel.refused_by_name": (">=", 1),
}
"""What was to be reached, fixed before any run.

Largest |cell − exact mean|; correlation of gates with posterior probabilities, mean over seeds;
the better Elman network's squared distance from the exact mean in units of the LSTM's, least of all
seeds.
"""


@dataclass(frozen=True)
class Settings(Kept, GradientSteps, Repeated):
    """Settings of the experiment."""

    length: int = 20
    """Steps of a sequence: three times a memory's life."""
    strength: float = 1.0
    """Distance of the two means of a channel from their middle, in standard deviations: P(u|y) is
    then right four times in five, so that the gates have something to weigh."""
    leak: float = 0.5
    """Of the model whose observation tells of the memory before: loading of its channel."""
    training_sequences: int = 8000
    """New ones for every fit; more than a few dozen weights can learn by heart."""
    heldout_sequences: int = 500
    """Sequences on which everything is measured, the same for all fits."""
    steps: int = 1500
    batch_size: int = 200
    learning_rate: float = 3e-2
    starts: int = 4
    """Weights that every fit starts from, of which one goes on: one start in ten ends with a
    candidate that tells of something else than the value."""
    start_steps: int = 200
    """Gradient steps of every start: enough to tell them apart."""
    elman_units: int = 3
    """Units of the wider Elman network, which then has as many weights as the LSTM of one."""
    draws: int = 200
    """Draws of their memories from the exact posterior, kept too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "length", "training_sequences", "heldout_sequences", "steps", "starts")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 6,
    "training_sequences": 30,
    "heldout_sequences": 10,
    "steps": 3,
    "start_steps": 2,
    "batch_size": 10,
    "shown": 3,
    "draws": 5,
}


class Exact(NamedTuple):
    """What the exact filter says of sequences, each (N, T) float64."""

    memory: Tensor
    """E[z_t | y_1 … y_t]."""
    keep: Tensor
    """P(u_t = 1 | y_1 … y_t)."""
    write: Tensor
    """P(v_t = 1 | y_1 … y_t)."""
    value: Tensor
    """E[x_t | y_1 … y_t]."""


class Case(NamedTuple):
    """A model and sequences of it, float64."""

    model: HiddenMarkovModel
    data: Sequences
    memory: Tensor
    """The true z_t, (N, T)."""
    exact: Exact
    evidence: Tensor
    """log p(y), nats, (N,)."""


# The models


def known_model(settings: Settings, name: str) -> HiddenMarkovModel:
    """One of the four models at its values."""
    strength = settings.strength
    chances = {"keep": KEEP, "positive": POSITIVE}
    if name == "reset":
        model, loading = ResetModel(), strength * torch.eye(2)
    else:
        chances["write"] = WRITE
        leaks = name.startswith("leaking")
        features = 4 if leaks else 3
        model = GatedAccumulator(settings.length, features=features, leak=leaks)
        loading = strength * torch.eye(features)
        if leaks:
            loading[3, 3] = settings.leak
        elif name in VIOLATING:
            loading[0, 1] = strength  # what tells of writing tells of keeping as well
    features = loading.shape[1]
    return model.with_parameters(
        **chances, loading=loading, intercept=[0.0] * features, scale=[1.0] * features
    )


def simulated(settings: Settings, name: str, n: int, seed: int) -> tuple[Sequences, Tensor]:
    """n sequences and their memories z_t (N, T)."""
    model = known_model(settings, name)
    drawn = model.sample(n, settings.length, seed=seed)
    return drawn.data, memory_states(model).memory[drawn.states]


def heldout(settings: Settings, name: str) -> Case:
    """The sequences on which everything is measured, with what the exact filter says of them."""
    model = known_model(settings, name)
    data, memory = simulated(settings, name, settings.heldout_sequences, stream(settings, 0))
    beliefs = filter(model, data)
    table = memory_states(model)
    columns = table.memory, table.keep, table.write, table.value
    exact = Exact(*(beliefs @ column for column in columns))
    return Case(model, data, memory, exact, log_evidence(model, data))


# Networks


def networks(settings: Settings) -> dict[str, Callable[[int], nn.Module]]:
    """What is trained, by name: makers of networks that read so many features."""
    return {
        **dict.fromkeys(CELLS, CellMean),
        "elman_of_one_unit": lambda features: ElmanMean(features, 1),
        "elman_with_as_many_weights": lambda features: ElmanMean(features, settings.elman_units),
    }


def trained(settings: Settings, case: str, name: str, number: int) -> nn.Module:
    """One network, by least squares on simulated memories or by the ELBO of what is observed.

    E[z_t | y_1 … y_t] is the minimum of the one, the exact gates are the maximum of the other. Of
    several starts the one goes on that is best on the training sequences.
    """
    seed = stream(settings, 1, number)
    data, memory = simulated(settings, case, settings.training_sequences, seed)
    y, target, model = data.values.float(), memory.float(), known_model(settings, case)

    def missed(network: nn.Module, rows: Tensor | slice) -> Tensor:
        if name == BY_ELBO:
            return -bound(network, model, y[rows]).mean() / settings.length
        away: Tensor = network(y[rows]) - target[rows]
        return away.square().mean()

    def losses(network: nn.Module) -> Iterator[Tensor]:
        while True:
            yield missed(network, torch.randint(len(y), (settings.batch_size,)))

    def down(network: nn.Module, steps: int) -> None:
        rate = settings.learning_rate
        descend(network, losses(network), steps=steps, learning_rate=rate, clip=None)

    with seeded(seed):
        made = [networks(settings)[name](data.n_features) for _ in range(settings.starts)]
        for network in made:
            down(network, settings.start_steps)
        with torch.no_grad():
            best = min(made, key=lambda network: float(missed(network, slice(None))))
        down(best, settings.steps)
    return best.double()


def bound(network: nn.Module, model: HiddenMarkovModel, y: Tensor) -> Tensor:
    """ELBO of the belief that the gates of an LSTM of one unit are, nats, (N,)."""
    assert isinstance(network, CellMean)
    parts = recurrent_gates(network.network, y)
    f, i, g = (parts[part][:, :, 0, 0] for part in "fig")
    return gate_bound(model, y, f, i, g)


# Measures


class Measured(NamedTuple):
    """A network on the held-out sequences of a case."""

    figures: dict[str, Any]
    mean: Array
    gates: dict[str, Array]
    """f, i, g of an LSTM, (N, T) each."""


def work(settings: Settings, case: str, name: str, number: int) -> Measured:
    """Train one network and measure it."""
    return measured(trained(settings, case, name, number), heldout(settings, case))


@torch.no_grad()
def measured(network: nn.Module, case: Case) -> Measured:
    """How far a network is from the exact mean, and its gates from the posteriors."""
    y = case.data.values.double()
    mean = network(y)
    figures, gates = distances(mean, case), {}
    figures["weights"] = f"{sum(weight.numel() for weight in network.parameters())}"
    if isinstance(network, CellMean):
        parts = recurrent_gates(network.network, y)
        gates = {part: parts[part][:, :, 0, 0].numpy() for part in "fig"}
        # What is forgotten of the empty memory before the first step does not matter.
        f, keep = gates["f"][:, 1:], case.exact.keep[:, 1:]
        figures["forget_gate_correlation"] = correlation(f, keep)
        figures["input_gate_correlation"] = correlation(gates["i"], case.exact.write)
        figures["candidate_correlation"] = correlation(gates["g"], case.exact.value)
        figures["mean_distance_of_forget_gate"] = float(np.abs(f - keep.numpy()).mean())
        distance = np.abs(gates["i"] - case.exact.write.numpy())
        figures["mean_distance_of_input_gate"] = float(distance.mean())
        gap = (case.evidence - bound(network, case.model, y)).mean() / y.shape[1]
        figures["evidence_gap_per_step"] = float(gap)
    return Measured(figures, mean.numpy(), gates)


def distances(mean: Tensor, case: Case) -> dict[str, object]:
    """Squared distances of a mean (N, T) from the exact one, and from the memory itself."""
    floor = float((case.exact.memory - case.memory).square().mean())
    return {
        "squared_distance_from_exact_mean": float((mean - case.exact.memory).square().mean()),
        "squared_error_over_exact_filter": float((mean - case.memory).square().mean()) / floor,
    }


def correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Of all entries; 0 where one of the two does not vary."""
    left, right = np.asarray(x).reshape(-1), np.asarray(y).reshape(-1)
    vary = left.std() > 0 and right.std() > 0
    return float(np.corrcoef(left, right)[0, 1]) if vary else 0.0


def baselines(case: Case) -> dict[str, object]:
    """Means that need no training: none, and gates that do not read y."""
    known = {name: float(case.model.known[name]) for name in ("keep", "positive")}
    write = float(case.model.known["write"]) if "write" in case.model.known else 1 - known["keep"]
    value, c, cells = case.exact.value, torch.zeros(len(case.data)).double(), []
    for t in range(value.shape[1]):
        c = known["keep"] * c + write * value[:, t]
        cells.append(c)
    return {
        "mean_without_reading": distances(case.memory.mean(0).expand_as(case.memory), case),
        "gates_at_their_prior_probabilities": distances(torch.stack(cells, 1), case),
        "exact_filter": {
            **distances(case.exact.memory, case),
            "squared_error": float((case.exact.memory - case.memory).square().mean()),
        },
    }


# The experiment


@one_thread()
def run(settings: Settings) -> Outcome:
    """Construct, train and measure everything on the same held-out sequences."""
    names = networks(settings)
    plan = [(case, name) for case in EXACT for name in names]
    plan += [(case, name) for case in VIOLATING for name in CELLS]
    fits = each_seed(work, settings, plan)
    figures: dict[str, Any] = {}
    for name in (*EXACT, *VIOLATING):
        case = heldout(settings, name)
        own = {kind: each for (of, kind), each in fits.items() if of == name}
        figures[name] = _figures(settings, case, name, own)
    return Outcome(against(figures, REACH), _posterior(settings, fits))


def _figures(
    settings: Settings, case: Case, name: str, fits: Mapping[str, list[Measured]]
) -> dict[str, Any]:
    out: dict[str, Any] = {**baselines(case)}
    features = case.data.n_features
    with seeded(stream(settings, 2)):
        out["untrained_lstm_of_one_unit"] = measured(CellMean(features).double(), case).figures
    out |= {kind: summary([one.figures for one in each]) for kind, each in fits.items()}
    if name in EXACT:
        cell = construct(case.model)
        assert isinstance(cell, ConstructedCell)
        out["constructed"] = {
            "largest_error": float((cell.mean(case.data) - case.exact.memory).abs().max())
        }
        path = "squared_distance_from_exact_mean"
        elman = [kind for kind in fits if kind.startswith("elman")]
        ratios = [
            min(fits[kind][seed].figures[path] for kind in elman) / one.figures[path]
            for seed, one in enumerate(fits["lstm_of_one_unit"])
        ]
        out["elman_over_lstm_least_ratio"] = min(ratios)
    else:
        failing = failing_conditions(case.model)
        word = "memory before" if name.startswith("leaking") else "keep and write"
        out["refused_because"] = "; ".join(failing)
        out["refused_by_name"] = float(any(word in reason for reason in failing))
    return out


def _posterior(settings: Settings, fits: Mapping[tuple[str, str], list[Measured]]) -> Idata:
    """Draws of the memory from the exact posterior, and all that is drawn, of the first seed."""
    shown, arrays, draws = settings.shown, {}, {}
    for name in (*EXACT, *VIOLATING):
        case = heldout(settings, name)
        paths = sample_states(
            case.model, case.data[:shown], settings.draws, seed=stream(settings, 3)
        )
        draws[f"{name}_memory"] = memory_states(case.model).memory[paths].numpy()[None]
        for part, values in case.exact._asdict().items():
            arrays[f"{name}_exact_{part}"] = values.numpy()
        arrays[f"{name}_true_memory"] = case.memory.numpy()
    for (name, kind), each in fits.items():
        arrays[f"{name}_{kind}_mean"] = each[0].mean
        for part, values in each[0].gates.items():
            arrays[f"{name}_{kind}_{part}"] = values
    dims = dict.fromkeys(arrays, ("heldout", "step"))
    return record(
        settings,
        {"posterior": draws, "constant_data": arrays},
        dims={**dims, **dict.fromkeys(draws, ("sequence", "step"))},
        coords={"step": np.arange(1, settings.length + 1)},
    )


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """Gates beside posteriors, a memory and its means, distances from the exact mean."""
    cases = (*EXACT, *VIOLATING)
    return {
        "gates": drawings.gates(posterior, figures, cases),
        "memory": drawings.memory(posterior, ("accumulator", *VIOLATING)),
        "distances": drawings.distances(figures, cases),
    }
