"""Write sealed JSON files, and read them without trusting their contents.

A sealed file is a UTF-8 JSON object. Its last entry, `checksum`, covers every byte of the file: it is the xxh3-128 of the file
with these 32 hex digits replaced by zeros. See docs/format.md.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from pydantic import Field, ValidationError

from logitstore.core.record import Count, NotKnownHere, Record, is_nested
from logitstore.errors import CacheDamaged, NotACache, way_out_of

FORMAT = "logitstore"


VERSION = 1


LARGEST = 16 << 20
"""Most bytes of a sealed file; one of a usual cache has some kilobytes."""


DEEPEST = 64
"""Most objects and lists inside each other in a sealed file."""


_BLANK = b"0" * 32


_SEAL = re.compile(rb'"checksum": "([0-9a-f]{32})"\n}\n\Z')


R = TypeVar("R", bound=Record)


class FileSeal(Record):
    """Size in bytes and xxh3-128 (hex) of one file."""

    bytes: Count
    xxh3_128: str = Field(pattern="^[0-9a-f]{32}$")


def seal(record: Record) -> bytes:
    """Return `record` as the bytes of a sealed JSON file."""
    text = json.dumps(record.model_dump(mode="json") | {"checksum": _BLANK.decode()}, indent=1, ensure_ascii=False)
    blank = text.encode() + b"\n"
    digest = xxhash.xxh3_128_hexdigest(blank).encode()
    return blank[: -len(_BLANK) - 4] + digest + blank[-4:]


def unseal(kind: type[R], path: Path) -> R:
    """Read a sealed JSON file, and return its record of type `kind`.

    Raises:
        NotACache, CacheDamaged: see `unseal_from`.
    """
    return unseal_from(kind, str(path.parent), path.name, path.read_bytes)


def _meant(folder: str, name: str) -> str:
    """Return a hint where a place was written with too much or too little; the empty text where nothing is known."""
    scheme, is_address, rest = folder.partition("://")
    if folder.endswith(f"/{name}"):
        return f" Write the place of the cache: {folder.removesuffix(f'/{name}')}."
    if is_address and "/" not in rest:
        return f" Write the name of the cache after the bucket: {scheme}://{rest}/name."
    return ""


def unseal_from(kind: type[R], folder: str, name: str, read: Callable[[], bytes]) -> R:
    """Read a sealed JSON file from any storage.

    Args:
        kind: the record that it holds.
        folder: the place of the file, for messages.
        name: that of the file.
        read: gives its contents; raises an OSError if it cannot.

    Raises:
        NotACache: the file is no logitstore record, or of a newer format version.
        CacheDamaged: its checksum or its contents are wrong, or a package is missing that knows what it names.
    """
    path = f"{folder}/{name}"
    try:
        raw = read()
    except FileNotFoundError as error:
        if "://" not in folder and not os.path.lexists(folder):
            raise NotACache(f"{folder}: there is no such folder.") from error
        raise NotACache(f"{folder}: no {name} in it, so it is not a logitstore cache.{_meant(folder, name)}") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise NotACache(f"{folder}: a cache is a folder with a {name} in it.") from error
    except OSError as error:
        raise CacheDamaged(f"{path}: cannot be read ({error.strerror}). {way_out_of(path)}") from error
    content = _parse(raw, path)
    if not is_sealed(raw):
        raise CacheDamaged(f"{path}: its checksum does not match its contents. {way_out_of(path)}")
    content.pop("checksum", None)
    try:
        # as JSON, so that strict types still take a list for a tuple
        return kind.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(unknown := first.get("ctx", {}).get("error"), NotKnownHere):
            raise CacheDamaged(f"{path}: {unknown}.") from error
        where = ".".join(str(step) for step in first["loc"]) or "its contents"
        raise CacheDamaged(
            f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}. {way_out_of(path)}"
        ) from error


def is_sealed(raw: bytes) -> bool:
    """Return True if the checksum at the end of a sealed file matches its contents."""
    match = _SEAL.search(raw)
    if match is None:
        return False
    return xxhash.xxh3_128_hexdigest(raw[: match.start(1)] + _BLANK + raw[match.end(1) :]).encode() == match.group(1)


def _parse(raw: bytes, path: str) -> dict[str, Any]:
    """Return the JSON object of a file, after checking the format name and the version. The checksum is checked elsewhere."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CacheDamaged(f"{path}: not valid JSON ({error}). {way_out_of(path)}") from error
    # what opens so few objects and lists cannot be nested deeper
    if raw.count(b"{") + raw.count(b"[") > DEEPEST and is_nested(content, DEEPEST + 1):
        raise CacheDamaged(f"{path}: more than {DEEPEST} objects and lists inside each other. {way_out_of(path)}")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NotACache(f"{path}: this file was not written by logitstore ('format' is not '{FORMAT}').")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise CacheDamaged(f"{path}: its version is {version!r:.40}, not a whole number. {way_out_of(path)}")
    if version > VERSION:
        raise NotACache(
            f"{path}: format version {version}; this logitstore reads versions up to {VERSION}. "
            "Install a newer logitstore."
        )
    return content


def seal_of_bytes(content: bytes) -> FileSeal:
    """Return size and checksum of the contents of a file."""
    return FileSeal(bytes=len(content), xxh3_128=xxhash.xxh3_128_hexdigest(content))


def seal_of(path: Path) -> FileSeal:
    """Return size and checksum of a file; it is read in blocks of 4 MiB."""
    digest = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as file:
        while block := file.read(4 << 20):
            digest.update(block)
            size += len(block)
    return FileSeal(bytes=size, xxh3_128=digest.hexdigest())
