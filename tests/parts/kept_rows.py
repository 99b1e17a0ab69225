"""Random rows, what a sparsifier keeps of them, and what comes back from the codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.random import DRAWS, uniform
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.targets.decoder import Decoder
from logitstore.targets.targets import AnyTargets, Targets

EXACT: dict[str, Any] = {"logprobs": "float32", "tail": "uniform", "tail_mass": "float32"}


def row_for(sparsifier: str, vocabulary: int, width: int | None = 3, **chosen: Any) -> RowInfo:
    """A row of a sparsifier, with as little rounding as there is."""
    usual = EXACT if sparsifier in ("topk", "topp") else {} if sparsifier == "hidden" else {"logprobs": "float32"}
    return row_of("archive", {"sparsifier": sparsifier} | usual | chosen, vocabulary, width)


def teacher_logits(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random logits with ties, and here and there a token that cannot come."""
    generator = torch.Generator().manual_seed(seed)
    logits = (8 * torch.randn(rows, columns, generator=generator)).round() / 2
    logits[:, 1:][torch.rand(rows, columns - 1, generator=generator) < 0.1 * (seed % 3)] = -torch.inf
    return logits.to(dtype)


def numbers_for(row: RowInfo, rows: int) -> Tensor | None:
    """Uniform numbers of as many samples as rows."""
    draws = row.sparsifier.draws
    return (
        torch.from_numpy(np.concatenate([uniform(f"{i:032x}", 1, draws, DRAWS) for i in range(rows)]))
        if draws
        else None
    )


def through(row: RowInfo, kept: dict[str, Tensor], shared: dict[str, Tensor] | None = None) -> AnyTargets:
    """What was kept, encoded and decoded."""
    decoder = Decoder(row, shared or {})
    stored = decoder.codec.encode({name: value.numpy() for name, value in kept.items()})
    return decoder({name: torch.from_numpy(value) for name, value in stored.items()})


def listed_targets(row: RowInfo, kept: dict[str, Tensor], shared: dict[str, Tensor] | None = None) -> Targets:
    found = through(row, kept, shared)
    assert isinstance(found, Targets)
    return found
