"""How files come to lie in a cache: whole, synced, by one rename, the commit record last."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitstore.format.part_record import RECORD_NAME
from logitstore.store.layout import PARTS, SHARED, inside, part_folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there entirely or not at all; an existing one is replaced."""
    aside = _aside(path, content)
    os.replace(aside, path)
    sync_folder(path.parent)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Other processes wait meanwhile, where the system and the disk know how to make them."""
    folder = os.open(root, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):
            import fcntl  # noqa: PLC0415

            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write_first(path: Path, content: bytes) -> bool:
    """Like `write_whole`, but the first writer wins: False, and nothing changed, when `path` exists already."""
    aside = _aside(path, content)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    sync_folder(path.parent)
    return True


def _aside(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def sync_folder(folder: Path) -> None:
    """Have a folder's entries, or a file's contents, on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have everything below a folder on the disk, the contents before the entries that name them."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_folder(path)
    sync_folder(folder)


def staging_folder(root: Path, part: int) -> Path:
    """A new folder in which one writer prepares one part; readers never look into it. Raises CacheDamaged: see `inside`."""
    folder = inside(root, PARTS) / f"{part:05d}.partial-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    return folder


def drop_staging(root: Path, part: int) -> None:
    """Remove what writers of this part left behind."""
    for folder in (root / PARTS).glob(f"{part:05d}.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what killed writers left in a cache or tap that is complete, and in which nobody has anything left to write.

    Raises:
        CacheDamaged: see `inside`; what lies behind a link is not the cache's to delete.
    """
    parts, shared = inside(root, PARTS), inside(root, SHARED)
    for folder in parts.glob("*.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for aside in (*root.glob(".*.json.*"), *root.glob(".probe.*"), *shared.rglob(".*")):
        if not aside.is_dir():
            aside.unlink(missing_ok=True)


def commit(staged: Path, root: Path, part: int) -> None:
    """Make a finished part visible by one rename; if another writer was first, keep that writer's part."""
    sync_tree(staged)
    target = part_folder(root, part)
    if target.exists() and not (target / RECORD_NAME).is_file():
        # what is left of a part whose record is gone is no part
        os.rename(target, target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}"))
    try:
        os.rename(staged, target)
    except OSError:
        if not (target / RECORD_NAME).is_file():
            raise
        shutil.rmtree(staged, ignore_errors=True)
    sync_folder(target.parent)
    drop_staging(root, part)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on the disk that will hold `folder`."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
