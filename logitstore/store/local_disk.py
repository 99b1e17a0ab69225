"""The storage on the local disk: files lie whole, synced, by one rename, the commit record last."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from logitstore.core.place import below, matching
from logitstore.errors import BadInput
from logitstore.format.part_record import RECORD_NAME
from logitstore.store.layout import (
    PARTS,
    SHARED,
    committed_parts,
    inside,
    part_folder,
    part_numbers,
    read_regular,
    record_name,
    regular,
    text_inside,
)
from logitstore.store.staged import leases

YOUNG_NS = 3_000_000_000
"""How long the times of a folder that has changed are not trusted, in ns."""


class LocalDisk:
    """A folder on the local disk that holds a cache or a tap; see `logitstore.store.storage.Storage`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._leases: dict[Path, int] = {}
        self._commits = 0

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
            found = os.stat(text_inside(self.root, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> list[str]:
        found = (path for path in below(self.root / folder) if not path.is_dir())
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def holds(self, part: int) -> bool:
        return self.size(record_name(part)) is not None

    def list_parts(self) -> list[int]:
        return committed_parts(self.root)

    def commit_times(self) -> dict[int, float]:
        times = {}
        for part in self.list_parts():
            # a part may go meanwhile
            with suppress(FileNotFoundError):
                times[part] = os.stat(self.root / record_name(part)).st_mtime
        return times

    def stamp(self, folder: str) -> str | None:
        """Return number and times of the folder; None within YOUNG_NS after a change, or if its times lie ahead of the clock.

        A file system writes times down in ticks (of milliseconds, on old ones of up to two seconds), so a folder that has
        changed twice within one tick has the same times. Nobody but the system sets the second time, so files that are copied
        with their times do not bring it back. The device is left out: machines that share a disk number it differently.
        """
        try:
            found = os.stat(text_inside(self.root, folder))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < YOUNG_NS:
            return None
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}"

    def local(self, name: str) -> Path:
        return regular(self.root, name)

    def prefetch(self, names: Sequence[str]) -> None:
        """Do nothing: all is here."""

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

    def swap(self, name: str, known: bytes, content: bytes) -> bool:
        with leases.in_turn(self.root):
            if self.read(name) != known:
                return False
            self.put(name, content)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        with leases.in_turn(self.root):
            yield

    def stage(self, part: int) -> Path:
        """Return a new folder beside the parts. Raises CacheDamaged: `parts` is a link that leads outside."""
        parts = inside(self.root, PARTS)
        while True:
            folder = parts / f"{part:05d}.partial-{secrets.token_hex(4)}"
            folder.mkdir(parents=True)
            lease = leases.take(folder)
            if lease is not None:
                self._leases[folder] = lease
                return folder

    def being_written(self) -> list[int]:
        return held_parts(matching(inside(self.root, PARTS), "*.partial-*"))

    def commit(self, part: int, staged: Path) -> None:
        sync_tree(staged)
        target = part_folder(self.root, part)
        if target.exists() and not (target / RECORD_NAME).is_file():
            # what is left of a part whose record is gone is no part
            with suppress(FileNotFoundError):
                os.rename(target, target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}"))
        try:
            os.rename(staged, target)
        except OSError:
            if not (target / RECORD_NAME).is_file():
                raise
        sync_folder(target.parent)
        self.drop(staged)
        self._commits += 1
        if self._commits & (self._commits - 1) == 0:
            # the folder is listed after 1, 2, 4, 8, ... commits: as often as parts come in, it costs as much for each
            sweep_left(matching(self.root / PARTS, "*.partial-*"))

    def drop(self, staged: Path) -> None:
        shutil.rmtree(staged, ignore_errors=True)
        if (lease := self._leases.pop(staged, None)) is not None:
            os.close(lease)

    def remove(self, name: str) -> None:
        """Remove what the name leads to, or the first link on the way: what lies behind a link is not the cache's to delete."""
        path = self.root
        for step in name.split("/"):
            path /= step
            if path.is_symlink():
                break
        if path.is_dir() and not path.is_symlink():
            # a part without its record is none, so one that is removed by half is written again
            (path / RECORD_NAME).unlink(missing_ok=True)
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            os.unlink(path)

    def sweep(self) -> None:
        """Remove what killed writers left. Raises CacheDamaged: what lies behind a link is not the cache's to delete."""
        parts, shared = inside(self.root, PARTS), inside(self.root, SHARED)
        sweep_left(matching(parts, "*.partial-*"))
        hidden = [path for path in below(shared) if path.name.startswith(".")]
        asides = [*matching(self.root, ".*.json.*"), *matching(self.root, ".probe.*"), *hidden]
        sweep_left(path for path in asides if not path.is_dir())

    def free_bytes(self) -> int:
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


def held_parts(staged: Iterable[Path]) -> list[int]:
    """Return the numbers of the parts that are staged in some folders and held by writers that live."""
    return part_numbers({path.name.partition(".")[0] for path in staged if leases.is_held(path)})


def sweep_left(left: Iterable[Path]) -> None:
    """Remove what writers left, but not what one still holds."""
    for path in left:
        if path.is_symlink():
            path.unlink(missing_ok=True)
        elif (lease := leases.abandoned(path)) is not None:
            try:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            finally:
                os.close(lease)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there entirely or not at all; an existing one is replaced."""
    with _aside(path, content) as aside:
        os.replace(aside, path)
    sync_folder(path.parent)


_WITHOUT_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV, errno.EACCES}


def write_first(path: Path, content: bytes) -> bool:
    """Like `write_whole`, but the first writer wins: False, and nothing changed, when `path` exists already."""
    with _aside(path, content) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            # a file system without hard links: one after the other looks whether it is the first
            with leases.in_turn(path.parent):
                if path.exists():
                    return False
                os.rename(aside, path)
    sync_folder(path.parent)
    return True


@contextmanager
def _aside(path: Path, content: bytes) -> Iterator[Path]:
    """Write a file under another name, held until it has the right one; what is left of it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lease = None
    try:
        while lease is None:
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            aside.touch()
            lease = leases.take(aside)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if lease is not None:
            os.close(lease)


_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR}


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk, or leave that to a file system that cannot be asked for it."""
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_file(path: Path) -> None:
    """Have a file's contents on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have everything below a folder on the disk, the contents before the entries that name them."""
    for path in reversed(list(below(folder))):
        (sync_folder if path.is_dir() else sync_file)(path)
    sync_folder(folder)
