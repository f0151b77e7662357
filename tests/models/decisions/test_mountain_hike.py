"""The hills beside SciPy, the walk beside its description, particles beside sums over a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from beliefzoo.inference import ParticleTracker
from beliefzoo.models import (
    POMDP,
    ActionSequence,
    ExactTracker,
    MountainHike,
    Seen,
    t_maze,
    tiger,
)

MOVES = {"right": (0.1, 0.0), "up": (0.0, 0.1), "left": (-0.1, 0.0), "down": (0.0, -0.1)}


def altitude(place: np.ndarray) -> np.ndarray:
    """As Lambrechts, Bolland & Ernst (2022) state it."""
    ridges = [
        multivariate_normal([0, 0], [[0.005, 0], [0, 1]]),
        multivariate_normal([0, -0.8], [[1, 0], [0, 0.01]]),
        multivariate_normal([0, 0.8], [[1, 0], [0, 0.01]]),
    ]
    height = np.maximum.reduce([ridge.pdf(place) for ridge in ridges])
    return np.asarray(-np.exp(-height) + place @ [0.2, 0.2] - 0.02)


def points(*places: tuple[float, float], turn: float = 0) -> Tensor:
    return torch.tensor([[*place, turn] for place in places], dtype=torch.float64)


def test_the_altitude_beside_scipy() -> None:
    place = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    heights = MountainHike().altitude(torch.from_numpy(place))
    np.testing.assert_allclose(heights, altitude(place), rtol=1e-12)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_moves_of_every_action_and_turn(turn: int) -> None:
    hike = MountainHike(move_scale=1e-9)
    assert hike.action_names == tuple(MOVES)
    for action in range(4):
        later = hike.draw_next(points((0.2, -0.3), turn=turn), torch.tensor([action]))
        east, north = list(MOVES.values())[(action + turn) % 4]
        np.testing.assert_allclose(later, [[0.2 + east, -0.3 + north, turn]], atol=1e-7)


def test_the_law_of_a_move_sums_to_one_with_what_is_clipped() -> None:
    """Density inside, mass on the four edges and in the four corners."""
    hike = MountainHike(move_scale=0.2)
    state, action = points((0.9, -0.95)), torch.tensor([0])
    cells = torch.linspace(-1, 1, 801, dtype=torch.float64)
    middle = (cells[1:] + cells[:-1]) / 2
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    total = 0.0
    for xs, dx in ((middle, 2 / 800), (ends, 1.0)):
        for ys, dy in ((middle, 2 / 800), (ends, 1.0)):
            later = torch.cartesian_prod(xs, ys)
            later = torch.cat([later, torch.zeros(len(later), 1)], 1)
            density = hike.log_next(later, state.expand(len(later), -1), action).exp()
            total += float(density.sum()) * dx * dy
    assert total == pytest.approx(1, abs=1e-5)
    drawn = hike.draw_next(state.expand(100_000, -1), action)
    at_edge = float((drawn[:, 0] == 1).double().mean())
    # Mass beyond x = 1 of N(1.0, .2²); false alarms: 4 σ, 1 in 16000.
    assert at_edge == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(100_000))


def test_impossible_moves() -> None:
    hike = MountainHike()
    here, turned = points((0.0, 0.0)), points((0.1, 0.0), turn=1)
    assert float(hike.log_next(turned, here, torch.tensor([0]))) == -math.inf
    assert float(hike.log_next(points((1.1, 0.0)), here, torch.tensor([0]))) == -math.inf
    goal = points((0.75, 0.75))
    assert bool(hike.over(goal))
    assert torch.equal(hike.draw_next(goal, torch.tensor([0])), goal)
    assert float(hike.log_next(goal, goal, torch.tensor([0]))) == 0
    assert float(hike.log_next(here, goal, torch.tensor([0]))) == -math.inf
    assert float(hike.reward(goal, goal)) == 0


def test_observations() -> None:
    hike = MountainHike(height_scale=0.3)
    states = points((-0.8, -0.8), (0.0, 0.3))
    y = torch.tensor([[-0.5], [0.1]], dtype=torch.float64)
    expected = norm.logpdf(y[:, 0], altitude(states[:, :2].numpy()), 0.3)
    np.testing.assert_allclose(hike.log_observation(y, states), expected)
    torch.manual_seed(0)
    drawn = hike.draw_observation(states[:1].expand(100_000, -1))
    # False alarms: 4 σ, 1 in 16000.
    mean = altitude(np.array([-0.8, -0.8]))
    assert float(drawn.mean()) == pytest.approx(float(mean), abs=4 * 0.3 / math.sqrt(100_000))


def test_episodes() -> None:
    hike = MountainHike(move_scale=1e-6, height_scale=1e-6)
    way = [0] * 15 + [1] * 18  # it is over at (.7, .7), and near no border of that region before
    made = hike.rollout(ActionSequence(tuple(way)), 3, len(way), seed=0)
    place, total, over = np.array([-0.8, -0.8]), 0.0, False
    for t, action in enumerate(way):
        np.testing.assert_allclose(made.states[:, t, :2], [place] * 3, atol=1e-4)
        np.testing.assert_allclose(made.data.values[:, t, 0], [altitude(place)] * 3, atol=1e-3)
        over = over or bool(np.hypot(*(place - 0.8)) < 0.2 - 1e-4)
        if not over:
            place = place + list(MOVES.values())[action]
            total += 0.99**t * float(altitude(place))
    assert over
    np.testing.assert_allclose(made.returns(), [total] * 3, atol=1e-2)
    again = hike.rollout(ActionSequence(tuple(way)), 3, len(way), seed=0)
    assert torch.equal(made.states, again.states)
    assert made.data.actions is not None
    assert made.data.actions.tolist() == [way] * 3
    turned = MountainHike(rotated=True).rollout(None, 200, 2, seed=1)
    assert sorted(turned.states[:, 0, 2].unique().tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("setting", ["step", "move_scale", "height_scale", "discount"])
def test_settings_out_of_range(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}: must be"):
        MountainHike(**{setting: -1.0})


# --- particles


class Grid:
    """The belief over cells of [−1, 1]² by sums over all of them; no turns, no goal in reach."""

    def __init__(self, cells: int = 81) -> None:
        self.middle = np.linspace(-1, 1, cells)
        cuts = (self.middle[1:] + self.middle[:-1]) / 2
        self.cuts = np.concatenate([[-np.inf], cuts, [np.inf]])
        x, y = np.meshgrid(self.middle, self.middle, indexing="ij")
        self.places = np.stack([x, y], -1)
        self.belief = np.zeros((cells, cells))
        near = np.abs(self.middle + 0.8).argmin()
        self.belief[near, near] = 1

    def matrix(self, shift: float) -> np.ndarray:
        """From cell to cell of one coordinate; what leaves is clipped into the last cell."""
        return np.diff(norm.cdf(self.cuts[None], self.middle[:, None] + shift, 0.05), axis=1)

    def step(self, action: int | None, y: float) -> np.ndarray:
        """Mean place after the step."""
        if action is not None:
            east, north = list(MOVES.values())[action]
            self.belief = self.matrix(east).T @ self.belief @ self.matrix(north)
        self.belief = self.belief * norm.pdf(y, altitude(self.places), 0.1)
        self.belief /= self.belief.sum()
        return np.asarray((self.belief[..., None] * self.places).sum((0, 1)))


def test_particles_beside_a_grid() -> None:
    hike = MountainHike()
    way = (0, 1, 0, 1, 0, 0)
    made = hike.rollout(ActionSequence(way), 1, 6, seed=3, tracker=ParticleTracker(40_000))
    assert made.beliefs is not None
    assert made.beliefs.shape == (1, 6, 40_000, 3)
    grid = Grid()
    for t in range(6):
        mean = grid.step(way[t - 1] if t else None, float(made.data.values[0, t, 0]))
        # Spreads of up to .15 over 40 000 particles: .001; cells of .025 add less than that.
        np.testing.assert_allclose(made.beliefs[0, t, :, :2].mean(0), mean, atol=5e-3)


@pytest.mark.parametrize(
    "model", [tiger(), t_maze(4, 0.3)], ids=["nothing seen at first", "a cue at first"]
)
def test_particles_beside_the_exact_belief(model: POMDP) -> None:
    """Both read the same episodes. Standard deviations are at most .5 / 100 a step."""
    made = model.rollout(None, 5, 12, seed=2, tracker=ExactTracker())
    assert made.beliefs is not None
    tracker = ParticleTracker(10_000)
    torch.manual_seed(0)
    memory = tracker.begin(model, 5)
    assert made.data.actions is not None
    for t in range(12):
        action = made.data.actions[:, t - 1] if t else None
        seen = Seen(action, made.data.values[:, t], made.data.mask[:, t])
        belief, memory = tracker.update(memory, seen)
        assert torch.allclose(belief.sum(-1), torch.ones(5, dtype=torch.float64))
        assert float((belief - made.beliefs[:, t]).abs().max()) < 0.05


def test_particles_that_are_lost() -> None:
    model = POMDP.from_tables(np.eye(2)[None], np.eye(2)[None], initial=[1.0, 0.0])
    wrong = Seen(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([True, True]))
    tracker = ParticleTracker(10)
    with pytest.raises(ValueError, match=r"data: needs .* episode 1, step 0, got"):
        tracker.update(tracker.begin(model, 2), wrong)
    again = ParticleTracker(10, impossible="reset")
    belief, _ = again.update(again.begin(model, 2), wrong)
    np.testing.assert_allclose(belief, [[1, 0], [1, 0]])


def test_bad_arguments_of_the_tracker() -> None:
    with pytest.raises(ValueError, match="particles: must be a whole number >= 2, got 1"):
        ParticleTracker(1)
    with pytest.raises(ValueError, match="impossible: must be 'raise' or 'missing' or 'reset'"):
        ParticleTracker(impossible="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model: must be a POMDP or a MountainHike, got int"):
        ParticleTracker().begin(3, 1)  # type: ignore[arg-type]
