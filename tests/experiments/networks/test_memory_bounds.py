"""The bound of a cell's gates, against that of the library's guide with the same belief."""

import pytest
import torch

from beliefzoo.experiments.networks import gated_accumulator
from beliefzoo.experiments.networks.gated_accumulator import EXACT, VIOLATING, heldout
from beliefzoo.experiments.networks.parts.memory_bounds import gate_bound
from beliefzoo.experiments.networks.parts.reference_filters import Given
from beliefzoo.inference import BeliefGuide
from beliefzoo.models import memory_states

SETTINGS = gated_accumulator.Settings(length=5, heldout_sequences=4)


def belief_of(model, keep, write, value) -> torch.Tensor:
    """log β (N, T, K): chances of the causes times the law of the memory, state by state."""
    table, (n, steps) = memory_states(model), keep.shape
    beliefs = torch.zeros(n, steps, len(table.memory)).double()
    for row in range(n):
        held = {0.0: 1.0}
        for t in range(steps):
            after: dict[float, float] = {}
            for state in range(len(table.memory)):
                u, v, x, before, memory = (float(column[state]) for column in table)
                chance = float(keep[row, t] if u else 1 - keep[row, t])
                if write is not None:
                    chance *= float(write[row, t] if v else 1 - write[row, t])
                chance *= float(value[row, t] if x > 0 else 1 - value[row, t])
                chance *= held.get(before, 0.0)
                beliefs[row, t, state] = chance
                after[memory] = after.get(memory, 0.0) + chance
            held = after
    return beliefs.log()


@pytest.mark.parametrize("name", [*EXACT, *VIOLATING])
def test_the_bound_is_that_of_the_guide(name: str) -> None:
    case = heldout(SETTINGS, name)
    generator = torch.Generator().manual_seed(0)
    f, i, value = (torch.rand(4, 5, generator=generator).double() for _ in range(3))
    g, laws = 2 * value - 1, case.model.laws({}, case.data)

    def of_guide(keep, write):
        guide = BeliefGuide(case.model, Given(belief_of(case.model, keep, write, value)))
        return guide.posterior(laws).elbo()

    if name == "reset":
        expected = (of_guide(f, None) + of_guide(1 - i, None)) / 2
    else:
        expected = of_guide(f, i)
    found = gate_bound(case.model, case.data.values.double(), f, i, g)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", EXACT)
def test_the_bound_of_exact_gates_is_the_evidence(name: str) -> None:
    case = heldout(SETTINGS, name)
    exact = case.exact
    y = case.data.values.double()
    found = gate_bound(case.model, y, exact.keep, exact.write, exact.value)
    torch.testing.assert_close(found, case.evidence)
