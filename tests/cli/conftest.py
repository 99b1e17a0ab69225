"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(params=["text", "images", "classes"])
def own_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the complete cache of a task, to be spoilt."""
    whole = request.getfixturevalue({"text": "cache", "images": "image_cache", "classes": "class_cache"}[request.param])
    return Path(shutil.copytree(whole.path, tmp_path / "cache"))
