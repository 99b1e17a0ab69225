"""A storage in a package of its own, as any user may write one: caches in the memory of the process, `mem://name`."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from logitstore.errors import CacheDamaged

_FILES: dict[str, bytes] = {}
"""Contents by `place/name`, as an object store has them: there are no folders."""

_LOCK = threading.RLock()

_TURNS = threading.RLock()


class MemoryStorage:
    """A prefix of the names in memory; see `logitstore.store.storage.Storage`."""

    def __init__(self, place: str) -> None:
        self._place = place.strip("/")

    def __str__(self) -> str:
        return f"mem://{self._place}"

    @property
    def address(self) -> str:
        return str(self)

    def within(self, name: str) -> MemoryStorage:
        return MemoryStorage(self._key(name))

    def read(self, name: str) -> bytes:
        try:
            return _FILES[self._key(name)]
        except KeyError:
            raise FileNotFoundError(f"{self}/{name}") from None

    def size(self, name: str) -> int | None:
        content = _FILES.get(self._key(name))
        return None if content is None else len(content)

    def names(self, folder: str) -> list[str]:
        return sorted({name[len(folder) + 1 :].partition("/")[0] for name in self.files(folder)})

    def files(self, folder: str) -> list[str]:
        with _LOCK:
            return sorted(
                key[len(self._place) + 1 :] for key in _FILES if key.startswith(f"{self._key(folder).rstrip('/')}/")
            )

    def holds(self, part: int) -> bool:
        return self.size(f"parts/{part:05d}/part.json") is not None

    def list_parts(self) -> list[int]:
        return [int(name) for name in self.names("parts") if self.size(f"parts/{name}/part.json") is not None]

    def local(self, name: str) -> Path:
        """Return where the files lie in a temporary folder of the process, which lives as long as it does."""
        path = Path(_folder()) / self._key(name)
        names = [name] if self.size(name) is not None else self.files(name)
        for each in names:
            _write_local(Path(_folder()) / self._key(each), self.read(each))
        return path

    @contextmanager
    def claim(self) -> Iterator[list[str]]:
        yield sorted({name.partition("/")[0] for name in self.files("")})

    def put(self, name: str, content: bytes) -> None:
        with _LOCK:
            _FILES[self._key(name)] = content

    def put_first(self, name: str, content: bytes) -> bool:
        with _LOCK:
            return _FILES.setdefault(self._key(name), content) is content

    def swap(self, name: str, known: bytes, content: bytes) -> bool:
        with _LOCK:
            if _FILES[self._key(name)] != known:
                return False
            _FILES[self._key(name)] = content
            return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        with _TURNS:
            yield

    def stage(self, part: int) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{part:05d}.", dir=_folder()))

    def commit(self, part: int, staged: Path) -> None:
        folder = f"parts/{part:05d}"
        found = {path.relative_to(staged).as_posix(): path.read_bytes() for path in staged.rglob("*") if path.is_file()}
        record = found.pop("part.json")
        with _LOCK:
            if self.size(f"{folder}/part.json") is None:
                self.remove(folder)  # what a writer that was killed left
                for name, content in found.items():
                    self.put(f"{folder}/{name}", content)
                self.put(f"{folder}/part.json", record)
        shutil.rmtree(staged)

    def drop(self, staged: Path) -> None:
        shutil.rmtree(staged, ignore_errors=True)

    def remove(self, name: str) -> None:
        with _LOCK:
            for each in [name, *self.files(name)]:
                _FILES.pop(self._key(each), None)

    def sweep(self) -> None:
        """Do nothing: what killed writers left went with their memory."""

    def free_bytes(self) -> None:
        return None

    def _key(self, name: str) -> str:
        if ".." in name.split("/"):
            raise CacheDamaged(f"{self}: '{name}' leads outside the cache. Do not use this cache.")
        return f"{self._place}/{name}"


@cache
def _folder() -> str:
    """Return the one folder of the process; it goes when the process ends."""
    made = tempfile.mkdtemp(prefix="logitstore-memory.")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _write_local(path: Path, content: bytes) -> None:
    """Write a file that may be mapped already: its old contents stay as long as they are mapped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == content:
        return
    path.unlink(missing_ok=True)
    path.write_bytes(content)
