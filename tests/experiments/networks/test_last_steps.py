"""The last steps of a fit raise the bound, and move nothing but the network."""

import torch

from beliefzoo.experiments.networks.parts.last_steps import climb
from beliefzoo.experiments.networks.parts.two_states import chain
from beliefzoo.inference import BeliefGuide, NaturalLSTMFilter, evidence_gap


def test_climbing_nears_the_exact_filter_and_keeps_zeros():
    model = chain(0.1, 1.0)
    data, test = (model.sample(40, 30, seed=seed).data for seed in (0, 1))
    torch.manual_seed(0)
    guide = BeliefGuide(model, NaturalLSTMFilter(5, scale=25.0, sharpness=40.0))
    guide.calibrate(data)
    before, weights = evidence_gap(guide, test), dict(guide.filter.state_dict())
    climb(guide, data, 0)
    assert all(torch.equal(weights[name], one) for name, one in guide.filter.state_dict().items())
    climb(guide, data, 60)
    after = evidence_gap(guide, test)
    assert after.gap_per_step < 0.01 * before.gap_per_step
    own, size = guide.filter.network, guide.filter.hidden_size
    assert own.weight_hh_l0.dtype == torch.float64
    assert torch.equal(own.weight_hh_l0[0], torch.zeros(size))
    assert torch.equal(own.weight_ih_l0[size], torch.zeros(2))
