"""Recurrences with gradients by hand: against plain loops, and finite differences."""

import itertools

import pytest
import torch

from beliefzoo.inference.guides.scans import path_scan, relative_path_scan, relu_scan

COUNTS = [(3, 3, 2, 1), (1, 1), (4,), (3, 1, 0)]
every_count = pytest.mark.parametrize("counts", COUNTS)


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def relu_case(counts):
    return numbers(len(counts), 4, 5), numbers(5), numbers(5, 5)


def path_case(counts):
    steps = len(counts)
    noise = torch.randn(steps, 4, 2, dtype=torch.float64)
    return numbers(2), numbers(steps, 4, 4), noise, (numbers(2, 3), numbers(3)), numbers(3, 4)


@every_count
@pytest.mark.parametrize("reverse", [False, True])
def test_relu_scan_is_the_loop_over_every_row(counts, reverse):
    u, h0, w = relu_case(counts)
    states = relu_scan(u, h0, w, counts, reverse=reverse)
    for row in range(4):
        length = sum(row < count for count in counts)
        steps = range(length)
        h = h0
        for t in reversed(steps) if reverse else steps:
            h = (u[t, row] + h @ w).clamp_min(0)
            torch.testing.assert_close(states[t, row], h)
        assert (states[length:, row] == 0).all()


def test_relu_scan_is_torchs_network():
    net = torch.nn.RNN(3, 5, nonlinearity="relu").double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    h0 = torch.randn(5, dtype=torch.float64)
    u = x @ net.weight_ih_l0.T + net.bias_ih_l0 + net.bias_hh_l0
    states = relu_scan(u, h0, net.weight_hh_l0.T, [2] * 7)
    torch.testing.assert_close(states, net(x, h0.expand(1, 2, 5))[0])


@every_count
@pytest.mark.parametrize("reverse", [False, True])
def test_relu_scan_has_the_gradient_of_finite_differences(counts, reverse):
    torch.autograd.gradcheck(
        lambda u, h0, w: relu_scan(u, h0, w, counts, reverse=reverse), relu_case(counts)
    )


@every_count
def test_path_scan_is_the_loop_over_every_row(counts):
    z0, g, noise, (w, b), v = path_case(counts)
    paths, moments = path_scan(z0, g, noise, (w, b), v, counts)
    for row in range(4):
        length = sum(row < count for count in counts)
        z = z0
        for t in range(length):
            law = g[t, row] + torch.tanh(z @ w + b) @ v
            z = law[:2] + (1 + law[2:].exp()).log() * noise[t, row]
            torch.testing.assert_close(moments[t, row], law)
            torch.testing.assert_close(paths[t, row], z)
        assert (paths[length:, row] == 0).all()
        assert (moments[length:, row] == 0).all()


@every_count
def test_path_scan_has_the_gradient_of_finite_differences(counts):
    z0, g, noise, (w, b), v = path_case(counts)

    def drawn(z0, g, w, b, v):
        return path_scan(z0, g, noise, (w, b), v, counts)

    torch.autograd.gradcheck(drawn, (z0, g, w, b, v))


def test_rows_do_not_mix():
    """A row's path depends on its own potential and noise alone."""
    counts = (3, 3, 2, 1)
    z0, g, noise, into, v = path_case(counts)
    paths, _ = path_scan(z0, g, noise, into, v, counts)
    for row, other in itertools.permutations(range(3), 2):
        gradient = torch.autograd.grad(paths[:, row].sum(), g, retain_graph=True)[0]
        assert (gradient[:, other] == 0).all()


def relative_case(counts, offsets):
    steps = len(counts)
    noise = torch.randn(steps, 4, 2, dtype=torch.float64)
    bias = numbers(11) if offsets == "constant" else numbers(steps, 4, 11)
    first = numbers(1, 2) if offsets == "constant" else numbers(4, 2)
    return (
        (first, numbers(steps, 4, 4)),
        noise,
        ((numbers(2, 11), bias), numbers(3, 4), (numbers(3, 2), numbers(2))),
        (numbers(3, 2), numbers(2)),
    )


@every_count
@pytest.mark.parametrize("offsets", ["constant", "moving"])
def test_relative_path_scan_is_the_loop_over_every_row(counts, offsets):
    (first, g), noise, (into, v, gate), proposal = relative_case(counts, offsets)
    paths, moments, proposed = relative_path_scan(first, g, noise, into, v, gate, proposal, counts)
    matrix, bias = into
    for row in range(4):
        length = sum(row < count for count in counts)
        z = torch.zeros(2).double()
        for t in range(length):
            units = z @ matrix + (bias if bias.ndim == 1 else bias[t, row])
            c, a, p, k = units.split([3, 3, 3, 2])
            law = g[t, row] + torch.tanh(c) @ v
            mean = first[min(row, len(first) - 1)]
            if t:
                share = 1 / (1 + torch.exp(-(a.clamp_min(0) @ gate[0] + gate[1])))
                h = p.clamp_min(0) @ proposal[0] + proposal[1]
                mean = (1 - share) * k + share * h
                torch.testing.assert_close(proposed[t, row], h)
            z = mean + law[:2] + (1 + law[2:].exp()).log() * noise[t, row]
            torch.testing.assert_close(moments[t, row], law)
            torch.testing.assert_close(paths[t, row], z)
        assert (paths[length:, row] == 0).all()


@every_count
@pytest.mark.parametrize("offsets", ["constant", "moving"])
def test_relative_path_scan_has_the_gradient_of_finite_differences(counts, offsets):
    (first, g), noise, ((matrix, bias), v, gate), proposal = relative_case(counts, offsets)
    rows = counts[0]
    first = first[:rows] if len(first) > 1 else first
    g, noise = g[:, :rows], noise[:, :rows]
    bias = bias if bias.ndim == 1 else bias[:, :rows]

    def drawn(first, g, matrix, bias, v, *rest):
        return relative_path_scan(first, g, noise, (matrix, bias), v, rest[:2], rest[2:], counts)

    torch.autograd.gradcheck(drawn, (first, g, matrix, bias, v, *gate, *proposal))
