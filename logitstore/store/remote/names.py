"""Names in a cache, and the names of the objects that hold what they lead to."""

from __future__ import annotations

from logitstore.errors import CacheDamaged
from logitstore.store.layout import PARTS, part_name, part_numbers

SUFFIX = ".zip"


def object_of(part: int) -> str:
    """Return the name of the object that is a part."""
    return f"{part_name(part)}{SUFFIX}"


def part_of(name: str) -> int | None:
    """Return the part that a name leads to or into; None for other names."""
    steps = name.split("/")
    if len(steps) < 2 or steps[0] != PARTS:
        return None
    return next(iter(part_numbers([steps[1]])), None)


def checked(name: str) -> str:
    """Return a name. Raises CacheDamaged: it leads out of the cache."""
    if name.startswith("/") or any(step in ("", ".", "..") for step in name.split("/")):
        raise CacheDamaged(f"'{name}' leads outside the cache. Do not use this cache.")
    return name
