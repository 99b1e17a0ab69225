"""The folder of prepared data: what it holds, who prepares it, and what is swept.

    <prepared>/<identity>/           what follows from the data and the tokenizer
        lock                         held by the process that prepares
        tokens-00000.arrow ...       shards; none with --no-keep-tokens
        tokens.json                  written when all shards are there
        windows-<length>-<overlap>/  what follows from the length and the overlap of the windows, too
            windows.bin              one entry of `WINDOW` for each sample
            prepared.json            written last

Everything appears whole or not at all, so nothing half written is ever taken.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self, TypeVar

import numpy as np
from pydantic import Field

from logitstore.core.place import matching
from logitstore.core.record import Count, Record
from logitstore.core.types import Array
from logitstore.errors import CacheDamaged, NotACache
from logitstore.format.sealed import FORMAT, seal, unseal
from logitstore.store.local_disk import sync_tree, write_whole
from logitstore.store.staged import leases
from logitstore.text.prepare.cutting import WINDOW, Cutter
from logitstore.text.prepare.shards import ShardInfo, name_of

TOKENS, WINDOWS, PREPARED, LOCK = "tokens.json", "windows.bin", "prepared.json", "lock"

KEPT_DAYS = 30
"""How long what was prepared below the datasets cache is kept after it was used last."""

R = TypeVar("R", bound=Record)


class TokensInfo(Record):
    """What `tokens.json` says: the name of its folder, and the shards, one source after the other."""

    format: Literal["logitstore"] = FORMAT  # type: ignore[assignment]
    version: int = 1
    identity: str
    kept: bool
    shards: tuple[ShardInfo, ...]

    @property
    def documents(self) -> int:
        """Count of documents."""
        return sum(each.documents for each in self.shards)

    def of_source(self, number: int) -> list[ShardInfo]:
        """Return the shards of a source."""
        return [each for each in self.shards if each.source == number]


class WindowsInfo(Record):
    """What `prepared.json` says.

    Attributes:
        identity, windows: names of the two folders in which it lies.
        samples, rows, tokens: counts.
        skipped: count of documents without samples.
        fingerprint: that of the samples, as in a cache.
        scores: that of their scores and groups; None where the data have none.
        highest: the highest token id.
        have_samples: of each source, whether any of its documents made a sample.
        within, longest: see `logitstore.text.prepare.cutting.Totals`.
    """

    format: Literal["logitstore"] = FORMAT  # type: ignore[assignment]
    version: int = 1
    identity: str
    windows: str
    samples: Count
    rows: Count
    tokens: Count
    skipped: Count
    fingerprint: str = Field(pattern="^[0-9a-f]{32}$")
    highest: int
    have_samples: tuple[bool, ...]
    within: Count
    longest: Count
    scores: str | None = None

    @classmethod
    def of(cls, folder: Folder, cutter: Cutter, documents: int, have_samples: Iterable[bool]) -> Self:
        """Return what is known once all shards are cut.

        Args:
            folder: where the windows will lie.
            cutter: has cut all shards.
            documents: count of all documents.
            have_samples: of each source, whether any of its documents made a sample.
        """
        totals = cutter.totals
        return cls(
            identity=folder.path.name,
            windows=folder.windows.name,
            samples=totals.samples,
            rows=totals.rows,
            tokens=totals.tokens,
            skipped=documents - totals.used,
            fingerprint=cutter.fingerprint,
            highest=totals.highest,
            have_samples=tuple(have_samples),
            scores=cutter.scores,
            within=totals.within,
            longest=totals.longest,
        )


def default_root() -> Path:
    """Return the folder of all prepared data, beside the data sets that the library `datasets` keeps."""
    return Path(importlib.import_module("datasets").config.HF_DATASETS_CACHE) / "logitstore-prepared"


class Folder:
    """The folder of some prepared data, for one length and overlap of the windows."""

    def __init__(self, root: Path, identity: str, max_length: int, overlap: int) -> None:
        self.path = root / identity
        self.windows = self.path / f"windows-{max_length}-{overlap}"

    def tokens_info(self) -> TokensInfo | None:
        """Return what is known of the tokens; None if they are not whole."""
        found = _read(TokensInfo, self.path / TOKENS)
        if found is None or found.identity != self.path.name:
            return None
        if not found.kept:
            return found
        try:
            are_whole = all(self.shard(number).stat().st_size == each.bytes for number, each in enumerate(found.shards))
        except OSError:
            return None
        return found if are_whole else None

    def windows_info(self) -> WindowsInfo | None:
        """Return what is known of the windows; None if they are not whole."""
        found = _read(WindowsInfo, self.windows / PREPARED)
        if found is not None and (found.identity, found.windows) != (self.path.name, self.windows.name):
            return None
        try:
            is_whole = found and (self.windows / WINDOWS).stat().st_size == found.samples * WINDOW.itemsize
        except OSError:
            return None
        return found if is_whole else None

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.path / name_of(number)

    def table(self, samples: int) -> Array:
        """Return the table of all samples, `WINDOW`, mapped."""
        if not samples:
            return np.zeros(0, WINDOW)
        # a plain view of the map: every field that is taken of a `memmap` would be one more
        return np.memmap(self.windows / WINDOWS, WINDOW, "r", shape=(samples,)).view(np.ndarray)

    def write_tokens(self, info: TokensInfo) -> None:
        write_whole(self.path / TOKENS, seal(info))

    def forget(self, shard: int | None = None) -> None:
        """Remove what is damaged, a shard too if one is named, so that whoever opens the folder next prepares it anew."""
        for path in (self.windows / PREPARED, *([] if shard is None else [self.shard(shard)])):
            with suppress(OSError):
                path.unlink()

    @contextmanager
    def writing_windows(self) -> Iterator[Path]:
        """Give a folder for the windows, which stands in its place if nothing fails."""
        aside = self.windows.with_name(f".{self.windows.name}.{secrets.token_hex(4)}.partial")
        aside.mkdir()
        try:
            yield aside
            sync_tree(aside)
            with suppress(FileNotFoundError):
                # what is there is not whole
                os.rename(self.windows, aside.with_name(f"{aside.name}.old"))
            os.rename(aside, self.windows)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(aside.with_name(f"{aside.name}.old"), ignore_errors=True)

    @contextmanager
    def alone(self, told: Callable[[], None]) -> Iterator[None]:
        """Be the one process that prepares; `told` is called if another one does, which is waited for."""
        self.path.mkdir(parents=True, exist_ok=True)
        # open for writing: network file systems give no other lock of this kind
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not leases.first_in_turn(descriptor):
                told()
                leases.wait_for_turn(descriptor)
            for left in matching(self.path, ".*.partial*"):
                # whoever wrote it holds the lock no more, where there are locks
                if (lease := leases.abandoned(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
                    os.close(lease)
            yield
        finally:
            os.close(descriptor)

    def hold(self) -> int | None:
        """Say that the data are used, and keep them from being swept. Return a descriptor to be closed in the end, if any."""
        with suppress(OSError):
            os.utime(self.path)
        with suppress(OSError):
            return leases.take(self.path)
        return None

    def bytes(self) -> int:
        """Return how many bytes the tokens and the windows take."""
        files = [*matching(self.path, "tokens*"), *matching(self.windows, "*")]
        return sum(file.stat().st_size for file in files)


def sweep() -> None:
    """Remove what was prepared below the datasets cache and not used for `KEPT_DAYS`, and what older versions copied there."""
    root = default_root()
    for path in [*matching(root, "?" * 32), *matching(root.with_name("logitstore-rows"), "?" * 32)]:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < KEPT_DAYS * 86_400:
                continue
            if (lease := leases.abandoned(path)) is not None:
                try:
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lease)


def write_sealed(path: Path, record: Record) -> None:
    """Write a sealed record."""
    write_whole(path, seal(record))


def _read(kind: type[R], path: Path) -> R | None:
    try:
        return unseal(kind, path)
    except (NotACache, CacheDamaged):
        return None
