"""What a format gives: texts, and lists of what a teacher said about their positions, some samples at a time.

Axes: S samples, T tokens of all samples one after the other, N rows of all samples, K entries of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from logitstore.core.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """What a teacher said about some rows.

    Attributes:
        ids_NK: integers of any type; what stands in an empty slot means nothing.
        logprobs_NK: float32, nats; -inf in an empty slot. Where the source does not know the mass of the tokens outside of a
            list they may miss their true values by any number, the same in all of a row.
        gold_N: float32, the logprob of the gold token, NaN where the source does not tell it; None where it never does.
        entropy_N: float, nats, of the whole distributions, where they are known.
        tail_logmass_N: float, nats, the logarithm of the mass outside of each list, where the source tells it; None where it is
            what the list leaves.
        is_bound_N: bool, True where `gold_N` is no more than the most that the logprob can be; None for nowhere.
        rest_V: float64, the mass of each token in the rows that do not list it, added up, where it was asked for.
    """

    ids_NK: Array
    logprobs_NK: Array
    gold_N: Array | None = None
    entropy_N: Array | None = None
    tail_logmass_N: Array | None = None
    is_bound_N: Array | None = None
    rest_V: Array | None = None

    def some(self, span: slice) -> Lists:
        """Return some neighbouring rows, without the mass of unlisted tokens, which is that of all."""
        others = {name: None if (values := getattr(self, name)) is None else values[span] for name in OF_ROWS}
        return Lists(ids_NK=self.ids_NK[span], logprobs_NK=self.logprobs_NK[span], **others)


OF_ROWS = ("gold_N", "entropy_N", "tail_logmass_N", "is_bound_N")


def joined(pieces: Sequence[Lists]) -> Lists:
    """Return rows with lists of one length, one piece after the other."""
    rests = [piece.rest_V for piece in pieces if piece.rest_V is not None]
    others = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in OF_ROWS
        if getattr(pieces[0], name) is not None
    }
    return Lists(
        ids_NK=np.concatenate([piece.ids_NK for piece in pieces]),
        logprobs_NK=np.concatenate([piece.logprobs_NK for piece in pieces]),
        rest_V=sum(rests[1:], rests[0]) if rests else None,
        **others,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some neighbouring samples.

    Attributes:
        record_S: int64, the record of the source that each sample lies in, from 0, rising.
        document_S: int64, number of each sample among all of the block, those without rows counted.
        documents: how many these are.
        lengths_S: int64, tokens of each.
        tokens_T: int64.
        mask_T: bool, True where the position has a row, which is about the token behind it.
        lists: of the rows; None where they were not asked for.
    """

    record_S: Array
    document_S: Array
    documents: int
    lengths_S: Array
    tokens_T: Array
    mask_T: Array
    lists: Lists | None = None

    @property
    def ends_S(self) -> Array:
        """int64, where the tokens of each sample end."""
        return np.cumsum(self.lengths_S)

    @property
    def rows_S(self) -> Array:
        """int64, rows of each sample."""
        before_T = np.concatenate([[0], np.cumsum(self.mask_T, dtype=np.int64)])
        return np.diff(before_T[np.concatenate([[0], self.ends_S])])

    @property
    def gold_N(self) -> Array:
        """int64, the token behind each row's position."""
        return np.asarray(self.tokens_T[np.flatnonzero(self.mask_T) + 1])

    def some(self, samples: slice) -> Block:
        """Return some neighbouring samples, with their rows."""
        ends, rows = (np.concatenate([[0], np.cumsum(each)]) for each in (self.lengths_S, self.rows_S))
        tokens = slice(int(ends[samples.start]), int(ends[samples.stop]))
        span = slice(int(rows[samples.start]), int(rows[samples.stop]))
        return Block(
            record_S=self.record_S[samples],
            document_S=self.document_S[samples],
            documents=self.documents,
            lengths_S=self.lengths_S[samples],
            tokens_T=self.tokens_T[tokens],
            mask_T=self.mask_T[tokens],
            lists=None if self.lists is None else self.lists.some(span),
        )


class Blocks(Protocol):
    """Reads a source from a record on."""

    def __call__(self, record: int, *, with_lists: bool) -> Iterator[Block]:
        """Yield blocks of samples with rows, from a record on; samples without rows are left out.

        Raises:
            BadInput: a record cannot be read, or is none of the format.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A source that is open.

    Attributes:
        format: its name.
        files: that were found, in their order.
        said: everything that decides how they are read, for the fingerprint.
        gold: which rows know the logprob of their gold token.
        mass: whether the mass of the tokens outside of a list is known.
        entries: the most entries of a list.
        vocabulary: ids are below this, where the source says so; it may count ids that no tokenizer gives.
        column: what the tokens were read from, for people.
        is_partial: whether the source says which tokens are to be learned.
        records: count of records, where it is known.
        blocks: reads it.
        pilot: reads it with the mass of the unlisted tokens in the lists, where the source has whole distributions.
    """

    format: str
    files: list[Path]
    said: str
    gold: Literal["all", "listed", "none"]
    mass: Literal["known", "unknown"]
    entries: int
    vocabulary: int | None
    column: str
    is_partial: bool
    records: int | None
    blocks: Blocks
    pilot: Blocks | None = None
