"""A WordPiece tokenizer trained on the Python language reference, small encoders, labelled texts, and the dump of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from logitstore.settings.dump import DumpSettings
from tests.parts.texts import TEXTS

CLASSES = ["short", "medium", "long"]
PIECES = 400
POSITIONS = 64
ODD = ["", "a", "Grüße, 你好, שלום, 🙂 — naïve façade", "word " * 200]
"""An empty text, one of one letter, one in other scripts, and one that is longer than the teacher's positions."""


@cache
def wordpiece(vocabulary: int = PIECES) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer with the special tokens of BERT, and token types for pairs.

    It is made once: which of the pieces that are equally frequent come first is left to chance.
    """
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    core.train_from_iterator(TEXTS[:40], trainer)
    core.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    given = {f"{name}_token": text for name, text in names.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **given)


def _named(classes: list[str] | None) -> dict[str, Any]:
    names = CLASSES if classes is None else classes
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


def save_bert(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None,
    seed: int = 0,
    classes: list[str] | None = None,
    **changes: Any,
) -> Path:
    """A small BERT with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"vocab_size": PIECES, "max_position_embeddings": POSITIONS}
    config = BertConfig(initializer_range=0.3, **shape | _named(classes) | changes)
    BertForSequenceClassification(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def save_distilbert(folder: Path, tokenizer: PreTrainedTokenizerFast | None, seed: int = 1, **changes: Any) -> Path:
    """A small DistilBERT, which takes no token types."""
    torch.manual_seed(seed)
    shape = {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 4, "vocab_size": PIECES}
    shape |= {"max_position_embeddings": POSITIONS}
    config = DistilBertConfig(initializer_range=0.3, **shape | _named(None) | changes)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def labelled_rows(count: int = 44) -> list[dict[str, Any]]:
    """Texts of very different length with the name of a class; of numbers 40 to 43, which are odd, the last two have none."""
    texts = [text[: 10 + 7 * place] for place, text in enumerate(TEXTS[:40])] + ODD
    texts += [text[: 40 + place] for place, text in enumerate(TEXTS[: max(count - 44, 0)])]
    return [
        {"text": text, "label": None if place in (42, 43) else CLASSES[min(place * 3 // 44, 2)]}
        for place, text in enumerate(texts[:count])
    ]


def save_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as lines of JSON."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def classes_plan(teacher: Path, labelled: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that most tests of this task use: float32, all three classes, several parts."""
    usual: dict[str, Any] = {
        "task": "text-classification",
        "teacher": str(teacher),
        "data": str(labelled),
        "out": out,
        "preset": "topk",
        "k": 3,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 10,
        "batch_tokens": 256,
    }
    return DumpSettings(**usual | changes)
