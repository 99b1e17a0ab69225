"""Paths in metadata: they never lead out of the cache."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise ValueError(f"the path '{path}' leads outside the cache")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
"""A path with forward slashes that stays below the folder it is relative to."""
