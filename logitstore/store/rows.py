"""`rows.zarr`: what was answered, a Zarr v3 group with one array a field.

Mapped layout: one uncompressed chunk each, hence bare bytes on disk, which NumPy maps; zarr-python's reads return copies, and
its import takes a third of a second. Archive layout: compressed chunks, read by zarr-python.
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.errors import CacheDamaged, one_line
from logitstore.format.row import ARCHIVE_ROWS, FieldInfo


def chunk_name(rank: int) -> str:
    """Path of the only chunk of an array with `rank` axes, below the array's folder."""
    return "/".join(["c"] + ["0"] * rank)


def files_of(fields: dict[str, FieldInfo]) -> list[str]:
    """Paths of the files that `map_rows` reads, below the group's folder."""
    return [
        f"{name}/{file}" for name, info in fields.items() for file in ("zarr.json", chunk_name(1 + len(info.shape)))
    ]


def archive_codecs(rank: int, item_bytes: int) -> list[dict[str, Any]]:
    """Zarr codecs of an array in the archive layout: each column by itself, its bytes by significance, then zstd."""
    return [
        {"name": "transpose", "configuration": {"order": list(reversed(range(rank)))}},
        {"name": "bytes", "configuration": {"endian": "little"}} if item_bytes > 1 else {"name": "bytes"},
        {
            "name": "blosc",
            "configuration": {
                "typesize": item_bytes,
                "cname": "zstd",
                "clevel": 9,
                "shuffle": "shuffle" if item_bytes > 1 else "noshuffle",
                "blocksize": 0,
            },
        },
    ]


def needed_files(fields: dict[str, FieldInfo], layout: str, rows: int) -> list[str]:
    """Paths of all files that reading the rows opens, below the group's folder."""
    if layout == "mapped":
        return files_of(fields)
    chunks = range(-(-max(rows, 1) // ARCHIVE_ROWS))
    return [
        f"{name}/{file}"
        for name, info in fields.items()
        for file in ("zarr.json", *(_archive_chunk(chunk, len(info.shape)) for chunk in chunks))
    ]


def _archive_chunk(number: int, axes: int) -> str:
    """Path of one chunk of an array in the archive layout, whose rows have `axes` axes."""
    return "/".join(["c", str(number)] + ["0"] * axes)


def _check_blosc(path: Path, expected: int) -> None:
    """Refuse a compressed chunk that says it holds anything but `expected` bytes, before memory is asked for."""
    with path.open("rb") as file:
        header = file.read(16)
    if len(header) < 16 or int.from_bytes(header[4:8], "little") != expected:
        raise CacheDamaged(f"{path}: it does not hold {expected} bytes. Run `logitstore verify`.")


def read_rows(folder: Path, fields: dict[str, FieldInfo], rows: int) -> dict[str, Array]:
    """Decompress every field of a part in the archive layout.

    Raises:
        CacheDamaged: the Zarr metadata is not the one the manifest asks for, or a chunk cannot be decompressed.
    """
    zarr: Any = importlib.import_module("zarr")
    found: dict[str, Array] = {}
    for name, info in fields.items():
        shape = [rows, *info.shape]
        dtype = np.dtype(info.dtype)
        chunk_shape = [min(max(rows, 1), ARCHIVE_ROWS), *info.shape]
        _check_metadata(
            folder / name / "zarr.json", info, shape, chunk_shape, archive_codecs(len(shape), dtype.itemsize)
        )
        for chunk in range(-(-max(rows, 1) // ARCHIVE_ROWS)):
            _check_blosc(
                folder / name / _archive_chunk(chunk, len(info.shape)), math.prod(chunk_shape) * dtype.itemsize
            )
        try:
            found[name] = np.asarray(zarr.open_array(str(folder / name), mode="r")[...])
        except Exception as error:
            # zarr and its codecs raise anything from ValueError to RuntimeError for bytes that do not decompress
            raise CacheDamaged(
                f"{folder / name}: cannot be read: {one_line(error)}. Run `logitstore verify`."
            ) from error
    return found


def map_rows(folder: Path, fields: dict[str, FieldInfo], rows: int) -> dict[str, Array]:
    """Map every field of a part, read-only, without copying or reading a row.

    Raises:
        CacheDamaged: the Zarr metadata is not the one the manifest asks for, or a chunk has another size.
    """
    return {name: _map_field(folder / name, info, rows) for name, info in fields.items()}


def _map_field(folder: Path, info: FieldInfo, rows: int) -> Array:
    shape = [rows, *info.shape]
    bare: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if np.dtype(info.dtype).itemsize == 1:
        bare = [{"name": "bytes"}]
    _check_metadata(folder / "zarr.json", info, shape, [max(axis, 1) for axis in shape], bare)
    chunk = folder / chunk_name(len(shape))
    dtype = np.dtype(info.dtype).newbyteorder("<")
    expected = math.prod(shape) * dtype.itemsize
    try:
        size = chunk.stat().st_size
    except OSError as error:
        raise CacheDamaged(f"{chunk}: cannot be read ({error.strerror}). Run `logitstore verify`.") from error
    if size != expected:
        raise CacheDamaged(f"{chunk}: {size} bytes; {expected} expected. Run `logitstore verify`.")
    if not expected:
        return np.empty(shape, dtype)
    # Arrow's map keeps no file descriptor, as numpy.memmap does: a process may have a thousand of those
    return np.frombuffer(pa.memory_map(str(chunk)).read_buffer(expected), dtype).reshape(shape)


def _check_metadata(
    path: Path, info: FieldInfo, shape: list[int], chunk_shape: list[int], codecs: list[dict[str, Any]]
) -> None:
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
        chunk_shape,
        codecs,
        {"name": "default", "configuration": {"separator": "/"}},
    )
    if found != expected:
        raise CacheDamaged(f"{path}: it describes {found}; the manifest asks for {expected}. Run `logitstore verify`.")
