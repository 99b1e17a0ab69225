"""Hidden states as speculators, SpecForge and NeMo AutoModel keep them, written from their schemas."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

States = list[tuple[list[int], dict[str, Tensor]]]
"""Of each record its tokens, and the states [T, D] of some layers, by name."""


def speculators(folder: Path, made: States, layers: list[str]) -> Path:
    for number, (tokens, states) in enumerate(made):
        stacked = torch.stack([states[name] for name in layers], 1).to(torch.bfloat16)
        content = {"token_ids": torch.tensor(tokens), "hidden_states": stacked}
        folder.mkdir(exist_ok=True)
        save_file(content, folder / f"hs_{number}.safetensors")
    return folder


def specforge(folder: Path, made: States, layers: list[str], compressed: bool = False) -> Path:
    for number, (tokens, states) in enumerate(made):
        group = folder / f"rows_{number // 3 * 3}-{number // 3 * 3 + 3}"
        group.mkdir(parents=True, exist_ok=True)
        content = {
            "input_ids": torch.tensor(tokens),
            "loss_mask": torch.ones(len(tokens), dtype=torch.long),
            "aux_hidden_state": torch.cat([states[name] for name in layers], 1)[None].to(torch.bfloat16),
            "hidden_state": states["final"][None].to(torch.bfloat16),
        }
        raw = io.BytesIO()
        torch.save(content, raw)
        if compressed:
            (group / f"data_{number}.ckpt.gz").write_bytes(gzip.compress(raw.getvalue()))
        else:
            (group / f"data_{number}.ckpt").write_bytes(raw.getvalue())
    return folder


def automodel(folder: Path, made: States, layers: list[int], size: int, length: int, **changes: Any) -> Path:
    """`layers`: numbers of hidden states, each one more than AutoModel's number of the layer that gives it."""
    folder.mkdir(exist_ok=True)
    width = made[0][1][f"hidden-{layers[0]}"].shape[1]
    manifest = {
        "format_version": 2,
        "num_samples": len(made),
        "shard_size": size,
        "seq_length": length,
        "aux_layer_ids": [layer - 1 for layer in layers],
        "aux_hidden_dim": width * len(layers),
        "target_model": "someone/model",
        "draft_vocab_size": 4,
        "selected_token_ids": [1, 2, 3, 4],
        "target_probs_topk": 0,
        "dtype": "fp32",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    for first in range(0, len(made), size):
        some = made[first : first + size]
        tokens = torch.zeros(len(some), length, dtype=torch.long)
        mask, states = torch.zeros_like(tokens), torch.zeros(len(some), length, width * len(layers))
        for row, (ids, of_layers) in enumerate(some):
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
            states[row, : len(ids)] = torch.cat([of_layers[f"hidden-{layer}"] for layer in layers], 1)
        content = {
            "input_ids": tokens,
            "attention_mask": mask,
            "loss_mask": mask.clone(),
            "aux_hidden_states": states,
            "position_mask": mask[..., None].bool(),
            "target_probs": torch.full((len(some), length, 4), 0.25),
        }
        save_file(content, folder / f"shard-{first // size:06d}.safetensors")
    return folder
