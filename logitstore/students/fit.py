"""Check that a student fits a cache, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from logitstore.cache.layout import inside
from logitstore.cache.reader import Cache
from logitstore.cache.vocabulary import read_pieces
from logitstore.data.tokenizer import check_tokenizer, load_tokenizer
from logitstore.errors import CacheMismatch, ModelError
from logitstore.models import head_rows, load_config
from logitstore.types import ModelRef


def check_student(cache: Cache, student: ModelRef) -> None:
    """Compare a student's head and tokenizer with the cache's.

    Raises:
        ModelError: there is no such model.
        CacheMismatch: the student's head has fewer rows than the teacher's vocabulary, or its tokenizer has other tokens.
    """
    rows, needed = head_rows(load_config(student)), cache.manifest.teacher.vocabulary
    if rows < needed:
        raise CacheMismatch(
            f"{student}: targets in {cache.path} name token ids up to {needed - 1}, but the student's head has {rows} "
            f"rows. Choose a student with at least {needed} rows, or dump again with its tokenizer; "
            "--text (in train with --alpha 0) takes the text alone."
        )
    tokenizer = own_tokenizer(student)
    if tokenizer is not None:
        check_tokenizer(tokenizer, cache.manifest.text[0], str(student), read_pieces(cache).to_pylist())


def text_tokenizer(student: ModelRef) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a student that reads plain text.

    Raises:
        ModelError: the student has no tokenizer, or one that gives ids beyond the rows of its head.
    """
    tokenizer = own_tokenizer(student)
    if tokenizer is None:
        raise ModelError(f"{student}: no tokenizer is saved with it. --text needs one: save it there.")
    highest, rows = max(tokenizer.get_vocab().values(), default=-1), head_rows(load_config(student))
    if highest >= rows:
        raise ModelError(
            f"{student}: its tokenizer has ids up to {highest}, its head rows for ids below {rows}. "
            "The model and the tokenizer do not belong together."
        )
    return tokenizer


def own_tokenizer(student: ModelRef) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer saved with a student; None if there is none."""
    folder = Path(student.name)
    if (
        folder.is_dir()
        and not student.gguf
        and not any(folder.glob("*token*"))
        and not (folder / "vocab.json").exists()
    ):
        return None
    return load_tokenizer(student)


def tokenizer_for(cache: Cache, student: ModelRef | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer to save with a trained student: its own, else the one that the cache keeps."""
    saved = own_tokenizer(student) if student is not None else None
    return saved or load_tokenizer(ModelRef(name=str(inside(cache.path, cache.manifest.shared_file("tokenizer")))))
