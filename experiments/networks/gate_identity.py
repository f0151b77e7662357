"""Gate identity: when is a gate σ(W_h h' + W_y y + b) the posterior of binary nodes?

Chains of k binary nodes, 2^k states. In three kinds of models the posterior of the nodes given
those before and the observation *is* such a gate: in the harmonium for any weights, in directed
models whose outputs do not couple the nodes. There the gate is written from the parameters and
compared with the enumerated posterior, and learned from simulations alone and compared with the
formula. In two kinds of directed models outputs have several parents, and explaining away couples
the nodes: the learned gate is compared with the best one that there is, found by enumeration and
convex optimisation on pairs of its own; both are scored on fresh ones.

A gate of p weights learned from n pairs has a divergence of p / 2n whatever it means, if its family
holds the truth: where the gate is exact its divergence is compared with that, not with zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...inference.arviz_groups import Idata
from ...models import (
    Bernoulli,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    gate_conditions,
    node_gate,
    node_states,
)
from ...models.randomness import one_thread
from ..command.report import Outcome, record
from ..command.seeds import Figures, against, at_least, each_seed, stream, summary
from ..parts.gates import Pairs, best_gate, error, posterior, weights_of
from ..parts.training import NodeRange
from .drawings.gate_identity import draw

__all__ = ["SMOKE", "Settings", "draw", "run"]

REACH = {
    "exact_cases.largest_error_of_the_constructed_gate": ("<=", 1e-6),
    "exact_cases.largest_kl_in_units_of_what_any_fit_has": ("<=", 1.5),
    "exact_cases.largest_relative_error_of_observation_weights": ("<=", 0.02),
    "exact_cases.largest_relative_error_of_biases": ("<=", 0.02),
    "violating_cases.largest_excess_over_the_floor": ("<=", 0.05),
    "violating_cases.smallest_excess_over_the_floor": (">=", -0.01),
}
"""What was to be reached, fixed before any run; largest over cases and numbers of nodes of the mean
over seeds, but for the last one, which is the smallest of all runs.

The unit of a divergence is p / 2n: with p = 36 weights and five seeds its mean is known to .1 of
it, and 1 where the gate is a posterior. On pairs on which the best gate was not found a learned one
can be before it by chance, by less than a hundredth.
"""


PARTS = ("node_weights", "observation_weights", "biases")
RELATIVE, EXCESS = "relative_error_of_{}", "excess_over_the_floor"
KL, CHANCE, UNITS = (
    "kl_of_the_learned_gate_per_step",
    "kl_of_any_logistic_fit_per_step",
    "kl_in_units_of_what_any_fit_has",
)
"""Names of figures."""


@dataclass(frozen=True)
class Settings(NodeRange):
    """Settings of the experiment."""

    smallest_nodes: int = 4
    """Nodes of the smallest models, 16 states…"""
    largest_nodes: int = 8
    """…and of the largest, 256 states; all numbers between are taken too."""
    sequences: int = 1600
    """Simulated sequences that a gate is learned from…"""
    length: int = 250
    """…and their length: 400 000 steps know a weight to about 1 %."""
    heldout: int = 20000
    """Pairs of nodes before and observation at which everything is measured, the same for all
    seeds; no gate has seen them."""
    floor_pairs: int = 40000
    """Other pairs, on which the best gate, the floor, is found with the enumerated posteriors for
    its targets."""
    draws: int = 10
    """Models of every kind at which the written gate is checked; couplings of those that violate
    the conditions are multiplied by 10^U(−4, 0)."""
    checked: int = 500
    """Pairs at which it is checked, in each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "length")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "smallest_nodes": 2,
    "largest_nodes": 3,
    "sequences": 20,
    "length": 30,
    "heldout": 200,
    "floor_pairs": 200,
    "draws": 2,
    "checked": 50,
}


# The models


def _chain(nodes: int, rng: np.random.Generator) -> dict[str, Any]:
    """Nodes that mostly stay as they are and pull at each other, on as often as off."""
    weight = np.diag(rng.uniform(2, 3, nodes)) + rng.normal(0, 0.7, (nodes, nodes))
    bias = -weight.sum(-1) / 2 + rng.normal(0, 0.3, nodes)
    return {"node_initial": np.zeros(nodes), "node_weight": weight, "node_bias": bias}


def _gaussian(nodes: int, rng: np.random.Generator, coupling: float) -> HiddenMarkovModel:
    """Directed, Gaussian; B'Σ⁻¹B is diagonal without coupling, and B is random with all of it."""
    root = rng.normal(size=(nodes, 2 * nodes)) / np.sqrt(2 * nodes)
    covariance = root @ root.T + 0.2 * np.eye(nodes)
    rotation = np.linalg.qr(rng.normal(size=(nodes, nodes)))[0]
    apart = np.diag(rng.uniform(1, 1.6, nodes)) @ rotation
    random = rng.normal(0, 1.3 / np.sqrt(nodes), (nodes, nodes))
    effect = (1 - coupling) * apart + coupling * random
    return TemporalSigmoidBeliefNetwork(nodes, FullGaussian(nodes)).with_parameters(
        **_chain(nodes, rng),
        node_loading=effect @ np.linalg.cholesky(covariance).T,
        node_intercept=rng.normal(0, 0.5, nodes),
        covariance=covariance,
    )


def _harmonium(nodes: int, rng: np.random.Generator, coupling: float) -> HiddenMarkovModel:
    """Gaussian outputs with random weights; biases such that all nodes go on and off."""
    chain = _chain(nodes, rng)
    loading = rng.normal(0, 1.3 / np.sqrt(nodes), (nodes, nodes))
    pull = coupling * loading @ loading.T
    drive = np.diag(pull) / 2 + (pull - np.diag(np.diag(pull))).sum(-1) / 2
    chain["node_bias"] = chain["node_bias"] - drive
    chain["node_initial"] = chain["node_initial"] - drive
    return TemporalRBM(nodes, Gaussian(nodes)).with_parameters(
        **chain, node_loading=loading, node_intercept=np.zeros(nodes), scale=np.ones(nodes)
    )


def _bits(nodes: int, rng: np.random.Generator, coupling: float) -> HiddenMarkovModel:
    """Directed, two bits a node, each with one parent; the next node is the other, if coupled."""
    size = 2 * nodes
    loading = np.zeros((nodes, size))
    for output in range(size):
        for node, strength in ((output, 1.0), (output + 1, coupling)):
            effect = rng.uniform(1.5, 2.5) * rng.choice([-1, 1])
            loading[node % nodes, output] = strength * effect
    return TemporalSigmoidBeliefNetwork(nodes, Bernoulli(size)).with_parameters(
        **_chain(nodes, rng),
        node_loading=loading,
        node_intercept=-loading.sum(0) / 2 + rng.normal(0, 0.3, size),
    )


class Case(NamedTuple):
    """A kind of model, its coupling, and whether its gate is exact."""

    make: Callable[[int, np.random.Generator, float], HiddenMarkovModel]
    coupling: float
    exact: bool


CASES: Mapping[str, Case] = {
    "gaussian_orthogonal": Case(_gaussian, 0.0, True),
    "bernoulli_one_parent": Case(_bits, 0.0, True),
    "harmonium": Case(_harmonium, 1.0, True),
    "gaussian_random": Case(_gaussian, 1.0, False),
    "bernoulli_two_parents": Case(_bits, 1.0, False),
}


def truth(settings: Settings, name: str, nodes: int, number: int = 0) -> HiddenMarkovModel:
    """A model of the case: that whose gate is learned, or one of weaker coupling, if it has any."""
    rng = np.random.default_rng(stream(settings, 1, list(CASES).index(name), nodes, number))
    case = CASES[name]
    weaker = 10 ** rng.uniform(-4, 0) if number and not case.exact else 1.0
    return case.make(nodes, rng, weaker * case.coupling)


# Pairs (h', y) and the posterior of h given them


def simulated(model: HiddenMarkovModel, sequences: int, length: int, seed: int) -> Pairs:
    """Every step but the first of simulated sequences."""
    drawn = model.sample(sequences, length, seed=seed)
    bits = node_states(model.nodes or 0)[drawn.states]
    y = drawn.data.values.double()[:, 1:].flatten(0, 1)
    return Pairs(bits[:, :-1].flatten(0, 1), y, bits[:, 1:].flatten(0, 1))


def heldout(settings: Settings, name: str, nodes: int, pairs: int, number: int = 0) -> Pairs:
    """Pairs from sequences of 11 steps, so that they are nearly independent."""
    return _apart(settings, name, nodes, pairs, 2, number)


def floor_pairs(settings: Settings, name: str, nodes: int) -> Pairs:
    """Such pairs again, on which the best gate is found."""
    return _apart(settings, name, nodes, settings.floor_pairs, 4)


def _apart(
    settings: Settings, name: str, nodes: int, pairs: int, key: int, number: int = 0
) -> Pairs:
    seed = stream(settings, key, list(CASES).index(name), nodes, number)
    return simulated(truth(settings, name, nodes, number), -(-pairs // 10), 11, seed)


# Gates


def written_gate(model: HiddenMarkovModel) -> Tensor:
    """The weights that the parameters write down."""
    return weights_of(node_gate(model))


def _learn(settings: Settings, name: str, nodes: int, number: int) -> tuple[Tensor, dict[str, Any]]:
    """A gate from simulations, and how it does on the held-out pairs."""
    model = truth(settings, name, nodes)
    seed = stream(settings, 3, list(CASES).index(name), nodes, number)
    train = simulated(model, settings.sequences, settings.length, seed)
    learned = best_gate(train.inputs, train.after)
    test = heldout(settings, name, nodes, settings.heldout)
    figures = {KL: posterior(model, test).divergence(test.inputs @ learned.mT)}
    if CASES[name].exact:
        figures[UNITS] = figures[KL] / chance(settings, learned)
        written = written_gate(model)
        places = (slice(nodes), slice(nodes, -1), slice(-1, None))
        for part, place in zip(PARTS, places, strict=True):
            off = (learned - written)[:, place].norm() / written[:, place].norm()
            figures[RELATIVE.format(part)] = float(off)
    return learned, figures


def chance(settings: Settings, gate: Tensor) -> float:
    """p / 2n: the divergence of p weights fitted to n pairs by the truth's own family, nats."""
    return gate.numel() / (2 * settings.sequences * (settings.length - 1))


@one_thread()
def _known(settings: Settings, name: str, nodes: int) -> dict[str, Any]:
    """What can be said of a case without learning: the written gate, floors and baselines."""
    model, test = truth(settings, name, nodes), heldout(settings, name, nodes, settings.heldout)
    exact, gate = posterior(model, test), written_gate(model)
    own = floor_pairs(settings, name, nodes)
    on = posterior(model, own).on

    def best(reads: slice) -> float:
        return exact.divergence(test.inputs[:, reads] @ best_gate(own.inputs[:, reads], on).mT)

    floor, written = best(slice(None)), test.inputs @ gate.mT
    return {
        CHANCE: chance(settings, gate),
        "error_of_the_constructed_gate": error(exact, written),
        "kl_of_the_constructed_gate_per_step": exact.divergence(written),
        "floor_per_step": floor,
        "floor_from_total_correlation_per_step": exact.total_correlation,
        "floor_from_the_affine_logit_per_step": floor - exact.total_correlation,
        "kl_of_constant_probabilities_per_step": best(slice(-1, None)),
        "kl_without_the_nodes_before_per_step": best(slice(nodes, None)),
    }


@one_thread()
def _constructed(settings: Settings) -> dict[str, list[list[float]]]:
    """Coupling and error of the written gate of many models of every kind, by case."""
    out: dict[str, list[list[float]]] = {name: [] for name in CASES}
    for name in CASES:
        for nodes in range(settings.smallest_nodes, settings.largest_nodes + 1):
            for number in range(1, settings.draws + 1):
                model = truth(settings, name, nodes, number)
                test = heldout(settings, name, nodes, settings.checked, number)
                found = error(posterior(model, test), test.inputs @ written_gate(model).mT)
                sizes = [coupled.size for coupled in gate_conditions(model).coupled]
                out[name].append([max(sizes, default=0.0), found])
    return out


# The experiment


def run(settings: Settings) -> Outcome:
    """Write and learn the gates of all cases; everything is measured on the same fresh pairs."""
    counts = range(settings.smallest_nodes, settings.largest_nodes + 1)
    places = [(name, nodes) for name in CASES for nodes in counts]
    learned = each_seed(_learn, settings, places)
    cases: dict[str, dict[str, Any]] = {name: {} for name in CASES}
    for (name, nodes), each in learned.items():
        known, found = _known(settings, name, nodes), [one for _, one in each]
        if not CASES[name].exact:
            found = [one | {EXCESS: one[KL] / known["floor_per_step"] - 1} for one in found]
        cases[name][f"{nodes}_nodes"] = known | summary(found)
    checked = _constructed(settings)
    figures: dict[str, Any] = {
        "exact_cases": _worst(cases, checked, True),
        "violating_cases": _worst(cases, checked, False),
        "by_case": cases,
    }
    gates = {place: [gate for gate, _ in each] for place, each in learned.items()}
    return Outcome(against(figures, REACH), _record(settings, gates, checked))


def _of(cases: Figures, exact: bool, figure: str) -> list[Any]:
    return [
        one[figure]
        for name, by_nodes in cases.items()
        if CASES[name].exact == exact
        for one in by_nodes.values()
    ]


def _worst(
    cases: Figures, checked: Mapping[str, list[list[float]]], exact: bool
) -> dict[str, float]:
    """The largest figures of all cases and numbers of nodes."""
    names = [name for name in CASES if CASES[name].exact == exact]
    own = _of(cases, exact, "error_of_the_constructed_gate")
    drawn = [found for name in names for _, found in checked[name]]
    out = {"largest_error_of_the_constructed_gate": max(own + drawn)}
    if not exact:
        every = [each for seeds in _of(cases, False, f"{EXCESS}_by_seed") for each in seeds]
        found = {f"largest_{EXCESS}": max(_of(cases, False, EXCESS))}
        return {**out, **found, f"smallest_{EXCESS}": min(every)}
    learned = [KL, UNITS, *map(RELATIVE.format, PARTS)]
    return out | {f"largest_{figure}": max(_of(cases, True, figure)) for figure in learned}


def _record(
    settings: Settings,
    gates: Mapping[tuple[str, int], list[Tensor]],
    checked: Mapping[str, list[list[float]]],
) -> Idata:
    """Learned gates of the largest models, one a seed, and all that is drawn."""
    learned, known = {}, {}
    dims: dict[str, tuple[str, ...]] = {}
    for name in CASES:
        key = (name, settings.largest_nodes)
        learned[name] = torch.stack(gates[key]).numpy()
        known[f"{name}_written"] = written_gate(truth(settings, *key)).numpy()
        known[f"{name}_checked"] = np.array(checked[name])
        axes = ("node", f"{name}_input")
        dims |= {name: ("fit", *axes), f"{name}_written": axes}
        dims[f"{name}_checked"] = ("model", "coupling_and_error")
    return record(settings, {"runs": learned, "constant_data": known}, dims=dims)
