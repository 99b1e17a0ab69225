"""Data of every form, and what a direct forward pass of the teacher says of each of their positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.settings.dump import DumpSettings
from tests.parts.texts import TEXTS, plan_for

NOISE = 2e-3
"""More than float32 and the float16 of a stored entropy explain, in nats."""


def ugly(folder: Path) -> dict[str, Path]:
    """Return a file of each form: documents of one token and of two, long ones in windows; a chat with one token said."""
    texts = [{"text": text} for text in ("a", "ab", TEXTS[3][:330], "", TEXTS[9][:90], TEXTS[12][:150])]
    chats = [
        {"messages": [{"role": "user", "content": TEXTS[5][:60]}, {"role": "assistant", "content": said}]}
        for said in ("x", TEXTS[7][:120], TEXTS[8][:40])
    ]
    labelled = []
    for count in (1, 7, 30):
        ids = list(range(5, 45))
        labelled.append({"input_ids": ids, "labels": [-100] * (40 - count) + ids[40 - count :]})
    pairs = [{"prompt": TEXTS[5][:50], "completion": TEXTS[6][:70]}, {"prompt": "of ", "completion": "x"}]
    files = {}
    for name, rows in {"texts": texts, "chats": chats, "labelled": labelled, "pairs": pairs}.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return files


def plan(teacher: Path, data: Path, out: Path, **changes: Any) -> DumpSettings:
    """Return a dump of several small parts."""
    usual = {"domain_column": None, "max_length": 40, "overlap": 8, "samples_per_part": 3, "batch_tokens": 100}
    return plan_for(teacher, data, out, **usual | changes)


@torch.inference_mode()
def logprobs_of(teacher: Path, tokens_T: Any, vocabulary: int, dtype: torch.dtype = torch.float64) -> Any:
    """Return float64[T, V], the logprobs of the model itself on one sample alone."""
    model: Any = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).eval()
    tokens_BT = torch.from_numpy(np.asarray(tokens_T, np.int64))[None]
    return torch.log_softmax(model(tokens_BT).logits[0, :, :vocabulary].double(), -1).numpy()


def entropy_of(logprobs_TV: Any) -> Any:
    """Return float64[T]."""
    return -np.where(np.isfinite(logprobs_TV), np.exp(logprobs_TV) * logprobs_TV, 0.0).sum(1)


def masks(cache: logitstore.Cache) -> list[list[bool]]:
    return [cache.samples_of(part).mask_of(place).tolist() for part, place in placed(cache)]  # type: ignore[attr-defined]


def placed(cache: logitstore.Cache) -> list[tuple[int, int]]:
    return [(part, place) for part in cache.part_numbers for place in range(len(cache.samples_of(part)))]
