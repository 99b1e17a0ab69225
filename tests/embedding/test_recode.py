"""Vectors in the other layout: the same values, the same bytes after a way back, and what has no effect on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.tap_names import FINAL
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.train.loader.loader import Loader
from tests.parts.commands import Command, Refused
from tests.parts.files import tree
from tests.parts.vectors import vectors_plan


def stored(cache: logitstore.Cache, field: str = "values") -> np.ndarray:
    return np.concatenate([cache.taps[FINAL].part(number)[field] for number in cache.part_numbers])


def recoded(source: object, out: Path, layout: str | None) -> logitstore.Cache:
    made = recode(RecodeSettings(cache=source, out=out, layout=layout))
    assert made.complete
    assert verify(out) == []
    return made


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "float32", "int8", "pca-5"])
def test_to_the_archive_and_back_every_byte_is_the_same(judge: Path, pairs: Path, tmp_path: Path, codec: str) -> None:
    source = dump(vectors_plan(judge, pairs, tmp_path / "source", tap_codec=codec, score_columns="score"))
    archive = recoded(source.path, tmp_path / "archive", "archive")
    assert archive.taps[FINAL].info.layout == "archive"
    for field in source.taps[FINAL].info.fields:
        np.testing.assert_array_equal(stored(archive, field), stored(source, field))
    group = zarr.open_group(str(tmp_path / "archive/taps/final/parts/00001/rows.zarr"), mode="r")
    assert len(group["values"].compressors) == 1
    np.testing.assert_array_equal(group["values"][...], source.taps[FINAL].part(1)["values"])
    back = recoded(archive.path, tmp_path / "back", "mapped")
    before, after = tree(Path(source.path)), tree(Path(back.path))
    assert before.pop("cache.json") != after.pop("cache.json")  # it names the plan that it was recoded from
    assert before == after
    assert tree(Path(recoded(back.path, tmp_path / "again", "archive").path) / "taps") == tree(
        Path(archive.path) / "taps"
    )


def test_vectors_that_repeat_each_other_take_fewer_bytes_in_an_archive(judge: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the same words"}\n' * 400)
    source = dump(vectors_plan(judge, texts, tmp_path / "source", samples_per_part=400))
    archive = recoded(source.path, tmp_path / "archive", "archive")
    sizes = [cache.taps[FINAL].index.bytes_below("rows.zarr/values/c/") for cache in (source, archive)]
    assert sizes[0] == 400 * 64
    assert sizes[1] < 0.1 * sizes[0]


def test_a_dump_and_a_mean_in_the_archive_layout_compress_the_vectors_too(
    vector_cache: logitstore.Cache, judge: Path, pairs: Path, tmp_path: Path
) -> None:
    dumped = dump(
        vectors_plan(judge, pairs, tmp_path / "dump", score_columns="score", normalise=True, layout="archive")
    )
    assert dumped.taps[FINAL].info.layout == "archive"
    assert verify(dumped.path) == []
    np.testing.assert_array_equal(stored(dumped), stored(vector_cache))
    archive = recoded(vector_cache.path, tmp_path / "archive", "archive")
    kept = {name: content for name, content in tree(Path(archive.path)).items() if "rows.zarr" in str(name)}
    assert kept == {name: content for name, content in tree(Path(dumped.path)).items() if "rows.zarr" in str(name)}
    mean = merge(MergeSettings(caches=[vector_cache.path, archive.path], out=tmp_path / "mean", layout="archive"))
    assert mean.taps[FINAL].info.layout == "archive"
    np.testing.assert_allclose(stored(mean).astype(np.float32), stored(vector_cache).astype(np.float32), atol=1e-3)


def test_a_recode_that_was_stopped_goes_on_with_the_same_bytes(vector_cache: logitstore.Cache, tmp_path: Path) -> None:
    whole = tree(Path(recoded(vector_cache.path, tmp_path / "out", "archive").path))
    for lost in ("parts/00001", "taps/final/parts/00003"):
        shutil.rmtree(tmp_path / "out" / lost)
    (tmp_path / "out/taps/final/parts/00000/part.json").unlink()
    assert tree(Path(recoded(vector_cache.path, tmp_path / "out", "archive").path)) == whole
    shutil.rmtree(tmp_path / "out/taps")
    assert not Cache(tmp_path / "out").complete
    assert tree(Path(recoded(vector_cache.path, tmp_path / "out", "archive").path)) == whole
    with pytest.raises(CacheMismatch, match=r"codec\.layout = archive"):
        recode(RecodeSettings(cache=vector_cache.path, out=tmp_path / "out", layout="mapped"))


def test_an_archive_of_vectors_gives_the_same_batches(vector_cache: logitstore.Cache, tmp_path: Path) -> None:
    archive = recoded(vector_cache.path, tmp_path / "archive", "archive")
    mapped, packed = (Loader(cache, batch_size=8, seed=3, taps=[FINAL]) for cache in (vector_cache, archive))
    for one, other in zip(mapped, packed, strict=True):
        np.testing.assert_array_equal(mapped.features(one)[FINAL], packed.features(other)[FINAL])


def test_a_flipped_byte_of_a_compressed_vector_is_found(vector_cache: logitstore.Cache, tmp_path: Path) -> None:
    recoded(vector_cache.path, tmp_path / "out", "archive")
    chunk = tmp_path / "out/taps/final/parts/00002/rows.zarr/values/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert [(problem.tap, problem.part) for problem in verify(tmp_path / "out")] == [(FINAL, 2)]


@pytest.mark.parametrize(
    "option",
    [
        {"k": 2},
        {"preset": "small"},
        {"tail": "none"},
        {"logprobs": "float16"},
        {"sparsifier": "topk"},
        {"rounding": "row"},
    ],
)
def test_what_has_no_effect_on_vectors_is_one_line(
    vector_cache: logitstore.Cache, tmp_path: Path, option: dict[str, object]
) -> None:
    with pytest.raises(BadInput, match=r"about distributions, and .* keeps a vector of each text; --layout alone"):
        recode(RecodeSettings(cache=vector_cache.path, out=tmp_path / "out", **option))
    assert not (tmp_path / "out").exists()


def test_vectors_that_are_not_all_there_are_refused(
    vector_cache: logitstore.Cache, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(vector_cache.path, tmp_path / "source")
    shutil.rmtree(tmp_path / "source/taps/final/parts/00003")
    line = refused("recode", tmp_path / "source", "--layout", "archive", "--out", tmp_path / "out")
    assert "lacks 1 of its parts, the first 00003" in line
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_was_made(
    vector_cache: logitstore.Cache, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("recode", vector_cache.path, "--layout", "archive", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "not carried over" not in said.out
    made = Cache(tmp_path / "out")
    on_disk = sum(
        path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file() and "parts" in path.parts
    )
    on_disk -= sum(path.stat().st_size for path in (tmp_path / "out").rglob("part.json"))
    assert f"44 rows of 44 samples, {on_disk / len(made):.1f} B/row on disk" in said.out
