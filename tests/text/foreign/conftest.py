"""Texts and lists that a teacher could have given, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.convert import convert
from tests.parts.texts import VOCABULARY

Convert = Callable[..., logitstore.Cache]


@pytest.fixture
def converted(teacher: Path, tmp_path: Path) -> Convert:
    """`convert` with the tokenizer of the tests, into a folder of its own."""

    def run(source: Path, **options: Any) -> logitstore.Cache:
        usual = {"tokenizer": str(teacher), "out": tmp_path / "made", "source": source}
        return convert(ConvertSettings(**usual | options))

    return run


@pytest.fixture
def said() -> Callable[[int, int], tuple[list[int], list[tuple[list[int], list[float]]]]]:
    """Tokens, and for each of them the ids and logprobs of the most probable tokens behind it; the same for the same seed."""

    def make(length: int, k: int, seed: int = 0) -> tuple[list[int], list[tuple[list[int], list[float]]]]:
        draw = np.random.default_rng(seed)
        tokens = draw.integers(0, VOCABULARY, length)
        rows = []
        for _ in range(length):
            logits = np.sort(draw.normal(0, 4, VOCABULARY))[::-1]
            logprobs = logits - np.log(np.exp(logits).sum())
            rows.append((draw.permutation(VOCABULARY)[:k].tolist(), logprobs[:k].tolist()))
        return tokens.tolist(), rows

    return make
