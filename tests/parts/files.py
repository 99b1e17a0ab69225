"""What lies in a folder."""

from __future__ import annotations

from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def traces(folder: Path) -> list[str]:
    """What is left of unfinished work: staging folders, and files written aside."""
    left = [path for path in folder.rglob("*") if path.name.startswith(".") or "partial" in path.name]
    return [path.relative_to(folder).as_posix() for path in left]
