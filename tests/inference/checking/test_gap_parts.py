"""The gap taken apart: against tables optimised by brute force, limits and coincidences."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    evidence_gap,
    filter,
    gaps,
    log_evidence,
)
from beliefzoo.inference.checking import best_gaussian
from beliefzoo.inference.checking.best_causal import (
    Polynomials,
    best_causal_forward,
    best_causal_mean_field,
    highest_degree,
)
from beliefzoo.inference.checking.best_chains import DiscreteFamily, best_free, best_mean_field
from beliefzoo.inference.checking.best_prefixes import PrefixTree
from beliefzoo.inference.checking.outcomes import outcomes
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.guides.posteriors import Backward, Forward, MeanField
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    mess3,
)
from beliefzoo.models.beliefs import DiscreteBelief
from oracles_gaps import TinyChain, TinyNormal

INITIAL = np.array([0.6, 0.4])
TRANSITION = np.array([[0.85, 0.15], [0.25, 0.75]])
EMISSION = np.array([[0.8, 0.2], [0.35, 0.65]])
STICKY = np.array([[0.97, 0.03], [0.02, 0.98]])


def chain(initial=INITIAL, transition=TRANSITION, emission=EMISSION):
    model = HiddenMarkovModel(len(initial), Categorical(emission.shape[1]))
    return model.with_parameters(initial=initial, transition=transition, probs=emission)


def all_of(tiny):
    return Sequences.from_tensors(torch.tensor(tiny.sequences), codes=True)


def mean_over(tiny, bounds):
    return float(np.exp(tiny.log_evidence) @ np.asarray(bounds))


@pytest.mark.parametrize("transition", [TRANSITION, STICKY])
@pytest.mark.parametrize("kind", ["forward", "mean_field"])
def test_the_best_causal_member_by_brute_force(kind, transition):
    """Against tables over all prefixes of three symbols, summed over all sequences and paths."""
    tiny = TinyChain(INITIAL, transition, EMISSION, 3)
    model, data = chain(transition=transition), all_of(tiny)
    guide = (ForwardGuide if kind == "forward" else MeanFieldGuide)(model, LSTMFilter(3))
    parts = gaps(guide, data)
    np.testing.assert_allclose(parts.log_evidence.numpy(), tiny.log_evidence, atol=1e-10)
    # of scores the bound is concave: any start will do
    wanted = tiny.best(kind, causal=True, starts=1 if kind == "forward" else 8)
    assert mean_over(tiny, parts.best_causal_elbo) == pytest.approx(
        mean_over(tiny, wanted), abs=1e-6
    )
    np.testing.assert_allclose(parts.best_causal_elbo.numpy(), wanted, atol=2e-3)
    free = tiny.best(kind, causal=False, starts=1 if kind == "forward" else 5)
    assert mean_over(tiny, parts.best_elbo) == pytest.approx(mean_over(tiny, free), abs=1e-6)
    assert parts.causal == "over all prefixes"
    assert parts.causal_error == 0


@pytest.mark.parametrize("kind", ["backward", "mean_field"])
def test_products_over_nodes_by_brute_force(kind):
    """Two nodes, four states: two logits for each prefix of two symbols out of three."""
    rng = np.random.default_rng(1)
    initial = rng.dirichlet(np.ones(4))
    transition, emission = rng.dirichlet(np.ones(4), 4), rng.dirichlet(np.ones(3), 4)
    tiny = TinyChain(initial, transition, emission, 2)
    model, data = chain(initial, transition, emission), all_of(tiny)
    laws = model.laws({}, data)
    family = DiscreteFamily(Backward if kind == "backward" else MeanField, nodes=2)
    tree = PrefixTree.of(model, 2)
    own = family.member(laws, torch.zeros(9, 2, 2, dtype=torch.float64))
    causal = tree.best(family, own).elbo()
    wanted = tiny.best(kind, causal=True, nodes=2, starts=3)
    assert mean_over(tiny, causal) == pytest.approx(mean_over(tiny, wanted), abs=1e-6)
    free = best_free(family, laws, own)
    wanted = tiny.best(kind, causal=False, nodes=2, starts=4)
    assert mean_over(tiny, free) == pytest.approx(mean_over(tiny, wanted), abs=1e-6)
    assert mean_over(tiny, causal) < mean_over(tiny, free) < mean_over(tiny, tiny.log_evidence)


def test_backward_beliefs_without_restriction_need_nothing():
    """The table's optimum is the exact filter, whose bound is the evidence (SCIENCE I1)."""
    tiny = TinyChain(INITIAL, TRANSITION, EMISSION, 3)
    wanted = tiny.best("backward", causal=True, starts=3)
    np.testing.assert_allclose(wanted, tiny.log_evidence, atol=1e-6)
    parts = gaps(BeliefGuide(chain(), LSTMFilter(3)), all_of(tiny))
    assert float(parts.family.abs().max()) == 0
    assert float(parts.causality.abs().max()) == 0
    assert bool((parts.amortization > 0).all())
    exactly = gaps(BeliefGuide(chain(), ExactFilter()), all_of(tiny))
    assert float(exactly.total.abs().max()) < 1e-12


@pytest.mark.parametrize("states", [2, 3])
def test_regression_over_beliefs_meets_the_program_over_prefixes(states):
    """Averages over all 3^5 sequences; the two share no code but the recursion's definition."""
    rng = np.random.default_rng(states)
    initial = rng.dirichlet(np.ones(states))
    transition = 0.3 * rng.dirichlet(np.ones(states), states) + 0.7 * np.eye(states)
    emission = rng.dirichlet(np.ones(3), states)
    model = chain(initial, transition, emission)
    tree = PrefixTree.of(model, 5)
    evidence = log_evidence(model, tree.laws.data)
    weight = evidence.exp()
    assert float(weight.sum()) == pytest.approx(1)
    best = tree.best_forward().elbo()
    by_degree = [
        float(weight @ (best - best_causal_forward(model, tree.laws, degree=d).elbo()))
        for d in (1, 2, 4)
    ]
    assert 0 <= by_degree[2] < by_degree[0]
    assert by_degree[2] < 1e-6
    apart = best_causal_mean_field(model, tree.laws, degree=4)
    searched = tree.best(DiscreteFamily(MeanField), apart).elbo()
    assert -1e-9 < float(weight @ (searched - apart.elbo())) < 1e-2
    assert float(weight @ best) > float(weight @ searched)


def test_what_a_normal_output_is_expected_to_say():
    """Two steps: W_1(z, b_1) = E[log p(y_2 | z_1) | b_1], by adaptive quadrature."""
    means, sd = np.array([-1.0, 1.2]), 0.8
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=INITIAL, transition=TRANSITION, mean=means, scale=[sd, sd]
    )
    data = Sequences.from_tensors(torch.tensor([[[0.3], [0.1]], [[-2.0], [0.5]]]))
    laws = model.laws({}, data)
    scores = best_causal_forward(model, laws, degree=6).scores[:, 0]
    for n, y in enumerate((0.3, -2.0)):
        told = norm.logpdf(y, means, sd)
        b = INITIAL * np.exp(told)
        b /= b.sum()

        def expected(z, b=b):
            def integrand(x):
                p = TRANSITION @ norm.pdf(x, means, sd)
                return (b @ p) * np.log(p[z])

            return quad(integrand, -9, 9, epsabs=1e-12)[0]

        wanted = told[1] - told[0] + expected(1) - expected(0)
        # 128 midquantiles of each state; the bound errs by the square of this
        assert float(scores[n, 1] - scores[n, 0]) == pytest.approx(wanted, abs=1e-2)


def test_outcomes_weigh_as_the_emission_does():
    """E[f(y)] of midquantiles of two normal laws, against its closed form."""
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=INITIAL, transition=TRANSITION, mean=[-1.0, 2.0], scale=[1.0, 0.5]
    )
    table = outcomes(model, 256)
    predicted = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    chance, updated = table.onward(predicted)
    torch.testing.assert_close(chance.sum(-1), torch.ones(2, dtype=torch.float64))
    # E[Bayes(π, y)] = π
    torch.testing.assert_close(
        (chance.unsqueeze(-1) * updated).sum(1), predicted, atol=1e-3, rtol=0
    )
    bits = HiddenMarkovModel(2, Bernoulli(2)).with_parameters(
        initial=INITIAL, transition=TRANSITION, probs=[[0.2, 0.7], [0.9, 0.4]]
    )
    listed = outcomes(bits, 7)
    by_hand = [[0.8 * 0.3, 0.8 * 0.7, 0.2 * 0.3, 0.2 * 0.7], [0.1 * 0.6, 0.1 * 0.4, 0.54, 0.36]]
    np.testing.assert_allclose(listed.log_score.exp().numpy().T, by_hand, atol=1e-7)


def test_polynomials_are_those_of_chebyshev():
    points = torch.rand(50, 2, dtype=torch.float64)
    basis = Polynomials.over(points, 3)
    assert len(basis.exponents) == math.comb(5, 3)
    inside = (2 * (points - points.amin(0)) / (points.amax(0) - points.amin(0)) - 1).numpy()
    for column, (m, n) in zip(basis.features(points).T, basis.exponents.tolist(), strict=True):
        by_hand = np.cos(m * np.arccos(inside[:, 0])) * np.cos(n * np.arccos(inside[:, 1]))
        np.testing.assert_allclose(column.numpy(), by_hand, atol=1e-12)
    assert highest_degree(1) == 10
    assert math.comb(7 + highest_degree(7), 7) <= 200 < math.comb(8 + highest_degree(7), 7)


@pytest.fixture(scope="module")
def normal():
    values = {"m": 0.4, "p": 1.5, "a": 0.8, "b": 0.3, "q": 0.7, "c": 1.3, "d": -0.2, "r": 0.9}
    tiny = TinyNormal(**values, t=4)
    model = LinearGaussianSSM(LinearDynamics(1, offset=True), 1, intercept=True).with_parameters(
        transition=[[0.8]],
        offset=[0.3],
        process_covariance=[[0.7]],
        initial_mean=[0.4],
        initial_covariance=[[1.5]],
        loading=[[1.3]],
        intercept=-0.2,
        observation_variance=0.9,
    )
    return tiny, model, Sequences.from_tensors(torch.tensor(tiny.y).unsqueeze(-1))


@pytest.mark.parametrize("kind", ["forward", "mean_field"])
def test_linear_gaussian_causal_members_by_brute_force(normal, kind):
    """Against means affine in all observations so far, on sequences that make averages exact."""
    tiny, model, data = normal
    guide = (ForwardGuide if kind == "forward" else MeanFieldGuide)(model, LSTMFilter(3))
    parts = gaps(guide, data)
    np.testing.assert_allclose(parts.log_evidence.numpy(), tiny.log_evidence, atol=1e-6)
    wanted = tiny.best_causal(kind)
    found = tiny.weight @ parts.best_causal_elbo.numpy()
    assert found == pytest.approx(tiny.weight @ wanted, abs=1e-6)
    np.testing.assert_allclose(parts.best_causal_elbo.numpy(), wanted, atol=1e-2)
    assert parts.causal == "in closed form"
    if kind == "forward":
        assert float(parts.family.abs().max()) == 0
    else:  # means of the posterior, variances 1 / its precision
        gap = 0.5 * (np.log(tiny.precision.diagonal()).sum() - np.linalg.slogdet(tiny.precision)[1])
        np.testing.assert_allclose(parts.family.numpy(), gap, atol=1e-9)


def test_two_dimensions_one_observed_and_a_long_sequence_that_ends_early(normal):
    """The shorter sequence is as if alone; and any other causal potentials do worse."""
    model = LinearGaussianSSM(
        LinearDynamics(2, correlated=True), 1, intercept=False
    ).with_parameters(
        transition=[[0.9, 0.2], [0.0, 0.7]],
        process_covariance=[[0.5, 0.1], [0.1, 0.3]],
        initial_mean=[0.0, 1.0],
        initial_covariance=[[1.0, 0.2], [0.2, 1.0]],
        loading=[[1.0, 0.0]],
        observation_variance=0.5,
    )
    both = model.sample(300, [6, 4] * 150, seed=0).data
    for guide in (ForwardGuide(model, LSTMFilter(3)), MeanFieldGuide(model, LSTMFilter(3))):
        parts = gaps(guide, both)
        alone = gaps(guide, both[1])
        assert float(parts.best_causal_elbo[1]) == pytest.approx(
            float(alone.best_causal_elbo[0]), abs=1e-7
        )
        assert parts.per_step(parts.causality)[0] > 5 * parts.per_step(parts.causality)[1]
        laws = model.laws({}, both)
        find = {
            ForwardGuide: best_gaussian.best_causal_forward,
            MeanFieldGuide: best_gaussian.best_causal_mean_field,
        }[type(guide)]
        best = find(laws)
        beliefs = best.beliefs if isinstance(guide, MeanFieldGuide) else best.potentials
        for change in (0.02 * both.values.double(), 0.05 * torch.ones(2)):  # any other is worse
            moved = type(beliefs)(beliefs.mean + change * torch.tensor([1.0, -0.5]), beliefs.scale)
            assert float(type(best)(laws, moved).elbo().mean()) < float(best.elbo().mean())


def ragged(model):
    return model.sample(40, [6, 3, 1, 5] * 10, seed=3).data


@pytest.mark.parametrize("guide", [BeliefGuide, ForwardGuide, MeanFieldGuide])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_parts_sum_to_the_gap(guide, direction):
    if guide is BeliefGuide and direction != "forward":
        return
    model = chain()
    data = ragged(model)
    made = guide(model, LSTMFilter(3, direction=direction))
    parts, whole = gaps(made, data), evidence_gap(made, data)
    total = parts.family + parts.causality + parts.amortization
    np.testing.assert_allclose(total.numpy(), (whole.log_evidence - whole.elbo).numpy(), atol=1e-9)
    assert parts.per_step(parts.total)[0] == pytest.approx(whole.gap_per_step)
    assert parts.per_step(parts.total)[1] == pytest.approx(whole.gap_standard_error)
    mean, error = parts.per_sequence(parts.total)
    assert mean == pytest.approx(float(parts.total.mean()))
    assert error == pytest.approx(float(parts.total.std()) / math.sqrt(40))
    assert float(parts.family.min()) > -1e-9
    if direction != "forward":
        assert float(parts.causality.abs().max()) == 0
    one = data.lengths == 1  # without a future nothing is lost by not seeing it
    np.testing.assert_allclose(parts.causality[one].numpy(), 0, atol=1e-7)
    np.testing.assert_allclose(parts.family[one].numpy(), 0, atol=1e-7)
    printed = str(parts)
    assert "40 sequences, 150 steps" in printed
    assert all(word in printed for word in ("family", "causality", "amortization"))
    figures = parts.figures()
    assert figures["family_per_step"] + figures["causality_per_step"] + figures[
        "amortization_per_step"
    ] == pytest.approx(figures["total_per_step"], abs=1e-9)


@pytest.mark.parametrize("guide", [ForwardGuide, MeanFieldGuide])
def test_a_chain_without_memory_has_neither_family_nor_causality(guide):
    model = chain(INITIAL, np.array([[0.3, 0.7], [0.3, 0.7]]), EMISSION)
    parts = gaps(guide(model, LSTMFilter(3)), model.sample(30, 6, seed=0).data)
    np.testing.assert_allclose(parts.family.numpy(), 0, atol=1e-8)
    np.testing.assert_allclose(parts.causality.numpy(), 0, atol=1e-7)


def bits_of_two_nodes():
    model = TemporalSigmoidBeliefNetwork(2, Bernoulli(2)).with_parameters(
        node_initial=[0.0, 0.0],
        node_weight=[[3.0, 1.0], [0.0, 3.0]],
        node_bias=[-2.0, -2.0],
        node_loading=[[2.5, 0.0], [2.5, 2.5]],
        node_intercept=[-2.5, -2.5],
    )
    return model, model.sample(20, 4, seed=0).data


def test_a_step_seen_in_part_is_in_no_list_of_prefixes():
    model, data = bits_of_two_nodes()
    mask = torch.ones(20, 4, 2, dtype=torch.bool)
    mask[:10, :, 1] = False
    part = Sequences.from_tensors(data.values, mask=mask)
    guide = BeliefGuide(model, LSTMFilter(3))
    whole, found = gaps(guide, data), gaps(guide, part)
    assert whole.causal == "over all prefixes"
    assert "stands in" in found.causal
    assert math.isnan(found.causal_error)
    assert "causality is at most" in str(found)
    # The stand-in loses little more than the best: reading zeros for what was not seen lost .08.
    assert found.per_step(found.causality)[0] < 3 * whole.per_step(whole.causality)[0]
    with pytest.raises(ValueError, match="best causal Forward posterior over binary nodes"):
        gaps(ForwardGuide(model, LSTMFilter(3)), part)


@pytest.mark.parametrize("logit", [2.0, 50.0])
def test_divergence_of_nodes_from_beliefs_that_are_all_but_certain(logit):
    """Σ_j KL(b_tj ‖ β_tj) from exact marginals and log σ of the logits, which never rounds to 0."""
    model, data = bits_of_two_nodes()
    sharp = model.with_parameters(**model.known | {"node_loading": [[9.0, 0.0], [0.0, 9.0]]})
    network = LSTMFilter(3)
    guide = BeliefGuide(sharp, network)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(logit)
    found = gaps(guide, data).node_divergence
    assert bool(found.isfinite().all())
    b = filter(sharp, data).numpy()  # states 00, 01, 10, 11
    wanted = np.zeros(b.shape[:2])
    for on in (b[..., 2] + b[..., 3], b[..., 1] + b[..., 3]):
        off = 1 - on
        said = -np.log1p(np.exp(-logit)), -logit - np.log1p(np.exp(-logit))
        for p, log_q in ((on, said[0]), (off, said[1])):
            wanted += np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_q), 0)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_missing_elements_and_long_sequences_go_by_regression():
    model = chain()
    data = model.sample(50, 30, seed=1).data
    mask = torch.rand(50, 30) > 0.2
    holes = Sequences.from_tensors(data.values, mask=mask, codes=True)
    for some in (data, holes):
        parts = gaps(ForwardGuide(model, LSTMFilter(3)), some, seed=1)
        assert "regression" in parts.causal
        assert 0 < parts.causal_error < 1e-5
        mean, error = parts.per_step(parts.causality)
        assert mean > 5 * error


def test_more_states_than_two_by_regression_is_seen_to_converge():
    rng = np.random.default_rng(0)
    transition = 0.3 * rng.dirichlet(np.ones(3), 3) + 0.7 * np.eye(3)
    model = HiddenMarkovModel(3, Gaussian(2)).with_parameters(
        initial=[0.2, 0.3, 0.5],
        transition=transition,
        mean=[[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]],
        scale=[[1.0, 1.0]] * 3,
    )
    data = model.sample(200, 8, seed=1).data
    laws = model.laws({}, data)
    evidence = log_evidence(model, data)
    gap = [
        float((evidence - best_causal_forward(model, laws, degree=d).elbo()).mean())
        for d in (1, 3, 4)
    ]
    assert abs(gap[2] - gap[1]) < 1e-3 * gap[2]
    own = ForwardGuide(model, LSTMFilter(3)).posterior(laws).elbo().detach()
    assert gap[2] < float((evidence - own).mean())


def test_best_mean_field_of_laws_that_change_over_time():
    """A table of transitions, one a step and sequence: as each sequence alone."""
    model = chain()
    data = ragged(model)
    laws = model.laws({}, data)
    together = best_mean_field(laws).elbo()
    for n in (0, 1, 2):
        alone = best_mean_field(model.laws({}, data[n])).elbo()
        assert float(alone) == pytest.approx(float(together[n]), abs=1e-9)


def of_two_nodes(guide, model):
    """A guide of four states whose network says a product of two Bernoulli laws."""
    made = guide(model, LSTMFilter(3))
    made.filter.belief = DiscreteBelief(4, nodes=2)
    made.filter.head = torch.nn.Linear(3, 2)
    return made


def test_the_floor_of_products_over_nodes():
    """KL(b ‖ β) = TC(b) + Σ_j KL(b_j ‖ β_j), state by state."""
    rng = np.random.default_rng(5)
    initial, transition = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 4)
    emission = rng.dirichlet(np.ones(2), 4)
    model = chain(initial, transition, emission)
    data = model.sample(20, 4, seed=0).data
    guide = of_two_nodes(BeliefGuide, model)
    parts = gaps(guide, data)
    whole = evidence_gap(guide, data)
    both = parts.total_correlation + parts.node_divergence
    np.testing.assert_allclose(both.detach().numpy(), whole.kl_filter.detach().numpy(), atol=1e-9)
    assert float(parts.total_correlation.min()) >= -1e-12
    assert parts.per_step(parts.family)[0] > 0
    assert "floor" in str(parts)
    assert "factorial_floor_per_step" in parts.figures()
    long = model.sample(20, 30, seed=0).data
    reference = gaps(guide, long)
    assert "stands in" in reference.causal
    assert math.isnan(reference.causal_error)
    with pytest.raises(ValueError, match="best causal MeanField posterior over binary nodes"):
        gaps(of_two_nodes(MeanFieldGuide, model), long)
    # of the best beliefs for each sequence, no other product does better
    laws = model.laws({}, data)
    family = DiscreteFamily(Backward, 2)
    filtered = family.of_marginals(
        exact.filter_chain(
            laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
        ).log_beliefs
    )
    for step in range(20):
        noise = 0.3 * torch.randn(filtered.shape, generator=torch.Generator().manual_seed(step))
        assert bool((family.member(laws, filtered + noise).elbo() <= parts.best_elbo + 1e-9).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 0}, "degree: must be a whole number >= 1, got 0"),
        ({"degree": True}, "degree: must be a whole number >= 1, got True"),
        ({"degree": 11}, "degree: must be <= 10 for 2 states, got 11"),
    ],
)
def test_bad_degrees(change, message):
    model = chain()
    with pytest.raises(ValueError, match=message):
        gaps(ForwardGuide(model, LSTMFilter(3)), model.sample(3, 30, seed=0).data, **change)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="fitted: must be a Fit or a guide, got str"):
        gaps("guide", ragged(chain()))
    flat = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1.0, observation_variance=1.0
    )
    data = Sequences.from_tensors(torch.randn(5, 4, 1))
    with pytest.raises(ValueError, match="known for proper starts, got 1 flat direction"):
        gaps(MeanFieldGuide(flat, LSTMFilter(3)), data)
    stays = np.array([[0.8, 0.2], [0.0, 1.0]])
    sure = chain(transition=stays, emission=np.array([[0.5, 0.5], [0.0, 1.0]]))
    long = sure.sample(5, 30, seed=0).data
    with pytest.raises(ValueError, match="every state may lead to every outcome"):
        gaps(ForwardGuide(sure, LSTMFilter(3)), long)


def test_zeros_that_no_outcome_contradicts():
    """A left-right chain with outputs that any state may show."""
    model = chain(np.array([1.0, 0.0]), np.array([[0.8, 0.2], [0.0, 1.0]]), EMISSION)
    short = model.sample(20, 5, seed=0).data
    parts = gaps(ForwardGuide(model, LSTMFilter(3)), short)
    laws = model.laws({}, short)
    by_regression = best_causal_forward(model, laws, degree=5)
    assert isinstance(by_regression, Forward)
    torch.testing.assert_close(by_regression.elbo(), parts.best_causal_elbo, atol=1e-4, rtol=0)
    assert parts.per_step(parts.causality)[0] > 0


@pytest.mark.parametrize("length", [3, 8])
def test_states_that_rule_symbols_out_are_named(length: int) -> None:
    """No product over steps has a finite bound where states exclude what others lead to."""
    model = mess3().model
    guide = MeanFieldGuide(model, LSTMFilter(2))
    with pytest.raises(ValueError, match="states that rule some out"):
        gaps(guide, model.sample(20, length, seed=0).data)
