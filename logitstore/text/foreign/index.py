"""The first pass over a source: its samples without what was said about them. Everything in a plan follows from it.

Axes: S samples, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from logitstore.core.progress import Progress, Step
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.text.foreign.block import Block, Foreign
from logitstore.text.sample import Sample, keys_of

ENDS = 1 << 20
"""Bytes at either end of a file that its fingerprint covers, with its size: reading all of some terabytes twice would double
the
work."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Where the samples of a source are.

    Attributes:
        record_S: int64, record of each.
        lengths_S, rows_S: int64, tokens and rows of each.
        document_S: int64, number of each among all samples, those without rows counted.
        documents: how many there are, those without rows counted.
        highest: the highest token id.
        fingerprint: of the samples, as docs/format.md says of `data.fingerprint`.
    """

    record_S: Array
    lengths_S: Array
    rows_S: Array
    document_S: Array
    documents: int
    highest: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.record_S)

    @classmethod
    def of(cls, source: Foreign, name: str, progress: Progress) -> Index:
        """Read the tokens of a source.

        Raises:
            BadInput: it cannot be read, or has no sample of two tokens.
        """
        digest, highest, documents, done = xxhash.xxh3_128(), -1, 0, 0
        columns: list[tuple[Array, Array, Array, Array]] = []
        for block in source.blocks(0, with_lists=False):
            numbers_S = documents + block.document_S
            columns.append((block.record_S, block.lengths_S, block.rows_S, numbers_S))
            _digest(digest, block, numbers_S)
            highest = max(highest, int(block.tokens_T.max(initial=-1)))
            documents += block.documents
            done += len(block.record_S)
            progress(Step(stage="index", done=done, total=0))
        if not done:
            raise BadInput(f"{name}: it has no sample with a row: that takes two tokens. Check --format and --columns.")
        record_S, lengths_S, rows_S, document_S = (np.concatenate(each) for each in zip(*columns, strict=True))
        return cls(
            record_S=record_S,
            lengths_S=lengths_S,
            rows_S=rows_S,
            document_S=document_S,
            documents=documents,
            highest=highest,
            fingerprint=digest.hexdigest(),
        )


def samples_of(block: Block, documents_S: Array) -> list[Sample]:
    """Return the samples of a block. Args: documents_S: their documents."""
    ends = np.concatenate([[0], block.ends_S])
    keys = keys_of(block.tokens_T, ends)
    spans = pairwise(ends.tolist())
    return [
        Sample(
            key=key,
            tokens_T=block.tokens_T[start:stop],
            mask_T=block.mask_T[start:stop],
            document=document,
        )
        for key, (start, stop), document in zip(keys, spans, documents_S.tolist(), strict=True)
    ]


def _digest(digest: xxhash.xxh3_128, block: Block, documents_S: Array) -> None:
    ends = np.concatenate([[0], block.ends_S]).tolist()
    tokens_T = block.tokens_T.astype("<u4")
    for document, (start, stop) in zip(documents_S.tolist(), pairwise(ends), strict=True):
        digest.update(f"{document} 0 {stop - start} \n".encode())
        digest.update(tokens_T[start:stop].tobytes() + np.packbits(block.mask_T[start:stop]).tobytes())


def fingerprint_of(source: Foreign) -> str:
    """Return a checksum of what decides the rows of a source: its format, how it is read, and of every file, in their order,
    the size and
    both ends."""
    digest = xxhash.xxh3_128(f"{source.format} {source.said}\n".encode())
    for path in source.files:
        digest.update(_ends(path))
    return digest.hexdigest()


def _ends(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return f"{size}\n".encode() + first + file.read(ENDS)
