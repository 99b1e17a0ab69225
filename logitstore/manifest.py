"""`cache.json` and `part.json`: what they hold, how they are sealed, and how they are read without trust.

Both are UTF-8 JSON objects whose last entry, `checksum`, covers every byte of the file: it is the xxh3-128 of the file with
those 32 hex digits replaced by zeros. See docs/format.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from logitstore.errors import CacheDamaged, NotACache

FORMAT = "logitstore"
VERSION = 1
MANIFEST_NAME = "cache.json"
RECORD_NAME = "part.json"

_BLANK = b"0" * 32
_SEAL = re.compile(rb'"checksum": "([0-9a-f]{32})"\n}\n\Z')


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise ValueError(f"the path '{path}' leads outside the cache")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
"""A path with forward slashes that stays below the folder it is relative to."""


class Record(BaseModel):
    """Base of everything written to disk: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Record)


class FileSeal(Record):
    """Size in bytes and xxh3-128 (hex) of one file."""

    bytes: int = Field(ge=0)
    xxh3_128: str = Field(pattern="^[0-9a-f]{32}$")


class TeacherInfo(Record):
    """Who answered. `vocabulary` counts the token ids that are real, padding rows of the embedding excluded."""

    name: str
    revision: str | None = None
    fingerprint: str
    dtype: str
    vocabulary: int = Field(ge=1)
    architecture: str
    config: dict[str, Any]


class TokenizerInfo(Record):
    """What the ids mean. `spelling` says how a vocabulary piece is turned into text."""

    fingerprint: str
    size: int = Field(ge=1)
    spelling: Literal["byte-level", "metaspace", "plain"]


class DataInfo(Record):
    """What was asked. `fingerprint` covers place, domain, tokens and row mask of every sample, in order."""

    source: str
    split: str
    kind: Literal["text", "chat"]
    column: str
    domain_column: str | None = None
    fingerprint: str
    documents: int = Field(ge=0)
    skipped: int = Field(ge=0)
    max_length: int = Field(ge=2)
    overlap: int = Field(ge=0)


class SparsifierInfo(Record):
    """Which sparsifier made the targets, with its arguments."""

    name: str
    k: int = Field(ge=1)


class TailInfo(Record):
    """How the mass outside the listed ids is shaped: evenly, or like the one vector in `file`."""

    shape: Literal["uniform", "prior"]
    file: RelativePath | None = None
    pilot_rows: int = 0


class FieldInfo(Record):
    """One array of `rows.zarr`: its dtype, the shape of one row, and what a value is."""

    dtype: Literal["uint16", "uint32", "float16", "float32"]
    shape: tuple[int, ...]
    unit: str


def row_fields(k: int, vocabulary: int) -> dict[str, FieldInfo]:
    """What a row of top-k targets looks like on disk; ids take the narrowest dtype that holds the vocabulary."""
    return {
        "ids": FieldInfo(dtype="uint16" if vocabulary <= 1 << 16 else "uint32", shape=(k,), unit="token id"),
        "logprobs": FieldInfo(dtype="float16", shape=(k,), unit="nat"),
        "tail_logmass": FieldInfo(dtype="float32", shape=(), unit="nat"),
        "gold_logprob": FieldInfo(dtype="float16", shape=(), unit="nat"),
        "entropy": FieldInfo(dtype="float16", shape=(), unit="nat"),
    }


class Manifest(Record):
    """The plan of a cache, written before its first part and never changed."""

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    created_by: dict[str, str]
    task: Literal["causal-lm"] = "causal-lm"
    teacher: TeacherInfo
    tokenizer: TokenizerInfo
    data: DataInfo
    samples: int = Field(ge=1)
    rows: int = Field(ge=1)
    tokens: int = Field(ge=1)
    samples_per_part: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)
    sparsifier: SparsifierInfo
    tail: TailInfo
    fields: dict[str, FieldInfo]
    shared: dict[RelativePath, FileSeal]

    @model_validator(mode="after")
    def _known_fields(self) -> Self:
        """Field names become paths, so nothing but the fields of this version is let through."""
        expected = row_fields(self.sparsifier.k, self.teacher.vocabulary)
        for name in expected.keys() | self.fields.keys():
            if self.fields.get(name) != expected.get(name):
                raise ValueError(f"the field '{name}' is not the one of top-{self.sparsifier.k} targets")
        return self

    @property
    def parts(self) -> int:
        return -(-self.samples // self.samples_per_part)

    def samples_in(self, part: int) -> int:
        """How many samples part number `part` holds."""
        return min(self.samples_per_part, self.samples - part * self.samples_per_part)

    def shared_file(self, what: str) -> str:
        """Path of the shared file, or of the folder of shared files, that holds `what`: vocabulary, tokenizer, tail."""
        name = next((name for name in self.shared if name.startswith(f"shared/{what}-")), None)
        if name is None:
            raise CacheDamaged(f"the manifest names no shared file for '{what}'")
        return "/".join(name.split("/")[:2])

    @property
    def bytes_per_row(self) -> int:
        """Bytes that `rows.zarr` spends on a row."""
        sizes = {"uint16": 2, "uint32": 4, "float16": 2, "float32": 4}
        total = 0
        for info in self.fields.values():
            width = 1
            for axis in info.shape:
                width *= axis
            total += width * sizes[info.dtype]
        return total

    def essence(self) -> dict[str, Any]:
        """Everything that decides what the parts hold; names, paths and versions, which do not, are left out."""
        plan = self.model_dump(mode="json", exclude={"created_by": True, "teacher": {"name", "revision"}})
        plan["data"].pop("source")
        return plan

    @property
    def identity(self) -> str:
        """xxh3-128 of the canonical JSON of the essence; parts carry it to say which plan they belong to."""
        text = json.dumps(self.essence(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return xxhash.xxh3_128_hexdigest(text.encode())


class Sums(Record):
    """What is added up over the parts: per-row totals (nats where they are nats) and the entropy histogram.

    `gold_logprob` leaves out the rows whose gold token the teacher gives no chance at all; `gold_impossible` counts those.
    """

    tail_mass: float = 0.0
    entropy: float = 0.0
    gold_logprob: float = 0.0
    gold_impossible: int = 0
    gold_is_top1: int = 0
    gold_is_listed: int = 0
    entropy_histogram: list[int] = Field(default_factory=list)


class PartRecord(Record):
    """The commit record of a part: counts, sums, and the seal of every file in it."""

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    plan: str
    part: int = Field(ge=0)
    samples: int = Field(ge=1)
    rows: int = Field(ge=0)
    tokens: int = Field(ge=0)
    sums: Sums
    files: dict[RelativePath, FileSeal]


def seal(record: Record) -> bytes:
    """The bytes of `record` as a sealed JSON file."""
    text = json.dumps(record.model_dump(mode="json") | {"checksum": _BLANK.decode()}, indent=1, ensure_ascii=False)
    blank = text.encode() + b"\n"
    digest = xxhash.xxh3_128_hexdigest(blank).encode()
    return blank[: -len(_BLANK) - 4] + digest + blank[-4:]


def unseal(kind: type[R], path: Path) -> R:
    """Read a sealed JSON file.

    Raises:
        NotACache: the file is no logitstore record, or of a newer format version.
        CacheDamaged: its checksum or its contents are wrong.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotACache(f"{path.parent}: no {path.name} in it, so it is no logitstore cache.") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise NotACache(f"{path.parent}: a cache is a folder with a {path.name} in it.") from error
    except OSError as error:
        raise CacheDamaged(f"{path}: cannot be read ({error.strerror}). {_WAY_OUT}") from error
    content = _parse(raw, path)
    if not is_sealed(raw):
        raise CacheDamaged(f"{path}: its checksum does not match its contents. {_WAY_OUT}")
    content.pop("checksum", None)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "its contents"
        raise CacheDamaged(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}. {_WAY_OUT}") from error


def is_sealed(raw: bytes) -> bool:
    """Whether the checksum at the end of a sealed file matches its contents."""
    match = _SEAL.search(raw)
    if match is None:
        return False
    return xxhash.xxh3_128_hexdigest(raw[: match.start(1)] + _BLANK + raw[match.end(1) :]).encode() == match.group(1)


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    """JSON with the right format name and a version this code knows; what comes after is checked by its checksum."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CacheDamaged(f"{path}: not valid JSON ({error}). {_WAY_OUT}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NotACache(f"{path}: this file was not written by logitstore ('format' is not '{FORMAT}').")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise CacheDamaged(f"{path}: its version is {version!r:.40}, not a whole number. {_WAY_OUT}")
    if version > VERSION:
        raise NotACache(
            f"{path}: format version {version}; this logitstore reads versions up to {VERSION}. "
            "Install a newer logitstore."
        )
    return content


_WAY_OUT = "Run `logitstore verify CACHE --repair`, then the dump command again."


def seal_of_bytes(content: bytes) -> FileSeal:
    """Size and checksum of a file's contents."""
    return FileSeal(bytes=len(content), xxh3_128=xxhash.xxh3_128_hexdigest(content))


def seal_of(path: Path) -> FileSeal:
    """Size and checksum of a file, read in blocks of 4 MiB."""
    digest = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as file:
        while block := file.read(4 << 20):
            digest.update(block)
            size += len(block)
    return FileSeal(bytes=size, xxh3_128=digest.hexdigest())
