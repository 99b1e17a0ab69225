"""What `verify` finds: one problem of a cache, where it is and what `repair` drops because of it."""

from __future__ import annotations

from dataclasses import dataclass

from logitstore.format.tap import tap_folder
from logitstore.store import layout


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of a cache.

    Attributes:
        part: number of the part; None for a file that all parts share.
        file: path of the file, relative to the cache.
        what: description of the problem.
        tap: name of the tap; None for a file outside all taps.
    """

    part: int | None
    file: str
    what: str
    tap: str | None = None

    def __str__(self) -> str:
        where = "the cache" if self.part is None else f"part {self.part:05d}"
        if self.tap is not None:
            where = f"tap {self.tap}" + ("" if self.part is None else f", part {self.part:05d}")
        return f"{where}: {self.file}: {self.what}"

    @property
    def dropped(self) -> str:
        """Path that `repair` drops because of the problem, relative to the cache."""
        if self.part is None:
            return self.file
        root = "" if self.tap is None else f"{tap_folder(self.tap)}/"
        return f"{root}{layout.PARTS}/{self.part:05d}"
