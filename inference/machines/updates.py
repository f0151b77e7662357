"""What the update of a law makes of a difference between two pasts, beside Bayes' rule."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.checks import require
from ...models.randomness import generator_from
from ..filters.spectral import ObservableOperators
from ..networks.gate_identity import Agreement
from .hankel import Words, word_probabilities
from .known_laws import OperatorLaw
from .laws import SequenceLaw, State, asked, read_checked, taken

_LEAST = 0.05
"""A symbol that is less probable after one of the two pasts is not read: what a network believes
after that which hardly comes is noise. Of an LSTM trained on RRXOR, R² is .992 to .995 from .02 to
.2, and .29 at .001."""

_AT_ONCE = 256


def changed_updates(
    law: SequenceLaw,
    operators: ObservableOperators,
    words: Words,
    codes: Tensor,
    lengths: Tensor,
    *,
    changes: int,
    seed: int,
) -> Agreement:
    """Agreement of b(u'x) − b(ux) of the law with what Bayes' rule makes of b(u') and b(u).

    Args:
        law: whose beliefs are compared, in the coordinates of the machine.
        operators: the machine.
        words: its futures.
        codes: sequences (N, T); u are their beginnings, and x the symbols after these.
        lengths: of these, (N,).
        changes: number of steps at which the last symbol of u is changed, if there are so many.
        seed: of steps and changes; a changed symbol is drawn from the law.
    """
    longest = int(lengths.max())
    require(longest > 1, "data", "needs a sequence of two symbols or more", f"{longest} at most")
    machine, generator = OperatorLaw.of(operators), generator_from(seed)
    steps = 1 + torch.randperm(longest - 1, generator=generator)[:changes]

    def beliefs(state: State) -> Tensor:
        parts = [
            word_probabilities(law, taken(state, some), words) @ operators.basis
            for some in torch.arange(len(codes)).split(_AT_ONCE)
        ]
        points = torch.cat(parts)
        return points / (points @ operators.end).unsqueeze(-1)

    state, network, bayes, inside = law.start(len(codes)), [], [], []
    for step in range(1, int(steps.max()) + 1):
        other = torch.multinomial(asked(law, state).exp(), 1, generator=generator).squeeze(1)
        before, state = state, read_checked(law, state, codes[:, step - 1])
        if step not in steps:
            continue
        x, found, exactly = codes[:, step], [], []
        possible = step < lengths
        for past in state, read_checked(law, before, other):
            possible = possible & (asked(law, past).exp()[torch.arange(len(x)), x] > _LEAST)
            found.append(beliefs(read_checked(law, past, x)))
            exactly.append(machine.read((beliefs(past),), x)[0])
        network.append(found[1] - found[0])
        bayes.append(exactly[1] - exactly[0])
        inside.append(possible.unsqueeze(-1).expand_as(found[0]))
    told, right, kept = (torch.cat(each, 1) for each in (network, bayes, inside))
    return Agreement.of(told, right, kept)
