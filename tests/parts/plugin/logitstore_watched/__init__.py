"""A storage in a package of its own: `watched://folder` is a folder on the local disk that writes down what is asked of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from logitstore.store.local_disk import LocalDisk

SEEN: list[tuple[str, str]] = []
"""What was asked for, in its order: ("prefetch", a part) and, where a part is first opened, ("open", the part). A part is named
by its path below the folder of `watched://`, so that those of taps begin with `taps/`."""

_LOCK = threading.Lock()


class WatchedDisk(LocalDisk):
    """A folder of which `SEEN` tells; see `logitstore.store.storage.Storage`."""

    def __init__(self, root: str, prefix: str = "") -> None:
        super().__init__(root)
        self._prefix = prefix

    def __str__(self) -> str:
        return f"watched://{self.root}"

    def within(self, name: str) -> WatchedDisk:
        return WatchedDisk(str(super().within(name).root), f"{self._prefix}{name}/")

    def local(self, name: str) -> Path:
        if name.startswith("parts/"):
            asked = ("open", self._prefix + "/".join(name.split("/")[:2]))
            with _LOCK:
                if asked not in SEEN:
                    SEEN.append(asked)
        return super().local(name)

    def prefetch(self, names: Sequence[str]) -> None:
        with _LOCK:
            SEEN.extend(("prefetch", self._prefix + name) for name in names)
