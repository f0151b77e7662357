"""The best guides of tiny models by brute force, in NumPy float64; imports nothing of ours.

Every family is a table of numbers: a row for each prefix y_{1:t} (causal), or for each whole
sequence and step. The bound of every sequence is a sum over all paths, its average one over all
sequences; tables are optimised by SciPy from many random starts.
"""

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

Floats = NDArray[np.float64]


class TinyChain:
    """A chain of K states over S symbols for T steps, every sequence and path listed."""

    def __init__(self, initial: Floats, transition: Floats, emission: Floats, steps: int) -> None:
        self.initial, self.transition, self.emission = initial, transition, emission
        self.states, self.symbols = emission.shape
        self.steps = steps
        self.sequences = np.array(list(itertools.product(range(self.symbols), repeat=steps)))
        self.paths = np.array(list(itertools.product(range(self.states), repeat=steps)))
        self.log_joint = np.zeros((len(self.sequences), len(self.paths)))
        for row, y in enumerate(self.sequences):
            for column, z in enumerate(self.paths):
                p = initial[z[0]] * emission[z[0], y[0]]
                for t in range(1, steps):
                    p *= transition[z[t - 1], z[t]] * emission[z[t], y[t]]
                self.log_joint[row, column] = np.log(p)
        self.log_evidence = logsumexp(self.log_joint, axis=1)

    def rows(self, causal: bool) -> tuple[NDArray[np.int64], int]:
        """Row of a table for every sequence and step, (S^T, T), and the number of rows."""
        names: dict[tuple[int, ...], int] = {}
        out = np.zeros((len(self.sequences), self.steps), dtype=np.int64)
        for n, y in enumerate(self.sequences):
            for t in range(self.steps):
                seen = tuple(y[: t + 1]) if causal else (t, *y)
                out[n, t] = names.setdefault(("p", *seen), len(names))  # type: ignore[arg-type]
        return out, len(names)

    def log_q(self, kind: str, logs: Floats) -> Floats:
        """log q of every path (S^T, K^T) from log laws (S^T, T, K), or (S^T, T, K, K) "forward"."""
        paths = self.paths
        out = np.zeros((len(logs), len(paths)))
        for t in range(self.steps):
            if kind == "mean_field":
                out += logs[:, t][:, paths[:, t]]
            elif kind == "forward":
                before = paths[:, t - 1] if t else np.zeros(len(paths), dtype=np.int64)
                out += logs[:, t][:, before, paths[:, t]]
            elif t == self.steps - 1:
                out += logs[:, t][:, paths[:, t]]
            else:
                joint = logs[:, t][:, :, None] + np.log(self.transition)
                kernel = joint - logsumexp(joint, axis=1, keepdims=True)
                out += kernel[:, paths[:, t], paths[:, t + 1]]
        return out

    def bounds(self, kind: str, logs: Floats) -> Floats:
        """The ELBO of every sequence, (S^T,)."""
        log_q = self.log_q(kind, logs)
        return (np.exp(log_q) * (self.log_joint - log_q)).sum(1)

    def best(self, kind: str, *, causal: bool, nodes: int | None = None, starts: int = 8) -> Floats:
        """The bounds of the member with the largest average bound, (S^T,)."""
        rows, count = self.rows(causal)
        width = self.states if nodes is None else nodes
        shape = (count, self.states, width) if kind == "forward" else (count, width)
        weight = np.exp(self.log_evidence)

        def logs(x: Floats) -> Floats:
            numbers = x.reshape(shape)
            if nodes is not None:
                bits = np.array(list(itertools.product((0.0, 1.0), repeat=nodes)))
                numbers = numbers @ bits.T
            return log_softmax(numbers, axis=-1)[rows]

        def loss(x: Floats) -> float:
            return -float(weight @ self.bounds(kind, logs(x)))

        rng = np.random.default_rng(0)
        tried = [
            minimize(loss, scale * rng.normal(size=np.prod(shape)), method="L-BFGS-B", tol=1e-12)
            for scale in np.linspace(0.3, 4, starts)
        ]
        bounds = np.array([self.bounds(kind, logs(one.x)) for one in tried])
        if not causal:  # the sequences are problems of their own
            return bounds.max(0)
        return bounds[np.argmin([one.fun for one in tried])]


class TinyNormal:
    """A scalar linear-Gaussian chain for T steps, its moments written out as matrices.

    z_1 ~ N(m, P), z_{t+1} = a z_t + b + N(0, Q), y_t = c z_t + d + N(0, R).
    """

    def __init__(
        self, m: float, p: float, a: float, b: float, q: float, c: float, d: float, r: float, t: int
    ) -> None:
        self.steps = t
        precision, shift = np.zeros((t, t)), np.zeros(t)
        precision[0, 0], shift[0] = 1 / p, m / p
        for s in range(1, t):
            move = np.zeros(t)
            move[s], move[s - 1] = 1, -a
            precision += np.outer(move, move) / q
            shift += move * b / q
        self.prior = np.linalg.inv(precision)
        self.prior_mean = self.prior @ shift
        self.c, self.d, self.r = c, d, r
        self.precision = precision + np.eye(t) * c**2 / r
        self.mean_y = c * self.prior_mean + d
        self.covariance_y = c**2 * self.prior + r * np.eye(t)
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)  # exact up to the fifth power
        grid = np.array(list(itertools.product(nodes, repeat=t)))
        self.weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=t)), axis=1)
        self.y = self.mean_y + grid @ np.linalg.cholesky(self.covariance_y).T
        """Sequences (3^T, T) over which averages of quadratic functions are exact."""

    @property
    def log_evidence(self) -> Floats:
        """log p(y) of the sequences."""
        residual = self.y - self.mean_y
        distance = (residual @ np.linalg.inv(self.covariance_y) * residual).sum(1)
        log_det = np.linalg.slogdet(2 * np.pi * self.covariance_y)[1]
        return -0.5 * (distance + log_det)

    def bounds(self, mean: Floats, covariance: Floats) -> Floats:
        """ELBO of normal trajectories with means (n, T) and one covariance (T, T), (n,)."""
        exact = self.prior_mean + (self.y - self.mean_y) @ (
            np.linalg.inv(self.covariance_y) @ (self.c * self.prior)
        )
        off = mean - exact
        posterior_log_det = -np.linalg.slogdet(self.precision)[1]
        own_log_det = np.linalg.slogdet(covariance)[1]
        trace = np.trace(self.precision @ covariance)
        kl = (off @ self.precision * off).sum(1) + trace - self.steps
        return self.log_evidence - 0.5 * (kl + posterior_log_det - own_log_det)

    def best_causal(self, kind: str) -> Floats:
        """Bounds of the best q whose means are affine in y_{1:t}, (n,)."""
        t = self.steps
        below = np.tril_indices(t)
        sizes = len(below[0]), t, t, t - 1

        def bounds(x: Floats) -> Floats:
            weights, constant, log_sd, move = np.split(x, np.cumsum(sizes)[:-1])
            matrix = np.zeros((t, t))
            matrix[below] = weights
            own = self.y @ matrix.T + constant
            noise = np.diag(np.exp(2 * log_sd))
            if kind == "mean_field":
                return self.bounds(own, noise)
            onward = np.linalg.inv(np.eye(t) - np.diag(move, -1))  # z = M z_before + own + noise
            return self.bounds(own @ onward.T, onward @ noise @ onward.T)

        found = minimize(
            lambda x: -float(self.weight @ bounds(x)),
            np.zeros(sum(sizes)),
            tol=1e-14,
            options={"maxiter": 5000},
        )
        return bounds(found.x)
