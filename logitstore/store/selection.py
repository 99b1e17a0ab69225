"""Read and write the selection file: the samples to train on, in a small Arrow file (docs/format.md, "A selection").

Axes: S samples of the data, M chosen.
"""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field, ValidationError

from logitstore.core.progress import amount
from logitstore.core.record import Record
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.store.cache import Cache
from logitstore.store.local_disk import write_whole
from logitstore.store.samples import open_arrow

FORMAT, VERSION = "logitstore-selection", 1


_KEY = b"logitstore"


_SAMPLE = pa.field("sample", pa.int64(), nullable=False)


_WEIGHT = pa.field("weight", pa.float32(), nullable=False)


_HEX = "^[0-9a-f]{32}$"


class Chosen(Record):
    """These numbers say how much was chosen."""

    samples: int = Field(ge=1)
    rows: int = Field(ge=1)
    tokens: int = Field(ge=1)


class SelectionInfo(Record):
    """The info of a selection describes it; docs/format.md has the meaning of every key."""

    format: Literal["logitstore-selection"] = "logitstore-selection"
    version: Literal[1] = 1
    created_by: str
    data: str = Field(pattern=_HEX)
    cache: str = Field(pattern=_HEX)
    reference: str | None = Field(None, pattern=_HEX)
    method: str
    arguments: dict[str, Any]
    samples: int = Field(ge=1)
    chosen: Chosen
    suggested_alpha: float | None = Field(None, ge=0, le=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """A selection names the samples to train on, as read from a file or before it is written.

    Attributes:
        info: where the selection comes from, and what it fits.
        samples_M: int64[M], rising numbers of samples.
        weight_M: float32[M], weight of each sample in the loss; None where all weigh the same.
    """

    info: SelectionInfo
    samples_M: Array
    weight_M: Array | None

    @property
    def checksum(self) -> str:
        """The xxh3-128 over everything in the selection; it names the selection."""
        plain = json.dumps(self.info.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = xxhash.xxh3_128(plain.encode())
        digest.update(self.samples_M.astype("<i8").tobytes())
        if self.weight_M is not None:
            digest.update(self.weight_M.astype("<f4").tobytes())
        return digest.hexdigest()

    def among(self, cache: Cache) -> tuple[Array, Array | None]:
        """Return of all samples of a whole cache, in each of its views alike, bool[S], whether it is chosen, and float32[S],
        its weight; None where all weigh the same."""
        is_chosen_S = np.zeros(cache.manifest.samples, np.bool_)
        is_chosen_S[self.samples_M] = True
        weight_S = None
        if self.weight_M is not None:
            weight_S = np.ones(len(is_chosen_S), np.float32)
            weight_S[self.samples_M] = self.weight_M
            weight_S = np.tile(weight_S, cache.manifest.views)
        return np.tile(is_chosen_S, cache.manifest.views), weight_S

    def check(self, cache: Cache, path: Path) -> None:
        """Refuse a cache that the selection was not made for.

        Raises:
            CacheMismatch: the cache holds other samples, or not all of them.
        """
        if self.info.data != cache.manifest.data.fingerprint or self.info.samples != cache.manifest.samples:
            raise CacheMismatch(
                f"--select {path}: it was made for other samples than those of {cache.path}. "
                "Select again from a cache of the same data, tokenizer and windows."
            )
        if not cache.complete:
            raise CacheMismatch(f"--select {path}: {cache.path} has not all of its parts. Finish its dump first.")


def write_selection(path: Path, selection: Selection) -> None:
    """Write a selection file, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    columns = [pa.array(selection.samples_M.astype(np.int64))]
    fields = [_SAMPLE]
    if selection.weight_M is not None:
        columns.append(pa.array(selection.weight_M.astype(np.float32)))
        fields.append(_WEIGHT)
    text = json.dumps(selection.info.model_dump(mode="json") | {"checksum": selection.checksum}, ensure_ascii=False)
    schema = pa.schema(fields, metadata={_KEY: text.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    with storage_errors(path):
        try:
            write_whole(path, bytes(sink.getvalue()))
        except OSError:
            # a file that may not outlive a power cut must not stand in the way of the next try
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise


def read_selection(path: Path) -> Selection:
    """Read a selection file, and check all that can be checked without a cache.

    Raises:
        BadInput: there is no file, or it is no selection, has a newer version, or is damaged.
    """
    if path.exists() and not path.is_file():
        raise BadInput(f"--select {path}: not a file. {_WAY_OUT}")
    try:
        # not read whole before its ends are those of an Arrow file
        reader = open_arrow(pa.OSFile(str(path)))
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is not None:
            batch.validate(full=True)
    except OSError as error:
        raise BadInput(f"--select {path}: cannot be read: {error.strerror or error}.") from error
    except (pa.ArrowException, struct.error) as error:
        raise BadInput(f"--select {path}: not a whole selection file. {_WAY_OUT}") from error
    content = _parsed(path, (reader.schema.metadata or {}).get(_KEY))
    given = content.pop("checksum", None)
    try:
        info = SelectionInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadInput(f"--select {path}: {where}: {first['msg']}. {_WAY_OUT}") from error
    schema = reader.schema.remove_metadata()
    if batch is None or schema not in (pa.schema([_SAMPLE]), pa.schema([_SAMPLE, _WEIGHT])):
        raise BadInput(f"--select {path}: its columns are not those of a selection. {_WAY_OUT}")
    if any(column.null_count for column in batch.columns):
        raise BadInput(f"--select {path}: it has nulls. {_WAY_OUT}")
    selection = Selection(
        info=info,
        samples_M=batch.column("sample").to_numpy(),
        weight_M=batch.column("weight").to_numpy() if "weight" in schema.names else None,
    )
    if what := _problem(selection, given):
        raise BadInput(f"--select {path}: {what}. {_WAY_OUT}")
    return selection


_WAY_OUT = "Make it again with `logitstore select`."


def _parsed(path: Path, text: bytes | None) -> dict[str, Any]:
    try:
        content = json.loads(text or b"")
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--select {path}: an Arrow file, but no selection of logitstore's. {_WAY_OUT}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f"--select {path}: an Arrow file, but no selection of logitstore's. {_WAY_OUT}")
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise BadInput(
            f"--select {path}: version {version}; this logitstore reads versions up to {VERSION}. Install a newer logitstore."
        )
    return content


def _problem(selection: Selection, checksum: object) -> str:
    """Return what is wrong with a selection; empty text for a sound one."""
    samples_M, info = selection.samples_M, selection.info
    if selection.checksum != checksum:
        return "its checksum does not match its contents"
    if len(samples_M) != info.chosen.samples or not len(samples_M):
        return f"it names {amount(info.chosen.samples, 'sample')} and holds {len(samples_M)}"
    if (np.diff(samples_M) <= 0).any() or samples_M[0] < 0 or samples_M[-1] >= info.samples:
        return f"its numbers of samples do not rise from 0 to at most {info.samples - 1}"
    if selection.weight_M is not None and not (np.isfinite(selection.weight_M) & (selection.weight_M > 0)).all():
        return "a weight is not positive or not finite"
    return ""
