"""The values of a tap as bytes and back: rounded floats, one byte a channel, or coefficients of principal directions.

Axes: N rows, D channels, R coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.codecs.channels import Channels
from logitstore.codecs.either import beside, library, real
from logitstore.tap_info import TapInfo
from logitstore.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCodec:
    """The codec of a tap.

    Attributes:
        info: of the tap.
        shared: what all rows share: `mean` float32[D] and `std` float32[D] (int8), or `mean` and `directions` float32[R, D],
            orthonormal (pca).
    """

    info: TapInfo
    shared: Mapping[str, Array]

    def encode(self, values_ND: Array) -> dict[str, Array]:
        """The stored arrays of some rows, from float32[N, D]; what is too large for a type becomes the largest it has."""
        codec = self.info.codec
        if codec == "int8":
            stored_ND, scale_N = self._channels.encode(values_ND)
            return {"values": stored_ND, "scale": scale_N}
        if codec == "bfloat16":
            return {"values": to_bfloat16(values_ND)}
        if "directions" in self.shared:
            values_ND = (values_ND - self.shared["mean"]) @ self.shared["directions"].T
        dtype = np.dtype(self.info.fields["values"].dtype)
        return {"values": np.clip(values_ND, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)}

    def decode(self, stored: Mapping[str, Any]) -> Any:
        """float32[N, D], in the library and on the device of `stored`."""
        values = stored["values"]
        if self.info.codec == "int8":
            return self._channels.decode(values, stored["scale"])
        if self.info.codec == "bfloat16":
            return from_bfloat16(values)
        if "directions" in self.shared:
            return real(values) @ beside(self.shared["directions"], values) + beside(self.shared["mean"], values)
        return real(values)

    @cached_property
    def _channels(self) -> Channels:
        return Channels(self.shared["mean"], self.shared["std"])


LARGEST_BFLOAT16 = 0x7F7F
"""The bits of the largest finite one."""


def to_bfloat16(values_ND: Array) -> Array:
    """uint16[N, D]: the bits of the nearest bfloat16, ties to even: the upper half of a float32."""
    bits_ND = np.ascontiguousarray(values_ND, np.float32).view(np.uint32)
    rounded_ND = (bits_ND + np.uint32(0x7FFF) + (bits_ND >> 16 & 1)) >> 16
    is_infinite_ND = (rounded_ND & 0x7FFF) > LARGEST_BFLOAT16
    return np.where(is_infinite_ND, (bits_ND >> 16 & 0x8000) | LARGEST_BFLOAT16, rounded_ND).astype(np.uint16)


def from_bfloat16(bits_ND: Any) -> Any:
    """float32[N, D] from the bits of bfloat16."""
    if isinstance(bits_ND, np.ndarray):
        return (bits_ND.astype(np.uint32) << 16).view(np.float32)
    return bits_ND.view(library(bits_ND).bfloat16).float()
