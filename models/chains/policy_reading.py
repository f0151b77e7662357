"""The cell σ(W_h h + W_y y + b) read as a transition and a policy: the input acts on the nodes.

Two models have the same cell. In a ``TemporalSigmoidBeliefNetwork`` the nodes *emit* y_t, and the
cell is Bayes' rule. Here y_t comes from elsewhere and *acts* on the nodes: T(h_t | h_{t-1}, a_t) =
Π_j σ(W_h h_{t-1} + a_t)_j with the action a_t = W_y y_t + b, a deterministic policy.
Given h_{t-1} and y_t, both have the same distribution of h_t (docs/science.md, I8). They differ in
the distribution of y_t given the past: where the nodes emit y, h_{t-1} helps to predict y_t; where
y acts on them, it does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch

from ..boundary import boundary
from ..checks import require, require_count
from ..data.sequences import Sequences
from ..emissions.counts import Bernoulli, Poisson
from ..emissions.emission import Emission
from ..emissions.reals import Gaussian
from .binary import NodeGate, gate_conditions, node_gate, of_nodes
from .hmm import HiddenMarkovModel
from .node_emission import NodeEmission
from .node_laws import NodeInitial, SigmoidTransition


@boundary
def PolicyReading(
    nodes: int,
    emission: Emission | str,
    *,
    inputs: int,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a model of k binary nodes driven by an input: the cell as transition and policy.

    .. math::
        p(h_0) = \prod_j \sigma(a_0)_j, \quad
        p(h_t | h_{t-1}, y_t) = \prod_j \sigma(W_h h_{t-1} + W_y y_t + b)_j, \quad
        x_t \sim O(c + B' h_t)

    W_h = ``node_weight`` (k, k), W_y = ``node_input`` (k, inputs), b = ``node_bias`` (k,), a_0 =
    ``node_initial`` (k,). y_t is an input, ``data.inputs[:, t - 1]`` (an input acts on the step
    from t to t + 1, see ``read_as_inputs``); x_t is what the nodes emit. The model is a
    ``HiddenMarkovModel`` with ``SigmoidTransition(nodes, inputs=inputs)``. Its evidence is given y:
    before it is compared with that of a model that emits y, the evidence of a model of y is to be
    added.

    Args:
        nodes: number of binary nodes k.
        emission: family of x, as for ``TemporalSigmoidBeliefNetwork``.
        inputs: number of features of y.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    >>> model = PolicyReading(2, "gaussian", inputs=3)
    >>> model.inputs, model.parameter_dims()["node_input"]
    (3, ('node', 'input'))
    """
    require_count(inputs, "inputs")
    law = SigmoidTransition(nodes, inputs=inputs)  # bounds the nodes
    return HiddenMarkovModel(
        2**nodes,
        of_nodes(nodes, emission),
        transition=law,
        initial=NodeInitial(nodes),
        priors=priors,
    )


@boundary
def read_as_inputs(data: Sequences, reads: int) -> Sequences:
    """Turn the first features y of the data into inputs, and keep the others x as observations.

    The first step belongs to h_0 and has no observation, as in a decision process before its first
    action: ``inputs[:, t]`` is y_{t+1}. The last input, which acts on no step, is zero.

    Args:
        data: features (y, x), N sequences (steps, reads + others).
        reads: number of features of y.

    Returns:
        The sequences of x, with inputs y.

    Raises:
        ValueError: no feature is left for x, something is observed at the first step, or y is
            missing at a later step.

    >>> from beliefzoo.models import Sequences
    >>> nan = float("nan")
    >>> data = Sequences.from_arrays([[[nan, nan], [1.0, 10.0], [2.0, 20.0]]])
    >>> given = read_as_inputs(data, reads=1)
    >>> given.inputs.flatten().tolist(), given.arrays()[0].flatten().tolist()
    ([1.0, 2.0, 0.0], [nan, 10.0, 20.0])
    """
    require_count(reads, "reads")
    require(
        not data.is_codes and reads < data.n_features,
        "reads",
        "must leave a feature to observe",
        f"{reads} of {data.n_features}",
    )
    y, seen = data.values[..., :reads], data.mask[..., :reads]
    require(
        not bool(data.mask[:, 0].any()),
        "data",
        "nothing can be observed at the first step, which has no step before it",
        f"{int(data.mask[:, 0].any(-1).sum())} sequence(s) that begin with something",
    )
    lost = (~seen.all(-1) & data.step_mask)[:, 1:].nonzero()[:1].tolist()
    for n, step in lost:
        requirement = f"needs all {reads} features of y at every step except the first"
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


@boundary
def as_policy(model: HiddenMarkovModel, reads: int) -> HiddenMarkovModel:
    """Return the ``PolicyReading`` that has the same gate as a model that emits its input.

    The first features of the model's emission become the input y, the others remain emitted. W_h,
    W_y and b are those of ``node_gate`` for y alone; h_0 and the emission of x are as in the model.

    Args:
        model: a ``TemporalSigmoidBeliefNetwork`` with known parameters, whose features are
            independent given the nodes (Gaussian, Bernoulli, Poisson).
        reads: number of features of y.

    Returns:
        The model with known parameters.

    Raises:
        ValueError: another model, or one whose y couples the nodes: its gate is not exact.

    >>> from beliefzoo.models import Gaussian, TemporalSigmoidBeliefNetwork
    >>> emits = TemporalSigmoidBeliefNetwork(1, Gaussian(features=2)).with_parameters(
    ...     node_initial=[0], node_weight=[[4]], node_bias=[-2],
    ...     node_loading=[[3, 1]], node_intercept=[0, 0], scale=[1, 1],
    ... )
    >>> as_policy(emits, reads=1).known["node_input"]  # B / s² of the first feature
    tensor([[3.]], dtype=torch.float64)
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


@boundary
def policy_gate(model: HiddenMarkovModel) -> NodeGate:
    """Return the gate of a ``PolicyReading``: its parameters themselves.

    Args:
        model: a ``PolicyReading`` with known parameters.

    Returns:
        The weights and biases, as ``node_gate`` returns them for models that emit y.

    Raises:
        ValueError: another model, or unknown parameters.

    >>> model = PolicyReading(1, "poisson", inputs=1).with_parameters(
    ...     node_initial=[0], node_weight=[[2]], node_bias=[-1], node_input=[[3]],
    ...     node_loading=[[1]], node_intercept=[0],
    ... )
    >>> policy_gate(model).natural_weight
    tensor([[3.]], dtype=torch.float64)
    """
    law = model.transition if isinstance(model, HiddenMarkovModel) else None
    fits = isinstance(law, SigmoidTransition) and law.inputs > 0
    require(fits, "model", "must be a PolicyReading", repr(model))
    assert isinstance(law, SigmoidTransition)
    values = {name: value.double() for name, value in model.complete({}).items()}
    return NodeGate(
        law.matrix(values), values["node_input"], values["node_bias"], values["node_initial"]
    )


@boundary
def emission_of(model: HiddenMarkovModel, part: slice) -> HiddenMarkovModel:
    """Return the same model of nodes with only some of the features of its emission.

    Args:
        model: a ``TemporalSigmoidBeliefNetwork`` with known parameters, whose features are
            independent given the nodes (Gaussian, Bernoulli, Poisson).
        part: the features that are kept.

    Returns:
        The model with known parameters.

    Raises:
        ValueError: another model, or no feature is kept.

    >>> from beliefzoo.models import Bernoulli, TemporalSigmoidBeliefNetwork
    >>> model = TemporalSigmoidBeliefNetwork(1, Bernoulli(features=3)).with_parameters(
    ...     node_initial=[0], node_weight=[[4]], node_bias=[-2],
    ...     node_loading=[[3, 2, 1]], node_intercept=[0, 0, 0],
    ... )
    >>> emission_of(model, slice(1, None)).known["node_loading"]
    tensor([[2., 1.]], dtype=torch.float64)
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
