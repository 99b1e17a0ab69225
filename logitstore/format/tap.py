"""`tap.json`: the plan of a tap and the format of its rows. It is sealed like `cache.json`; see docs/format.md, "taps/"."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import xxhash
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from logitstore.core.record import Count, Positive, Record, SharedPath
from logitstore.core.types import Array, Asked
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.row import ARCHIVE_ROWS, FieldInfo
from logitstore.format.sealed import FileSeal
from logitstore.format.tap_names import PATTERN

TAP_NAME = "tap.json"


TAPS = "taps"


CODEC_PATTERN = r"^(bfloat16|float16|float32|int8|pca-[1-9][0-9]*)$"


DEFAULT_CODEC = "bfloat16"


Places = Literal["tokens"] | Positive | None
"""The vectors that a tap has of a sample: one for each row (None), for each of its tokens, or always so many."""


def directions_of(codec: str) -> int:
    """Return R for the codec `pca-R`, and 0 for other codecs."""
    match = re.fullmatch(r"pca-(\d+)", codec)
    return int(match[1]) if match else 0


def needs_pilot(codec: str) -> bool:
    """Return True if a codec has values that all rows share, fitted on a pilot before the first row."""
    return codec == "int8" or directions_of(codec) > 0


def tap_fields(codec: str, width: int) -> dict[str, FieldInfo]:
    """Return the descriptions of the arrays in a tap's `rows.zarr`, by name."""
    if count := directions_of(codec):
        return {"values": FieldInfo(dtype="float16", shape=(count,), unit="coefficient", codec="pca")}
    if codec == "int8":
        return {
            "values": FieldInfo(dtype="int8", shape=(width,), unit="channel", codec="channels"),
            "scale": FieldInfo(dtype="float16", shape=(), unit="standard deviation"),
        }
    if codec == "bfloat16":
        return {"values": FieldInfo(dtype="uint16", shape=(width,), unit="channel", codec="bfloat16")}
    kind: Literal["float16", "float32"] = "float16" if codec == "float16" else "float32"
    return {"values": FieldInfo(dtype=kind, shape=(width,), unit="channel")}


class TapInfo(Record):
    """The plan of a tap, written before its first part and never changed.

    Attributes:
        plan: identity of the plan of the cache; it decides teacher, samples, rows and parts.
        name: name of the tap, such as `hidden-8`.
        width: D, count of channels of the feature.
        codec: name of the codec that stores its values.
        pilot_rows: count of rows that the shared file was fitted on; 0 without such a file.
        places: which vectors there are of a sample. None: one for each row. "tokens": one for each token, whatever its rows
            are. A number: so many of each sample, such as the patches of an image.
        layout: of the arrays on disk. Only a tap that stands in place of rows, such as vectors, is ever an archive.
        fields, shared: as in `cache.json`, with paths relative to the tap's folder.
    """

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    plan: str = Field(pattern="^[0-9a-f]{32}$")
    name: str = Field(pattern=PATTERN)
    width: Positive
    codec: str = Field(pattern=CODEC_PATTERN)
    pilot_rows: Count = 0
    fields: dict[str, FieldInfo]
    shared: dict[SharedPath, FileSeal]
    places: Places = None
    layout: Literal["mapped", "archive"] = "mapped"

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `places` and `layout` if they say nothing, so that taps keep bytes and identity of older versions."""
        plain: dict[str, Any] = plain_of(self)
        if self.places is None:
            plain.pop("places", None)
        if self.layout == "mapped":
            plain.pop("layout", None)
        return plain

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if directions_of(self.codec) > self.width:
            raise ValueError(f"{self.codec} has more directions than the {self.width} channels of the feature")
        if self.fields != tap_fields(self.codec, self.width):
            raise ValueError("the fields are not those of the codec")
        if len(self.shared) != needs_pilot(self.codec):
            raise ValueError(f"the codec {self.codec} and {len(self.shared)} shared files do not go together")
        if self.layout == "archive" and any(info.bytes * ARCHIVE_ROWS >= 1 << 31 for info in self.fields.values()):
            raise ValueError(f"vectors this wide make archive chunks of {ARCHIVE_ROWS} rows larger than 2 GiB")
        return self

    @cached_property
    def identity(self) -> str:
        """xxh3-128 of the canonical JSON of the whole record; the tap's parts carry it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return xxhash.xxh3_128_hexdigest(text.encode())

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one vector."""
        return sum(info.bytes for info in self.fields.values())

    @property
    def unit(self) -> str:
        """What has a vector, for people: a row, a token or a place."""
        return "row" if self.places is None else "token" if self.places == "tokens" else "place"

    def vectors_of(self, sample: Asked) -> int:
        """Return how many vectors there are of a sample."""
        if self.places is None:
            return sample.rows
        return sample.length if self.places == "tokens" else self.places

    def vectors_in(self, record: PartRecord) -> int:
        """Return how many vectors a part has, from the record of the cache's part with the same number."""
        if self.places is None:
            return record.rows
        return record.tokens if self.places == "tokens" else self.places * record.samples


@dataclass(frozen=True, kw_only=True)
class TapPlan:
    """The plan of a tap's parts: the tap and the manifest of its cache."""

    info: TapInfo
    manifest: Manifest

    @property
    def identity(self) -> str:
        return self.info.identity

    @property
    def fields(self) -> dict[str, FieldInfo]:
        return self.info.fields

    @property
    def layout(self) -> str:
        """Layout of the arrays on disk: "mapped" or "archive"."""
        return self.info.layout

    @property
    def parts(self) -> int:
        return self.manifest.parts

    def samples_in(self, part: int) -> int:
        """Return the count of samples in part number `part`."""
        return self.manifest.samples_in(part)

    def samples_below(self, part: int) -> int:
        """Return the count of samples in all parts with smaller numbers."""
        return self.manifest.samples_below(part)

    def sample_counts(self, parts_P: Array) -> Array:
        """Return int64[P]: the counts of samples in some parts."""
        return self.manifest.sample_counts(parts_P)


def tap_folder(name: str) -> str:
    """Return the folder of a tap, relative to the cache."""
    return f"{TAPS}/{name}"
