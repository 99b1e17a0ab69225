"""Some rows of a file."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some neighbouring rows of a file; a column that they do not have is missing."""

    rows: int
    columns: dict[str, pyarrow.Array]
