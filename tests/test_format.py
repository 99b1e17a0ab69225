"""docs/format.md suffices to read a cache, other libraries do; flipped bits and hostile paths are refused."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import safetensors.numpy
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.cache import layout
from logitstore.cache.part_writer import PartWriter
from logitstore.cache.rows_file import map_rows
from logitstore.cache.verify import repair, verify
from logitstore.chance import DRAWS, FIDELITY, uniform
from logitstore.codecs.answer import AnswerCodec, normalised
from logitstore.codecs.bits import Bits
from logitstore.codecs.channels import Channels
from logitstore.codecs.codebook import Codebook
from logitstore.codecs.levels import Levels
from logitstore.codecs.log2 import Log2
from logitstore.decode import decoder_of, shared_shapes
from logitstore.dump import dump
from logitstore.errors import CacheDamaged, LogitstoreError, NotACache
from logitstore.fidelity import NAMES
from logitstore.fields import CodecInfo, row_fields
from logitstore.manifest import MANIFEST_NAME, Fidelity, Manifest, PartRecord
from logitstore.plans import DumpPlan
from logitstore.presets import PRESETS, row_of
from logitstore.sealed import is_sealed, seal, unseal
from logitstore.tails import FixedTail
from logitstore.targets import Targets, dense
from logitstore.types import Answer
from tests.conftest import plan_for, tree
from tests.golden import make, make_views

SPECIFICATION = (Path(__file__).parents[1] / "docs" / "format.md").read_text("utf-8")
GOLDEN = make.CACHE


# -------------------- a reader from the specification


def read_from_the_specification(folder: Path) -> list[dict[str, Any]]:
    """All samples of a mapped cache, each with its columns and its rows; what needs shared tensors stays as stored."""
    plan = json.loads((folder / "cache.json").read_bytes())
    assert (plan["format"], plan["version"], plan["codec"]["layout"]) == ("logitstore", 1, "mapped")
    slots = plan["sparsifier"]["k"] + (plan["sparsifier"]["draws"] or 0)

    def decoded(raw: Any, codec: str) -> Any:
        kind, _, bits = codec.partition("-")
        if kind not in ("bits", "levels", "log2"):
            return raw
        top = (1 << int(bits)) - 1
        if kind == "bits" or (kind == "levels" and bits != "8"):
            ones = np.unpackbits(raw, axis=1, bitorder="little")[:, : slots * int(bits)]
            raw = ones.reshape(len(raw), slots, int(bits)) @ (1 << np.arange(int(bits)))
        if kind == "bits":
            return raw
        level = np.arange(1, top + 1)
        table = 4 * np.log(level / top) if kind == "levels" else -32 * (top - level) / (top - 1) * np.log(2)
        return np.concatenate([[-np.inf], table]).astype("f4")[raw]

    found = []
    for part in range(-(-plan["samples"] // plan["samples_per_part"])):
        here = folder / "parts" / f"{part:05d}"
        if not (here / "part.json").is_file():
            continue
        record = json.loads((here / "part.json").read_bytes())
        rows = {}
        for name, field in plan["fields"].items():
            shape = (record["rows"], *field["shape"])
            chunk = here / "rows.zarr" / name / "/".join(["c"] + ["0"] * len(shape))
            dtype = np.dtype(field["dtype"]).newbyteorder("<")
            stored = np.frombuffer(chunk.read_bytes(), dtype).reshape(shape)
            rows[name] = decoded(stored, field["codec"])
        for sample in pa.ipc.open_file(here / "samples.arrow").get_batch(0).to_pylist():
            span = slice(sample["row_start"], sample["row_start"] + sample["row_count"])
            found.append(sample | {name: array[span] for name, array in rows.items()})
    return found


def assert_same(found: list[dict[str, Any]], cache: logitstore.Cache) -> None:
    assert len(found) == len(cache) > 0
    for theirs, ours in zip(found, cache, strict=True):
        sample = ours.sample
        assert theirs["tokens"] == sample.tokens_T.tolist()
        assert theirs["mask"] == sample.mask_T.tolist()
        for name in ("key", "domain", "document", "window", "start"):
            assert theirs[name] == getattr(sample, name)
        assert theirs["row_count"] == sample.rows
        assert ours.answer.fields.keys() == cache.manifest.fields.keys()
        for name, array in ours.answer.fields.items():
            # a table of float32 may be off by its last bit; what is stored may not
            slack = 1e-6 if cache.manifest.fields[name].codec.startswith(("levels", "log2")) else 0.0
            assert theirs[name].dtype == array.dtype
            np.testing.assert_allclose(theirs[name], array, rtol=slack, atol=slack)


def test_a_cache_is_read_with_json_numpy_and_pyarrow_alone(cache: logitstore.Cache) -> None:
    assert len(inspect.getsource(read_from_the_specification).splitlines()) <= 50
    assert cache.complete
    assert cache.manifest.parts > 1
    assert_same(read_from_the_specification(cache.path), cache)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache of the preset `small`; do not change it."""
    return dump(packed_plan(teacher, texts, tmp_path_factory.mktemp("small") / "cache", "small"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """The same cache in the preset `archive`; do not change it."""
    return dump(packed_plan(teacher, texts, tmp_path_factory.mktemp("archive") / "cache", "archive"))


def packed_plan(teacher: Path, texts: Path, out: Path, preset: str) -> DumpPlan:
    """A few parts, quickly made."""
    changes: dict[str, Any] = {"limit": 8, "samples_per_part": 12, "pilot_rows": 400, "fidelity_rows": 50}
    return plan_for(teacher, texts, out, preset=preset, **changes)


def test_a_cache_of_the_preset_small_is_read_by_the_same_fifty_lines(small: logitstore.Cache) -> None:
    codecs = {name: info.codec for name, info in small.manifest.fields.items()}
    assert (codecs["logprobs"], codecs["tail_logmass"], codecs["sketch"]) == ("levels-8", "log2-8", "codebook")
    assert_same(read_from_the_specification(small.path), small)


def coded(folder: Path, codec: CodecInfo) -> logitstore.Cache:
    """The golden cache in other codecs."""
    plain = make.manifest()
    described = row_fields(plain.sparsifier, plain.tail, codec, plain.teacher.vocabulary)
    plan = plain.model_copy(update={"codec": codec, "fields": described})
    stored = AnswerCodec(row=plan.row).encode(make.fields())
    layout.write_whole(folder / "shared" / "notes.txt", make.NOTES)
    layout.write_first(folder / MANIFEST_NAME, seal(plan))
    done = 0
    for part in range(plan.parts):
        samples = make.samples()[part * make.SAMPLES_PER_PART : (part + 1) * make.SAMPLES_PER_PART]
        with PartWriter(folder, plan, part, samples) as writer:
            for index, sample in enumerate(samples):
                span = slice(done, done + sample.rows)
                some = [{name: array[span] for name, array in rows.items()} for rows in (stored, make.facts())]
                writer.write(index, Answer(fields=some[0]), Answer(fields=some[1]))
                done += sample.rows
            writer.commit(Fidelity())
    return logitstore.open(folder)


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


# -------------------- the archive layout

ZARR_ALONE = """
import sys
from pathlib import Path
import numpy, zarr

cache, expected = Path(sys.argv[1]), Path(sys.argv[2])
for part in sorted((cache / "parts").iterdir()):
    group = zarr.open_group(str(part / "rows.zarr"), mode="r")
    fields = numpy.load(expected / f"{part.name}.npz")
    assert sorted(group.array_keys()) == sorted(fields), "zarr"
    for name in fields:
        assert group[name].chunks[0] == min(group[name].shape[0], 16384)
        numpy.testing.assert_array_equal(group[name][:], fields[name], strict=True)
assert "logitstore" not in sys.modules
print("the same")
"""


def test_zarr_alone_reads_an_archive_and_finds_what_the_mapped_layout_holds(
    small: logitstore.Cache, archive: logitstore.Cache, tmp_path: Path
) -> None:
    assert archive.manifest.codec.layout == "archive"
    assert archive.part_numbers == small.part_numbers
    for number in small.part_numbers:
        np.savez(tmp_path / f"{number:05d}.npz", **small.part(number).fields)
    command = [sys.executable, "-W", "error", "-c", ZARR_ALONE, str(archive.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("the same\n", "")


def test_an_archive_gives_the_samples_and_rows_of_the_mapped_cache(
    small: logitstore.Cache, archive: logitstore.Cache
) -> None:
    assert verify(archive.path) == []
    assert archive.sums == small.sums
    for theirs, ours in zip(small, archive, strict=True):
        assert ours.sample.key == theirs.sample.key
        assert ours.answer.fields.keys() == theirs.answer.fields.keys()
        for name, array in ours.answer.fields.items():
            np.testing.assert_array_equal(array, theirs.answer[name], strict=True)


ARRAYS = ["ids", "logprobs", "tail_logmass", "sketch", "gold_logprob", "entropy"]


@pytest.mark.parametrize("field", ARRAYS)
def test_a_truncated_chunk_of_an_archive_is_refused_and_reported(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    os.truncate(chunk, chunk.stat().st_size - 1)
    (problem,) = verify(folder)
    assert (problem.part, problem.file) == (1, chunk.relative_to(folder).as_posix())
    with pytest.raises(CacheDamaged, match=f"rows.zarr/{field}/c/"):
        logitstore.open(folder).part(1)


@pytest.mark.parametrize("field", ARRAYS)
def test_a_flipped_bit_in_a_chunk_of_an_archive_is_reported(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    whole = chunk.read_bytes()
    for place in {0, 5, 16, len(whole) // 2, len(whole) - 1}:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        chunk.write_bytes(changed)
        (problem,) = verify(folder)
        assert (problem.part, problem.file) == (1, chunk.relative_to(folder).as_posix()), place
    chunk.write_bytes(whole)
    assert verify(folder) == []


@pytest.mark.parametrize("field", ARRAYS)
def test_a_chunk_that_cannot_be_decompressed_is_refused_when_its_rows_are_asked_for(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)
    part = logitstore.open(folder).part(1)
    with pytest.raises(CacheDamaged, match=rf"rows\.zarr/{field}.*does not hold"):
        part[0]


def with_chunk(cache: logitstore.Cache, tmp_path: Path, field: str) -> tuple[Path, Path]:
    """A copy of an archive, and one of its chunks."""
    folder = Path(shutil.copytree(cache.path, tmp_path / "copy"))
    (chunk,) = (path for path in (folder / f"parts/00001/rows.zarr/{field}/c").rglob("*") if path.is_file())
    return folder, chunk


BARE = [{"name": "bytes", "configuration": {"endian": "little"}}]


@pytest.mark.parametrize(
    "codecs",
    [
        BARE,
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, *BARE],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, *BARE, {"name": "zstd"}],
        [
            {"name": "transpose", "configuration": {"order": [1, 0]}},
            *BARE,
            {"name": "gzip", "configuration": {"level": 9}},
        ],
        [],
        None,
    ],
    ids=["bare", "no compressor", "zstd", "gzip", "none", "null"],
)
def test_an_archive_whose_metadata_name_other_codecs_is_refused(
    archive: logitstore.Cache, tmp_path: Path, codecs: object
) -> None:
    folder, _ = with_chunk(archive, tmp_path, "ids")
    path = folder / "parts/00001/rows.zarr/ids/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"codecs": codecs}))
    size = {"bytes": path.stat().st_size}
    tamper(folder / "parts/00001/part.json", lambda record: record["files"]["rows.zarr/ids/zarr.json"].update(size))
    part = logitstore.open(folder).part(1)
    with pytest.raises(CacheDamaged, match=r"ids/zarr\.json"):
        part[0]


def recodec(plan: dict[str, Any], name: str, codec: str) -> None:
    plan["fields"][name]["codec"] = codec


@pytest.mark.parametrize("name", ["ids", "logprobs", "tail_logmass", "sketch"])
def test_a_plan_whose_field_has_another_codec_is_refused(small: logitstore.Cache, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(small.path, tmp_path / "copy"))
    found = small.manifest.fields[name].codec
    for codec in {"plain", "bits-9", "levels-8", "levels-5", "log2-8", "codebook", "zip"} - {found}:
        tamper(folder / "cache.json", functools.partial(recodec, name=name, codec=codec))
        with pytest.raises(CacheDamaged, match=f"the field '{name}'"):
            logitstore.open(folder)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("codec", {"logprobs": "levels-7"}),
        ("codec", {"tail": "log2-4"}),
        ("codec", {"layout": "zip"}),
        ("codec", {"novelty": 1}),
        ("sparsifier", {"name": "topq"}),
        ("sparsifier", {"draws": 4}),
        ("sparsifier", {"k": 0}),
        ("sparsifier", {"k": 100_000}),
        ("tail", {"shape": "head"}),
        ("tail", {"bytes": None}),
        ("tail", {"width": 32}),
    ],
)
def test_a_plan_whose_parts_do_not_fit_together_is_refused(
    small: logitstore.Cache, tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(small.path, tmp_path / "copy"))
    tamper(folder / "cache.json", lambda plan: plan[section].update(change))
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)


# -------------------- what the specification says of the files


def checksum_of(raw: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(raw[:-36] + b"0" * 32 + raw[-4:])


def identity_of(plan: dict[str, Any]) -> str:
    left_out = {"created_by", "recoded_from", "merged_from", "views", "checksum"}
    essence = {key: value for key, value in plan.items() if key not in left_out and (key, value) != ("view", None)}
    essence["teacher"] = {key: value for key, value in plan["teacher"].items() if key not in ("name", "revision")}
    essence["data"] = {key: value for key, value in plan["data"].items() if key not in ("source", "limit")}
    text = json.dumps(essence, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode())


@pytest.mark.parametrize("which", ["dumped", "golden"])
def test_checksum_and_identity_follow_from_the_specification(cache: logitstore.Cache, which: str) -> None:
    folder = cache.path if which == "dumped" else GOLDEN
    plan = json.loads((folder / "cache.json").read_bytes())
    for path in (folder / "cache.json", *folder.glob("parts/*/part.json")):
        raw = path.read_bytes()
        assert raw.endswith(f'"checksum": "{checksum_of(raw)}"\n}}\n'.encode())
    records = [json.loads(path.read_bytes()) for path in folder.glob("parts/*/part.json")]
    assert {record["plan"] for record in records} == {identity_of(plan)}
    assert sum(record["rows"] for record in records) == plan["rows"]
    assert sum(record["tokens"] for record in records) == plan["tokens"]
    for record in records:
        files = tree(folder / "parts" / f"{record['part']:05d}")
        del files["part.json"]
        seals = {name: (len(raw), xxhash.xxh3_128_hexdigest(raw)) for name, raw in files.items()}
        assert {name: (sealed["bytes"], sealed["xxh3_128"]) for name, sealed in record["files"].items()} == seals


def test_names_of_shared_files_carry_the_hash_of_their_contents(cache: logitstore.Cache) -> None:
    shared = {name: content for name, content in tree(cache.path).items() if name.startswith("shared/")}
    assert shared.keys() == cache.manifest.shared.keys()
    for name, content in shared.items():
        what, _, rest = name.removeprefix("shared/").partition("-")
        if what == "tokenizer":
            folder = name.split("/")[1]
            content = b"".join(shared[file] for file in sorted(shared) if file.startswith(f"shared/{folder}/"))
        assert rest[:16] == xxhash.xxh3_64_hexdigest(content)
    tail = cache.manifest.tail
    assert tail.file is not None
    prior_V = safetensors.numpy.load(shared[tail.file])
    assert {name: (array.dtype, array.shape) for name, array in prior_V.items()} == {
        "prior": (np.float32, (cache.manifest.teacher.vocabulary,))
    }


def test_sample_keys_and_fingerprints_follow_from_the_specification(cache: logitstore.Cache) -> None:
    digest = xxhash.xxh3_128()
    for sample in read_from_the_specification(cache.path):
        tokens = np.array(sample["tokens"], "<u4").tobytes()
        assert sample["key"] == xxhash.xxh3_128_hexdigest(tokens)
        stop = sample["start"] + len(sample["tokens"])
        digest.update(f"{sample['document']} {sample['start']} {stop} {sample['domain'] or ''}\n".encode())
        digest.update(tokens)
        digest.update(np.packbits(np.array(sample["mask"], np.bool_)).tobytes())
    assert cache.manifest.data.fingerprint == digest.hexdigest()
    (vocabulary,) = cache.path.glob("shared/vocabulary-*.arrow")
    pieces = pa.ipc.open_file(vocabulary).read_all().column("piece").to_pylist()
    text = b"".join(piece.encode() + b"\0" for piece in pieces)
    assert cache.manifest.tokenizer.fingerprint == xxhash.xxh3_128_hexdigest(text)
    assert cache.manifest.tokenizer.size == len(pieces)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("shape", ["prior", "uniform"])
def test_the_decoding_of_the_specification_is_what_students_are_given(
    cache: logitstore.Cache, shape: str, temperature: float
) -> None:
    answer = cache[3].answer
    ids_NK, tail_N = answer["ids"].astype(np.int64), answer["tail_logmass"]
    vocabulary = cache.manifest.teacher.vocabulary
    tail = decoder_of(cache).tail
    assert isinstance(tail, FixedTail)
    prior_V = np.exp(tail.log_prior_V.numpy()) if shape == "prior" else np.ones(vocabulary)

    stored_NK = np.exp(answer["logprobs"].astype(np.float64))
    mass_N = np.exp(tail_N.astype(np.float64))
    p_NV = np.tile(prior_V, (len(ids_NK), 1))
    np.put_along_axis(p_NV, ids_NK, 0.0, 1)
    keeps_tail_N = mass_N <= 0.5
    listed_N = np.where(keeps_tail_N, 1 - mass_N, stored_NK.sum(1))
    p_NV *= ((1 - listed_N) / p_NV.sum(1))[:, None]
    np.put_along_axis(p_NV, ids_NK, stored_NK * (listed_N / stored_NK.sum(1))[:, None], 1)
    expected_NV = p_NV ** (1 / temperature)
    expected_NV /= expected_NV.sum(1, keepdims=True)

    targets = Targets(
        torch.from_numpy(ids_NK),
        *(torch.from_numpy(part) for part in normalised(answer["logprobs"].astype(np.float32), tail_N)),
        tail if shape == "prior" else tail.uniform(vocabulary),
    )
    np.testing.assert_allclose(dense(targets, temperature).numpy(), expected_NV, rtol=2e-5, atol=1e-9)


def test_the_specification_names_every_key_column_and_field(cache: logitstore.Cache) -> None:
    def keys(value: Any, free: tuple[str, ...]) -> set[str]:
        inner = [keys(item, free) for key, item in value.items() if isinstance(item, dict) and key not in free]
        return set(value).union(*inner)

    plan = json.loads((cache.path / "cache.json").read_bytes())
    record = json.loads((cache.part(0).folder / "part.json").read_bytes())
    wanted = keys(plan, ("config", "created_by", "shared")) | keys(record, ("files",)) | {"bytes", "xxh3_128"}
    wanted |= set(cache.part(0).samples.batch.schema.names)
    for preset in PRESETS:
        row = row_of(preset, {}, 300, 32)
        wanted |= row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary).keys() | set(
            shared_shapes(row, [4] * 8)
        )
    wanted |= {"projection", "levels", "log_normaliser", *NAMES}
    assert not {name for name in wanted if f"`{name}`" not in SPECIFICATION}
    stored = re.search(r"differs from 1 by at most `([0-9.]+)`", " ".join(SPECIFICATION.split()))
    assert stored is not None
    assert float(stored[1]) == AnswerCodec(row=cache.manifest.row).mass_error


def test_the_specification_states_the_bytes_of_a_row(cache: logitstore.Cache) -> None:
    lines = re.findall(r"^\| (\w+) \| (\d+) \|(?: \d+ \|){6} (\d+) \|$", SPECIFICATION, re.MULTILINE)
    assert {preset for preset, _, _ in lines} == PRESETS.keys() - {"archive"}
    for preset, vocabulary, total in lines:
        row = row_of(preset, {}, int(vocabulary), 576)
        fields = row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary)
        assert sum(info.bytes for info in fields.values()) == int(total), preset
    folders = [cache.part(number).folder / "rows.zarr" for number in cache.part_numbers]
    chunks = sum(path.stat().st_size for folder in folders for path in folder.rglob("0") if path.is_file())
    assert chunks == cache.rows * cache.manifest.bytes_per_row


def spelled(array: Any) -> str:
    return f"`{array.astype(array.dtype.newbyteorder('<')).tobytes().hex(' ')}`"


def test_the_examples_of_the_specification_are_what_the_codecs_give() -> None:
    logprobs = np.array([[0, -0.25, -1, -2.5, -6, -11.5, -30, -np.inf]], np.float32)
    masses = np.array([0, -1, -30, -np.inf])
    levels = np.array([[-2, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2], [-1.5, -0.5, 0.5, 1.5, *[1.5] * 4]], np.float32)
    levels = np.concatenate([levels, [[-0.75, *[0.75] * 7]]]).astype(np.float32)
    mean = np.array([0, 1, -2, 0.5, 100, 0], np.float32)
    std = np.array([1, 0.5, 2, 0.25, 50, 1e-6], np.float32)
    channels = Channels(mean, std)
    hidden, scale = channels.encode(np.array([[0.5, 1.25, -3, 0.5, 160, 0]]))
    given = [
        Bits((9,) * 4).encode(np.array([[299, 0, 256, 17]])),
        *(Levels(bits, 8).encode(logprobs) for bits in (8, 6, 5)),
        *(Log2(bits).encode(masses) for bits in (8, 16)),
        Codebook((3, 2, 1), levels).encode(np.array([[-3, 0.125, 0.25]])),
        hidden,
        scale,
    ]
    text = " ".join(SPECIFICATION.split())
    assert [spelled(array) for array in given if spelled(array) not in text] == []
    read = [Levels(bits, 8).decode(Levels(bits, 8).encode(logprobs))[0, 2] for bits in (8, 6, 5)]
    assert [f"= {value:.3f} |" in text for value in read] == [True] * 3
    assert f"(-1 is read as {Log2(8).decode(Log2(8).encode(masses))[1]:.3f})" in text
    assert f"read as {channels.decode(hidden, scale)[0, 4]:.3f}." in text
    assert f"which is {float(scale[0]):.6f}," in text


def test_the_random_numbers_of_the_specification_are_those_of_the_library() -> None:
    key, rows, width = "00112233445566778899aabbccddeeff", 3, 4
    for stream in (DRAWS, FIDELITY):
        outputs: list[int] = []
        for block in range(1, rows * width // 4 + 1):
            outputs += philox([block, 0, 0, stream], [int(key[16:], 16), int(key[:16], 16)])
        expected = np.array([(output >> 11) * 2.0**-53 for output in outputs]).reshape(rows, width)
        np.testing.assert_array_equal(uniform(key, rows, width, stream), expected)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64 with ten rounds, from the paper."""
    whole = (1 << 64) - 1
    for _ in range(10):
        first, third = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [third >> 64 ^ counter[1] ^ key[0], third & whole, first >> 64 ^ counter[3] ^ key[1], first & whole]
        key = [key[0] + 0x9E3779B97F4A7C15 & whole, key[1] + 0xBB67AE8584CAA73B & whole]
    return counter


# -------------------- mapped, and opened untouched


def base_of(array: Any) -> Any:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def test_arrays_of_a_sample_are_read_only_views_of_the_mapped_files(cache: logitstore.Cache) -> None:
    part = cache.part(0)
    first, again = cache[1], cache[1]
    for name, array in first.answer.fields.items():
        assert not part.fields[name].flags.owndata
        assert not part.fields[name].flags.writeable
        assert np.shares_memory(array, part.fields[name])
        assert np.shares_memory(array, again.answer[name])
        assert not array.flags.writeable
    tokens = part.samples.batch.column("tokens").values
    mapped = np.frombuffer(tokens.buffers()[1], np.dtype(cache.manifest.fields["ids"].dtype))
    assert np.shares_memory(first.sample.tokens_T, mapped)
    assert not first.sample.tokens_T.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first.sample.tokens_T[0] = 1


def test_what_is_written_to_a_file_later_is_seen_through_the_arrays_given_before(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    sample = logitstore.open(folder)[0]
    chunk = folder / "parts/00000/rows.zarr/ids/c/0/0"
    overwrite(chunk, chunk.read_bytes(), b"\x07\x00")
    assert sample.answer["ids"][0, 0] == 7
    samples = folder / "parts/00000/samples.arrow"
    raw, stored = samples.read_bytes(), np.concatenate(make.TOKENS[:3]).astype("<u2").tobytes()
    place = raw.index(stored)
    overwrite(samples, raw, raw[:place] + b"\x08\x00")
    assert sample.sample.tokens_T.tolist() == [8, *make.TOKENS[0][1:]]


def overwrite(path: Path, before: bytes, beginning: bytes) -> None:
    """Change a file in place, so that maps of it see it."""
    with path.open("r+b") as file:
        file.write(beginning + before[len(beginning) :])


def test_opening_touches_no_part(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    for path in folder.glob("parts/**/*"):
        if path.is_file():
            path.write_bytes(b"\xffgarbage")
    cache = logitstore.open(folder)
    assert (len(cache), cache.complete, cache.rows) == (5, True, 9)
    with pytest.raises(LogitstoreError):
        cache[0]


OPENED = """
import sys
import logitstore
opened = []
watching = False
def watch(event, arguments):
    if watching and event in ("open", "os.listdir", "os.scandir"):
        opened.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
watching = True
cache = logitstore.open(sys.argv[1])
watching = False
print(len(cache), cache.complete, *opened, sep="\\n")
"""


def test_opening_two_thousand_parts_reads_one_file_and_lists_one_folder(tmp_path: Path) -> None:
    parts = 2000
    manifest = make.manifest().model_copy(update={"samples": parts * make.SAMPLES_PER_PART})
    (tmp_path / "cache.json").write_bytes(seal(manifest))
    for part in range(parts):
        folder = tmp_path / "parts" / f"{part:05d}"
        folder.mkdir(parents=True)
        (folder / "part.json").touch()
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(manifest.samples),
        "True",
        f"open {tmp_path / 'cache.json'}",
        f"os.listdir {tmp_path / 'parts'}",
    ]


def test_staging_folders_and_parts_without_a_record_are_not_there(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    (folder / "parts/00001/part.json").unlink()
    shutil.copytree(folder / "parts/00000", folder / "parts/00001.partial-0123abcd")
    shutil.copytree(folder / "parts/00000", folder / "parts/00007")
    (folder / "parts/notes.txt").touch()
    cache = logitstore.open(folder)
    assert (cache.part_numbers, len(cache), cache.complete) == ([0], 3, False)
    assert_same(read_from_the_specification(folder), cache)


# -------------------- seals

SEALED = {"cache.json": Manifest, "parts/00000/part.json": PartRecord}


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flipped") / "file.json"


@pytest.mark.parametrize("name", SEALED)
@given(data=st.data())
def test_no_flipped_bit_of_a_sealed_file_goes_unnoticed(flipped: Path, name: str, data: st.DataObject) -> None:
    raw = bytearray((GOLDEN / name).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1), "offset")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    flipped.write_bytes(raw)
    with pytest.raises(LogitstoreError, match=r"file\.json"):
        unseal(SEALED[name], flipped)


@pytest.mark.parametrize("name", SEALED)
def test_the_seal_covers_every_byte(name: str) -> None:
    raw = (GOLDEN / name).read_bytes()
    assert is_sealed(raw)
    for offset in range(len(raw)):
        for bit in (0, 5, 7):
            changed = bytearray(raw)
            changed[offset] ^= 1 << bit
            assert not is_sealed(bytes(changed)), offset
    for end in range(len(raw)):
        assert not is_sealed(raw[:end])
    assert not is_sealed(raw + b"\n")


def test_a_record_that_is_sealed_by_the_specification_is_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["created_by"].update(somebody="else"))
    tamper(folder / "cache.json", lambda plan: plan["teacher"].update(name="elsewhere", revision="main"))
    tamper(folder / "cache.json", lambda plan: plan["data"].update(source="elsewhere"))
    cache = logitstore.open(folder)
    assert cache.manifest.created_by["somebody"] == "else"
    assert_same(read_from_the_specification(folder), cache)


# -------------------- hostile metadata

OUTSIDE = [
    "../../etc/passwd",
    "shared/../../etc/passwd",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    "..\\..\\etc\\passwd",
    "shared\\x",
    "C:/etc/passwd",
    "C:x",
    "shared/x\0.txt",
    ".",
    "",
]
SEAL_OF_NOTHING = {"bytes": 0, "xxh3_128": "0" * 32}


def golden_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "cache"))


def tamper(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a sealed file and seal it again, as one who has read the specification can."""
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)
    path.write_bytes(make.reseal(content))


def adopt(folder: Path) -> None:
    """Make every part a part of the plan that now stands in `cache.json`."""
    identity = identity_of(json.loads((folder / "cache.json").read_bytes()))
    for path in folder.glob("parts/*/part.json"):
        tamper(path, lambda record: record.update(plan=identity))


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_plan_that_names_a_shared_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["shared"].update({path: SEAL_OF_NOTHING}))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_plan_whose_tail_is_a_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["tail"].update(file=path))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_part_that_names_a_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "parts/00000/part.json", lambda record: record["files"].update({path: SEAL_OF_NOTHING}))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)[0]
    assert [problem.part for problem in verify(folder)] == [0]


@pytest.mark.parametrize("name", ["../../../../outside/ids", "/etc", "ids/../ids", "a\\b", "..", ""])
def test_a_field_whose_name_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    shutil.copytree(folder / "parts/00000/rows.zarr/ids", tmp_path / "outside/ids")
    tamper(folder / "cache.json", lambda plan: plan["fields"].update({name: plan["fields"]["ids"]}))
    adopt(folder)
    with pytest.raises(CacheDamaged, match="field"):
        logitstore.open(folder)


LINKS = [
    "parts",
    "parts/00000",
    "parts/00000/samples.arrow",
    "parts/00000/rows.zarr/ids/c/0/0",
    "parts/00000/part.json",
]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_outside_is_not_followed(tmp_path: Path, name: str, listed: bool) -> None:
    folder = golden_copy(tmp_path)
    if not listed:
        tamper(folder / "parts/00000/part.json", lambda record: record["files"].clear())
    shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)[0]
    assert verify(folder)


def test_a_linked_shared_file_is_a_problem_and_is_not_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    shutil.move(folder / "shared/notes.txt", tmp_path / "outside")
    (folder / "shared/notes.txt").symlink_to(tmp_path / "outside")
    (problem,) = verify(folder)
    assert "leads outside the cache" in problem.what


@pytest.mark.parametrize(("name", "harmless"), [(".tokenizer.json.9e7a75b9", True), ("chat_template.jinja", False)])
def test_only_what_a_killed_writer_left_may_lie_beside_the_tokenizer(
    tmp_path: Path, cache: logitstore.Cache, name: str, harmless: bool
) -> None:
    folder = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    stray = folder / cache.manifest.shared_file("tokenizer") / name
    stray.unlink(missing_ok=True)
    stray.write_text("not the tokenizer's")
    assert (verify(folder) == []) == harmless


@pytest.mark.parametrize("name", ["shared", "parts", "parts/00000", "parts/00000/samples.arrow"])
def test_repair_deletes_nothing_behind_a_link(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    outside = Path(shutil.move(folder / name, tmp_path / "outside"))
    if name == "shared":
        (outside / "notes.txt").write_text("mine")
    (folder / name).symlink_to(outside)
    before = tree(tmp_path / "outside") or outside.read_bytes()
    repair(folder, verify(folder))
    assert (tree(tmp_path / "outside") or outside.read_bytes()) == before
    assert not (folder / name).is_symlink()


def test_a_link_to_itself_is_damage(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    samples = folder / "parts/00000/samples.arrow"
    samples.unlink()
    samples.symlink_to(samples)
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)[0]


def test_a_cache_that_stands_behind_a_link_is_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert_same(read_from_the_specification(folder), logitstore.open(tmp_path / "link"))


@pytest.mark.parametrize("spelling", ["000000", "٠٠٠٠٠"])
def test_a_second_folder_with_the_number_of_a_part_is_not_a_part(tmp_path: Path, spelling: str) -> None:
    folder = golden_copy(tmp_path)
    shutil.copytree(folder / "parts/00000", folder / "parts" / spelling)
    cache = logitstore.open(folder)
    assert (cache.part_numbers, len(cache)) == ([0, 1], 5)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["cache.json", "parts/00000/part.json"])
def test_a_newer_version_is_refused_by_name_whatever_else_it_holds(tmp_path: Path, name: str, sealed: bool) -> None:
    folder = golden_copy(tmp_path)
    if sealed:
        tamper(folder / name, lambda content: content.update(version=2, novelty={"a": 1}))
    else:
        (folder / name).write_text('{"format": "logitstore", "version": 2, "novelty": 1}')
    with pytest.raises(NotACache, match=r"version 2.*newer logitstore"):
        logitstore.open(folder)[0]


@pytest.mark.parametrize("version", [0, "1", None, -1])
def test_a_version_that_never_was_is_refused(tmp_path: Path, version: object) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan.update(version=version))
    with pytest.raises(LogitstoreError, match="version"):
        logitstore.open(folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"format": "another"}',
        b"[" * 100_000,
        b'{"format": "logitstore", "version": ' + b"1" * 5000 + b"}",
        make.reseal({"format": "logitstore", "version": 1}).replace(b"\n}\n", b',\n "a": 1\n}\n'),
    ],
    ids=["empty", "list", "object", "null", "binary", "foreign", "deep", "huge number", "more after the seal"],
)
def test_other_files_in_place_of_the_plan_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "cache.json").write_bytes(raw)
    with pytest.raises(LogitstoreError):
        logitstore.open(tmp_path)


def test_a_seal_on_another_key_is_refused(tmp_path: Path) -> None:
    text = '{\n "format": "logitstore",\n "version": 1,\n "a\\"checksum": "' + "0" * 32 + '"\n}\n'
    digest = xxhash.xxh3_128_hexdigest(text.encode())
    (tmp_path / "cache.json").write_text(text.replace("0" * 32, digest))
    with pytest.raises(LogitstoreError):
        logitstore.open(tmp_path)


@pytest.mark.parametrize("name", ["ids", "logprobs", "tail_logmass", "gold_logprob", "entropy"])
def test_a_plan_without_one_of_the_fields_is_refused(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["fields"].pop(name))
    adopt(folder)
    with pytest.raises(CacheDamaged, match=name):
        logitstore.open(folder)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1 << 60, 2]},
        {"shape": [-6, -2]},
        {"shape": [6, 2, 1]},
        {"data_type": "float64"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]},
        {"chunk_key_encoding": {"name": "v2"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2]}}},
        {"shape": None},
    ],
    ids=lambda change: "-".join(change),
)
def test_zarr_metadata_that_is_not_the_plans_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = golden_copy(tmp_path)
    path = folder / "parts/00000/rows.zarr/ids/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    size = {"bytes": path.stat().st_size}
    tamper(folder / "parts/00000/part.json", lambda record: record["files"]["rows.zarr/ids/zarr.json"].update(size))
    with pytest.raises(CacheDamaged, match=r"zarr\.json"):
        logitstore.open(folder)[0]


def test_a_huge_shape_is_refused_before_any_memory_is_asked_for(tmp_path: Path) -> None:
    rows, width = 6, 1 << 60
    ids = golden_copy(tmp_path) / "parts/00000/rows.zarr/ids"
    described = json.loads((ids / "zarr.json").read_bytes())
    assert described["shape"] == [rows, 2]
    described["shape"] = described["chunk_grid"]["configuration"]["chunk_shape"] = [rows, width]
    (ids / "zarr.json").write_text(json.dumps(described))
    info = make.manifest().fields["ids"].model_copy(update={"shape": (width,)})
    with pytest.raises(CacheDamaged, match=f"{math.prod((rows, width, 2))} expected"):
        map_rows(ids.parent, {"ids": info}, rows)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mask": lambda mask: [True] * len(mask)}, "last position"),
        ({"mask": lambda mask: [True] + [False] * (len(mask) - 1)}, "row_count is not the count of the mask"),
        ({"row_start": lambda start: start + 1}, "spans do not follow"),
        ({"row_count": lambda count: count + 1}, "row_count is not the count of the mask"),
        ({"tokens": lambda tokens: tokens * 2, "mask": lambda mask: mask + [False] * len(mask)}, "count of tokens"),
    ],
)
def test_verify_tells_what_is_wrong_with_samples_that_are_sealed_rightly(
    tmp_path: Path, change: dict[str, Callable[[Any], Any]], what: str
) -> None:
    folder = golden_copy(tmp_path)
    path = folder / "parts/00000/samples.arrow"
    batch = pa.ipc.open_file(path).get_batch(0)
    entries = [entry | {name: turn(entry[name]) for name, turn in change.items()} for entry in batch.to_pylist()]
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(entries, schema=batch.schema))
    raw = path.read_bytes()
    sealed = {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}
    tamper(folder / "parts/00000/part.json", lambda record: record["files"].update({"samples.arrow": sealed}))
    problems = verify(folder)
    assert {(problem.part, problem.file) for problem in problems} == {(0, "parts/00000/samples.arrow")}
    assert any(what in problem.what for problem in problems)


FLIPPED_ARROW = """
import sys
from pathlib import Path
import logitstore
folder = Path(sys.argv[1])
path = folder / "parts/00000/samples.arrow"
raw = path.read_bytes()
refused = 0
for place in range(0, len(raw) * 2, 3):
    changed = bytearray(raw)
    changed[place // 2] ^= 128 if place % 2 else 1
    path.unlink()
    path.write_bytes(changed)
    try:
        for sample in logitstore.open(folder):
            sample.sample.gold_N
    except (logitstore.LogitstoreError, IndexError):
        refused += 1
print(refused > len(raw) // 9)
"""


@pytest.mark.slow
def test_no_flipped_bit_of_a_samples_file_brings_the_reader_down(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FLIPPED_ARROW, str(golden_copy(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-500:]


# -------------------- golden files


def plain(raw: bytes) -> dict[str, Any]:
    """Zarr metadata without what is empty: its text may change with zarr-python, its meaning may not."""
    return {key: value for key, value in json.loads(raw).items() if value not in (None, [], {})}


def test_todays_writer_gives_the_golden_bytes(tmp_path: Path) -> None:
    make.write(tmp_path)
    written, golden = tree(tmp_path), tree(GOLDEN)
    assert len(golden) == 1 + 1 + 2 * (2 + 1 + 2 * 5)
    assert written.keys() == golden.keys()
    for name in golden:
        if name.endswith("zarr.json"):
            assert plain(written[name]) == plain(golden[name]), name
        elif not name.endswith("part.json"):
            assert written[name] == golden[name], name
    for part in ("parts/00000", "parts/00001"):
        record = json.loads(golden[f"{part}/part.json"])
        del record["checksum"]
        for name in record["files"]:
            if name.endswith("zarr.json"):
                raw = written[f"{part}/{name}"]
                record["files"][name] = {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}
        assert written[f"{part}/part.json"] == make.reseal(record)


def test_todays_reader_reads_the_golden_cache_to_the_expected_values() -> None:
    assert verify(GOLDEN) == []
    cache = logitstore.open(GOLDEN)
    assert cache.manifest == make.manifest()
    assert (cache.complete, cache.rows) == (True, len(make.IDS))
    assert_same(read_from_the_specification(GOLDEN), cache)
    expected, done = make.fields(), 0
    for read, sample in zip(cache, make.samples(), strict=True):
        np.testing.assert_array_equal(read.sample.tokens_T, sample.tokens_T)
        np.testing.assert_array_equal(read.sample.mask_T, sample.mask_T)
        for name in ("key", "domain", "document", "window", "start"):
            assert getattr(read.sample, name) == getattr(sample, name)
        for name, array in read.answer.fields.items():
            np.testing.assert_array_equal(array, expected[name][done : done + sample.rows], strict=True)
        done += sample.rows
    assert done == len(make.IDS)


def test_the_chunks_of_the_golden_cache_are_the_bytes_that_the_specification_shows() -> None:
    chunk = GOLDEN / "parts/00001/rows.zarr/ids/c/0/0"
    assert chunk.read_bytes().hex() == "030000000300050000000100"
    assert (GOLDEN / "parts/00001/rows.zarr/entropy/c/0").read_bytes().hex() == "003800400000"
    assert "`03 00 00 00 03 00 05 00 00 00 01 00`" in SPECIFICATION
    assert os.path.getsize(chunk) == 3 * 2 * 2


def test_the_golden_cache_of_images_is_written_as_it_is_and_read_from_the_specification(tmp_path: Path) -> None:
    make_views.write(tmp_path)
    assert tree(tmp_path) == tree(make_views.CACHE)
    assert verify(make_views.CACHE) == []
    plan = json.loads((make_views.CACHE / "cache.json").read_bytes())
    (images,) = make_views.CACHE.glob("shared/images-*.arrow")
    table = pa.ipc.open_file(images).read_all().to_pylist()
    parts_of_view = -(-plan["samples"] // plan["samples_per_part"])
    cache = logitstore.open(make_views.CACHE)
    number = 0
    for part in range(plan["views"] * parts_of_view):
        here = make_views.CACHE / "parts" / f"{part:05d}"
        assert json.loads((here / "part.json").read_bytes())["plan"] == identity_of(plan)
        ids = np.frombuffer((here / "rows.zarr/ids/c/0/0").read_bytes(), "<u2").reshape(-1, 2)
        for row, view in enumerate(pa.ipc.open_file(here / "samples.arrow").get_batch(0).to_pylist()):
            image = part % parts_of_view * plan["samples_per_part"] + row
            assert (view["image"], view["view"]) == (image, part // parts_of_view)
            said = table[image]
            key = xxhash.xxh3_128_hexdigest(f"{said['key']}\0{view['view']}".encode())
            found = cache[number]
            assert (found.sample.key, found.sample.label) == (key, said["label"])
            assert (found.sample.content, found.sample.digest) == (view["content"], view["digest"])
            np.testing.assert_array_equal(found.answer["ids"][0], ids[row])
            assert bool(np.isnan(found.answer["gold_logprob"][0])) == (said["label"] < 0)
            number += 1
    assert number == len(cache) == plan["views"] * plan["samples"]
