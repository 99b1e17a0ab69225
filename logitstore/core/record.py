"""The base of everything that is written to disk or read from a recipe, and the paths, counts and values in it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _inside(path: str) -> str:
    # plain text: a record names a dozen files, and there may be a hundred thousand records
    pieces = [piece for piece in path.split("/") if piece not in ("", ".")]
    if not pieces or path.startswith("/") or ".." in pieces or "\\" in path or "\0" in path or ":" in pieces[0]:
        raise ValueError(f"the path '{path}' leads outside the cache")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
"""A relative path with forward slashes that stays inside its folder."""


def _shared(path: str) -> str:
    if not path.startswith("shared/"):
        raise ValueError(f"the path '{path}' of a shared file leads outside the cache's folder 'shared'")
    return path


SharedPath = Annotated[RelativePath, AfterValidator(_shared)]
"""The relative path of a shared file: below the folder `shared`, so that nothing else is read, or removed, in its place."""


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""A count or a size that is read from a file: small enough that the products of a plan stay exact. It takes no bound of its
own besides: of two lower bounds of a field pydantic keeps one, in silence."""


Positive = Annotated[int, Field(ge=1, lt=1 << 53)]
"""A count of which there is at least one."""


class NotKnownHere(ValueError):
    """A value of a sound record that only another package can read, and that package is not installed."""


class Record(BaseModel):
    """A frozen record that refuses unknown names, and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_nested(value: Any, depth: int) -> bool:
    """Return True if something lies inside `depth` lists or objects. It goes level by level, without recursion."""
    level = [value]
    for _ in range(depth):
        inside = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for values in inside for each in values]
    return bool(level)
