"""Merging of states: a machine whose states were split is put together again."""

import pytest
import torch

from beliefzoo.inference import law_divergence, merge_states
from beliefzoo.models import LabelledChain, LabelledHMM, golden_mean, mess3, random_random_xor


def split(chain: LabelledChain, seed: int) -> LabelledHMM:
    """Every state twice, entered with random chances."""
    generator = torch.Generator().manual_seed(seed)
    k, v = chain.states, chain.symbols
    share = torch.rand(v, 2 * k, k, 1, generator=generator, dtype=torch.float64)
    twice = chain.matrices.repeat_interleave(2, 1).unsqueeze(-1)
    tables = (twice * torch.cat([share, 1 - share], -1)).flatten(2)
    return LabelledHMM.from_tables(chain.stationary.repeat_interleave(2) / 2, tables)


@pytest.mark.parametrize("chain", [golden_mean(), mess3(), random_random_xor()])
def test_split_states_are_merged_again(chain: LabelledChain) -> None:
    merged = merge_states(split(chain, 0), 1e-9)
    assert merged.states == chain.states
    torch.testing.assert_close(merged.tables().tables, chain.matrices)
    assert law_divergence(chain, merged, sequences=20).mean < 1e-12


def test_what_differs_by_more_than_the_tolerance_stays_apart() -> None:
    """Golden mean: after a 0 comes a 1, otherwise with chance ½."""
    model = LabelledHMM.from_tables(golden_mean().stationary, golden_mean().matrices)
    assert merge_states(model, 0.49, length=1).states == 2
    assert merge_states(model, 0.51, length=1).states == 1
    with pytest.raises(ValueError, match=r"^tolerance: "):
        merge_states(model, 1.5)
