"""The best causal guides of discrete chains over few symbols: parameters for every prefix.

All sequences of one length are listed with their probabilities. A causal guide is a table with a
row for each prefix y_{1:t}; the best one has the largest average bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import HiddenMarkovModel, Laws, Sequences
from ..exact import chains as exact
from ..guides.posteriors import Forward, MeanField, PathPosterior
from .best_chains import GLANCE, DiscreteFamily, ascend
from .outcomes import alphabet

LARGEST_TREE = 4096
"""Sequences that are listed."""

_CONSTANTS, _CONFIDENT = 8, 4.0
"""Independent steps that stay in one state, tried as starts, and the logit of that state."""


@dataclass(frozen=True)
class PrefixTree:
    """All sequences of one length over the symbols of a model, the first symbol slowest."""

    symbols: Sequences
    """The S symbols, as sequences of one step."""
    laws: Laws
    """Of the S^L sequences."""

    @classmethod
    def of(cls, model: HiddenMarkovModel, length: int) -> PrefixTree | None:
        """The tree of a model with known parameters; None where it would be too large."""
        symbols = alphabet(model)
        if symbols is None or len(symbols) ** length > LARGEST_TREE:
            return None
        if model.inputs or model.actions or model.timed or model.emission.lags:
            return None
        axes = [torch.arange(len(symbols))] * length
        grid = torch.cartesian_prod(*axes).reshape(-1, length)
        every = symbols.values[grid, 0]
        every = every.unsqueeze(-1) if symbols.is_codes else every
        data = Sequences.from_tensors(every, codes=symbols.is_codes)
        return cls(symbols, model.laws({}, data))

    @property
    def length(self) -> int:
        """Steps of a sequence, L."""
        return self.laws.data.max_length

    def first(self, values: Tensor, t: int) -> Tensor:
        """Selects one row per prefix (S^t, …) from (S^L, …) that depends on t symbols alone."""
        return values[:: len(self.symbols) ** (self.length - t)]

    def spread(self, rows: Tensor, t: int) -> Tensor:
        """Repeats one row per prefix (S^t, …) for all sequences."""
        return rows.repeat_interleave(len(self.symbols) ** (self.length - t), 0)

    def places(self, data: Sequences) -> Tensor:
        """Indices of fully observed sequences of this length in the list, (N,)."""
        values = data.values.unsqueeze(2) == self.symbols.values[:, 0]
        same = values if data.is_codes else values.all(-1)
        digits = same.to(torch.int64).argmax(-1)
        power = len(self.symbols) ** torch.arange(self.length - 1, -1, -1)
        return (digits * power).sum(-1)

    def best_forward(self) -> PathPosterior:
        """The best q(z_t | z_{t-1}, y_{1:t}), by the program of ``best_causal`` over the tree."""
        laws, count = self.laws, len(self.symbols)
        step_evidence = exact.filter_chain(*self.laws.chain).log_increments.exp()
        worth = torch.zeros_like(laws.log_likelihood[:, 0])
        scores = []
        for t in range(self.length, 0, -1):
            told = self.first(laws.log_likelihood[:, t - 1], t) + worth
            scores.append(self.spread(told, t))
            if t == 1:
                break
            table = laws.log_transition[0, min(t - 2, laws.log_transition.shape[1] - 1)]
            value = (table + told.unsqueeze(-2)).logsumexp(-1)
            chance = self.first(step_evidence[:, t - 1], t).unsqueeze(-1)
            value = torch.where(chance > 0, value * chance, 0)
            worth = value.reshape(-1, count, value.shape[-1]).sum(1)
        return Forward(laws, torch.stack(scores[::-1], 1))

    def best(self, family: DiscreteFamily, *members: PathPosterior) -> PathPosterior:
        """The best causal member of a family, by L-BFGS on the table of all prefixes.

        Starts are the numbers of causal ``members`` for ``laws``, the exact filter and a sharper
        one, and for independent steps constant ones; a better optimum that all of them miss is
        possible. A ``Forward`` family of free scores needs no search.
        """
        if family.kind is Forward and family.nodes is None:
            return self.best_forward()
        filtered = family.of_marginals(exact.filter_chain(*self.laws.chain).log_beliefs)
        begun = [*(family.numbers(member) for member in members), filtered, 2 * filtered]
        if family.kind is MeanField:
            states = filtered.shape[-1] if family.nodes is None else 2**family.nodes
            constant = _CONFIDENT * torch.eye(states, dtype=torch.float64)[:_CONSTANTS]
            begun += [family.of_marginals(x.log_softmax(-1)).expand_as(filtered) for x in constant]
        starts = [self._table(numbers) for numbers in begun]
        probability = exact.log_evidence(*self.laws.chain).exp()

        def average(table: Tensor) -> Tensor:
            return (probability * family.member(self.laws, self._numbers(table)).elbo()).sum()

        tables = [*starts, *(ascend(average, start, GLANCE) for start in starts)]
        with torch.no_grad():
            bounds = torch.stack([average(table) for table in tables])
        found = ascend(average, tables[int(bounds.argmax())])
        with torch.no_grad():
            return family.member(self.laws, self._numbers(found))

    def _table(self, numbers: Tensor) -> Tensor:
        """Rows of all prefixes, short ones first, of numbers (S^L, L, W)."""
        rows = [self.first(numbers[:, t], t + 1) for t in range(self.length)]
        return torch.cat(rows).detach()

    def _numbers(self, table: Tensor) -> Tensor:
        """Numbers of all sequences (S^L, L, W) from the table of prefixes."""
        count = len(self.symbols)
        rows = table.split([count ** (t + 1) for t in range(self.length)])
        return torch.stack([self.spread(part, t + 1) for t, part in enumerate(rows)], 1)
