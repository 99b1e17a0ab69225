"""`samples.arrow` of a cache of texts: what was asked. One Arrow IPC file a part, one record batch, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage
from logitstore.text.sample import Sample, key_of


@cache
def schema(token_dtype: str) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    token = pa.from_numpy_dtype(np.dtype(token_dtype))
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("tokens", pa.list_(pa.field("item", token, nullable=False)), nullable=False),
            pa.field("mask", pa.list_(pa.field("item", pa.bool_(), nullable=False)), nullable=False),
            pa.field("domain", pa.string()),
            pa.field("document", pa.int64(), nullable=False),
            pa.field("window", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("row_start", pa.int64(), nullable=False),
            pa.field("row_count", pa.int32(), nullable=False),
            pa.field("nll", pa.float32(), nullable=False),
        ]
    )


def write_samples(path: Path, samples: Sequence[Sample], nll_S: Array, token_dtype: str) -> None:
    """Write the samples of a part; rows are numbered in their order.

    Args:
        path: the new file.
        samples: the part's samples, in order.
        nll_S: float32, mean negative logprob of the gold tokens of each sample, nats per row.
        token_dtype: "uint16" or "uint32".
    """
    counts = np.array([sample.rows for sample in samples], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)[:-1]])
    offsets = np.concatenate([[0], np.cumsum([len(sample.tokens_T) for sample in samples])]).astype(np.int32)
    tokens = np.concatenate([sample.tokens_T for sample in samples]).astype(token_dtype)
    mask = np.concatenate([sample.mask_T for sample in samples])
    columns = schema(token_dtype)
    table = pa.record_batch(
        [
            pa.array([sample.key for sample in samples], pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens), type=columns.field("tokens").type),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(mask), type=columns.field("mask").type),
            pa.array([sample.domain for sample in samples], pa.string()),
            pa.array([sample.document for sample in samples], pa.int64()),
            pa.array([sample.window for sample in samples], pa.int32()),
            pa.array([sample.start for sample in samples], pa.int64()),
            pa.array(starts, pa.int64()),
            pa.array(counts),
            pa.array(nll_S.astype(np.float32)),
        ],
        schema=columns,
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, columns) as writer:
        writer.write_batch(table)


class SamplesFile(PartSamples):
    """A mapped `samples.arrow`. Token arrays are views of the file; masks are unpacked sample by sample."""

    def __init__(self, path: Path, token_dtype: str, count: int) -> None:
        """Map the file and check its header.

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns, or does not hold `count` samples in one batch.
        """
        batch = map_batch(path, schema(token_dtype))
        if batch.num_rows != count:
            raise CacheDamaged(f"{path}: it has {batch.num_rows} samples, not {count}. Run `logitstore verify`.")
        if not _whole(batch):
            raise CacheDamaged(f"{path}: it has nulls, or masks of other lengths than tokens. Run `logitstore verify`.")
        self.batch = batch
        self._token_offsets = _offsets(batch.column("tokens"))
        self._tokens = batch.column("tokens").values.to_numpy()
        self._mask = batch.column("mask").values
        self._mask_bits = np.frombuffer(self._mask.buffers()[1], np.uint8)
        self.row_start_S = batch.column("row_start").to_numpy()
        self.row_count_S = batch.column("row_count").to_numpy()
        self.document_S = batch.column("document").to_numpy()
        self.nll_S = batch.column("nll").to_numpy()
        self.lengths_S = np.diff(self._token_offsets)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def tokens_of(self, index: int) -> Array:
        """Return a view of the token ids of one sample, in the stored dtype."""
        return np.asarray(self._tokens[self._token_offsets[index] : self._token_offsets[index + 1]])

    def mask_of(self, index: int) -> Array:
        """Return the row mask of one sample, bool: True for a position that has a row."""
        first = self._mask.offset + int(self._token_offsets[index])
        last = self._mask.offset + int(self._token_offsets[index + 1])
        bits = np.unpackbits(self._mask_bits[first // 8 : (last + 7) // 8], bitorder="little")
        return bits[first % 8 : first % 8 + last - first].view(np.bool_)

    def keys(self) -> list[str]:
        """Return the keys of the samples."""
        keys: list[str] = self.batch.column("key").to_pylist()
        return keys

    def domains(self) -> list[str | None]:
        """Return the domain of each sample's document, or None if the data do not name it."""
        domains: list[str | None] = self.batch.column("domain").to_pylist()
        return domains

    def domain_column(self) -> pa.Array:
        return self.batch.column("domain")

    def sample(self, index: int) -> Sample:
        value = {name: self.batch.column(name)[index].as_py() for name in ("key", "domain", "window", "start")}
        return Sample(
            tokens_T=self.tokens_of(index),
            mask_T=self.mask_of(index),
            document=int(self.document_S[index]),
            **value,
        )


def _whole(batch: pa.RecordBatch) -> bool:
    """Return True if no token and no mask is null, and both columns have the same offsets."""
    lists = batch.column("tokens"), batch.column("mask")
    nulls = any(column.values.null_count for column in lists)
    return not nulls and lists[0].offsets.equals(lists[1].offsets)


def _offsets(column: pa.ListArray) -> Array:
    return np.asarray(column.offsets.to_numpy())


class TextSamples:
    """Texts on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts of a cache of texts say all about them."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> SamplesFile:
        return SamplesFile(path, manifest.token_dtype, manifest.samples_in(part))

    def write(self, path: Path, manifest: Manifest, samples: Sequence[Sample], nll_S: Array) -> None:
        write_samples(path, samples, nll_S, manifest.token_dtype)

    def problems(self, samples: SamplesFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        vocabulary = manifest.teacher.vocabulary
        rows_S = np.array([int(samples.mask_of(index).sum()) for index in range(len(samples))], np.int64)
        ends = np.cumsum(rows_S)
        if not np.array_equal(samples.row_count_S, rows_S):
            yield "row_count is not the count of the mask"
        if not np.array_equal(samples.row_start_S, ends - rows_S) or ends[-1] != record.rows:
            yield "the row spans do not follow each other from 0 to the part's rows"
        if any(samples.mask_of(index)[-1:].any() for index in range(len(samples))):
            yield "a row stands at the last position of a sample, which has no token after it"
        if int(samples.lengths_S.sum()) != record.tokens:
            yield "the count of tokens is not the record's"
        if any(int(samples.tokens_of(index).max(initial=0)) >= vocabulary for index in range(len(samples))):
            yield f"a token id is not below the vocabulary of {vocabulary}"
        keys = samples.keys()
        if any(keys[index] != key_of(samples.tokens_of(index)) for index in range(len(samples))):
            yield "a key is not the hash of its sample's tokens"
        if problem := samples.nll_problem():
            yield problem

    def difference(self, stored: Sample, asked: Sample) -> None:
        """Return None: texts with the same key have the same tokens."""

    def mismatch(self, here: Manifest, there: Manifest) -> None:
        """Return None: caches of the same texts fit together."""

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        if here.tokenizer != there.tokenizer:
            return (
                "their teachers have different tokenizers, so the same text makes other samples",
                f"Take one whose teacher has the tokenizer of {here.teacher.name}.",
            )
        return (
            "{difference}, so the data, or how they are cut into windows, differ",
            "Dump both with the same --data, --limit, --max-length, --overlap and --domain-column.",
        )


def texts_of(samples: PartSamples) -> SamplesFile:
    """Return the samples of a part as texts.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, SamplesFile):
        raise BadInput("this cache holds no text.")
    return samples
