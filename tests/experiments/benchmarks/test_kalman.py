"""The benchmark of Gaussian chains: that it compares the same quantity. No test asserts a time."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracles_gaussian as oracles
from beliefzoo.experiments.benchmarks import kalman
from beliefzoo.experiments.benchmarks.parts import fresh, linear
from beliefzoo.experiments.benchmarks.parts.comparison import Prepared, checked
from beliefzoo.experiments.benchmarks.parts.linear import CONTENDERS, OURS, Case, Task
from beliefzoo.experiments.benchmarks.parts.problems import Answer, check_agreement, tolerance
from beliefzoo.experiments.command.cli import main

SIZE = 3, 2, 4, 6


def small(task: Task) -> linear.Problem:
    return linear.problem(Case(task, *SIZE), seed=3)


def dense(given: linear.Problem) -> tuple[list[Tensor], Tensor, Tensor]:
    """The chain, values and mask as the oracle takes them."""
    leaves = {n: torch.tensor(v, requires_grad=True) for n, v in given.parameters.items()}
    y = torch.from_numpy(given.y)
    return [*linear._chain(leaves)], y, torch.ones_like(y, dtype=torch.bool)


def test_problems_are_reproducible() -> None:
    one, again = small("evidence"), small("evidence")
    np.testing.assert_array_equal(one.y, again.y)
    assert one.y.shape == (4, 6, 2)
    other = linear.problem(one.case, seed=4)
    assert not np.array_equal(one.y, other.y)
    radius = np.abs(np.linalg.eigvals(one.parameters["transition"])).max()
    assert radius < 1


def test_data_follow_the_model() -> None:
    """Their log density is the negative entropy, within five standard errors (wrong by chance once
    in 10^6 runs)."""
    case = Case("evidence", 2, 1, 500, 20)
    random = np.random.default_rng(7)
    truth = linear.problem(case, seed=0).parameters
    y = linear._observations(random, truth, case)
    given = linear.Problem(case, truth, y)
    chain, values, mask = dense(given)
    law = oracles.joint(chain, values, mask, 0, 20)
    entropy = 0.5 * float(torch.logdet(2 * np.pi * np.e * law.observed_covariance).detach())
    found = linear.reference(given).log_evidence
    # Half a chi-square of 20 degrees of freedom a sequence: variance 10.
    assert abs(found + 500 * entropy) < 5 * np.sqrt(10 * 500)


def test_reference_is_the_dense_joint_law() -> None:
    given = small("evidence")
    found = linear.reference(given)
    chain, y, mask = dense(given)
    total = oracles.log_evidence(chain, y, mask, [6] * 4).sum()
    assert found.log_evidence == pytest.approx(float(total.detach()), rel=1e-12)
    leaves = {n: torch.tensor(v, requires_grad=True) for n, v in given.parameters.items()}
    total = oracles.log_evidence([*linear._chain(leaves)], y, mask, [6] * 4).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    for name, gradient in zip(leaves, gradients, strict=True):
        right = gradient.numpy()
        right = (right + right.T) / 2 if name in linear.COVARIANCES else right
        np.testing.assert_allclose(found.found[f"gradient of {name}"], right, rtol=1e-8, atol=1e-9)


def test_reference_moments_are_those_of_the_dense_posterior() -> None:
    given = small("smoother")
    found = linear.reference(given).found
    chain, y, mask = dense(given)
    for n in range(4):
        mean, covariance = oracles.posterior(chain, y, mask, n, 6)
        np.testing.assert_allclose(
            found["smoothed_means"][n].ravel(), mean.detach().numpy(), atol=1e-9
        )
        blocks = covariance.detach().reshape(6, 3, 6, 3)
        np.testing.assert_allclose(
            found["smoothed_covariances"][n], blocks[range(6), :, range(6)], atol=1e-9
        )


@pytest.mark.parametrize(
    ("task", "name"),
    [(task, contender.name) for task, each in CONTENDERS.items() for contender in each],
)
def test_contenders_agree_where_they_are_installed(task: Task, name: str) -> None:
    contender = next(one for one in CONTENDERS[task] if one.name == name)
    if contender.package is not None:
        pytest.importorskip(contender.package)
    given = small(task)
    expected = linear.reference(given)
    prepared = contender.prepare(given)
    figures = checked(contender, given.case, prepared, expected)
    assert figures["largest_relative_difference"] < 5e-3


def test_a_wrong_answer_is_refused() -> None:
    given = small("evidence")
    expected = linear.reference(given)
    found = {**expected.found, "gradient of noise": 1.1 * expected.found["gradient of noise"]}
    allowed = tolerance("float32", expected.log_evidence, in_logs=False)
    wrong = Answer(expected.log_evidence, found)
    with pytest.raises(
        ValueError, match=r"toy: gradient of noise must agree .* on evidence state3"
    ):
        check_agreement("toy", given.case, wrong, expected, allowed)


def test_who_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "installed", lambda package: None)
    settings = kalman.Settings(sizes=((2, 1, 2, 3),), rounds=1, seconds_each=0.01)
    figures = kalman.measure(settings)
    size = "state2_features1_sequences2_length3"
    assert set(figures) == {"evidence", "smoother"}
    assert figures["smoother"][size]["filterpy"] == {"left_out": "filterpy is not installed"}
    ratio = figures["evidence"][size]["pyro_GaussianHMM"]
    assert ratio["times_slower"] > 0
    assert ratio["times_slower_to_reach"] == 10
    shown = kalman.table(figures)
    assert "evidence, state 2, features 1, 2 × 3" in shown
    assert "left out: filterpy is not installed" in shown


def test_every_peer_has_a_reach() -> None:
    for task, contenders in CONTENDERS.items():
        assert {one.name for one in contenders} == {OURS, *kalman.REACH[task]}


def test_work_is_done_anew_at_every_call() -> None:
    """Nothing is kept from one call to the next that would make the second one cheap."""
    given = small("evidence")
    prepared: Prepared = linear._ours(given)
    first, second = prepared.work(), prepared.work()
    assert first[0] is not second[0]
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "2", "1", "3", "1"], "numbers >= 1 and length >= 2"),
        (["--rounds", "0"], "rounds: must be >= 1, got 0"),
        (["--seconds-each", "0"], "seconds_each: must be finite and > 0"),
    ],
)
def test_bad_settings_are_a_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "kalman", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error
