"""Small decision processes as tables."""

import numpy as np

from beliefzoo.models import Tables


def tiger(discount=0.95):
    return Tables(
        initial=np.array([0.5, 0.5]),
        transition=np.stack([np.eye(2), np.full((2, 2), 0.5), np.full((2, 2), 0.5)]),
        observation=np.stack(
            [np.array([[0.85, 0.15], [0.15, 0.85]]), np.full((2, 2), 0.5), np.full((2, 2), 0.5)]
        ),
        reward=np.array([[-1.0, -1.0], [-100.0, 10.0], [10.0, -100.0]]),
        discount=discount,
    )


def random_tables(seed, states=3, actions=2, symbols=2, discount=0.4):
    rng = np.random.default_rng(seed)
    return Tables(
        rng.dirichlet(np.ones(states)),
        rng.dirichlet(np.full(states, 0.5), (actions, states)),
        rng.dirichlet(np.full(symbols, 0.5), (actions, states)),
        rng.normal(size=(actions, states)),
        discount,
    )
