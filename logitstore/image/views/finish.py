"""Turn 8-bit views into what a model is shown: mix, then normalise, independently of the rest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from logitstore.format.views import Channels, ViewInfo
from logitstore.image.views.boxes import Box
from logitstore.image.views.mix import Mix
from logitstore.image.views.pixels import luma


def finish(
    pictures_B3HW: Tensor,
    info: ViewInfo,
    partners_B3HW: Tensor | None = None,
    mixes: Sequence[Mix | None] = (),
) -> Tensor:
    """Mix views with those of their partners and normalise them, on the device where they are.

    This uses only single additions, multiplications and divisions of float32 numbers, so CPU and CUDA give the same bits.

    Args:
        pictures_B3HW: uint8.
        info: gives mean, std and channels.
        partners_B3HW: uint8, the views of the partners; any values where there is no mix, None if there is no mix at all.
        mixes: one for each picture, or none at all.

    Returns:
        float32[B, 3, H, W], or [B, 1, H, W] where `info.channels` is luma: (levels / 255 - mean) / std.

    Raises:
        ValueError: partners are missing, or counts or shapes differ.
    """
    pictures_B3HW = _channels(pictures_B3HW, info.channels)
    partners_B3HW = None if partners_B3HW is None else _channels(partners_B3HW, info.channels)
    levels_B3HW = pictures_B3HW.float()
    if any(mixes):
        if partners_B3HW is None or partners_B3HW.shape != pictures_B3HW.shape or len(mixes) != len(pictures_B3HW):
            raise ValueError("mixed views need a partner and a mix, or None, for each picture")
        levels_B3HW = _mixed(levels_B3HW, partners_B3HW.float(), mixes)
    # divide by a tensor: CUDA would replace division by a number with multiplication by its rounded inverse
    white = levels_B3HW.new_tensor(255)
    mean_311, std_311 = (
        levels_B3HW.new_tensor(values)[: levels_B3HW.shape[1]].view(-1, 1, 1) for values in (info.mean, info.std)
    )
    return levels_B3HW.div_(white).sub_(mean_311).div_(std_311)


def _channels(pictures_B3HW: Tensor, channels: Channels) -> Tensor:
    """Return the channels that a model gets."""
    if channels == "bgr":
        return pictures_B3HW.flip(1)
    return luma(pictures_B3HW) if channels == "luma" else pictures_B3HW


def _mixed(levels_B3HW: Tensor, partners_B3HW: Tensor, mixes: Sequence[Mix | None]) -> Tensor:
    weights = [mix.weight if mix is not None and mix.box is None else 1.0 for mix in mixes]
    weights_B111 = levels_B3HW.new_tensor(weights).view(-1, 1, 1, 1)
    mixed_B3HW = levels_B3HW * weights_B111 + partners_B3HW * (1 - weights_B111)
    for index, mix in enumerate(mixes):
        if mix is not None and mix.box is not None:
            box = Box.of(mix.box, (levels_B3HW.shape[-2], levels_B3HW.shape[-1]))
            mixed_B3HW[index, :, box.rows, box.columns] = partners_B3HW[index, :, box.rows, box.columns]
    return mixed_B3HW
