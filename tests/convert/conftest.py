"""Teachers and caches to be merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.dump.dump import dump
from tests.parts.merge import Caches
from tests.parts.texts import VOCABULARY, plan_for, save_model


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory, teacher: Path, tokenizer: PreTrainedTokenizerFast) -> list[Path]:
    """Two teachers of one vocabulary; the head of the first has padding, and the second is of another shape."""
    other = save_model(tmp_path_factory.mktemp("other"), tokenizer, VOCABULARY, seed=7, hidden_size=48)
    return [teacher, other]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory, teachers: list[Path], texts: Path) -> Caches:
    """`dense-0` is what the first teacher said, by the sparsifier or preset `dense`; the second's have other parts."""
    folder = tmp_path_factory.mktemp("caches")
    ways: dict[str, dict[str, Any]] = {
        "dense": {"sparsifier": "dense", "logprobs": "float32", "k": None},
        "small": {"preset": "small", "k": None},
        "exact": {"preset": "exact", "k": None},
        "topk": {},
    }
    wanted = [(name, number) for name in ways for number in (0, 1)]
    ways |= {
        "cut": {"tail": "none", "k": 20},
        "sampled": {"preset": "sampled", "k": None},
        "scores": {"preset": "scores", "k": None},
    }
    wanted += [("cut", 0), ("sampled", 1), ("scores", 1)]
    shape = {"limit": 6, "fidelity_rows": 10**6}
    return {
        f"{name}-{number}": dump(
            plan_for(
                teachers[number],
                texts,
                folder / f"{name}-{number}",
                **shape | {"samples_per_part": 9 - 2 * number} | ways[name],
            )
        )
        for name, number in wanted
    }
