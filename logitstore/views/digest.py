"""Compute a number that proves a replay: it is stored with a view that the teacher saw, and compared when the view is made
again."""

from __future__ import annotations

import struct

import numpy as np
import xxhash
from torch import Tensor

from logitstore.types import Array
from logitstore.views.mix import Mix


def digest(picture_3HW: Tensor | Array, mix: Mix | None, partner_3HW: Tensor | Array | None = None) -> int:
    """Return the lower 32 bits of the xxh3-64 of a view's shape, pixels and mix, and its partner's; see docs/format.md.

    Args:
        picture_3HW: uint8, the picture before it is mixed.
        mix: how the picture is mixed.
        partner_3HW: uint8, the picture that it is mixed with.
    """
    hash_ = xxhash.xxh3_64()
    _add(hash_, picture_3HW)
    if mix is not None:
        hash_.update(struct.pack("<qf", mix.partner, mix.weight))
        hash_.update(struct.pack(f"<{len(mix.box or ())}d", *(mix.box or ())))
    if partner_3HW is not None:
        _add(hash_, partner_3HW)
    return hash_.intdigest() & 0xFFFFFFFF


def _add(hash_: xxhash.xxh3_64, picture_3HW: Tensor | Array) -> None:
    array_3HW = picture_3HW.cpu().numpy() if isinstance(picture_3HW, Tensor) else picture_3HW
    hash_.update(struct.pack("<3I", *array_3HW.shape))
    hash_.update(np.ascontiguousarray(array_3HW).data)
