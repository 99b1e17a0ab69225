"""What `merge` survives: interrupts, two at once, and full disks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import logitstore
import logitstore.convert.row_source
from logitstore.convert.merge import merge
from logitstore.core.progress import Step
from logitstore.errors import StorageError
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.settings.convert import MergeSettings
from logitstore.store import layout
from logitstore.store.checks.verify import verify
from tests.parts.files import traces, tree
from tests.parts.merge import Caches, merged, plan


def test_interrupted_and_gone_on_with_it_ends_byte_identical(caches: Caches, tmp_path: Path) -> None:
    sources, out = [caches["small-0"], caches["topk-1"]], tmp_path / "out"
    expected = tree(merged(sources, tmp_path / "whole").path)
    rows = sum(record.rows for record in sources[0].records)

    def interrupt(after: int) -> Callable[[Step], None]:
        def told(step: Step) -> None:
            if step.stage == "merge" and step.done >= after:
                raise KeyboardInterrupt

        return told

    for share in (0, 0.4, 0.9):
        with pytest.raises(KeyboardInterrupt):
            merge(plan(sources, out), interrupt(int(share * rows / 2)))
        assert verify(out) == []
    assert not logitstore.open(out).complete
    # what a killed writer leaves
    (out / "parts" / "00001.partial-0123abcd").mkdir()
    (out / "shared" / ".tail.0123abcd").write_bytes(b"half a fi")
    assert tree(merged(sources, out).path) == expected
    for lost in ("parts/00000", next(name for name in expected if "/tail-" in name)):
        path = out / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert tree(merged(sources, out).path) == expected


def test_two_at_once_write_one_cache(caches: Caches, tmp_path: Path) -> None:
    """The second begins while the first has a part open, and is done before that is committed."""
    sources, out = [caches["small-0"], caches["topk-1"]], tmp_path / "out"
    expected = tree(merged(sources, tmp_path / "whole").path)
    began = False

    def begin_another(step: Step) -> None:
        nonlocal began
        if step.stage == "merge" and not began:
            began = True
            assert merge(plan(sources, out)).complete

    assert merge(plan(sources, out), begin_another).complete
    assert traces(out) == []
    assert tree(out) == expected


def storage_error_of(settings: MergeSettings) -> str | None:
    """What a merge says about the disk, if anything."""
    try:
        merge(settings)
    except StorageError as error:
        return str(error)
    return None


def test_wherever_the_disk_gets_full_nothing_broken_is_left(
    disk: Callable[[str], Path],
    caches: Caches,
    tmp_path: Path,
) -> None:
    sources = [caches["topk-0"], caches["topk-1"]]
    expected = tree(merged(sources, tmp_path / "whole").path)
    out = disk("size=4k") / "cache"
    needed = 4 * sum(-(-len(content) // 4096) for content in expected.values())
    full = 0
    for size in (4, 16, *range(40, needed, 60), 4 * needed):
        disk(f"size={size}k")
        error = storage_error_of(plan(sources, out))
        if error is not None:
            full += 1
            assert "no space left" in error
            assert str(out) in error
        assert traces(out) == []
        if (out / MANIFEST_NAME).exists():
            assert verify(out) == []
        else:
            assert layout.committed_parts(out) == []
    assert full >= 3
    assert tree(out) == expected
