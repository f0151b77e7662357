"""Fits, forecasts and exports of decision processes, beside sums over paths and hidden Markov
models."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BayesianRecurrentFilter,
    BeliefGuide,
    CRFFilter,
    ElmanFilter,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    MEMMFilter,
    SigmoidFilter,
    evidence_gap,
    filter,
    fit,
    forecast,
    gaps,
    importance,
    load_fit,
    log_evidence,
    nuts,
    particle_filter,
    posterior_quantities,
    predictive_check,
    save_fit,
    starting_values,
    to_arviz,
    weighted_evidence,
)
from beliefzoo.inference.filters.slot import Filter
from beliefzoo.inference.fitting.objectives import LOSSES, Batch, Objective
from beliefzoo.inference.guides.guide import Guide
from beliefzoo.models import (
    POMDP,
    ActionSequence,
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    SequenceFolder,
    Sequences,
    Uniform,
    write_folder,
)

MOVES = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.3, 0.7]], [[0.4, 0.6], [0.8, 0.2]]])
TOLD = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]],
        [[0.2, 0.5, 0.3], [0.5, 0.25, 0.25]],
        [[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]],
    ]
)
START = np.array([0.6, 0.4])
NAMES = {"states": ["left", "right"], "actions": ["a", "b", "c"], "observations": ["x", "y", "z"]}
SHORT = FitSettings(
    steps=3, batch_size=8, sleep_steps=2, restarts=2, restart_steps=2, holdout=0, patience=None
)


def known(first: bool = False) -> POMDP:
    return POMDP.from_tables(
        MOVES,
        TOLD,
        np.arange(6.0).reshape(3, 2),
        initial=START,
        first=TOLD[0] if first else None,
        **NAMES,
    )


def unknown(**options: object) -> POMDP:
    return POMDP(2, 3, actions=3, **options)  # type: ignore[arg-type]


def ragged(model: POMDP, episodes: int = 12, length: int = 6) -> Sequences:
    """Episodes of lengths 1 to ``length``, as data come."""
    data = model.rollout(Uniform(), episodes, length, seed=1).data
    assert data.actions is not None
    lengths = [1 + n % length for n in range(episodes)]
    seen = torch.where(data.mask, data.values.double(), torch.nan)
    return Sequences.from_arrays(
        [seen[n, :size].numpy() for n, size in enumerate(lengths)],
        codes=True,
        actions=[data.actions[n, :size].numpy() for n, size in enumerate(lengths)],
        rewards=[np.zeros(size) for size in lengths],
    )


def joint(data: Sequences, n: int, path: tuple[int, ...]) -> float:
    """p(z, o | a) of one sequence, nothing being observed at its first step."""
    assert data.actions is not None
    out = float(START[path[0]])
    for t in range(1, len(path)):
        action = int(data.actions[n, t - 1])
        out *= MOVES[action][path[t - 1], path[t]] * TOLD[action][path[t], int(data.values[n, t])]
    return out


GUIDES: dict[str, tuple[type[Guide], object]] = {
    "belief": (BeliefGuide, {}),
    "forward": (ForwardGuide, {"direction": "both"}),
    "mean field": (MeanFieldGuide, {}),
}


@pytest.mark.parametrize("name", GUIDES)
def test_guides_are_laws_of_paths(name: str) -> None:
    """q sums to one over all paths, has its marginals, and its bound is E_q[log p − log q]."""
    model, (kind, options) = known(), GUIDES[name]
    data = ragged(model)
    torch.manual_seed(3)
    guide = kind(model, LSTMFilter(3, **options))  # type: ignore[arg-type]
    laws = model.laws({}, data)
    with torch.no_grad():
        posterior = guide.posterior(laws)
        marginals, bound = posterior.mean, posterior.elbo()  # type: ignore[union-attr]
        for n, length in enumerate(data.lengths.tolist()):
            paths = list(itertools.product(range(2), repeat=length))
            total, value, mean = 0.0, 0.0, np.zeros((length, 2))
            for path in paths:
                wide = torch.full((1, len(data), data.max_length), -1)
                wide[0, n, :length] = torch.tensor(path)
                q = float(posterior.path_log_prob(wide)[0, n].exp())
                chained = posterior.chain_log_prob(wide) + posterior.emission_log_prob(wide)
                p = joint(data, n, path)
                assert float(chained[0, n]) == pytest.approx(np.log(p), abs=1e-9)
                total += q
                value += q * (np.log(p) - np.log(q))
                mean[np.arange(length), list(path)] += q
            assert total == pytest.approx(1, abs=1e-9)
            assert float(bound[n]) == pytest.approx(value, abs=1e-9)
            np.testing.assert_allclose(marginals[n, :length], mean, atol=1e-9)


def test_every_filter_reads_the_action() -> None:
    """With another action before it the belief is another one, at that step and not before."""
    model = known()
    data = model.rollout(Uniform(), 3, 5, seed=14).data
    assert data.actions is not None
    changed = data.actions.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 3
    torch.manual_seed(15)
    filters: list[Filter] = [
        LSTMFilter(3),
        GRUFilter(3),
        ElmanFilter(3),
        BayesianRecurrentFilter(),
        MEMMFilter(),
        CRFFilter(),
        SigmoidFilter(),
    ]
    for made in filters:
        made.build(model)
        for weight in made.parameters():  # type: ignore[attr-defined]
            torch.nn.init.normal_(weight)
        with torch.no_grad():
            one, other = (
                made(model.laws({}, each)) for each in (data, replace(data, actions=changed))
            )
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one[:, :3], other[:, :3]), type(made)
        assert bool((one[:, 3] != other[:, 3]).any(-1).all()), type(made)


def test_draws_of_guides_follow_their_marginals() -> None:
    """Frequencies of 4000 draws within five standard errors."""
    model = known()
    data = ragged(model)
    for kind, options in GUIDES.values():
        guide = kind(model, LSTMFilter(3, **options))  # type: ignore[arg-type]
        with torch.no_grad():
            posterior = guide.posterior(model.laws({}, data))
            drawn = posterior.sample_paths(4000)
        inside = data.step_mask
        assert bool((drawn[:, ~inside] == -1).all())
        share = (drawn == 1).double().mean(0)[inside]
        wanted = posterior.mean[..., 1][inside]  # type: ignore[union-attr]
        assert float((share - wanted).abs().max()) <= 5 * 0.5 / 4000**0.5


def test_exact_beliefs_give_the_evidence() -> None:
    for model in (known(), known(first=True)):
        data = model.rollout(Uniform(), 9, 7, seed=2).data
        guide = BeliefGuide(model, ExactFilter())
        laws = model.laws({}, data)
        torch.testing.assert_close(
            guide.posterior(laws).elbo(), log_evidence(model, data), atol=1e-9, rtol=0
        )
        assert evidence_gap(guide, data).gap_per_step == pytest.approx(0, abs=1e-12)


OBJECTIVES: tuple[Objective, ...] = ("elbo", "iwae", "rws", "forward_kl")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", GUIDES)
def test_one_action_is_a_hidden_markov_model(name: str, objective: Objective) -> None:
    """The same weights, data and random numbers: the same loss and the same gradient."""
    kind, options = GUIDES[name]
    hmm = HiddenMarkovModel(2, Categorical(3)).with_parameters(
        initial=START, transition=MOVES[0], probs=TOLD[0]
    )
    model = POMDP.from_tables(MOVES[:1], TOLD[:1], initial=START, first=TOLD[0])
    data = hmm.sample(24, [9, 4, 1] * 8, seed=4).data
    acted = replace(data, actions=torch.zeros(24, 9).long())
    found = []
    for each, these in ((hmm, data), (model, acted)):
        guide = kind(each, LSTMFilter(4, **options))  # type: ignore[arg-type]
        for part_name, part in guide.filter.named_parameters():  # type: ignore[attr-defined]
            torch.manual_seed(5)
            drawn = torch.randn(
                *part.shape[:1], *([3] if "weight_ih" in part_name else part.shape[1:])
            )
            if part.ndim == 2 and part.shape[1] == 4 and "weight_ih" in part_name:
                drawn = torch.cat([drawn, torch.zeros(len(drawn), 1)], 1)  # the action
            part.data.copy_(drawn)
        torch.manual_seed(6)
        loss = LOSSES[objective](guide, Batch(these, 1.0, 7))
        loss.backward()
        found.append((loss.detach(), guide.filter.head.weight.grad))  # type: ignore[attr-defined]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", GUIDES)
def test_everything_is_fitted(name: str, objective: Objective) -> None:
    kind, options = GUIDES[name]
    for model in (known(), unknown()):
        data = ragged(known(), 16)
        guide = kind(model, LSTMFilter(3, **options))  # type: ignore[arg-type]
        found = fit(model, guide, data, objective=objective, settings=SHORT, progress=False)
        assert bool(found.losses.isfinite().all())
        gap = evidence_gap(found, data)
        assert gap.gap_per_step >= -1e-6
        both = gaps(found, data) if kind is BeliefGuide else None
        assert both is None or float(both.family.abs().max()) < 1e-9


def test_laws_are_learned_from_episodes() -> None:
    """The maximum of the likelihood is as much above the truth as chance has it."""
    truth = known()
    data = truth.rollout(Uniform(), 300, 40, seed=7).data
    model = unknown()
    settings = FitSettings(
        steps=150, batch_size=300, parameter_learning_rate=0.1, holdout=0, patience=None
    )
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    found = fit(model, guide, data, settings=settings, progress=False)
    better = log_evidence(found.fitted, data).sum() - log_evidence(truth, data).sum()
    # Twice of it is χ² with 19 free numbers, 45 at most but once in a thousand.
    assert 0 < 2 * float(better) < 45


def test_starts_use_what_is_known() -> None:
    data = known().rollout(Uniform(), 60, 30, seed=8).data
    for model in (
        unknown(),
        unknown().with_parameters(probs=TOLD),
        unknown().with_parameters(transition=MOVES, initial=START),
        unknown(reward="learned"),
        POMDP(1, 3, actions=3),
    ):
        for start in ("kmeans", "frames", "prior"):
            values = starting_values(model, data, start)  # type: ignore[arg-type]
            assert set(values) == set(model.priors)
            laws = model.laws(values, data)
            assert bool(log_evidence_of(laws).isfinite().all())
    found = starting_values(unknown().with_parameters(probs=TOLD), data)["transition"]
    np.testing.assert_allclose(found, MOVES, atol=0.25)


def log_evidence_of(laws: object) -> torch.Tensor:
    return BeliefGuide(known(), ExactFilter()).bound(laws)


def test_rewards_and_numbers_are_learned() -> None:
    model = POMDP(2, Gaussian(1), actions=2, reward="learned")
    truth = model.with_parameters(
        initial=START,
        transition=MOVES[:2],
        mean=[[0.0, 5.0], [1.0, -4.0]],
        scale=np.full((2, 2), 0.5),
        reward=[[1.0, -1.0], [0.0, 3.0]],
        reward_scale=0.5,
    )
    data = truth.rollout(Uniform(), 50, 20, seed=9).data
    scaled = model.scaled_to(data)
    values = starting_values(scaled, data)
    order = [0, 1] if float(values["mean"][0, 0]) < float(values["mean"][0, 1]) else [1, 0]
    np.testing.assert_allclose(values["mean"][:, order], [[0, 5], [1, -4]], atol=1)
    np.testing.assert_allclose(values["reward"][:, order], [[1, -1], [0, 3]], atol=1)
    guide = BeliefGuide(scaled, LSTMFilter(3, reads="both"))
    found = fit(scaled, guide, data, settings=SHORT, progress=False)
    exported = to_arviz(found, data, draws=4, state_draws=2, predictive_draws=2, prior_draws=2)
    assert exported["posterior"]["reward"].dims == ("chain", "draw", "action", "state")


# What comes after the end


def test_a_forecast_is_the_sum_over_all_continuations() -> None:
    model = known()
    data = ragged(model, 4, 4)
    actions = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0], [0, 2, 1]])
    found = forecast(model, data, 3, actions=actions, draws=20_000, seed=1)
    belief = filter(model, data)
    assert data.actions is not None
    assert found.mean is not None
    for n, length in enumerate(data.lengths.tolist()):
        law = belief[n, length - 1].numpy()
        acted = [int(data.actions[n, length - 1]), *actions[n, :2].tolist()]
        for h, action in enumerate(acted):
            law = law @ MOVES[action]
            np.testing.assert_allclose(found.state_probability[n, h], law, atol=1e-12)
            np.testing.assert_allclose(found.mean[n, h], law @ TOLD[action], atol=1e-12)
            share = torch.bincount(found.draws[:, n, h], minlength=3) / 20_000
            assert float((share - found.mean[n, h]).abs().max()) <= 5 * 0.5 / 20_000**0.5


def test_one_state_is_forecast_by_the_law_after_each_action() -> None:
    model = POMDP.from_tables(np.ones((3, 1, 1)), TOLD[:, :1])
    data = model.rollout(ActionSequence((0, 1, 2)), 2, 3, seed=0).data
    found = forecast(model, data, 2, actions=torch.tensor([[0, 1], [1, 1]]), draws=10, seed=0)
    assert found.mean is not None
    for n, acted in enumerate([[2, 0], [2, 1]]):
        np.testing.assert_allclose(found.mean[n], TOLD[acted, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("message", "actions"),
    [
        ("actions: forecasting needs those of future steps, whole numbers of shape", None),
        ("whole numbers of shape \\(4, 2\\), got \\(4, 3\\)", torch.zeros(4, 3).long()),
        ("must be whole numbers 0 to 2, got \\[0.5\\]", torch.full((4, 2), 0.5)),
        ("actions: must be whole numbers 0 to 2, got \\[3.0\\]", torch.full((4, 2), 3)),
    ],
)
def test_a_forecast_needs_actions(message: str, actions: torch.Tensor | None) -> None:
    model = known()
    data = ragged(model, 4, 4)
    with pytest.raises(ValueError, match=message):
        forecast(model, data, 2, actions=actions)
    found = fit(model, BeliefGuide(model, LSTMFilter(2)), data, settings=SHORT, progress=False)
    with pytest.raises(ValueError, match=message):
        to_arviz(found, data, forecast=2, actions=actions)


def test_others_read_no_actions() -> None:
    model = HiddenMarkovModel(1, "poisson").with_parameters(rate=[1.0])
    data = model.sample(2, 3, seed=0).data
    with pytest.raises(ValueError, match=r"actions: .* reads none, got Tensor"):
        forecast(model, data, 1, actions=torch.zeros(2, 1).long())


# Exports


@pytest.mark.parametrize("first", [False, True])
def test_names_reach_the_export(first: bool) -> None:
    model = POMDP(["left", "right"], ["x", "y", "z"], actions=["a", "b", "c"], first=first)
    data = known(first).rollout(Uniform(), 20, 8, seed=10).data
    guide = BeliefGuide(model, LSTMFilter(3))
    settings = replace(SHORT, start={"probs": known(first).known["probs"]})
    found = fit(model, guide, data, settings=settings, progress=False)
    actions = torch.zeros(20, 2).long()
    exported = to_arviz(
        found,
        data,
        draws=6,
        state_draws=3,
        predictive_draws=4,
        prior_draws=3,
        forecast=2,
        actions=actions,
        gates=True,
    )
    posterior = exported["posterior"]
    before = ["a", "b", "c", "(first)"] if first else ["a", "b", "c"]
    axis = "action_before" if first else "action"
    assert posterior["transition"].dims[2:] == ("action", "state", "state_to")
    assert posterior["probs"].dims[2:] == (axis, "state", "observation")
    assert posterior["state"].values.tolist() == ["left", "right"]
    assert posterior["state_to"].values.tolist() == ["left", "right"]
    assert posterior["action"].values.tolist() == ["a", "b", "c"]
    assert posterior[axis].values.tolist() == before
    assert posterior["observation"].values.tolist() == ["x", "y", "z"]
    assert exported.attrs["state_order"] == "[0, 1]"
    replicas = exported["posterior_predictive"]["obs"].values
    assert bool(np.isnan(replicas[..., 0]).all()) is not first
    assert not np.isnan(replicas[..., 1:]).any()
    assert exported["predictions"]["state_probability"].shape == (1, 4, 20, 2, 2)
    np.testing.assert_array_equal(exported["constant_data"]["actions"], data.actions)
    assert set(predictive_check(exported).index) >= {"entropy"}


def test_evidence_and_states_of_an_export_are_exact() -> None:
    model = unknown()
    data = ragged(known(), 10, 5)
    found = fit(model, BeliefGuide(model, LSTMFilter(3)), data, settings=SHORT, progress=False)
    exported = to_arviz(found, data, draws=5, state_draws=5, predictive_draws=2, prior_draws=2)
    posterior = exported["posterior"]
    stats = exported["sample_stats"]["sequence_log_likelihood"].values
    seen = data.observed_steps.any(1)
    filtered = np.zeros((10, data.max_length, 2))
    for draw in range(5):
        values = {name: posterior[name].values[0, draw] for name in model.priors}
        one = model.with_parameters(**values)
        wanted = log_evidence(one, data)[seen]
        np.testing.assert_allclose(stats[0, draw, seen], wanted, atol=1e-9)
        filtered += filter(one, data).numpy() / 5
    inside = data.step_mask.numpy()
    shown = exported["posterior_states"]["filtered_probability"].values
    np.testing.assert_allclose(shown[inside], filtered[inside], atol=1e-9)


def test_weights_and_particles_agree_with_the_evidence() -> None:
    """Estimates from 2000 draws, whose standard error is far below the tolerance."""
    model = known()
    data = ragged(model, 8, 6)
    exact = log_evidence(model, data)
    guide = BeliefGuide(model, LSTMFilter(3))
    torch.testing.assert_close(
        weighted_evidence(guide, data, draws=2000).log_evidence, exact, atol=0.1, rtol=0
    )
    for proposal in (None, guide):
        estimate = particle_filter(model, data, particles=2000, proposal=proposal, seed=1)
        torch.testing.assert_close(estimate.log_evidence, exact, atol=0.1, rtol=0)
    learned = unknown()
    found = fit(learned, BeliefGuide(learned, LSTMFilter(3)), data, settings=SHORT, progress=False)
    assert importance(found, data, draws=30).draws == 30


def test_nuts_samples_the_tables() -> None:
    data = known().rollout(Uniform(), 6, 5, seed=11).data
    found = nuts(unknown(), data, chains=1, draws=4, warmup=4, progress=False)
    assert found.draws["transition"].shape == (1, 4, 3, 2, 2)
    for draw in range(4):
        one = {name: value[0, draw] for name, value in found.draws.items()}
        prior = sum(
            float(torch.as_tensor(p.log_prob(one[n].float()))) for n, p in unknown().priors.items()
        )
        evidence = float(log_evidence(unknown().with_parameters(**one), data).sum())
        assert float(found.log_density[0, draw]) == pytest.approx(prior + evidence, abs=1e-3)
    to_arviz(found, data, state_draws=2, predictive_draws=2, prior_draws=2)


def test_what_the_filter_does() -> None:
    """Staying and information gain by sums over the paths of two steps and more."""
    model = known()
    data = ragged(model, 6, 4)
    found = posterior_quantities(model, data)
    for n, length in enumerate(data.lengths.tolist()):
        for t in range(1, length):
            weight = {
                path: joint(data, n, path) for path in itertools.product(range(2), repeat=t + 1)
            }
            stayed = sum(w for path, w in weight.items() if path[-1] == path[-2])
            assert float(found["staying"][n, t]) == pytest.approx(
                stayed / sum(weight.values()), abs=1e-12
            )


# Keeping


def test_fits_are_kept_and_taken_up_again(tmp_path: Path) -> None:
    model = POMDP(["l", "r"], ["x", "y", "z"], actions=["a", "b", "c"], reward="learned")
    data = known().rollout(Uniform(), 16, 6, seed=12).data

    def fitted(steps: int, **options: object) -> object:
        settings = FitSettings(
            steps=steps,
            batch_size=8,
            sleep_steps=1,
            holdout=0,
            patience=None,
            start={"probs": known().known["probs"]},
        )
        torch.manual_seed(1)
        guide = BeliefGuide(model, LSTMFilter(3))
        return fit(model, guide, data, settings=settings, progress=False, **options)  # type: ignore[arg-type]

    done = fitted(4, checkpoint=tmp_path / "c.pt")
    again = fitted(4, checkpoint=tmp_path / "c.pt")
    assert torch.equal(done.losses, again.losses)  # type: ignore[attr-defined]
    loaded = load_fit(save_fit(done, tmp_path / "fit"))  # type: ignore[arg-type]
    assert isinstance(loaded.model, POMDP)
    assert loaded.model.state_names == ("l", "r")
    gap = evidence_gap(done, data)  # type: ignore[arg-type]
    assert evidence_gap(loaded, data).gap_per_step == pytest.approx(gap.gap_per_step, abs=1e-12)


def test_episodes_in_a_folder_are_those_in_memory(tmp_path: Path) -> None:
    data = known().rollout(Uniform(), 16, 6, seed=13).data
    folder = SequenceFolder(write_folder(data, tmp_path / "episodes"))
    model = unknown(reward="learned")
    losses = []
    for these in (data, folder):
        torch.manual_seed(2)
        guide = BeliefGuide(model, LSTMFilter(3))
        losses.append(fit(model, guide, these, settings=SHORT, progress=False).losses)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=0)
