"""A model with a memory as a decision process: keep and write are actions, not chance."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..chains.hmm import HiddenMarkovModel
from ..chains.memory import MemoryEmission, MemoryTransition, memory_states
from ..checks import require
from ..emissions.reals import Gaussian
from .policies import FixedChances
from .pomdp import POMDP


class MemoryProcess(NamedTuple):
    """A memory that is acted upon, what its states mean, and how chance would act."""

    process: POMDP
    keep: Tensor
    """Whether an action keeps the memory, (A,) float64 zeros and ones."""
    write: Tensor
    """Whether it writes the value to it, (A,)."""
    value: Tensor
    """x_t of every state, (K,) float64."""
    memory: Tensor
    """z_t of every state, (K,)."""
    policy: FixedChances
    """Actions drawn as the model draws them."""


def memory_process(model: HiddenMarkovModel) -> MemoryProcess:
    r"""A ``GatedAccumulator`` or ``ResetModel`` as a POMDP, keep and write being its actions.

    .. math::
        T(x', z' | x, z, a) = p(x')\, [z' = u_a z + v_a x'], \quad
        y' \sim N(d + B' n(u_a, v_a, x'), s^2)

    A state is (value x, memory z), an action a = (u, v): keep the memory or drop it, write the
    value or not; in a reset model v = 1 − u. The first step is z_0 = 0, at which nothing is seen:
    y_t of the model is that of step t + 1, after the first t actions. With the actions drawn by
    ``policy`` and hidden, y has the law of the model; with the actions given, the belief in z is
    exact, and its mean is u z + v E[x | y]: the cell with gates that are 0 or 1.

    An accumulator is for ``capacity`` actions; after more of them its memory stays within
    ±capacity.

    Args:
        model: with all parameters known, and without a leak (what shows of z_{t-1} belongs to no
            state here).

    Raises:
        ValueError: another model, a leak, or an unknown parameter.
    """
    memory_states(model)  # refuses others
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
