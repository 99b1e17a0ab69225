"""Writes the golden samples of texts with vectors: `python -m tests.golden.make_vectors`, for a meant change of the format.

Two pairs, fixed by hand: an empty text, letters of several bytes, one pair without a score.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from logitstore.classification.sample import key_of
from logitstore.classification.stored import write_texts
from logitstore.embedding.sample import EmbeddedText
from logitstore.embedding.stored import schema_of
from logitstore.format.tasks.texts import EmbeddedInfo, TokenizerInfo

VECTORS = Path(__file__).parent / "vectors.arrow"
TEXTS = ["It rains.", "", "Grüße, 你好", "a"]
TOKENS = [[2, 17, 9, 3], [2, 3], [2, 70_000, 1, 5, 3], [2, 8, 3]]
SCORES = [4.5, 4.5, math.nan, math.nan]
DATA = EmbeddedInfo(
    source="pairs.jsonl",
    split="train",
    kind="embedded",
    column="sentence1",
    pair_column="sentence2",
    score_column="score",
    fingerprint="0" * 32,
    pooling="mean",
    normalised=True,
    tokenizer=TokenizerInfo(fingerprint="1" * 32, size=80_000, spelling="plain"),
    encoded="2" * 32,
    max_length=16,
    cut=0,
    token_types=False,
    pad=0,
    padding_side="right",
    texts=True,
)


def samples() -> list[EmbeddedText]:
    """Return the texts in their order."""
    return [
        EmbeddedText(
            key=key_of(text, None),
            tokens_T=np.array(TOKENS[number], np.int64),
            types_T=None,
            label=-1,
            document=number // 2,
            text=text,
            score=SCORES[number],
        )
        for number, text in enumerate(TEXTS)
    ]


def write(path: Path) -> None:
    write_texts(path, samples(), np.full(len(TEXTS), np.nan, np.float32), schema_of(DATA))


if __name__ == "__main__":
    write(VECTORS)
