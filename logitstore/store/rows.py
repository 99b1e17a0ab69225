"""`rows.zarr`: the stored answers, a Zarr v3 group with one array per field.

Mapped layout: each array is one uncompressed chunk, so its file holds bare bytes, which are mapped. (zarr-python returns
copies, and its import takes a third of a second.) Archive layout: compressed chunks, read by zarr-python.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import CacheDamaged, one_line
from logitstore.format.row import ARCHIVE_ROWS, FieldInfo
from logitstore.store.maps import map_file

LARGEST_METADATA = 1 << 16
"""Most bytes of the `zarr.json` of an array."""


def chunk_name(rank: int) -> str:
    """Return the path of the only chunk of an array with `rank` axes, relative to the array's folder."""
    return "/".join(["c"] + ["0"] * rank)


def files_of(fields: dict[str, FieldInfo]) -> list[str]:
    """Return the paths of the files that `map_rows` reads, relative to the group's folder."""
    return [
        f"{name}/{file}" for name, info in fields.items() for file in ("zarr.json", chunk_name(1 + len(info.shape)))
    ]


def archive_codecs(name: str, info: FieldInfo, rows: int) -> list[dict[str, Any]]:
    """Return the Zarr codecs of a field in the archive layout; a part has `rows` rows. benchmarks/archive.py chose them."""
    if name == "sketch":
        # bits of numbers of several widths: the bytes of one column are alike, and get a code of their own
        return [_columns(2), _plain(info), _blosc(info, "noshuffle", min(max(rows, 1), ARCHIVE_ROWS))]
    return [_plain(info), _blosc(info, "shuffle" if info.dtype.startswith("float") else "noshuffle")]


def first_archive_codecs(info: FieldInfo) -> list[dict[str, Any]]:
    """Return the Zarr codecs of a field in archives of the first versions: columns, bytes sorted by significance, then zstd."""
    item_bytes = np.dtype(info.dtype).itemsize
    shuffled = _blosc(info, "shuffle" if item_bytes > 1 else "noshuffle")
    return [_columns(1 + len(info.shape)), _plain(info), shuffled]


def _columns(rank: int) -> dict[str, Any]:
    return {"name": "transpose", "configuration": {"order": list(reversed(range(rank)))}}


def _plain(info: FieldInfo) -> dict[str, Any]:
    if np.dtype(info.dtype).itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _blosc(info: FieldInfo, shuffle: str, blocksize: int = 0) -> dict[str, Any]:
    item_bytes = np.dtype(info.dtype).itemsize
    settings = {"typesize": item_bytes, "cname": "zstd", "clevel": 9, "shuffle": shuffle, "blocksize": blocksize}
    return {"name": "blosc", "configuration": settings}


def needed_files(fields: dict[str, FieldInfo], layout: str, rows: int) -> list[str]:
    """Return the paths of all files that are opened to read the rows, relative to the group's folder."""
    if layout == "mapped":
        return files_of(fields)
    chunks = range(-(-max(rows, 1) // ARCHIVE_ROWS))
    return [
        f"{name}/{file}"
        for name, info in fields.items()
        for file in ("zarr.json", *(_archive_chunk(chunk, len(info.shape)) for chunk in chunks))
    ]


def _archive_chunk(number: int, axes: int) -> str:
    """Return the path of one chunk of an array in the archive layout; each row has `axes` axes."""
    return "/".join(["c", str(number)] + ["0"] * axes)


def _check_blosc(path: Path, expected: int) -> None:
    """Refuse a compressed chunk whose header does not name `expected` bytes, before memory is allocated for it, or does not
    name its own size, beyond which a decoder would read."""
    with path.open("rb") as file:
        header, size = file.read(16), os.fstat(file.fileno()).st_size
    if len(header) < 16 or int.from_bytes(header[4:8], "little") != expected:
        raise CacheDamaged(f"{path}: it does not hold {expected} bytes. Run `logitstore verify`.")
    if int.from_bytes(header[12:16], "little") != size:
        raise CacheDamaged(f"{path}: it is not as long as it says. Run `logitstore verify`.")


def read_rows(folder: Path, fields: dict[str, FieldInfo], rows: int) -> dict[str, Array]:
    """Decompress every field of a part in the archive layout; return the arrays by name.

    Raises:
        CacheDamaged: the Zarr metadata does not fit the manifest, or a chunk cannot be decompressed.
    """
    zarr: Any = importlib.import_module("zarr")
    arrays: dict[str, Array] = {}
    for name, info in fields.items():
        shape = [rows, *info.shape]
        dtype = np.dtype(info.dtype)
        chunk_shape = [min(max(rows, 1), ARCHIVE_ROWS), *info.shape]
        known = archive_codecs(name, info, rows), first_archive_codecs(info)
        _check_metadata(folder / name / "zarr.json", info, shape, chunk_shape, *known)
        for chunk in range(-(-max(rows, 1) // ARCHIVE_ROWS)):
            _check_blosc(
                folder / name / _archive_chunk(chunk, len(info.shape)), math.prod(chunk_shape) * dtype.itemsize
            )
        try:
            # without its version, zarr would also open what version 2 has: files that no record lists
            arrays[name] = np.asarray(zarr.open_array(str(folder / name), mode="r", zarr_format=3)[...])
        except Exception as error:
            # zarr and its codecs raise many kinds of errors for damaged bytes, from ValueError to RuntimeError
            raise CacheDamaged(
                f"{folder / name}: cannot be read: {one_line(error)}. Run `logitstore verify`."
            ) from error
    return arrays


def map_rows(folder: Path, fields: dict[str, FieldInfo], rows: int) -> dict[str, Array]:
    """Map every field of a part, read-only; return the arrays by name. No row is read or copied.

    Raises:
        CacheDamaged: the Zarr metadata does not fit the manifest, or a chunk has another size.
    """
    return {name: _map_field(folder / name, info, rows) for name, info in fields.items()}


def _map_field(folder: Path, info: FieldInfo, rows: int) -> Array:
    shape = [rows, *info.shape]
    _check_metadata(folder / "zarr.json", info, shape, [max(axis, 1) for axis in shape], [_plain(info)])
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
    return np.frombuffer(map_file(chunk, expected), dtype).reshape(shape)


def _check_metadata(
    path: Path, info: FieldInfo, shape: list[int], chunk_shape: list[int], *codecs: list[dict[str, Any]]
) -> None:
    """Refuse the metadata of an array that are not these; one of several lists of codecs may stand in them."""
    try:
        if path.stat().st_size > LARGEST_METADATA:
            raise CacheDamaged(f"{path}: too large for the metadata of a Zarr array. Run `logitstore verify`.")
        stored = json.loads(path.read_bytes())
        described = (
            stored["shape"],
            stored["data_type"],
            stored["chunk_grid"]["configuration"]["chunk_shape"],
            stored["codecs"],
            stored["chunk_key_encoding"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheDamaged(f"{path}: not the metadata of a Zarr array. Run `logitstore verify`.") from error
    keys = {"name": "default", "configuration": {"separator": "/"}}
    allowed = [(shape, info.dtype, chunk_shape, chain, keys) for chain in codecs]
    if described not in allowed:
        raise CacheDamaged(
            f"{path}: it describes {described}; the manifest asks for {allowed[0]}. Run `logitstore verify`."
        )
