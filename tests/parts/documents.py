"""Opening files of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, Samples, open_samples


def open_file(path: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Samples:
    return open_samples(
        DataSpec(source=str(path), **options), Encoding(max_length=64, overlap=8), tokenizer, "the teacher"
    )
