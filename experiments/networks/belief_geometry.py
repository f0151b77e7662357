"""Belief geometry: an LSTM that predicts symbols keeps the belief over states it was never told of.

A plain LSTM is trained on the next symbol of four processes whose hidden states move as they emit
(Mess3, RRXOR, zero-one-random, golden mean). Its loss is held against the exact filter's on the
same sequences, which start in the dark, and its state against the exact belief: by how much of it a
linear read-out finds in h, in c and in both. Beside it the controls that any such figure needs: an
untrained network, the same with its weights scaled up (a reservoir), the last few symbols, the
probabilities of the next symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...inference import (
    BeliefReadout,
    belief_readout,
    filter,
    log_evidence,
    lstm_log_likelihood,
    lstm_readouts,
    sample_states,
    step_log_likelihood,
)
from ...inference.arviz_groups import Idata
from ...inference.networks.network_inputs import network_inputs, states_of
from ...inference.networks.readouts import untrained_like
from ...models import LabelledChain, Sequences, mess3
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Repeated, all_counts, at_least, falls_short, over_seeds, stream, summary
from ..parts.language_models import LanguageModel, train
from .drawings.belief_geometry import draw
from .parts.labelled_processes import PROCESSES

__all__ = ["SMOKE", "Settings", "draw", "run"]

REACH = {
    **{f"{name}.loss_above_floor": ("<=", 0.002) for name in PROCESSES},
    "random_random_xor.read_outs.lstm_h_and_c.r_squared": (">=", 0.99),
    "mess3.read_outs.lstm_h_and_c.decoder_kl": ("<=", 1e-3),
}
"""What was to be reached, fixed before any run: nats per symbol, and the share R². A transformer's
R² on RRXOR was .61 to .82 (Shai et al. 2024, and a replication)."""

_SHOWN = 8, 11
"""Beliefs after all words up to this length are drawn (three symbols, two symbols)."""

_WORDS = 10, 16
"""Length of the words that the entropy rate of Mess3, and losses of short windows, are summed over
(three symbols, two symbols)."""

SCALES = (1.0, 2.0, 4.0, 8.0)
"""Factors of an untrained network's weights: larger ones make a reservoir that remembers longer."""

_POOL = 40
"""Batches that are simulated at once."""


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings of the experiment."""

    hidden_size: int = 48
    """Units of the LSTM: ten times the states, since each unit is bounded and coarse."""
    length: int = 24
    """Symbols a sequence: eight triples of RRXOR, enough to find out where they begin."""
    steps: int = 3000
    """Gradient steps on RRXOR, the hardest; Mess3 gets half, the two others a quarter."""
    batch_size: int = 256
    """Sequences per step, new ones every time."""
    learning_rate: float = 1e-2
    """Adam's, at the top of its one cycle."""
    heldout: int = 1500
    """Held-out sequences: half for the read-outs to be fitted to, half to judge them. The loss is
    compared with the floor in pairs on all of them."""
    draws: int = 20
    """Draws of the hidden states of a few sequences of Mess3 in posterior.nc."""

    def __post_init__(self) -> None:
        all_counts(self)
        at_least(0, self, "seed", "learning_rate")
        at_least(5, self, "length")
        at_least(20, self, "heldout")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "hidden_size": 6,
    "length": 8,
    "steps": 4,
    "batch_size": 16,
    "heldout": 30,
    "draws": 3,
}


class Trained(NamedTuple):
    """One network and how it did."""

    figures: dict[str, Any]
    curve: Array
    """Steps and loss above the floor while it was trained, (2, points)."""
    points: dict[str, Array]
    """Beliefs of held-out steps (points, K): exact, and as read off."""


def heldout(settings: Settings, chain: LabelledChain) -> Sequences:
    """The sequences on which everything is measured, the same for all networks of a process."""
    return chain.sample(settings.heldout, settings.length, seed=stream(settings, 0)).data


def run(settings: Settings) -> Outcome:
    """Train every network, measure each on the same held-out sequences."""
    plan = [(settings, name, number) for name in PROCESSES for number in range(settings.seeds)]
    done: list[Trained] = over_seeds(_trained, plan, jobs=settings.jobs)
    fits: dict[str, list[Trained]] = {name: [] for name in PROCESSES}
    for (_, name, _), one in zip(plan, done, strict=True):
        fits[name].append(one)
    figures: dict[str, Any] = {"reach": {path: bound for path, (_, bound) in REACH.items()}}
    for name, each in fits.items():
        exact = _floors(PROCESSES[name].make(), settings.length)
        figures[name] = {**exact, **summary([one.figures for one in each])}
    figures = {"not_reached": falls_short(figures, REACH), **figures}
    return Outcome(figures, _posterior(settings, fits))


def _trained(settings: Settings, name: str, number: int) -> Trained:
    process, chain = PROCESSES[name], PROCESSES[name].make()
    test = heldout(settings, chain)
    with one_thread():
        floor = -step_log_likelihood(chain.model, test).mean(1)
    seed = stream(settings, 1, list(PROCESSES).index(name), number)
    with seeded(seed):
        model = LanguageModel(chain.symbols, settings.hidden_size)
    steps = max(1, round(process.share * settings.steps))
    curve: list[tuple[float, float]] = []

    def watch(step: int) -> None:
        with torch.no_grad():
            curve.append((step, float(model(test.codes())) - float(floor.mean())))

    train(
        model,
        _batches(settings, chain, seed),
        steps=steps,
        learning_rate=settings.learning_rate,
        watch=watch,
        watch_every=max(1, steps // 20),
    )
    loss = -lstm_log_likelihood(model.lstm, model.output, test).mean(1)
    above = loss - floor  # in pairs: the sequences' own luck drops out
    beliefs = chain.state_beliefs(filter(chain.model, test))
    read = lstm_readouts(
        model.lstm, test, beliefs, next_symbol=chain.next_symbol(beliefs), seed=seed
    )
    rows = {_path(row): _row(one) for row, one in read.rows.items()}
    rows["scaled_reservoir_h_and_c"] = _reservoir(model.lstm, test, beliefs, seed)
    figures = {
        "loss": float(loss.mean()),
        "loss_above_floor": float(above.mean()),
        "loss_above_floor_standard_error": float(above.std()) / len(above) ** 0.5,
        "loss_floor_on_the_same_sequences": float(floor.mean()),
        "read_outs": rows,
    }
    points = _points(chain, model, test, beliefs, seed) if number == 0 else {}
    return Trained(figures, np.asarray(curve).T, points)


def _batches(settings: Settings, chain: LabelledChain, seed: int) -> Iterator[Tensor]:
    """New batches of codes without end."""
    block = 0
    while True:
        block += 1
        drawn = chain.sample(
            _POOL * settings.batch_size, settings.length, seed=(seed + 7919 * block) % 2**63
        )
        yield from drawn.data.codes().split(settings.batch_size)


def _path(row: str) -> str:
    """A row of the read-outs as the name of a figure."""
    return row.lower().replace("hc", "h_and_c").replace("'s", "").replace(" ", "_")


def _row(one: BeliefReadout) -> dict[str, float]:
    assert one.decoder_kl is not None
    return {"r_squared": one.r_squared, "decoder_kl": one.decoder_kl, "share_held": one.share}


def _reservoir(lstm: nn.LSTM, test: Sequences, beliefs: Tensor, seed: int) -> dict[str, float]:
    """The best of untrained networks with scaled weights, where it is judged: in their favour."""
    found = []
    for scale in SCALES:
        network = untrained_like(lstm, seed)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(scale)
            state = torch.cat(states_of(network, network_inputs(network, test)), -1)
        one = belief_readout(state, beliefs, test.step_mask, heldout=0.5, seed=seed)
        found.append({**_row(one), "scale": scale})
    return max(found, key=lambda row: row["r_squared"])


def _floors(chain: LabelledChain, length: int) -> dict[str, Any]:
    """What exact sums over words tell: entropy rate, and losses of those who see the last n alone.

    Somebody who reads the last n symbols pays H(t) − H(t − 1) at step t <= n + 1 and H(n + 1) −
    H(n) from then on, H being the entropy of words.
    """
    blocks = chain.block_entropies(_WORDS[0] if chain.symbols == 3 else _WORDS[1])
    each = torch.cat([blocks[:1], blocks.diff()])
    rate = chain.entropy_rate() if chain.deterministic else float(each[-1])
    windows = {}
    for n in range(5):
        steps = torch.arange(length).clamp_max(n)
        windows[f"last_{n}_symbols"] = float(each[steps].mean())
    return {"entropy_rate": rate, "exact_loss_of_the_best_function_of_the": windows}


def _points(
    chain: LabelledChain, model: LanguageModel, test: Sequences, beliefs: Tensor, seed: int
) -> dict[str, Array]:
    """Beliefs after every short word, as least squares reads them off h and c.

    The read-outs are fitted to the held-out sequences; words are shown as often as one another,
    though few of them are likely.
    """
    networks = {"lstm": model.lstm, "untrained": untrained_like(model.lstm, seed)}
    out: dict[str, Array] = {}
    for name, network in networks.items():
        weights = torch.linalg.lstsq(_state(network, test).flatten(0, 1), beliefs.flatten(0, 1))
        shown = [_state(network, words)[:, -1] for words in _words(chain)]
        out[name] = (torch.cat(shown) @ weights.solution).numpy()
    exact = [chain.state_beliefs(filter(chain.model, words))[:, -1] for words in _words(chain)]
    return out | {"exact": torch.cat(exact).numpy()}


def _words(chain: LabelledChain) -> Iterator[Sequences]:
    """All words that the process can emit, up to some length."""
    for length in range(1, (_SHOWN[0] if chain.symbols == 3 else _SHOWN[1]) + 1):
        every = torch.cartesian_prod(*[torch.arange(chain.symbols)] * length).reshape(-1, length)
        words = Sequences.from_tensors(every.unsqueeze(-1), codes=True)
        yield words[log_evidence(chain.model, words).isfinite()]


def _state(network: nn.LSTM, data: Sequences) -> Tensor:
    """h, c and a constant after every step, (N, T, features)."""
    state = torch.cat(states_of(network, network_inputs(network, data)), -1).double()
    return nn.functional.pad(state, (0, 1), value=1.0)


@one_thread()
def _posterior(settings: Settings, fits: Mapping[str, list[Trained]]) -> Idata:
    """Draws of hidden states of some sequences of Mess3, and all that is drawn."""
    chain = mess3()
    few = heldout(settings, chain)[:4]
    pairs = sample_states(chain.model, few, settings.draws, seed=stream(settings, 2))
    arrays: dict[str, Array] = {}
    dims: dict[str, tuple[str, ...]] = {}
    for name, each in fits.items():
        for kind, points in each[0].points.items():
            arrays[f"{name}_{kind}_beliefs"] = points
            dims[f"{name}_{kind}_beliefs"] = (f"{name}_point", f"{name}_state")
        arrays[f"{name}_curve"] = np.stack([one.curve for one in each])
        dims[f"{name}_curve"] = ("training_seed", "step_and_loss", f"{name}_watched")
    return record(
        settings,
        {
            "posterior": {"hidden_state": (pairs // chain.symbols).numpy()[None]},
            "observed_data": {"symbol": few.codes().numpy()},
            "constant_data": arrays,
        },
        dims={
            "hidden_state": ("sequence", "time"),
            "symbol": ("sequence", "time"),
            **dims,
        },
    )


# Drawings
