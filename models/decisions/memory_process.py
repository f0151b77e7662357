"""A model with a memory as a decision process: keep and write are actions, not random causes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..boundary import boundary
from ..chains.hmm import HiddenMarkovModel
from ..chains.memory import MemoryEmission, MemoryTransition, memory_states
from ..checks import require
from ..emissions.reals import Gaussian
from .policies import FixedChances
from .pomdp import POMDP


class MemoryProcess(NamedTuple):
    """A decision process with a memory, and the meaning of its states and actions.

    ``memory_process`` makes it.

    Attributes:
        process: the ``POMDP``.
        keep: whether an action keeps the memory, (A,) float64 zeros and ones.
        write: whether it writes the value to the memory, (A,).
        value: x_t of every state, (K,) float64.
        memory: z_t of every state, (K,).
        policy: the actions drawn at random as in the model.

    >>> from beliefzoo.models import ResetModel, memory_process
    >>> model = ResetModel().with_parameters(
    ...     keep=0.9, positive=0.5, loading=[[1, 0], [0, 1]], intercept=[0, 0], scale=[1, 1]
    ... )
    >>> memory_process(model).process.action_names
    ('drop, write', 'keep, ignore')
    """

    process: POMDP
    keep: Tensor
    write: Tensor
    value: Tensor
    memory: Tensor
    policy: FixedChances


@boundary
def memory_process(model: HiddenMarkovModel) -> MemoryProcess:
    r"""Turn a ``GatedAccumulator`` or ``ResetModel`` into a POMDP whose actions are keep and write.

    .. math::
        T(x', z' | x, z, a) = p(x')\, [z' = u_a z + v_a x'], \quad
        y' \sim N(d + B' n(u_a, v_a, x'), s^2)

    A state is (value x, memory z), an action a = (u, v): keep the memory or drop it, write the
    value or not; in a reset model v = 1 − u. The first step is z_0 = 0, without an observation: y_t
    of the model is that of step t + 1, after the first t actions. If the actions are drawn by
    ``policy`` and hidden, y has the same distribution as in the model; if the actions are given,
    the belief in z is exact and its mean is u z + v E[x | y]: the memory cell with gates that are 0
    or 1. See docs/science.md, I7.

    The memory of an accumulator is exact for ``capacity`` actions; later it is cut at ±capacity.

    Args:
        model: with all parameters known, and without a leak, since z_{t-1} is not part of a state
            here.

    Returns:
        The process and the meaning of its states and actions.

    Raises:
        ValueError: another model, a leak, or an unknown parameter.

    >>> from beliefzoo.models import GatedAccumulator
    >>> model = GatedAccumulator(2).with_parameters(
    ...     keep=0.9, write=0.3, positive=0.5,
    ...     loading=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], intercept=[0, 0, 0], scale=[1, 1, 1],
    ... )
    >>> acting = memory_process(model)
    >>> for name, p in zip(acting.process.action_names, acting.policy.probabilities):
    ...     print(name, round(p.item(), 2))
    drop, ignore 0.07
    drop, write 0.03
    keep, ignore 0.63
    keep, write 0.27
    """
    memory_states(model)  # refuses models without memory
    law, emission = model.transition, model.emission
    assert isinstance(law, MemoryTransition)
    assert isinstance(emission, MemoryEmission)
    require(not emission.leak, "model", "needs a memory that does not leak", repr(emission))
    values = model.complete({})
    held = law.table.before.unique()
    value, memory = torch.cartesian_prod(torch.tensor([-1.0, 1.0]).double(), held).unbind(-1)
    keep, write = _actions(law)
    positive, loading = values["positive"], values["loading"]
    reached = keep[:, None, None] * memory[:, None] + write[:, None, None] * value
    reached = reached.clamp(held[0], held[-1])  # (A, state, state_to), given the value there
    offered = torch.where(value > 0, positive, 1 - positive)
    mean = _signals(law, keep, write, value) @ loading + values["intercept"]
    process = POMDP(
        [f"x={x:+.0f}, z={z:+.0f}" for x, z in zip(value.tolist(), memory.tolist(), strict=True)],
        Gaussian(emission.features),
        actions=[_name(u, v) for u, v in zip(keep.tolist(), write.tolist(), strict=True)],
    ).with_parameters(
        initial=torch.where(memory == 0, offered, 0),
        transition=(reached == memory) * offered,
        mean=mean if emission.features > 1 else mean.squeeze(-1),
        scale=_wide(values["scale"], mean),
    )
    return MemoryProcess(
        process, keep, write, value, memory, FixedChances(_law(values, keep, write))
    )


def _actions(law: MemoryTransition) -> tuple[Tensor, Tensor]:
    """u and v of every action."""
    bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if "write" in law.channels:
        keep, write = torch.cartesian_prod(bit, bit).unbind(-1)
        return keep, write
    return bit, 1 - bit


def _signals(law: MemoryTransition, keep: Tensor, write: Tensor, value: Tensor) -> Tensor:
    """n of every action and state, (A, K, channels)."""
    size = len(keep), len(value)
    columns = {
        "keep": (2 * keep - 1).unsqueeze(-1).expand(size),
        "write": (2 * write - 1).unsqueeze(-1).expand(size),
        "value": value.expand(size),
    }
    return torch.stack([columns[name] for name in law.channels], -1)


def _wide(scale: Tensor, mean: Tensor) -> Tensor:
    wide = scale.expand_as(mean)
    return wide if mean.shape[-1] > 1 else wide.squeeze(-1)


def _law(values: Any, keep: Tensor, write: Tensor) -> Tensor:
    """Probability of every action."""
    law = torch.where(keep > 0, values["keep"], 1 - values["keep"])
    if "write" in values:
        law = law * torch.where(write > 0, values["write"], 1 - values["write"])
    return law


def _name(keep: float, write: float) -> str:
    return f"{'keep' if keep else 'drop'}, {'write' if write else 'ignore'}"
