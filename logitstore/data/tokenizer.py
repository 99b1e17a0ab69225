"""The tokenizer: loading it, and telling what its ids mean so that a cache can refuse another one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import xxhash
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from logitstore.errors import CacheMismatch, ModelError, one_line
from logitstore.manifest import TokenizerInfo
from logitstore.types import ModelRef


def load_tokenizer(model: ModelRef) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.name, **model.pretrained)
    except Exception as error:
        # transformers raises nearly anything here, from OSError to KeyError; the reason is kept, the traceback chained
        raise ModelError(f"{model}: no tokenizer could be loaded: {one_line(error)}") from error
    return tokenizer


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The files of a saved tokenizer, by name, so that students can be saved with it where the teacher is not."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Every id's piece, as the tokenizer spells it; ids that stand for nothing have an empty piece."""

    pieces: list[str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        known = tokenizer.get_vocab()
        pieces = [""] * (max(known.values(), default=-1) + 1)
        for piece, token in known.items():
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
        """The vocabulary as an Arrow IPC file with one string column, `piece`, in the order of the ids."""
        table = pa.table({"piece": pa.array(self.pieces, pa.string())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, expected: TokenizerInfo, who: str, pieces: list[str]) -> None:
    """Refuse a tokenizer whose ids do not mean what the cached ids mean.

    Merges and normalisation do not matter: the student sees the stored tokens, never the text.

    Args:
        tokenizer: the student's.
        expected: the cache's.
        who: how to call the tokenizer's owner in the message.
        pieces: the cache's vocabulary, to name the first id that differs.

    Raises:
        CacheMismatch: with the first id that means something else.
    """
    vocabulary = Vocabulary.of(tokenizer)
    if vocabulary.info().fingerprint == expected.fingerprint:
        return
    there = vocabulary.pieces
    width = max(len(pieces), len(there))
    padded = [(a, b) for a, b in zip(_padded(pieces, width), _padded(there, width), strict=True)]
    first = next((index for index, (a, b) in enumerate(padded) if a != b), len(pieces))
    a, b = padded[first] if first < width else ("", "")
    raise CacheMismatch(
        f"{who}: its tokenizer is not the cache's: id {first} is {b!r} there and {a!r} in the cache. "
        "Choose a student with the teacher's tokenizer, or dump again with the student's; "
        "--text (in train with --alpha 0) takes the text alone."
    )


def _padded(pieces: list[str], width: int) -> list[str]:
    return pieces + [""] * (width - len(pieces))
