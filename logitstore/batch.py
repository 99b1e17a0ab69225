"""A batch: samples copied out of the mapped files into tensors.

Axes: B lines, T tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.cache.reader import Cache
from logitstore.types import Array

_ANSWER = "answer."


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples as lines of tokens, and the teacher's answer about each row, still packed as it was stored.

    Attributes:
        input_ids: int64[B, T], padded on the right with 0.
        attention_mask: int64[B, T], 1 on real tokens; None in a packed batch.
        position_ids: int64[B, T], beginning again at each sample of a packed batch; None otherwise.
        rows: int64[N], each row's place in the flattened [B * T].
        row_mask: bool[N], False for rows that do not count.
        answer: the stored fields of the rows, by name; a `Decoder` turns them into targets, on whichever device they are.
        gold: int64[N], the token that follows.
        samples: int64, numbers of the samples in the cache; -1 in a batch that only fills up the last step of a rank.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    rows: Tensor
    row_mask: Tensor
    answer: dict[str, Tensor]
    gold: Tensor
    samples: Tensor

    @property
    def gold_logprob(self) -> Tensor:
        """float32[N]: the teacher's, of the token that follows, nats."""
        return self.answer["gold_logprob"].float()

    @property
    def entropy(self) -> Tensor:
        """float32[N]: the teacher's, nats."""
        return self.answer["entropy"].float()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, those of the answer as `answer.<field>`, without those that are None."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "answer"}
        present = {name: value for name, value in named.items() if value is not None}
        return present | {f"{_ANSWER}{name}": value for name, value in self.answer.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Batch:
        """The inverse of `tensors`."""
        missing: dict[str, Any] = {"attention_mask": None, "position_ids": None}
        plain = {name: value for name, value in tensors.items() if not name.startswith(_ANSWER)}
        answer = {name.removeprefix(_ANSWER): value for name, value in tensors.items() if name.startswith(_ANSWER)}
        return cls(**missing | plain, answer=answer)

    def to(self, device: torch.device | str) -> Batch:
        return Batch.of({name: value.to(device, non_blocking=True) for name, value in self.tensors().items()})

    def pin(self) -> Batch:
        """A copy in page-locked memory, from which a GPU copies while it computes."""
        return Batch.of({name: value.pin_memory() for name, value in self.tensors().items()})

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for a causal language model of transformers."""
        names = ("input_ids", "attention_mask", "position_ids")
        present = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return present | {"use_cache": False}


def collate(cache: Cache, samples: Array, packed: bool) -> Batch:
    """Copy samples out of the mapped files into one batch; rows come sample after sample."""
    located = [cache.locate(int(index)) for index in samples]
    lengths = np.array([part.samples.lengths_S[number] for part, number in located])
    lines, offsets, shape = _pack(lengths) if packed else _one_each(lengths)
    input_ids = np.zeros(shape, np.int64)
    mask = np.zeros(shape, np.bool_)
    positions = np.zeros(shape, np.int64)  # padding stays 0: every such token is a sequence of its own
    real = np.zeros(shape, np.int64)
    spans = []
    places = []
    for (part, number), line, offset, length in zip(located, lines, offsets, lengths, strict=True):
        stop = offset + length
        input_ids[line, offset:stop] = part.samples.tokens_of(number)
        mask[line, offset:stop] = part.samples.mask_of(number)
        positions[line, offset:stop] = np.arange(length)
        real[line, offset:stop] = 1
        spans.append(part.span(number))
        places.append(line * shape[1] + offset + np.flatnonzero(mask[line, offset:stop]))
    rows = np.concatenate(places)

    def gather(name: str) -> Array:
        return np.concatenate([part.fields[name][span] for (part, _), span in zip(located, spans, strict=True)])

    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=None if packed else torch.from_numpy(real),
        position_ids=torch.from_numpy(positions) if packed else None,
        rows=torch.from_numpy(rows),
        row_mask=torch.ones(len(rows), dtype=torch.bool),
        answer={name: torch.from_numpy(gather(name)) for name in cache.manifest.fields},
        gold=torch.from_numpy(input_ids.reshape(-1)[rows + 1]),
        samples=torch.from_numpy(np.array(samples, np.int64)),
    )


def _one_each(lengths: Array) -> tuple[Array, Array, tuple[int, int]]:
    """One line a sample: line numbers, offsets, shape."""
    return np.arange(len(lengths)), np.zeros(len(lengths), np.int64), (len(lengths), int(lengths.max()))


def _pack(lengths: Array) -> tuple[Array, Array, tuple[int, int]]:
    """First fit, the longest first, into lines as wide as the longest sample: line numbers, offsets, shape."""
    width = int(lengths.max())
    lines, offsets = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    used: list[int] = []
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        line = next((line for line, full in enumerate(used) if full + length <= width), len(used))
        if line == len(used):
            used.append(0)
        lines[index], offsets[index] = line, used[line]
        used[line] += length
    return lines, offsets, (len(used), width)
