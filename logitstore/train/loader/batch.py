"""A batch: samples as tensors, with the stored answers about their rows.

Axes: B lines, T tokens, N rows, M samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput

_GROUPS = ("inputs", "answer", "features")
"""Fields that hold several values by name."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch holds some samples as a student takes them, and the teacher's answer about each row, still packed as stored.

    Attributes:
        inputs: the keyword arguments of the student, by name: of texts `input_ids`, `attention_mask` or `position_ids`, and
            `use_cache`; of images `pixel_values`, or nothing where images are left out.
        rows: int64[N], the place of each row in the flattened [B * T]; T is 1 where a sample has one row.
        row_mask: bool[N], False for rows that do not count.
        answer: the stored fields of the rows, by name; a `Decoder` turns them into targets on their own device.
        features: the stored arrays of taps, as `<tap>/<field>`; `Loader.features` decodes them.
        gold: int64[N], the token that follows the row, or the class; -1 where there is none.
        samples: int64, numbers of the samples in the cache; -1 in a batch that only fills up the last step of a rank.
        counts: int64, number of rows of each sample; rows come sample after sample.
        source: number of the cache that the batch comes from, where there are several caches.
        weight: float32[N], weight of each row in the loss; None where all rows weigh the same.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    rows: Tensor
    row_mask: Tensor
    answer: dict[str, Tensor]
    gold: Tensor
    samples: Tensor
    counts: Tensor
    source: int = 0
    weight: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def input_ids(self) -> Tensor | None:
        """int64[B, T], the tokens of texts, padded on the right with 0; None for images."""
        return self.inputs.get("input_ids")

    @property
    def attention_mask(self) -> Tensor | None:
        """int64[B, T], 1 on real tokens of texts; None in a packed batch."""
        return self.inputs.get("attention_mask")

    @property
    def position_ids(self) -> Tensor | None:
        """int64[B, T], starting again from 0 at each text of a packed batch; None otherwise."""
        return self.inputs.get("position_ids")

    @property
    def pixel_values(self) -> Tensor | None:
        """float32[B, 3, H, W], the images as the teacher saw them; None for texts, and where images are left out."""
        return self.inputs.get("pixel_values")

    @property
    def gold_logprob(self) -> Tensor:
        """float32[N]: the teacher's logprob of the token that follows, nats."""
        return self.answer["gold_logprob"].float()

    @property
    def entropy(self) -> Tensor:
        """float32[N]: the teacher's entropy, nats."""
        return self.answer["entropy"].float()

    def tensors(self) -> dict[str, Any]:
        """Return the tensors by name, without those that are None; and `source`. Values of `inputs`, `answer` and `features`
        are named `inputs.<name>`, `answer.<field>` and `features.<tap>/<field>`."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _GROUPS}
        present = {name: value for name, value in named.items() if value is not None}
        grouped = {f"{group}.{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        return present | grouped

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Batch:
        """Return the batch that consists of these tensors; the inverse of `tensors`."""
        grouped: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        plain: dict[str, Any] = {}
        for name, value in tensors.items():
            group, dot, rest = name.partition(".")
            (grouped[group] if dot else plain)[rest or name] = value
        return cls(**plain | grouped)

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory, from which a GPU copies while it computes. PyTorch's loaders look for a
        method of this name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in self.tensors().items()
        }
        return Batch.of(changed)

    def model_inputs(self) -> dict[str, Any]:
        """Return the keyword arguments for a model of transformers.

        Raises:
            BadInput: the images were left out.
        """
        if not self.inputs:
            raise BadInput("a batch of a loader made with with_images=False: it has nothing to show to a model.")
        return dict(self.inputs)
