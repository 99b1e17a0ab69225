"""Files of tensors that other software wrote: torch's and safetensors'. Nothing is unpickled but tensors, and no file may
become much larger in memory than it is on disk."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput, one_line

LARGEST = 1 << 33
"""Bytes of a compressed file, unpacked: more than the states of a long text."""

PIECE = 1 << 22


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises BadInput: it is none, or is cut."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except BadInput:
        raise
    except Exception as error:
        # safetensors raises many kinds of errors about what is damaged
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(f"{path}: cannot be read: {one_line(error).rstrip('.')}. Replace the file.") from error


def loaded(path: Path) -> Any:
    """Return what torch saved in a file, which may be compressed by gzip: tensors, in lists and mappings of them.

    Raises:
        BadInput: it is damaged, or holds anything but tensors.
    """
    with path.open("rb") as file:
        content: BinaryIO = io.BytesIO(_unpacked(path)) if path.suffix == ".gz" else file
        return loaded_from(content, str(path))


def loaded_from(file: BinaryIO, name: str) -> Any:
    """Return what torch saved in an open file; see `loaded`. Args: name: for messages."""
    try:
        with zipfile.ZipFile(file) as whole:
            if any(info.compress_type != zipfile.ZIP_STORED for info in whole.infolist()):
                raise BadInput(f"{name}: it is compressed in a way that torch does not write. Replace the file.")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as error:
        # whatever a damaged or forged file makes torch raise; what is no tensor is refused by weights_only
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(
            f"{name}: it is no file of tensors, or damaged: {one_line(error):.160}. Replace the file."
        ) from error


def tensor_in(content: Mapping[str, Any], key: str, axes: int, name: str) -> Tensor:
    """Return one tensor of a mapping. Raises BadInput: it is missing, has other axes, or keeps its values in another way than
    one number at each place."""
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Tensor) or found.dim() != axes:
        raise BadInput(f"{name}: it has no tensor '{key}' of {axes} axes.")
    if found.layout != torch.strided or found.is_meta or found.is_quantized:
        raise BadInput(f"{name}: the tensor '{key}' is sparse, quantised or without values. Save it as a plain one.")
    return found.detach()


def tokens_in(tokens_T: Tensor, name: str) -> Array:
    """Return int64[T]. Raises BadInput: they are no token ids."""
    if tokens_T.is_floating_point() or tokens_T.is_complex() or (tokens_T.numel() and int(tokens_T.min()) < 0):
        raise BadInput(f"{name}: its tokens are no token ids.")
    numbers: Array = tokens_T.to(torch.int64).numpy()
    return numbers


def _unpacked(path: Path) -> bytes:
    pieces, size = [], 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST:
                    raise BadInput(f"{path}: it has more than {LARGEST:,} bytes unpacked. That is no text's.")
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise BadInput(f"{path}: cannot be unpacked: {one_line(error)}. Replace the file.") from error
    return b"".join(pieces)
