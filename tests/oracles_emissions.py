"""Textbook log densities of one observation in one state, by SciPy; imports nothing of ours.

``y`` (F,), ``p`` holds the state's parameters (with a feature axis), ``seen`` says which elements
are observed, ``shift`` moves the linear predictor.
"""

import numpy as np
from scipy import stats
from scipy.special import expit, log_softmax, logit, logsumexp, softmax


def categorical(p, y, seen, shift):
    return log_softmax(np.log(p["probs"]) + shift)[int(y[0])] if seen[0] else 0.0


def poisson(p, y, seen, shift):
    return stats.poisson.logpmf(y, p["rate"] * np.exp(shift))[seen].sum()


def bernoulli(p, y, seen, shift):
    return stats.bernoulli.logpmf(y, expit(logit(p["probs"]) + shift))[seen].sum()


def multinomial(p, y, seen, shift):
    probability = softmax(np.log(p["probs"]) + shift)
    return stats.multinomial.logpmf(y, int(y.sum()), probability) if seen.all() else 0.0


def gaussian(p, y, seen, shift):
    return stats.norm.logpdf(y, p["mean"] + shift, p["scale"])[seen].sum()


def student_t(p, y, seen, shift):
    return stats.t.logpdf(y, p["freedom"], p["mean"] + shift, p["scale"])[seen].sum()


def joint_normal(p, y, seen, shift, covariance):
    if not seen.any():
        return 0.0
    block = covariance[np.ix_(seen, seen)]
    return stats.multivariate_normal.logpdf(y[seen], (p["mean"] + shift)[seen], block)


def full_gaussian(p, y, seen, shift):
    scale = np.diag(p["scale"])
    correlation = p["correlation_factor"] @ p["correlation_factor"].T
    return joint_normal(p, y, seen, shift, scale @ correlation @ scale)


def low_rank_gaussian(p, y, seen, shift):
    return joint_normal(p, y, seen, shift, p["loading"] @ p["loading"].T + np.diag(p["scale"] ** 2))


def gaussian_mixture(p, y, seen, shift):
    parts = stats.norm.logpdf(y, p["mean"] + shift, p["scale"])[:, seen].sum(-1)
    return logsumexp(np.log(p["weight"]) + parts)


def gamma(p, y, seen, shift):
    law = stats.gamma(p["concentration"], scale=1 / p["rate"])
    return law.logpdf(y)[seen].sum()


def laplace(p, y, seen, shift):
    return stats.laplace.logpdf(y, p["loc"] + shift, p["scale"])[seen].sum()


def gamma_of_mean(p, y, seen, shift):
    mean = p["mean"] * np.exp(shift)
    return stats.gamma(p["shape"], scale=mean / p["shape"]).logpdf(y)[seen].sum()


def exponential(p, y, seen, shift):
    return stats.expon(scale=p["mean"] * np.exp(shift)).logpdf(y)[seen].sum()


def weibull(p, y, seen, shift):
    scale = p["scale"] * np.exp(shift)
    return stats.weibull_min(p["shape"], scale=scale).logpdf(y)[seen].sum()


def beta_of_mean(p, y, seen, shift):
    mean = expit(logit(p["mean"]) + shift)
    return stats.beta(mean * p["precision"], (1 - mean) * p["precision"]).logpdf(y)[seen].sum()


def von_mises(p, y, seen, shift):
    return stats.vonmises(p["concentration"], loc=p["loc"] + shift).logpdf(y)[seen].sum()


def negative_binomial(p, y, seen, shift):
    mean = p["mean"] * np.exp(shift)
    return stats.nbinom(p["size"], p["size"] / (p["size"] + mean)).logpmf(y)[seen].sum()


COLUMNS = {"rt": 1, "at": 2, "hit": 1, "kind": 1}
"""Features of each channel of the mixed family, in order; "kind" has three symbols."""


def mixed(p, y, seen, shift):
    """A product over the channels, each of its own family."""
    total, at, place = 0.0, 0, 0
    for (name, size), density in zip(
        COLUMNS.items(), (gaussian, full_gaussian, bernoulli, categorical), strict=True
    ):
        own, width = of_channel(p, name), 3 if name == "kind" else size
        part = slice(at, at + size)
        total += density(own, y[part], seen[part], shift[place : place + width])
        at, place = at + size, place + width
    return total


def of_channel(p, name):
    own = {n.removeprefix(f"{name}_"): v for n, v in p.items() if n.startswith(f"{name}_")}
    return {n: v[..., None] if np.ndim(v) == 0 else v for n, v in own.items()}


# What an autoregression reads of an earlier observation.


def as_one_hot(p, y):
    return np.eye(len(p["probs"]))[int(y[0])]


def as_logs(p, y):
    return np.log1p(y)


def as_it_is(p, y):
    return y


def as_shares(p, y):
    return y / max(y.sum(), 1)


def as_channels(p, y):
    kind = as_one_hot(of_channel(p, "kind"), y[4:])
    located = y[:3] - np.concatenate([[p["rt_mean"]], p["at_mean"]])
    return np.concatenate([located, y[3:4], kind])


def as_deviation(p, y):
    if "loc" in p:
        return y - p["loc"]
    mean = p["mean"] if "weight" not in p else p["weight"] @ p["mean"]
    return y - mean


def log_normal(p, y, seen, shift):
    law = stats.norm(p["loc"], p["scale"])
    at = np.where(seen, y, 1)
    return (law.logpdf(np.log(at)) - np.log(at))[seen].sum()


def beta(p, y, seen, shift):
    at = np.where(seen, y, 0.5)
    return stats.beta.logpdf(at, p["concentration1"], p["concentration0"])[seen].sum()
