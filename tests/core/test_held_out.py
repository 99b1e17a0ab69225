"""The documents that are held out are those of the smallest hashes, however many there are and in whatever order they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.core import order
from logitstore.core.order import held_out
from logitstore.core.random import hashed
from logitstore.core.types import Array


def by_sorting(documents_S: Array, fraction: float, hashes: Any = hashed) -> Array:
    """What the choice is by definition: all documents sorted by their hashes."""
    units_S = np.asarray(documents_S, np.int64)
    units = np.unique(units_S)
    if len(units) == 1:
        units_S = units = np.arange(len(documents_S))
    count = min(max(round(fraction * len(units)), 1), max(len(units) - 1, 1))
    return np.isin(units_S, units[np.argsort(hashes(units, 0x68656C64), kind="stable")[:count]])


DOCUMENTS = {
    "all different": np.arange(40_000),
    "with gaps": np.cumsum(np.random.default_rng(0).integers(1, 9, 40_000)),
    "windows": np.sort(np.random.default_rng(1).integers(0, 9_000, 40_000)),
    "long documents at the edges of blocks": np.repeat(np.arange(7), 1 << 13),
    "views": np.tile(np.arange(9_000), 3),
    "mixed": np.random.default_rng(2).integers(-50, 20_000, 40_000),
    "one": np.full(500, 7),
    "two": np.array([3, 3, 4]),
    "a single sample": np.array([5]),
}


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_the_choice_is_that_of_sorting_all_hashes(name: str, fraction: float) -> None:
    documents_S = DOCUMENTS[name]
    expected = by_sorting(documents_S, fraction)
    assert np.array_equal(held_out(documents_S, fraction), expected)
    if documents_S.min() >= 0:
        assert np.array_equal(held_out(documents_S.astype(np.uint32), fraction), expected)
    if name == "all different":
        assert np.array_equal(held_out(range(len(documents_S)), fraction), expected)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.floats(0.001, 1), st.booleans())
def test_small_data_too(documents: list[int], fraction: float, rising: bool) -> None:
    documents_S = np.array(sorted(documents) if rising else documents)
    assert np.array_equal(held_out(documents_S, fraction), by_sorting(documents_S, fraction))


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
def test_equal_upper_halves_of_hashes_and_equal_hashes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    def few(numbers_N: Array, salt: int) -> Array:
        whole = hashed(numbers_N, salt)
        return whole % np.uint64(3) << np.uint64(32) | whole % np.uint64(7)

    monkeypatch.setattr(order, "hashed", few)
    for documents_S in (DOCUMENTS["all different"], DOCUMENTS["windows"]):
        assert np.array_equal(held_out(documents_S, fraction), by_sorting(documents_S, fraction, few))


def test_nothing_is_held_out_of_nothing() -> None:
    assert held_out(np.zeros(0, np.int64), 0.5).tolist() == []
    assert not held_out(np.arange(9), 0).any()
