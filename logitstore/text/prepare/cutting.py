"""Cut tokenised documents into windows by arrays, and fingerprint those that are samples.

Axes: P pairs (what the teacher sees of a document), W windows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from logitstore.core.types import Array
from logitstore.text.sample import BLOCK, blocks, counted, cut
from logitstore.text.scored.columns import Checksum

WINDOW = np.dtype(
    [
        ("row", "<i8"),
        ("document", "<i8"),
        ("pair", "<i4"),
        ("number", "<i4"),
        ("start", "<i4"),
        ("stop", "<i4"),
        ("first", "<i4"),
        ("rows", "<i4"),
        ("check", "<u8"),
    ]
)
"""One sample: its pair among all, the number of its document in the data, the number of the pair in the document, that of the
window in the document, the window's tokens in the pair, the first position that may have a row, the count of rows, and what
`check_of` gives for it."""


@dataclass
class Totals:
    """What is known of all samples of some shards.

    Attributes:
        pairs: count of pairs.
        samples, rows, tokens: counts.
        used: count of documents with a sample.
        highest: the highest token id; -1 if there is none.
        within: count of documents with samples that begin within a text whose beginning tells what is asked.
        longest: where the last of these samples ends in its document.
    """

    pairs: int = 0
    samples: int = 0
    rows: int = 0
    tokens: int = 0
    used: int = 0
    highest: int = -1
    within: int = 0
    longest: int = 0


class Cutter:
    """Cuts shards into windows, one after the other."""

    def __init__(self, max_length: int, overlap: int) -> None:
        self._max_length, self._overlap = max_length, overlap
        self._digest = xxhash.xxh3_128()
        self._scores = Checksum(xxhash.xxh3_128())
        self.totals = Totals()

    @property
    def fingerprint(self) -> str:
        """That of all samples so far; docs/format.md says what it covers."""
        return self._digest.hexdigest()

    @property
    def scores(self) -> str | None:
        """The checksum of the scores and groups of all samples so far; None where the data have none."""
        return self._scores.hex

    def add(self, pairs: pa.RecordBatch, asks: bool) -> Array:
        """Return the samples of a shard as `WINDOW`.

        Args:
            pairs: see `logitstore.text.prepare.encoded.Encoded`; a document lies in one shard.
            asks: whether the beginning of a document tells the teacher what is asked.
        """
        shard = Shard.of(pairs)
        every = cut(shard.lengths_P, self._max_length, self._overlap)
        begins_W = shard.begins_P[every.document_W]
        if shard.said_T is None:
            rows_W = every.rows_W
        else:
            before_T = np.concatenate([np.zeros(1, np.int32), np.cumsum(shard.said_T, dtype=np.int32)])
            gold_W = np.minimum(begins_W + every.first_W + 1, begins_W + every.stop_W)
            rows_W = before_T[begins_W + every.stop_W] - before_T[gold_W]
        # the windows of a document that was rendered more than once are numbered on
        counts_P = np.bincount(every.document_W, minlength=len(shard))
        before_P, first_P = np.cumsum(counts_P) - counts_P, shard.first_pair_P
        has_rows_W = rows_W > 0
        owners_W = every.document_W[has_rows_W]
        table = np.zeros(len(owners_W), WINDOW)
        table["row"], table["document"] = self.totals.pairs + owners_W, shard.documents_P[owners_W]
        table["pair"] = (np.arange(len(shard)) - first_P)[owners_W]
        table["number"] = every.number_W[has_rows_W] + (before_P - before_P[first_P])[owners_W]
        table["start"], table["stop"] = every.start_W[has_rows_W], every.stop_W[has_rows_W]
        table["first"], table["rows"] = every.first_W[has_rows_W], rows_W[has_rows_W]
        for block in blocks(table["stop"] - table["start"], BLOCK):
            content, ends = _identity(shard, table[block], owners_W[block])
            self._digest.update(content)
            places = range(self.totals.samples + block.start, self.totals.samples + block.stop)
            numbers = table["number"][block].tolist()
            table["check"][block] = [
                check_of(content[start:stop], place, number)
                for (start, stop), place, number in zip(pairwise(ends), places, numbers, strict=True)
            ]
        self._scores.add(pairs, owners_W)
        self._count(shard, table, asks)
        return table

    def _count(self, shard: Shard, table: Array, asks: bool) -> None:
        totals = self.totals
        totals.pairs += len(shard)
        totals.samples += len(table)
        totals.rows += int(table["rows"].sum(dtype=np.int64))
        totals.tokens += int((table["stop"] - table["start"]).sum(dtype=np.int64))
        totals.used += len(np.unique(table["document"]))
        totals.highest = max(totals.highest, int(shard.tokens_T.max(initial=0)) if len(shard.tokens_T) else -1)
        within = table[table["start"] > 0] if asks else table[:0]
        totals.within += len(np.unique(within["document"]))
        totals.longest = max(totals.longest, int(within["stop"].max(initial=0)))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The pairs of a shard as arrays.

    Attributes:
        lengths_P: int64, tokens of each pair.
        begins_P: int64, where each begins in `tokens_T`.
        documents_P: int64, number of each pair's document in the data.
        domains_P: text, the domain of each.
        tokens_T: uint32, the tokens of all pairs, one after the other.
        said_T: bool, True if a row may be about the token; None if one may be about every token.
    """

    lengths_P: Array
    begins_P: Array
    documents_P: Array
    domains_P: pa.Array
    tokens_T: Array
    said_T: Array | None

    @classmethod
    def of(cls, pairs: pa.RecordBatch) -> Shard:
        """Look at pairs as arrays, which lie where those do."""
        tokens = pairs.column("tokens")
        offsets = tokens.offsets.to_numpy().astype(np.int64)
        domains = pairs.column("domain")
        has_said = "said" in pairs.schema.names
        return cls(
            lengths_P=np.diff(offsets),
            begins_P=offsets[:-1] - offsets[0],
            documents_P=pairs.column("document").to_numpy(),
            domains_P=domains.dictionary_decode() if pa.types.is_dictionary(domains.type) else domains,
            tokens_T=tokens.flatten().to_numpy(),
            said_T=pairs.column("said").flatten().to_numpy(zero_copy_only=False) if has_said else None,
        )

    def __len__(self) -> int:
        return len(self.lengths_P)

    @property
    def first_pair_P(self) -> Array:
        """int64[P]: the first pair of each pair's document."""
        begins_P = np.ones(len(self), np.bool_)
        begins_P[1:] = self.documents_P[1:] != self.documents_P[:-1]
        return np.maximum.accumulate(np.where(begins_P, np.arange(len(self)), 0))


def check_of(content: bytes | memoryview, place: int, number: int) -> int:
    """Return what tells a sample from all others: a hash of what the fingerprint covers of it, and of where it stands.

    Args:
        content: see `content_of`.
        place: of the sample among all.
        number: of the window in its document.
    """
    return xxhash.xxh3_64_intdigest(content, seed=(place << 32 | number) % (1 << 64))


def content_of(document: int, start: int, domain: str | None, tokens_T: Array, mask_T: Array) -> bytes:
    """Return what the fingerprint covers of a sample: place and domain, tokens as uint32, and mask as bits."""
    head = f"{document} {start} {start + len(tokens_T)} {domain or ''}\n".encode()
    return head + tokens_T.astype("<u4").tobytes() + np.packbits(mask_T).tobytes()


def _identity(shard: Shard, table: Array, owners_W: Array) -> tuple[memoryview, list[int]]:
    """Return `content_of` of some samples, one after the other, and where each begins, and the last one ends."""
    start_W, stop_W = table["start"].astype(np.int64), table["stop"].astype(np.int64)
    numbers = [pc.cast(pa.array(values), pa.string()) for values in (table["document"], start_W, stop_W)]
    domains = pc.fill_null(shard.domains_P.take(pa.array(owners_W)), "")
    heads = pc.binary_join_element_wise(*numbers, domains, " ")
    begins_W = shard.begins_P[owners_W] + start_W
    parts = [
        heads.cast(pa.binary()).cast(pa.large_binary()),
        _tokens(shard.tokens_T, begins_W, stop_W - start_W),
        _masks(shard, table, begins_W),
    ]
    # a newline stands behind each head
    whole = pc.binary_join_element_wise(parts[0], _NEWLINE, *parts[1:], _NOTHING)
    _, offsets, content = whole.buffers()
    ends = np.frombuffer(offsets, np.int64)
    ends = ends[whole.offset : whole.offset + len(whole) + 1]
    return memoryview(content)[int(ends[0]) : int(ends[-1])], (ends - ends[0]).tolist()


_NEWLINE, _NOTHING = pa.scalar(b"\n", pa.large_binary()), pa.scalar(b"", pa.large_binary())


def _tokens(tokens_T: Array, begins_W: Array, lengths_W: Array) -> pa.Array:
    """Return the tokens of each window as bytes; they are copied only where windows overlap or leave tokens out."""
    ends_W = np.cumsum(lengths_W)
    if (begins_W[1:] == begins_W[:-1] + lengths_W[:-1]).all():
        some_T = tokens_T[begins_W[0] : begins_W[0] + ends_W[-1]]
    else:
        some_T = tokens_T[np.repeat(begins_W, lengths_W) + counted(lengths_W)]
    return _binary(np.ascontiguousarray(some_T.astype("<u4", copy=False)), lengths_W * 4)


def _masks(shard: Shard, table: Array, begins_W: Array) -> pa.Array:
    """Return the mask of each window as bits, the first position in the highest one."""
    lengths_W = (table["stop"] - table["start"]).astype(np.int64)
    before_W = (table["first"] - table["start"]).astype(np.int64)
    sizes_W, some_W = (lengths_W + 7) // 8, lengths_W - before_W - 1
    after_W = sizes_W * 8 - before_W - some_W
    # positions before the first row, those that may have rows, and what fills the last byte
    runs = np.stack([before_W, some_W, after_W], 1).ravel()
    mask = np.repeat(np.tile([False, True, False], len(table)), runs)
    if shard.said_T is not None:
        gold = np.repeat(begins_W + before_W + 1, some_W) + counted(some_W)
        mask[mask] = shard.said_T[gold]
    return _binary(np.packbits(mask), sizes_W)


def _binary(content: Array, sizes_W: Array) -> pa.Array:
    offsets = np.zeros(len(sizes_W) + 1, np.int64)
    np.cumsum(sizes_W, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes_W), buffers)
