"""The value codecs as codecs of Zarr: the bytes of the specification, both ways, found by their names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.registry import get_codec_class

from logitstore.core.types import Array
from logitstore.format.codecs.zarr_codecs import BitsCodec, LevelsCodec, Log2Codec, ValueCodec

LOGPROBS = [0, -0.25, -1, -2.5, -6, -11.5, -30, -np.inf]
EXAMPLES: list[tuple[ValueCodec, list[float], str, str]] = [
    (BitsCodec(9), [299, 0, 256, 17], "uint16", "2b01008c00"),
    (BitsCodec(9), [299, 0, 256, 17], "int64", "2b01008c00"),
    (LevelsCodec(8), LOGPROBS, "float32", "fff0c788390e0100"),
    (LevelsCodec(6), LOGPROBS, "float32", "ff1e8b0e1100"),
    (LevelsCodec(5), LOGPROBS, "float32", "bfe3784400"),
    (Log2Codec(8), [0, -1, -30, -np.inf], "float32", "fff40100"),
    (Log2Codec(16), [0, -1, -30, -np.inf], "float32", "ffff74f401000000"),
]
"""Those of docs/format.md."""


def stored_by(codec: ValueCodec, values: Array, folder: Path) -> Any:
    return zarr.create_array(folder, data=values, filters=[codec], compressors=None, chunks=values.shape)


@pytest.mark.parametrize(("codec", "values", "dtype", "expected"), EXAMPLES)
def test_zarr_stores_the_bytes_of_the_specification_and_reads_them(
    codec: ValueCodec, values: list[float], dtype: str, expected: str, tmp_path: Path
) -> None:
    row = np.array(values, dtype)
    many = np.stack([row, row[::-1], row]) if codec.packs else row
    stored_by(codec, many, tmp_path / "array")
    raw = (tmp_path / "array" / "c" / "/".join("0" * many.ndim)).read_bytes()
    assert raw[: len(expected) // 2].hex() == expected
    assert len(raw) == len(expected) // 2 * (3 if codec.packs else 1)
    found = zarr.open_array(tmp_path / "array", mode="r")
    assert found.dtype == dtype
    assert found.metadata.codecs[0] == codec
    rows = np.frombuffer(raw, "<u2" if codec == Log2Codec(16) else "u1")
    decoded = codec.codec(len(values)).decode(rows.reshape(len(many), -1) if codec.packs else rows)
    np.testing.assert_array_equal(found[:], decoded)
    if dtype != "float32":
        np.testing.assert_array_equal(found[:], many)


def test_a_process_that_knows_zarr_alone_finds_the_codecs_by_their_names(tmp_path: Path) -> None:
    values = np.array([[0.0, -0.25, -1.0, -np.inf]], np.float32)
    stored_by(LevelsCodec(6), values, tmp_path / "array")
    code = (
        f"import zarr; print(zarr.open_array({str(tmp_path / 'array')!r}, mode='r')[0].astype('f8').round(3).tolist())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[0.0, -0.262, -1.005, -inf]\n", "")


@pytest.mark.parametrize("kind", [BitsCodec, LevelsCodec, Log2Codec])
def test_the_names_lead_to_the_codecs(kind: type[ValueCodec]) -> None:
    assert get_codec_class(kind.name) is kind
    for bits in kind.widths:
        assert kind.from_dict(kind(bits).to_dict()) == kind(bits)


@pytest.mark.parametrize(
    ("kind", "configuration"),
    [
        (BitsCodec, {"bits": 0}),
        (BitsCodec, {"bits": 25}),
        (BitsCodec, {"bits": 8.0}),
        (BitsCodec, {"bits": True}),
        (LevelsCodec, {"bits": 7}),
        (LevelsCodec, {"bits": "8"}),
        (Log2Codec, {"bits": 9}),
        (Log2Codec, {}),
        (Log2Codec, None),
        (Log2Codec, {"bits": 8, "more": 1}),
    ],
)
def test_an_entry_that_no_writer_makes_is_refused(kind: type[ValueCodec], configuration: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bits"):
        kind.from_dict({"name": kind.name, "configuration": configuration})
    stored_by(BitsCodec(4), np.ones((2, 3), np.uint8), tmp_path / "array")
    path = tmp_path / "array" / "zarr.json"
    document = json.loads(path.read_text())
    document["codecs"][0] = {"name": kind.name, "configuration": configuration}
    path.write_text(json.dumps(document))
    with pytest.raises((ValueError, TypeError), match=r"bits|Expected dict"):
        zarr.open_array(tmp_path / "array", mode="r")


@pytest.mark.parametrize(
    ("codec", "values", "match"),
    [
        (LevelsCodec(8), np.zeros((2, 2), np.float16), "an array of float16; it is for float32"),
        (Log2Codec(8), np.zeros(2, np.int32), "an array of int32"),
        (BitsCodec(8), np.zeros((2, 2), np.float32), "an array of float32"),
        (BitsCodec(8), np.array(3, np.uint8), "an array without axes"),
    ],
)
def test_an_array_of_another_kind_is_refused(codec: ValueCodec, values: Array, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        stored_by(codec, values, tmp_path / "array")


def test_a_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        stored_by(BitsCodec(3), np.full((2, 2), 8, np.uint8), tmp_path / "array")


def test_numbers_lie_along_the_last_axis_of_any_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 17, (3, 4, 5), np.uint32)
    array = zarr.create_array(tmp_path / "array", data=values, filters=[BitsCodec(17)], chunks=(2, 4, 5))
    np.testing.assert_array_equal(array[:], values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "array", mode="r")[2, 1:3], values[2, 1:3])
