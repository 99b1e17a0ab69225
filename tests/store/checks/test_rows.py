"""What the rows of a block must hold, broken one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from logitstore.dump.sparsify.topk import TopK
from logitstore.errors import CacheDamaged
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.codecs.feature import from_bfloat16
from logitstore.format.row import CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.format.tap import tap_fields
from logitstore.store.checks.rows import check_features, check_values, row_block_problems

VOCABULARY = 30
KEPT = 5
CODEC = RowCodec(
    row=RowInfo(
        sparsifier=SparsifierInfo(name="topk", k=KEPT),
        tail=TailInfo(shape="uniform"),
        codec=CodecInfo(),
        vocabulary=VOCABULARY,
    )
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[dict[str, Any], Any]:
    """Rows as the sparsifier makes them from random logits, in the dtypes that are stored, and their gold tokens."""
    rows = draw(st.integers(1, 6))
    scale = draw(st.floats(0.1, 6.0))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits_NV = torch.from_numpy(noise.normal(0, scale, (rows, VOCABULARY)).astype(np.float32))
    gold_N = noise.integers(0, VOCABULARY, rows)
    sparsifier = TopK(k=KEPT, vocabulary=VOCABULARY)
    targets = sparsifier(logits_NV, torch.from_numpy(gold_N))
    return CODEC.encode({name: value.numpy() for name, value in targets.items()}), gold_N


def found_in(block: dict[str, Any], gold_N: Any) -> set[str]:
    return {f"{field}: {what}" for field, what in row_block_problems(block, gold_N, CODEC)}


@given(block=blocks())
def test_rows_as_the_sparsifier_makes_them_break_no_invariant(block: tuple[dict[str, Any], Any]) -> None:
    assert found_in(*block) == set()


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), beyond=st.integers(0, 1000))
def test_an_id_outside_the_vocabulary_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, place: int, beyond: int
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["ids"][row, place] = VOCABULARY + beyond
    assert found_in(fields, gold_N) == {f"ids: an id is not below the vocabulary of {VOCABULARY}"}


WIDE = RowCodec(
    row=RowInfo(
        sparsifier=SparsifierInfo(name="topk", k=KEPT),
        tail=TailInfo(shape="uniform"),
        codec=CodecInfo(ids="packed"),
        vocabulary=70_000,
    )
)
"""Ids that are packed, 17 bits each."""


@pytest.mark.parametrize(("beyond", "is_empty"), [(0, False), (61_071, False), (0, True), (-1, False)])
def test_a_reader_refuses_packed_ids_beyond_the_vocabulary_except_in_empty_slots(beyond: int, is_empty: bool) -> None:
    ids_NK = np.arange(10).reshape(2, KEPT)
    ids_NK[1, KEPT - 1] = 70_000 + beyond
    logprobs_NK = np.full((2, KEPT), -2.0, np.float16)
    logprobs_NK[1, KEPT - 1] = -np.inf if is_empty else -3.0
    stored = WIDE.encode({"ids": ids_NK, "logprobs": logprobs_NK, "tail_logmass": np.full(2, -1.0),
                          "gold_logprob": np.full(2, -1.0), "entropy": np.ones(2)})  # fmt: skip
    if beyond < 0 or is_empty:
        check_values(stored, WIDE, lambda: "here")
        return
    with pytest.raises(CacheDamaged, match="here: ids: an id is not below the vocabulary of 70000"):
        check_values(stored, WIDE, lambda: "here")


@given(block=blocks(), row=st.integers(0, 5), pair=st.permutations(range(KEPT)))
def test_an_id_listed_twice_is_reported(block: tuple[dict[str, Any], Any], row: int, pair: list[int]) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    assume(gold_N[row] not in fields["ids"][row])
    fields["ids"][row, pair[0]] = fields["ids"][row, pair[1]]
    assert found_in(fields, gold_N) == {"ids: a row lists an id twice"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 2))
def test_logprobs_out_of_order_are_reported(block: tuple[dict[str, Any], Any], row: int, place: int) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    pair = [place, place + 1]
    assume(fields["logprobs"][row, place] > fields["logprobs"][row, place + 1])
    for name in ("ids", "logprobs"):
        fields[name][row, pair] = fields[name][row, pair[::-1]]
    assert found_in(fields, gold_N) == {"logprobs: a row is not in falling order"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), value=st.sampled_from([0.01, 3, np.nan]))
def test_a_logprob_that_is_positive_or_nan_is_reported(
    block: tuple[dict[str, Any], Any], row: int, place: int, value: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["logprobs"][row, place] = value
    assert "logprobs: a logprob is positive or NaN" in found_in(fields, gold_N)


@given(block=blocks(), row=st.integers(0, 5), value=st.sampled_from([0.01, 3, np.nan, np.inf]))
def test_a_tail_mass_above_one_or_nan_is_reported(block: tuple[dict[str, Any], Any], row: int, value: float) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["tail_logmass"][row] = value
    assert "tail_logmass: a mass is above 1 or NaN" in found_in(fields, gold_N)


@given(block=blocks(), row=st.integers(0, 5), moved=st.floats(0.01, 0.3), up=st.booleans())
def test_mass_that_does_not_sum_to_one_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, moved: float, up: bool
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    mass = float(np.exp(fields["tail_logmass"][row].astype(np.float64)))
    wanted = mass + moved if up else mass - moved
    assume(0 <= wanted <= 1)
    with np.errstate(divide="ignore"):
        fields["tail_logmass"][row] = np.log(wanted)
    assert found_in(fields, gold_N) == {"logprobs: listed and tail mass of a row do not sum to 1"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), moved=st.sampled_from([-2.0, -0.1]))
def test_a_gold_logprob_that_is_not_the_listed_one_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, place: int, moved: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    gold_N[row] = fields["ids"][row, place]
    fields["gold_logprob"][row] = fields["logprobs"][row, place]
    assert found_in(fields, gold_N) == set()
    fields["gold_logprob"][row] += np.float16(moved)
    assert found_in(fields, gold_N) == {"gold_logprob: it is not the listed logprob of the gold token"}


@given(block=blocks(), row=st.integers(0, 5), value=st.sampled_from([-0.1, 3.5, np.nan, np.inf]))
def test_an_entropy_that_cannot_be_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, value: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["entropy"][row] = value
    assert found_in(fields, gold_N) == {"entropy: it is negative, NaN or above log(vocabulary)"}


EDGES = [0x0000, 0x7C00, 0x7FFF, 0x8000, 0xFC00, 0xFFFF]
PATTERNS = np.unique(
    [*range(0, 1 << 16, 61), *(min(max(edge + step, 0), 0xFFFF) for edge in EDGES for step in (-1, 0, 1))]
)


@pytest.mark.parametrize("beside", [None, 0.0, -0.0, -1.0, -np.inf])
@pytest.mark.parametrize(("name", "nan_is_none"), [("logprobs", False), ("gold_logprob", True), ("entropy", False)])
def test_every_float16_is_refused_or_not_as_its_value_says(name: str, nan_is_none: bool, beside: float | None) -> None:
    """Zeros, infinities, the NaNs and numbers next to them, and a thousand more, alone and beside a possible value."""
    if name == "entropy" and beside is not None:
        beside = abs(beside) if np.isfinite(beside) else 2.0
    for values in PATTERNS.astype(np.uint16).view(np.float16)[:, None]:
        value = float(values[0])
        is_possible = 0 <= value < np.inf if name == "entropy" else value <= 0 or (nan_is_none and np.isnan(value))
        some = values if beside is None else np.array([values[0], beside], np.float16)
        assert is_refused({name: some}) != is_possible, (value, beside)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, -1e-40, -3e38, -np.inf, 1e-45, 1.0, np.inf, np.nan, np.copysign(np.nan, -1)]
)
@pytest.mark.parametrize("place", [0, 3])
def test_every_kind_of_float32_is_refused_or_not_as_its_value_says(value: float, place: int) -> None:
    tail_N = np.array([-1.0, -0.5, 0.0, -2.0], np.float32)
    tail_N[place] = value
    assert is_refused({"tail_logmass": tail_N}) != (value <= 0)


@pytest.mark.parametrize("beside", [None, 0, 1, 2])
@pytest.mark.parametrize("codec", ["float16", "bfloat16", "pca-3"])
def test_every_feature_of_two_bytes_is_refused_or_not_as_its_value_says(codec: str, beside: int | None) -> None:
    """Alone, and beside the highest numbers of both signs and a 0."""
    field = tap_fields(codec, 3)["values"]
    is_bfloat16 = codec == "bfloat16"
    others = [[0x7F7F, 0xFF7F, 0x8000] if is_bfloat16 else [0x7BFF, 0xFBFF, 0x8000], [0] * 3, [0x8001] * 3]
    for bits in PATTERNS.astype(np.uint16):
        some = np.array([[bits]] if beside is None else [[bits, *others[beside]]], np.uint16)
        values = from_bfloat16(some) if is_bfloat16 else some.view(np.float16)
        found = is_refused({"values": some.view(field.dtype)}, of_tap=codec)
        assert found != bool(np.isfinite(values).all()), hex(bits)


@pytest.mark.parametrize("value", [0.0, 3e38, -3e38, np.inf, -np.inf, np.nan, np.copysign(np.nan, -1)])
@pytest.mark.parametrize("rows", [np.ones((2, 3)), -np.ones((2, 3))])
def test_every_kind_of_feature_of_float32_is_refused_or_not_as_its_value_says(value: float, rows: Any) -> None:
    values = rows.astype(np.float32)
    values[1, 2] = value
    assert is_refused({"values": values}, of_tap="float32") != np.isfinite(value)
    assert not is_refused({"values": values[:0]}, of_tap="float32")


@pytest.mark.parametrize("scale", [1.0, 0.0, -1.0, np.inf, np.nan])
def test_a_scale_of_a_feature_is_positive_and_finite(scale: float) -> None:
    block = {"values": np.full((2, 3), -128, np.int8), "scale": np.array([1.0, scale], np.float16)}
    assert is_refused(block, of_tap="int8") != (scale == 1.0)


@pytest.mark.parametrize(("gold", "is_possible"), [([-1, 5], True), ([0, 5], False), ([-1, -1], True)])
def test_a_gold_logprob_is_nan_only_where_there_is_no_gold_token(gold: list[int], is_possible: bool) -> None:
    rows = {"gold_logprob": np.array([np.nan, -0.5], np.float16)}
    assert is_refused(rows, gold=gold) != is_possible


def is_refused(rows: dict[str, Any], *, of_tap: str | None = None, gold: list[int] | None = None) -> bool:
    try:
        if of_tap is not None:
            check_features(rows, of_tap, lambda: "here")
        else:
            check_values(rows, CODEC, lambda: "here", None if gold is None else lambda: np.array(gold))
    except CacheDamaged:
        return True
    return False
