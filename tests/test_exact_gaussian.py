"""Exact inference on Gaussian chains, against dense matrices and textbook loops in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import oracles_gaussian as oracles
from beliefzoo.inference import exact_gaussian, exact_gaussian_kernels


@pytest.fixture(params=["machine code", "torch"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recursions for the CPU, and those for other devices."""
    if request.param == "torch":
        monkeypatch.setattr(exact_gaussian, "_recursions", lambda tensor: exact_gaussian_kernels)


def gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """The value, and the gradients of a fixed weighted sum of it."""
    leaves = tuple(x.clone().requires_grad_() for x in leaves)
    value = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    found = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    zeros = (torch.zeros_like(x) for x in leaves)
    return [value.detach(), *(z if g is None else g for g, z in zip(found, zeros, strict=True))]


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-11) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            a,
            b,
            rtol=tolerance,
            atol=tolerance * (1 + float(b.abs().max())) if b.numel() else tolerance,
        )


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


# --- linear sweeps --------------------------------------------------------------------------------

SWEEPS = [
    # sequences, steps, size, draws, axes of the gain, lengths
    (3, 5, 2, (4,), (3, 4), None),
    (3, 5, 2, (2, 2), (1, 4), [5, 1, 3]),
    (3, 5, 3, (), (3, 1), [2, 5, 4]),
    (4, 6, 1, (), (1, 1), None),
    (2, 1, 2, (3,), (2, 1), None),
]
sweeps = pytest.mark.parametrize(("n", "t", "d", "draws", "axes", "lengths"), SWEEPS)


@sweeps
@pytest.mark.usefixtures("both_paths")
def test_backward_sweep_and_its_gradient(
    n: int, t: int, d: int, draws: tuple[int, ...], axes: tuple[int, int], lengths: list[int] | None
) -> None:
    laws = normal(*axes, d, d, scale=0.6), normal(*draws, n, t - 1, d), normal(*draws, n, d)
    own = None if lengths is None else torch.tensor(lengths)
    ours = gradients(lambda *x: exact_gaussian.backward_sweep(*x, own), *laws)
    agree(ours, gradients(lambda *x: oracles.sweep(*x, lengths or [t] * n), *laws))


@sweeps
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("both_paths")
def test_backward_covariances_and_their_gradient(
    n: int,
    t: int,
    d: int,
    draws: tuple[int, ...],
    axes: tuple[int, int],
    lengths: list[int] | None,
    shared: bool,
) -> None:
    """Of matrices that are not even symmetric: the gradient is that of each entry."""
    rows = 1 if shared else n
    laws = normal(*axes, d, d, scale=0.6), normal(rows, t - 1, d, d), normal(n, d, d)
    own = None if lengths is None else torch.tensor(lengths)
    ours = gradients(lambda *x: exact_gaussian.backward_covariances(*x, own), *laws)
    agree(ours, gradients(lambda *x: oracles.sweep_covariances(*x, lengths or [t] * n), *laws))


def test_sweeps_refuse_what_does_not_fit() -> None:
    gain, shift, last = normal(1, 1, 2, 2), normal(3, 4, 2), normal(3, 2)
    sweep = exact_gaussian.backward_sweep
    with pytest.raises(ValueError, match=r"gain must have shape \(3\|1, 4\|1, 2, 2\); got"):
        sweep(normal(2, 1, 2, 2), shift, last)
    with pytest.raises(ValueError, match=r"last must have shape \(3, 2\); got \(3, 3\)"):
        sweep(gain, shift, normal(3, 3))
    with pytest.raises(ValueError, match=r"gain must be float32 or float64 as all others; got"):
        sweep(gain.float(), shift, last)
    with pytest.raises(ValueError, match=r"lengths must be in 1..5; got 0..5"):
        sweep(gain, shift, last, torch.tensor([0, 5, 5]))
    with pytest.raises(ValueError, match=r"noise must have shape \(N\|1, T-1, D, D\); got"):
        exact_gaussian.backward_covariances(gain, normal(4, 2, 2), normal(1, 2, 2))
