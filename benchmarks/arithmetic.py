"""Compute what caches of any size take: bytes, files, hours. Nothing is measured here; docs/scale.md says what was.

A cache is one of texts in windows of 1,024 tokens. The teacher has 128,256 tokens, a hidden state of 4,096 channels and 8
billion weights, as Llama 3.1 8B has.
"""

from __future__ import annotations

import math

from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.store.rows import needed_files

ROWS = (10**8, 10**10, 10**12)
PRESETS = ("small", "faithful", "exact")
VOCABULARY, WIDTH, WEIGHTS = 128_256, 4096, 8e9
WINDOW = 1024

TOKEN_BYTES = 4 + 1 / 8
"""Bytes of a token in `samples.arrow`: its id, and its bit of the mask."""

SAMPLE_BYTES = 90
"""Bytes of a sample there besides its tokens: key, domain, numbers and offsets."""

PART_BYTES = 128e6

CARD, USED = 989e12, 0.4
"""Operations in bfloat16 that an H100 SXM does in a second by its data sheet, without sparsity, and the share of them that a
forward pass is taken to use."""


def stored(preset: str) -> RowInfo:
    """Return what a preset keeps of a row of that teacher."""
    return row_of(preset, {}, VOCABULARY, WIDTH)


def bytes_of(preset: str, rows: int) -> float:
    """Return the bytes of a cache."""
    row = sum(field.bytes for field in stored(preset).fields.values())
    return rows * (row + TOKEN_BYTES + SAMPLE_BYTES / WINDOW)


def parts_of(preset: str, rows: int) -> int:
    """Return the count of parts."""
    # a small cache has at least 64 parts, but for parts of 1,024 samples
    return max(math.ceil(bytes_of(preset, rows) / PART_BYTES), min(64, math.ceil(rows / WINDOW / 1024)))


def files_of_part(preset: str) -> int:
    """Return the count of files of a part: its record, its samples, its rows and the description of their group."""
    row = stored(preset)
    return 3 + len(needed_files(row.fields, "mapped", 1))


def rows_per_second() -> float:
    """Return the rows a second of a forward pass that is taken to use a share of a card: two operations a weight and row."""
    return CARD * USED / (2 * WEIGHTS)
