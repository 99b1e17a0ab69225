"""Small masked language models of several kinds, texts for them, and the dump of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from logitstore.settings.dump import DumpSettings
from tests.parts.classes import PIECES, POSITIONS
from tests.parts.texts import TEXTS

ODD = ["", "a", "Grüße, 你好, שלום, 🙂 — naïve façade", "[SEP][MASK]", "one [MASK] two"]
"""An empty text, one of one letter, one in other scripts, one of special tokens alone, and one with a mask of its own."""

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}


def save_masked(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None, kind: str = "bert", seed: int = 0, **changes: Any
) -> Path:
    """A small model with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = _SIZES | {"vocab_size": PIECES, "max_position_embeddings": POSITIONS}
    model: Any
    if kind == "bert":
        model = BertForMaskedLM(BertConfig(initializer_range=0.3, **shape | changes))
    elif kind == "roberta":  # which counts positions from behind the padding's id
        shape |= {"max_position_embeddings": POSITIONS + 1, "pad_token_id": 0}
        model = RobertaForMaskedLM(RobertaConfig(initializer_range=0.3, **shape | changes))
    elif kind == "modernbert":
        model = ModernBertForMaskedLM(ModernBertConfig(initializer_range=0.3, **shape | _SPECIAL | changes))
    else:
        named = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": PIECES}
        named |= {"max_position_embeddings": POSITIONS}
        model = DistilBertForMaskedLM(DistilBertConfig(initializer_range=0.3, **named | changes))
    with torch.no_grad():  # the bias of the output layer begins at 0, and would hide whether it is used
        model.get_output_embeddings().bias.normal_(std=0.5)
        model.get_output_embeddings().weight.mul_(2.0)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def masked_texts(count: int = 20) -> list[str]:
    """Texts of very different length; the first are odd ones."""
    return [*ODD, *(text[: 30 + 25 * place] for place, text in enumerate(TEXTS[: count - len(ODD)]))]


def save_texts(path: Path, texts: list[str]) -> Path:
    """Write texts as lines of JSON."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def masked_plan(teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that most tests of this task use: float32, eight tokens a row, two masks of each text, several parts."""
    usual: dict[str, Any] = {
        "task": "masked-lm",
        "teacher": str(teacher),
        "data": str(texts),
        "out": out,
        "views": 2,
        "preset": "topk",
        "k": 8,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 25,
        "batch_tokens": 256,
    }
    return DumpSettings(**usual | changes)
