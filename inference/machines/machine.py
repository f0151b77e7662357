"""The machine of a network: read off its own law, with what is not in it and how far it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models import LabelledHMM, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.data.storage import read_tensors, reading, write_tensors
from ..arviz_groups import Idata
from ..checking.sample_statistics import SampleComparison, compare_samples
from ..export.to_arviz import to_arviz
from ..filters.spectral import ObservableOperators
from ..fitting.settings import FitSettings
from ..networks.gate_identity import Agreement
from .certificates import LawDivergence, codes_of, entropy_rate, update_divergence
from .hankel import Words
from .known_laws import OperatorLaw, law_of
from .laws import SequenceLaw, sampled
from .posterior import Sampler, check_posterior, masked, posterior
from .refinement import Tables
from .updates import changed_updates

_PLAIN = (
    *("kind", "states", "floor", "floor_from", "ranks", "curve", "starts", "small", "asked"),
    "ends",
)
_OPERATORS = ("basis", "start", "end", "operators")

_SHOWN = 8
"""Singular values that are printed, beyond those of the machine."""


@dataclass(frozen=True)
class Machine:
    r"""A machine read off the law of a network; made by :func:`machine_of`.

    Attributes:
        operators: observable operators of ``states`` dimensions, the nearest that were found.
        kind: what they are: as read off the Hankel matrix, refined, or the hidden Markov model.
        states: their number r.
        singular_values: of the law's Hankel matrix, largest first.
        floor: singular values below are not counted as the network's.
        floor_from: where the floor comes from.
        ranks: number of singular values above the floor with futures of at most 1, 2, … symbols.
        curve: KL(network ‖ operators as read off) a step, nats, for 1, 2, … states, on sequences of
            their own.
        divergence: KL(network ‖ machine) step by step, on fresh sequences of the network.
        hmm_tables: b_0 and A of the nearest hidden Markov model; None without ``refine``.
        hmm_divergence: KL(network ‖ hidden Markov model), likewise.
        starts: of the hidden Markov model, and the KL that each came to in a few iterations.
        small: whether a small machine was found: the rank has stopped growing with the futures.
        asked: which words the Hankel matrix is made of, in words.
        ends: whether these are strings: their end is the last symbol of ``operators``, after which
            a new string begins.
        law: the network's; None once the machine was read from a file.
        futures: the words of the future that define the machine's coordinates.

    >>> from beliefzoo.inference import machine_of
    >>> from beliefzoo.models import golden_mean
    >>> found = machine_of(golden_mean(), refine=False)  # a known machine in the network's place
    >>> found.states, round(found.entropy_rate[0], 2)  # 2/3 log 2
    (2, 0.46)
    """

    operators: ObservableOperators
    kind: str
    states: int
    singular_values: Tensor
    floor: float
    floor_from: str
    ranks: tuple[int, ...]
    curve: tuple[float, ...]
    divergence: LawDivergence
    hmm_tables: Tables | None
    hmm_divergence: LawDivergence | None
    starts: tuple[tuple[str, float], ...]
    small: bool
    asked: str
    ends: bool
    law: SequenceLaw | None = field(repr=False)
    futures: Words = field(repr=False)

    @property
    def hmm(self) -> LabelledHMM:
        """The nearest hidden Markov model; its moves may depend on the symbol.

        Raises:
            ValueError: the machine was made without ``refine``.
        """
        if self.hmm_tables is None:
            raise ValueError("refine: must be True for a hidden Markov model, got False")
        start, tables, _ = self.hmm_tables
        if self.ends:
            return LabelledHMM.from_tables(start, tables[:-1], self.hmm_tables.stop)
        return LabelledHMM.from_tables(start, tables)

    def samples(self, n: int = 500, *, seed: int = 0) -> SampleComparison:
        """Compares sequences of the network (first) and of the machine, as ``compare_samples``.

        Of a law of strings each holds one string after another.

        Args:
            n: number of sequences of each.
            seed: of the draws.

        Raises:
            ValueError: as for ``update_error``.
        """
        require_count(n, "n", 4)
        length = self.divergence.steps.shape[1]
        laws = self._network(), OperatorLaw.of(self.operators)
        ours, theirs = (
            Sequences.from_tensors(sampled(law, n, length, seed + k)[0].unsqueeze(-1), codes=True)
            for k, law in enumerate(laws)
        )
        return compare_samples(ours, theirs, lags=min(10, length - 1), seed=seed)

    def _network(self) -> SequenceLaw:
        if self.law is None:
            raise ValueError("found: needs the network, got a machine that was read from a file")
        return self.law

    @cached_property
    def entropy_rate(self) -> tuple[float, float]:
        """Entropy rate of the machine, nats, and its standard error.

        The mean entropy of the next symbol on long paths of the machine; of strings, one after
        another.
        """
        return entropy_rate(OperatorLaw.of(self.operators))

    @property
    def normalisation(self) -> float:
        """Largest entry of Σ_x A_x e − e: 0 if the probabilities of all words sum to 1."""
        end = self.operators.end
        return float((self.operators.operators.sum(0).mT @ end - end).abs().max())

    def update_error(self, data: Sequences | None = None, *, seed: int = 0) -> LawDivergence:
        """Is the network's update Bayes' rule of this machine? KL step by step.

        The network's belief in the machine's coordinates is what it says itself of the futures;
        nothing is fitted. Compared are its law of the next symbol and what Bayes' rule of the
        machine predicts from its belief one symbol before.

        Args:
            data: sequences, for instance strings with their ends; None: 200 fresh ones of the
                network.
            seed: of these.

        Raises:
            ValueError: data that the law does not know, or a machine that was read from a file,
                without its network.
        """
        law, lengths = self._network(), None
        if data is None:
            codes = sampled(law, 200, self.divergence.steps.shape[1], seed)[0]
        else:
            codes, lengths = codes_of(law, data)
        return update_divergence(law, self.operators, self.futures, codes, lengths)

    def update_agreement(
        self,
        data: Sequences | None = None,
        *,
        network: object | None = None,
        changes: int = 6,
        seed: int = 0,
    ) -> Agreement:
        r"""How does the network's update pass a difference on? As :func:`update_agreement`.

        Two histories u, u' of the network differ in their last symbol; both go on with x. Compared
        are the network's own belief and Bayes' rule B_x of the machine, which begins at it:

        .. math:: b(u'x) - b(ux), \qquad B_x(b(u')) - B_x(b(u))

        in the machine's coordinates, the network's own word for the futures: nothing is fitted. An
        x of probability below .05 after u or u' is left out.
        Gates of a network without natural units have nothing of Bayes' rule to be compared with
        (:func:`gate_identity`); this holds in any coordinates of its state.

        Args:
            data: sequences; None: 200 fresh ones of the network.
            network: a control in the network's place, a law of the same symbols: untrained, say, or
                one that knows the last symbols alone.
            changes: steps at which all sequences are changed, each to a symbol that the law draws.
            seed: of steps, changes and sequences.

        Raises:
            ValueError: as for ``update_error``, or a control of other symbols.

        >>> from beliefzoo.inference import machine_of
        >>> from beliefzoo.models import mess3
        >>> found = machine_of(mess3(), samples=50, refine=False)
        >>> round(found.update_agreement().r_squared, 6)
        1.0
        """
        own = self._network()
        law = own if network is None else law_of(network)
        require(law.symbols == own.symbols, "network", f"needs {own.symbols} symbols", law.symbols)
        require_count(changes, "changes")
        if data is None:
            codes = sampled(own, 200, self.divergence.steps.shape[1], seed)[0]
            lengths = torch.full((len(codes),), codes.shape[1])
        else:
            codes, lengths = codes_of(own, data)
        return changed_updates(
            law, self.operators, self.futures, codes, lengths, changes=changes, seed=seed
        )

    def to_arviz(
        self,
        *,
        sequences: int = 200,
        length: int | None = None,
        draws: int = 500,
        tolerance: float = 1e-3,
        sampler: Sampler = "normal",
        settings: FitSettings | None = None,
        seed: int = 0,
    ) -> Idata:
        r"""Exports the posterior of the hidden Markov model given sequences of the network.

        .. math:: p(\theta \mid y) \propto p(\theta) \prod_{n=1}^N p(y_n \mid \theta),
            \qquad y_n \sim \text{network}

        It begins at ``hmm`` and has its states, its zeros and flat priors. **How wide it is, is
        your choice:** the network gives as many sequences as are asked for, and intervals shrink as
        1/√N. They say what N sequences tell of the machine, not how far the network's law is from
        one, which ``hmm_divergence`` says.

        What the zeros decide is no unknown: such an entry is exactly 0 or 1 in every draw of
        posterior and prior, without an r̂. If they leave each state and symbol one move at most,
        there is no variable ``transition``.

        Groups are those of :func:`to_arviz`; ``observed_data`` are the sequences, and
        ``attrs["machine"]`` holds ``figures``, with N and the zeros' tolerance, as JSON. Tables
        without enough zeros have directions that change no law (``LabelledHMM``): the normal
        posterior is then warned of by its k̂, and ``sampler="nuts"`` is exact, but slow.

        Args:
            sequences: N, fresh ones of the network.
            length: of each, in steps; None: as in ``divergence``.
            draws: of the parameters; of NUTS for each of two chains.
            tolerance: entries of p(x, z' | z) up to this are zero, unless a sequence needs them:
                then up to a tenth of it, and so on. If p(z_1) has such an entry, it is known.
            sampler: ``"normal"``: :func:`fit` of a joint normal on the unconstrained scale;
                ``"nuts"``: :func:`nuts`.
            settings: of :func:`fit`, their start replaced; None: 200 small steps.
            seed: of sequences, fit and draws.

        Returns:
            `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (1.x).

        Raises:
            ValueError: a bad argument, a machine of strings, one made without ``refine``, or one
                that was read from a file, without its network.

        >>> from beliefzoo.inference import FitSettings, arviz_groups, machine_of
        >>> from beliefzoo.models import golden_mean
        >>> found = machine_of(golden_mean(), samples=20, restarts=0)
        >>> few = FitSettings(steps=2)
        >>> idata = found.to_arviz(sequences=20, draws=20, settings=few)
        >>> arviz_groups.group(idata, "posterior")["probs"].dims
        ('chain', 'draw', 'state', 'symbol')
        """
        check_posterior(sequences, length, draws, tolerance, sampler, settings, seed)
        law, hmm = self._network(), self.hmm
        require(not self.ends, "found", "must be of sequences without end", "a machine of strings")
        steps = length or self.divergence.steps.shape[1]
        codes = sampled(law, sequences, steps, seed)[0]
        data = Sequences.from_tensors(codes.unsqueeze(-1), codes=True)
        begun = masked(hmm, data, float(tolerance))
        result = posterior(begun, data, sampler=sampler, draws=draws, settings=settings, seed=seed)
        exported = to_arviz(result, data, draws=draws, seed=seed, state_draws=min(draws, 100))
        own = {"sequences": sequences, "length": steps, "tolerance": begun.tolerance}
        exported.attrs["machine"] = json.dumps(self.figures | own)
        return exported

    @property
    def figures(self) -> dict[str, object]:
        """The main numbers, plain values; divergences in nats a step."""
        far = {"machine": self.divergence, "hmm": self.hmm_divergence}
        out: dict[str, object] = {
            "states": self.states,
            "kind": self.kind,
            "small": self.small,
            "ends": self.ends,
            "singular_values": self.singular_values[: self.states + _SHOWN].tolist(),
            "floor": self.floor,
            "floor_from": self.floor_from,
            "ranks": list(self.ranks),
            "kl_by_states": list(self.curve),
        }
        for name, one in far.items():
            if one is not None:
                out[f"kl_network_{name}"] = one.mean
                out[f"kl_network_{name}_standard_error"] = one.standard_error
        return out

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the machine without its network to one file, completely or not at all.

        Args:
            path: the file; ``load_machine`` reads it.

        Raises:
            ValueError: a missing folder.
        """
        record = {name: getattr(self, name) for name in _PLAIN}
        record["contexts"] = [self.divergence.contexts]
        record["contexts"] += [] if self.hmm_divergence is None else [self.hmm_divergence.contexts]
        tensors = {name: getattr(self.operators, name) for name in _OPERATORS}
        tensors |= {"singular_values": self.singular_values, "steps": self.divergence.steps}
        if self.hmm_tables is not None and self.hmm_divergence is not None:
            tensors |= {f"hmm_{name}": part for name, part in self.hmm_tables._asdict().items()}
            tensors["hmm_steps"] = self.hmm_divergence.steps
        for length, (parents, symbols) in enumerate(self.futures.levels):
            tensors |= {f"parents_{length}": parents, f"symbols_{length}": symbols}
        return write_tensors(path, {"record": json.dumps(record), "tensors": tensors}, "machine")

    def __str__(self) -> str:
        shown = self.singular_values[: self.states + _SHOWN].tolist()
        values = " ".join(f"{value:.3g}" for value in shown[: self.states])
        below = " ".join(f"{value:.2g}" for value in shown[self.states :])
        rate, error = self.entropy_rate
        lines = [
            f"machine of {self.states} states ({self.kind}), from {self.asked}",
            f"  singular values {values} | {below}",
            f"  floor           {self.floor:.3g} ({self.floor_from})",
            f"  KL(network ‖ machine) {self.divergence}",
        ]
        if self.hmm_divergence is not None:
            hmm = self.hmm_divergence
            lines.append(
                f"  KL(network ‖ hidden Markov model) {hmm.mean:.3g} ± {hmm.standard_error:.1g}"
            )
        lines += [
            f"  entropy rate    {rate:.5f} ± {error:.1g} nats",
            f"  normalisation   off by {self.normalisation:.1g}",
        ]
        if not self.small:
            lines.append(
                "  no small machine: directions above the floor with futures of up to 1, 2, … "
                f"symbols: {', '.join(map(str, self.ranks))}; KL with 1, 2, … states: "
                + ", ".join(f"{nats:.2g}" for nats in self.curve)
            )
        beyond = shown[self.states :]
        if beyond:
            said = "not in the network, being below the floor" if beyond[0] < self.floor else ""
            lines.append(f"  left out        what has {beyond[0]:.2g} or less; {said}".rstrip("; "))
        return "\n".join(lines)


@boundary
def load_machine(path: str | os.PathLike[str]) -> Machine:
    """Reads a machine written by ``Machine.save``; nothing is unpickled.

    Args:
        path: the file.

    Returns:
        The machine, without the law of its network.

    Raises:
        ValueError: a missing or damaged file, or one of something else; names the file.

    >>> import pathlib, tempfile
    >>> from beliefzoo.inference import load_machine, machine_of
    >>> from beliefzoo.models import golden_mean
    >>> found = machine_of(golden_mean(), samples=20, refine=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_machine(found.save(pathlib.Path(folder) / "machine.pt")).states
    2
    """
    content = read_tensors(path, {"record": str, "tensors": dict}, "machine")
    with reading(path, "a machine"):
        record, tensors = json.loads(content["record"]), content["tensors"]
        operators = ObservableOperators(*(tensors[name] for name in _OPERATORS))
        OperatorLaw.of(operators)  # which checks the shapes
        contexts = [tuple(map(tuple, each)) for each in record.pop("contexts")]
        divergences = [
            replace(LawDivergence.of(tensors[name], None), contexts=each)
            for name, each in zip(("steps", "hmm_steps"), contexts, strict=False)
        ]
        lengths = range(sum(name.startswith("parents_") for name in tensors))
        futures = Words(tuple((tensors[f"parents_{n}"], tensors[f"symbols_{n}"]) for n in lengths))
        hmm = None
        if len(contexts) > 1:
            hmm = Tables(*(tensors[f"hmm_{name}"] for name in Tables._fields))
        record.setdefault("ends", False)
        for name in ("ranks", "curve"):
            record[name] = tuple(record[name])
        record["starts"] = tuple(map(tuple, record["starts"]))
        plain: dict[str, Any] = {name: record[name] for name in _PLAIN}
        return Machine(
            operators=operators,
            singular_values=tensors["singular_values"],
            divergence=divergences[0],
            hmm_tables=hmm,
            hmm_divergence=divergences[1] if len(contexts) > 1 else None,
            law=None,
            futures=futures,
            **plain,
        )
