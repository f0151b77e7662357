"""One series as a function of its noises: the recursion for any chain, and its derivatives."""

import numpy as np
import pytest
import torch

from beliefzoo.inference.exact import gaussian
from beliefzoo.inference.exact.series import Noises, Series, by_noises

SIZE, STEPS, POINTS = 3, 12, 4


def covariance(generator: torch.Generator, *shape: int) -> torch.Tensor:
    root = torch.randn(*shape, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return root @ root.mT / SIZE


def case(flat: int, moving: bool, seed: int) -> tuple[gaussian.LinearChain, Noises]:
    """A chain, and noises at several points."""
    generator = torch.Generator().manual_seed(seed)
    steps = STEPS if moving else 1

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    before = max(steps - 1, 1)
    chain = gaussian.LinearChain(
        draw(1, SIZE),
        covariance(generator, 1),
        draw(SIZE, flat),
        0.6 * draw(1, before, SIZE, SIZE),
        draw(1, before, SIZE),
        covariance(generator, 1, before),
        draw(1, steps, 1, SIZE),
        draw(1, steps, 1),
        draw(1, steps, 1, 1).square(),
    )
    noises = Noises(
        covariance(generator, POINTS).numpy(),
        covariance(generator, POINTS, before).numpy(),
        draw(POINTS, steps).square().numpy(),
    )
    return chain, noises


@pytest.mark.parametrize("flat", [0, 1, 2])
@pytest.mark.parametrize("moving", [False, True])
def test_evidence_and_derivatives_are_those_of_the_recursion_for_any_chain(flat, moving):
    chain, noises = case(flat, moving, seed=flat)
    y = torch.randn(1, STEPS, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[0, [1, 6, STEPS - 1]] = False
    evidence, slopes = Series.of(chain, y, mask, 0).slopes(noises)
    for point in range(POINTS):
        first, noise, observed = (torch.from_numpy(x[point, None]).clone() for x in noises)
        given = first.requires_grad_(), noise.requires_grad_(), observed.requires_grad_()
        own = chain._replace(
            initial_covariance=given[0],
            noise=given[1],
            observation_noise=given[2][..., None, None],
        )
        expected = gaussian.log_evidence(own, y, mask)
        assert evidence[point] == pytest.approx(float(expected.detach()), abs=1e-10)
        by = torch.autograd.grad(expected.sum(), given)
        # Where nothing depends on some elements, rounding is left.
        for found, wanted in zip(slopes, by, strict=True):
            np.testing.assert_allclose(found[point], wanted[0].numpy(), rtol=1e-8, atol=1e-8)


def test_what_would_lose_digits_is_left_to_another_recursion():
    """The observation sees a flat direction hardly, or the variances are far apart."""
    chain, noises = case(1, False, seed=0)
    y, mask = torch.zeros(1, STEPS, 1).double(), torch.ones(1, STEPS, 1, dtype=torch.bool)
    along = chain._replace(
        diffuse=torch.tensor([[1.0], [0], [0]]).double(),
        loading=torch.tensor([[[[1e-5, 1.0, 0.0]]]]).double(),
    )
    assert Series.of(along, y, mask, 0).slopes(noises)[0].tolist() == [-np.inf] * POINTS
    far = noises._replace(first=1e14 * noises.first)
    proper = chain._replace(diffuse=torch.zeros(SIZE, 0).double())
    assert Series.of(proper, y, mask, 0).slopes(far)[0].tolist() == [-np.inf] * POINTS
    nothing = Series.of(chain, y, torch.zeros_like(mask), 0)
    assert nothing.slopes(noises)[0].tolist() == [-np.inf] * POINTS  # δ is never determined


def test_levels_far_from_zero_keep_their_digits():
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1).double()
    law = zero[0], zero, torch.ones(1, 1).double(), one, zero, one, one, zero, one
    chain = gaussian.LinearChain(*law)
    y = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)[None, :, None]
    mask = torch.ones_like(y, dtype=torch.bool)
    noises = Noises(np.zeros((1, 1, 1)), np.ones((1, 1, 1, 1)), np.ones((1, 1)))
    near = Series.of(chain, y, mask, 0).slopes(noises)[0]
    far = Series.of(chain, y + 2.0**40, mask, 0).slopes(noises)[0]
    assert far == pytest.approx(near, abs=1e-12)


@pytest.mark.parametrize("flat", [0, 2])
def test_evidence_of_sequences_is_differentiable_in_noises_alone(flat):
    chain, _ = case(flat, False, seed=flat)
    y = torch.randn(3, STEPS, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[1, 5:] = False
    names = "initial_covariance", "noise", "observation_noise"
    noises = [getattr(chain, name).requires_grad_() for name in names]
    found, expected = by_noises(chain, y, mask), gaussian.log_evidence(chain, y, mask)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    own = torch.autograd.grad(found @ weights, noises)
    for mine, other in zip(own, torch.autograd.grad(expected @ weights, noises), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)
    chain.transition.requires_grad_()
    assert by_noises(chain, y, mask) is None
