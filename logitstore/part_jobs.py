"""Part jobs: the teacher is asked about the samples of a part, and what it says is encoded, written and committed behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from logitstore.cache.part_sums import FACTS
from logitstore.cache.part_writer import PartWriter
from logitstore.cache.taps import Tap
from logitstore.codecs.answer import AnswerCodec
from logitstore.decode import Decoder, load_shared
from logitstore.draft import Draft
from logitstore.fidelity import FidelityCheck
from logitstore.keep import Keep
from logitstore.manifest import Manifest
from logitstore.part_loop import PartOut, write_part
from logitstore.score import Answers, TeacherBatch, observe, score, split
from logitstore.stopwatch import OFF, Stopwatch
from logitstore.tapping import TapOut, encoders
from logitstore.teachers.teacher import Teacher
from logitstore.types import Array, Asked, Progress, Step

ANSWERS = "answers"
"""What a part of the cache itself is called beside those of its taps."""


def write_parts(
    root: Path,
    manifest: Manifest,
    drafted: Draft,
    todo: list[int],
    teacher: Teacher,
    progress: Progress,
    watch: Stopwatch = OFF,
    taps: Sequence[tuple[Tap, list[int]]] = (),
) -> None:
    """Write the parts in `todo`, and of each tap the parts beside it; the teacher is asked once about each part."""
    samples = drafted.samples
    shared = load_shared(root, manifest)
    decoder = Decoder(manifest.row, shared)
    check = FidelityCheck(decoder, manifest.fidelity_rows / manifest.rows)
    keep = Keep.of(manifest.row, shared, check, watch)
    if watch is not OFF and teacher.device.type == "cuda":
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
                return observe(teacher, drafted.batches(asked), kept, watch)
            return score(teacher, keep, drafted.batches(asked), manifest.tail.needs_hidden, watch, kept)

        write_part(begin, ask, told, watch)


class AnswerOut:
    """One part of the cache being written: takes what was kept of the teacher's answers, encodes it, commits it."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        part: int,
        samples: list[Asked],
        codec: AnswerCodec,
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
