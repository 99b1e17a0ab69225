"""Preparing takes no more memory for more data."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import no_progress
from logitstore.text.documents import DataSpec
from logitstore.text.prepare import shards
from logitstore.text.samples import Encoding, Preparing, open_samples
from tests.parts.texts import TEXTS


def peaks(path: Path, folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """The most bytes that Python and NumPy, and that Arrow had at once while some data were prepared."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        preparing = Preparing(folder=folder, workers=1)
        encoding = Encoding(max_length=64, overlap=8)
        open_samples(DataSpec(source=str(path)), encoding, tokenizer, "t", no_progress, preparing)
        return tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.exhaustive
def test_preparing_takes_no_more_memory_for_more_data(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "DOCUMENTS", 500)
    found = []
    for count in (8_000, 20_000):
        path = tmp_path / f"{count}.jsonl"
        rows = (json.dumps({"text": TEXTS[number % 70][: 200 + number % 100]}) + "\n" for number in range(count))
        path.write_text("".join(rows))
        found.append(peaks(path, tmp_path / str(count), tokenizer))
    (python, arrow), (python_more, arrow_more) = found
    assert python_more < 1.2 * python
    assert arrow_more < 1.2 * arrow
