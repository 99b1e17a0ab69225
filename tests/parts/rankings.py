"""Queries with documents of the Python language reference, small cross- and bi-encoders, and the dump of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from logitstore.settings.dump import DumpSettings
from tests.parts.classes import PIECES, POSITIONS, save_bert, save_rows, wordpiece
from tests.parts.texts import TEXTS


def save_cross_encoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A small BERT with one output and random weights."""
    return save_bert(folder, changes.pop("tokenizer", wordpiece()), seed=seed, classes=["score"], **changes)


def save_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 3, **changes: Any) -> Path:
    """A small BERT without an output layer, and with random weights."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"vocab_size": PIECES, "max_position_embeddings": POSITIONS}
    BertModel(BertConfig(initializer_range=0.3, **shape | changes)).save_pretrained(folder)
    (tokenizer or wordpiece()).save_pretrained(folder)
    return folder


def query_rows(count: int = 24) -> list[dict[str, Any]]:
    """Queries with one to five documents and labels from 0 to 2; of every sixth query nobody said anything."""
    rows = []
    for place in range(count):
        documents = [TEXTS[(place + 7 * each) % 40][: 30 + 11 * each + place] for each in range(1 + place % 5)]
        labels: list[int | None] = [(place + each) % 3 for each in range(len(documents))]
        if place % 6 == 5:
            labels = [None] * len(documents)
        rows.append({"query": TEXTS[place % 40][:20], "documents": documents, "labels": labels})
    return rows


def ranking_plan(teacher: Path, data: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that most tests of this task use."""
    usual: dict[str, Any] = {
        "task": "ranking",
        "teacher": str(teacher),
        "data": str(data),
        "out": out,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 5,
        "batch_tokens": 256,
    }
    return DumpSettings(**usual | changes)


__all__ = ["query_rows", "ranking_plan", "save_cross_encoder", "save_encoder", "save_rows"]
