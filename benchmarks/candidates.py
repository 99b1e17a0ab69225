"""Compare the order by scores without training with that after training: `python benchmarks/candidates.py`.

Texts: the Python language reference; a Llama that learned them for 400 steps is the teacher, and six fresh Llamas of other
shapes are the students. Of each student there are the scores of `rank`, the KL after a short training, its number of weights
(the smaller the worse), and the KL after a training that is ten times as long. The rank correlation of each with the last one
is over the students of a seed. Finished seeds are kept in build/candidates, and an interrupted run resumes from them.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
import statistics
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from bench import console, found, save
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.rank import RankSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.candidates.likeness import spearman
from logitstore.train.candidates.rank import TRAINED, rank
from logitstore.train.train import train

FOLDER = Path("build/candidates")
SEEDS = (0, 1, 2)
SHORT, LONG = 10, 100
VOCABULARY, LENGTH = 512, 96
SHAPES = (
    "layers=1,hidden_size=16,intermediate_size=32,heads=2,kv_heads=2",
    "layers=3,hidden_size=16,intermediate_size=32,heads=2,kv_heads=2",
    "layers=1,hidden_size=32,intermediate_size=64,heads=2,kv_heads=2",
    "layers=2,hidden_size=32,intermediate_size=96,heads=4,kv_heads=2",
    "layers=1,hidden_size=64,intermediate_size=128,heads=4,kv_heads=2",
    "layers=2,hidden_size=64,intermediate_size=192,heads=4,kv_heads=4",
)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / "lines.json"
    lines: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    cache = texts_cache()
    for seed in SEEDS:
        if all(line["seed"] != seed for line in lines):
            lines += of_seed(cache, seed)
            kept.write_text(json.dumps(lines))
    save("candidates", lines_of(lines), students=lines, short=SHORT, long=LONG)


def of_seed(cache: Cache, seed: int) -> list[dict[str, Any]]:
    """Score and train the students of one seed."""
    usual = {"cache": cache.path, "holdout": 0.1, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu", "seed": seed}
    ranking = rank(RankSettings(**usual, fresh=list(SHAPES), samples=32, steps=SHORT))
    lines = []
    for each in ranking.candidates:
        shape = {name: int(number) for name, number in (piece.split("=") for piece in each.student.split(","))}
        course = {"max_steps": LONG, "evaluate_every": LONG, "save_every": LONG, "keep_checkpoints": 0}
        kl = train(TrainSettings(**usual | shape | course, out=FOLDER / "out"))["eval_kl"]
        shutil.rmtree(FOLDER / "out")
        line = {"seed": seed, "student": each.student, "weights": each.weights, **each.figures, "kl_long": kl}
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
        lines.append(line)
    return lines


def lines_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds of the rank correlation of each score with the KL after the long training."""
    said = []
    for name in [name for name in lines[0] if name not in ("seed", "student", "kl_long")]:
        values = []
        for seed in sorted({line["seed"] for line in lines}):
            own = [line for line in lines if line["seed"] == seed]
            sign = -1 if name == "weights" else 1
            values.append(spearman([sign * line[name] for line in own], [line["kl_long"] for line in own]))
        shown = f"KL after {SHORT} steps" if name == TRAINED else name
        said.append(
            found(shown, statistics.mean(values), "rank correlation", of_seeds=[round(each, 3) for each in values])
        )
    return said


def texts_cache() -> Cache:
    """Return the cache of the texts, with all that the scores read."""
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    data = FOLDER / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    if not (FOLDER / "llama" / "model.safetensors").exists():
        teach(texts)
    return dump(
        DumpSettings(
            teacher=str(FOLDER / "llama"), data=str(data), out=FOLDER / "texts", limit=60, max_length=LENGTH, preset="exact",
            hidden="final", qkv="2", dtype="float32", device="cpu",
        )
    )  # fmt: skip


def teach(texts: list[str]) -> None:
    """Train the teacher and its tokenizer, and save them."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).float()
    tokens = torch.tensor([token for text in texts for token in tokenizer(text)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(400):
        starts = torch.randint(len(tokens) - LENGTH, (8,))
        ids_BT = torch.stack([tokens[start : start + LENGTH] for start in starts])
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(FOLDER / "llama")
    tokenizer.save_pretrained(FOLDER / "llama")


if __name__ == "__main__":
    main()
