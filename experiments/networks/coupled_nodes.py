"""Coupled nodes: k binary nodes are 2^k states, and W_h holds what they depend on.

Random chains of k binary nodes that drive each other are fitted with full couplings W_h and with a
diagonal W_h, which makes the nodes independent chains; held-out evidence is compared with the
truth's, and that of the diagonal with a bound by enumeration: it lies no farther behind than the
diagonal chain that is nearest where the nodes are seen. Then: how large must an LSTM be to hold the
belief about 2^k states, with a logit a node and with a logit a state?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...inference import BeliefGuide, ExactFilter, filter, fit, log_evidence
from ...inference.arviz_groups import Idata
from ...models import Gaussian, HiddenMarkovModel, TemporalSigmoidBeliefNetwork
from ...models.chains.node_laws import Coupling
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome, record
from ..command.seeds import Resumable, against, over_seeds, stream, summary
from ..parts.training import GradientSteps, NodeRange, to_the_end
from .drawings.coupled_nodes import HEADS, draw
from .parts.coupled_nodes import Network, information, projected

__all__ = ["SMOKE", "Settings", "draw", "run"]

REACH = {
    "full_couplings.largest_excess_at_the_upper_end_of_its_interval": ("<=", 0.005),
    "diagonal_couplings.smallest_loss_at_the_lower_end_of_its_interval": (">=", 0.0),
    "diagonal_couplings.largest_excess_over_the_enumerated_bound_at_the_upper_end": ("<=", 0.0),
}
"""What was to be reached, fixed before any run: over all numbers of nodes, of means over models.

Nats per step on held-out sequences, at the ends of 95 % intervals over random models. The excess is
what a fit lies behind the truth; the loss is what the diagonal lies behind the full couplings of
the same model; the bound is that of ``projected``.
"""


@dataclass(frozen=True)
class Settings(Resumable, GradientSteps, NodeRange):
    """Settings of the experiment."""

    seeds: int = 20
    """Random models of every size, each fitted once to sequences of its own."""
    smallest_nodes: int = 2
    """Nodes of the smallest models, 4 states…"""
    largest_nodes: int = 8
    """…and of the largest, 256 states, with 8 (8 + 1) numbers for their transitions."""
    sequences: int = 1200
    """Training sequences of a fit."""
    length: int = 50
    """Steps of every sequence: 60 000 steps cost a fit of 160 numbers .0013 nats a step."""
    heldout: int = 600
    """Sequences on which the evidence is compared, the same for all fits."""
    steps: int = 100
    """Gradient steps of a fit, from clusters whose centres add up over the nodes."""
    batch_size: int = 150
    learning_rate: float = 0.08
    """Adam's, falling along a cosine: at .03 so many steps end short of the maximum."""
    restarts: int = 2
    """Starts of a fit: clusters may pair the nodes wrongly."""
    held_nodes: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    """Nodes of the models whose belief an LSTM shall hold, K = 2 to 256 states."""
    held_share: float = 0.01
    """An LSTM holds the states if KL(exact filter ‖ its belief), less what no product of Bernoulli
    laws can say where it has a logit a node, is at most this share of the mean information of the
    belief, I(h_t; y_1 … y_t). Fixed before any run."""
    sizes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
    """Units that are tried; the smallest that holds the states is found by bisection."""
    network_seeds: int = 3
    """LSTMs of every size that is tried."""
    network_sequences: int = 4000
    """Sequences that they learn from, by cross-entropy to the exact filter's beliefs…"""
    network_length: int = 20
    """…and their length: the beliefs have long reached their usual precision."""
    network_steps: int = 800
    """Gradient steps of an LSTM."""
    network_batch: int = 100
    """Sequences per step."""

    PLAN: ClassVar[tuple[str, ...]] = (
        *("jobs", "kept", "seeds", "smallest_nodes", "largest_nodes", "held_nodes"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = list(self.sizes) == sorted(set(self.sizes)) and bool(self.sizes)
        require(ordered, "sizes", "needs increasing numbers", self.sizes)
        require(bool(self.held_nodes), "held_nodes", "needs at least one", self.held_nodes)


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "largest_nodes": 3,
    "sequences": 20,
    "length": 12,
    "heldout": 20,
    "steps": 4,
    "batch_size": 20,
    "restarts": 1,
    "held_nodes": (1, 2),
    "sizes": (1, 2, 3),
    "network_seeds": 2,
    "network_sequences": 30,
    "network_length": 8,
    "network_steps": 4,
    "network_batch": 10,
}


def truth(settings: Settings, nodes: int, number: int = 0) -> HiddenMarkovModel:
    """Nodes that stay as they are, follow the node before them and resist that behind.

    There are as many outputs. A node's effect on them is three standard deviations of their noise,
    along directions that are orthogonal but for some mixing.
    """
    key = (1, nodes, number) if number else (1, nodes)
    rng = np.random.default_rng(stream(settings, *key))
    weight = np.diag(rng.uniform(1.5, 2.5, nodes)) + rng.normal(0, 0.3, (nodes, nodes))
    for node in range(nodes):
        if nodes > 1:
            weight[node, node - 1] += rng.uniform(2, 3)
        if nodes > 2:
            weight[node, (node + 1) % nodes] -= rng.uniform(1, 2)
    rotation = np.linalg.qr(rng.normal(size=(nodes, nodes)))[0]
    return TemporalSigmoidBeliefNetwork(nodes, Gaussian(nodes)).with_parameters(
        node_initial=np.zeros(nodes),
        node_weight=weight,
        node_bias=-weight.sum(-1) / 2 + rng.normal(0, 0.2, nodes),
        node_loading=3 * rotation + rng.normal(0, 0.3, (nodes, nodes)),
        node_intercept=rng.normal(0, 1, nodes),
        scale=np.ones(nodes),
    )


# Couplings: full and diagonal


def _fitted(
    settings: Settings, nodes: int, coupling: Coupling, number: int, truth: HiddenMarkovModel
) -> HiddenMarkovModel:
    """Maximum likelihood by exact evidence, from clusters of the training frames."""
    seed = stream(settings, 2, nodes, number)
    data = truth.sample(settings.sequences, settings.length, seed=seed).data
    model = TemporalSigmoidBeliefNetwork(nodes, Gaussian(nodes), coupling=coupling)
    model = model.scaled_to(data)
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    how = to_the_end(
        steps=settings.steps,
        batch_size=settings.batch_size,
        restarts=settings.restarts,
        restart_steps=max(1, settings.steps // 10),
        parameter_learning_rate=settings.learning_rate,
    )
    found = fit(model, guide, data, settings=how, seed=seed, progress=False).fitted
    return model.with_parameters(**found.known)


@one_thread()
def _coupled(settings: Settings, nodes: int, number: int) -> dict[str, Any]:
    """Excess over one random truth of both couplings, fitted to the same sequences; nats per step.

    Beside them the enumerated bound, the diagonal chain that it is of, and frames without memory.
    """
    known = truth(settings, nodes, number)
    test = known.sample(settings.heldout, settings.length, seed=stream(settings, 3, nodes)).data
    best = float(log_evidence(known, test).sum())

    def excess(model: HiddenMarkovModel) -> float:
        return (best - float(log_evidence(model, test).sum())) / test.n_steps

    out = {
        f"{coupling}_excess_per_step": excess(_fitted(settings, nodes, coupling, number, known))
        for coupling in COUPLINGS
    }
    values, bound = projected(known, settings.length)
    free = TemporalSigmoidBeliefNetwork(nodes, Gaussian(nodes), coupling="diagonal")
    frames = known.emission.score(known.known, test.values.double(), test.mask)
    table = known.transition(known.complete({}), None)[0, 0].exp()  # type: ignore[arg-type]
    stationary = torch.linalg.matrix_power(table, 4096)[0].log()
    alone = float((frames + stationary).logsumexp(-1).sum())
    states = 2**nodes
    return out | {
        "loss_of_the_diagonal_per_step": (
            out["diagonal_excess_per_step"] - out["full_excess_per_step"]
        ),
        "truth_evidence_per_step": best / test.n_steps,
        "enumerated_bound_of_the_diagonal_per_step": bound,
        "diagonal_excess_less_the_bound_per_step": out["diagonal_excess_per_step"] - bound,
        "excess_of_the_enumerated_projection_per_step": excess(
            free.with_parameters(**{**known.known, **values})
        ),
        "excess_of_frames_alone_per_step": (best - alone) / test.n_steps,
        "transition_numbers_full": f"{nodes * (nodes + 1)}",
        "transition_numbers_of_a_free_chain": f"{states * (states - 1)}",
    }


COUPLINGS: tuple[Coupling, ...] = ("full", "diagonal")


# How large an LSTM must be


class Beliefs(NamedTuple):
    """Sequences (N, T, F) with the exact filter's beliefs about them, (N, T, 2^k)."""

    y: Tensor
    exact: Tensor


def heldout(settings: Settings, nodes: int) -> Beliefs:
    """Those on which LSTMs are compared with the exact filter."""
    return filtered(settings, nodes, settings.heldout, stream(settings, 7, nodes))


def filtered(settings: Settings, nodes: int, sequences: int, seed: int) -> Beliefs:
    """Simulated sequences and what the exact filter says of them."""
    known = truth(settings, nodes)
    data = known.sample(sequences, settings.network_length, seed=seed).data
    return Beliefs(data.values.float(), filter(known, data).float())


def _trained(
    settings: Settings, train: Beliefs, nodes: int, head: str, size: int, seed: int
) -> Network:
    """An LSTM that minimises the cross-entropy to the exact beliefs."""
    with seeded(seed):
        network = Network(train.y.shape[-1], size, nodes, head)
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.network_steps)
        for _ in range(settings.network_steps):
            rows = torch.randint(len(train.y), (settings.network_batch,))
            loss = network.cross_entropy(train.y[rows], train.exact[rows]).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return network


def _smallest(settings: Settings, nodes: int, head: str, number: int) -> dict[int, float]:
    """KL beyond the head's floor, as a share of the information, by size.

    For the sizes that a bisection for the smallest one that holds the states tries.
    """
    seed, test = stream(settings, 6, nodes, number), heldout(settings, nodes)
    train = filtered(settings, nodes, settings.network_sequences, seed)
    of = information(test.exact)
    floor = of["entropy"] + (of["total_correlation"] if head == HEADS[0] else 0.0)
    tried: dict[int, float] = {}
    low, high = 0, len(settings.sizes)
    while low < high:
        middle = (low + high) // 2
        size = settings.sizes[middle]
        network = _trained(settings, train, nodes, head, size, stream(settings, 8, number, size))
        with torch.no_grad():
            cross = float(network.cross_entropy(test.y, test.exact).double().mean())
        tried[size] = (cross - floor) / of["information"]
        low, high = (low, middle) if tried[size] <= settings.held_share else (middle + 1, high)
    return tried


def _held(settings: Settings) -> tuple[dict[str, Any], dict[str, list[list[float]]]]:
    """Smallest LSTM for every number of states and both heads; all that was tried."""
    seeds = range(settings.network_seeds)
    plan = [(settings, k, head, n) for k in settings.held_nodes for head in HEADS for n in seeds]
    done = dict(
        zip((p[1:] for p in plan), over_seeds(_smallest, plan, jobs=settings.jobs), strict=True)
    )
    out: dict[str, Any] = {}
    shares: dict[str, list[list[float]]] = {head: [] for head in HEADS}
    for nodes in settings.held_nodes:
        told = information(heldout(settings, nodes).exact)
        of: dict[str, Any] = {f"{name}_per_step": value for name, value in told.items()}
        for head in HEADS:
            each = [done[nodes, head, number] for number in seeds]
            holds = [
                [s for s, share in one.items() if share <= settings.held_share] for one in each
            ]
            found = [float(min(sizes)) for sizes in holds if sizes]
            shares[head] += [[nodes, size, share] for one in each for size, share in one.items()]
            of[head] = {
                "seeds_that_held": len(found),
                "smallest_units_by_seed": found,
                "median_of_the_smallest_units": float(np.median(found)) if found else "none held",
            }
        out[f"{2**nodes}_states"] = of
    return out, shares


# The experiment


def run(settings: Settings) -> Outcome:
    """Fit both couplings to random models of all sizes, then find the smallest LSTMs."""
    counts = range(settings.smallest_nodes, settings.largest_nodes + 1)
    plan = [(settings, nodes, number) for nodes in counts for number in range(settings.seeds)]
    done = over_seeds(_coupled, plan, jobs=settings.jobs, kept=settings.kept)
    by_nodes: dict[str, dict[str, Any]] = {}
    for at, nodes in enumerate(counts):
        each = done[at * settings.seeds : (at + 1) * settings.seeds]
        by_nodes[f"{nodes}_nodes"] = summary(each)
    held, shares = _held(settings)

    def ends(figure: str, side: int) -> list[float]:
        return [one[f"{figure}_interval"][side] for one in by_nodes.values()]

    low, high = 0, 1
    figures: dict[str, Any] = {
        "full_couplings": {
            "largest_excess_at_the_upper_end_of_its_interval": max(
                ends("full_excess_per_step", high)
            )
        },
        "diagonal_couplings": {
            "smallest_loss_at_the_lower_end_of_its_interval": min(
                ends("loss_of_the_diagonal_per_step", low)
            ),
            "largest_excess_over_the_enumerated_bound_at_the_upper_end": max(
                ends("diagonal_excess_less_the_bound_per_step", high)
            ),
        },
        "by_nodes": by_nodes,
        "smallest_lstm": held,
    }
    return Outcome(against(figures, REACH), _record(settings, done, shares))


def _record(
    settings: Settings, done: list[dict[str, Any]], shares: Mapping[str, list[list[float]]]
) -> Idata:
    """Excesses of every model, and every LSTM that was trained."""
    excess: dict[str, Any] = {
        coupling: np.reshape(
            [one[f"{coupling}_excess_per_step"] for one in done], (-1, settings.seeds)
        )
        for coupling in COUPLINGS
    }
    tried = {f"{head}_tried": np.array(rows) for head, rows in shares.items()}
    dims = {name: (f"{name}_network", "nodes_units_share") for name in tried}
    return record(
        settings,
        {"runs": excess, "constant_data": tried},
        dims={**dims, **dict.fromkeys(COUPLINGS, ("nodes", "model"))},
        coords={"nodes": np.arange(settings.smallest_nodes, settings.largest_nodes + 1)},
    )
