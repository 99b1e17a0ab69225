"""The size that an error about a full folder of the node advises is one with which the reading works."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.errors import StorageError
from logitstore.store.cache import Cache
from logitstore.store.maps import MAPS
from logitstore.store.remote.node import NodeFolder
from logitstore.store.remote.units import units
from logitstore.store.remote.uses import PATIENCE_SECONDS
from tests.parts.texts import plan_for

Far = Callable[[str], str]
Read = Callable[[int], int]


def advised(error: StorageError) -> int:
    """Return the size that an error names last."""
    found = re.search(r"Give at least ([0-9,]+);", str(error))
    assert found is not None, str(error)
    return int(found[1].replace(",", ""))


@pytest.fixture
def read(teacher: Path, texts: Path, tmp_path: Path, far: Far, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads all samples of a cache of several parts in a mixed order, within so many bytes; gives how many batches it has."""
    address = far("cache")
    dump(plan_for(teacher, texts, address, samples_per_part=3, limit=12))

    def reads(most: int) -> int:
        while MAPS.shed(keep=0):
            pass
        monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / f"node-{most}"))
        monkeypatch.setenv("LOGITSTORE_CACHE_SIZE", str(most))
        loader = Cache(address).loader(batch_size=5, workers=0)
        return sum(1 for _ in loader)

    return reads


def test_a_reading_works_with_the_advised_size_and_says_so_at_once_with_less(read: Read) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError) as found:
        read(1)
    first = advised(found.value)
    assert read(first) > 3
    # the largest parts of a batch are rarely in one batch
    with pytest.raises(StorageError, match="that this process has in use") as found:
        read(first // 2)
    assert first // 2 < advised(found.value) <= first
    assert read(advised(found.value)) > 3
    assert time.monotonic() - began < PATIENCE_SECONDS


def test_a_disk_without_room_for_the_count_keeps_nothing_of_a_unit(disk: Callable[[str], Path]) -> None:
    node = NodeFolder(disk("size=64k") / "node", None)
    filled = node.root.parent / "filled"

    def bring(folder: Path, _: Callable[[int], None]) -> None:
        folder.mkdir()
        (folder / "first").write_bytes(b"1")
        with filled.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        (folder / "second").write_bytes(b"2")

    with pytest.raises(StorageError, match="no space left"):
        node.get("cache/unit", bring)
    assert list(units(node.root, partial=True)) == []
    filled.unlink()
    assert node.get("cache/unit", lambda folder, _: folder.mkdir()).is_dir()
    assert node.used() == 0
