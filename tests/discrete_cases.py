"""Random models of discrete states for the tests, each beside its chain written out in NumPy.

A case draws a family of observations, a transition law and ragged data with missing elements. The
chain of every sequence comes from the values alone, by the textbook formula: nothing of the library
takes part in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import expm
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from scipy.stats import norm

import oracles_emissions as by_hand
from beliefzoo.models import (
    POMDP,
    BandedTransition,
    Bernoulli,
    Categorical,
    ContinuousTimeHMM,
    Emission,
    FromDistribution,
    FullGaussian,
    GatedAccumulator,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LabelledHMM,
    LowRankTransition,
    MatrixTransition,
    NeuralEmission,
    NeuralTransition,
    NodeInitial,
    Poisson,
    ResetModel,
    Sequences,
    SigmoidTransition,
    SparseTransition,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
)
from discrete_families import (
    AHEAD,
    Around,
    Family,
    Rng,
    Values,
    any_family,
    correlation_factors,
    log0,
    means,
    networked,
    observed,
    reals,
    regressed,
    shares,
)
from oracles import Floats

MOST_PATHS = 3000


class Chain(NamedTuple):
    """log p(z_1), log T and log O of one sequence, as the oracles take them."""

    log_initial: Floats
    log_transition: Floats
    log_likelihood: Floats


# --- transition laws


@dataclass
class Moves:
    """A transition law, its values, and log T of every step (T - 1, K, K) by hand."""

    law: Any
    values: Values
    steps: Callable[[Values, Around, int], Floats]
    initial: Any = "free"
    log_first: Callable[[Values], Floats] = field(default=lambda values: log0(values["initial"]))
    inputs: int = 0


def constant(matrix: Callable[[Values], Floats]) -> Callable[[Values, Around, int], Floats]:
    """The same matrix at every step."""

    def steps(values: Values, at: Around, count: int) -> Floats:
        del at
        found = log0(matrix(values))
        return np.broadcast_to(found, (count, *found.shape))

    return steps


def matrix_moves(rng: Rng, k: int) -> Moves:
    values = {"initial": shares(rng, k), "transition": shares(rng, k, k)}
    out = Moves(MatrixTransition(), values, constant(lambda v: v["transition"]))
    if rng.random() < 0.3:
        values["transition"] = shares(rng, k, k, zeros=False)
        del values["initial"]
        return replace(out, initial="stationary", log_first=lambda v: log0(stationary(v)))
    return out


def stationary(values: Values) -> Floats:
    """π = π T, Σ π = 1, by least squares."""
    matrix = values["transition"]
    size = len(matrix)
    system = np.concatenate([matrix.T - np.eye(size), np.ones((1, size))])
    return np.asarray(np.linalg.lstsq(system, np.eye(size + 1)[-1], rcond=None)[0])


def listed_moves(rng: Rng, k: int) -> Moves:
    """Moves to few states: by offsets, by lists, or the stages of a time to stay (semi-Markov)."""
    kind = rng.choice(["banded", "sparse", "duration"])
    matrix = shares(rng, k, k, zeros=False)
    law: Any
    if kind == "banded":
        offsets = {0, *rng.choice(np.arange(1 - k, k), size=min(k, 2)).tolist()}
        law = BandedTransition(tuple(sorted(offsets)))
        allowed = np.array([[j - i in offsets for j in range(k)] for i in range(k)])
    else:
        allowed = rng.random((k, k)) < 0.5
        allowed |= np.eye(k, dtype=bool)[rng.permutation(k)]  # no row is empty
        if kind == "duration":  # stage i leads to i + 1, the last stage of a class to any first
            ends = rng.random(k) < 0.5
            ends[-1] = True
            firsts = np.append(True, ends[:-1])
            allowed = np.eye(k, k=1, dtype=bool) & ~ends[:, None]
            allowed |= ends[:, None] & firsts
        law = SparseTransition(tuple(tuple(np.flatnonzero(row).tolist()) for row in allowed))
    matrix = np.where(allowed, matrix, 0)
    matrix /= matrix.sum(-1, keepdims=True)
    values = {"initial": shares(rng, k), "transition": matrix}
    return Moves(law, values, constant(lambda v: v["transition"]))


def low_rank_moves(rng: Rng, k: int) -> Moves:
    rank = int(rng.integers(1, k + 2))
    values = {
        "initial": shares(rng, k),
        "transition_left": shares(rng, k, rank),
        "transition_right": shares(rng, rank, k),
    }
    steps = constant(lambda v: v["transition_left"] @ v["transition_right"])
    return Moves(LowRankTransition(rank), values, steps)


def input_moves(rng: Rng, k: int) -> Moves:
    columns = int(rng.integers(1, 3))
    values = {
        "initial": shares(rng, k),
        "transition": shares(rng, k, k),
        "transition_weight": rng.normal(size=(k, k, columns)),
    }

    def steps(v: Values, at: Around, count: int) -> Floats:
        assert at.inputs is not None
        drive = np.einsum("ijc,tc->tij", v["transition_weight"], at.inputs[:count])
        return np.asarray(log_softmax(log0(v["transition"]) + drive, axis=-1))

    return Moves(InputTransition(columns), values, steps, inputs=columns)


def neural_moves(rng: Rng, k: int) -> Moves:
    law = NeuralTransition(embedding=2, width=3)
    values = {"initial": shares(rng, k)}
    for name, prior in law.priors(k).items():
        values[name] = 0.8 * rng.normal(size=tuple(prior.event_shape))

    def matrix(v: Values) -> Floats:
        hidden = np.tanh(v["transition_from"] @ v["transition_weight0"] + v["transition_bias0"])
        source = hidden @ v["transition_weight1"] + v["transition_bias1"]
        return np.asarray(softmax(source @ v["transition_into"].T, axis=-1))

    return Moves(law, values, constant(matrix))


MOVES = (matrix_moves, listed_moves, low_rank_moves, input_moves, neural_moves)


# --- whole cases


@dataclass
class Drawn:
    """A model, values of its parameters, data, and its chains written out."""

    name: str
    model: HiddenMarkovModel
    values: Values
    around: list[Around]
    log_first: Callable[[Values], Floats]
    steps: Callable[[Values, Around, int], Floats]
    log_likelihood: Callable[[Values, Around], Floats]
    mean: Callable[[Values, Around], Floats] | None = None
    """E[y] of every state at the steps ahead, (AHEAD, K, F); None where it is not exact."""
    number: int = 0

    @property
    def data(self) -> Sequences:
        cut: dict[str, Any] = {}
        for name in ("inputs", "times", "actions", "rewards"):
            rows = [getattr(one, name) for one in self.around]
            if rows[0] is not None:
                cut[name] = [row[: len(one.y)] for row, one in zip(rows, self.around, strict=True)]
        codes = self.model.emission.codes
        arrays = [one.y[:, 0] if codes else one.y for one in self.around]
        return Sequences.from_arrays(arrays, codes=codes, **cut)

    @property
    def future(self) -> dict[str, Floats]:
        """Inputs, times and actions of the steps ahead."""
        out = {}
        for name in ("inputs", "times", "actions"):
            rows = [getattr(one, name) for one in self.around]
            if rows[0] is not None:
                out[name] = np.stack([row[-AHEAD:] for row in rows])
        return out

    def chain(self, n: int, values: Values | None = None) -> Chain:
        """The chain of one sequence."""
        v, at = self.values if values is None else values, self.around[n]
        moves = self.steps(v, at, len(at.y) - 1)
        return Chain(self.log_first(v), moves, self.log_likelihood(v, at))

    def ahead(self, n: int, last: Floats) -> Floats:
        """Laws of the states at the steps ahead, (AHEAD, K), from the last filtered one."""
        at, out = self.around[n], []
        gone = at._replace(y=np.full((len(at.y) + AHEAD, at.y.shape[1]), np.nan))
        gone.y[: len(at.y)] = at.y
        for step in self.steps(self.values, gone, len(gone.y) - 1)[-AHEAD:]:
            last = last @ np.exp(step)
            out.append(last)
        return np.stack(out)


def lengths_of(rng: Rng, states: int, least: int = 1) -> list[int]:
    """Lengths of one to three sequences whose paths can be counted."""
    most = int(np.log(MOST_PATHS) / np.log(max(states, 2)))
    most = max(min(most, 7), least)
    return [int(rng.integers(least, most + 1)) for _ in range(rng.integers(1, 4))]


def plain_case(rng: Rng) -> Drawn:
    """A hidden Markov model of any family and any transition law."""
    k = int(rng.integers(1, 7))
    moves = MOVES[rng.integers(len(MOVES))](rng, k) if k > 1 else still()
    family = networked(rng) if rng.random() < 0.15 else any_family(rng)
    columns = moves.inputs or int(rng.integers(0, 3))
    chance = rng.random()
    base = family.emission
    parts = getattr(base, "families", (base,))
    if chance < 0.35 and not any(isinstance(x, FromDistribution | NeuralEmission) for x in parts):
        reads = columns if chance < 0.2 else 0
        family = regressed(rng, family, reads)
    inputs = moves.inputs or family.emission.inputs
    values = moves.values | family.draw_values(rng, k)
    model = HiddenMarkovModel(k, family.emission, transition=moves.law, initial=moves.initial)
    around = []
    for length in lengths_of(rng, k):
        rows = rng.normal(size=(length + AHEAD, inputs)) if inputs else None
        around.append(Around(observed(rng, family, length), rows))
    exact = not family.emission.inputs and not family.emission.lags
    return Drawn(
        f"{type(moves.law).__name__} {family.emission}",
        model,
        values,
        around,
        moves.log_first,
        moves.steps,
        lambda v, at: family.log_likelihood(v, k, at),
        (lambda v, at: np.stack([means(family, v, k)] * AHEAD)) if exact else None,
    )


def still() -> Moves:
    """The chain of a single state, which has no parameters."""
    one = constant(lambda v: np.ones((1, 1)))
    return Moves(None, {}, one, log_first=lambda v: np.zeros(1))


# --- binary nodes


def bits_of(nodes: int) -> Floats:
    return np.array(list(itertools.product([0.0, 1.0], repeat=nodes)))


def node_family(rng: Rng, nodes: int) -> Family:
    """A family whose predictor c + B'h is linear in the nodes."""
    bits, f = bits_of(nodes), int(rng.integers(1, 3))
    kind = rng.choice(["gaussian", "full", "bernoulli", "poisson", "categorical"])
    size = 3 if kind == "categorical" else 2 if kind == "full" else f

    def draw_values(r: Rng, k: int) -> Values:
        out = {"node_loading": r.normal(size=(nodes, size)), "node_intercept": r.normal(size=size)}
        if kind in ("gaussian", "full"):
            out["scale"] = r.uniform(0.5, 2.0, size)
        if kind == "full":
            out["correlation_factor"] = correlation_factors(r, size=size)
        return out

    def predictor(v: Values) -> Floats:
        return np.asarray(bits @ v["node_loading"] + v["node_intercept"])

    def plain(v: Values) -> Values:
        eta = predictor(v)
        if kind == "categorical":
            return {"probs": softmax(eta, axis=-1)}
        own = eta if size > 1 else eta[:, 0]
        if kind in ("gaussian", "full"):
            alike = {n: np.stack([v[n]] * len(bits)) for n in v if not n.startswith("node")}
            if size == 1:
                alike["scale"] = alike["scale"][:, 0]
            return {"mean": own, **alike}
        return {"probs": expit(own)} if kind == "bernoulli" else {"rate": np.exp(own)}

    laws = {
        "gaussian": (Gaussian(size), by_hand.gaussian, reals(size), "mean"),
        "full": (FullGaussian(2), by_hand.full_gaussian, reals(2), "mean"),
        "bernoulli": (
            Bernoulli(size),
            by_hand.bernoulli,
            lambda r: r.integers(0, 2, size).astype(float),
            "probs",
        ),
        "poisson": (
            Poisson(size),
            by_hand.poisson,
            lambda r: r.poisson(2.0, size).astype(float),
            "rate",
        ),
        "categorical": (
            Categorical(3),
            by_hand.categorical,
            lambda r: r.integers(0, 3, 1).astype(float),
            "probs",
        ),
    }
    emission, density, draw, mean = laws[kind]
    whole = kind == "categorical"
    return Family(emission, draw_values, density, draw, lambda v: v[mean], whole=whole, plain=plain)


def log_partition(family: Emission, values: Values, bits: Floats) -> Floats:
    """log Z(h) of O(y | h) = r(y) exp(h'Wy) / Z(h), but for a constant."""
    eta = bits @ values["node_loading"] + values["node_intercept"]
    if isinstance(family, Gaussian):
        return np.asarray((eta**2 / values["scale"] ** 2).sum(-1) / 2)
    if isinstance(family, FullGaussian):
        root = values["scale"][:, None] * values["correlation_factor"]
        white = np.linalg.solve(root, eta.T)
        return np.asarray((white**2).sum(0) / 2)
    if isinstance(family, Bernoulli):
        return np.asarray(np.logaddexp(0, eta).sum(-1))
    if isinstance(family, Poisson):
        return np.asarray(np.exp(eta).sum(-1))
    return np.asarray(logsumexp(eta, axis=-1))


def node_case(rng: Rng) -> Drawn:
    """Binary nodes, directed (also driven by inputs) or undirected."""
    nodes = int(rng.integers(1, 4))
    bits, family = bits_of(nodes), node_family(rng, nodes)
    law = family.emission
    inputs = int(rng.integers(0, 3)) if rng.random() < 0.4 else 0
    coupling = rng.choice(["full", "diagonal"])
    values = family.draw_values(rng, len(bits))
    values |= {"node_initial": rng.normal(size=nodes), "node_bias": rng.normal(size=nodes)}
    shape = (nodes, nodes) if coupling == "full" or not inputs else (nodes,)
    undirected = not inputs and rng.random() < 0.5
    model: HiddenMarkovModel
    if undirected:
        shape = (nodes, nodes)
        model = TemporalRBM(nodes, law)
    else:
        shape = (nodes, nodes) if coupling == "full" else (nodes,)
        model = TemporalSigmoidBeliefNetwork(nodes, law, coupling=str(coupling))
    values["node_weight"] = 1.5 * rng.normal(size=shape)
    if inputs:
        values["node_input"] = rng.normal(size=(nodes, inputs))
        moves = SigmoidTransition(nodes, str(coupling), inputs=inputs)
        model = HiddenMarkovModel(
            len(bits), model.emission, transition=moves, initial=NodeInitial(nodes)
        )

    def product(logits: Floats) -> Floats:
        """Independent nodes with these logits (…, k): (…, 2^k)."""
        on, off = log_expit(logits)[..., None, :], log_expit(-logits)[..., None, :]
        return np.asarray((bits * on + (1 - bits) * off).sum(-1))

    def log_first(v: Values) -> Floats:
        if not undirected:
            return product(v["node_initial"])
        return np.asarray(
            log_softmax(bits @ v["node_initial"] + log_partition(law, v, bits), axis=-1)
        )

    def steps(v: Values, at: Around, count: int) -> Floats:
        weight = v["node_weight"]
        logits = bits @ (weight.T if weight.ndim == 2 else np.diag(weight)) + v["node_bias"]
        if inputs:
            assert at.inputs is not None
            return product(logits + (at.inputs[:count] @ v["node_input"].T)[:, None])
        one = product(logits)
        if undirected:
            one = log_softmax(logits @ bits.T + log_partition(law, v, bits), axis=-1)
        return np.broadcast_to(one, (count, *one.shape))

    around = []
    for length in lengths_of(rng, len(bits)):
        rows = rng.normal(size=(length + AHEAD, inputs)) if inputs else None
        around.append(Around(observed(rng, family, length), rows))
    return Drawn(
        f"{'harmonium' if undirected else 'nodes'} {law}",
        model,
        values,
        around,
        log_first,
        steps,
        lambda v, at: family.log_likelihood(v, len(bits), at),
        lambda v, at: np.stack([means(family, v, len(bits))] * AHEAD),
    )


# --- memories


def memory_case(rng: Rng) -> Drawn:
    """A number that is kept or dropped, and written to: 12 or 72 states."""
    features, leak = int(rng.integers(1, 4)), bool(rng.integers(2))
    adds = rng.random() < 0.3
    bit, signs = (0.0, 1.0), (-1.0, 1.0)
    if adds:
        capacity = 2 + AHEAD
        model = GatedAccumulator(capacity, features=features, leak=leak)
        held = np.arange(-capacity, capacity + 1.0)
        rows = list(itertools.product(held, bit, bit, signs))
        before, keep, write, value = np.array(rows).T
        names = ("keep", "write", "positive")
        signals = [2 * keep - 1, 2 * write - 1, value]
    else:
        model = ResetModel(features=features, leak=leak)
        before, keep, value = np.array(list(itertools.product((-1.0, 0.0, 1.0), bit, signs))).T
        write, names = 1 - keep, ("keep", "positive")
        signals = [2 * keep - 1, value]
    memory = keep * before + write * value
    events = {"keep": keep, "write": write, "positive": (value + 1) / 2}
    signal = np.stack([*signals, *([before] if leak else [])], -1)
    values: Values = {name: np.array(rng.uniform(0.05, 0.95)) for name in names}
    values |= {
        "loading": rng.normal(size=(signal.shape[1], features)),
        "intercept": rng.normal(size=features),
        "scale": rng.uniform(0.5, 2, features),
    }

    def log_causes(v: Values) -> Floats:
        chances = [np.where(events[name] > 0, v[name], 1 - v[name]) for name in names]
        return log0(np.prod(chances, axis=0))

    def matrix(v: Values) -> Floats:
        return np.where(memory[:, None] == before, np.exp(log_causes(v)), 0)

    def mean(v: Values) -> Floats:
        return np.asarray(signal @ v["loading"] + v["intercept"])

    def log_likelihood(v: Values, at: Around) -> Floats:
        terms = norm.logpdf(at.y[:, None], mean(v), v["scale"])
        return np.asarray(np.nansum(terms, -1))

    family = Family(Gaussian(features), lambda r, k: {}, by_hand.gaussian, reals(features), mean)
    longest = 2 if adds else 3
    around = [
        Around(observed(rng, family, int(rng.integers(1, longest + 1))))
        for _ in range(rng.integers(1, 3))
    ]
    return Drawn(
        "accumulator" if adds else "reset",
        model,
        values,
        around,
        lambda v: np.where(before == 0, log_causes(v), -np.inf),
        constant(matrix),
        log_likelihood,
        lambda v, at: np.stack([mean(v)] * AHEAD),
    )


# --- continuous time


def simulated(rng: Rng, first: Floats, moves: Floats) -> list[int]:
    """A path of the chain."""
    path = [int(rng.choice(len(first), p=first))]
    for step in moves:
        path.append(int(rng.choice(len(first), p=step[path[-1]] / step[path[-1]].sum())))
    return path


@dataclass
class Panel:
    """Rates of the jumps, which columns act on which of them, and the errors of seeing a state."""

    states: int
    pairs: list[tuple[int, int]]
    columns: int
    effects: list[tuple[int, tuple[tuple[int, int], ...]]] | None
    deadly: bool
    errors: list[tuple[int, int]]

    @classmethod
    def drawn(cls, rng: Rng, seen: bool) -> Panel:
        k = int(rng.integers(2, 5))
        pairs = [(i, j) for i in range(k) for j in range(k) if i != j]
        deadly = seen and rng.random() < 0.5
        if rng.random() < 0.5:
            pairs = [(i, j) for i, j in pairs if rng.random() < 0.6 or j == i + 1]
        if deadly:
            pairs = [(i, j) for i, j in pairs if i != k - 1]
        columns = int(rng.integers(1, 3)) if rng.random() < 0.4 else 0
        effects = None
        if columns and rng.random() < 0.5:
            effects = [(int(rng.integers(columns)), tuple(pairs)), (0, tuple(pairs[:1]))]
        top = range(k - deadly)
        errors = [(i, j) for i in top for j in top if i != j and rng.random() < 0.4]
        return cls(k, pairs, columns, effects, deadly, errors if seen else [])

    @property
    def acting(self) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
        if self.effects is not None:
            return self.effects
        return [(column, (pair,)) for column in range(self.columns) for pair in self.pairs]

    def values(self, rng: Rng) -> Values:
        out: Values = {
            "initial": shares(rng, self.states, zeros=False),
            "jump_rate": rng.gamma(2.0, 0.4, len(self.pairs)) + 0.05,
        }
        if self.columns:
            out["jump_effect"] = 0.5 * rng.normal(size=len(self.acting))
        if self.errors:
            out["error"] = rng.uniform(0.02, 0.9 / self.states, len(self.errors))
        return out

    def table(self, v: Values) -> Floats:
        """What is seen of each state, (K, K)."""
        out = np.eye(self.states)
        for (i, j), chance in zip(self.errors, v.get("error", ()), strict=True):
            out[i, j], out[i, i] = chance, out[i, i] - chance
        return out

    def generator(self, v: Values, x: Floats | None) -> Floats:
        rates = dict(zip(self.pairs, v["jump_rate"], strict=True))
        if x is not None:
            for (column, on), effect in zip(self.acting, v["jump_effect"], strict=True):
                for pair in on:
                    rates[pair] = rates[pair] * np.exp(effect * x[column])
        out = np.zeros((self.states, self.states))
        for (i, j), rate in rates.items():
            out[i, j] += rate
            out[i, i] -= rate
        return out

    def steps(self, v: Values, at: Around, count: int) -> Floats:
        assert at.times is not None
        dead = self.states - 1
        out = np.empty((count, self.states, self.states))
        for t in range(count):
            g = self.generator(v, None if at.inputs is None else at.inputs[t])
            out[t] = expm(g * (at.times[t + 1] - at.times[t]))
            if self.deadly and at.y[t + 1, 0] == dead:  # the density of an entry at that moment
                rate = np.where(np.arange(self.states) == dead, 0, g[:, -1])
                out[t] = np.outer(out[t] @ rate, np.eye(self.states)[-1])
        return log0(np.maximum(out, 0))

    def log_likelihood(self, v: Values, at: Around) -> Floats:
        known = ~np.isnan(at.y[:, 0])
        picked = log0(self.table(v))[:, np.where(known, at.y[:, 0], 0).astype(int)].T
        return np.where(known[:, None], picked, 0)

    def sequence(self, rng: Rng, v: Values, length: int, family: Family | None) -> Around:
        """Observations at irregular times; several of one moment, and missing ones, among them."""
        gaps = rng.uniform(0.1, 2.0, length + AHEAD)
        if not self.deadly and rng.random() < 0.3:
            gaps[1:length] *= rng.random(length - 1) < 0.7
        times = gaps.cumsum() + rng.normal()
        x = rng.normal(size=(length + AHEAD, self.columns)) if self.columns else None
        at = Around(np.full((length, 1), np.nan), x, times)
        if family is not None:
            return at._replace(y=observed(rng, family, length))
        dead = self.states - 1 if self.deadly else -1
        path = simulated(rng, v["initial"], np.exp(self.steps(v, at, length - 1)))
        path = path[: path.index(dead) + 1] if dead in path else path
        y = np.array([[float(rng.choice(self.states, p=self.table(v)[z]))] for z in path])
        y[1:][(rng.random(len(y) - 1) < 0.15) & (np.array(path[1:]) != dead)] = np.nan
        kept = len(y) + AHEAD
        times = np.append(times[: len(y)], times[len(y) - 1] + np.arange(1, AHEAD + 1))
        return at._replace(y=y, times=times, inputs=None if x is None else x[:kept])


def timed_case(rng: Rng) -> Drawn:
    """Jumps at rates: states observed with errors, exactly timed deaths, or any family."""
    family = None if rng.random() < 0.6 else any_family(rng)
    panel = Panel.drawn(rng, seen=family is None)
    k = panel.states
    model = ContinuousTimeHMM(
        k,
        None if family is None else family.emission,
        jumps=panel.pairs,
        errors=panel.errors,
        inputs=panel.columns,
        effects=None if panel.effects is None else tuple(panel.effects),
        exact=(k - 1,) if panel.deadly else (),
    )
    values = panel.values(rng)
    if family is not None:
        values |= family.draw_values(rng, k)

    def log_likelihood(v: Values, at: Around) -> Floats:
        found = panel if family is None else None
        return found.log_likelihood(v, at) if found else family.log_likelihood(v, k, at)

    def mean(v: Values, at: Around) -> Floats:
        own = panel.table(v) if family is None else means(family, v, k)
        return np.stack([own] * AHEAD)

    return Drawn(
        f"continuous time, {'deaths, ' if panel.deadly else ''}{panel}",
        model,
        values,
        [panel.sequence(rng, values, length, family) for length in lengths_of(rng, k)],
        lambda v: log0(v["initial"]),
        panel.steps,
        log_likelihood,
        mean,
    )


# --- actions


def first_or(otherwise: Floats) -> Callable[[Values], Floats]:
    return lambda v: log0(v.get("initial", otherwise))


def acting_case(rng: Rng) -> Drawn:
    """A decision process given its actions, with or without a first observation and rewards."""
    k, actions = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    first, learned = bool(rng.integers(2)), bool(rng.integers(2))
    family = any_family(rng)
    model = POMDP(
        k, family.emission, actions=actions, first=first, reward="learned" if learned else None
    )
    tables = [family.draw_values(rng, k) for _ in range(actions + first)]
    values: Values = {n: np.stack([one[n] for one in tables]) for n in tables[0]}
    own, moves = tuple(tables[0]), [shares(rng, k, k) for _ in range(actions)]
    chain = {"initial": shares(rng, k), "transition": np.stack(moves)} if k > 1 else {}
    if learned:
        values["reward"] = rng.normal(size=(actions, k))
        values["reward_scale"] = np.array(rng.uniform(0.5, 2.0))

    def of_action(v: Values, action: int) -> Values:
        return {name: v[name][action] for name in own}

    def log_likelihood(v: Values, at: Around) -> Floats:
        assert at.actions is not None
        out = np.zeros((len(at.y), k))
        for t in range(len(at.y)):
            action = actions if t == 0 else int(at.actions[t - 1])
            if t or first:
                at_once = Around(at.y[t : t + 1])
                out[t] = family.log_likelihood(of_action(v, action), k, at_once)[0]
            if learned:
                assert at.rewards is not None
                located = v["reward"][int(at.actions[t])]
                out[t] += norm.logpdf(at.rewards[t], located, v["reward_scale"])
        return out

    def steps(v: Values, at: Around, count: int) -> Floats:
        assert at.actions is not None
        one = np.ones((actions, 1, 1))
        return log0(v.get("transition", one)[at.actions[:count].astype(int)])

    def mean(v: Values, at: Around) -> Floats:
        assert at.actions is not None
        before = at.actions[-AHEAD - 1 : -1].astype(int)
        return np.stack([means(family, of_action(v, int(a)), k) for a in before])

    around = []
    for length in lengths_of(rng, k, least=2):
        y = observed(rng, family, length)
        if not first:
            y[0], y[1] = np.nan, family.draw(rng)
        acted = rng.integers(0, actions, length + AHEAD)
        rewards = rng.normal(size=length) if learned else None
        around.append(Around(y, actions=acted, rewards=rewards))
    name = f"decisions {family.emission}"
    first_law = first_or(np.ones(1))
    return Drawn(name, model, chain | values, around, first_law, steps, log_likelihood, mean)


# --- symbols that choose the moves


def labelled_case(rng: Rng) -> Drawn:
    """A labelled chain, which moves by the symbol; at a missing one by all of them."""
    k, size = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    values: Values = {"probs": shares(rng, k, size)}
    if k > 1:
        values |= {"initial": shares(rng, k), "transition": shares(rng, size, k, k)}

    def steps(v: Values, at: Around, count: int) -> Floats:
        moves = v.get("transition", np.ones((size, 1, 1)))
        whole = np.einsum("kx,xkj->kj", v["probs"], moves)
        chosen = [whole if np.isnan(x) else moves[int(x)] for x in at.y[:count, 0]]
        return log0(np.reshape(chosen, (count, k, k)))

    def log_likelihood(v: Values, at: Around) -> Floats:
        told = [np.ones(k) if np.isnan(x) else v["probs"][:, int(x)] for x in at.y[:, 0]]
        return log0(np.stack(told))

    def mean(v: Values, at: Around) -> Floats:
        del at
        return np.stack([v["probs"]] * AHEAD)

    around = []
    for length in lengths_of(rng, k):
        y = rng.integers(0, size, (length, 1)).astype(float)
        y[rng.random(length) < 0.2] = np.nan
        y[rng.integers(length)] = rng.integers(size)
        around.append(Around(y))
    first = first_or(np.ones(1))
    name = f"labelled {k} states {size} symbols"
    return Drawn(name, LabelledHMM(k, size), values, around, first, steps, log_likelihood, mean)


KINDS = (
    *(plain_case, plain_case, plain_case, node_case, memory_case, timed_case, acting_case),
    labelled_case,
)


def draw(seed: int) -> Drawn:
    """The case of a number."""
    rng = np.random.default_rng([seed, 14])
    return replace(KINDS[seed % len(KINDS)](rng), number=seed)
