"""What a teacher can give, and what rows and taps need of it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logitstore.errors import BadInput
from logitstore.format.row import RowInfo

LOGITS, HIDDEN, FEATURES, TOP_LOGPROBS = "logits", "hidden", "features", "top_logprobs"
"""What a teacher can give: the logits of the whole vocabulary; the final hidden state that its output layer takes; the other
features of its forward pass; a list of the most probable tokens with their logprobs, and the logprob of the gold token."""

GIFTS = {
    LOGITS: "logits of the whole vocabulary",
    HIDDEN: "final hidden states",
    FEATURES: "features",
    TOP_LOGPROBS: "lists of the most probable tokens",
}
"""How messages call what a teacher gives."""

Gives = frozenset[str]
"""Some names of GIFTS."""

OF_A_MODEL: Gives = frozenset({LOGITS, HIDDEN, FEATURES})
"""What a model gives whose whole forward pass is at hand."""


@dataclass(frozen=True)
class Wants:
    """What a teacher is asked for about some rows.

    Attributes:
        gives: names of GIFTS, a subset of what it gives.
        entries: how many of the most probable tokens its lists must have, at most the vocabulary; 0 where it is not asked for
            lists.
    """

    gives: Gives
    entries: int = 0

    def __contains__(self, name: str) -> bool:
        return name in self.gives


ITS_LOGITS = Wants(frozenset({LOGITS}))
"""The logits of the whole vocabulary, and nothing else."""


def ways_to_make(row: RowInfo) -> list[Gives]:
    """Return what a teacher must give for rows of this kind: each entry is enough by itself, the best comes first."""
    kind, tail = row.sparsifier.kind, row.tail
    logits, with_hidden = frozenset({LOGITS}), frozenset({LOGITS, HIDDEN})
    if tail.shape == "sketch":
        return [with_hidden, logits]  # without hidden states the directions come from the logits themselves
    if kind.of_lists is not None and not tail.is_fitted:
        return [logits, frozenset({TOP_LOGPROBS})]
    return [with_hidden if tail.needs_hidden else logits]


def wants_of(row: RowInfo, gives: Gives) -> Wants:
    """Return what a teacher is asked for.

    Raises:
        BadInput: the teacher does not give what these rows need.
    """
    asked = check_row("these rows", row, gives, "the teacher")
    return Wants(asked, entries_of(row) if TOP_LOGPROBS in asked else 0)


def entries_of(row: RowInfo) -> int:
    """Return how many tokens a list must have for a row of this kind."""
    return min(row.sparsifier.k, row.vocabulary)


def check_row(what: str, row: RowInfo, gives: Gives, teacher: str) -> Gives:
    """Return what a teacher is asked for, to make rows of this kind.

    Args:
        what: how the user asked for these rows, such as "--preset small".
        row: what a row holds.
        gives: what the teacher gives.
        teacher: its name.

    Raises:
        BadInput: the teacher does not give what these rows need.
    """
    ways = ways_to_make(row)
    found = next((way for way in ways if way <= gives), None)
    if found is None:
        way_out = "Use --preset topk --tail uniform" if TOP_LOGPROBS in gives else "Give another teacher"
        way_out = "Use --preset small" if LOGITS in gives else way_out
        kind = f"{what} (rows of kind {row.sparsifier.name}, tail {row.tail.shape})"
        least = [way for way in ways if not any(other < way for other in ways)]
        raise BadInput(
            f"{kind} needs {' or '.join(called(way) for way in least)}; {teacher} gives {called(gives)}. {way_out}."
        )
    return found


def check_features(options: Mapping[str, str | None], gives: Gives, teacher: str) -> None:
    """Refuse to keep features of a teacher that gives none.

    Args:
        options: those that ask for features, such as `--hidden`, each with its value.
        gives: what the teacher gives.
        teacher: its name.

    Raises:
        BadInput: it gives none.
    """
    asked = next((f"{option} {value}" for option, value in options.items() if value is not None), None)
    if asked is not None and FEATURES not in gives:
        raise BadInput(f"{asked} needs {GIFTS[FEATURES]}; {teacher} gives {called(gives)}. Leave it out.")


def called(gives: Gives) -> str:
    """Return what a teacher gives, in words."""
    return " and ".join(words for name, words in GIFTS.items() if name in gives)
