"""A user's own LSTM as the filter of a model that is fitted around it.

The network is kept (or trained further, by option); the parameters of the model and the linear head
that reads the model's belief off the network's state are learned by the ELBO of a ``BeliefGuide``.
The evidence minus that bound is the cost of using the network as this model's filter.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models import HiddenMarkovModel, Model, Sequences
from ...models.boundary import boundary
from ...models.chains.nodes import node_probabilities
from ...models.checks import require, require_count, require_seed
from ...models.data.names import Names
from ...models.emissions.emission import Emission
from ...models.randomness import seeded
from ..arviz_groups import Idata
from ..checking.evidence_gap import EvidenceGap, evidence_gap
from ..checking.sample_statistics import SampleComparison, compare_samples
from ..export.to_arviz import to_arviz
from ..filters.recurrences import recurrent_gates
from ..filters.recurrent import LSTMFilter, Memory
from ..fitting.loop import fit
from ..fitting.plain import plain
from ..fitting.record import Fit
from ..fitting.settings import FitSettings
from ..guides.guide import BeliefGuide
from ..guides.parameters import Uncertainty
from ..networks.gate_comparison import BestUnit, GateComparison, compare_gates, posterior_quantities
from ..networks.lstm_samples import check_output, lstm_log_likelihood, sample_lstm
from ..networks.network_inputs import EMBEDDED, check_lstm, network_inputs
from ..networks.readouts import Readouts, lstm_readouts, untrained_like
from ..queries import answers as queries
from ..queries.chains import require_discrete
from .certificates import LawDivergence, law_divergence
from .laws import log_conditionals
from .network_laws import NetworkLaw
from .projection import has_law, projected
from .refinement import Target

READ_STEPS = 20_000
"""Steps of held-out sequences that read-outs and gates are compared on; more say little more."""

_FIT = FitSettings(sleep_steps=0, patience=None)
"""The head of a frozen network is all that there is to learn besides the model."""


@dataclass(frozen=True)
class Wrapped:
    """An LSTM with a model fitted around it, measured on held-out sequences; made by :func:`wrap`.

    Attributes:
        fit: model and guide; ``fit.guide.filter.network`` is the network, ``fit.fitted`` the
            model.
        heldout: the sequences on which everything was measured.
        gap: evidence, ELBO, KL from the exact filter to the network's belief, update error.
        readouts: of the exact filter's belief (its mean for continuous states) from the LSTM's
            state.
        node_readouts: of the single nodes' probabilities, for a model of binary nodes.
        gates: correlations of the gates with quantities of the exact filter.
        untrained_gates: the same for an untrained network of the same size, a control.
        lstm_score: log p(y_n) of the LSTM and its head as a language model, (N,) nats; None
            without a head.
        samples: comparison of samples of the LSTM (first) and of the model (second); None
            without a head.
        law: KL(LSTM ‖ model) of the next-symbol laws along fresh sequences of the LSTM; None
            without a head, and of other models than hidden Markov ones of symbols.
        notes: what was left out, and why.

    >>> import torch
    >>> from beliefzoo.inference import FitSettings, wrap
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel, mess3
    >>> _ = torch.manual_seed(0)
    >>> lstm, head = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.Linear(4, 3)
    >>> data = mess3().model.sample(12, 6, seed=0).data
    >>> model, settings = HiddenMarkovModel(states=2, emission=Categorical(3)), FitSettings(steps=5)
    >>> wrapped = wrap(lstm, model, data, output=head, settings=settings, windows=0, samples=4)
    >>> wrapped.states, sorted(wrapped.figures)[:3]
    (2, ['elbo_per_step', 'evidence_per_step', 'gap_per_step'])
    """

    fit: Fit
    heldout: Sequences
    gap: EvidenceGap
    readouts: Readouts
    node_readouts: Readouts | None
    gates: GateComparison
    untrained_gates: GateComparison
    lstm_score: Tensor | None
    samples: SampleComparison | None
    law: LawDivergence | None
    notes: tuple[str, ...]

    @property
    def states(self) -> int:
        """Number of states K, or of dimensions, of the model."""
        return self.fit.model.states

    @property
    def lstm_score_per_step(self) -> float:
        """Mean of the LSTM's own log probability of a step, nats; NaN without a head."""
        if self.lstm_score is None:
            return math.nan
        return float(self.lstm_score.sum()) / self.heldout.n_steps

    @property
    def figures(self) -> dict[str, object]:
        """The main numbers, in nats per step: nested dictionaries of finite numbers."""
        read = {_slug(name): _plain_row(one) for name, one in self.readouts.rows.items()}
        out: dict[str, Any] = {
            "states": self.states,
            "evidence_per_step": self.gap.evidence_per_step,
            "elbo_per_step": self.gap.elbo_per_step,
            "gap_per_step": self.gap.gap_per_step,
            "kl_filter_per_step": self.gap.kl_filter_per_step,
            "update_error_per_step": self.gap.update_error_per_step,
            "read_outs": read,
            "gates": _plain_gates(self.gates),
            "gates_of_the_untrained_network": _plain_gates(self.untrained_gates),
        }
        if self.lstm_score is not None:
            out["lstm_log_probability_per_step"] = self.lstm_score_per_step
        if self.samples is not None:
            out["samples"] = _plain_samples(self.samples)
        if self.law is not None:
            out["kl_lstm_model_per_step"] = self.law.mean
            out["kl_lstm_model_standard_error"] = self.law.standard_error
        return out

    def to_arviz(self, *, draws: int = 500, seed: int = 0, sequences: int = 100) -> Idata:
        """Exports the fit and the first held-out sequences by :func:`to_arviz`.

        ``attrs["wrapped"]`` holds ``figures`` as JSON.
        """
        require_count(sequences, "sequences")
        shown = self.heldout[: min(sequences, len(self.heldout))]
        exported = to_arviz(self.fit, shown, draws=draws, seed=seed)
        exported.attrs["wrapped"] = json.dumps(plain(self.figures, "figures"))
        return exported

    def __str__(self) -> str:
        network: Any = self.fit.guide.filter
        kept = "its weights kept" if network.frozen else "trained further"
        parts = [f"{network.network}, {kept}, as the filter of {self.fit.model}", str(self.gap)]
        if self.lstm_score is not None:
            name = "the LSTM's own log prob."
            parts.append(f"  {name:<26}{self.lstm_score_per_step:>12.6f}")
        parts += ["how much of the exact filter its state holds", str(self.readouts)]
        if self.node_readouts is not None:
            parts += ["of the single nodes", str(self.node_readouts)]
        parts += ["gates beside the exact filter", str(self.gates)]
        parts += ["the same of an untrained network", str(self.untrained_gates)]
        if self.samples is not None:
            parts += ["samples: LSTM (first) beside model (second)", str(self.samples)]
        if self.law is not None:
            parts.append(f"KL(LSTM ‖ model) {self.law}")
        return "\n".join([*parts, *self.notes])


@boundary
def wrap(
    lstm: nn.LSTM,
    model: Model,
    data: Sequences | None = None,
    *,
    output: nn.Module | None = None,
    fine_tune: bool = False,
    memory: Memory = "hc",
    parameters: Uncertainty = "map",
    heldout: Sequences | float = 0.25,
    settings: FitSettings | None = None,
    windows: int = 2,
    samples: int = 500,
    sequences: int = 1000,
    length: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> Wrapped:
    """Fits a model around an LSTM that serves as its filter, and measures how well it does.

    ``data`` determine which law of sequences is examined: by default the LSTM's own, from which
    they are drawn. A model of symbols is then fitted to what the LSTM says of the next symbol
    after each past: its unknown parameters are where KL(LSTM ‖ model) is least, without the noise
    of drawn symbols, and without a prior. Only the belief's head is learned from the sequences.

    Fitted to the text that it was trained on, a model and its belief say how well the LSTM
    remembers letters instead (docs/science.md, I10).

    Args:
        lstm: ``torch.nn.LSTM`` that reads forward, of one or more layers: symbols as one-hot
            vectors (see :func:`fold_embedding`), numbers as they are. It is copied.
        model: a model with an exact filter: hidden Markov, linear-Gaussian or of binary nodes.
            Known parameters stay fixed.
        data: sequences to fit to; None: drawn from the LSTM, which needs its head ``output``.
        output: the LSTM's head for the next symbol, from h_t to scores of x_{t+1}; with it the
            LSTM is scored and sampled as a language model. None: not done.
        fine_tune: also train the LSTM's weights.
        memory: what the belief is read off: ``"h"``, ``"c"``, or both, ``"hc"``.
        parameters: posterior of the model's parameters, as of ``BeliefGuide``; another one than
            ``"map"`` is that given the sequences, also without ``data``.
        heldout: sequences to measure on, or the share of ``data`` to hold out for that.
        settings: of the fit.
        windows: controls of the read-outs read the last 1 … ``windows`` inputs.
        samples: number of sequences drawn from LSTM and model each, as long as those held out; 0:
            none.
        sequences: number of sequences drawn for ``data=None``.
        length: of each.
        seed: of the split, the fit, the controls and the samples.
        progress: show a progress bar of the fit.

    Returns:
        The fit, and its comparison with exact inference.

    Raises:
        ValueError: an LSTM that is bidirectional, has a projection or reads inputs of another
            width, a model without exact filter, a head of another size, data that cannot come from
            the model, or a bad option.

    >>> import torch
    >>> from beliefzoo.inference import FitSettings, wrap
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel, mess3
    >>> _ = torch.manual_seed(0)
    >>> lstm = torch.nn.LSTM(3, 4, batch_first=True)  # in practice a trained one
    >>> data = mess3().model.sample(12, 6, seed=0).data
    >>> model = HiddenMarkovModel(states=2, emission=Categorical(3))
    >>> wrapped = wrap(lstm, model, data, settings=FitSettings(steps=5), windows=0)
    >>> wrapped.gap.elbo_per_step < wrapped.gap.evidence_per_step
    True
    """
    check_lstm(lstm)
    _check_model(model)
    require_count(windows, "windows", 0)
    require_count(samples, "samples", 0)
    require_seed(seed, optional=False)
    own = data is None and parameters == "map"
    data = _drawn_from(lstm, output, model, sequences, length, seed) if data is None else data
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    _check_settings(settings)
    if output is not None:
        require(data.is_codes, "output", "is a head for symbols; needs none", "data of numbers")
        check_output(lstm, output)
    train, test = _parts(data, heldout, seed)
    require(
        int((test.lengths > 1).sum()) >= 2,
        "heldout",
        "needs two sequences or more of two steps or more, for read-outs to be fitted and judged",
        test,
    )
    for part in (train, test):
        model.check_values(part)
        network_inputs(lstm, part[:1])
    require(
        lstm.input_size == model.observations.channels,
        "lstm",
        f"needs input_size={model.observations.channels}, what the model observes in a step"
        + EMBEDDED * model.observations.codes,
        f"input_size={lstm.input_size}",
    )
    settings = settings or _FIT
    if own and output is not None and has_law(model) and model.priors:
        model = _nearest(lstm, output, model, train, settings, seed)
        settings = dataclasses.replace(settings, start="kmeans")  # nothing is left to start
    kept = copy.deepcopy(lstm).to(torch.get_default_dtype())
    with seeded(seed):  # the head's first weights
        network = LSTMFilter(network=kept, memory=memory, frozen=not fine_tune)
        guide = BeliefGuide(model, network, parameters=parameters)
    fitted = fit(model, guide, train, settings=settings, seed=seed, progress=progress)
    return _measured(fitted, lstm, output, test, windows, samples, seed)


def _drawn_from(
    lstm: nn.LSTM,
    output: nn.Module | None,
    model: Model,
    sequences: int,
    length: int,
    seed: int,
) -> Sequences:
    needed = "must be the LSTM's head for the next symbol, to draw from it (or there is data=…)"
    require(output is not None, "output", needed, None)
    assert output is not None
    endless = model.observations.codes and not getattr(model, "ends", False)
    needed = "needs a model of symbols without an end, as the LSTM draws them"
    require(endless, "model", needed, repr(model))
    require_count(length, "length", 2)
    return sample_lstm(lstm, output, sequences, length, seed=seed)


def _nearest(
    lstm: nn.LSTM,
    output: nn.Module,
    model: HiddenMarkovModel,
    train: Sequences,
    settings: FitSettings,
    seed: int,
) -> HiddenMarkovModel:
    codes = train.codes()
    target = Target(codes, log_conditionals(_law_of(lstm, output), codes))
    return projected(model, target, start=settings.start, seed=seed)


def _law_of(lstm: nn.LSTM, output: nn.Module) -> NetworkLaw:
    return NetworkLaw(copy.deepcopy(lstm).eval(), copy.deepcopy(output).eval())


def _check_settings(settings: object) -> None:
    require(
        settings is None or isinstance(settings, FitSettings),
        "settings",
        "must be FitSettings, or None",
        repr(settings),
    )


def _check_model(model: Model) -> None:
    require(isinstance(model, Model), "model", "must be a model of beliefzoo.models", repr(model))
    require(
        model.exact,
        "model",
        "needs beliefs that a linear head can express and an exact filter to hold them against (a "
        "hidden Markov model, a linear-Gaussian one, or one of binary nodes)",
        model,
    )


def _parts(data: Sequences, heldout: Sequences | float, seed: int) -> tuple[Sequences, Sequences]:
    if isinstance(heldout, Sequences):
        return data, Names.of(data).read(heldout)
    share = isinstance(heldout, float) and 0 < heldout < 1
    require(share, "heldout", "must be Sequences, or a share in (0, 1)", repr(heldout))
    require(len(data) >= 4, "data", "needs four sequences or more to hold some out", len(data))
    size = min(max(round(heldout * len(data)), 2), len(data) - 2)
    train, test = data.split([len(data) - size, size], seed=seed)
    return train, test


def _measured(
    fitted: Fit,
    lstm: nn.LSTM,
    output: nn.Module | None,
    test: Sequences,
    windows: int,
    samples: int,
    seed: int,
) -> Wrapped:
    network: Any = fitted.guide.filter
    model = fitted.fitted
    read = _first_steps(test, READ_STEPS)
    beliefs = queries.filter(model, read)
    normal = not model.belief.discrete

    def held(target: Tensor, means: bool) -> Readouts:
        told = _next_symbol(model, read, beliefs)
        return lstm_readouts(
            network.network, read, target, next_symbol=told, means=means, windows=windows, seed=seed
        )

    nodes = model.belief.nodes
    quantities = posterior_quantities(model, read)
    x = network_inputs(network.network, read)

    def gates_of(one: nn.LSTM) -> GateComparison:
        with torch.no_grad():
            return compare_gates(recurrent_gates(one, x), quantities, read.step_mask, seed=seed)

    law = _law(lstm, output, model, test, samples, seed)
    scored = None if output is None else lstm_log_likelihood(lstm, output, test).sum(-1)
    drawn, notes = _drawn(fitted, lstm, output, test, samples, seed)
    return Wrapped(
        fitted,
        test,
        evidence_gap(fitted, test),
        held(beliefs.mean if normal else beliefs, normal),
        None if nodes is None else held(node_probabilities(beliefs), True),
        gates_of(network.network),
        gates_of(untrained_like(network.network, seed)),
        scored,
        drawn,
        law,
        notes,
    )


def _law(
    lstm: nn.LSTM,
    output: nn.Module | None,
    model: Model,
    test: Sequences,
    samples: int,
    seed: int,
) -> LawDivergence | None:
    """KL of the next-symbol laws, where the model has one that stays the same."""
    if output is None or not has_law(model) or samples < 2:
        return None
    network = _law_of(lstm, output)
    longest = int(test.lengths.max())
    return law_divergence(network, model, sequences=samples, length=longest, seed=seed + 2)


def _first_steps(data: Sequences, steps: int) -> Sequences:
    """The first sequences that have this many steps together.

    At least two of them have two steps or more: gates are compared from the second step on.
    """
    within = int((data.lengths.cumsum(0) <= steps).sum())
    needed = int((data.lengths > 1).nonzero()[1]) + 1
    return data[: max(within, needed)]


def _next_symbol(model: Model, data: Sequences, beliefs: Tensor) -> Tensor | None:
    """Σ_z b_t(z) Σ_z' T(z'|z) O_z'(x), (N, T, V), of symbols and laws that stay the same."""
    emission: Emission | None = getattr(model, "emission", None)
    if emission is None or not model.observations.codes or not model.has_paths:
        return None
    if model.inputs or model.actions:
        return None
    laws = model.laws({}, data[:1])
    moves = require_discrete(laws).log_transition
    if moves.shape[-4:-2] != (1, 1):
        return None
    told = beliefs @ moves[0, 0].exp() if model.states > 1 else beliefs
    return told @ emission.mean(laws.parameters)


def _drawn(
    fitted: Fit,
    lstm: nn.LSTM,
    output: nn.Module | None,
    test: Sequences,
    samples: int,
    seed: int,
) -> tuple[SampleComparison | None, tuple[str, ...]]:
    """Samples of LSTM and model, and their comparison if possible."""
    model, network = fitted.fitted, fitted.guide.filter
    notes = []
    if isinstance(network, LSTMFilter) and not network.frozen and output is not None:
        notes.append(
            "Note: scores and samples of the LSTM are those of its state before the fit; its head "
            "belongs to that."
        )
    if output is None:
        why = "it came without its head for the next symbol (output=…)"
        return None, (f"Note: the LSTM was not sampled: {why}.",)
    longest = int(test.lengths.max())
    if not samples or samples < 4 or longest < 5 or not model.has_paths:
        why = f"samples={samples} of {longest} symbols are too few to compare"
        return None, (*notes, f"Note: the LSTM was not sampled: {why}.")
    ours = sample_lstm(lstm, output, samples, longest, symbols=test.symbols, seed=seed)
    theirs = model.sample(samples, longest, seed=seed + 1).data
    lags = min(10, longest - 1)
    return compare_samples(ours, theirs, model=model, lags=lags, seed=seed), tuple(notes)


def _slug(words: str) -> str:
    return words.replace("'s", "").replace(" ", "_")


def _plain_row(one: Any) -> dict[str, float]:
    """Numbers that there are."""
    row = {**dataclasses.asdict(one), "share_held": one.share}
    return {name: v for name, v in row.items() if v is not None and math.isfinite(v)}


def _plain_gates(gates: GateComparison) -> dict[str, Any]:
    return {
        gate: {_slug(quantity): _plain_unit(one) for quantity, one in rows.items()}
        for gate, rows in gates.best.items()
    }


def _plain_unit(one: BestUnit) -> dict[str, float]:
    row = {**dataclasses.asdict(one), "absolute_correlation": abs(one.correlation)}
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _plain_samples(samples: SampleComparison) -> dict[str, Any]:
    out: dict[str, Any] = {
        f"{n}_grams": dataclasses.asdict(one) for n, one in samples.n_grams.items()
    }
    out["run_lengths"] = dataclasses.asdict(samples.runs)
    for whose, values in zip(("lstm", "model"), samples.lag_information, strict=True):
        out[f"mutual_information_by_lag_of_{whose}"] = {
            f"lag_{lag}": value for lag, value in enumerate(values.tolist(), 1)
        }
    if samples.evidence_per_step is not None:
        one, other = samples.evidence_per_step
        out["evidence_per_step_of_lstm_samples"] = one
        out["evidence_per_step_of_model_samples"] = other
    return out
