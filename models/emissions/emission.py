"""The emission law O(y | z): what every family of distributions provides.

A family is a small frozen description. Its parameters are kept outside of it, in a mapping from
names to tensors with axes (…draws, state, …), so that priors, guides, samplers and known values all
use the same functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..checks import require
from ..data.moments import overall_moments
from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from .observations import Observations

Parameters = Mapping[str, Tensor]
"""Values of parameters by name; each may have leading axes of draws."""

Priors = dict[str, dist.TorchDistribution]
"""Priors of parameters by name."""


class Emission(ABC):
    """Base of the emission laws O_k(y) = p(y_t = y | z_t = k) of K states.

    A family names what it observes (``observations``) and its parameters (``priors``, ``dims``),
    and says how they are used: ``score`` returns log O_k(y_t), shape (…draws, N, T, K); ``draw``
    samples observations for given paths of states; ``start`` finds values from which a fit can
    begin. ``score`` and ``draw`` take an optional ``shift`` (…draws, N, T, 1|K, predictor), which
    is added to the linear predictor of every state: to the mean, the log rate, or the logits. A
    family holds no parameter values; they are passed to its methods.

    >>> import torch
    >>> from beliefzoo.models import Poisson
    >>> rates = {"rate": torch.tensor([2.0, 10.0])}  # one for each of two states
    >>> y = torch.tensor([[[1.0], [9.0], [4.0]]])  # one sequence, three steps, one feature
    >>> Poisson().score(rates, y, mask=y >= 0).argmax(-1)  # the state of the higher likelihood
    tensor([[0, 1, 0]])
    """

    if TYPE_CHECKING:
        # Families are dataclasses with a field ``features``; if they inherited a property of that
        # name, the dataclass would take it for the default value of the field.
        @property
        def features(self) -> int:
            """Numbers observed per step, F; 1 for codes."""

    @property
    @abstractmethod
    def observations(self) -> Observations:
        """The kind of data that the family describes."""

    @abstractmethod
    def priors(self, states: int) -> Priors:
        """Return the prior of every parameter; its event shape begins with the number of states."""

    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter, the state first."""

    @abstractmethod
    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        """Return log O_k(y_t), shape (…draws, N, T, K); missing elements add exactly zero.

        Args:
            parameters: values by name, with leading axes of draws or without.
            y: observations, (N, T) codes or (N, T, F) numbers.
            mask: bool of the same shape; True = observed.
            shift: added to the linear predictor, (…draws, N, T, 1|K, predictor).
        """

    @abstractmethod
    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        """Sample observations, (N, T) codes or (N, T, F), for hidden paths (N, T).

        The parameters come without axes of draws.
        """

    @abstractmethod
    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Return parameter values for frames y (M, F) that weight (M, K) assigns to states."""

    def labels(self, data: Sequences) -> Tensor | None:
        """Return the state that every observation names, (N, T), −1 where nothing was observed."""
        del data
        return None

    @abstractmethod
    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | z = k], shape (…draws, K, F); for codes the probabilities of the symbols."""

    def expected(self, parameters: Parameters, data: Sequences, chance: Tensor) -> Tensor | None:
        """Return E[y] after the first step, (N, T-1, F), given probabilities of the states (N, T-1,
        K), in the form of ``mean``.

        None if the states do not determine it alone: with inputs or lags.
        """
        del data
        return chance @ self.mean(parameters)

    @property
    def ordering(self) -> str | None:
        """The parameter whose values can order the states; None if there is none."""
        return None

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        """Return numbers (N, T, channels) by whose distances a fit first clusters the steps.

        They are NaN where an observation is missing.
        """
        seen = mask.unsqueeze(-1) if self.codes else mask
        return torch.where(seen, self.encode(y), torch.nan)

    def ranks(self, laws: Parameters) -> Tensor | None:
        """Return numbers (K,) in whose increasing order a fit names its states; None for any.

        Args:
            laws: values of all parameters of the family, without axes of draws.
        """
        name = self.ordering
        if name is None or name not in laws:
            return None
        return laws[name].reshape(len(laws[name]), -1)[:, 0]

    @property
    def reorderable(self) -> bool:
        """True if the numbers of the states have no meaning for the law, so that states can be
        exchanged.
        """
        return True

    @property
    def inputs(self) -> int:
        """Number of input columns that the law reads."""
        return 0

    @property
    def lags(self) -> int:
        """Number of earlier observations that the law reads."""
        return 0

    @property
    def codes(self) -> bool:
        """True if the observations are integer codes."""
        return self.observations.codes

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` if the data cannot come from this family."""
        self.observations.check(data, type(self).__name__)
        require_inputs(data, self.inputs, type(self).__name__)

    def observed(self, data: Sequences) -> tuple[Tensor, Tensor]:
        """Return values and mask in the form that ``score`` takes."""
        return self.observations.read(data)

    def emitting(self, data: Sequences) -> Tensor:
        """Return True, (N, T), at the steps whose observation has a distribution."""
        return data.step_mask

    @property
    def encoding_size(self) -> int:
        """Number of channels that ``encode`` returns."""
        return self.observations.channels

    def encode(self, y: Tensor) -> Tensor:
        """Return the observations as a network reads them, floats (N, T, encoding_size)."""
        return self.observations.encode(y)

    @property
    def shift_size(self) -> int:
        """Size of the linear predictor."""
        return self.observations.channels

    @property
    def scored_at_once(self) -> int:
        """Numbers per step and state that ``score`` holds at once; they limit the draws scored at
        once.

        More than one where a family makes a table of residuals (…draws, N, T, K, F).
        """
        return 1

    @property
    def networks(self) -> bool:
        """True if parameters are the weights of networks."""
        return False

    def redundant(self, priors: Priors, states: int) -> int:
        """Return the number of directions of the unconstrained parameters that change nothing.

        Only parameters with ``priors`` move; parameters of other laws may be among them.
        """
        del priors, states
        return 0

    def competing(self, states: int) -> Tensor | None:
        """Return the entries of the linear predictor of which only differences matter, (K, size).

        The others do not matter at all. None if every entry matters by itself.
        """
        del states
        return None

    def idle(self, states: int) -> int:
        """Return the number of directions of the linear predictors of all states, (K · size,), that
        change nothing.
        """
        competing = self.competing(states)
        if competing is None:
            return 0
        return competing.numel() - int((competing.sum(-1) - 1).sum())

    @property
    def predictor_scale(self) -> Tensor:
        """Typical size of the linear predictor, (shift_size,)."""
        return torch.ones(self.shift_size)

    def from_inputs(self, parameters: Parameters, inputs: Tensor | None) -> Tensor | None:
        """Return the shift due to inputs (N, T, U): (…draws, N, T, K, shift_size), or None."""
        del parameters, inputs
        return None

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        """Return the regressors made of an earlier observation, (…, N, T, 1|K, shift_size).

        They are zero where the observation is missing. Families with a mean subtract it, so that a
        missing lag counts as one at its mean.
        """
        del parameters
        seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
        return torch.where(seen, self.encode(y), 0).unsqueeze(-2)

    def given(self, data: Sequences) -> Emission:
        """Return the family that scores and draws these data; most families return themselves."""
        del data
        return self

    def continued(
        self,
        parameters: Parameters,
        paths: Tensor,
        shift: Tensor | None,
        past: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Sample for paths that follow ``past``: earlier observations and their mask."""
        del past
        return self.draw(parameters, paths, shift)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient parameters (such as ``covariance``) to the family's own."""
        return dict(values)

    def scaled_to(self, data: Sequences) -> Emission:
        """Return the same family with priors on the scale of the data."""
        del data
        return self

    def widened(self, factor: float) -> Emission:
        """Return the same family with a prior of the linear predictor wider by a factor.

        A family whose prior of it has no width returns itself.
        """
        del factor
        return self


def axis_labels(family: Emission, states: int) -> Mapping[str, Sequence[str]]:
    """Return the labels along a family's own axes; most families name none."""
    name: Callable[[int], Mapping[str, Sequence[str]]] | None = getattr(family, "coords", None)
    return {} if name is None else name(states)


def require_still(family: Emission, argument: str) -> None:
    """Raise ``ValueError`` if a family that others build on reads inputs or lags of its own."""
    require(
        not family.inputs and not family.lags,
        argument,
        "must read no inputs and no lags of its own",
        repr(family),
    )


@runtime_checkable
class ExponentialFamily(Protocol):
    r"""An emission law whose log densities are sums of products.

    .. math:: \log O_k(y_t) = \sum_j c_{kj}(\theta) \, s_j(y_t)

    Point estimates of chains with such a law are found without its ``score``: the data are read
    once, as the statistics s, and expected statistics say all that the likelihood and its
    derivatives need. A law without these methods is fitted as well, by way of ``score``.

    >>> import torch
    >>> from beliefzoo.models import Poisson
    >>> y = torch.tensor([[[3.0], [0.0]]])
    >>> law, rates = Poisson(), {"rate": torch.tensor([2.0, 5.0], dtype=torch.float64)}
    >>> products = law.statistics(y, y >= 0) @ law.coefficients(rates).mT
    >>> bool((products - law.score(rates, y, y >= 0)).abs().max() < 1e-12)
    True
    """

    def statistics(self, y: Tensor, mask: Tensor) -> Tensor | None:
        """Return s, (N, T, J) float64; zeros where nothing was observed. None if parts of the law
        have none."""

    def coefficients(self, parameters: Parameters) -> Tensor:
        """Return c, (…draws, K, J) float64."""


@runtime_checkable
class Residuals(Protocol):
    r"""An exponential family some of whose sums of products are residuals.

    .. math:: \log O_k(y_t) = \sum_j c_{kj} \, s_j - \tfrac12 \sum_q \Big(\sum_{j \in q} c_{kj} \,
        s_j\Big)^2

    where the first sum is over the columns before the first square q. The residuals of a linear
    regression are such sums: multiplied out, they would lose the digits of small ones.
    """

    def squares(self) -> tuple[tuple[int, int], ...]:
        """Return first column and end of every square, which follow each other up to the last
        column; none if a part of the law has no statistics."""

    def statistics(self, y: Tensor, mask: Tensor, inputs: Tensor | None = None) -> Tensor | None:
        """Return s as ``ExponentialFamily`` does, of observations with inputs (N, T, U)."""


class ClosedForm(NamedTuple):
    """Coefficients of ``ExponentialFamily`` that machine code can compute.

    Attributes:
        kind: ``"normal"`` has the statistics and coefficients of ``Gaussian``, ``"counts"`` of
            ``Poisson``, ``"symbols"`` of ``Categorical``, ``"bits"`` of ``Bernoulli``, ``"lines"``
            of ``Regression`` with a ``Gaussian``.
        parameters: their names, in the model; of lines those of inputs and lags last, if there are.
        location, unit: of the features, (F,) each; of symbols (V,).
        inputs, lags: of lines, how many.
    """

    kind: Literal["normal", "counts", "symbols", "bits", "lines"]
    parameters: tuple[str, ...]
    location: Tensor
    unit: Tensor
    inputs: int = 0
    lags: int = 0


@runtime_checkable
class Closed(Protocol):
    """An exponential family whose coefficients have closed forms."""

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        """Return the forms, in the order of the statistics; none if a part of the law has none."""


def in_products(law: Emission) -> ExponentialFamily | None:
    """The law, if it says its statistics, and of the same ``score`` that it has; otherwise None."""
    if not isinstance(law, ExponentialFamily):
        return None
    return law if _said_together(law, "score", "statistics", "coefficients") else None


def closed_forms(law: object) -> tuple[ClosedForm, ...]:
    """The closed forms of its coefficients, if it says them together; otherwise none."""
    if not isinstance(law, Closed) or not _said_together(law, "coefficients", "closed_forms"):
        return ()
    return law.closed_forms()


def _said_together(law: object, *names: str) -> bool:
    """Whether one class defines these methods, none of which a derived one changes alone."""
    kinds = type(law).__mro__
    return len({next(kind for kind in kinds if name in vars(kind)) for name in names}) == 1


# Parameters of one number per feature, such as a rate, have shape (state,) for a single feature and
# (state, feature) for several, so that HiddenMarkovModel(2, "poisson") has two rates and not a
# (2, 1) table. The next three functions are all that knows of this.


def per_feature(size: int) -> tuple[int, ...]:
    """Trailing shape of a parameter with one number per feature: () or (size,)."""
    return () if size == 1 else (size,)


def feature_dims(size: int, *names: str) -> tuple[str, ...]:
    """Axis names of such a parameter; ``names`` stand between state and feature."""
    return ("state", *names) if size == 1 else ("state", *names, "feature")


def wide(parameter: Tensor, features: int) -> Tensor:
    """Such a parameter with its feature axis, (…draws, state, feature), also for one feature."""
    return parameter.unsqueeze(-1) if features == 1 else parameter


def over_time(parameter: Tensor, trailing: int) -> Tensor:
    """Insert axes of size 1 for sequence and time before the ``trailing`` last axes of a parameter.

    With ``trailing=2`` (…draws, state, feature) becomes (…draws, 1, 1, state, feature), which
    broadcasts against observations (sequence, time, 1, feature).
    """
    return parameter.unsqueeze(-trailing - 1).unsqueeze(-trailing - 1)


def along_paths(table: Tensor, paths: Tensor) -> Tensor:
    """Pick from a table (N, T, 1|K, S) the rows of the states on paths (N, T): (N, T, S)."""
    if table.shape[-2] == 1:
        return table.squeeze(-2)
    index = paths[..., None, None].expand(*paths.shape, 1, table.shape[-1])
    return table.gather(-2, index).squeeze(-2)


_LARGE, _BLOCK = 2**22, 2**20
"""Numbers per intermediate above which a score is taken in blocks, and numbers per block."""


def in_blocks(
    score: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    y: Tensor,
    mask: Tensor,
    shift: Tensor | None,
    width: int,
) -> Tensor:
    """Compute ``score(y, mask, shift)`` (…draws, N, T, K), in blocks of steps if there are many.

    For families whose scores need ``width`` numbers per step, states times features: these are held
    for one block at a time, and computed again for the gradient. The score of a step must depend on
    that step alone.
    """
    steps = mask.shape[0] * mask.shape[1]
    if steps * width <= _LARGE:
        return score(y, mask, shift)
    rows = max(1, _BLOCK // width)
    whole = [y.flatten(0, 1)[None], mask.flatten(0, 1)[None]]
    blocks = [part.split(rows, 1) for part in whole]
    shifts: Iterable[Tensor | None] = repeat(None)
    if shift is not None:
        shifts = shift.flatten(-4, -3).unsqueeze(-4).split(rows, -3)
    scored = [
        checkpoint(score, *block, use_reentrant=False, preserve_rng_state=False)
        for block in zip(*blocks, shifts, strict=False)
    ]
    joined: Tensor = torch.cat(scored, -2).squeeze(-3).unflatten(-2, mask.shape[:2])
    return joined


def group_means(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted means of frames per state (K, F), shrunk to the global mean by ``pull`` frames."""
    overall, _ = overall_moments(y, mask)
    # Sums of what is far from zero would lose the digits in which the states differ.
    apart = torch.where(mask, y - overall, 0)
    return overall + weight.mT @ apart / (weight.mT @ mask.to(y.dtype) + pull)


LEAST_SPREAD = 0.05
"""No fit starts with less noise than this, in standard deviations of the feature: frames that are
fitted without residuals would give zero, and then the smallest change of the fit would cost any
number of nats."""


def group_spreads(y: Tensor, mask: Tensor, weight: Tensor, pull: float = 1.0) -> Tensor:
    """Weighted standard deviations of frames per state (K, F), never zero."""
    mean = group_means(y, mask, weight, pull)
    seen = mask.to(y.dtype)
    _, spread = overall_moments(y, mask)
    residual = torch.where(mask.unsqueeze(1), y.unsqueeze(1) - mean, 0) / spread
    total = torch.einsum("mk,mkf->kf", weight, residual.square()) + pull
    return spread * (total / (weight.mT @ seen + pull)).sqrt().clamp_min(LEAST_SPREAD)
