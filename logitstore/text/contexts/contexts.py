"""What a student reads before the answer of each text, where that differs from what the teacher read.

Axes: S samples of the cache, T tokens of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from logitstore.core.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """The context of each sample of a cache, held in memory: 4 bytes a token.

    The tokens of a sample before its answer are left out, and those of the context stand there. The rows are about the
    answer, so each keeps its token, at another position.

    Attributes:
        tokens: int32, the tokens of all contexts, one after the other.
        offsets: int64[S + 1], where each context begins among them, and where the last one ends.
        answer_S: int64[S], place of the first token of the answer in each sample; at least 1.
        lengths_S: int64[S], count of tokens of each sample as a student reads it.
    """

    tokens: Array
    offsets: Array
    answer_S: Array
    lengths_S: Array

    def of(self, sample: int) -> Array:
        """Return int32: the tokens of the context of a sample, at least one."""
        return np.asarray(self.tokens[self.offsets[sample] : self.offsets[sample + 1]])

    def shift(self, sample: int) -> int:
        """Return how much later a token of the answer stands than in the cache."""
        return int(self.offsets[sample + 1] - self.offsets[sample] - self.answer_S[sample])

    def read(self, sample: int, tokens_T: Array) -> Array:
        """Return a sample as the student reads it, from its tokens in the cache."""
        return np.concatenate([self.of(sample), tokens_T[int(self.answer_S[sample]) :]])

    @property
    def longest(self) -> int:
        """Count of tokens of the longest sample, as a student reads it."""
        return int(self.lengths_S.max(initial=0))

    @property
    def checksum(self) -> str:
        """xxh3-128, in hex, of what the students read."""
        digest = xxhash.xxh3_128(self.offsets.astype("<i8").tobytes())
        digest.update(self.tokens.astype("<u4").tobytes())
        return digest.hexdigest()
