"""Values of decision processes by the slowest obvious methods, from arrays alone."""

import numpy as np


def bayes(belief, transition, observation):
    """(probability, belief after it) of every observation that can follow, one loop per sum."""
    following = []
    for o in range(observation.shape[1]):
        joint = np.array(
            [
                sum(belief[z] * transition[z, to] for z in range(len(belief))) * observation[to, o]
                for to in range(len(belief))
            ]
        )
        if joint.sum() > 1e-14:
            following.append((o, joint.sum(), joint / joint.sum()))
    return following


def tree_value(tables, belief, steps, act=None):
    """Expected discounted rewards of so many steps, by enumeration of all that may happen.

    The actions are the best ones, or those that ``act(belief)`` says.
    """
    if steps == 0:
        return 0.0
    choices = range(len(tables.reward)) if act is None else [act(belief)]
    values = []
    for action in choices:
        following = bayes(belief, tables.transition[action], tables.observation[action])
        ahead = sum(p * tree_value(tables, b, steps - 1, act) for _, p, b in following)
        values.append(float(tables.reward[action] @ belief) + tables.discount * ahead)
    return max(values)


def reachable_value(tables, most=2000):
    """The value at the initial belief where only few beliefs can be reached: value iteration over
    these, until nothing changes any more."""
    beliefs, places, moves = [tables.initial], {}, []
    places[tuple(np.round(tables.initial, 10))] = 0
    while len(moves) < len(beliefs):
        belief = beliefs[len(moves)]
        moves.append([])
        for action, reward in enumerate(tables.reward):
            following = []
            for _, p, b in bayes(belief, tables.transition[action], tables.observation[action]):
                key = tuple(np.round(b, 10))
                if key not in places:
                    places[key] = len(beliefs)
                    beliefs.append(b)
                following.append((p, places[key]))
            moves[-1].append((float(reward @ belief), following))
        assert len(beliefs) <= most
    values = np.zeros(len(beliefs))
    while True:
        better = np.array(
            [
                max(
                    r + tables.discount * sum(p * values[to] for p, to in ahead) for r, ahead in row
                )
                for row in moves
            ]
        )
        if abs(better - values).max() < 1e-12:
            return better[0]
        values = better


def state_values(tables, sweeps=2000):
    """Q (A, K) of the process whose state is seen, by value iteration."""
    actions, states = tables.reward.shape
    q = np.zeros((actions, states))
    for _ in range(sweeps):
        best = q.max(0)
        q = np.array(
            [
                [
                    tables.reward[a, z]
                    + tables.discount
                    * sum(tables.transition[a, z, to] * best[to] for to in range(states))
                    for z in range(states)
                ]
                for a in range(actions)
            ]
        )
    return q
