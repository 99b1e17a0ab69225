"""Whole rows through their codec: every sparsifier, tail and preset within its bounds, and the golden bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from logitstore.core.random import DRAWS, uniform
from logitstore.core.types import Array
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.format.codecs.answer import RowCodec, normalised
from logitstore.format.codecs.codebook import Codebook, normal_codebook
from logitstore.format.codecs.levels import Levels
from logitstore.format.presets import PRESETS, row_of
from logitstore.format.row import CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.format.row_kinds import ROW_KINDS
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from tests.golden import make_codecs
from tests.parts.codecs import in_torch, logprob_rows

WIDTH = 6
SKETCH = normal_codebook((8, 7, 6, 5, 4, 3, 2, 1))
NARROW_SKETCH = normal_codebook((8, 6, 4, 3, 2, 1))
KEY = "00112233445566778899aabbccddeeff"


def test_the_bound_of_logprobs_holds_far_below_the_lowest_level() -> None:
    codec = RowCodec(row=row_of("small", {"tail": "uniform", "k": 1}, 300, None))
    logprobs = np.array([[-150.0]], np.float32)
    found = Levels(8, 1).decode(Levels(8, 1).encode(logprobs))
    assert np.abs(found - logprobs) <= codec.logprob_error(logprobs)


def combinations(vocabulary: int, sparsifier: str, tail: str) -> Iterator[RowInfo]:
    """Every way to keep a row with a sparsifier and a tail."""
    sampled = sparsifier in ("sampled", "hybrid")
    k = {"sampled": 0, "hidden": 0, "none": 0, "dense": vocabulary}.get(sparsifier, 7)
    info = {"top_p": 0.8 if sparsifier == "topp" else None, "draws": 5 if sampled else None}
    size = {"bytes": 5 if tail == "sketch" else None, "width": WIDTH if tail == "head" else None}
    for logprobs in ("float32", "float16", "levels-8", "levels-6", "levels-5"):
        if sparsifier == "dense" and vocabulary > 1 << 16 and logprobs in ("levels-6", "levels-5"):
            continue  # packed one by one: seconds a row, and the same code as with fewer tokens
        for mass, ids, exponent in itertools.product(("float32", "log2-16", "log2-8"), ("plain", "packed"), (1, 0.7)):
            if exponent == 1 or sampled:
                yield RowInfo(
                    sparsifier=SparsifierInfo(name=sparsifier, k=k, exponent=exponent if sampled else None, **info),  # type: ignore[arg-type]
                    tail=TailInfo(shape=tail, **size),  # type: ignore[arg-type]
                    codec=CodecInfo(ids=ids, logprobs=logprobs, tail=mass),  # type: ignore[arg-type]
                    vocabulary=vocabulary,
                )


def kept(row: RowInfo, rows: int, seed: int = 0) -> dict[str, Array]:
    """What a sparsifier keeps of random rows: sharp and flat ones, one with but three tokens that can come."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(6, 0.5, rows)[:, None]
    logits = sharpness * torch.randn(rows, row.vocabulary, generator=generator)
    logits[rows - 1, 3:] = -torch.inf
    gold = torch.randint(0, 3, (rows,), generator=generator)
    numbers = torch.from_numpy(uniform(KEY, rows, row.sparsifier.draws or 1, DRAWS))
    found = {name: value.numpy() for name, value in sparsifier_of(row)(logits, gold, numbers).items()}
    width = len(sketch_of(row).widths) if row.tail.shape == "sketch" else WIDTH
    return found | {"latent": torch.randn(rows, width, generator=generator).numpy()}


def shared_of(row: RowInfo) -> dict[str, Array]:
    if row.tail.shape == "sketch":
        sketch = sketch_of(row)
        return {"widths": np.array(sketch.widths, np.uint8), "levels": sketch.levels_RL}
    return {"mean": np.linspace(-1, 1, WIDTH, dtype=np.float32), "std": np.linspace(0.5, 2, WIDTH, dtype=np.float32)}


def sketch_of(row: RowInfo) -> Codebook:
    """A codebook whose coefficients fit the bytes of the sketch."""
    return SKETCH if (row.tail.bytes or 0) >= 5 else NARROW_SKETCH


def check_row(row: RowInfo, answer: dict[str, Array]) -> None:
    """Shapes, bounds, torch as NumPy, and that a second round changes nothing."""
    codec = RowCodec(row=row, shared=shared_of(row))
    stored = codec.encode(answer)
    rows = len(answer["entropy"])
    assert {name: (str(value.dtype), value.shape) for name, value in stored.items()} == {
        name: (info.dtype, (rows, *info.shape)) for name, info in codec.fields.items()
    }
    found = codec.decode(stored)
    again = codec.encode(answer | found)
    beside = codec.decode({name: in_torch(value) for name, value in stored.items()})
    assert list(found) == list(beside)
    for name, value in found.items():
        assert value.dtype == (np.int64 if name in ("ids", "counts") else np.float32)
        np.testing.assert_array_equal(beside[name].numpy(), value, err_msg=name)
    for name in stored.keys() - {"hidden", "hidden_scale"}:
        np.testing.assert_array_equal(again[name], stored[name], err_msg=name)
    for name in ("ids", "counts", "log_normaliser"):
        np.testing.assert_array_equal(found.get(name, answer.get(name)), answer.get(name))
    for name in ("gold_logprob", "entropy") if row.sparsifier.keeps_rows else ():
        np.testing.assert_allclose(found[name], answer[name], rtol=2**-11, atol=2**-24)
    if "logprobs" in found:
        check_logprobs(codec, answer, found)
    if "tail_logmass" in found:
        wanted = np.maximum(answer["tail_logmass"], -32 * np.log(2))
        wanted = np.where(np.isneginf(answer["tail_logmass"]), -np.inf, wanted).astype(np.float64)
        np.testing.assert_allclose(found["tail_logmass"], wanted, rtol=0, atol=codec.tail_error() + 1e-6)
        listed, tail_mass = normalised(found["logprobs"], found["tail_logmass"])
        mass = np.exp(listed).sum(-1) + np.exp(tail_mass)
        np.testing.assert_allclose(mass, 1, atol=1e-5)
    readable = codec.readable(stored)
    assert "ids" not in readable or np.array_equal(readable["ids"], answer["ids"])


def check_logprobs(codec: RowCodec, answer: dict[str, Array], found: dict[str, Array]) -> None:
    is_empty = np.isneginf(answer["logprobs"])
    np.testing.assert_array_equal(np.isneginf(found["logprobs"]), is_empty)
    apart = np.abs(found["logprobs"][~is_empty] - answer["logprobs"][~is_empty])
    bound = codec.logprob_error(answer["logprobs"])[~is_empty]
    lifted = 3 if codec.row.sparsifier.name == "dense" else 1  # the argmax may be lifted by one step
    assert (apart <= lifted * bound).all()
    if not codec.row.sparsifier.is_estimate:
        listed = np.exp(found["logprobs"].astype(np.float64)).sum(1)
        assert np.abs(listed - np.exp(answer["logprobs"].astype(np.float64)).sum(1)).max() <= codec.mass_error


@pytest.mark.parametrize("vocabulary", [300, 262_144])
@pytest.mark.parametrize(
    ("sparsifier", "tail"),
    [(name, tail) for name, kind in ROW_KINDS.items() if kind.is_distribution for tail in kind.tails],
)
def test_every_way_to_keep_a_row_comes_back_within_its_bounds(sparsifier: str, tail: str, vocabulary: int) -> None:
    ways = list(combinations(vocabulary, sparsifier, tail))
    rows = 6 if vocabulary == 300 else 2
    answers = {exponent: {} for exponent in {way.sparsifier.exponent for way in ways}}
    for way in ways:
        answers[way.sparsifier.exponent] = answers[way.sparsifier.exponent] or kept(way, rows)
        check_row(way, answers[way.sparsifier.exponent])


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 1000))
def test_every_preset_comes_back_within_its_bounds(preset: str, seed: int) -> None:
    row = row_of(preset, {}, 300, WIDTH)
    check_row(row, kept(row, 5, seed))


@given(data=st.data(), logprobs=logprob_rows(st.floats(-40, 0, width=32) | st.just(-np.inf)))
def test_listed_and_tail_mass_sum_to_one(data: st.DataObject, logprobs: Array) -> None:
    logprobs[:, 0] = np.maximum(logprobs[:, 0], -40)
    masses = arrays.arrays(np.float32, len(logprobs), elements=st.floats(-30, 0, width=32) | st.just(-np.inf))
    tail = data.draw(masses)
    found, left = normalised(logprobs, tail)
    assert found.dtype == left.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(logprobs))
    np.testing.assert_allclose(np.exp(found).sum(-1) + np.exp(left), 1, atol=1e-5)
    for one, other in zip(normalised(in_torch(logprobs), in_torch(tail)), (found, left), strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-5)
    empty = np.full_like(logprobs, -np.inf)
    np.testing.assert_array_equal(normalised(empty, tail)[0], empty)


def test_a_flat_row_keeps_the_mass_of_its_listed_tokens() -> None:
    row = row_of("small", {"tail": "uniform"}, 300, None)
    answer = kept(row, 3)
    answer["logprobs"][:] = np.log(0.04 / 8)
    answer["tail_logmass"][:] = np.log(0.96)
    targets = Decoder(row, {})({name: torch.from_numpy(value) for name, value in codec_of(row).encode(answer).items()})
    assert isinstance(targets, Targets)
    np.testing.assert_allclose(dense_logprobs(targets).exp().gather(1, targets.ids_NK).sum(1), 0.04, rtol=0.5)


def codec_of(row: RowInfo) -> RowCodec:
    return RowCodec(row=row, shared=shared_of(row))


@given(
    logprobs=st.sampled_from(["float16", "levels-8", "levels-6", "levels-5"]),
    steps=st.lists(st.integers(0, 30), min_size=30, max_size=30),
    step=st.sampled_from([1e-6, 1e-3, 0.05]),
)
def test_the_order_of_the_stored_ids_survives_ties(logprobs: str, steps: list[int], step: float) -> None:
    row = row_of("topk", {"logprobs": logprobs, "k": 9}, 30, None)
    logits = torch.tensor([steps]) * step
    answer = {name: value.numpy() for name, value in sparsifier_of(row)(logits, torch.tensor([0])).items()}
    found = codec_of(row).decode(codec_of(row).encode(answer))
    np.testing.assert_array_equal(found["ids"], answer["ids"])
    kept = [(-float(logits[0, id]), id) for id in answer["ids"][0]]
    assert kept == sorted(kept)
    assert (np.diff(found["logprobs"]) <= 0).all()
    assert (np.diff(normalised(found["logprobs"], found["tail_logmass"])[0]) <= 0).all()


@given(steps=st.lists(st.integers(0, 6), min_size=2, max_size=30), step=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0]))
def test_dense_float16_keeps_the_argmax(steps: list[int], step: float) -> None:
    row = row_of("topk", {"sparsifier": "dense"}, len(steps), None)
    logits = torch.tensor([steps]) * step
    answer = {name: value.numpy() for name, value in sparsifier_of(row)(logits, torch.tensor([0])).items()}
    found = codec_of(row).decode(codec_of(row).encode(answer))
    assert found["logprobs"].argmax(1) == answer["top1"]
    assert logits[0, answer["top1"]] == logits.max()


def test_the_bytes_of_every_codec_are_the_golden_ones() -> None:
    golden: dict[str, Any] = json.loads(make_codecs.CODECS.read_text(encoding="utf-8"))
    assert golden == make_codecs.made()
    assert {case["codec"].split("-")[0] for case in golden["codecs"]} == {
        "bits",
        "levels",
        "log2",
        "codebook",
        "channels",
    }
    for case in golden["codecs"]:
        assert make_codecs.encode(case) == case["bytes"], case["codec"]
    assert golden["presets"].keys() == PRESETS.keys()
    for preset, case in golden["presets"].items():
        assert make_codecs.encode_preset(preset, case["input"]) == case["bytes"], preset
