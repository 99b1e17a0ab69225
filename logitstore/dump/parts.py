"""Write parts: the teacher answers about the samples of a part here; encoding and writing happen on the thread behind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Protocol

import torch

from logitstore.core.background import BackgroundThread
from logitstore.core.place import Place
from logitstore.core.progress import NO_STOPWATCH, Progress, Step, Stopwatch
from logitstore.core.types import Array, Asked
from logitstore.dump.ask import Answers, ask_features, ask_rows
from logitstore.dump.sparsify.fidelity import FidelityCheck
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.taps import TapOut, encoders
from logitstore.dump.task import Prepared
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import storage_errors
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import FACTS
from logitstore.format.tap import tap_folder
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.part import OpenFiles, read_record
from logitstore.store.storage import Storage, is_committed
from logitstore.store.taps import Tap, tap_folders
from logitstore.store.writer import PartTaken, PartWriter
from logitstore.targets.decoder import Decoder
from logitstore.targets.rows import split
from logitstore.targets.shared import load_shared

ANSWERS = "answers"
"""The name of a part of the cache itself, beside the names of its taps."""

QUEUE_DEPTH = 4


def report_nothing(rows: int) -> None:
    """Take the count of rows of a batch, for callers that do not report."""


Work = Mapping[int, Collection[str]]
"""What is to be written: for each part, `ANSWERS` and the names of taps."""


def missing_work(storage: Storage, parts: Iterable[int], names: Iterable[str]) -> dict[int, list[str]]:
    """Return what is not committed yet of some parts of a cache.

    Args:
        storage: that of the cache.
        parts: numbers of the parts.
        names: `ANSWERS` and the names of taps; a tap that was not begun lacks all parts.
    """
    begun, asked = {ANSWERS, *tap_folders(storage)}, list(parts)
    there = {name: _committed(storage, name, asked) if name in begun else set() for name in names}
    missing = {part: [name for name, done in there.items() if part not in done] for part in asked}
    return {part: names for part, names in missing.items() if names}


FEW = 64
"""So many parts are looked for one by one; for more, all that there are are listed."""


def _committed(storage: Storage, name: str, parts: Collection[int]) -> set[int]:
    """Return those of some parts that are committed, of the cache itself or of a tap."""
    of = storage if name == ANSWERS else storage.within(tap_folder(name))
    return {part for part in parts if is_committed(of, part)} if len(parts) < FEW else set(of.list_parts())


class PartsWriter:
    """Everything that is open while parts are written: the teacher, what becomes of its answers, and the taps.

    Args:
        storage: that of the cache.
        manifest: that of the cache, which is begun.
        prepared: the samples, and how they become batches.
        teacher: the teacher, loaded.
        taps: the taps that are written beside the parts; they are begun.
        watch: times the stages.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        prepared: Prepared,
        teacher: Teacher,
        taps: Sequence[Tap] = (),
        watch: Stopwatch = NO_STOPWATCH,
    ) -> None:
        self._storage, self.manifest, self._prepared = storage, manifest, prepared
        self._teacher, self._watch = teacher, watch
        self._taps = {tap.name: tap for tap in taps}
        shared = load_shared(storage, manifest)
        decoder = Decoder(manifest.row, shared)
        self._codec = decoder.codec
        self._check = FidelityCheck(decoder, manifest.fidelity_rows / manifest.rows)
        self._reduce = RowReducer.of(manifest.row, shared, self._check, watch, teacher.gives)
        if watch is not NO_STOPWATCH and teacher.device.type == "cuda":
            watch.settle = partial(torch.cuda.synchronize, teacher.device)

    def close(self) -> None:
        """Give back what the teacher holds besides memory."""
        self._teacher.close()

    def rows_in(self, part: int) -> int:
        """Return how many rows a part has."""
        return self._prepared.samples.rows_in(self.manifest.span(part))

    def bytes_per_row(self, names: Iterable[str]) -> int:
        """Return the bytes that a row of the things named takes."""
        return sum(
            self.manifest.bytes_per_row if name == ANSWERS else self._taps[name].info.bytes_per_row for name in names
        )

    def write(self, part: int, names: Collection[str], report_rows: Callable[[int], None] = report_nothing) -> None:
        """Write the things named for one part, all from the same answers. What another process wrote first is left to it.

        Args:
            part: number of the part.
            names: `ANSWERS` and the names of taps.
            report_rows: is given the count of rows of every batch.

        Raises:
            ModelError: the teacher gives NaN.
            StorageError: the disk is full or the folder cannot be written; nothing of the part is visible then.
        """
        if ANSWERS in names and self._prepared.undecided is not None:
            # the answers may choose other rows than those that were there when a tap was written
            names = [ANSWERS, *self._taps]
            self._drop_taps(part)
        asked = self._prepared.samples[self.manifest.span(part)]
        begin = {name: partial(self._begin, name, part, asked) for name in names}
        write_part(begin, lambda begun: self._answers(begun, part, asked), report_rows, self._watch)

    def _drop_taps(self, part: int) -> None:
        """Remove a part of every tap, unless the cache has the part whose rows it is about."""
        with storage_errors(self._storage):
            if not is_committed(self._storage, part):
                for name in tap_folders(self._storage):
                    self._storage.remove(f"{tap_folder(name)}/{layout.part_name(part)}")

    def _begin(self, name: str, part: int, asked: list[Asked]) -> PartOut:
        """Stage a part of the cache itself or of a tap. Raises PartTaken if another process was first."""
        if name == ANSWERS:
            chooses = self._prepared.undecided is not None
            return AnswerOut(
                self._storage, self.manifest, part, asked, self._codec, self._check, self._watch, chooses=chooses
            )
        return TapOut(self._taps[name], part, asked, self._watch)

    def _answers(self, names: Collection[str], part: int, asked: list[Asked]) -> Answers:
        """Ask the teacher about the samples of a part; without `ANSWERS` for features alone."""
        taps = encoders(self._taps[name] for name in names if name != ANSWERS)
        if ANSWERS not in names and self._prepared.undecided is not None:
            # the part is there, with the rows that its answers chose
            samples = OpenFiles(self._storage, self.manifest).samples(part)
            asked = [samples.sample(index) for index in range(len(samples))]
        batches = self._prepared.batches(asked)
        if ANSWERS not in names:
            return ask_features(self._teacher, batches, taps, self.manifest.teacher.vocabulary, self._watch)
        return ask_rows(self._teacher, self._reduce, batches, self._watch, taps)


def write_parts(writer: PartsWriter, work: Work, stage: str, progress: Progress) -> None:
    """Write parts one after the other, and report on it.

    Raises:
        ModelError, StorageError: see `PartsWriter.write`; what is committed stays.
    """
    total = sum(writer.rows_in(part) for part in work)
    size = f"{writer.bytes_per_row({name for names in work.values() for name in names})} B/row"
    done = 0

    def report_rows(rows: int) -> None:
        nonlocal done
        done += rows
        progress(Step(stage=stage, done=done, total=total, part=part, note=size))

    for part, names in work.items():
        writer.write(part, names, report_rows)


def write_part(
    begin: Mapping[str, Callable[[], PartOut]],
    ask: Callable[[list[str]], Answers],
    report_rows: Callable[[int], None],
    watch: Stopwatch = NO_STOPWATCH,
) -> None:
    """Write one part of one or several things from the same answers. What another process wrote first is left to it.

    Args:
        begin: stage the part, one each, by name.
        ask: gives the teacher's answers for the things named, those that were begun.
        report_rows: is given the count of rows of every batch.
        watch: times the stages.
    """
    with ExitStack() as stack:
        begun: dict[str, PartOut] = {}
        for name, stage in begin.items():
            with suppress(PartTaken):
                begun[name] = stack.enter_context(stage())
        if not begun:
            return
        outs = list(begun.values())
        with BackgroundThread(QUEUE_DEPTH) as thread:
            for batch, kept in ask(list(begun)):
                with watch("wait for the writer"):
                    thread.submit(_store, outs, batch, kept, watch)
                report_rows(len(batch.rows_N))
            thread.submit(_commit, outs, watch)


def finished(place: Place, parts: Collection[int] | None = None) -> Cache:
    """Return the cache. If it is complete, what was left by killed writers is swept away, and an index is made for readers.

    Args:
        place: where the cache lies.
        parts: the parts that were to be written: of a cache that lacks others, the sizes of their files alone are looked at, so
            that many processes with few parts each do not look at all parts each.

    Raises:
        CacheDamaged, CacheMismatch: parts that belong to another plan, or are not whole.
    """
    cache = Cache(place)
    cache.check_sizes(None if cache.complete else parts)
    if cache.complete:
        cache.index.make()
        with storage_errors(place):
            cache.storage.sweep()
    return cache


class PartOut(Protocol):
    """One part that is being written, staged; a context that drops what was not committed."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> None: ...

    def store(self, batch: TeacherBatch, kept: dict[str, Array]) -> None:
        """Encode and write the rows of a batch."""
        ...

    def commit(self) -> bool:
        """Make the part visible. Return False where another writer was first, and its rows may be at other positions."""
        ...


class AnswerOut:
    """One part of the cache that is being written: takes what was kept of the teacher's answers, encodes and commits it."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        part: int,
        samples: list[Asked],
        codec: RowCodec,
        check: FidelityCheck,
        watch: Stopwatch,
        *,
        chooses: bool = False,
    ) -> None:
        """Stage the part; `chooses` if the answers decide which rows it has.

        Raises PartTaken, StorageError: see `PartWriter`.
        """
        self._writer = PartWriter(storage, manifest, part, samples)
        self._codec, self._check, self._watch = codec, check, watch
        self._read_again = partial(read_record, storage, manifest, part) if chooses else None

    def __enter__(self) -> AnswerOut:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)

    def store(self, batch: TeacherBatch, kept: dict[str, Array]) -> None:
        """Encode the rows of a batch, and hand each sample's rows to the part."""
        with self._watch("encode"):
            encoded = self._codec.encode(kept)
        with self._watch("write"):
            facts = dict(split(batch, {name: kept[name] for name in FACTS if name in kept}))
            asked = dict(zip(batch.indices, batch.samples, strict=True))
            for index, answer in split(batch, encoded):
                self._writer.write(index, answer, facts[index], asked[index])

    def commit(self) -> bool:
        """Make the part visible, with what was measured on its rows; see `PartOut`."""
        record = self._writer.commit(self._check.take())
        there = record if self._read_again is None else self._read_again()
        return there.files[layout.SAMPLES_FILE] == record.files[layout.SAMPLES_FILE]


def _store(outs: list[PartOut], batch: TeacherBatch, kept: Callable[[], dict[str, Array]], watch: Stopwatch) -> None:
    with watch("copy to the host"):
        values = kept()
    for out in outs:
        out.store(batch, values)


def _commit(outs: list[PartOut], watch: Stopwatch) -> None:
    with watch("commit"):
        for out in outs:
            # features of other rows than those that are there belong to nobody
            if not out.commit():
                return
