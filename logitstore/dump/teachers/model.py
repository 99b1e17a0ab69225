"""A model of transformers as the teacher: its logits, its hidden states, and the features of its forward pass.

Axes: B sequences or images, T positions, R = B * T, D channels, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import xxhash
from torch import Tensor
from transformers import PreTrainedModel

from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import ModelError
from logitstore.format.needs import HIDDEN, Wants, called
from logitstore.models.hooks import recording
from logitstore.models.placing.placement import packing_of
from logitstore.models.placing.spread import answers_on, lies_where
from logitstore.models.placing.weights import named_scales, named_weights, plain_tensors
from logitstore.targets.chunks import ASKED_ELEMENTS, chunk_rows, runs
from logitstore.targets.rows import RowChunk, sent


class ModelTeacher(Teacher):
    """A loaded model whose whole forward pass is at hand. One that gives logits alone implements `logits` alone."""

    _model: Any
    _packed: str | None = None

    def _hold(self, loaded: PreTrainedModel) -> None:
        """Keep a loaded model. Of packed weights the fingerprint is taken now: kernels may arrange them anew when they run."""
        self._model, self.device, self.spread = loaded.eval(), answers_on(loaded), lies_where(loaded)
        if packing_of(loaded.config) is not None:
            self._packed = self._fingerprint("")

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._model).__name__

    @abstractmethod
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, T, V'] in the model's dtype, V' including padding rows of the embedding.

        Args:
            inputs: of the model, on any device.
            options: of the model's forward.
        """

    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits, and the final hidden state [B, T, D] that its output layer made them from.

        Raises:
            ModelError: the model gives no hidden states.
        """
        raise ModelError(f"{self.name}: it gives {called(self.gives)}.")

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        """Run the model once, and give the logits of the rows, with their hidden states where `wants` has them."""
        # sent before the pass: a copy that follows it would wait for it
        rows_N, gold_N = sent(batch.rows_N, self.device), sent(batch.gold_N, self.device)
        hidden_RD = None
        if HIDDEN in wants:
            logits_BTV, hidden_BTD = self.logits_and_hidden(batch.inputs)
            hidden_RD = hidden_BTD.flatten(0, 1).to(logits_BTV.device)  # another one where the model is spread
        else:
            logits_BTV = self.logits(batch.inputs)
        flat_RV = logits_BTV.flatten(0, 1)
        rows_N, gold_N = rows_N.to(flat_RV.device), gold_N.to(flat_RV.device)
        for span, places in runs(rows_N, chunk_rows(flat_RV.shape[1], flat_RV.device.type, ASKED_ELEMENTS)):
            yield RowChunk(
                span=span,
                gold_n=gold_N[span],
                logits_nV=flat_RV[places],
                hidden_nD=None if hidden_RD is None else hidden_RD[places],
            )

    def recording(self, names: Sequence[str]) -> AbstractContextManager[Mapping[str, Tensor]]:
        return recording(self._model, names)

    def features(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
        with self.recording(names) as seen:
            self.logits(inputs)
        return seen

    def fingerprint(self) -> str:
        """Return xxh3-128 over the name, dtype, shape and bytes of every parameter, in order; of packed weights also over what
        unpacks them. It is the same however the model is spread."""
        return self._fingerprint("")

    def _fingerprint(self, also: str) -> str:
        digest = xxhash.xxh3_128(also.encode())
        if self._packed is not None:
            return self._packed if not also else xxhash.xxh3_128_hexdigest(f"{also}\0{self._packed}".encode())
        for name, value in named_weights(self._model):
            for part, plain in plain_tensors(name, value.detach()):
                _digest(digest, part, plain)
        for name, value in named_scales(self._model):
            if isinstance(value, Tensor):
                _digest(digest, name, value)
            else:
                digest.update(f"{name} {value}".encode())
        return digest.hexdigest()

    def close(self) -> None:
        if (ranks := getattr(self._model, "ranks", None)) is not None:
            ranks.close()


def _digest(digest: Any, name: str, value: Tensor) -> None:
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
