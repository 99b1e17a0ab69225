"""The vocabulary of a cache: how token ids or classes are spelled, and the checksum of that."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as once

import pyarrow as pa
import xxhash

from logitstore.errors import CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.store.cache import Cache
from logitstore.store.samples import open_arrow
from logitstore.store.storage import Storage


def read_pieces(cache: Cache) -> pa.ChunkedArray:
    """Return the piece of every token id, mapped, in the order of the ids.

    Raises:
        CacheDamaged: the file is missing, or is not a whole Arrow file with the column `piece`.
    """
    return pieces_in(cache.storage, cache.manifest)


def pieces_in(storage: Storage, manifest: Manifest) -> pa.ChunkedArray:
    """Return what `read_pieces` does, of a cache that is not opened. Raises CacheDamaged as it does."""
    path = storage.local(manifest.shared_file("vocabulary"))
    try:
        return open_arrow(pa.memory_map(str(path))).read_all().column("piece")
    except (pa.ArrowException, OSError, KeyError, struct.error) as error:
        raise CacheDamaged(f"{path}: the cache's vocabulary cannot be read. Run `logitstore verify`.") from error


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The piece of every id, as the tokenizer spells it; unused ids have an empty piece."""

    pieces: list[str]

    @classmethod
    def of(cls, id_of_piece: Mapping[str, int]) -> Vocabulary:
        """Return the vocabulary of a tokenizer, from the id of every piece."""
        pieces = [""] * (max(id_of_piece.values(), default=-1) + 1)
        for piece, token in id_of_piece.items():
            pieces[token] = piece
        return cls(pieces=pieces)

    def info(self) -> TokenizerInfo:
        digest = xxhash.xxh3_128()
        for piece in self.pieces:
            digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
        return TokenizerInfo(fingerprint=digest.hexdigest(), size=len(self.pieces), spelling=self._spelling())

    def _spelling(self) -> str:
        if any(piece.startswith("\u0120") for piece in self.pieces):
            return "byte-level"
        return "metaspace" if any(piece.startswith("\u2581") for piece in self.pieces) else "plain"

    def arrow(self) -> bytes:
        """Return the vocabulary as an Arrow IPC file with one string column, `piece`, in the order of the ids."""
        table = pa.table({"piece": pa.array(self.pieces, pa.string())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def from_bytes(piece: str) -> str:
    """Return the text of a byte-level BPE piece, which writes every byte as one printable character."""
    table = _byte_of()
    if any(character not in table for character in piece):
        return piece
    return bytes(table[character] for character in piece).decode("utf-8", "replace")


def bytes_of_piece(piece: str, spelling: str) -> bytes:
    """Return what a piece of a vocabulary stands for in a text, in UTF-8; half a character may be in it."""
    if spelling == "byte-level":
        table = _byte_of()
        if all(character in table for character in piece):
            return bytes(table[character] for character in piece)
    return (piece.replace("\u2581", " ") if spelling == "metaspace" else piece).encode("utf-8", "replace")


@once
def _byte_of() -> dict[str, int]:
    """Return GPT-2's byte alphabet (Radford et al. 2019): printable Latin-1 bytes stand for themselves, the rest from
    U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(rest)}
