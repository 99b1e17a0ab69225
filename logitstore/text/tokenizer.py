"""The tokenizer: its files, and telling what its ids mean so that a cache can refuse another one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from logitstore.core.types import ModelRef
from logitstore.errors import CacheMismatch
from logitstore.format.data import TokenizerInfo
from logitstore.models.load import load_tokenizer
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the files of a saved tokenizer, by name. With them, students can be saved on machines without the teacher."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def cached_tokenizer(cache: Cache) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a cache keeps.

    Raises:
        ModelError: it cannot be loaded, or needs code, which is never run from a cache.
    """
    folder = cache.storage.local(cache.manifest.shared_file("tokenizer"))
    return load_tokenizer(ModelRef(name=str(folder), in_cache=True))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, expected: TokenizerInfo, who: str, pieces: list[str]) -> None:
    """Refuse a tokenizer whose ids do not mean what the cached ids mean. It may have more added tokens, such
    as one for padding; more tokens of its own would cut a text otherwise than the teacher's tokenizer does.

    Merges and normalisation do not matter: the student sees the stored tokens, never the text.

    Args:
        tokenizer: the tokenizer of the student.
        expected: the tokenizer of the cache.
        who: name of the tokenizer's owner, for the message.
        pieces: the vocabulary of the cache, to name the first id that differs.

    Raises:
        CacheMismatch: an id has another meaning; the message names the first such id.
    """
    vocabulary = Vocabulary.of(tokenizer.get_vocab())
    if vocabulary.info().fingerprint == expected.fingerprint:
        return
    there = vocabulary.pieces
    width = max(len(pieces), len(there))
    padded = [(a, b) for a, b in zip(_padded(pieces, width), _padded(there, width), strict=True)]
    added = tokenizer.get_added_vocab()
    first = next((index for index, (a, b) in enumerate(padded) if a != b and not (a == "" and b in added)), None)
    if first is None:
        return
    a, b = padded[first]
    raise CacheMismatch(
        f"{who}: its tokenizer is not the cache's: id {first} is {b!r} there and {a!r} in the cache. "
        "Choose a student with the teacher's tokenizer, or dump again with the student's; "
        "--text (in train with --alpha 0) takes the text alone."
    )


def _padded(pieces: list[str], width: int) -> list[str]:
    return pieces + [""] * (width - len(pieces))
