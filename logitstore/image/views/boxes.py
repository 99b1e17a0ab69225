"""Define boxes: in shares of the edges of a picture, the same at every size, and in its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from logitstore.image.views.levels import nearest

Shares = tuple[float, float, float, float]
"""top, left, bottom, right in shares of the height and the width."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box holds the pixels from row `top` and column `left` to before `bottom` and `right`."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, shares: Shares, size: tuple[int, int]) -> Box:
        """Return a box in pixels of a picture of a size (height, width): each edge is at the nearest border between two
        pixels."""
        top, left, bottom, right = (nearest(share * edge) for share, edge in zip(shares, (*size, *size), strict=True))
        return cls(top=top, left=left, bottom=bottom, right=right)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)
