"""What prepared data are known by: the contents of the files, and all that makes tokens of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.errors import BadInput
from logitstore.store.local_disk import write_whole

_KNOWN = "known-files.json"
_MOST_KNOWN = 100_000

_FRESH_NS = 2_000_000_000
"""A file that changed so recently may change again without another time."""

_CHUNK = 1 << 20


class KnownFiles:
    """The checksums of files that were read before, so that they are not read again while they do not change.

    They lie beside the prepared data, and are a matter of speed alone: whoever cannot read or write them goes on without.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _KNOWN
        self._known: dict[str, list[Any]] = {}
        self._new: dict[str, list[Any]] = {}
        self._seen: dict[Path, list[Any]] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_bytes())
            self._known = found if isinstance(found, dict) else {}

    def checksum(self, path: Path) -> str:
        """Return the xxh3-128, in hex, of what a file holds. Raises OSError: it cannot be read."""
        return str(self._look(path)[-1])

    def lines(self, path: Path) -> int:
        """Return how many lines a file has. Raises OSError: it cannot be read."""
        return int(self._look(path)[-2])

    def _look(self, path: Path) -> list[Any]:
        name, now = json.dumps(os.fspath(path)), _state(path)
        before = self._known.get(name)
        if isinstance(before, list) and before[:-2] == now:
            self._seen.setdefault(path, before)
            return before
        digest, lines = xxhash.xxh3_128(), 0
        with path.open("rb") as file:
            while content := file.read(_CHUNK):
                digest.update(content)
                lines += content.count(b"\n")
        found = self._known[name] = [*now, lines, digest.hexdigest()]
        if time.time_ns() - now[2] > _FRESH_NS:
            self._new[name] = found
        self._seen.setdefault(path, found)
        return found

    def check_unchanged(self) -> None:
        """Look whether the files are still those whose checksums were given.

        Raises:
            BadInput: one has changed, or is gone.
        """
        for path, before in list(self._seen.items()):
            try:
                is_same = self._is_same(path, before)
            except OSError:
                is_same = False
            if not is_same:
                raise BadInput(
                    f"--data {path}: it was changed while it was read, so what was read may be neither the old data nor the "
                    "new. Run the same command again when nobody writes to it."
                )

    def _is_same(self, path: Path, before: list[Any]) -> bool:
        now = _state(path)
        if now == before[:-2]:
            return True
        size, modified, _, number = now
        if [size, modified, number] != [before[0], before[1], before[3]] or self.checksum(path) != before[-1]:
            return False
        # its mode, its owner or its links have changed
        self._seen[path] = [*now, *before[-2:]]
        return True

    def keep(self) -> None:
        """Store what was learnt."""
        if not self._new:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # what other processes learnt meanwhile stays
            others = KnownFiles(self._path.parent)._known
            most = list((others | self._new).items())[-_MOST_KNOWN:]
            write_whole(self._path, json.dumps(dict(most)).encode())


def _state(path: Path) -> list[int]:
    """Return what changes with a file: the time of change, too, because a copy may be given the size and the other time."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def identity_of(parts: Iterable[Any]) -> str:
    """Return the name of what follows from some values."""
    return xxhash.xxh3_128_hexdigest(repr(list(parts)).encode("utf-8", "surrogatepass"))


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything in a tokenizer that changes the tokens: vocabulary, merges, template, settings.

    A class that is not part of transformers may read any of its settings, but paths are left out: the same files may lie
    elsewhere.
    """
    backend, kind = getattr(tokenizer, "backend_tokenizer", None), type(tokenizer)
    parts: list[Any] = [backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())]
    # the core is told of this with every call, and does not store it
    parts += [tokenizer.chat_template, tokenizer.special_tokens_map, getattr(tokenizer, "split_special_tokens", False)]
    if backend is None or not kind.__module__.startswith("transformers."):
        places = ("name_or_path", "is_local", "vocab_file", "merges_file", "tokenizer_file")
        own = sorted(f"{name}={value!r}" for name, value in tokenizer.init_kwargs.items() if name not in places)
        parts += [kind.__qualname__, own]
    text = repr(parts)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
