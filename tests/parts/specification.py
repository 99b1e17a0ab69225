"""A reader written from docs/format.md, and the golden cache to be tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import xxhash

import logitstore
from logitstore.core.types import Answer
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import Fidelity
from logitstore.format.row import CodecInfo, row_fields
from logitstore.format.sealed import seal, seal_of
from logitstore.settings.dump import DumpSettings
from logitstore.store.local_disk import LocalDisk, write_first, write_whole
from logitstore.store.writer import PartWriter
from tests.golden import make
from tests.parts.places import ROOT
from tests.parts.texts import plan_for

SPECIFICATION = (ROOT / "docs" / "format.md").read_text("utf-8")
GOLDEN = make.CACHE


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


def packed_plan(teacher: Path, texts: Path, out: Path, preset: str) -> DumpSettings:
    """A few parts, quickly made."""
    changes: dict[str, Any] = {"limit": 8, "samples_per_part": 12, "pilot_rows": 400, "fidelity_rows": 50}
    return plan_for(teacher, texts, out, preset=preset, **changes)


def identity_of(plan: dict[str, Any]) -> str:
    left_out = {"created_by", "recoded_from", "merged_from", "views", "checksum"}
    identity_fields = {
        key: value for key, value in plan.items() if key not in left_out and (key, value) != ("view", None)
    }
    identity_fields["teacher"] = {
        key: value for key, value in plan["teacher"].items() if key not in ("name", "revision")
    }
    identity_fields["data"] = {key: value for key, value in plan["data"].items() if key not in ("source", "limit")}
    text = json.dumps(identity_fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode())


def coded(folder: Path, codec: CodecInfo) -> logitstore.Cache:
    """The golden cache in other codecs."""
    plain = make.manifest()
    described = row_fields(plain.sparsifier, plain.tail, codec, plain.teacher.vocabulary)
    plan = plain.model_copy(update={"codec": codec, "fields": described})
    stored = RowCodec(row=plan.row).encode(make.fields())
    write_whole(folder / "shared" / "notes.txt", make.NOTES)
    write_first(folder / MANIFEST_NAME, seal(plan))
    done = 0
    for part in range(plan.parts):
        samples = make.samples()[part * make.SAMPLES_PER_PART : (part + 1) * make.SAMPLES_PER_PART]
        with PartWriter(LocalDisk(folder), plan, part, samples) as writer:
            for index, sample in enumerate(samples):
                span = slice(done, done + sample.rows)
                some = [{name: array[span] for name, array in rows.items()} for rows in (stored, make.facts())]
                writer.write(index, Answer(fields=some[0]), Answer(fields=some[1]))
                done += sample.rows
            writer.commit(Fidelity())
    return logitstore.open(folder)


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


def seal_again(cache: Path, folder: Path) -> None:
    """Seal the files of a shared folder as they are now, those that were added among them."""
    seals = {
        path.relative_to(cache).as_posix(): seal_of(path).model_dump() for path in folder.rglob("*") if path.is_file()
    }

    def change(plan: dict[str, Any]) -> None:
        kept = {name: seal for name, seal in plan["shared"].items() if folder.name not in name}
        plan["shared"] = kept | seals

    tamper(cache / "cache.json", change)
    adopt(cache)
