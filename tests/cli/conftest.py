"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CACHES = {
    "text": "cache",
    "images": "image_cache",
    "classes": "class_cache",
    "masked": "masked_cache",
    "ranking": "rank_cache",
    "vectors": "vector_cache",
}
"""The fixture with a complete cache of each task."""


@pytest.fixture(params=CACHES)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the complete cache of a task, to be spoilt."""
    whole = request.getfixturevalue(CACHES[request.param])
    return Path(shutil.copytree(whole.path, tmp_path / "cache"))
