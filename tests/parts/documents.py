"""Opening files of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from logitstore.dump.files.piece import Batch
from logitstore.text.documents import DataSpec, open_documents
from logitstore.text.samples import Encoding, Samples, open_samples


def open_file(path: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Samples:
    return open_samples(
        DataSpec(source=str(path), **options), Encoding(max_length=64, overlap=8), tokenizer, "the teacher"
    )


def values_of(path: Path | str, **options: Any) -> list[Any]:
    """The values of the main column of some data, which are read for it."""
    documents = open_documents(DataSpec(source=str(path), **options))
    return [value for batch in documents.rows() for value in column_of(batch, documents.form.column)]


def column_of(batch: Batch, name: str) -> list[Any]:
    if isinstance(batch.values, dict):
        return batch.values[name]
    found: list[Any] = batch.values.column(name).to_pylist()
    return found
