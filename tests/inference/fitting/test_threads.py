"""Seeded numbers are the same in any thread: torch's generator and Pyro belong to the process."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import joblib
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    fit,
    forecast,
    nuts,
    sample_states,
    weighted_evidence,
)
from beliefzoo.models import (
    FromDistribution,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    Sequences,
    mess3,
    tiger,
)
from beliefzoo.models.randomness import TURNS, generator_from, seeded
from fuzzing import TIMES

CASES = 8 * TIMES
"""Seeds of every kind of draw."""

MODEL = HiddenMarkovModel(2, "poisson").with_parameters(
    initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 9.0]
)
DATA = MODEL.sample(3, 12, seed=0).data
LINEAR = LinearGaussianSSM(LinearDynamics(1), features=1)
LINEAR = LINEAR.with_parameters(**LINEAR.sample(1, 3, seed=0).parameters)
REALS = LINEAR.sample(2, 8, seed=0).data
OWN = HiddenMarkovModel(2, FromDistribution(dist.Gamma))
SHORT = FitSettings(steps=4, sleep_steps=2, restart_steps=2, holdout=0, patience=None)


def fitted(seed: int, **guide: str) -> Tensor:
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    filter = ExactFilter() if guide else LSTMFilter(2)
    with seeded(seed):  # the first weights
        made = BeliefGuide(model, filter, **guide)
    return fit(model, made, DATA, settings=SHORT, seed=seed, progress=False).losses


def sampled(seed: int) -> Tensor:
    found = nuts(
        HiddenMarkovModel(1, "poisson"), DATA, chains=2, draws=3, warmup=3, seed=seed,
        progress=False,
    )  # fmt: skip
    return found.draws["rate"]


def weighed(seed: int) -> Tensor:
    guide = BeliefGuide(MODEL, ExactFilter())
    return torch.as_tensor(weighted_evidence(guide, DATA, draws=25, seed=seed).log_evidence)


QUICK: dict[str, Callable[[int], Tensor]] = {
    "sample_states": lambda seed: sample_states(MODEL, DATA, draws=5, seed=seed),
    "trajectories": lambda seed: sample_states(LINEAR, REALS, draws=5, seed=seed),
    "forecast": lambda seed: forecast(MODEL, DATA, 3, draws=7, seed=seed).draws,
    "forecast of reals": lambda seed: forecast(LINEAR, REALS, 3, draws=7, seed=seed).draws,
    "sample": lambda seed: MODEL.sample(3, 6, seed=seed).data.values,
    "sample of all": lambda seed: OWN.sample(3, 6, seed=seed).data.values,
    "process": lambda seed: mess3().sample(2, 9, seed=seed).data.values,
    "rollout": lambda seed: tiger().rollout(episodes=4, length=5, seed=seed).returns(),
    "weights": weighed,
}
SLOW: dict[str, Callable[[int], Tensor]] = {
    "gradient steps": fitted,
    "climbs": lambda seed: fitted(seed, parameters="ml"),
    "nuts": sampled,
}


@pytest.mark.cases(CASES)
@pytest.mark.filterwarnings("ignore:fit:UserWarning")
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_fuzz_four_threads_draw_what_one_draws(name: str) -> None:
    draw, count = (QUICK | SLOW)[name], CASES if name in QUICK else 2
    alone = [draw(seed) for seed in range(count)]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        order = [*range(count), *reversed(range(count))]
        for seed, found in zip(order, pool.map(draw, order), strict=True):
            assert torch.equal(found.nan_to_num(-7.0), alone[seed].nan_to_num(-7.0)), seed
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_all_kinds_at_once() -> None:
    """Draws, fits and chains beside each other do not see each other either."""
    kinds = QUICK | SLOW
    alone = {name: draw(1) for name, draw in kinds.items()}
    with ThreadPoolExecutor(4) as pool:
        found = {name: pool.submit(draw, 1) for name, draw in kinds.items()}
    for name, expected in alone.items():
        assert torch.equal(found[name].result().nan_to_num(), expected.nan_to_num()), name


def test_states_are_drawn_without_the_global_generator() -> None:
    """Whatever other threads of the user draw from it meanwhile."""
    expected = sample_states(MODEL, DATA, draws=5, seed=3)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            torch.rand(())

    other = threading.Thread(target=disturb)
    other.start()
    try:
        for _ in range(20):
            assert torch.equal(sample_states(MODEL, DATA, draws=5, seed=3), expected)
    finally:
        stop.set()
        other.join()


def test_a_generator_continues_as_the_global_one_would() -> None:
    for seed in (0, 7, 2**40, -3):
        with seeded(seed):
            first = int(torch.randint(2**62, ()))
        expected = torch.Generator().manual_seed(first)
        assert torch.equal(generator_from(seed).get_state(), expected.get_state())
    torch.manual_seed(5)
    first = generator_from(None).get_state()
    assert not torch.equal(generator_from(None).get_state(), first)
    torch.manual_seed(5)
    assert torch.equal(generator_from(None).get_state(), first)
    with pytest.raises(ValueError, match=r"seed: must be a whole number .* or None, got '1'"):
        generator_from("1")  # type: ignore[arg-type]


def test_chains_within_a_turn_do_not_wait_for_themselves() -> None:
    """A callback of a fit, say, may sample on the backend of threads."""
    expected = sampled(0)
    with TURNS, joblib.parallel_config(backend="threading"):
        found = nuts(
            HiddenMarkovModel(1, "poisson"), DATA, chains=2, draws=3, warmup=3, seed=0, jobs=2,
            progress=False,
        )  # fmt: skip
    assert torch.equal(found.draws["rate"], expected)


def test_pyros_checks_are_on_after_threads_have_switched_them_off() -> None:
    law = FromDistribution(dist.Gamma)
    values = {"concentration": torch.ones(2), "rate": torch.ones(2)}
    y, mask = torch.ones(2000, 1), torch.ones(2000, 1, dtype=torch.bool)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: law.score(values, y, mask), range(200)))
    with pytest.raises(ValueError, match="rate"):
        dist.Gamma(1.0, -1.0)


def test_sequences_are_read_in_threads() -> None:
    """What draws nothing does not wait: here, for a thread that never ends its turn."""
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        with TURNS:
            held.set()
            release.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    try:
        Sequences.from_arrays([[1.0, 2.0]])
        sample_states(MODEL, DATA, draws=1, seed=0)
    finally:
        release.set()
        other.join()
