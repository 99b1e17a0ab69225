"""`samples.arrow` of a cache of texts with vectors: tokens, scores of pairs and, if they are kept, the texts. No torch.

Axes: S texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.classification.stored import EncodedFile, encoded_problems, encoded_schema, write_texts
from logitstore.core.types import Array
from logitstore.embedding.sample import EmbeddedText, info_of
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.tasks.texts import EmbeddedInfo
from logitstore.store.samples import PartSamples
from logitstore.store.storage import Storage


def schema_of(data: EmbeddedInfo) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    has_scores = data.score_column is not None
    return encoded_schema(data, [pa.field("score", pa.float64(), nullable=False)] * has_scores)


class EmbeddedFile(EncodedFile):
    """A mapped `samples.arrow` of texts with vectors.

    Attributes:
        score_S: float64, how similar the two texts of a pair are; NaN without a score.
    """

    def __init__(self, path: Path, span: slice, data: EmbeddedInfo) -> None:
        """Map the file and check its header; arguments and errors are those of `EncodedFile`."""
        super().__init__(path, span, schema_of(data))
        self.score_S = np.full(len(self), np.nan)
        if data.score_column is not None:
            self.score_S = self.batch.column("score").to_numpy()
        self.nll_S = np.full(len(self), np.nan, np.float32)
        if data.pair_column is not None:
            self.document_S = self.document_S // 2

    def gold(self) -> Array:
        return np.full(len(self), -1, np.int64)

    def nll_problem(self) -> str | None:
        """Return None: the texts have no labels, so no nll is stored."""
        return None

    def sample(self, index: int) -> EmbeddedText:
        text = self.texts_of(index)[0] if self._has_texts else None
        return EmbeddedText(
            key=str(self.batch.column("key")[index].as_py()),
            tokens_T=self.tokens_of(index),
            types_T=self.types_of(index),
            label=-1,
            document=int(self.document_S[index]),
            text=text,
            score=float(self.score_S[index]),
        )


class EmbeddedTexts:
    """Texts with vectors on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts say all about the texts."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> EmbeddedFile:
        return EmbeddedFile(path, manifest.span(part), info_of(manifest))

    def write(self, path: Path, manifest: Manifest, samples: Sequence[EmbeddedText], nll_S: Array) -> None:
        write_texts(path, samples, nll_S, schema_of(info_of(manifest)))

    def problems(self, samples: EmbeddedFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        yield from encoded_problems(samples, record, info_of(manifest))
        if np.isinf(samples.score_S).any():
            yield "a score is infinite"

    def difference(self, stored: EmbeddedText, asked: EmbeddedText) -> str | None:
        """Compare the scores: texts with the same key are the same."""
        if stored.score == asked.score or (math.isnan(stored.score) and math.isnan(asked.score)):
            return None
        return f"its text {stored.document} has another score"

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Refuse vectors of length 1 beside others. The same texts fit together, whatever tokens they become."""
        if info_of(here).normalised == info_of(there).normalised:
            return None
        return ("one has vectors of length 1, the other of any length", "Dump both with --normalise.")

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        return (
            "{difference}, so the texts or their scores differ",
            "Dump both with the same --data, --limit, --column, --pair-column and --score-columns.",
        )


def embedded_of(samples: PartSamples) -> EmbeddedFile:
    """Return the samples of a part as texts with vectors. Raises BadInput: they are something else."""
    if not isinstance(samples, EmbeddedFile):
        raise BadInput("this cache holds no texts with vectors.")
    return samples
