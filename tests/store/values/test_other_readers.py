"""xarray sees values, and tensorstore the bytes that docs/format.md describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.format.codecs.answer import RowCodec
from logitstore.settings.convert import RecodeSettings
from tests.golden import make


def values_of(cache: logitstore.Cache) -> dict[str, Any]:
    return {name: np.concatenate([sample.answer[name] for sample in cache]) for name in cache.manifest.fields}


@pytest.fixture
def xarray() -> Any:
    return pytest.importorskip("xarray", reason="xarray is not installed")


@pytest.mark.parametrize("way", ["open_zarr", "by engine", "by folder"])
def test_xarray_shows_the_values_of_a_small_cache(xarray: Any, small_preset: logitstore.Cache, way: str) -> None:
    if way == "open_zarr":
        found = xarray.open_zarr(logitstore.zarr_store(small_preset.path))
    else:
        found = xarray.open_dataset(small_preset.path, engine="logitstore" if way == "by engine" else None)
    for name, expected in values_of(small_preset).items():
        np.testing.assert_array_equal(found[name].values.astype(expected.dtype), expected)
    assert found["ids"].dims == found["logprobs"].dims == ("row", "slot")
    assert (found["ids"].dtype, found["logprobs"].dtype) == ("uint16", "float32")
    assert found.attrs["plan"] == small_preset.manifest.identity
    third = found.where(found["sample"] == 3, drop=True)
    np.testing.assert_array_equal(third["logprobs"].values, small_preset[3].answer["logprobs"])
    assert found["entropy"].attrs["unit"] == "nat"


def test_xarray_reads_only_the_rows_that_are_asked_for(xarray: Any, small_preset: logitstore.Cache) -> None:
    found = xarray.open_dataset(small_preset.path, drop_variables=["sketch"])
    assert "sketch" not in found
    some = found.isel(row=slice(10, 13))
    np.testing.assert_array_equal(some["logprobs"].values, values_of(small_preset)["logprobs"][10:13])


def test_xarray_does_not_take_other_folders_for_caches(xarray: Any, tmp_path: Path) -> None:
    from logitstore.store.values.xarray_engine import CacheBackend  # noqa: PLC0415

    backend = CacheBackend()
    assert backend.guess_can_open(make.CACHE)
    assert backend.guess_can_open(str(make.CACHE))
    for other in (tmp_path, tmp_path / "none", "s3://bucket/cache", make.CACHE / "cache.json", object()):
        assert not backend.guess_can_open(other)


@pytest.mark.parametrize("layout", ["mapped", "archive"])
def test_tensorstore_reads_the_documented_bytes(small_preset: logitstore.Cache, tmp_path: Path, layout: Any) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    cache = small_preset
    if layout == "archive":
        from logitstore.convert.recode import recode  # noqa: PLC0415

        cache = recode(RecodeSettings(cache=cache.path, out=tmp_path / "archive", layout="archive"))
    for number in cache.part_numbers:
        part = cache.part(number)
        stored = {}
        for name in cache.manifest.fields:
            store = {"driver": "file", "path": f"{part.folder / 'rows.zarr' / name}/"}
            stored[name] = tensorstore.open({"driver": "zarr3", "kvstore": store}, read=True).result().read().result()
            np.testing.assert_array_equal(stored[name], small_preset.part(number).fields[name], strict=True)
        decoded = RowCodec(row=cache.manifest.row).readable(stored)
        first = part[0].answer
        for name, values in decoded.items():
            np.testing.assert_array_equal(values[: len(first[name])], first[name])


def test_xarray_without_us_refuses_a_small_part_unless_arrays_are_left_out(
    xarray: Any, small_preset: logitstore.Cache
) -> None:
    """So says docs/readers.md."""
    part = small_preset.part(0)
    folder = str(part.folder / "rows.zarr")
    with pytest.raises(ValueError, match="axis1"):
        xarray.open_zarr(folder, consolidated=False)
    found = xarray.open_zarr(folder, consolidated=False, drop_variables=["ids", "sketch"])
    np.testing.assert_array_equal(found["logprobs"].values, part.fields["logprobs"])
