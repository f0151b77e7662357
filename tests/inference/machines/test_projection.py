"""The nearest member of a family, beside the exact divergence from every word."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from beliefzoo.inference import FitSettings, NetworkLaw, log_evidence, lstm_log_likelihood, wrap
from beliefzoo.inference.machines.laws import log_conditionals, sampled
from beliefzoo.inference.machines.projection import has_law, projected
from beliefzoo.inference.machines.refinement import Target
from beliefzoo.models import Categorical, HiddenMarkovModel, LabelledHMM, Sequences

LENGTH = 4
WORDS = torch.tensor(list(itertools.product(range(3), repeat=LENGTH)))


def network() -> tuple[nn.LSTM, nn.Linear]:
    torch.manual_seed(4)
    lstm, head = nn.LSTM(3, 6), nn.Linear(6, 3)
    for weight in (*lstm.parameters(), *head.parameters()):
        nn.init.normal_(weight, std=1.0)
    return lstm.eval(), head


def target(n: int = 1500) -> Target:
    return Target(*sampled(NetworkLaw(*network()), n, LENGTH, seed=0))


def words() -> Sequences:
    return Sequences.from_tensors(WORDS.unsqueeze(-1), codes=True)


def exact(model: HiddenMarkovModel) -> float:
    """KL(LSTM ‖ model) a step: the sum over all words."""
    p = lstm_log_likelihood(*network(), words()).sum(-1)
    return float((p.exp() * (p - log_evidence(model, words()))).sum()) / LENGTH


def test_one_state_has_the_mean_law_of_all_steps() -> None:
    goal = target(500)
    found = projected(HiddenMarkovModel(1, Categorical(3)), goal)
    mean = goal.log_p.exp().mean((0, 1))
    torch.testing.assert_close(found.known["probs"][0].double(), mean, atol=1e-5, rtol=0)


def by_hand(x: Tensor) -> Mapping[str, Tensor]:
    first, moves, emits = x[:2], x[2:6].reshape(2, 2), x[6:].reshape(2, 3)
    parts = {"initial": first, "transition": moves, "probs": emits}
    return {name: part.softmax(-1) for name, part in parts.items()}


def test_two_states_are_where_the_exact_divergence_is_least() -> None:
    """A search over the same family, by the sum over words, gains no more than the draws' noise."""
    family = HiddenMarkovModel(2, Categorical(3))
    found = projected(family, target())
    names = "initial", "transition", "probs"
    begin = torch.cat([found.known[name].clamp_min(1e-5).log().flatten() for name in names])
    best = minimize(
        lambda x: exact(family.with_parameters(**by_hand(torch.from_numpy(x)))),
        begin.double().numpy(),
        method="Powell",
        options={"maxiter": 3, "xtol": 1e-3},
    )
    assert exact(found) < best.fun + 1e-3
    one = projected(HiddenMarkovModel(1, Categorical(3)), target())
    assert exact(found) < exact(one) - 1e-3


def test_moves_that_depend_on_the_symbol_come_nearer() -> None:
    families = HiddenMarkovModel(2, Categorical(3)), LabelledHMM(2, 3)
    plain, labelled = (projected(family, target()) for family in families)
    assert exact(labelled) < exact(plain)
    half = HiddenMarkovModel(2, Categorical(3)).with_parameters(transition=[[0.5, 0.5], [0.5, 0.5]])
    kept = projected(half, target(200))
    assert kept.known["transition"].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_wrap_projects_and_keeps_what_it_found() -> None:
    lstm, head = network()
    options = {"settings": FitSettings(steps=5, sleep_steps=0, patience=None), "windows": 0}
    found = wrap(lstm, HiddenMarkovModel(2, Categorical(3)), output=head, length=LENGTH, **options)
    fitted = found.fit.fitted
    assert isinstance(fitted, HiddenMarkovModel)
    assert not found.fit.model.priors
    goal = target(400)
    least = exact(projected(HiddenMarkovModel(2, Categorical(3)), goal))
    assert exact(fitted) < least + 5e-3
    drawn = wrap(
        lstm, HiddenMarkovModel(2, Categorical(3)), output=head, parameters="normal", length=LENGTH,
        sequences=40, **options,
    )  # fmt: skip
    assert drawn.fit.model.priors


@pytest.mark.parametrize(
    ("model", "whether"),
    [
        (HiddenMarkovModel(2, Categorical(3)), True),
        (LabelledHMM(2, 3), True),
        (LabelledHMM(2, 3, ends=True), False),
        (HiddenMarkovModel(2, "gaussian"), False),
    ],
)
def test_which_models_have_a_law_of_symbols(model: HiddenMarkovModel, whether: bool) -> None:
    assert has_law(model) == whether


def test_soft_targets_are_those_of_the_network() -> None:
    goal = target(20)
    torch.testing.assert_close(goal.log_p, log_conditionals(NetworkLaw(*network()), goal.codes))
