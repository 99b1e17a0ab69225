"""Open a data file, compressed or not, and name it where it cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow

from logitstore.errors import BadInput, LogitstoreError, one_line


def _zstandard(path: Path) -> BinaryIO:
    # opened here, because Arrow takes only paths that are UTF-8
    stream = pyarrow.input_stream(path.open("rb"), compression="zstd")
    return cast(BinaryIO, io.BufferedReader(stream))


COMPRESSED: dict[str, Callable[[Path], object]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
"""What opens a file by the last ending of its name."""


def ending_of(path: Path) -> str:
    """Return the ending that tells the kind of a file, in small letters: the one before the ending of a compression."""
    path = Path(path.name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def packing_of(path: Path) -> str:
    """Return the ending of a compression, in small letters; empty if there is none."""
    ending = path.suffix.lower()
    return ending if ending in COMPRESSED else ""


def opened(path: Path) -> BinaryIO:
    """Open the uncompressed bytes of a file."""
    open_file = COMPRESSED.get(path.suffix.lower())
    return cast(BinaryIO, open_file(path)) if open_file else path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises about a file into a BadInput that names the file."""
    try:
        yield
    except LogitstoreError:
        raise
    except Exception as error:
        # parsers and decompressors raise many kinds of errors; the message keeps the reason, the cause the traceback
        raise BadInput(
            f"--data {path}: cannot be read as {ending_of(path)}: {one_line(error).rstrip('.')}. Mend or replace the file."
        ) from error
