"""A process beside a chain that does not matter to it."""

from __future__ import annotations

import numpy as np

from ....models import POMDP, Rewards


def with_bystander(model: POMDP, stay: float, told: float) -> POMDP:
    """The process beside a two-state chain that it knows nothing of.

    States are pairs (z, u) and symbols pairs (o, w), the second running faster. u stays as it is
    with probability ``stay``, w is u with probability ``told``; neither depends on z or on actions,
    so that the exact belief is the product of both chains' own.
    """
    tables, known = model.tables(), model.known
    chain, eye = _symmetric(stay), _symmetric(told)
    first = None
    if model.law.first:
        first = np.kron(known["probs"][-1].double().numpy(), eye)
    assert model.reward is not None
    reward = model.reward.table.numpy()
    for axis in (1, 2, 3):
        reward = reward.repeat(2 if reward.shape[axis] > 1 else 1, axis)
    return POMDP.from_tables(
        np.stack([np.kron(one, chain) for one in tables.transition]),
        np.stack([np.kron(one, eye) for one in tables.observation]),
        Rewards.of_table(reward),
        initial=np.kron(tables.initial, [0.5, 0.5]),
        first=first,
        discount=model.discount,
        states=[f"{z}, {u}" for z in model.state_names for u in (0, 1)],
        actions=model.action_names,
        observations=[f"{o}, {w}" for o in model.observation_names for w in (0, 1)],
    )


def _symmetric(diagonal: float) -> np.ndarray:
    return np.array([[diagonal, 1 - diagonal], [1 - diagonal, diagonal]])
