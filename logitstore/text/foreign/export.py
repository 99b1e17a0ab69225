"""`export`: a cache of lists as Parquet files in plain numbers, one a part, which `convert` and any other software read.

A record is a sample: its tokens, the mask of those to be learned, and a row for each token, about the token behind it: ids,
logprobs and the gold token's logprob. A token without a row has an empty list. Empty slots are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import BadInput, storage_errors
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.settings.foreign.convert import ExportSettings
from logitstore.store.cache import Cache
from logitstore.store.local_disk import write_whole
from logitstore.store.part import Part
from logitstore.text.scored.columns import arrays, said_of
from logitstore.text.stored import texts_of

SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),
        pa.field("mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("logprobs", pa.list_(pa.list_(pa.float32())), nullable=False),
        pa.field("gold", pa.list_(pa.float32()), nullable=False),
        pa.field("tail_logmass", pa.list_(pa.float32()), nullable=False),
        pa.field("entropy", pa.list_(pa.float32()), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("domain", pa.string()),
        pa.field("document", pa.int64(), nullable=False),
        pa.field("window", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
    ]
)

ROWS = 1 << 16
"""Rows of a row group, about."""


def export(settings: ExportSettings, progress: Progress = no_progress) -> int:
    """Write the files that are missing; return how many there are.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: it lists no tokens, or what it lists is not what was asked for.
        StorageError: the disk is full or the folder cannot be written.
    """
    cache = Cache(settings.cache)
    cache.check_sizes()
    manifest = cache.manifest
    _, _ = manifest.text
    kind = manifest.sparsifier
    if not kind.kind.keeps_ids or kind.is_estimate:
        raise BadInput(
            f"{settings.cache}: its rows ('{kind.name}') list no tokens by probability. Recode it first: logitstore recode "
            f"{settings.cache} --preset topk --out LISTED"
        )
    if settings.k is not None and settings.k > kind.k:
        raise BadInput(f"-k {settings.k}: the rows of {settings.cache} list {kind.k} tokens. Give at most that many.")
    about = {
        "format": "logitstore-export",
        "plan": manifest.identity,
        "teacher": manifest.teacher.name,
        "vocabulary": manifest.teacher.vocabulary,
        "k": settings.k or kind.k,
    }
    schema, total, done = _schema(manifest), cache.rows, 0
    with storage_errors(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
        for number in cache.part_numbers:
            file, part = settings.out / f"part-{number:05d}.parquet", cache.part(number)
            if file.is_file():
                _refuse_other(file, about)
            else:
                _write(file, part, schema, about)
            done += part.record.rows
            progress(Step(stage="export", done=done, total=total, part=number))
    return len(cache.part_numbers)


def _refuse_other(file: Path, about: dict[str, Any]) -> None:
    """Raises BadInput: a file is no export of the same cache with as many tokens."""
    try:
        with file.open("rb") as opened:
            found = json.loads((pq.read_schema(opened).metadata or {})[b"logitstore"])
    except (pa.ArrowException, LookupError, ValueError) as error:
        raise BadInput(f"{file}: it is there, and is no export. Choose another folder.") from error
    if found != about:
        raise BadInput(f"{file}: it is the export of another cache, or lists other tokens. Choose another folder.")


def _schema(manifest: Manifest) -> pa.Schema:
    """Return the columns of a cache's export. What an imported cache does not know has none; where it does not know the mass
    outside
    of its lists, their values are logits: right up to one number in each row."""
    left_out = set() if manifest.knows_gold else {"gold"}
    is_known = manifest.imported is None or manifest.imported.mass == "known"
    left_out |= set() if is_known else {"tail_logmass", "entropy"}
    fields = [field for field in [*SCHEMA, *said_of(manifest.text[1].scores).fields] if field.name not in left_out]
    return pa.schema([field if is_known or field.name != "logprobs" else field.with_name("logits") for field in fields])


def _write(file: Path, part: Part, schema: pa.Schema, about: dict[str, Any]) -> None:
    schema = schema.with_metadata({"logitstore": json.dumps(about)})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for columns in _tables(part, about["k"]):
            arrays = [columns[field.name].cast(field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    write_whole(file, sink.getvalue().to_pybytes())


def _tables(part: Part, k: int) -> Iterator[dict[str, pa.Array]]:
    """Yield samples, as many together as have about `ROWS` rows."""
    rows_S = part.samples.row_count_S.astype(np.int64)
    first = 0
    while first < len(rows_S):
        last = max(int(np.searchsorted(np.cumsum(rows_S[first:]), ROWS, side="right")), 1) + first
        yield _table(part, range(first, min(last, len(rows_S))), k)
        first = last


def _table(part: Part, numbers: range, k: int) -> dict[str, pa.Array]:
    """Return the columns of some samples by name; `logits` are the logprobs under their other name."""
    samples = [texts_of(part.samples).sample(number) for number in numbers]
    stored = [part.stored(number) for number in numbers]
    decoded = RowCodec(row=part.codec.row).decode(
        {name: np.concatenate([each[name] for each in stored]) for name in _FIELDS if name in stored[0]}
    )
    lengths_S = np.array([sample.length for sample in samples])
    mask_T = np.concatenate([sample.mask_T for sample in samples])
    learned_T = np.zeros(len(mask_T), np.bool_)
    learned_T[1:] = mask_T[:-1]
    ids_NK, logprobs_NK = decoded["ids"][:, :k], decoded["logprobs"][:, :k]
    cut_N = np.exp(decoded["logprobs"][:, k:].astype(np.float64)).sum(1)
    if k < decoded["ids"].shape[1]:
        with np.errstate(divide="ignore"):
            decoded["tail_logmass"] = np.log(np.minimum(np.exp(decoded["tail_logmass"].astype(np.float64)) + cut_N, 1))
    is_there_NK = ~np.isneginf(logprobs_NK)
    counts_T = np.zeros(len(mask_T), np.int64)
    counts_T[mask_T] = is_there_NK.sum(1)
    ends_S = np.concatenate([[0], np.cumsum(lengths_S)])
    lists = pa.array(np.concatenate([[0], np.cumsum(counts_T)]).astype(np.int32))
    texts = pa.array(ends_S.astype(np.int32))

    def of_tokens(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(texts, values)

    def of_rows(name: str) -> pa.Array:
        values_T = np.full(len(mask_T), np.nan, np.float32)
        values_T[mask_T] = decoded[name]
        return of_tokens(pa.array(values_T))

    logprobs = of_tokens(pa.ListArray.from_arrays(lists, pa.array(logprobs_NK[is_there_NK])))
    said = texts_of(part.samples).said
    told = arrays(said, [sample.told for sample in samples])
    of_samples = ("key", "domain", "document", "window", "start")
    return {
        "tokens": of_tokens(pa.array(np.concatenate([sample.tokens_T for sample in samples]).astype(np.int32))),
        "mask": of_tokens(pa.array(learned_T)),
        "ids": of_tokens(pa.ListArray.from_arrays(lists, pa.array(ids_NK[is_there_NK].astype(np.int32)))),
        "logprobs": logprobs,
        "logits": logprobs,
        "gold": of_rows("gold_logprob"),
        "tail_logmass": of_rows("tail_logmass"),
        "entropy": of_rows("entropy"),
        **{name: pa.array([getattr(sample, name) for sample in samples]) for name in of_samples},
        **{field.name: array for field, array in zip(said.fields, told, strict=True)},
    }


_FIELDS = ("ids", "logprobs", "gold_logprob", "tail_logmass", "entropy")
