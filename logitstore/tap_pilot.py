"""What all rows of a tap share, fitted on a pilot: the statistics of the channels, or their principal directions."""

from __future__ import annotations

from torch import Tensor

from logitstore.moments import Moments
from logitstore.pilot import floored
from logitstore.tap_info import directions_of


def moments_for(codec: str, width: int) -> Moments:
    """The sums over a pilot's rows that a codec needs."""
    return Moments(width, has_products=directions_of(codec) > 0)


def shared_of(codec: str, moments: Moments) -> dict[str, Tensor]:
    """The arrays of the tap's shared file (docs/format.md, "taps/")."""
    mean_D = moments.mean_D.float()
    if count := directions_of(codec):
        directions_RD, _ = moments.directions(count)
        return {"mean": mean_D, "directions": directions_RD.float().contiguous()}
    return {"mean": mean_D, "std": floored(moments.deviation_D.float())}
