"""Emission laws that depend on inputs and on earlier observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from ..checks import require, require_count, require_positive, require_scales, warn
from ..data.moments import FAR, input_moments
from ..data.requirements import UnreadWarning, require_near
from ..data.sequences import Sequences
from ..randomness import seeded
from .emission import (
    ClosedForm,
    Emission,
    Parameters,
    Priors,
    along_paths,
    axis_labels,
    require_still,
)
from .identified import redundant_by_rank
from .lines import Lines, lines_of
from .observations import Observations
from .perceptron import Perceptron

_TRIED = 8
"""Steps at which a family is asked whether it reads a shift."""

_FARTHEST = 1e4
"""Standard deviations that inputs may lie from zero before rounding confounds level and effect."""


class HasStates(Protocol):
    """What the law asks of its model."""

    @property
    def states(self) -> int:
        """Number of hidden states K."""


@dataclass(frozen=True)
class Regression(Emission):
    r"""Any family, with a linear predictor that also depends on inputs and on earlier observations.

    .. math:: \eta_{tk} = \eta_k + B_k u_t + \sum_{l=1}^{L} A_{kl}\, \phi_k(y_{t-l})

    η is the mean (of the real families), the log rate (Poisson) or the logits (Bernoulli,
    categorical, multinomial). φ_k(y) is y − mean_k for the real families, log(1 + y) for counts,
    the proportions of a multinomial, the bits themselves, or one-hot for codes. Lags that are
    missing or lie before the start count as φ = 0. ``inputs`` are the emission half of the
    input-output HMM.

    ``lags=1`` with a Gaussian is an autoregressive HMM whose lag is centred by the mean of the
    *present* state, y_t = mean_i + A_i (y_{t-1} − mean_i) + noise with i = z_t. Hamilton's (1989)
    centres it by the mean of the state of its own step, y_t = mean_i + A (y_{t-1} − mean_j) + noise
    with j = z_{t-1}; values for one are not values for the other. His is a chain over the pairs
    (j, i), whose states have the intercepts mean_i − A mean_j, with y_{t-1} as an input of step t:
    see the second example. He takes the first observation as given, and so does an input. At known
    values this is his model; a fit would not tie the four intercepts and the lags to each other.
    Growth of the US GNP, 1951 to 1984, given its first quarter, has log L −190.5870 by ``lags=1``
    and −189.1902 by his form, at means 1.2 and −0.4, A = 0.3, variance 0.6, p_00 = 0.9, p_10 =
    0.25.

    Parameters: those of ``base``, ``input_weight`` B (K, predictor, inputs) and ``lag_weight`` A
    (K, lags, predictor, predictor). Priors: B ~ N(0, weight_scale²), A ~ N(0, (weight_scale / 2)²),
    in units of the predictor (the ``spread`` of the real families, otherwise 1).

    Args:
        base: the family, such as ``Gaussian(3)``.
        inputs: number of input columns U.
        lags: number of earlier observations L.
        weight_scale: prior scale of the weights.
        width: if positive, each lag acts through a tanh network of so many hidden units that all
            states share, η_tk = η_k + B_k u_t + Σ_l f_l(φ_k(y_{t-l})) − f_l(0), instead of the
            matrices A (parameters ``lag1_weight0``, …): far fewer weights where states and features
            are many.
        input_scale: scale of the inputs, one number or one per column; ``scaled_to(data)`` sets it
            to their standard deviation, of an indicator to its size.

    Raises:
        ValueError: neither inputs nor lags, a scale that is not positive, or a base that is a
            Regression itself.

    Source: Bengio & Frasconi (1995), NIPS 7; for counts Fokianos & Tjøstheim (2011), J.
    Multivariate Analysis 102; for the other centre Hamilton (1989), Econometrica 57.

    >>> from beliefzoo.models import Gaussian, HiddenMarkovModel
    >>> model = HiddenMarkovModel(2, Regression(Gaussian(), lags=1))  # autoregressive HMM
    >>> model.parameter_dims()["lag_weight"]
    ('state', 'lag', 'predictor', 'predictor_from')
    >>> model = model.with_parameters(
    ...     initial=[1, 0], transition=[[1, 0], [0, 1]],
    ...     mean=[0, 5], scale=[1e-6, 1e-6], lag_weight=[[[[0.5]]], [[[0.9]]]],
    ... )
    >>> abs(model.sample(1, 100, seed=0).data.values).max() < 1e-4
    tensor(True)

    >>> from beliefzoo.models import Sequences, SparseTransition  # Hamilton's, pairs 00 01 10 11
    >>> moves = SparseTransition([(0, 1), (2, 3), (0, 1), (2, 3)])  # (j, i) -> (i, k)
    >>> pairs = HiddenMarkovModel(
    ...     4, Regression(Gaussian(), inputs=1), transition=moves, initial="stationary"
    ... )
    >>> mean, lag, stay, leave = (1.2, -0.4), 0.3, [0.9, 0.1], [0.25, 0.75]
    >>> model = pairs.with_parameters(
    ...     mean=[mean[i] - lag * mean[j] for j in (0, 1) for i in (0, 1)],
    ...     scale=[0.8] * 4, input_weight=[[[lag]]] * 4,
    ...     transition_move=[stay, leave, stay, leave],
    ... )
    >>> growth = [1.0, 0.7, -0.6, -0.5, 0.9]
    >>> data = Sequences.from_arrays([growth[1:]], inputs=[growth[:-1]])
    >>> model.check(data)
    """

    base: Emission
    inputs: int = 0
    lags: int = 0
    weight_scale: float = 1.0
    width: int = 0
    input_scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        require_count(self.width, "width", 0)
        require(not self.width or self.lags > 0, "width", "belongs to lags >= 1", self.width)
        require_count(self.inputs, "inputs", 0)
        require_count(self.lags, "lags", 0)
        require(
            self.inputs + self.lags > 0,
            "inputs, lags",
            "Regression needs at least one of them >= 1",
            f"{self.inputs}, {self.lags}",
        )
        require_positive(self.weight_scale, "weight_scale")
        require_scales(self.input_scale, self.inputs, "input_scale", "column")
        plain = isinstance(self.base, Emission) and not isinstance(self.base, Regression)
        require(plain, "base", "must be an Emission other than a Regression", repr(self.base))
        require_still(self.base, "base")

    def check_model(self, model: HasStates) -> None:
        """Warn if the base does not read what inputs and lags add to its linear predictor."""
        if _ignores_shift(self.base, model.states):
            what = " and ".join(n for n in ("inputs", "lags") if getattr(self, n))
            warn(
                f"emission: `score` of {type(self.base).__name__} gives the same with and without "
                f"a shift, so that {what} change nothing; add the shift to the linear predictor of "
                "the family, or use a family that does, such as FromDistribution",
                UnreadWarning,
            )

    @property
    def observations(self) -> Observations:
        return self.base.observations

    @property
    def features(self) -> int:
        return self.base.features

    @property
    def ordering(self) -> str | None:
        return self.base.ordering

    def coordinates(self, y: Tensor, mask: Tensor) -> Tensor:
        return self.base.coordinates(y, mask)

    def ranks(self, laws: Parameters) -> Tensor | None:
        return self.base.ranks(laws)

    def labels(self, data: Sequences) -> Tensor | None:
        return self.base.labels(data)

    @property
    def reorderable(self) -> bool:
        return self.base.reorderable

    def coords(self, states: int) -> Mapping[str, Sequence[str]]:
        """Return the labels along the base's own axes."""
        return axis_labels(self.base, states)

    @property
    def scored_at_once(self) -> int:
        return max(self.shift_size, self.encoding_size, self.base.scored_at_once)

    @property
    def predictor_scale(self) -> Tensor:
        return self.base.predictor_scale

    def priors(self, states: int) -> Priors:
        out = self.base.priors(states)
        size, unit = self.shift_size, self.predictor_scale
        if self.inputs:
            scale = (self.weight_scale * unit.double()).unsqueeze(-1)
            scale = scale / torch.tensor(self.input_scale, dtype=torch.float64)
            centre = scale.new_zeros(states, size, self.inputs)
            out["input_weight"] = dist.Normal(centre, scale).to_event(3)
        if self.width:
            for lag in range(1, self.lags + 1):
                out |= self._network(lag).priors()
        elif self.lags:
            scale = 0.5 * self.weight_scale * unit.double().unsqueeze(-1) / unit
            centre = scale.new_zeros(states, self.lags, size, size)
            out["lag_weight"] = dist.Normal(centre, scale).to_event(4)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out = self.base.dims()
        if self.inputs:
            out["input_weight"] = ("state", "predictor", "input")
        if self.width:
            for lag in range(1, self.lags + 1):
                out |= self._network(lag).dims()
        elif self.lags:
            out["lag_weight"] = ("state", "lag", "predictor", "predictor_from")
        return out

    @property
    def networks(self) -> bool:
        return self.width > 0 or self.base.networks

    def redundant(self, priors: Priors, states: int) -> int:
        """Count shifts of logits where differences alone matter: one a state and regressor."""
        if self.networks:
            return redundant_by_rank(self, priors, states)
        out = self.base.redundant(priors, states)
        regressors = self.inputs * ("input_weight" in priors)
        regressors += self.lags * self.encoding_size * ("lag_weight" in priors)
        return out + self.base.idle(states) * regressors

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        if self.lags:
            past = self.base.lagged(parameters, y, mask)
            for lag in range(1, min(self.lags, y.shape[1] - 1) + 1):
                moved = torch.zeros_like(past)
                moved[..., lag:, :, :] = past[..., :-lag, :, :]
                shift = _plus(shift, self._lag_shift(parameters, moved, lag))
        return self.base.score(parameters, y, mask, shift)

    def statistics(self, y: Tensor, mask: Tensor, inputs: Tensor | None = None) -> Tensor | None:
        """The columns of ``Lines``; None for other bases than a Gaussian, and for networks."""
        return None if self._lines is None else self._lines.statistics(y, mask, inputs)

    def squares(self) -> tuple[tuple[int, int], ...]:
        """The columns of every feature's residual."""
        return () if self._lines is None else self._lines.squares()

    def coefficients(self, parameters: Parameters) -> Tensor:
        """The coefficients of these columns."""
        assert self._lines is not None  # there are statistics
        return self._lines.coefficients(parameters)

    def closed_forms(self) -> tuple[ClosedForm, ...]:
        """The form of a Gaussian whose mean is linear in inputs and lags; otherwise none."""
        if self._lines is None:
            return ()
        form = self._lines.form
        names = [*form.parameters]
        names += ["input_weight"] * (self.inputs > 0) + ["lag_weight"] * (self.lags > 0)
        return (ClosedForm("lines", tuple(names), *form[2:4], self.inputs, self.lags),)

    @property
    def _lines(self) -> Lines | None:
        return None if self.width else lines_of(self.base, self.inputs, self.lags)

    def from_inputs(self, parameters: Parameters, inputs: Tensor | None) -> Tensor | None:
        if not self.inputs:
            return None
        if inputs is None:
            raise ValueError(
                f"data.inputs: Regression(inputs={self.inputs}) needs {self.inputs} column(s), "
                "got none"
            )
        weight = parameters["input_weight"]
        return torch.einsum("ntu,...ksu->...ntks", inputs.to(weight.dtype), weight)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        if not self.lags:
            return self.base.draw(parameters, paths, shift)
        nothing = self.observations.blank(len(paths), self.lags)
        unseen = torch.zeros_like(nothing, dtype=torch.bool)
        return self.continued(parameters, paths, shift, (nothing, unseen))

    def continued(
        self,
        parameters: Parameters,
        paths: Tensor,
        shift: Tensor | None,
        past: tuple[Tensor, Tensor],
    ) -> Tensor:
        if not self.lags:
            return self.base.draw(parameters, paths, shift)
        y, mask = (part[:, -self.lags :] for part in past)
        drawn: list[Tensor] = []
        for t in range(paths.shape[1]):  # each observation depends on the ones before it
            here = None if shift is None else shift[..., t : t + 1, :, :]
            states, seen = paths[:, t : t + 1], self.base.lagged(parameters, y, mask)
            if self.width:
                for lag in range(1, y.shape[1] + 1):
                    ago = seen[..., y.shape[1] - lag, None, :, :]
                    here = _plus(here, self._lag_shift(parameters, ago, lag))
            elif y.shape[1]:
                part = _shift_in_states(parameters["lag_weight"], states, seen)
                here = part if here is None else along_paths(here, states).unsqueeze(-2) + part
            new = self.base.draw(parameters, states, here)
            drawn.append(new)
            y = torch.cat([y.to(new.dtype), new], 1)[:, -self.lags :]
            mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], 1)[:, -self.lags :]
        return torch.cat(drawn, 1)

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        out = self.base.start(y, mask, weight)
        states, size = weight.shape[1], self.shift_size
        if self.inputs:
            out["input_weight"] = weight.new_zeros(states, size, self.inputs)
        if self.width:  # silent at first: the last layers are zero
            last = {f"lag{lag}_weight1" for lag in range(1, self.lags + 1)}
            for lag in range(1, self.lags + 1):
                for name, prior in self._network(lag).priors().items():
                    drawn = prior.sample().to(weight)
                    still = name in last or drawn.ndim == 1
                    out[name] = torch.zeros_like(drawn) if still else drawn
        elif self.lags:
            out["lag_weight"] = weight.new_zeros(states, self.lags, size, size)
        return out

    def _network(self, lag: int) -> Perceptron:
        sizes = self.shift_size, self.width, self.shift_size
        return Perceptron(f"lag{lag}", sizes, "tanh", self.weight_scale, offset=False)

    def _lag_shift(self, parameters: Parameters, past: Tensor, lag: int) -> Tensor:
        """Shift (…draws, N, T, 1|K, S) due to φ (…, N, T, 1|K, E) of ``lag`` steps ago."""
        if not self.width:
            return _matrix_shift(parameters, past, lag)
        network = self._network(lag)
        unit = self.predictor_scale
        leading = parameters[f"lag{lag}_bias0"].shape[:-1]
        own = {name: parameters[name] for name in network.priors()}
        if leading:  # of draws: before the axes of sequence, time and state
            own = {
                name: value.reshape(*leading, 1, 1, *value.shape[len(leading) :])
                for name, value in own.items()
            }
        dtype = own[f"lag{lag}_weight0"].dtype
        past = past.to(dtype) / unit.to(dtype)
        silent = network(own, torch.zeros_like(past[..., :1, :1, :1, :]))
        return (network(own, past) - silent) * unit.to(dtype)

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | z = k] of the base family, where inputs and lagged terms are 0."""
        return self.base.mean(parameters)

    def expected(self, parameters: Parameters, data: Sequences, chance: Tensor) -> None:
        del parameters, data, chance

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.natural(values)

    def scaled_to(self, data: Sequences) -> Regression:
        base = self.base.scaled_to(data)
        if not self.inputs or data.inputs is None:
            return replace(self, base=base)
        typical, scale = input_moments(data)
        far = typical.abs() / scale
        # A state's predictor at inputs of zero lies about so far from that at typical inputs.
        wider = base.widened(float((1 + (self.weight_scale * far).square().sum()).sqrt()))
        require_near(far, _FARTHEST if wider is not base else FAR)
        return replace(self, base=wider, input_scale=tuple(scale.tolist()))


def _ignores_shift(base: Emission, states: int) -> bool:
    """Whether scores of draws depend on the parameters, but not on a shift."""
    with seeded(0), torch.no_grad():
        first, second = (
            {name: prior.sample() for name, prior in base.priors(states).items()} for _ in "ab"
        )
        paths = (torch.arange(_TRIED) % states).unsqueeze(0)
        y = base.draw(first, paths)
        mask = torch.ones_like(y, dtype=torch.bool)
        score, other = base.score(first, y, mask), base.score(second, y, mask)
        unit = base.predictor_scale.double()
        shift = unit * torch.randn(1, _TRIED, states, base.shift_size, dtype=torch.float64)
        same = torch.equal(base.score(first, y, mask, shift), score)
    return same and not torch.equal(other, score)


def _matrix_shift(parameters: Parameters, past: Tensor, lag: int) -> Tensor:
    """A_kl φ of the observations ``lag`` steps ago, (…, N, T, 1|K, E) -> (…draws, N, T, K, S)."""
    weight = parameters["lag_weight"][..., lag - 1, :, :]
    past = past.to(weight.dtype)
    past = past.expand(*past.shape[:-2], weight.shape[-3], past.shape[-1])
    return torch.einsum("...ntke,...kse->...ntks", past, weight)


def _shift_in_states(weight: Tensor, states: Tensor, past: Tensor) -> Tensor:
    """Σ_l A_kl φ_l in the states k (N, 1), of the last L observations (N, L, 1|K, E) in the order
    of time: (N, 1, 1, S).
    """
    lags = past.shape[1]
    own = along_paths(past, states.expand(-1, lags)).to(weight.dtype)
    latest_last = weight[states.squeeze(-1), :lags].flip(1)
    return torch.einsum("nle,nlse->ns", own, latest_last)[:, None, None]


def _plus(shift: Tensor | None, part: Tensor) -> Tensor:
    return part if shift is None else shift + part
