"""The cell σ(W_h h + W_y y + b) read as a transition and a policy: what is read acts on the nodes.

Two worlds have the same cell. In a ``TemporalSigmoidBeliefNetwork`` the nodes *emit* y_t, and the
cell is Bayes' rule. Here y_t comes from elsewhere and *acts*: T(h_t | h_{t-1}, a_t) =
Π_j σ(W_h h_{t-1} + a_t)_j with the action a_t = W_y y_t + b, a deterministic policy.
For given h_{t-1} and y_t both have the same law of h_t (SCIENCE I8). They differ in the law of y_t
given the past alone: where the nodes emit, h_{t-1} tells of y_t; where y acts, the world's own past
says all that there is to say.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch

from ..checks import require, require_count
from ..data.sequences import Sequences
from ..emissions.counts import Bernoulli, Poisson
from ..emissions.emission import Emission
from ..emissions.reals import Gaussian
from .binary import NodeGate, gate_conditions, node_gate, of_nodes
from .hmm import HiddenMarkovModel
from .node_emission import NodeEmission
from .node_laws import NodeInitial, SigmoidTransition


def PolicyReading(
    nodes: int,
    emission: Emission | str,
    *,
    inputs: int,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""k binary nodes that are driven by what they read: the cell as transition and policy.

    .. math::
        p(h_0) = \prod_j \sigma(a_0)_j, \quad
        p(h_t | h_{t-1}, y_t) = \prod_j \sigma(W_h h_{t-1} + W_y y_t + b)_j, \quad
        x_t \sim O(c + B' h_t)

    W_h = ``node_weight`` (k, k), W_y = ``node_input`` (k, inputs), b = ``node_bias`` (k,), a_0 =
    ``node_initial`` (k,). y_t is an input, ``data.inputs[:, t - 1]`` (an input drives the step from
    t to t + 1, see ``read_as_inputs``), x_t a read-out of the nodes. It is ``HiddenMarkovModel``
    with ``SigmoidTransition(nodes, inputs=inputs)``, and everything is given y: to compare its
    evidence with that of a model that emits y, add that of a law of the world for y.

    Args:
        nodes: number of binary nodes k.
        emission: family of the read-out, as for ``TemporalSigmoidBeliefNetwork``.
        inputs: number of features of y.
        priors: replacements for single priors, by parameter name.

    Raises:
        ValueError: for a bad argument, named with what is required and what came.
    """
    require_count(inputs, "inputs")
    return HiddenMarkovModel(
        2**nodes,
        of_nodes(nodes, emission),
        transition=SigmoidTransition(nodes, inputs=inputs),
        initial=NodeInitial(nodes),
        priors=priors,
    )


def read_as_inputs(data: Sequences, reads: int) -> Sequences:
    """The same sequences with their first features y as what acts, the others x as what is seen.

    The first step is h_0's, at which nothing is seen, as in a decision process before its first
    action: ``inputs[:, t]`` is y_{t+1}. The last input, of a step that is not there, is zero.

    Args:
        data: features (y, x), N sequences (steps, reads + others).
        reads: number of features of y.

    Raises:
        ValueError: no feature left to see, something seen at the first step, or a y that is missing
            later on: what has not been read cannot act.
    """
    require_count(reads, "reads")
    require(
        not data.is_codes and reads < data.n_features,
        "reads",
        "must leave a feature that is seen",
        f"{reads} of {data.n_features}",
    )
    y, seen = data.values[..., :reads], data.mask[..., :reads]
    require(
        not bool(data.mask[:, 0].any()),
        "data",
        "nothing can be seen at the first step, which has no step before it",
        f"{int(data.mask[:, 0].any(-1).sum())} sequence(s) that begin with something",
    )
    lost = (~seen.all(-1) & data.step_mask)[:, 1:].nonzero()[:1].tolist()
    for n, step in lost:
        requirement = f"needs all {reads} features that act at every step but the first"
        came = f"a missing one in sequence {data.labels[n]!r}, step {step + 1}"
        require(False, "data", requirement, came)
    return Sequences(
        values=data.values[..., reads:],
        mask=data.mask[..., reads:],
        lengths=data.lengths,
        inputs=torch.cat([y[:, 1:], torch.zeros_like(y[:, :1])], 1),
        labels=data.labels,
        features=data.features[reads:],
    )


def as_policy(model: HiddenMarkovModel, reads: int) -> HiddenMarkovModel:
    """The ``PolicyReading`` with the gate of a model that emits what the other reads.

    The first features of the model's emission are y, the others the read-out x. Its W_h, W_y and b
    are those of ``node_gate`` for y alone; h_0 and read-out are as in the model.

    Args:
        model: a ``TemporalSigmoidBeliefNetwork`` of known parameters, whose features are
            independent given the nodes (Gaussian, Bernoulli, Poisson).
        reads: number of features of y.

    Raises:
        ValueError: another model, or one whose y couples the nodes: its gate is no gate then.
    """
    emits = emission_of(model, slice(0, reads))
    coupled = gate_conditions(emits).coupled
    require(
        not coupled,
        "model",
        "needs observations that couple no nodes: only then is Bayes' rule a gate",
        [pair.nodes for pair in coupled],
    )
    gate, seen = node_gate(emits), emission_of(model, slice(reads, None))
    assert isinstance(seen.emission, NodeEmission)
    out = PolicyReading(seen.emission.nodes, seen.emission, inputs=reads)
    own = {name: seen.known[name] for name in (*seen.emission.dims(), "node_initial")}
    return out.with_parameters(
        **own,
        node_weight=gate.node_weight,
        node_input=gate.natural_weight,
        node_bias=gate.bias,
    )


def policy_gate(model: HiddenMarkovModel) -> NodeGate:
    """The gate of a ``PolicyReading``: its parameters themselves.

    Raises:
        ValueError: another model, or unknown parameters.
    """
    law = model.transition if isinstance(model, HiddenMarkovModel) else None
    fits = isinstance(law, SigmoidTransition) and law.inputs > 0
    require(fits, "model", "must be a PolicyReading", repr(model))
    assert isinstance(law, SigmoidTransition)
    values = {name: value.double() for name, value in model.complete({}).items()}
    return NodeGate(
        law.matrix(values), values["node_input"], values["node_bias"], values["node_initial"]
    )


def emission_of(model: HiddenMarkovModel, part: slice) -> HiddenMarkovModel:
    """The same nodes of known parameters, of whose features some are seen alone.

    Raises:
        ValueError: a model that is not one of nodes with independent features, or no feature left.
    """
    emission = model.emission if isinstance(model, HiddenMarkovModel) else None
    family = emission.family if isinstance(emission, NodeEmission) else None
    fits = type(family) in (Gaussian, Bernoulli, Poisson)
    fits = fits and isinstance(model.transition, SigmoidTransition) and not model.inputs
    requirement = "must be a TemporalSigmoidBeliefNetwork of features independent given the nodes"
    require(fits, "model", requirement, repr(model))
    assert isinstance(emission, NodeEmission)
    assert isinstance(family, Gaussian | Bernoulli | Poisson)
    kept = range(emission.features)[part]
    require(len(kept) > 0, "reads", "must leave a feature on either side", emission.features)
    out = HiddenMarkovModel(
        model.states,
        NodeEmission(emission.nodes, type(family)(len(kept))),
        transition=model.transition,
        initial=model.initial,
    )
    values = model.complete({})
    cut = {name: value[..., part] for name, value in values.items() if name in emission.dims()}
    return out.with_parameters(**{**values, **cut})
