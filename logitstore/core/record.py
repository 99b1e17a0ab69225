"""The base of everything that is written to disk or read from a recipe, and the paths that may stand in it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise ValueError(f"the path '{path}' leads outside the cache")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
"""A relative path with forward slashes that stays inside its folder."""


class NotKnownHere(ValueError):
    """A value of a sound record that only another package can read, and that package is not installed."""


class Record(BaseModel):
    """A frozen record that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
