"""A guide of somebody who uses beliefzoo."""

from typing import Any

from torch import Tensor

from beliefzoo.inference import BeliefGuide, Filter
from beliefzoo.models import Model, TrajectoryLaws


class Cautious(BeliefGuide):
    """Believes its filter by half: β_t to the power ``trust``, normalised."""

    def __init__(
        self, model: Model, filter: Filter, *, parameters: Any = "normal", trust: float = 0.5
    ) -> None:
        super().__init__(model, filter, parameters=parameters)
        self.trust = trust

    @property
    def options(self) -> dict[str, Any]:
        return {"trust": self.trust}

    def beliefs(self, laws: TrajectoryLaws) -> Tensor:
        beliefs = super().beliefs(laws)
        assert isinstance(beliefs, Tensor)  # of discrete states
        return (self.trust * beliefs).log_softmax(-1)
