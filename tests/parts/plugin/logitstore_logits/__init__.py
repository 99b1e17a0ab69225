"""A teacher of another package that gives logits and nothing else: `--teacher logits:FOLDER`.

Behind it is a model, of which nobody sees the output layer or a hidden state.

Axes: B texts, T tokens, N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

from logitstore.dump.teachers import causal_lm
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.format.needs import LOGITS, Gives, Wants
from logitstore.targets.rows import RowChunk


class LogitsTeacher(Teacher):
    """Answers with raw logits."""

    gives: ClassVar[Gives] = frozenset({LOGITS})

    def __init__(self, folder: str, dtype: str, device: str) -> None:
        """Load the model behind it."""
        self._model = causal_lm.source(folder).load(dtype, device)
        self._folder = folder
        self.device = self._model.device

    @property
    def name(self) -> str:
        return f"logits:{self._folder}"

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        if wants.gives != self.gives:
            raise ValueError(f"asked for {sorted(wants.gives)}")
        yield from self._model.rows(batch, wants)

    def fingerprint(self) -> str:
        return self._model.fingerprint()


def source(folder: str) -> TeacherSource:
    """Return what is known of the teacher before it is asked."""
    return replace(
        causal_lm.source(folder),
        name=f"logits:{folder}",
        gives=LogitsTeacher.gives,
        width=None,
        load=partial(LogitsTeacher, folder),
    )
