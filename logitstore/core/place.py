"""A place where something lies: a path on the local disk, or a text such as `s3://bucket/name` for another storage."""

from __future__ import annotations

import re
from pathlib import Path

Place = str | Path
"""A path, or a text `scheme://rest`. Such a text is no path: `Path` would make one slash of the two."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)


def split_scheme(place: Place) -> tuple[str, str]:
    """Return the scheme and the rest of a place. The scheme of a path is the empty text."""
    match = _ADDRESS.fullmatch(place) if isinstance(place, str) else None
    return ("", str(place)) if match is None else (match[1], match[2])


def is_utf8(place: Place) -> bool:
    """Return True if a place can be written in UTF-8, as Arrow and the tokenizers want the paths that they open."""
    try:
        str(place).encode()
    except UnicodeEncodeError:
        return False
    return True
