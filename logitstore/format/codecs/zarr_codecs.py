"""The value codecs as codecs of Zarr v3, so that zarr-python and what is built on it read packed bytes as numbers.

zarr-python finds them by name, as entry points of the group `zarr.codecs`. Their base is zarr's and not numcodecs': a codec of
numcodecs is not told the shape of what it decodes, and the bytes of a row alone do not say how many numbers they hold.
docs/format.md, "The view of values", describes them.

Axes: N rows, K numbers of a row, B its bytes.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from zarr.abc.codec import ArrayArrayCodec
from zarr.dtype import UInt8, UInt16

from logitstore.core.types import Array
from logitstore.format.codecs.bits import MOST_BITS, Bits
from logitstore.format.codecs.levels import Levels
from logitstore.format.codecs.log2 import Log2


@dataclass(frozen=True)
class ValueCodec(ArrayArrayCodec):  # type: ignore[misc]
    """A value codec with `bits` bits a number. What zarr calls a spec is the shape and the type of a decoded chunk."""

    name: ClassVar[str]
    widths: ClassVar[range | tuple[int, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    packs: ClassVar[bool] = True
    is_fixed_size = True

    bits: int

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in self.widths:
            widths = ", ".join(map(str, self.widths))
            raise ValueError(f"{self.name}: {self.bits!r} bits a number; there are {widths}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec that an entry of `codecs` describes. Raises ValueError: see the class, or it has other keys."""
        configuration = data.get("configuration")
        if data.get("name") != cls.name or not isinstance(configuration, dict) or list(configuration) != ["bits"]:
            raise ValueError(f"{data}: an entry of {cls.name} has a configuration with bits, and nothing else")
        return cls(configuration["bits"])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {"bits": self.bits}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Raise ValueError for an array that the codec is not for."""
        found = dtype.to_native_dtype().name
        if found not in self.dtypes:
            raise ValueError(f"{self.name}: an array of {found}; it is for {', '.join(self.dtypes)}")
        if self.packs and not shape:
            raise ValueError(f"{self.name}: an array without axes; it packs the numbers along the last one")

    def resolve_metadata(self, chunk_spec: Any) -> Any:
        """Return the spec of an encoded chunk."""
        shape = chunk_spec.shape
        if self.packs:
            shape = (*shape[:-1], math.ceil(shape[-1] * self.bits / 8))
        kind = UInt8() if self.packs or self.bits == 8 else UInt16()
        return replace(chunk_spec, shape=shape, dtype=kind, fill_value=kind.default_scalar())

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        encoded = self.resolve_metadata(chunk_spec)
        return int(math.prod(encoded.shape) * encoded.dtype.to_native_dtype().itemsize)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return await self._turned(self.decoded, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return await self._turned(self.encoded, chunk_data, chunk_spec)

    async def _turned(self, turn: Callable[[Array, Any], Array], chunk_data: Any, chunk_spec: Any) -> Any:
        turned = await asyncio.to_thread(turn, np.asarray(chunk_data.as_ndarray_like()), chunk_spec)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(turned)

    def decoded(self, stored: Array, spec: Any) -> Array:
        """Return the numbers of a chunk as `spec` describes them."""
        rows = stored.reshape(-1, stored.shape[-1]) if self.packs else stored
        values = self.codec(spec.shape[-1] if self.packs else 1).decode(rows)
        return np.ascontiguousarray(values, spec.dtype.to_native_dtype()).reshape(spec.shape)

    def encoded(self, values: Array, spec: Any) -> Array:
        """Return what is stored of a chunk that `spec` describes. Raises ValueError: a number does not fit."""
        rows = values.reshape(-1, spec.shape[-1]) if self.packs else values
        stored = self.codec(spec.shape[-1] if self.packs else 1).encode(rows)
        return np.ascontiguousarray(stored).reshape(self.resolve_metadata(spec).shape)

    @abstractmethod
    def codec(self, count: int) -> Bits | Levels | Log2:
        """Return the codec of rows of so many numbers."""


@dataclass(frozen=True)
class BitsCodec(ValueCodec):
    """Whole numbers, packed in `bits` bits each."""

    name = "logitstore.bits"
    widths = range(1, MOST_BITS + 1)
    dtypes = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")

    def codec(self, count: int) -> Bits:
        return Bits((self.bits,) * count)


@dataclass(frozen=True)
class LevelsCodec(ValueCodec):
    """Logprobs, nats, as packed levels of `bits` bits."""

    name = "logitstore.levels"
    widths = (5, 6, 8)

    def codec(self, count: int) -> Levels:
        return Levels(self.bits, count)


@dataclass(frozen=True)
class Log2Codec(ValueCodec):
    """Log masses, nats, in `bits` bits."""

    name = "logitstore.log2"
    widths = (8, 16)
    packs = False

    def codec(self, count: int) -> Log2:
        return Log2(self.bits)
