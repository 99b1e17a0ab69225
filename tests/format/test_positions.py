"""How a choice of positions is spelled, and how many it leaves."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.errors import BadInput
from logitstore.format.data import DataInfo
from logitstore.format.positions import checked, share_of
from logitstore.settings.dump import DumpSettings
from logitstore.settings.recipe import load


@given(millionths=st.integers(1, 999_999), candidates=st.integers(1, 1 << 31))
def test_a_share_leaves_the_exact_count_rounded_half_up_and_at_least_one(millionths: int, candidates: int) -> None:
    share = share_of(f"entropy:{millionths / 1_000_000:.6f}")
    assert share is not None
    assert share_of(str(share)) == share
    count = int(share.counts(np.array([candidates]))[0])
    assert count == max(floor(Fraction(millionths, 1_000_000) * candidates + Fraction(1, 2)), 1)
    assert 1 <= count <= candidates


@pytest.mark.parametrize(
    ("given", "kept"),
    [("entropy:.20", "entropy:0.2"), ("random:0.300000", "random:0.3"), ("random:0.000001",) * 2, ("all", "all")],
)
def test_a_choice_has_one_spelling(given: str, kept: str) -> None:
    assert checked(given) == kept


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("entropi:0.2", "Did you mean 'entropy:SHARE'"),
        ("random", "the share must be a decimal number above 0 and below 1"),
        *(
            (f"entropy:{share}", "such as entropy:0.2")
            for share in ("0", "1", "0.0", "1.5", "-0.2", "1e-2", "0.1234567", "")
        ),
        ("all:0.5", "'all' has no share"),
        ("", "Known: all, assistant"),
    ],
)
def test_a_choice_that_means_nothing_is_refused_in_one_line(given: str, told: str) -> None:
    flags = {"teacher": "t", "data": "d", "out": "o", "positions": given}
    with pytest.raises(BadInput, match=told) as caught:
        load(DumpSettings, "dump", None, flags, named=None)
    assert "positions" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_names_a_choice_and_nothing_else(cache: logitstore.Cache) -> None:
    plain: dict[str, Any] = cache.manifest.data.model_dump(mode="json")
    assert "positions" not in plain
    for text in ("entropy:0.20", "entropy:1.0", "entropy:0.0", "all", "entropy: 0.2", "random:0.1234567", None):
        if text is not None:
            with pytest.raises(ValueError, match="positions"):
                DataInfo.model_validate(plain | {"positions": text})
    chosen = DataInfo.model_validate(plain | {"positions": "entropy:0.2"})
    assert chosen.model_dump(mode="json") == plain | {"positions": "entropy:0.2"}
    other = cache.manifest.model_copy(update={"data": chosen})
    assert other.identity != cache.manifest.identity
