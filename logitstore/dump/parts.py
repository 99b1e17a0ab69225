"""Part jobs: the teacher answers about the samples of a part here; encoding and writing happen on the thread behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch

from logitstore.core.background import BackgroundThread
from logitstore.core.progress import NO_STOPWATCH, Progress, Step, Stopwatch
from logitstore.core.types import Array, Asked
from logitstore.dump.ask import Answers, TeacherBatch, ask_features, ask_rows
from logitstore.dump.sparsify.fidelity import FidelityCheck
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.taps import TapOut, encoders
from logitstore.dump.task import Prepared
from logitstore.dump.teachers.teacher import Teacher
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import FACTS
from logitstore.store.taps import Tap
from logitstore.store.writer import PartTaken, PartWriter
from logitstore.targets.decoder import Decoder
from logitstore.targets.rows import split
from logitstore.targets.shared import load_shared

ANSWERS = "answers"
"""What a part of the cache itself is called beside those of its taps."""


def write_parts(
    root: Path,
    manifest: Manifest,
    prepared: Prepared,
    todo: list[int],
    teacher: Teacher,
    progress: Progress,
    watch: Stopwatch = NO_STOPWATCH,
    taps: Sequence[tuple[Tap, list[int]]] = (),
) -> None:
    """Write the parts in `todo`, and of each tap the parts beside it; the teacher is asked once about each part."""
    samples = prepared.samples
    shared = load_shared(root, manifest)
    decoder = Decoder(manifest.row, shared)
    check = FidelityCheck(decoder, manifest.fidelity_rows / manifest.rows)
    keep = RowReducer.of(manifest.row, shared, check, watch)
    if watch is not NO_STOPWATCH and teacher.device.type == "cuda":
        watch.settle = partial(torch.cuda.synchronize, teacher.device)
    spans = {part: manifest.span(part) for part in sorted({*todo, *chain(*(own for _, own in taps))})}
    total = sum(int(samples.rows_S[span].sum()) for span in spans.values())
    size = f"{manifest.bytes_per_row + sum(tap.info.bytes_per_row for tap, _ in taps)} B/row"
    done = 0

    def told(rows: int) -> None:
        nonlocal done
        done += rows
        progress(Step(stage="dump", done=done, total=total, part=part, note=size))

    for part, span in spans.items():
        asked = samples[span]
        mine = {tap.name: tap for tap, own in taps if part in own}
        begin: dict[str, Callable[[], PartOut]] = {}
        if part in todo:
            begin[ANSWERS] = partial(AnswerOut, root, manifest, part, asked, decoder.codec, check, watch)
        begin |= {name: partial(TapOut, root, tap, part, asked, watch) for name, tap in mine.items()}

        def ask(names: list[str], asked: list[Any] = asked, mine: dict[str, Tap] = mine) -> Answers:
            kept = encoders(mine[name] for name in names if name != ANSWERS)
            if ANSWERS not in names:
                return ask_features(teacher, prepared.batches(asked), kept, watch)
            return ask_rows(teacher, keep, prepared.batches(asked), manifest.tail.needs_hidden, watch, kept)

        write_part(begin, ask, told, watch)


class AnswerOut:
    """One part of the cache being written: takes what was kept of the teacher's answers, encodes it, commits it."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        part: int,
        samples: list[Asked],
        codec: RowCodec,
        check: FidelityCheck,
        watch: Stopwatch,
    ) -> None:
        """Raises PartTaken, StorageError: see `PartWriter`."""
        self._writer = PartWriter(root, manifest, part, samples)
        self._codec, self._check, self._watch = codec, check, watch

    def __enter__(self) -> AnswerOut:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)

    def store(self, batch: TeacherBatch, kept: dict[str, Array]) -> None:
        """Encode, and hand each sample's rows to the part."""
        with self._watch("encode"):
            encoded = self._codec.encode(kept)
        with self._watch("write"):
            facts = dict(split(batch, {name: kept[name] for name in FACTS if name in kept}))
            asked = dict(zip(batch.indices, batch.samples, strict=True))
            for index, answer in split(batch, encoded):
                self._writer.write(index, answer, facts[index], asked[index])

    def commit(self) -> None:
        """Make the part visible, with what was measured on it."""
        self._writer.commit(self._check.take())


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
    watch: Stopwatch = NO_STOPWATCH,
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
        with BackgroundThread(QUEUE_DEPTH) as behind:
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
