"""`rows.zarr`: what was answered. A Zarr v3 group whose arrays are one uncompressed chunk each, hence bare bytes on disk.

Mapped by NumPy and not read through zarr-python, whose reads return copies and whose import takes a third of a second.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from logitstore.errors import CacheDamaged
from logitstore.manifest import FieldInfo
from logitstore.types import Array


def chunk_name(rank: int) -> str:
    """Path of the only chunk of an array with `rank` axes, below the array's folder."""
    return "/".join(["c"] + ["0"] * rank)


def files_of(fields: dict[str, FieldInfo]) -> list[str]:
    """Paths of the files that `map_rows` reads, below the group's folder."""
    return [
        f"{name}/{file}" for name, info in fields.items() for file in ("zarr.json", chunk_name(1 + len(info.shape)))
    ]


def map_rows(folder: Path, fields: dict[str, FieldInfo], rows: int) -> dict[str, Array]:
    """Map every field of a part, read-only, without copying or reading a row.

    Raises:
        CacheDamaged: the Zarr metadata is not the one the manifest asks for, or a chunk has another size.
    """
    return {name: _map_field(folder / name, info, rows) for name, info in fields.items()}


def _map_field(folder: Path, info: FieldInfo, rows: int) -> Array:
    shape = [rows, *info.shape]
    _check_metadata(folder / "zarr.json", info, shape)
    chunk = folder / chunk_name(len(shape))
    dtype = np.dtype(info.dtype).newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    try:
        size = chunk.stat().st_size
    except OSError as error:
        raise CacheDamaged(f"{chunk}: cannot be read ({error.strerror}). Run `logitstore verify`.") from error
    if size != expected:
        raise CacheDamaged(f"{chunk}: {size} bytes; {expected} expected. Run `logitstore verify`.")
    return np.memmap(chunk, dtype, "r", shape=tuple(shape)) if rows else np.empty(shape, dtype)


def _check_metadata(path: Path, info: FieldInfo, shape: list[int]) -> None:
    try:
        stored = json.loads(path.read_bytes())
        found = (
            stored["shape"],
            stored["data_type"],
            stored["chunk_grid"]["configuration"]["chunk_shape"],
            stored["codecs"],
            stored["chunk_key_encoding"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheDamaged(f"{path}: not the metadata of a Zarr array. Run `logitstore verify`.") from error
    expected = (
        shape,
        info.dtype,
        [max(axis, 1) for axis in shape],
        [{"name": "bytes", "configuration": {"endian": "little"}}],
        {"name": "default", "configuration": {"separator": "/"}},
    )
    if found != expected:
        raise CacheDamaged(f"{path}: it describes {found}; the manifest asks for {expected}. Run `logitstore verify`.")
