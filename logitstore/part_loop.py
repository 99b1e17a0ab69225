"""Part after part: the teacher answers here, encoding and writing happen on the thread behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from logitstore.behind import Behind
from logitstore.cache.staged_part import PartTaken
from logitstore.score import Answers, TeacherBatch
from logitstore.stopwatch import OFF, Stopwatch
from logitstore.types import Array

QUEUE_DEPTH = 4


class PartOut(Protocol):
    """One part of something that is being written, staged; a context that drops what was not committed."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> None: ...

    def store(self, batch: TeacherBatch, kept: dict[str, Array]) -> None:
        """Encode and write the rows of a batch."""
        ...

    def commit(self) -> None:
        """Make the part visible."""
        ...


def write_part(
    begin: Mapping[str, Callable[[], PartOut]],
    ask: Callable[[list[str]], Answers],
    told: Callable[[int], None],
    watch: Stopwatch = OFF,
) -> None:
    """Write one part of one or several things from the same answers; what another process was first with is left to it.

    Args:
        begin: stage the part, one each, by name.
        ask: gives the teacher's answers for the things named, those that were begun.
        told: is given the count of rows of every batch.
        watch: times the stages.
    """
    with ExitStack() as stack:
        begun: dict[str, PartOut] = {}
        for name, make in begin.items():
            with suppress(PartTaken):
                begun[name] = stack.enter_context(make())
        if not begun:
            return
        outs = list(begun.values())
        with Behind(QUEUE_DEPTH) as behind:
            for batch, kept in ask(list(begun)):
                with watch("wait for the writer"):
                    behind.submit(_store, outs, batch, kept, watch)
                told(len(batch.rows_N))
            behind.submit(_commit, outs, watch)


def _store(outs: list[PartOut], batch: TeacherBatch, kept: Callable[[], dict[str, Array]], watch: Stopwatch) -> None:
    with watch("copy to the host"):
        values = kept()
    for out in outs:
        out.store(batch, values)


def _commit(outs: list[PartOut], watch: Stopwatch) -> None:
    with watch("commit"):
        for out in outs:
            out.commit()
