"""Filters whose weights are drawn, for tests of their recursion."""

import torch


def with_drawn_weights(filter, model, seed=3):
    """The filter, built for the model, in float64 and with weights of order 1."""
    torch.manual_seed(seed)
    filter.build(model)
    filter.double()
    with torch.no_grad():
        for weight in filter.parameters():
            weight.copy_(torch.randn_like(weight))
    return filter
