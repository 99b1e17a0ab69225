"""What the tests of images share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.store.cache import Cache
from tests.parts.commands import Command
from tests.parts.images import images_plan
from tests.parts.vision import Told


@pytest.fixture
def told(command: Command, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command that must succeed; gives what it prints."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = command(*arguments)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return call


@pytest.fixture
def own_views(image_cache: Cache, tmp_path: Path) -> Path:
    """A copy of the cache of images, to be spoilt."""
    return Path(shutil.copytree(image_cache.path, tmp_path / "cache"))


@pytest.fixture(scope="session")
def many_views(tmp_path_factory: pytest.TempPathFactory, classifier: Path, images: Path) -> Cache:
    """Seven views of eleven images; do not change it."""
    out = tmp_path_factory.mktemp("many-views") / "cache"
    return dump(images_plan(classifier, images, out, views=7, augment="crop", limit=11, samples_per_part=4))
