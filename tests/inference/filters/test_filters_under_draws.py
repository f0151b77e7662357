"""Filters of every form under draws of the parameters, saved, and refused where they do not fit."""

import pytest
import torch

from beliefzoo.inference import (
    BayesianRecurrentFilter,
    BeliefGuide,
    CRFFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    MEMMFilter,
    SigmoidFilter,
    SpectralFilter,
    fit,
    load_fit,
    save_fit,
    to_arviz,
)
from beliefzoo.inference.arviz_groups import group
from beliefzoo.models import Categorical, Gaussian, HiddenMarkovModel, TemporalSigmoidBeliefNetwork

SHORT = FitSettings(steps=2, sleep_steps=0, holdout=0, patience=None)


def nodes():
    """Two binary nodes, parameters unknown, and some data."""
    model = TemporalSigmoidBeliefNetwork(2, Gaussian(2))
    known = model.with_parameters(
        node_initial=[0, 0],
        node_weight=[[2, -2], [1, 2]],
        node_bias=[-1, -1],
        node_loading=[[2, 0], [0, 3]],
        node_intercept=[0, 0],
        scale=[0.5, 0.5],
    )
    return model, known.sample(5, 4, seed=0).data


def symbols():
    """A hidden Markov model of symbols, parameters unknown, and some data."""
    model = HiddenMarkovModel(2, Categorical(3))
    known = model.with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.8, 0.2], [0.3, 0.7]],
        probs=[[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]],
    )
    return model, known.sample(30, 6, seed=0).data


def a_fit(kind, model, data, network, **options):
    return fit(model, kind(model, network, **options), data, settings=SHORT, progress=False)


CASES = {
    "product": (nodes, BeliefGuide, lambda: LSTMFilter(3, memory="hc")),
    "product, scores": (nodes, ForwardGuide, lambda: LSTMFilter(3)),
    "all states": (nodes, BeliefGuide, lambda: LSTMFilter(3, factorised=False)),
    "spectral": (symbols, BeliefGuide, SpectralFilter),
    "field": (symbols, BeliefGuide, CRFFilter),
}


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_beliefs_under_many_draws_are_those_of_one_draw_after_the_other(case):
    make, kind, network = CASES[case]
    model, data = make()
    result = a_fit(kind, model, data, network())
    idata = to_arviz(result, data, draws=3, seed=0, relabel=False)
    values, states = group(idata, "posterior"), group(idata, "posterior_states")
    stats = group(idata, "sample_stats")
    beliefs = []
    for draw in range(3):
        one = {name: torch.tensor(values[name].values[0, draw]) for name in model.priors}
        with torch.no_grad():
            posterior = result.guide.posterior(model.laws(one, data))
            paths = torch.tensor(states["states"].values[0, draw]).long()
            log_q = float(posterior.path_log_prob(paths).sum() + stats["log_q"].values[0, draw])
        assert float(states["log_q_joint"][0, draw]) == pytest.approx(log_q, rel=1e-5)
        beliefs.append(getattr(posterior, "log_beliefs", torch.zeros(0)).exp())
    if kind is BeliefGuide:
        found = torch.tensor(states["guide_belief"].values)
        torch.testing.assert_close(found, torch.stack(beliefs).mean(0).to(found), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_what_was_estimated_in_float64_is_loaded_in_float64(tmp_path):
    model, data = symbols()
    result = a_fit(BeliefGuide, model, data, SpectralFilter(), parameters="map")
    again = load_fit(save_fit(result, tmp_path / "fit"))
    for name, value in result.guide.state_dict().items():
        other = again.guide.state_dict()[name]
        assert other.dtype == value.dtype
        assert torch.equal(other, value), name


@pytest.mark.parametrize(
    "network", [SigmoidFilter, BayesianRecurrentFilter, MEMMFilter, CRFFilter, SpectralFilter]
)
def test_forward_guides_refuse_filters_without_scores_that_look_ahead(network):
    model = nodes()[0] if network is SigmoidFilter else symbols()[0]
    with pytest.raises(
        ValueError, match=f"filter: ForwardGuide needs scores .* {network.__name__}"
    ):
        ForwardGuide(model, network())
