"""The files below `shared/`: the folders that are handed to transformers, and what the contents of each file can be.

Nothing is loaded by transformers here, and nothing is run.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from logitstore.errors import LogitstoreError, StorageError, one_line, refusal_of, retold
from logitstore.format.manifest import Manifest
from logitstore.store import layout
from logitstore.store.checks.tail import check_tail
from logitstore.store.storage import Storage
from logitstore.store.vocabulary import Vocabulary, pieces_in

LARGEST_TOKENIZER = 256 << 20
"""Most bytes of a JSON file of a tokenizer; those of the largest vocabularies have about 40 MB."""

LARGEST_PROCESSOR = 1 << 20
"""Most bytes of the JSON of an image processor."""

TOKENIZER = "tokenizer.json"


def unlisted(storage: Storage, listed: Any, folder: str) -> list[str]:
    """Return what lies right below a folder and is not listed. A name with a dot before it is what a killed writer left."""
    names = [name for name in storage.names(folder) if not name.startswith(".")]
    steps = {name.removeprefix(f"{folder}/").partition("/")[0] for name in listed if name.startswith(f"{folder}/")}
    return [f"{folder}/{name}" for name in names if name not in steps]


def contents_problems(storage: Storage, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the file and what is wrong with it, for each shared file that cannot be what it is said to be.

    The checksums are right: these are files that were changed and sealed again, or that were wrong from the beginning.
    """
    pieces: list[str] | None = None
    if any(name.startswith(f"{layout.SHARED}/vocabulary-") for name in manifest.shared):
        name = manifest.shared_file("vocabulary")
        try:
            pieces = pieces_in(storage, manifest).to_pylist()
        except LogitstoreError as error:
            yield name, told(error)
        if pieces is not None and not _are_the_plans(pieces, manifest):
            yield name, "its pieces are not those whose checksum cache.json names"
            pieces = None
    for name in manifest.shared:
        kind = name.removeprefix(f"{layout.SHARED}/").partition("-")[0]
        if name.endswith(".json") and kind in ("tokenizer", "processor"):
            largest = LARGEST_TOKENIZER if kind == "tokenizer" else LARGEST_PROCESSOR
            what = _json_problem(storage.local(name), largest)
            # beside a tokenizer, the vocabulary may also be one of classes
            if (
                what is None
                and name.endswith(f"/{TOKENIZER}")
                and pieces is not None
                and manifest.tokenizer is not None
            ):
                what = _tokenizer_problem(storage.local(name), pieces)
            if what is not None:
                yield name, what
    if manifest.tail.file is not None:
        try:
            check_tail(storage.local(manifest.tail.file), manifest.row)
        except LogitstoreError as error:
            yield manifest.tail.file, told(error)


def told(error: LogitstoreError) -> str:
    """Return what is wrong with a file. Raises StorageError if the system refuses to read it: `repair` would drop it."""
    if isinstance(error, StorageError):
        raise error
    refusal = refusal_of(error)
    if refusal is not None:
        raise retold(refusal, str(error).partition(": ")[0]) from error
    return str(error)


def _are_the_plans(pieces: list[str], manifest: Manifest) -> bool:
    if None in pieces:
        return False
    if manifest.tokenizer is not None:
        return Vocabulary(pieces=pieces).info() == manifest.tokenizer
    named = getattr(manifest.data, "classes", None)
    return named in (None, xxhash.xxh3_128_hexdigest("\0".join(pieces).encode()))


def _json_problem(path: Path, largest: int) -> str | None:
    """Return what is wrong with a JSON file that a library is given; None if nothing is."""
    if path.stat().st_size > largest:
        return f"larger than {largest} bytes"
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({one_line(error)})"
    # a vocabulary may be a list in older files
    return None if isinstance(content, dict | list) else "not a JSON object"


def _tokenizer_problem(path: Path, pieces: list[str]) -> str | None:
    """Return how a fast tokenizer differs from the cache's vocabulary; None if it is the same."""
    tokenizers: Any = importlib.import_module("tokenizers")
    try:
        ids: dict[str, int] = tokenizers.Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except BaseException as error:
        # a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        refusal = refusal_of(error)
        if refusal is not None:
            raise retold(refusal, path) from error
        return f"no tokenizer ({one_line(error)})"
    size = 1 + max(ids.values(), default=-1)
    if size != len(pieces):
        return f"it has {size} ids, and the cache's vocabulary {len(pieces)} pieces"
    # two pieces of a tokenizer may have one id, of which the vocabulary holds the one that stands for it
    other = next((token for token, piece in enumerate(pieces) if piece and ids.get(piece) != token), None)
    return None if other is None else f"the id {other} is another piece than in the cache's vocabulary"
