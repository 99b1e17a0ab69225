"""docs/format.md suffices to read a cache, and other libraries read it too."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.format.row import CodecInfo
from logitstore.store.checks.verify import verify
from tests.golden import make
from tests.parts.specification import assert_same, coded, read_from_the_specification


def test_a_cache_is_read_with_json_numpy_and_pyarrow_alone(cache: logitstore.Cache) -> None:
    assert len(inspect.getsource(read_from_the_specification).splitlines()) <= 50
    assert cache.complete
    assert cache.manifest.parts > 1
    assert_same(read_from_the_specification(cache.path), cache)


def test_a_cache_of_the_preset_small_is_read_by_the_same_fifty_lines(small_preset: logitstore.Cache) -> None:
    codecs = {name: info.codec for name, info in small_preset.manifest.fields.items()}
    assert (codecs["logprobs"], codecs["tail_logmass"], codecs["sketch"]) == ("levels-8", "log2-8", "codebook")
    assert_same(read_from_the_specification(small_preset.path), small_preset)


@pytest.mark.parametrize("tail", ["float32", "log2-16", "log2-8"])
@pytest.mark.parametrize("logprobs", ["float32", "float16", "levels-8", "levels-6", "levels-5"])
@pytest.mark.parametrize("ids", ["plain", "packed"])
def test_every_codec_of_a_listed_row_is_read_by_the_same_fifty_lines(
    tmp_path: Path, ids: Any, logprobs: Any, tail: Any
) -> None:
    cache = coded(tmp_path / "cache", CodecInfo(ids=ids, logprobs=logprobs, tail=tail))
    assert verify(cache.path) == []
    assert_same(read_from_the_specification(cache.path), cache)
    found = np.concatenate([sample.answer["ids"] for sample in cache])
    is_empty = np.isneginf(np.concatenate([sample.answer["logprobs"] for sample in cache]))
    np.testing.assert_array_equal(found[~is_empty], np.array(make.IDS)[~is_empty])


OTHER_LIBRARIES = """
import json, sys
from pathlib import Path
import duckdb, numpy, polars, pyarrow, pyarrow.ipc, zarr

part, expected = Path(sys.argv[1]), Path(sys.argv[2])
columns = json.loads((expected / "columns.json").read_text("utf-8"))
samples = part / "samples.arrow"

asked = pyarrow.ipc.open_file(pyarrow.memory_map(str(samples))).read_all()
assert asked.to_pydict() == columns, "pyarrow"
assert polars.read_ipc(samples).to_dict(as_series=False) == columns, "polars"
read = duckdb.sql("SELECT * FROM asked")
assert dict(zip(read.columns, map(list, zip(*read.fetchall())))) == columns, "duckdb"
totals = duckdb.sql("SELECT sum(row_count), sum(len(tokens)) FROM asked").fetchall()[0]
assert totals == (sum(columns["row_count"]), sum(map(len, columns["tokens"]))), "duckdb"

group = zarr.open_group(str(part / "rows.zarr"), mode="r")
fields = numpy.load(expected / "fields.npz")
assert sorted(group.array_keys()) == sorted(fields), "zarr"
for name in fields:
    numpy.testing.assert_array_equal(group[name][:], fields[name], strict=True)
assert "logitstore" not in sys.modules
print("the same")
"""


def test_polars_duckdb_pyarrow_and_zarr_read_a_cache_without_logitstore(
    cache: logitstore.Cache, tmp_path: Path
) -> None:
    part = cache.part(1)
    samples = [part[index].sample for index in range(len(part.samples))]
    nll = [np.float32(-part[index].answer["gold_logprob"].astype(np.float64).mean()) for index in range(len(samples))]
    columns = {
        "key": [sample.key for sample in samples],
        "tokens": [sample.tokens_T.tolist() for sample in samples],
        "mask": [sample.mask_T.tolist() for sample in samples],
        "domain": [sample.domain for sample in samples],
        "document": [sample.document for sample in samples],
        "window": [sample.window for sample in samples],
        "start": [sample.start for sample in samples],
        "row_start": [part.span(index).start for index in range(len(samples))],
        "row_count": [sample.rows for sample in samples],
        "nll": [float(value) for value in nll],
    }
    (tmp_path / "columns.json").write_text(json.dumps(columns), encoding="utf-8")
    np.savez(tmp_path / "fields.npz", **part.fields)
    command = [sys.executable, "-W", "error", "-c", OTHER_LIBRARIES, str(part.folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("the same\n", "")
