"""The shared file of a tail, checked where it lies: names, shapes, dtypes and values of its tensors. Nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import CacheDamaged
from logitstore.format.codecs.codebook import MOST_BITS
from logitstore.format.row import RowInfo

LARGEST_HEADER = 1 << 20
"""Most bytes of the header of a shared file; it names twelve tensors."""

_BLOCK = 1 << 24
_DTYPES = {"U8": "uint8", "F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file: its dtype as torch names it, its shape, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    raw: Array

    def values(self) -> Array:
        """Return the values, flat; those of bfloat16 as their bits."""
        return self.raw.view("<u2" if self.dtype == "bfloat16" else np.dtype(self.dtype).newbyteorder("<"))

    def is_finite(self) -> bool:
        values = self.values()
        blocks = (values[first : first + _BLOCK] for first in range(0, len(values), _BLOCK))
        if self.dtype == "bfloat16":
            return all(((block & 0x7F80) != 0x7F80).all() for block in blocks)
        return self.dtype == "uint8" or all(np.isfinite(block).all() for block in blocks)


def shared_shapes(row: RowInfo, widths: list[int], *, of_logits: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the names of the tensors in the shared file of a tail, with their shapes; -1 where any size is right.

    Args:
        row: what a row holds.
        widths: bits of the coefficients of a sketch.
        of_logits: the coefficients of a sketch are made of logits, and not of hidden states.
    """
    vocabulary = row.vocabulary
    count = len(widths) or (row.tail.width or 0)
    linear = {"weight": (vocabulary, count), "base": (vocabulary,), "bias": (vocabulary,), "cap": (1,)}
    if row.tail.shape == "prior":
        return {"prior": (vocabulary,)}
    if row.tail.shape == "sketch":
        levels = (count, 1 << max(widths, default=0))
        width = 0 if of_logits else -1
        projection: dict[str, tuple[int, ...]] = {"mean": (width,), "projection": (width, count)}
        if of_logits:
            projection |= {"logit_projection": (vocabulary, count), "logit_offset": (count,)}
        return {"widths": (count,), "levels": levels, "prior": (vocabulary,)} | linear | projection
    if row.tail.shape == "head":
        return linear | {"mean": (count,), "std": (count,)}
    return {}


def check_tail(path: Path, row: RowInfo) -> None:
    """Raise CacheDamaged if a file does not hold the tensors of a tail, as its rows need them."""
    try:
        raw = np.memmap(path, np.uint8, "r")
        problem = _problem(row, _stored(raw))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheDamaged(f"{path}: cannot be read: not a safetensors file. Run `logitstore verify`.") from error
    if problem:
        raise CacheDamaged(f"{path}: {problem}. Run `logitstore verify`.")


def _stored(raw: Array) -> dict[str, Stored]:
    """Return the tensors of a safetensors file. Raises ValueError and others where it is none."""
    length = int.from_bytes(raw[:8].tobytes(), "little")
    if not 0 < length <= min(LARGEST_HEADER, len(raw) - 8):
        raise ValueError("its header is larger than the file")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    data, found = raw[8 + length :], {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        if not all(type(number) is int and number >= 0 for number in (first, last, *shape)):
            raise ValueError("a size is no count")
        bits = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        if not first <= last <= len(data) or last - first != math.prod(shape) * bits:
            raise ValueError("a tensor lies beyond the end of the file")
        found[name] = Stored(dtype, shape, data[first:last])
    return found


def _problem(row: RowInfo, shared: Mapping[str, Stored]) -> str:
    """Say what is wrong with the tensors of a tail; empty for sound ones."""
    bits = shared.get("widths")
    if bits is not None and (bits.dtype != "uint8" or math.prod(bits.shape) > 8 * (row.tail.bytes or 0)):
        return "its coefficients do not fit the sketch of a row"
    widths = [] if bits is None else [int(width) for width in bits.values()]
    if row.tail.shape == "sketch" and not (
        widths and all(1 <= width <= MOST_BITS for width in widths) and sum(widths) <= 8 * (row.tail.bytes or 0)
    ):
        return "its coefficients do not fit the sketch of a row"
    of_logits = row.tail.shape == "sketch" and "logit_projection" in shared
    for name, shape in shared_shapes(row, widths, of_logits=of_logits).items():
        if name not in shared:
            return f"it has no tensor '{name}'"
        value = shared[name]
        wanted = {"widths": ("uint8",), "weight": ("float16", "bfloat16", "float32")}
        if value.dtype not in wanted.get(name, ("float32",)):
            return f"its tensor '{name}' is {value.dtype}"
        if len(value.shape) != len(shape) or any(
            axis not in (size, -1) for size, axis in zip(value.shape, shape, strict=True)
        ):
            return f"its tensor '{name}' has the shape {value.shape}, not {shape}"
        if not value.is_finite():
            return f"its tensor '{name}' is not finite"
        if name in ("prior", "std") and not (value.values() > 0).all():
            return f"its tensor '{name}' is not positive"
    return ""
