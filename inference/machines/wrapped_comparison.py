"""Several models around one LSTM, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...models.boundary import boundary
from ...models.checks import require
from ..checking.evidence_gap import standard_error
from .wrapping import Wrapped


@dataclass(frozen=True)
class WrappedComparison:
    """Several models around one LSTM on the same held-out sequences; by :func:`compare_wrapped`.

    Attributes:
        names: names of the models.
        evidence: log p(data) / steps of every model with its exact filter, nats.
        elbo: the bound with the LSTM as its filter, nats per step.
        elbo_behind: how far each bound is below the highest.
        elbo_behind_standard_error: of these paired differences, over sequences; 0 of the best.
        decoder_kl: KL(exact filter ‖ best linear read-out of h and c), nats per step.
        information: KL(exact filter ‖ its mean), the information in the belief, nats per step.

    >>> from beliefzoo.inference import WrappedComparison
    >>> found = WrappedComparison(
    ...     names=("2 states", "3 states"), evidence=(-1.05, -1.01), elbo=(-1.06, -1.02),
    ...     elbo_behind=(0.04, 0.0), elbo_behind_standard_error=(0.03, 0.0),
    ...     decoder_kl=(0.02, 0.05), information=(0.3, 0.4),
    ... )
    >>> found.preferred_by_elbo, found.held
    ('3 states', '2 states')
    """

    names: tuple[str, ...]
    evidence: tuple[float, ...]
    elbo: tuple[float, ...]
    elbo_behind: tuple[float, ...]
    elbo_behind_standard_error: tuple[float, ...]
    decoder_kl: tuple[float | None, ...]
    information: tuple[float | None, ...]

    @property
    def preferred_by_evidence(self) -> str:
        """The model with the highest evidence."""
        return self.names[max(range(len(self.names)), key=self.evidence.__getitem__)]

    @property
    def preferred_by_elbo(self) -> str:
        """The model with the highest bound: evidence minus the cost of the LSTM as its filter."""
        return self.names[max(range(len(self.names)), key=self.elbo.__getitem__)]

    @property
    def held(self) -> str:
        """The first model in the given order whose bound is within two standard errors of the best.

        With models in the order of their sizes: the smallest number of states that describes the
        LSTM's state as well as any.
        """
        for number, name in enumerate(self.names):
            if self.elbo_behind[number] <= 2 * self.elbo_behind_standard_error[number]:
                return name
        return self.preferred_by_elbo

    def __str__(self) -> str:
        head = ("model", "evidence", "ELBO", "behind", "decoder KL", "of nats")
        lines = ["  {:<22}{:>10}{:>10}{:>20}{:>12}{:>9}".format(*head)]
        for n, name in enumerate(self.names):
            behind = f"{self.elbo_behind[n]:.4f} ± {self.elbo_behind_standard_error[n]:.4f}"
            kl, information = self.decoder_kl[n], self.information[n]
            lines.append(
                f"  {name:<22}{self.evidence[n]:>10.4f}{self.elbo[n]:>10.4f}{behind:>20}"
                f"{'' if kl is None else f'{kl:.2e}':>12}"
                f"{'' if information is None else f'{information:.3f}':>9}"
            )
        lines.append(
            f"preferred by evidence: {self.preferred_by_evidence}; by ELBO: "
            f"{self.preferred_by_elbo}; held: {self.held}"
        )
        return "\n".join(lines)


@boundary
def compare_wrapped(wrapped: Mapping[str, Wrapped] | Sequence[Wrapped]) -> WrappedComparison:
    """Compares several models around the same LSTM by evidence and bound.

    Args:
        wrapped: results of :func:`wrap`, by name, or in a list, then named by their states.

    Returns:
        The figures of every model, in nats per step.

    Raises:
        ValueError: fewer than two, equal names, or different held-out sequences.

    >>> import torch
    >>> from beliefzoo.inference import FitSettings, compare_wrapped, wrap
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel, mess3
    >>> _ = torch.manual_seed(0)
    >>> lstm, options = torch.nn.LSTM(3, 4, batch_first=True), {"windows": 0}
    >>> data, options["settings"] = mess3().model.sample(12, 6, seed=0).data, FitSettings(steps=5)
    >>> models = [HiddenMarkovModel(states, Categorical(3)) for states in (1, 2)]
    >>> found = compare_wrapped([wrap(lstm, model, data, **options) for model in models])
    >>> found.names
    ('1 state', '2 states')
    """
    many = isinstance(wrapped, Mapping | Sequence)
    require(many, "wrapped", "must be a mapping or a list", type(wrapped).__name__)
    each = list(wrapped.values() if isinstance(wrapped, Mapping) else wrapped)
    for one in each:
        require(isinstance(one, Wrapped), "wrapped", "needs results of wrap", type(one).__name__)
    require(len(each) >= 2, "wrapped", "needs two models or more", len(each))
    if isinstance(wrapped, Mapping):
        names = tuple(wrapped)
    else:
        names = tuple(f"{one.states} state{'s' * (one.states > 1)}" for one in each)
        equal = len(set(names)) < len(names)
        require(not equal, "wrapped", "needs names", "models of equal sizes")
    for one in each[1:]:
        same = all(
            torch.equal(getattr(one.heldout, part), getattr(each[0].heldout, part))
            for part in ("lengths", "values", "mask")
        )
        require(same, "wrapped", "must be measured on the same held-out sequences", "others")
    best = max(each, key=lambda one: one.gap.elbo_per_step)
    behind = [best.gap.elbo - one.gap.elbo for one in each]
    steps = best.heldout.n_steps
    rates = [float(one.sum()) / steps for one in behind]
    errors = [standard_error(one, best.heldout.lengths) for one in behind]
    read = [one.readouts.state["hc"] for one in each]
    return WrappedComparison(
        names,
        tuple(one.gap.evidence_per_step for one in each),
        tuple(one.gap.elbo_per_step for one in each),
        tuple(rates),
        tuple(errors),
        tuple(one.decoder_kl for one in read),
        tuple(one.information for one in read),
    )
