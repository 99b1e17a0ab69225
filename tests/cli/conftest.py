"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(params=["text", "images", "classes", "masked"])
def own_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the complete cache of a task, to be spoilt."""
    named = {"text": "cache", "images": "image_cache", "classes": "class_cache", "masked": "masked_cache"}
    whole = request.getfixturevalue(named[request.param])
    return Path(shutil.copytree(whole.path, tmp_path / "cache"))
