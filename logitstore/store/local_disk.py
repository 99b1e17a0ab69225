"""The storage on the local disk: files lie whole, synced, by one rename, the commit record last."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitstore.errors import BadInput
from logitstore.format.part_record import RECORD_NAME
from logitstore.store.layout import PARTS, SHARED, committed_parts, inside, part_folder, read_regular, regular


class LocalDisk:
    """A folder on the local disk that holds a cache or a tap; see `logitstore.store.storage.Storage`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    @property
    def address(self) -> str:
        return str(self.root.resolve())

    def within(self, name: str) -> LocalDisk:
        return LocalDisk(inside(self.root, name))

    def read(self, name: str) -> bytes:
        return read_regular(self.root, name)

    def size(self, name: str) -> int | None:
        try:
            found = inside(self.root, name).stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> list[str]:
        found = (path for path in (self.root / folder).rglob("*") if not path.is_dir())
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def list_parts(self) -> list[int]:
        return committed_parts(self.root)

    def local(self, name: str) -> Path:
        return regular(self.root, name)

    @contextmanager
    def claim(self) -> Iterator[list[str]]:
        root = self.root
        if root.exists() and not root.is_dir():
            raise BadInput(f"--out {root}: a file stands there. Choose another folder.")
        is_new = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        names = os.listdir(root)
        (probe := root / f".probe.{os.getpid()}").touch()
        probe.unlink(missing_ok=True)
        try:
            yield names
        except BaseException:
            if is_new:
                with suppress(OSError):
                    root.rmdir()  # only an empty folder goes
            raise

    def put(self, name: str, content: bytes) -> None:
        write_whole(self.root / name, content)

    def put_first(self, name: str, content: bytes) -> bool:
        return write_first(self.root / name, content)

    @contextmanager
    def alone(self) -> Iterator[None]:
        folder = os.open(self.root, os.O_RDONLY)
        try:
            with suppress(ImportError, OSError):
                import fcntl  # noqa: PLC0415

                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def stage(self, part: int) -> Path:
        """Return a new folder beside the parts. Raises CacheDamaged: `parts` is a link that leads outside."""
        folder = inside(self.root, PARTS) / f"{part:05d}.partial-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return folder

    def commit(self, part: int, staged: Path) -> None:
        sync_tree(staged)
        target = part_folder(self.root, part)
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
        for folder in (self.root / PARTS).glob(f"{part:05d}.partial-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove what the name leads to, or the first link on the way: what lies behind a link is not the cache's to delete."""
        path = self.root
        for step in name.split("/"):
            path /= step
            if path.is_symlink():
                break
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            os.unlink(path)

    def sweep(self) -> None:
        """Remove what killed writers left. Raises CacheDamaged: what lies behind a link is not the cache's to delete."""
        parts, shared = inside(self.root, PARTS), inside(self.root, SHARED)
        for folder in parts.glob("*.partial-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for aside in (*self.root.glob(".*.json.*"), *self.root.glob(".probe.*"), *shared.rglob(".*")):
            if not aside.is_dir():
                aside.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there entirely or not at all; an existing one is replaced."""
    aside = _aside(path, content)
    os.replace(aside, path)
    sync_folder(path.parent)


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
