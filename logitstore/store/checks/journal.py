"""The journal of `verify`: which parts a run that was interrupted had found whole, so that the next run goes on there.

It lies beside the parts, is no part of the cache, and goes when a run ends. Its first line says of which plan and by which
version it was written; each other line is one claim. Every line ends with a checksum that also covers the first line, so one
that is cut off, changed, or from another journal counts for nothing. See docs/format.md, "sidecars/".
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

import logitstore
from logitstore.errors import LogitstoreError
from logitstore.format.manifest import Manifest
from logitstore.store.checks.claims import Claim
from logitstore.store.local_disk import LocalDisk, sync_file
from logitstore.store.storage import Storage

NAME = "sidecars/verify.journal"

PAUSE = 5.0
"""Seconds between two writes. A run that is shorter and is not interrupted writes none."""

_LONGEST_LINE = 512


class Journal:
    """The journal of one cache, with what an earlier run left in it.

    Attributes:
        claims: the claims of the earlier run, by tap and part.
        began: when the earlier run began, in seconds since 1970; when this one did, if there was none.
        is_kept: False where none can be written: the cache is read-only, or lies in another storage.
    """

    def __init__(self, storage: Storage, manifest: Manifest, taps: int, *, resume: bool) -> None:
        """Read the journal that is there, if it can be relied on.

        Args:
            storage: that of the cache.
            manifest: of the cache.
            taps: how many taps it has, which bounds the size of a journal.
            resume: whether to take over what an earlier run found.
        """
        self.claims: dict[tuple[str | None, int], Claim] = {}
        self._storage, self._path = storage, _path_in(storage)
        self.is_kept = self._path is not None
        head = {"journal": "logitstore verify", "version": 1, "logitstore": logitstore.__version__}
        self.began = time.time()
        self._head = _line(head | {"plan": manifest.identity, "began": self.began}, b"")
        self._new: list[Claim] = []
        self._written = time.monotonic()
        self._is_begun = False
        if resume and self._path is not None:
            self._read(
                self._path, head | {"plan": manifest.identity}, _LONGEST_LINE * (1 + manifest.parts * (1 + taps))
            )

    def _read(self, path: Path, head: dict[str, object], largest: int) -> None:
        try:
            if not 0 < (self._storage.size(NAME) or 0) <= largest:
                return
            first, *lines = self._storage.read(NAME).splitlines(keepends=True)
        except (LogitstoreError, OSError):
            return
        found = _parsed(first, b"")
        if (
            found is None
            or type(found.get("began")) is not float
            or {name: value for name, value in found.items() if name != "began"} != head
        ):
            return
        self.began = float(found["began"])
        self._head, self._is_begun = first, lines[-1:] == [] or lines[-1].endswith(b"\n")
        for line in lines:
            content = _parsed(line, first)
            claim = None if content is None else Claim.of(content)
            if claim is not None:
                self.claims[claim.tap, claim.part] = claim

    def add(self, claim: Claim) -> None:
        """Keep a claim. It is written with others after a while."""
        self._new.append(claim)
        if time.monotonic() - self._written >= PAUSE:
            self.write()

    def write(self) -> None:
        """Write the claims that are not written yet, if the cache can be written."""
        claims, self._new, self._written = self._new, [], time.monotonic()
        if not claims or self._path is None or not self.is_kept:
            return
        lines = [_line(asdict(claim), self._head) for claim in claims]
        if not self._is_begun:
            # also the claims of an earlier run, if its journal does not end with a whole line
            lines = [self._head, *(_line(asdict(claim), self._head) for claim in self.claims.values()), *lines]
        flags = (
            os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | (os.O_APPEND if self._is_begun else os.O_TRUNC)
        )
        try:
            self._path.parent.mkdir(exist_ok=True)
            descriptor = os.open(self._path, flags, 0o666)
            try:
                os.write(descriptor, b"".join(lines))
            finally:
                os.close(descriptor)
            sync_file(self._path)
        except OSError:
            self.is_kept = False  # the parts are checked all the same
        self._is_begun = True

    def remove(self) -> None:
        """Remove the journal, and the folder if nothing else is in it."""
        self._new = []
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._path.parent.rmdir()


def _path_in(storage: Storage) -> Path | None:
    """Return the path of the journal of a cache on the local disk. Other storages do not tell when a file has changed."""
    try:
        return storage.local(NAME) if isinstance(storage, LocalDisk) else None
    except LogitstoreError:
        return None


def _line(content: dict[str, object], head: bytes) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return text + b" " + xxhash.xxh3_64_hexdigest(head + text).encode() + b"\n"


def _parsed(line: bytes, head: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is no whole line of this journal."""
    text, space, digest = line.rstrip(b"\n").rpartition(b" ")
    if not space or not line.endswith(b"\n") or digest != xxhash.xxh3_64_hexdigest(head + text).encode():
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
