"""The proof that a view is the one that the teacher saw: its digest, and the libraries that make it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import xxhash
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.views import TransformInfo, ViewInfo, libraries
from logitstore.image.views.mix import Mix


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


def versions(transforms: Sequence[TransformInfo]) -> dict[str, str]:
    """Return the installed versions by name, without the build's suffix (`2.13.0+cpu` is `2.13.0`).

    Raises:
        BadInput: a library that the transforms need is not installed.
    """
    return {name: _installed(name) for name in libraries(transforms)}


def _installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as error:
        raise BadInput(
            f"views of images need {name}, which is not installed. Install it: pip install 'logitstore[vision]'."
        ) from error


def check_versions(info: ViewInfo) -> None:
    """Refuse to make views with other libraries than they were first made with.

    Raises:
        CacheMismatch: a version differs.
        BadInput: a library is not installed.
    """
    here = versions(info.transforms)
    others = [name for name in here if info.versions[name] != here[name]]
    if others:
        differences = ", ".join(f"{name} {info.versions[name]} there, {here[name]} here" for name in others)
        wanted = " ".join(f"{name}=={info.versions[name]}" for name in others)
        raise CacheMismatch(
            f"the views that the teacher saw were made with other libraries: {differences}. "
            f"Another version may give other pixels. Install what was used: pip install {wanted}"
        )
