"""A row on disk: its fields follow from the sparsifier, the tail, the codec and the vocabulary alone.

The manifest says what was chosen of those, and a manifest with other fields is refused. What a sparsifier is stands in
`logitstore.format.row_kinds`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from logitstore.core.record import NotKnownHere, Record, RelativePath
from logitstore.format.row_kinds import ARGUMENTS, RowKind, TailShape, is_row_kind, row_kind

ItemType = Literal["uint8", "uint16", "uint32", "int8", "float16", "float32"]


ITEM_BYTES: dict[str, int] = {"uint8": 1, "int8": 1, "uint16": 2, "float16": 2, "uint32": 4, "float32": 4}


ARCHIVE_ROWS = 16384
"""Rows in a chunk of the archive layout."""


MOST_ID_BITS = 24


SCORES = ("entropy",)
"""Fields about a row that no target needs."""


class SparsifierInfo(Record):
    """Which sparsifier made the targets, with its arguments.

    Attributes:
        name: of the sparsifier: a kind of `logitstore.format.row_kinds`.
        k: tokens listed by probability; the kind says whether exactly so many, at most so many, none, or the whole vocabulary.
        top_p: mass after which listing stops.
        draws: tokens drawn for a row.
        exponent: tau; tokens are drawn in proportion to p**tau.
    """

    name: str
    k: int = Field(ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    draws: int | None = Field(None, ge=1, le=255)
    exponent: float | None = Field(None, gt=0, le=2)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if not is_row_kind(name):
            raise NotKnownHere(
                f"the sparsifier '{name}' of this cache is not known here; install the package that provides it"
            )
        return name

    @property
    def kind(self) -> RowKind:
        """The record of this sparsifier."""
        return row_kind(self.name)

    @property
    def slots(self) -> int:
        """How many token ids a row stores."""
        return self.k + (self.draws or 0) if self.kind.keeps_ids else 0

    @property
    def is_estimate(self) -> bool:
        """See `RowKind`."""
        return self.kind.is_estimate

    @property
    def keeps_rows(self) -> bool:
        """See `RowKind`."""
        return self.kind.keeps_rows


class TailInfo(Record):
    """How the mass outside the listed ids is shaped.

    Attributes:
        shape: left out, the listed tokens renormalised (none); even (uniform); like one vector (prior); decoded from a few
            coefficients of the final hidden state (sketch) or from the whole of it (head).
        file: the file of what all rows share: the prior, or how hidden states become logits.
        pilot_rows: the count of rows that the file was fitted on.
        bytes: bytes of the coefficients of a row (sketch).
        width: channels of a hidden state (head).
        rounding: how the levels of the coefficients were chosen (sketch): for the row, or each the nearest (None). Readers do
            not need it.
    """

    shape: TailShape
    file: RelativePath | None = None
    pilot_rows: int = Field(0, ge=0)
    bytes: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    rounding: Literal["row"] | None = None

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the rounding where there is none, so that such caches keep the bytes of older versions."""
        plain: dict[str, Any] = plain_of(self)
        if self.rounding is None:
            plain.pop("rounding", None)
        return plain

    @property
    def needs_hidden(self) -> bool:
        """True where the tail is made of the teacher's final hidden state, or for a sketch of what stands for it."""
        return self.shape in ("sketch", "head")

    @property
    def is_fitted(self) -> bool:
        """True where all rows share tensors that are fitted before the first part."""
        return self.shape not in ("none", "uniform")


class CodecInfo(Record):
    """How values become bytes.

    Attributes:
        ids: in whole integers (plain), or in as many bits as the vocabulary needs (packed).
        logprobs, tail: of the listed tokens, and of the mass outside them.
        layout: bare bytes that can be mapped, or compressed chunks.
    """

    ids: Literal["plain", "packed"] = "plain"
    logprobs: Literal["float32", "float16", "levels-8", "levels-6", "levels-5"] = "float16"
    tail: Literal["float32", "log2-16", "log2-8"] = "float32"
    layout: Literal["mapped", "archive"] = "mapped"


class FieldInfo(Record):
    """One array of `rows.zarr`: its dtype, the shape of one row, what a value is, and the codec that made it."""

    dtype: ItemType
    shape: tuple[int, ...]
    unit: str
    codec: str = "plain"

    @property
    def bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def id_bits(vocabulary: int) -> int:
    """Return the bits that hold every token id."""
    return max((vocabulary - 1).bit_length(), 1)


def token_dtype(vocabulary: int) -> Literal["uint16", "uint32"]:
    """Return the narrower of the unsigned integers of 16 and 32 bits that holds every token id."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def row_fields(sparsifier: SparsifierInfo, tail: TailInfo, codec: CodecInfo, vocabulary: int) -> dict[str, FieldInfo]:
    """Return the arrays of `rows.zarr`, by name, in the order in which docs/format.md describes them."""
    kind = sparsifier.kind
    is_plain_draw = sparsifier.k == 0 and sparsifier.exponent == 1  # log Z is 0 where all tokens are drawn by p itself
    fields: dict[str, FieldInfo | None] = {
        "ids": _ids(sparsifier.slots, codec, vocabulary),
        "logprobs": _logprobs(sparsifier.slots if kind.keeps_ids else vocabulary, codec),
        "counts": FieldInfo(dtype="uint8", shape=(sparsifier.draws or 0,), unit="draw"),
        "log_normaliser": None if is_plain_draw else FieldInfo(dtype="float32", shape=(), unit="nat"),
        "tail_logmass": _TAIL_LOGMASS[codec.tail],
        "sketch": FieldInfo(dtype="uint8", shape=(tail.bytes,), unit="coefficient", codec="codebook")
        if tail.bytes
        else None,
        "hidden": FieldInfo(dtype="int8", shape=(tail.width or 0,), unit="channel", codec="channels"),
        "hidden_scale": FieldInfo(dtype="float16", shape=(), unit="standard deviation"),
        "gold_logprob": FieldInfo(dtype="float16", shape=(), unit="nat"),
        "entropy": FieldInfo(dtype="float16", shape=(), unit="nat"),
        "score": FieldInfo(dtype="float32", shape=(), unit="score"),
    }
    return {name: info for name, info in fields.items() if info is not None and name in kind.fields}


_TAIL_LOGMASS = {
    "float32": FieldInfo(dtype="float32", shape=(), unit="nat"),
    "log2-16": FieldInfo(dtype="uint16", shape=(), unit="nat", codec="log2-16"),
    "log2-8": FieldInfo(dtype="uint8", shape=(), unit="nat", codec="log2-8"),
}


def _ids(slots: int, codec: CodecInfo, vocabulary: int) -> FieldInfo:
    if codec.ids == "plain":
        return FieldInfo(dtype=token_dtype(vocabulary), shape=(slots,), unit="token id")
    bits = id_bits(vocabulary)
    return FieldInfo(dtype="uint8", shape=(-(-slots * bits // 8),), unit="token id", codec=f"bits-{bits}")


def _logprobs(entries: int, codec: CodecInfo) -> FieldInfo:
    if codec.logprobs in ("float16", "float32"):
        return FieldInfo(dtype=codec.logprobs, shape=(entries,), unit="nat")
    bits = int(codec.logprobs.removeprefix("levels-"))
    return FieldInfo(dtype="uint8", shape=(-(-entries * bits // 8),), unit="nat", codec=codec.logprobs)


class RowInfo(Record):
    """What a row holds: the part of the manifest that decides it, checked to fit together."""

    sparsifier: SparsifierInfo
    tail: TailInfo
    codec: CodecInfo
    vocabulary: int

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The arrays of `rows.zarr`, by name."""
        return row_fields(self.sparsifier, self.tail, self.codec, self.vocabulary)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        sparsifier, kind = self.sparsifier, self.sparsifier.kind
        for name in ARGUMENTS:
            if (getattr(sparsifier, name) is not None) != (name in kind.arguments):
                needs = "needs" if name in kind.arguments else "takes no"
                raise ValueError(f"the sparsifier '{sparsifier.name}' {needs} {name}")
        if self.tail.shape not in kind.tails:
            allowed = " or ".join(kind.tails)
            raise ValueError(f"the sparsifier '{sparsifier.name}' has the tail {allowed}, not {self.tail.shape}")
        fixed = kind.lists.fixed(self.vocabulary)
        if fixed is not None and sparsifier.k != fixed:
            raise ValueError(f"the sparsifier '{sparsifier.name}' lists {fixed} tokens, not {sparsifier.k}")
        if fixed is None and not 1 <= sparsifier.k <= self.vocabulary:
            raise ValueError(f"k is {sparsifier.k}; it must be from 1 to the vocabulary of {self.vocabulary}")
        if not kind.is_distribution and self.vocabulary != 1:
            raise ValueError(f"a score is the answer of a teacher with one output, not {self.vocabulary}")
        if (self.tail.bytes is not None) != (self.tail.shape == "sketch"):
            raise ValueError("bytes belong to a sketch")
        if self.tail.rounding is not None and self.tail.shape != "sketch":
            raise ValueError("a rounding belongs to a sketch")
        if (self.tail.width is not None) != (self.tail.shape == "head"):
            raise ValueError("a width belongs to a tail from the head")
        if self.codec.ids == "packed" and id_bits(self.vocabulary) > MOST_ID_BITS:
            raise ValueError(f"packed ids hold vocabularies of up to {1 << MOST_ID_BITS} tokens")
        is_archive = self.codec.layout == "archive"
        if is_archive and any(info.bytes * ARCHIVE_ROWS >= 1 << 31 for info in self.fields.values()):
            raise ValueError(f"rows this wide make archive chunks of {ARCHIVE_ROWS} rows larger than 2 GiB")
        return self
