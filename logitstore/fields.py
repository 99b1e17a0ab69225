"""What a row looks like on disk: it follows from the sparsifier, the tail, the codec and the vocabulary alone.

Nothing here is chosen: the manifest says what was chosen, and a manifest whose fields are not these is refused.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from logitstore.paths import RelativePath
from logitstore.record import Record

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
        name: of the sparsifier.
        k: tokens listed: exactly (topk), at most (topp), before the draws (hybrid), the whole vocabulary (dense), none
            (sampled, hidden, none).
        top_p: mass after which topp stops listing.
        draws: tokens drawn for a row (sampled, hybrid).
        exponent: tau; tokens are drawn in proportion to p**tau.
    """

    name: Literal["topk", "topp", "sampled", "hybrid", "dense", "hidden", "none"]
    k: int = Field(ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    draws: int | None = Field(None, ge=1, le=255)
    exponent: float | None = Field(None, gt=0, le=2)

    @property
    def slots(self) -> int:
        """Token ids stored in a row."""
        return 0 if self.name in ("dense", "hidden", "none") else self.k + (self.draws or 0)

    @property
    def is_estimate(self) -> bool:
        """Whether a row is a random sample of the distribution, right only on average."""
        return self.draws is not None

    @property
    def keeps_rows(self) -> bool:
        """Whether anything is stored about a row: without it only the samples and their scores are."""
        return self.name != "none"


class TailInfo(Record):
    """How the mass outside the listed ids is shaped.

    Attributes:
        shape: left out, the listed tokens renormalised (none); even (uniform); like one vector (prior); decoded from a few
            coefficients of the final hidden state (sketch) or from the whole of it (head).
        file: what all rows share: the prior, or how hidden states become logits.
        pilot_rows: rows that it was fitted on.
        bytes: of the coefficients of a row (sketch).
        width: channels of a hidden state (head).
    """

    shape: Literal["none", "uniform", "prior", "sketch", "head"]
    file: RelativePath | None = None
    pilot_rows: int = Field(0, ge=0)
    bytes: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)

    @property
    def needs_hidden(self) -> bool:
        """Whether it comes from the teacher's final hidden state."""
        return self.shape in ("sketch", "head")


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
    """Bits that hold every token id."""
    return max((vocabulary - 1).bit_length(), 1)


def token_dtype(vocabulary: int) -> Literal["uint16", "uint32"]:
    """The narrowest unsigned integer, of 16 or 32 bits, that holds every token id."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def row_fields(sparsifier: SparsifierInfo, tail: TailInfo, codec: CodecInfo, vocabulary: int) -> dict[str, FieldInfo]:
    """The arrays of `rows.zarr`, by name, in the order in which they are described in docs/format.md."""
    if not sparsifier.keeps_rows:
        return {}
    fields: dict[str, FieldInfo] = {}
    slots = sparsifier.slots
    if slots:
        fields["ids"] = _ids(slots, codec, vocabulary)
    if sparsifier.name != "hidden":
        fields["logprobs"] = _logprobs(slots or vocabulary, codec)
    if sparsifier.draws is not None:
        fields["counts"] = FieldInfo(dtype="uint8", shape=(sparsifier.draws,), unit="draw")
        if sparsifier.name == "hybrid" or sparsifier.exponent != 1:
            fields["log_normaliser"] = FieldInfo(dtype="float32", shape=(), unit="nat")
    elif sparsifier.name in ("topk", "topp"):
        fields["tail_logmass"] = {
            "float32": FieldInfo(dtype="float32", shape=(), unit="nat"),
            "log2-16": FieldInfo(dtype="uint16", shape=(), unit="nat", codec="log2-16"),
            "log2-8": FieldInfo(dtype="uint8", shape=(), unit="nat", codec="log2-8"),
        }[codec.tail]
    if tail.shape == "sketch":
        fields["sketch"] = FieldInfo(dtype="uint8", shape=(tail.bytes or 0,), unit="coefficient", codec="codebook")
    if sparsifier.name == "hidden":
        fields["hidden"] = FieldInfo(dtype="int8", shape=(tail.width or 0,), unit="channel", codec="channels")
        fields["hidden_scale"] = FieldInfo(dtype="float16", shape=(), unit="standard deviation")
    fields["gold_logprob"] = FieldInfo(dtype="float16", shape=(), unit="nat")
    fields["entropy"] = FieldInfo(dtype="float16", shape=(), unit="nat")
    return fields


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

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        wanted = _ARGUMENTS[self.sparsifier.name]
        for name in ("top_p", "draws", "exponent"):
            if (getattr(self.sparsifier, name) is not None) != (name in wanted):
                raise ValueError(f"the sparsifier '{self.sparsifier.name}' {_NEEDS[name in wanted]} {name}")
        if self.tail.shape not in TAILS[self.sparsifier.name]:
            allowed = " or ".join(TAILS[self.sparsifier.name])
            raise ValueError(f"the sparsifier '{self.sparsifier.name}' has the tail {allowed}, not {self.tail.shape}")
        counts = {"sampled": 0, "hidden": 0, "none": 0, "dense": self.vocabulary}
        k, expected = self.sparsifier.k, counts.get(self.sparsifier.name)
        if expected is not None and k != expected:
            raise ValueError(f"the sparsifier '{self.sparsifier.name}' lists {expected} tokens, not {k}")
        if expected is None and not 1 <= k <= self.vocabulary:
            raise ValueError(f"k is {k}; it must be from 1 to the vocabulary of {self.vocabulary}")
        fields = row_fields(self.sparsifier, self.tail, self.codec, self.vocabulary)
        if self.codec.layout == "archive" and any(info.bytes * ARCHIVE_ROWS >= 1 << 31 for info in fields.values()):
            raise ValueError(f"rows this wide make archive chunks of {ARCHIVE_ROWS} rows larger than 2 GiB")
        if self.codec.ids == "packed" and id_bits(self.vocabulary) > MOST_ID_BITS:
            raise ValueError(f"packed ids hold vocabularies of up to {1 << MOST_ID_BITS} tokens")
        if (self.tail.bytes is not None) != (self.tail.shape == "sketch"):
            raise ValueError("bytes belong to a sketch")
        if (self.tail.width is not None) != (self.tail.shape == "head"):
            raise ValueError("a width belongs to a tail from the head")
        return self


_ARGUMENTS: dict[str, set[str]] = {
    "topk": set(),
    "topp": {"top_p"},
    "sampled": {"draws", "exponent"},
    "hybrid": {"draws", "exponent"},
    "dense": set(),
    "hidden": set(),
    "none": set(),
}
_NEEDS = {True: "needs", False: "takes no"}

TAILS: dict[str, tuple[str, ...]] = {
    "topk": ("sketch", "prior", "uniform", "none"),
    "topp": ("sketch", "prior", "uniform", "none"),
    "sampled": ("none",),
    "hybrid": ("none",),
    "dense": ("none",),
    "hidden": ("head",),
    "none": ("none",),
}
"""Which tails go with which sparsifier, the default first."""
