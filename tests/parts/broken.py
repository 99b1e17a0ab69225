"""Caches that are tampered with, and the commands that read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitstore.format.sealed import is_sealed, seal

OF_TEXT = pytest.mark.parametrize("own_cache", ["text"], indirect=True)


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a sealed file by hand, as somebody might who knows how it is sealed."""
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)

    class Plain:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return content

    path.write_bytes(seal(Plain()))  # type: ignore[arg-type]
    assert is_sealed(path.read_bytes())


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def commands_with_a_student(cache: Path, student: object, out: Path) -> list[list[object]]:
    return [["train", cache, "--student", student, "--out", out], ["evaluate", cache, "--student", student]]
