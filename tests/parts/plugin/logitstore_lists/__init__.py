"""A teacher of lists in a package of its own, as any user may write one for a server: `--teacher lists:FOLDER`.

It stands for a server that answers with the most probable tokens and the logprob of the token that follows, and nothing more.
Behind it is a model, which nobody asks for anything else.

Axes: B texts, T tokens, N rows, K listed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

from logitstore.dump.teachers import causal_lm
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.format.needs import ITS_LOGITS, TOP_LOGPROBS, Gives, Wants
from logitstore.targets.rows import RowChunk, TopLogprobs

LISTED = 12
"""Entries of each list, as a server limits them."""


class ListTeacher(Teacher):
    """Answers with lists."""

    gives: ClassVar[Gives] = frozenset({TOP_LOGPROBS})

    def __init__(self, folder: str, dtype: str, device: str) -> None:
        """Load the model that the server would load."""
        self._server = causal_lm.source(folder).load(dtype, device)
        self._folder = folder
        self.device = self._server.device

    @property
    def name(self) -> str:
        return f"lists:{self._folder}"

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        vocabulary = len(causal_lm.source(self._folder).tokenizer())
        for chunk in self._server.rows(batch, ITS_LOGITS):
            logprobs_nV = chunk.logits()[:, :vocabulary].float().log_softmax(-1)
            listed = logprobs_nV.topk(LISTED)
            top = TopLogprobs(
                ids_nK=listed.indices,
                logprobs_nK=listed.values,
                gold_logprob_n=logprobs_nV.gather(1, chunk.gold_n[:, None]).squeeze(1),
            )
            yield RowChunk(span=chunk.span, gold_n=chunk.gold_n, top=top)

    def fingerprint(self) -> str:
        return self._server.fingerprint()


def source(folder: str) -> TeacherSource:
    """Return what is known of the teacher before it is asked."""
    return replace(
        causal_lm.source(folder),
        name=f"lists:{folder}",
        gives=ListTeacher.gives,
        load=partial(ListTeacher, folder),
    )
