"""What every teacher can do: answer about rows, and be told apart from another teacher.

Axes: B sequences or images, T positions, N rows, D channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import ModelError
from logitstore.format.data import EngineInfo
from logitstore.format.needs import Gives, Wants, called
from logitstore.format.tap import Places
from logitstore.models.head import LinearHead
from logitstore.targets.rows import RowBatch, RowChunk


@dataclass(frozen=True, kw_only=True)
class TeacherBatch(RowBatch):
    """Some samples as the teacher takes them, and where their rows are.

    Attributes:
        inputs: of the teacher, by name: of texts `input_ids` and `attention_mask`, int64[B, T], padded on the right, or with
            several texts to a line `position_ids` in place of the mask, which begin again with each text; of images
            `pixel_values`, float32[B, 3, H, W].
        rows_N: int64, the rows' places in the flattened [B * T], sample after sample; T is 1 for images.
        choice: how the teacher's answers about these rows decide which of them are kept; None where all are.
    """

    inputs: dict[str, Tensor]
    rows_N: Tensor
    choice: RowChoice | None = None

    def is_place(self, shape: tuple[int, ...]) -> Tensor:
        """Return bool[B * T]: the places of a feature [B, T, D] that are of a sample, not of padding; all those of images."""
        mask_BT = self.inputs.get("attention_mask")
        return torch.ones(shape, dtype=torch.bool).flatten() if mask_BT is None else mask_BT.flatten().bool()


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    """How the entropies of the teacher's answers decide which rows of a batch are kept.

    Attributes:
        candidates: count of the rows of each sample among which those that are kept are chosen.
        kept: from the entropy of each row, nats, float[N], to the numbers of the rows that are kept, int64, rising.
        narrowed: from these numbers to the batch of these rows alone.
    """

    candidates: list[int]
    kept: Callable[[Array], Array]
    narrowed: Callable[[Array], TeacherBatch]


Batches = Callable[[list[Any]], Iterable[TeacherBatch]]
"""How samples become batches."""


class Teacher(ABC):
    """A loaded teacher. One that gives neither hidden states nor features implements `name`, `rows` and `fingerprint` alone.

    Attributes:
        gives: what it can be asked for, names of `logitstore.format.needs`; known before the weights are loaded.
        device: where it runs.
        spread: how many of its modules lie where, for people; None for a teacher that lies on one device.
    """

    gives: ClassVar[Gives]
    device: torch.device
    spread: str | None = None

    @property
    def takes_more(self) -> bool:
        """Whether it is of use to announce one more batch before the answers to the first are taken."""
        return False

    def expect(self, batch: TeacherBatch, wants: Wants) -> None:  # noqa: B027  # most teachers begin when they are asked
        """Begin to answer about a batch that `rows` will ask about, after those that were announced before it."""

    def forget(self, batch: TeacherBatch) -> None:  # noqa: B027
        """Drop a batch that was announced and will not be asked about."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it, such as the model's class."""

    @abstractmethod
    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        """Answer about the rows of a batch, a few at a time, in their order.

        Args:
            batch: the samples, and where their rows are; announced or not.
            wants: what every chunk must hold; of `gives`, without features.

        Raises:
            ModelError: the teacher cannot answer.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what tells this teacher from one that answers differently; for a model a checksum of its weights."""

    def engine(self) -> EngineInfo | None:
        """Return what the cache records of the engine that answers; None for a model in this process.

        Raises:
            ModelError: it cannot answer.
        """
        return None

    def close(self) -> None:  # noqa: B027  # most teachers have nothing to give back
        """Give back what the teacher holds besides memory, such as other processes. It answers no more."""

    def head(self, vocabulary: int) -> LinearHead:
        """Return how hidden states become logits of the first `vocabulary` tokens.

        Raises:
            ModelError: not by a linear head.
        """
        raise ModelError(f"{self.name}: it gives {called(self.gives)}, and its output layer is not known.")

    def recording(self, names: Sequence[str]) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Return a context in which `rows` also records the features named; see `logitstore.models.hooks`."""
        self._refuse_features(names)
        return nullcontext({})

    def features(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the features named, [B, T, D] each in the model's dtype.

        Raises:
            ModelError: the model does not have a feature.
        """
        self._refuse_features(names)
        return {}

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return D of the features named.

        Raises:
            ModelError: the model does not have a feature, or its output layer does not take the final hidden states.
        """
        self._refuse_features(names)
        return {}

    def places(self, name: str) -> Places:
        """Return which vectors a feature has of a sample; see `TapInfo`. `widths` was asked about it before."""
        return None

    def check_packed(self) -> None:
        """Refuse a teacher that cannot be shown several texts in one line.

        Raises:
            ModelError: it cannot, or they would see each other.
        """
        raise ModelError(f"{self.name}: it takes one text a line. Leave out --packed.")

    def _refuse_features(self, names: Sequence[str]) -> None:
        if names:
            raise ModelError(f"{self.name}: it gives {called(self.gives)}, and no features.")
