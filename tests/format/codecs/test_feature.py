"""The codecs of features: within their rounding, alike in NumPy and torch, as the specification says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from logitstore.dump.add import add
from logitstore.dump.fit import moments_for, shared_of
from logitstore.format.codecs.feature import FeatureCodec
from logitstore.format.tap import TapInfo, tap_fields
from logitstore.settings.dump import AddSettings
from logitstore.store.cache import Cache
from tests.parts.taps import decoded


@pytest.mark.parametrize(
    ("codec", "most"), [("bfloat16", 2**-8), ("float16", 2**-10), ("int8", 0.05), ("pca-31", 0.3), ("pca-32", 1e-3)]
)
def test_a_codec_returns_the_feature_within_its_rounding(
    codec: str, most: float, bare_copy: Path, tapped: Path
) -> None:
    """Relative to the size of a row; pca with as many directions as channels loses nothing but float16."""
    cache = add(AddSettings(cache=bare_copy, hidden="1", tap_codec=codec, device="cpu"))
    for index in range(len(cache)):
        found_ND, exact_ND = decoded(cache, "hidden-1", index), decoded(Cache(tapped), "hidden-1", index)
        error = np.linalg.norm(found_ND - exact_ND, axis=1) / np.linalg.norm(exact_ND, axis=1)
        assert error.max() < most
    assert cache.taps["hidden-1"].info.bytes_per_row == {"int8": 34, "pca-31": 62}.get(codec, 64)


floats = arrays.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(values_ND=floats)
@pytest.mark.parametrize("codec", ["bfloat16", "float16", "float32"])
def test_floats_are_rounded_to_the_nearest_but_never_to_infinity(codec: str, values_ND: Any) -> None:
    usual_ND = torch.from_numpy(values_ND).to(getattr(torch, codec)).float()
    made = codec_of(codec, 5)
    found_ND = made.decode(made.encode(torch.from_numpy(values_ND)))
    assert torch.isfinite(found_ND).all()
    assert torch.equal(found_ND[torch.isfinite(usual_ND)], usual_ND[torch.isfinite(usual_ND)])


def codec_of(codec: str, width: int, **shared: Any) -> FeatureCodec:
    info = TapInfo.model_construct(codec=codec, width=width, fields=tap_fields(codec, width))
    return FeatureCodec(info=info, shared=shared)


@pytest.mark.parametrize("codec", ["bfloat16", "float16", "float32", "int8", "pca-3"])
def test_a_feature_is_decoded_alike_in_numpy_and_torch(codec: str) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32) * [1, 5, 0.1, 1, 2, 3]
    moments = moments_for(codec, 6)
    moments.add(torch.from_numpy(rows_ND.astype(np.float32)))
    shared = (
        {name: value.numpy() for name, value in shared_of(codec, moments).items()} if codec in ("int8", "pca-3") else {}
    )
    made = codec_of(codec, 6, **shared)
    stored = {name: value.numpy() for name, value in made.encode(torch.from_numpy(rows_ND.astype(np.float32))).items()}
    assert {name: value.dtype.name for name, value in stored.items()} == {
        name: field.dtype for name, field in made.info.fields.items()
    }
    if codec != "bfloat16":
        in_numpy = made.encode(rows_ND.astype(np.float32))
        assert all(np.array_equal(in_numpy[name], value) or codec == "pca-3" for name, value in stored.items())
    in_torch = made.decode({name: torch.from_numpy(value) for name, value in stored.items()})
    assert in_torch.dtype == torch.float32
    np.testing.assert_allclose(in_torch.numpy(), made.decode(stored), rtol=1e-5, atol=1e-5)


def test_the_page_is_enough_to_read_a_tap(bare_copy: Path) -> None:
    """docs/format.md, "taps/": JSON, a checksum, bytes; nothing of this package but for the cache's own identity."""
    plan = Cache(bare_copy).manifest.identity
    add(AddSettings(cache=bare_copy, hidden="final", tap_codec="int8", device="cpu"))
    folder = bare_copy / "taps" / "final"
    said = json.loads((folder / "tap.json").read_text())
    del said["checksum"]
    assert list(said) == ["format", "version", "plan", "name", "width", "codec", "pilot_rows", "fields", "shared"]
    assert (said["plan"], said["name"], said["codec"], said["width"]) == (plan, "final", "int8", 32)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record = json.loads((folder / "parts/00001/part.json").read_text())
    assert record["plan"] == xxhash.xxh3_128_hexdigest(text.encode())
    assert record["sums"]["entropy_histogram"] == []
    assert record["fidelity"]["rows"] == 0
    assert record["rows"] == Cache(bare_copy).part(1).record.rows
    (shared,) = folder.glob("shared/*")
    assert shared.name == f"codec-{xxhash.xxh3_64_hexdigest(shared.read_bytes())}.safetensors"
    values_ND = np.fromfile(folder / "parts/00001/rows.zarr/values/c/0/0", np.int8).reshape(-1, 32)
    scale_N = np.fromfile(folder / "parts/00001/rows.zarr/scale/c/0", "<f2")
    statistics = safetensors.numpy.load_file(shared)
    by_hand_ND = statistics["mean"] + statistics["std"] * (scale_N.astype(np.float32)[:, None] * values_ND)
    tap = Cache(bare_copy).taps["final"]
    np.testing.assert_allclose(by_hand_ND, tap.codec.decode(tap.part(1)), rtol=1e-6, atol=1e-6)


def test_the_example_of_the_page_has_these_bytes() -> None:
    stored = codec_of("bfloat16", 3).encode(torch.tensor([[1, -2.5, 3.0e38]]))
    assert stored["values"].numpy().astype("<u2").tobytes().hex(" ") == "80 3f 20 c0 62 7f"
