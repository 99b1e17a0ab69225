"""The base of llama.cpp's measure of KL divergence: `llama-perplexity --kl-divergence-base FILE` keeps whole distributions.

The schema is that of https://github.com/ggml-org/llama.cpp at commit 050fc7f (tools/perplexity/perplexity.cpp): `_logits_`,
the counts of tokens of a context, tokens of the vocabulary, and contexts as int32, the tokens of all contexts as int32, and for
each position in the second half of a context but the last one a row: step and lowest logprob as float32, and a level of 16 bits
for every token. Axes: C contexts, T tokens of a context, N rows, V vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from logitstore.core.types import Array, ModelRef
from logitstore.dump.data import files_of
from logitstore.errors import BadInput
from logitstore.models.load import load_tokenizer
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.block import Block, Foreign, Lists, joined
from logitstore.text.foreign.tables import reading
from logitstore.text.foreign.whole import entries_of, listed

MAGIC = b"_logits_"

HEAD = struct.Struct("<8siii")

LARGEST = 1 << 24
"""The largest vocabulary, and the longest context, that a file may state: some tens of times those of any model."""

VALUES = 1 << 22
"""Levels that are looked at together, about."""

TOKENS = 1 << 12
"""Tokens of the contexts that are given together, about."""


def open_source(settings: ConvertSettings) -> Foreign:
    """Open one or more files of one vocabulary.

    Raises:
        BadInput: a file is none of llama.cpp's, is not whole, or has another vocabulary than the first one.
        ModelError: the tokenizer cannot be loaded.
    """
    paths = files_of(str(settings.source.expanduser()))
    if not paths:
        raise BadInput(f"{settings.source}: there is no such file. Give a file of llama-perplexity, or a glob.")
    bases = [base_of(path) for path in paths]
    other = next((base for base in bases if base.vocabulary != bases[0].vocabulary), None)
    if other is not None:
        raise BadInput(
            f"{other.path}: its vocabulary has {other.vocabulary:,} tokens, that of {bases[0].path} {bases[0].vocabulary:,}. "
            "Convert the files of one teacher."
        )
    if settings.tokenizer is None:
        raise BadInput("--tokenizer: give that of the teacher.")
    tokenizer = load_tokenizer(ModelRef.parse(settings.tokenizer, trust_remote_code=settings.trust_remote_code))
    begin = tokenizer.bos_token_id
    entries = entries_of(bases[0].vocabulary, settings.k)
    reader = _Reader(bases=bases, begin=begin if isinstance(begin, int) else None, kept=entries)
    return Foreign(
        format="llamacpp",
        files=[base.path for base in bases],
        said=f"{begin}",
        gold="all",
        mass="known",
        entries=entries,
        vocabulary=bases[0].vocabulary,
        column="tokens",
        is_partial=False,
        records=sum(base.contexts for base in bases),
        blocks=reader,
        pilot=replace(reader, has_rest=True),
    )


@dataclass(frozen=True, kw_only=True)
class Base:
    """A file.

    Attributes:
        path: of it.
        length: T, tokens of a context.
        vocabulary: V.
        contexts: C.
    """

    path: Path
    length: int
    vocabulary: int
    contexts: int

    @property
    def first(self) -> int:
        """The first position of a context that has a row; the last one is that before the last token."""
        return self.length // 2

    @property
    def rows(self) -> int:
        """Rows of a context."""
        return self.length - 1 - self.first

    @property
    def row_bytes(self) -> int:
        """Two floats, and the levels, filled up to an even count."""
        return 8 + 4 * ((self.vocabulary + 1) // 2)

    @property
    def start(self) -> int:
        """Where the rows begin, in bytes."""
        return HEAD.size + 4 * self.length * self.contexts

    @property
    def size(self) -> int:
        """Bytes of a whole file."""
        return self.start + self.contexts * self.rows * self.row_bytes

    def tokens(self, first: int, stop: int) -> Array:
        """Return the tokens of some contexts, int32[C, T]. Raises BadInput: an id is not below the vocabulary."""
        content = self.read(HEAD.size + 4 * self.length * first, 4 * self.length * (stop - first))
        tokens_CT = np.frombuffer(content, "<i4").reshape(stop - first, self.length)
        if tokens_CT.min() < 0 or tokens_CT.max() >= self.vocabulary:
            raise BadInput(f"{self.path}: a token id is not from 0 to {self.vocabulary - 1}. Make the file again.")
        return tokens_CT

    def read(self, start: int, size: int) -> bytes:
        """Return some bytes. Raises BadInput: the file ends before."""
        with reading(self.path), self.path.open("rb") as file:
            file.seek(start)
            content = file.read(size)
            if len(content) != size:
                raise BadInput(f"{self.path}: it was cut while it was read. Give the same command again.")
            return content


def base_of(path: Path) -> Base:
    """Return what a file says of itself.

    Raises:
        BadInput: it is none of these, or has another size than it says.
    """
    with reading(path), path.open("rb") as file:
        head = file.read(HEAD.size)
        size = file.seek(0, 2)
    if not head.startswith(MAGIC) or len(head) < HEAD.size:
        raise BadInput(
            f"{path}: it does not begin like a file of llama-perplexity --kl-divergence-base. Give such a file."
        )
    _, length, vocabulary, contexts = HEAD.unpack(head)
    if not (3 <= length <= LARGEST and 1 <= vocabulary <= LARGEST and contexts >= 1):
        raise BadInput(
            f"{path}: it says that it has {contexts:,} contexts of {length:,} tokens and a vocabulary of {vocabulary:,}. "
            "That is no file of llama-perplexity."
        )
    base = Base(path=path, length=length, vocabulary=vocabulary, contexts=contexts)
    if size != base.size:
        raise BadInput(
            f"{path}: it has {size:,} bytes, and {contexts:,} contexts of {length:,} tokens take {base.size:,}. Let "
            "llama-perplexity finish it."
        )
    return base


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """Reads the contexts; see `logitstore.text.foreign.block.Blocks`.

    Attributes:
        bases: the files.
        begin: the tokenizer's token for the begin of a text.
        kept: entries that are listed of a row.
        has_rest: the mass of the unlisted tokens is added up.
    """

    bases: list[Base]
    begin: int | None
    kept: int
    has_rest: bool = False

    def __call__(self, record: int, *, with_lists: bool) -> Iterator[Block]:
        done = 0
        for base in self.bases:
            together = max(TOKENS // base.length, 1)
            for first in range(max(record - done, 0), base.contexts, together):
                stop = min(first + together, base.contexts)
                block = self._block(base, first, stop, done)
                yield replace(block, lists=self._lists(base, first, stop, block.gold_N)) if with_lists else block
            done += base.contexts

    def _block(self, base: Base, first: int, stop: int, done: int) -> Block:
        count = stop - first
        tokens_CT = base.tokens(first, stop).astype(np.int64)
        # the text as a whole begins with this token where llama.cpp put it before every context; the file has what stood there
        if self.begin is not None and base.tokens(0, 1)[0, 0] == self.begin:
            tokens_CT[:, 0] = self.begin
        mask_CT = np.zeros((count, base.length), np.bool_)
        mask_CT[:, base.first : -1] = True
        return Block(
            record_S=done + np.arange(first, stop),
            document_S=np.arange(count),
            documents=count,
            lengths_S=np.full(count, base.length),
            tokens_T=tokens_CT.reshape(-1),
            mask_T=mask_CT.reshape(-1),
        )

    def _lists(self, base: Base, first: int, stop: int, gold_N: Array) -> Lists:
        pieces, size = [], max(VALUES // base.vocabulary, 1)
        for begin in range(0, len(gold_N), size):
            gold_n = gold_N[begin : begin + size]
            content = base.read(base.start + (first * base.rows + begin) * base.row_bytes, len(gold_n) * base.row_bytes)
            where = f"{base.path}: row {begin} of context {first}, or one behind it"
            pieces.append(self._piece(np.frombuffer(content, np.uint8).reshape(len(gold_n), -1), gold_n, base, where))
        return joined(pieces)

    def _piece(self, bytes_NB: Array, gold_N: Array, base: Base, where: str) -> Lists:
        scale_N1, lowest_N1 = (bytes_NB[:, place : place + 4].copy().view("<f4") for place in (0, 4))
        if not (np.isfinite(scale_N1) & (scale_N1 >= 0) & np.isfinite(lowest_N1) & (lowest_N1 <= 0)).all():
            raise BadInput(f"{where}: its step or its lowest logprob is none. Make the file again.")
        levels_NV = bytes_NB[:, 8 : 8 + 2 * base.vocabulary].copy().view("<u2")
        is_floor_NV = (levels_NV == 0) & (scale_N1 > 0)
        with np.errstate(over="ignore"):
            raw_NV = levels_NV * scale_N1 + lowest_N1
        logprobs_NV = _completed(raw_NV, is_floor_NV, where)
        lists = listed(logprobs_NV, gold_N, self.kept, has_rest=self.has_rest)
        rows_N = np.arange(len(gold_N))
        is_floor_N = is_floor_NV[rows_N, gold_N]
        # of a gold token at the floor the file says that it is at most so probable, which is what llama.cpp takes too
        is_listed_N = ((lists.ids_NK == gold_N[:, None]) & ~np.isneginf(lists.logprobs_NK)).any(1)
        gold_N = np.where(is_floor_N & ~is_listed_N, lowest_N1[:, 0], logprobs_NV[rows_N, gold_N])
        return replace(lists, gold_N=gold_N, is_bound_N=is_floor_N & ~is_listed_N)


def _completed(logprobs_NV: Array, is_floor_NV: Array, where: str) -> Array:
    """Return logprobs, float32[N, V], in which the tokens at the floor, 16 nats below the most probable one, share what the
    others leave, evenly: the file says of each of them only that it is at most so probable.

    Raises:
        BadInput: the others have a mass that no rounding makes.
    """
    with np.errstate(over="ignore"):
        mass_NV = np.exp(logprobs_NV)
    mass_NV[is_floor_NV] = 0
    mass_N1 = mass_NV.sum(1, keepdims=True, dtype=np.float64)
    most_N1 = mass_N1 + np.where(is_floor_NV, np.exp(logprobs_NV), 0).sum(1, keepdims=True, dtype=np.float64)
    if (mass_N1 > 1 + ROUNDING).any() or (most_N1 < 1 - ROUNDING).any():
        raise BadInput(f"{where}: its probabilities do not sum to 1. Make the file again.")
    floors_N1 = np.maximum(is_floor_NV.sum(1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        share_N1 = np.log(np.maximum(1 - mass_N1, 0) / floors_N1).astype(np.float32)
    # levels are rounded, so those above the floor may sum to a little more than 1
    scaled_NV = logprobs_NV - np.log(np.maximum(mass_N1, 1)).astype(np.float32)
    return np.asarray(np.where(is_floor_NV, np.minimum(share_N1, logprobs_NV), scaled_NV))


ROUNDING = 1e-2
"""By how much the probabilities of a row may miss 1: levels are 2.4e-4 nats apart, and sums in float32 add to that."""
