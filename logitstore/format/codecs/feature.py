"""Codec of the values of a tap: rounded floats, one byte per channel, or coefficients of principal directions.

Axes: N rows, D channels, R coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import beside, cast, library, real
from logitstore.format.codecs.channels import Channels
from logitstore.format.tap import TapInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCodec:
    """The codec of a tap.

    Attributes:
        info: the plan of the tap.
        shared: arrays that all rows share: `mean` float32[D] and `std` float32[D] (int8), or `mean` and `directions`
            float32[R, D], orthonormal (pca).
    """

    info: TapInfo
    shared: Mapping[str, Array]

    def encode(self, values_ND: Any) -> dict[str, Any]:
        """Return the stored arrays of rows, float32[N, D], in the library and on the device of the rows.

        Values beyond the range of the stored type are clipped to it. The codec bfloat16 takes tensors only, because NumPy has
        no such type.
        """
        if self.info.codec == "int8":
            stored_ND, scale_N = self._channels.encode(values_ND)
            return {"values": stored_ND, "scale": scale_N}
        xp = library(values_ND)
        if "directions" in self.shared:
            centred_ND = values_ND - beside(self.shared["mean"], values_ND)
            values_ND = centred_ND @ beside(self.shared["directions"], values_ND).T
        dtype = "bfloat16" if self.info.codec == "bfloat16" else self.info.fields["values"].dtype
        largest = float(xp.finfo(getattr(xp, dtype)).max)
        stored = cast(xp.clip(values_ND, -largest, largest), dtype)
        return {"values": stored.view(xp.uint16) if dtype == "bfloat16" else stored}

    def decode(self, stored: Mapping[str, Any]) -> Any:
        """Return the values, float32[N, D], in the library and on the device of `stored`."""
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


def from_bfloat16(bits_ND: Any) -> Any:
    """Return float32[N, D] from the bits of bfloat16."""
    if isinstance(bits_ND, np.ndarray):
        return (bits_ND.astype(np.uint32) << 16).view(np.float32)
    return bits_ND.view(library(bits_ND).bfloat16).float()
