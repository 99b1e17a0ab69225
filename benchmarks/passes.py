"""Run a teacher over the same samples in several ways: alone, with what is kept of its answers, and as a whole dump."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.dump.ask import ask_rows
from logitstore.dump.parts import ANSWERS, PartsWriter
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.task import Prepared
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.format.manifest import Manifest
from logitstore.store import layout
from logitstore.store.storage import open_storage
from logitstore.targets.shared import load_shared


@dataclass
class Passes:
    """Ways over the samples of the first part of a cache, which has its shared files but no parts.

    Attributes:
        folder: of the cache.
        prepared: how samples become batches.
        teacher: answers about them.
        manifest: of the cache.
        asked: the samples.
    """

    folder: Path
    prepared: Prepared
    teacher: ModelTeacher
    manifest: Manifest
    asked: list[Any]
    _writers: dict[int, PartsWriter] = field(default_factory=dict, init=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(sample.rows for sample in self.asked)

    def forward(self) -> None:
        """Run the forward pass alone; it makes all logits, which every way needs."""
        for batch in self.prepared.batches(self.asked):
            self.teacher.logits(batch.inputs)

    def selected(self) -> None:
        """Select and sketch too, and leave the results on the device."""
        reduce = self.reducer()
        for _ in ask_rows(self.teacher, reduce, self.prepared.batches(self.asked)):
            pass

    def written(self) -> None:
        """Encode and write too, without the comparison of rows."""
        self.write(self.writer(0))

    def writer(self, fidelity_rows: int, watch: Stopwatch = NO_STOPWATCH) -> PartsWriter:
        """Return what writes parts; a dump opens it once for all of them."""
        if watch is NO_STOPWATCH and fidelity_rows in self._writers:
            return self._writers[fidelity_rows]
        manifest = self.manifest.model_copy(update={"fidelity_rows": fidelity_rows})
        made = PartsWriter(open_storage(self.folder), manifest, self.prepared, self.teacher, watch=watch)
        if watch is NO_STOPWATCH:
            self._writers[fidelity_rows] = made
        return made

    def write(self, writer: PartsWriter) -> None:
        """Write the part, and remove it."""
        writer.write(0, [ANSWERS])
        shutil.rmtree(layout.part_folder(self.folder, 0))

    def reducer(self) -> RowReducer:
        """Return what reduces the teacher's answers to rows."""
        return RowReducer.of(self.manifest.row, load_shared(open_storage(self.folder), self.manifest), None)
