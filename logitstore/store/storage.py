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
    """Write a file so that it appears whole or not at all; replace an existing file."""
    aside = _aside(path, content)
    os.replace(aside, path)
    sync_folder(path.parent)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold a lock on the folder `root`, so that other processes wait, if the system and the disk support such locks."""
    folder = os.open(root, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):
            import fcntl  # noqa: PLC0415

            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write_first(path: Path, content: bytes) -> bool:
    """Write a file like `write_whole`, but keep an existing file. Return False if `path` existed already."""
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
    """Sync a folder's entries, or a file's contents, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync everything below a folder to the disk: contents first, then the folders that name them."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_folder(path)
    sync_folder(folder)


def staging_folder(root: Path, part: int) -> Path:
    """Make a new folder in which one writer prepares one part; readers ignore it. Raises CacheDamaged: see `inside`."""
    folder = inside(root, PARTS) / f"{part:05d}.partial-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    return folder


def drop_staging(root: Path, part: int) -> None:
    """Remove the staging folders of this part."""
    for folder in (root / PARTS).glob(f"{part:05d}.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove the remains of killed writers. Call it only for a complete cache or tap, to which nobody writes any more.

    Raises:
        CacheDamaged: see `inside`; files behind a link do not belong to the cache and are not deleted.
    """
    parts, shared = inside(root, PARTS), inside(root, SHARED)
    for folder in parts.glob("*.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for aside in (*root.glob(".*.json.*"), *root.glob(".probe.*"), *shared.rglob(".*")):
        if not aside.is_dir():
            aside.unlink(missing_ok=True)


def commit(staged: Path, root: Path, part: int) -> None:
    """Make a finished part visible by one rename. If another writer was first, keep the part of that writer."""
    sync_tree(staged)
    target = part_folder(root, part)
    if target.exists() and not (target / RECORD_NAME).is_file():
        # a folder without a commit record is not a part
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
