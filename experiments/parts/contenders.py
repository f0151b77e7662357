"""Contenders: recurrent networks in guides, and how they are trained. One table for experiments.

METHODS = {name: every[name] for name in (...)}  # where every = contenders("lstm")
guide = METHODS[name].trained(model, data, settings.fit_settings(), seed, hidden_size=16)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...inference import (
    BeliefGuide,
    ElmanFilter,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    fit,
)
from ...inference.filters.recurrent import Direction, RecurrentFilter
from ...inference.filters.slot import Filter
from ...inference.fitting.objectives import Objective
from ...inference.guides.guide import Guide
from ...models import Model, Sequences
from ...models.randomness import seeded
from ..command.seeds import Figures

Network = Literal["lstm", "gru", "elman"]
NETWORKS: tuple[Network, ...] = get_args(Network)
KINDS: Mapping[Network, type[RecurrentFilter]] = {
    "lstm": LSTMFilter,
    "gru": GRUFilter,
    "elman": ElmanFilter,
}


@dataclass(frozen=True)
class Contender:
    """A network, the guide it drives, and the objective it is trained by (None: not trained)."""

    network: Network
    guide: type[Guide] = BeliefGuide
    objective: Objective | None = "elbo"
    direction: Direction = "forward"
    gaps: bool | None = None
    """Whether the network is told the time since the step before; None: where there are times."""
    starts_from: str | None = None
    """Name of the contender whose trained network is trained on; None: from fresh weights."""

    def trained(
        self,
        model: Model,
        data: Sequences,
        how: FitSettings,
        seed: int,
        *,
        hidden_size: int,
        start: Filter | None = None,
    ) -> Guide:
        """The guide after its training.

        Contenders share seeds: of one network and direction they start from the same weights.

        Args:
            model: with known parameters.
            data: what it learns from.
            how: settings of the fit.
            seed: of weights, minibatches and noise.
            hidden_size: units of the network.
            start: a trained network, which is copied, in place of fresh weights.
        """
        with seeded(seed):
            network = copy.deepcopy(start) or KINDS[self.network](
                hidden_size, direction=self.direction, gaps=self.gaps
            )
            guide = self.guide(model, network)
        if self.objective is not None:
            return fitted(guide, data, how, seed, self.objective)
        guide.calibrate(data)
        return guide


def fitted(
    guide: Guide, data: Sequences, how: FitSettings, seed: int, objective: Objective = "elbo"
) -> Guide:
    """The guide of a model with known parameters after one quiet fit."""
    result = fit(
        guide.model, guide, data, objective=objective, settings=how, seed=seed, progress=False
    )
    return result.guide


def contenders(network: Network) -> dict[str, Contender]:
    """Every way to train one kind of network, by "network/method"."""
    return {
        f"{network}/belief_guide": Contender(network),
        f"{network}/belief_guide_forward_kl": Contender(network, objective="forward_kl"),
        f"{network}/plain_causal_mean_field": Contender(network, MeanFieldGuide),
        f"{network}/plain_causal_mean_field_from_filter": Contender(
            network, MeanFieldGuide, starts_from=f"{network}/belief_guide"
        ),
        f"{network}/plain_causal_forward": Contender(network, ForwardGuide),
        f"backward_{network}/forward": Contender(network, ForwardGuide, direction="backward"),
        f"bidirectional_{network}/forward": Contender(network, ForwardGuide, direction="both"),
        f"bidirectional_{network}/mean_field": Contender(network, MeanFieldGuide, direction="both"),
    }


UNTRAINED = {"baselines/untrained_lstm": Contender("lstm", objective=None)}


def reached(cases: Sequence[Figures], most: Mapping[str, float], exact: float) -> dict[str, object]:
    """What the LSTM in a `BeliefGuide` was to stay below, beside the worst case and the worst fit.

    Args:
        cases: figures of each, by network and method, with its floors.
        most: by figure.
        exact: |ELBO − evidence| / |evidence| that the exact filter in the same slot must stay
            below.
    """
    ours = [case["lstm"]["belief_guide"] for case in cases]
    reach: dict[str, Any] = {}
    for key, bound in most.items():
        worst = max(one[key] for one in ours)
        reach[key] = {
            "bound": bound,
            "largest_over_cases": worst,
            "largest_over_fits": max(max(one[f"{key}_by_seed"]) for one in ours),
            "reached": "yes" if worst <= bound else "no",
        }
    floor = max(case["floors"]["exact_filter"]["evidence_gap_relative_largest"] for case in cases)
    reach["exact_filter_gap_relative"] = {
        "bound": exact,
        "largest_over_cases": floor,
        "reached": "yes" if floor <= exact else "no",
    }
    return reach
