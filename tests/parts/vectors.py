"""The dump of vectors that most tests of this task use, and texts in pairs with scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitstore.settings.dump import DumpSettings
from tests.parts.classes import labelled_rows


def vectors_plan(teacher: Path, data: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that the tests of this task use: float32, five parts."""
    usual: dict[str, Any] = {
        "task": "embedding",
        "teacher": str(teacher),
        "data": str(data),
        "out": out,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 10,
        "batch_tokens": 256,
    }
    return DumpSettings(**usual | changes)


def scored_rows(count: int = 44) -> list[dict[str, Any]]:
    """Pairs of texts with scores, 22 of them from 44 texts; number 21 has none."""
    texts = [row["text"] for row in labelled_rows(count)]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [
        {"sentence1": a, "sentence2": b, "score": None if place == 21 else float(place % 5)}
        for place, (a, b) in enumerate(pairs)
    ]
