"""The view of values of a cache in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import logitstore
from logitstore.dump.dump import dump
from tests.parts.texts import plan_for


def test_values_of_a_cache_in_a_bucket_are_read(
    teacher: Path, texts: Path, tmp_path: Path, far: Callable[[str], str]
) -> None:
    plan: dict[str, Any] = {"limit": 4, "samples_per_part": 5}
    near = dump(plan_for(teacher, texts, tmp_path / "near", **plan))
    there = far("cache")
    dump(plan_for(teacher, texts, there, **plan))
    expected = np.concatenate([sample.answer["logprobs"] for sample in near])
    group = zarr.open_group(logitstore.zarr_store(there), mode="r")
    np.testing.assert_array_equal(group["logprobs"][:], expected)
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    np.testing.assert_array_equal(xarray.open_dataset(there, engine="logitstore")["logprobs"].values, expected)
