"""Records of token ids with rows beside them become samples: which positions have a row, and which of the rows is theirs.

A record may hold several samples one after the other; then a column numbers them. Axes: R records, T tokens of all records,
S samples, N rows that are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.text.foreign.block import Block
from logitstore.text.sample import counted

About = Literal["next", "same"]
"""What the row of a token is about: the token behind it, or the token itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Some neighbouring records of a source.

    Attributes:
        first: number of the first one.
        lengths_R: int64, tokens of each.
        tokens_T: int64, the tokens of all.
        sample_T: integers that change where another sample begins, 0 for padding; None where a record is one sample.
        learned_T: bool, True for tokens that are to be learned; None for all.
    """

    first: int
    lengths_R: Array
    tokens_T: Array
    sample_T: Array | None = None
    learned_T: Array | None = None

    def block(self) -> Block:
        """Return the samples with rows. Raises BadInput: a token id is negative."""
        if self.tokens_T.min(initial=0) < 0:
            record = self.first + int(self._record_T[np.flatnonzero(self.tokens_T < 0)[0]])
            raise BadInput(f"record {record}: it has a negative token id. Leave the record out.")
        starts, lengths, records = self._samples()
        mask_T = self._mask_T()
        before_T = np.concatenate([[0], np.cumsum(mask_T, dtype=np.int64)])
        has_rows = before_T[starts + lengths] > before_T[starts]
        documents = len(starts)
        starts, lengths = starts[has_rows], lengths[has_rows]
        taken = np.repeat(starts, lengths) + counted(lengths)
        return Block(
            record_S=self.first + records[has_rows],
            document_S=np.flatnonzero(has_rows),
            documents=documents,
            lengths_S=lengths,
            tokens_T=self.tokens_T[taken],
            mask_T=mask_T[taken],
        )

    def rows_N(self, rows_R: Array, about: About) -> Array:
        """Return int64[N]: which of the rows of these records belong to the rows of `block`, in their order.

        Args:
            rows_R: int64, rows of each record.
            about: what a row is about.

        Raises:
            BadInput: a record has another number of rows than tokens, or some have one less and some have not.
        """
        shifts = rows_R - self.lengths_R
        # the last token needs no row; of rows about their own token the first may be left out
        is_wrong_R = ((shifts != 0) & (shifts != -1)) & ~((self.lengths_R == 0) & (rows_R == 0))
        if is_wrong_R.any():
            wrong = int(np.flatnonzero(is_wrong_R)[0])
            raise BadInput(
                f"record {self.first + wrong}: it has {int(self.lengths_R[wrong])} tokens and {int(rows_R[wrong])} rows. There "
                "must be a row for each token, or for each but one."
            )
        left_out_R = (shifts == -1) & (self.lengths_R > 1)
        if left_out_R.any() and (whole_R := (shifts == 0) & (self.lengths_R > 1)).any():
            raise BadInput(
                f"record {self.first + int(np.flatnonzero(left_out_R)[0])} has a row for each token but one, and record "
                f"{self.first + int(np.flatnonzero(whole_R)[0])} for each. One of them has lost a row, or has one too many."
            )
        starts_R = np.cumsum(rows_R) - rows_R
        if about == "same":
            starts_R = starts_R + (rows_R == self.lengths_R)
        position_T = counted(self.lengths_R)
        mask_T = self._mask_T()
        return np.asarray((starts_R[self._record_T] + position_T)[mask_T])

    @property
    def _record_T(self) -> Array:
        return np.repeat(np.arange(len(self.lengths_R)), self.lengths_R)

    def _mask_T(self) -> Array:
        """Return bool[T]: True where the next token belongs to the same sample, and is to be learned."""
        mask_T = np.zeros(len(self.tokens_T), np.bool_)
        record_T = self._record_T
        mask_T[:-1] = record_T[1:] == record_T[:-1]
        if self.sample_T is not None:
            mask_T[:-1] &= (self.sample_T[1:] == self.sample_T[:-1]) & (self.sample_T[1:] != 0)
        if self.learned_T is not None:
            mask_T[:-1] &= self.learned_T[1:]
        return mask_T

    def _samples(self) -> tuple[Array, Array, Array]:
        """Return the first token, the length and the record of every sample."""
        if self.sample_T is None:
            starts = np.cumsum(self.lengths_R) - self.lengths_R
            return starts, self.lengths_R, np.arange(len(starts))
        record_T = self._record_T
        begins_T = np.ones(len(record_T), np.bool_)
        begins_T[1:] = (record_T[1:] != record_T[:-1]) | (self.sample_T[1:] != self.sample_T[:-1])
        starts = np.flatnonzero(begins_T)
        lengths = np.diff(np.concatenate([starts, [len(record_T)]]))
        is_text = self.sample_T[starts] != 0
        return starts[is_text], lengths[is_text], record_T[starts[is_text]]
