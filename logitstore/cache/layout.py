"""Where things lie in a cache, and how files come to lie there: whole, synced, by one rename."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from logitstore.errors import BadInput, CacheDamaged
from logitstore.manifest import RECORD_NAME

PARTS = "parts"
SHARED = "shared"
PILOT = "pilot"
SAMPLES_FILE = "samples.arrow"
ROWS_FOLDER = "rows.zarr"

_PART_NAME = re.compile(r"[0-9]{5}|[1-9][0-9]{5,}")


def part_folder(root: Path, part: int) -> Path:
    return root / PARTS / f"{part:05d}"


def part_folders(root: Path) -> list[int]:
    """Numbers of the folders below `parts/` that look like parts, ascending."""
    try:
        names = os.listdir(root / PARTS)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if _PART_NAME.fullmatch(name))


def committed_parts(root: Path) -> list[int]:
    """Numbers of the parts that are whole, ascending. Costs one listing of `parts/` and a stat per part."""
    parts = f"{root}/{PARTS}"
    # plain strings: there may be a hundred thousand parts, and a path object takes longer than the question
    return [number for number in part_folders(root) if os.path.isfile(f"{parts}/{number:05d}/{RECORD_NAME}")]


def shared_name(what: str, content: bytes, suffix: str = "") -> str:
    """Path of a shared file; the name carries a hash of the contents, so that two writers never fight over one."""
    return f"{SHARED}/{what}-{xxhash.xxh3_64_hexdigest(content)}{suffix}"


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused when links make it leave `root`.

    Raises:
        CacheDamaged: the path resolves to somewhere outside.
    """
    path = root / relative
    if not _has_links(str(root), relative):
        return path
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CacheDamaged(f"{root}: '{relative}' is a link that leads to itself. Do not use this cache.") from error
    if not target.is_relative_to(root.resolve()):
        raise CacheDamaged(f"{root}: '{relative}' leads outside the cache. Do not use this cache.")
    return path


def _has_links(root: str, relative: str) -> bool:
    """Whether a part of the path below `root` is a link, or could lead upwards; cheaper than to resolve it."""
    pieces = relative.split("/")
    if relative.startswith("/") or ".." in pieces:
        return True
    path = root
    for piece in pieces:
        path = f"{path}/{piece}"
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return True
        except OSError:
            return False
    return False


def parse_parts(text: str, count: int) -> list[int]:
    """Part numbers from a list such as `0-99,120`, checked against the `count` parts there are."""
    chosen: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", piece)
        if match is None:
            raise BadInput(f"--parts '{text}': write numbers and ranges, such as 0-99,120.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise BadInput(f"--parts '{text}': this cache has parts 0 to {count - 1}.")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


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
