"""Classic decision processes, built from the descriptions in their papers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..boundary import boundary
from ..checks import require, require_count, require_finite, require_positive, require_share
from .pomdp import POMDP

Array = npt.NDArray[np.float64]

_LARGEST = 2**27
"""Largest number A K² of entries of a table of transitions: a gibibyte."""

_ROCKS = {  # (x, y) of the rocks, and where the rover starts, in programs after Silver & Veness
    (4, 4): (((0, 1), (2, 0), (3, 2), (1, 3)), (0, 0)),
    (5, 5): (((2, 4), (0, 4), (3, 3), (2, 2), (4, 1)), (0, 2)),
    (5, 7): (((1, 0), (2, 1), (1, 2), (2, 2), (4, 2), (0, 3), (3, 4)), (0, 2)),
}


def tiger(accuracy: float = 0.85, *, discount: float = 0.95) -> POMDP:
    """Build the tiger problem: a tiger is behind one of two doors.

    Listening costs 1 and tells the right side with probability ``accuracy``; opening a door earns
    10, or −100 if the tiger is behind it, after which the tiger is put behind either door again.

    From (½, ½) the optimal value is 19.371368 at a discount of .95, 1.933439 at .75, and 9.7284247
    over 15 steps at .95. At .95 it is optimal to listen if and only if the net number of growls on
    one side is 0 or 1.

    Args:
        accuracy: probability of hearing the tiger on the right side.
        discount: γ.

    Returns:
        The process: 2 states, 3 actions, 2 observations.

    Raises:
        ValueError: an accuracy or a discount outside [0, 1].

    Source: Kaelbling, Littman & Cassandra (1998), Artificial Intelligence 101.

    >>> problem = tiger()
    >>> problem.action_names, problem.observation_names
    (('listen', 'open-left', 'open-right'), ('tiger-left', 'tiger-right'))
    """
    require_share(accuracy, "accuracy")
    sides = ["tiger-left", "tiger-right"]
    even = np.full((2, 2), 0.5)
    growl = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    return POMDP.from_tables(
        np.stack([np.eye(2), even, even]),
        np.stack([growl, even, even]),
        [[-1.0, -1.0], [-100.0, 10.0], [10.0, -100.0]],
        discount=discount,
        states=sides,
        actions=["listen", "open-left", "open-right"],
        observations=sides,
    )


def t_maze(length: int = 10, stochasticity: float = 0.0, *, discount: float = 0.98) -> POMDP:
    r"""Build a T-maze: a cue, a corridor, and a junction at which the cue is needed.

    There are 2 (length + 3) states: the goal (up or down), and one of the cells 0 … length (the
    junction) or of the two arms, which end the episode. The cue is shown in cell 0, before the
    first action and at every return; elsewhere the observation is "corridor" or "junction". With
    probability ``stochasticity`` λ the move is one of the four at random:

    .. math:: T_a = (1 - λ) M_a + \frac λ4 \sum_e M_e

    The right arm earns 4, the wrong one −0.1, and so does every step without movement. Without
    stochasticity the optimal value, once the cue is seen, is 4 γ^length.

    Args:
        length: number of the junction's cell.
        stochasticity: probability λ of a random move.
        discount: γ.

    Returns:
        The process: 4 actions, 4 observations.

    Raises:
        ValueError: a length below 1, or a stochasticity or a discount outside [0, 1].

    Source: Bakker (2001), Reinforcement learning with long short-term memory, NIPS 14; in this form
    Lambrechts, Bolland & Ernst (2022), TMLR.

    >>> from beliefzoo.models import ActionSequence, ExactTracker
    >>> walk = ActionSequence((0,) * 10)  # right, to the junction
    >>> episodes = t_maze(10).rollout(walk, episodes=1, length=10, seed=0, tracker=ExactTracker())
    >>> (episodes.beliefs[0, -1] > 0).sum().item()  # the cue is remembered: one state is left
    1
    """
    require_count(length, "length")
    require_share(stochasticity, "stochasticity")
    cells = [str(cell) for cell in range(length + 1)] + ["arm-up", "arm-down"]
    count = len(cells)
    here = np.arange(count)
    ends = here > length
    up, down = length + 1, length + 2
    to = np.stack(
        [
            np.where(here < length, here + 1, here),  # right
            np.where(here == length, up, here),
            np.where(here > 0, here - 1, here),  # left
            np.where(here == length, down, here),
        ]
    )
    moves = np.eye(count)[np.where(ends, here, to)]
    moves = (1 - stochasticity) * moves + stochasticity * moves.mean(0)
    seen = np.where(here == 0, 0, np.where(here < length, 2, 3))
    told, reward = np.zeros((2, count, 4)), np.zeros((2, count, 2, count))
    for goal in range(2):
        told[goal, here, np.where(seen == 0, goal, seen)] = 1
        reward[goal, here[~ends], goal, here[~ends]] = -0.1  # a step without movement
        reward[goal, length, goal, [up, down]] = (4, -0.1) if goal == 0 else (-0.1, 4)
    looks = told.reshape(2 * count, 4)
    initial = np.zeros(2 * count)
    initial[[0, count]] = 0.5
    return POMDP.from_tables(
        np.kron(np.eye(2), moves),  # the goal does not move
        np.broadcast_to(looks, (4, *looks.shape)),
        reward.reshape(1, 2 * count, 2 * count, 1),
        initial=initial,
        first=looks,
        discount=discount,
        states=[f"goal-{goal}-at-{cell}" for goal in ("up", "down") for cell in cells],
        actions=["right", "up", "left", "down"],
        observations=["cue-up", "cue-down", "corridor", "junction"],
    )


def light_maze(*, discount: float = 0.95) -> POMDP:
    """Build a T of four cells in which a light, seen by looking up, tells the way.

    Go forward to the branch, then left or right, then forward: this earns 1 on the side of the
    reward and −1 on the other side, and ends the episode. Looking up at the start shows a light,
    red if the reward is on the right and green if it is on the left. Other actions change nothing.
    It is optimal to look up first, which is worth γ³ (0.857375 at .95); without looking the value
    is 0.

    Args:
        discount: γ.

    Returns:
        The process: 9 states, 4 actions, 6 observations.

    Raises:
        ValueError: a discount outside [0, 1].

    Source: Littman (2009), A tutorial on partially observable Markov decision processes, J.
    Mathematical Psychology 53.

    >>> from beliefzoo.models import ActionSequence
    >>> forward, left = 0, 1
    >>> gamble = ActionSequence((forward, left, forward))  # without looking
    >>> sorted(set(light_maze().rollout(gamble, 50, 3, seed=0).data.rewards[:, -1].tolist()))
    [-1.0, 1.0]
    """
    cells = ["start", "branch", "left", "right"]
    symbols = ["startx", "branch", "left", "right", "start-green", "start-red"]
    sides = ["right", "left"]
    states = [f"{cell}-reward{side}" for side in sides for cell in cells] + ["done"]
    moves = np.tile(np.eye(9), (4, 1, 1))
    told = np.zeros((4, 9, 6))
    told[:, 8, 0] = 1
    reward = np.zeros((4, 9))
    for number, side in enumerate(sides):
        start, branch, left, right = range(4 * number, 4 * number + 4)
        for action, state, to in (
            (0, start, branch),
            (0, left, 8),
            (0, right, 8),
            (1, branch, left),
            (2, branch, right),
        ):
            moves[action, state] = np.eye(9)[to]
        told[:, start : start + 4, :4] = np.eye(4)
        told[3, start] = np.eye(6)[5 if side == "right" else 4]
        reward[0, [left, right]] = (-1, 1) if side == "right" else (1, -1)
    initial = np.zeros(9)
    initial[[0, 4]] = 0.5
    return POMDP.from_tables(
        moves,
        told,
        reward,
        initial=initial,
        discount=discount,
        states=states,
        actions=["forward", "left", "right", "lookup"],
        observations=symbols,
    )


@boundary
def light_dark(
    width: int = 10, *, light: int = 5, noise: float = 0.5**0.5, discount: float = 0.9
) -> POMDP:
    r"""Build a dark line with a light: find the origin.

    The states are 2 width + 1 places x = −width … width, equally likely at first, and an end. The
    place is observed before the first action and after every action, less precisely the farther it
    is from the light:

    .. math:: O(o | x) \propto \exp(-½ ((o - x) / σ_x)^2), \qquad σ_x = noise · |x - light| + 0.01

    over the 2 width + 1 places; in the light the observation is nearly exact. ``left`` and
    ``right`` go one step, except at the ends of the line; ``stop`` ends the episode and earns 10 at
    the origin, −10 elsewhere. The defaults are those of LightDark1D of POMDPModels.jl, whose places
    are real numbers. Without noise, the value from x is 10 γ^|x|.

    Args:
        width: largest place.
        light: place of the light.
        noise: growth of the standard deviation with the distance from the light.
        discount: γ.

    Returns:
        The process: 3 actions.

    Raises:
        ValueError: a width below 1, a light off the line, a noise below 0 or infinite, or a
            discount outside [0, 1].

    Source: after Platt, Tedrake, Kaelbling & Lozano-Pérez (2010), Belief space planning assuming
    maximum likelihood observations, RSS.

    >>> model = light_dark(width=3, light=2)
    >>> model.states, model.action_names
    (8, ('left', 'right', 'stop'))
    """
    require_count(width, "width")
    require_count(light, "light", -width)
    require(light <= width, "light", "must be a place of the line", light)
    require_positive(noise, "noise", zero=True)
    places = np.arange(-width, width + 1)
    count = len(places)
    spread = noise * np.abs(places - light) + 0.01
    seen = np.exp(-0.5 * ((places - places[:, None]) / spread[:, None]) ** 2)
    told = np.zeros((count + 1, count + 1))
    told[:count, :count] = seen / seen.sum(1, keepdims=True)
    told[count, count] = 1
    moves = np.zeros((3, count + 1, count + 1))
    for action, to in enumerate((-1, 1)):
        moves[action, :count, :count] = np.eye(count)[(places + to).clip(-width, width) + width]
    moves[:2, count, count] = moves[2, :, count] = 1
    reward = np.zeros((3, count + 1))
    reward[2, :count] = np.where(places == 0, 10, -10)
    names = [f"left-{-x}" if x < 0 else f"right-{x}" if x else "origin" for x in places]
    return POMDP.from_tables(
        moves,
        np.broadcast_to(told, (3, *told.shape)),
        reward,
        initial=np.append(np.full(count, 1 / count), 0),
        first=told,
        discount=discount,
        states=[*names, "end"],
        actions=["left", "right", "stop"],
        observations=[*(f"seen-{name}" for name in names), "over"],
    )


@boundary
def rock_sample(
    n: int = 4,
    k: int = 4,
    *,
    rocks: Sequence[Sequence[int]] | None = None,
    start: Sequence[int] | None = None,
    half: float = 20.0,
    discount: float = 0.95,
) -> POMDP:
    """Build RockSample: a rover on an n × n grid with k rocks, each good or bad.

    There are n² 2^k + 1 states: 257 for (4, 4), 801 for (5, 5), 3201 for (5, 7). Moves are certain;
    leaving to the east of the last column earns 10 and ends the episode. Sampling a good rock earns
    10 and makes it bad, sampling a bad one costs 10. Checking rock i at distance d tells what it is
    with probability

    .. math:: ½ (1 + 2^{-d / half})

    All else earns nothing and is observed as "none". Each rock is good with probability ½. Values
    depend on the places of the rocks, which not all papers give: published values need not hold for
    these places.

    Args:
        n: size of the grid.
        k: number of rocks.
        rocks: (x, y) of each, x to the east and y to the north, from 0; if None those of programs
            after Silver & Veness (2010) for (4, 4), (5, 5) and (5, 7), otherwise drawn with a fixed
            seed.
        start: of the rover; if None that of these programs, otherwise the middle of the west side.
        half: distance at which the sensor has lost half of its efficiency.
        discount: γ.

    Returns:
        The process: 5 + k actions, 3 observations.

    Raises:
        ValueError: rocks or a start off the grid, two rocks in one place, or tables of more than
            2^27 entries.

    Source: Smith & Simmons (2004), Heuristic search value iteration for POMDPs, UAI.

    >>> model = rock_sample(2, 1, rocks=[(1, 0)], start=(0, 0))
    >>> model.states, model.action_names
    (9, ('north', 'south', 'east', 'west', 'sample', 'check-0'))
    """
    require_count(n, "n")
    require_count(k, "k")
    require_positive(half, "half")
    size, count = n * n * 2**k + 1, k + 5
    fits = count * size**2 <= _LARGEST
    require(fits, "k", "needs tables of at most 2^27 entries", f"{count} actions, {size} states")
    usual, home = _ROCKS.get((n, k), (None, (0, n // 2)))
    rocks = (usual or _drawn_rocks(n, k)) if rocks is None else _places(n, rocks, "rocks")
    start = home if start is None else _places(n, [start], "start")[0]
    require(len(rocks) == k, "rocks", f"needs {k} places", len(rocks))
    require(len(set(rocks)) == k, "rocks", "needs different places", rocks)
    # A state is (x, y) and a bit a rock, 1 = good; the last state is the end.
    states = list(itertools.product(range(n), range(n), *[(0, 1)] * k))
    number = {state: place for place, state in enumerate(states)}
    moves = np.zeros((count, size, size))
    moves[:, -1, -1] = 1
    told = np.zeros((count, size, 3))
    told[:5, :, 2] = told[:, -1, 2] = 1
    reward = np.zeros((count, size))
    for (x, y, *good), here in number.items():
        for action, (east, north) in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0))):
            to = (x + east, y + north, *good)
            leaves = x + east == n
            moves[action, here, -1 if leaves else number.get(to, here)] = 1
            reward[action, here] = 10.0 * leaves
        sampled = [bit * ((x, y) != rock) for bit, rock in zip(good, rocks, strict=True)]
        moves[4, here, number[(x, y, *sampled)]] = 1
        if (x, y) in rocks:
            reward[4, here] = 10.0 if sampled != good else -10.0
        for action, (bit, rock) in enumerate(zip(good, rocks, strict=True), 5):
            moves[action, here, here] = 1
            right = 0.5 * (1 + 2 ** (-np.hypot(x - rock[0], y - rock[1]) / half))
            told[action, here, :2] = (right, 1 - right) if bit else (1 - right, right)
    initial = np.zeros(size)
    initial[[number[(*start, *bits)] for bits in itertools.product((0, 1), repeat=k)]] = 0.5**k
    marks = [f"x{x}-y{y}-{''.join('bg'[bit] for bit in good)}" for x, y, *good in states]
    return POMDP.from_tables(
        moves,
        told,
        reward,
        initial=initial,
        discount=discount,
        states=[*marks, "end"],
        actions=["north", "south", "east", "west", "sample", *(f"check-{i}" for i in range(k))],
        observations=["good", "bad", "none"],
    )


def machine_repair(
    wear: float = 0.1,
    defects: tuple[float, float] = (0.1, 0.6),
    *,
    inspection: float = 0.25,
    repair: float = 2.0,
    discount: float = 0.95,
) -> POMDP:
    """Build a small maintenance problem: a machine that breaks unobserved.

    There are two states, working and broken. ``run`` makes a product: a flawless one earns 1, a
    defective one nothing; before that, a working machine breaks with probability ``wear``.
    ``inspect`` costs something and tells the state; ``repair`` costs more, tells nothing, and
    leaves the machine working. After m runs with uninformative products the machine works with
    probability (1 − wear)^m.

    Args:
        wear: probability of breaking per run.
        defects: probability of a defective product from a working and from a broken machine.
        inspection, repair: their costs.
        discount: γ.

    Returns:
        The process: 2 states, 3 actions, 2 observations.

    Raises:
        ValueError: a probability or a discount outside [0, 1].

    Source: a two-state relative of Smallwood & Sondik (1973), Operations Research 21.

    >>> from beliefzoo.models import ActionSequence, ExactTracker
    >>> model = machine_repair(wear=0.1, defects=(0.5, 0.5))  # products tell nothing
    >>> run = model.rollout(ActionSequence((0, 0, 0)), length=3, seed=0, tracker=ExactTracker())
    >>> [round(p, 3) for p in run.beliefs[0, :, 0].tolist()]
    [1.0, 0.9, 0.81]
    """
    require_share(wear, "wear")
    require(isinstance(defects, tuple | list), "defects", "needs two probabilities", repr(defects))
    require(len(defects) == 2, "defects", "needs two probabilities", defects)
    for share in defects:
        require_share(share, "defects")
    require_finite(inspection, "inspection")
    require_finite(repair, "repair")
    flaws = np.array(defects)
    reward = np.zeros((3, 1, 1, 2))
    reward[0, ..., 0], reward[1], reward[2] = 1, -inspection, -repair
    return POMDP.from_tables(
        np.array([[[1 - wear, wear], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [1, 0]]]),
        np.stack([np.stack([1 - flaws, flaws], 1), np.eye(2), np.full((2, 2), 0.5)]),
        reward,
        initial=[1.0, 0.0],
        discount=discount,
        states=["working", "broken"],
        actions=["run", "inspect", "repair"],
        observations=["flawless", "defective"],
    )


def _drawn_rocks(n: int, k: int) -> tuple[tuple[int, int], ...]:
    require(k <= n * n, "k", f"needs a cell for every rock, at most {n * n}", k)
    cells = np.random.default_rng(0).choice(n * n, k, replace=False)
    return tuple((int(cell) // n, int(cell) % n) for cell in cells)


def _places(n: int, places: Sequence[Sequence[int]], argument: str) -> tuple[tuple[int, int], ...]:
    """The places as pairs, each on the grid."""
    out = []
    for place in places:
        inside = len(place) == 2 and all(at in range(n) for at in place)
        require(inside, argument, f"needs (x, y) from 0 to {n - 1}", tuple(place))
        out.append((int(place[0]), int(place[1])))
    return tuple(out)
