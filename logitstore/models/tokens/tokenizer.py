"""The tokenizer that belongs to a student or to a cache: its files, and whether its ids mean what the cached ids mean."""

from __future__ import annotations

import tempfile
import weakref
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from logitstore.core.place import below, matching
from logitstore.core.types import ModelRef
from logitstore.errors import CacheMismatch
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.models.cached import shared_model
from logitstore.models.code import NAMES_CODE
from logitstore.models.load import load_tokenizer
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the files of a saved tokenizer, by name. With them, students can be saved on machines without the teacher."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in below(Path(folder)) if path.is_file()
        }


def cached_tokenizer(cache: Cache) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a cache keeps.

    Raises:
        ModelError: it cannot be loaded, or needs code, which is never run from a cache.
        CacheDamaged: a file of it cannot be read.
    """
    with ExitStack() as stack:
        tokenizer = load_tokenizer(stack.enter_context(shared_model(cache, "tokenizer")))
        # some tokenizers copy their files when they are saved
        weakref.finalize(tokenizer, stack.pop_all().close)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, expected: TokenizerInfo, who: str, pieces: list[str]) -> None:
    """Refuse a tokenizer whose ids do not mean what the cached ids mean; see `first_other`.

    Args:
        tokenizer: the tokenizer of the student.
        expected: the tokenizer of the cache.
        who: name of the tokenizer's owner, for the message.
        pieces: the vocabulary of the cache, to name the first id that differs.

    Raises:
        CacheMismatch: an id has another meaning; the message names the first such id.
    """
    other = first_other(tokenizer, expected, pieces)
    if other is None:
        return
    first, a, b = other
    raise CacheMismatch(
        f"{who}: its tokenizer is not the cache's: id {first} is {b!r} there and {a!r} in the cache. "
        "Choose a student with the teacher's tokenizer, or dump again with the student's; "
        "--text (in train with --alpha 0) takes the text alone."
    )


def first_other(
    tokenizer: PreTrainedTokenizerBase, expected: TokenizerInfo, pieces: list[str]
) -> tuple[int, str, str] | None:
    """Return the first id that means something else to a tokenizer than in a cache, with its piece there and in the tokenizer;
    None if there is none. A tokenizer may have more added tokens, such as one for padding; more tokens of its own would cut a
    text otherwise than the teacher's tokenizer does.

    Merges and normalisation do not matter: the student sees the stored tokens, never the text.
    """
    vocabulary = Vocabulary.of(tokenizer.get_vocab())
    if vocabulary.info().fingerprint == expected.fingerprint:
        return None
    there = vocabulary.pieces
    width = max(len(pieces), len(there))
    padded = [(a, b) for a, b in zip(_padded(pieces, width), _padded(there, width), strict=True)]
    added = tokenizer.get_added_vocab()
    first = next((index for index, (a, b) in enumerate(padded) if a != b and not (a == "" and b in added)), None)
    return None if first is None else (first, *padded[first])


def _padded(pieces: list[str], width: int) -> list[str]:
    return pieces + [""] * (width - len(pieces))


def own_tokenizer(student: ModelRef) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer saved with a student, with its adapter first; None if there is none."""
    if student.tokenizer is not None:
        return load_tokenizer(student)
    if student.loaded is not None and not Path(student.name).is_dir():
        return None
    if student.adapter is not None:
        of_adapter = own_tokenizer(replace(student, name=student.adapter, adapter=None))
        return of_adapter or own_tokenizer(replace(student, adapter=None))
    folder = Path(student.name)
    if (
        folder.is_dir()
        and not student.gguf
        and not matching(folder, "*token*")
        and not (folder / "vocab.json").exists()
    ):
        return None
    return load_tokenizer(student)


def tokenizer_for(cache: Cache, student: ModelRef | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer to save with a trained student: its own, else the one that the cache keeps.

    It names no code that was not run: a student may be loaded with the code that its folder names.

    Raises:
        ModelError: it cannot be loaded.
        CacheDamaged: a file of the cache cannot be read.
    """
    own = own_tokenizer(student) if student is not None else None
    tokenizer = own if own is not None else cached_tokenizer(cache)
    if own is None or student is None or not student.trust_remote_code:
        tokenizer.init_kwargs.pop(NAMES_CODE, None)
    return tokenizer
