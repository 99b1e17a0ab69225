"""`samples.arrow` of a cache of texts: what was asked. One Arrow IPC file a part, one record batch, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.core.progress import amount
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.positions import Share
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage
from logitstore.text.positions.check import choice_problems
from logitstore.text.sample import BLOCK, Sample, blocks, keys_of
from logitstore.text.scored.columns import arrays, said_of, told, wrong
from logitstore.text.scored.said import NO_COLUMNS, Said


@cache
def schema(token_dtype: str, has_gold: bool = False, said: Said = NO_COLUMNS) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    token = pa.from_numpy_dtype(np.dtype(token_dtype))
    flags = pa.list_(pa.field("item", pa.bool_(), nullable=False))
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("tokens", pa.list_(pa.field("item", token, nullable=False)), nullable=False),
            pa.field("mask", flags, nullable=False),
            *([pa.field("gold", flags, nullable=False)] if has_gold else []),
            pa.field("domain", pa.string()),
            pa.field("document", pa.int64(), nullable=False),
            pa.field("window", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("row_start", pa.int64(), nullable=False),
            pa.field("row_count", pa.int32(), nullable=False),
            pa.field("nll", pa.float32(), nullable=False),
            *said.fields,
        ]
    )


def write_samples(
    path: Path, samples: Sequence[Sample], nll_S: Array, token_dtype: str, said: Said = NO_COLUMNS
) -> None:
    """Write the samples of a part; rows are numbered in their order.

    Args:
        path: the new file.
        samples: the part's samples, in order.
        nll_S: float32, mean negative logprob of the gold tokens of each sample, nats per row.
        token_dtype: "uint16" or "uint32".
        said: the scores and groups that are kept.
    """
    counts = np.array([sample.rows for sample in samples], np.int32)
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)[:-1]])
    offsets = np.concatenate([[0], np.cumsum([len(sample.tokens_T) for sample in samples])]).astype(np.int32)
    tokens = np.concatenate([sample.tokens_T for sample in samples]).astype(token_dtype)
    golds = [sample.gold_T for sample in samples if sample.gold_T is not None]
    lists = {"tokens": tokens, "mask": np.concatenate([sample.mask_T for sample in samples])}
    if golds:
        lists["gold"] = np.concatenate(golds)
    columns = schema(token_dtype, bool(golds), said)
    table = pa.record_batch(
        [
            pa.array([sample.key for sample in samples], pa.string()),
            *(
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=columns.field(name).type)
                for name, values in lists.items()
            ),
            pa.array([sample.domain for sample in samples], pa.string()),
            pa.array([sample.document for sample in samples], pa.int64()),
            pa.array([sample.window for sample in samples], pa.int32()),
            pa.array([sample.start for sample in samples], pa.int64()),
            pa.array(starts, pa.int64()),
            pa.array(counts),
            pa.array(nll_S.astype(np.float32)),
            *arrays(said, [sample.told for sample in samples]),
        ],
        schema=columns,
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, columns) as writer:
        writer.write_batch(table)


class SamplesFile(PartSamples):
    """A mapped `samples.arrow`. Token arrays are views of the file; masks are unpacked sample by sample."""

    def __init__(
        self,
        path: Path,
        token_dtype: str,
        count: int,
        share: Share | None = None,
        *,
        knows_gold: bool = True,
        said: Said = NO_COLUMNS,
    ) -> None:
        """Map the file and check its header.

        Args:
            path: the file.
            token_dtype: "uint16" or "uint32".
            count: samples of the part.
            share: the share of the positions that have a row, where not all have one that the data ask about.
            knows_gold: every row knows the logprob of its gold token; otherwise an nll may be NaN.
            said: the scores and groups that are kept.

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns, or does not hold `count` samples in one batch.
        """
        batch = map_batch(path, schema(token_dtype, share is not None, said))
        if batch.num_rows != count:
            raise CacheDamaged(
                f"{path}: it has {amount(batch.num_rows, 'sample')}, not {count}. Run `logitstore verify`."
            )
        if not _whole(batch):
            raise CacheDamaged(f"{path}: it has nulls, or masks of other lengths than tokens. Run `logitstore verify`.")
        self.batch, self.said = batch, said
        self._token_offsets = _offsets(batch.column("tokens"))
        self._tokens = batch.column("tokens").values.to_numpy()
        self._flags = {name: batch.column(name).values for name in ("mask", "gold") if name in batch.schema.names}
        self._bits = {name: np.frombuffer(flags.buffers()[1], np.uint8) for name, flags in self._flags.items()}
        self.has_gold, self._knows_gold = share is not None, knows_gold
        self.rows_need_teacher = share is not None and share.asks_teacher
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
        return self._flags_between("mask", int(self._token_offsets[index]), int(self._token_offsets[index + 1]))

    def gold_of(self, index: int) -> Array | None:
        """Return bool[T] of one sample: True where the data ask about the next token; None if each of these has a row."""
        if not self.has_gold:
            return None
        return self._flags_between("gold", int(self._token_offsets[index]), int(self._token_offsets[index + 1]))

    def unanswered_in(self, index: int) -> Array:
        """Return int64[G], the positions of one sample that the data ask about and that have no row."""
        gold_T = self.gold_of(index)
        return np.zeros(0, np.int64) if gold_T is None else np.flatnonzero(gold_T & ~self.mask_of(index))

    def _flags_between(self, name: str, first: int, last: int) -> Array:
        """Return the flags of neighbouring tokens, from one offset to another."""
        offset = self._flags[name].offset
        first, last = offset + first, offset + last
        bits = np.unpackbits(self._bits[name][first // 8 : (last + 7) // 8], bitorder="little")
        return bits[first % 8 : first % 8 + last - first].view(np.bool_)

    def runs(self) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Yield neighbouring samples, about `BLOCK` tokens at a time: which they are, int64[S + 1] where each begins among
        their tokens and where the last one ends, and their token ids and row masks, one sample after the other."""
        for some in blocks(self.lengths_S, BLOCK):
            offsets = self._token_offsets[some.start : some.stop + 1].astype(np.int64)
            first, last = int(offsets[0]), int(offsets[-1])
            yield some, offsets - first, np.asarray(self._tokens[first:last]), self._flags_between("mask", first, last)

    def nll_problem(self) -> str | None:
        """Say what is wrong with the nlls, if something is."""
        if self._knows_gold or not len(self.nll_S):
            return super().nll_problem()
        return "an nll is negative" if (self.nll_S < 0).any() else None

    def gold(self) -> Array:
        golds = [tokens_T[np.flatnonzero(mask_T[:-1]) + 1].astype(np.int64) for _, _, tokens_T, mask_T in self.runs()]
        return np.concatenate(golds) if golds else np.zeros(0, np.int64)

    def keys(self, some: slice = slice(None)) -> list[str]:
        """Return the keys of all samples, or of some neighbouring ones."""
        keys: list[str] = self.batch.column("key")[some].to_pylist()
        return keys

    def domains(self) -> list[str | None]:
        """Return the domain of each sample's document, or None if the data do not name it."""
        domains: list[str | None] = self.batch.column("domain").to_pylist()
        return domains

    def domain_column(self) -> pa.Array:
        return self.batch.column("domain")

    def told(self) -> dict[str, pa.Array]:
        return {field.name: self.batch.column(field.name) for field in self.said.fields}

    def sample(self, index: int) -> Sample:
        value = {name: self.batch.column(name)[index].as_py() for name in ("key", "domain", "window", "start")}
        return Sample(
            tokens_T=self.tokens_of(index),
            mask_T=self.mask_of(index),
            gold_T=self.gold_of(index),
            document=int(self.document_S[index]),
            told=told(self.said, self.batch, index),
            **value,
        )


def _whole(batch: pa.RecordBatch) -> bool:
    """Return True if no token and no mask is null, and their columns have the same offsets."""
    lists = [batch.column(name) for name in ("tokens", "mask", "gold") if name in batch.schema.names]
    nulls = any(column.values.null_count for column in lists)
    return not nulls and all(lists[0].offsets.equals(column.offsets) for column in lists[1:])


def _offsets(column: pa.ListArray) -> Array:
    return np.asarray(column.offsets.to_numpy())


class TextSamples:
    """Texts on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts of a cache of texts say all about them."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> SamplesFile:
        data, count = manifest.text[1], manifest.samples_in(part)
        said = said_of(data.scores)
        return SamplesFile(path, manifest.token_dtype, count, data.share, knows_gold=manifest.knows_gold, said=said)

    def write(self, path: Path, manifest: Manifest, samples: Sequence[Sample], nll_S: Array) -> None:
        write_samples(path, samples, nll_S, manifest.token_dtype, said_of(manifest.text[1].scores))

    def problems(self, samples: SamplesFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        vocabulary = manifest.teacher.vocabulary
        rows_S = np.zeros(len(samples), np.int64)
        ends_with_row, is_unknown, is_misnamed = False, False, False
        for some, offsets, tokens_T, mask_T in samples.runs():
            before_T = np.concatenate([[0], np.cumsum(mask_T, dtype=np.int64)])
            rows_S[some] = np.diff(before_T[offsets])
            ends_with_row |= bool(mask_T[offsets[1:][np.diff(offsets) > 0] - 1].any())
            is_unknown |= int(tokens_T.max(initial=0)) >= vocabulary
            is_misnamed |= samples.keys(some) != keys_of(tokens_T, offsets)
        ends = np.cumsum(rows_S)
        if not np.array_equal(samples.row_count_S, rows_S):
            yield "row_count is not the count of the mask"
        if not np.array_equal(samples.row_start_S, ends - rows_S) or ends[-1] != record.rows:
            yield "the row spans do not follow each other from 0 to the part's rows"
        if ends_with_row:
            yield "a row stands at the last position of a sample, which has no token after it"
        if (share := manifest.text[1].share) is not None:
            yield from choice_problems(samples, share)
        if int(samples.lengths_S.sum()) != record.tokens:
            yield "the count of tokens is not the record's"
        if is_unknown:
            yield f"a token id is not below the vocabulary of {vocabulary}"
        if is_misnamed:
            yield "a key is not the hash of its sample's tokens"
        if problem := samples.nll_problem():
            yield problem
        yield from wrong(samples.told())

    def difference(self, stored: Sample, asked: Sample) -> str | None:
        """Compare where the rows are: texts with the same key have the same tokens."""
        if np.array_equal(stored.mask_T, asked.mask_T):
            return None
        return f"its rows of the sample {stored.key} are at other positions"

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        one, other = here.text[1].positions, there.text[1].positions
        if one == other:
            return None
        return (
            f"it has rows at {_called(other)}, that one at {_called(one)}",
            "Dump both with the same --positions.",
        )

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


def _called(positions: str | None) -> str:
    return "all positions that the data ask about" if positions is None else f"the positions {positions}"


def texts_of(samples: PartSamples) -> SamplesFile:
    """Return the samples of a part as texts.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, SamplesFile):
        raise BadInput("this cache holds no text.")
    return samples
