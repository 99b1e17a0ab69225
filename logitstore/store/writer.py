"""Writing one part: its rows staged in a folder nobody reads, checksummed, made visible by one rename."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from logitstore.core.place import below
from logitstore.core.types import Answer, Array, Asked
from logitstore.errors import storage_errors
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import HISTOGRAM_BINS, RECORD_NAME, SOURCE, Fidelity, PartRecord, Sums, with_sample
from logitstore.format.sealed import seal, seal_of
from logitstore.store import layout
from logitstore.store.local_disk import write_whole
from logitstore.store.part import PartsPlan, read_record
from logitstore.store.samples import stored_samples
from logitstore.store.staged.rows_writer import RowsWriter, open_writer
from logitstore.store.storage import Storage, is_committed

NO_NLL = -np.nan
"""The nll of a sample that knows none. All of them have the same bits: the sign of a NaN that is computed is the machine's."""


class PartWriter:
    """Receives the answers about the samples of one part, in any order, and commits them together.

    Use it as a context: leaving it without `commit` drops the staged files.
    """

    def __init__(self, storage: Storage, manifest: Manifest, part: int, samples: Sequence[Asked]) -> None:
        """Stage part number `part`.

        Raises:
            StorageError: the folder cannot be written.
            PartTaken: another writer was first.
        """
        self._manifest, self._samples = manifest, list(samples)
        self._nll_S = np.zeros(len(samples), np.float32)
        self._sums = Sums(entropy_histogram=[0] * HISTOGRAM_BINS)
        self._chosen = np.zeros(len(manifest.merged_from or ()) if manifest.chosen_by else 0, np.int64)
        self._staged = StagedPart(storage, manifest, part, samples)

    @property
    def rows(self) -> int:
        """Rows of the part."""
        return self._staged.rows

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._staged.__exit__(kind, error, trace)

    def write(self, index: int, answer: Answer, facts: Answer | None = None, asked: Asked | None = None) -> None:
        """Store the teacher's answer about sample number `index` of this part.

        Args:
            index: index of the sample in the part.
            answer: the fields in their stored form.
            facts: the teacher's values that are counted (`FACTS` of `logitstore.format.part_record`); where rows are chosen
                among caches, `SOURCE` too: the number of the cache of each. None if `commit` gets the sums and `answer` holds
                the logprobs of the gold tokens.
            asked: the sample, if it has more content now than when the part was begun, such as checksums of a view.
        """
        if asked is not None:
            self._samples[index] = asked
        self._staged.write(index, answer.fields)
        # rounded as in stored rows, so that the score of a sample does not depend on the fields that are stored
        scored = answer if facts is None or "gold_logprob" in answer.fields else facts
        if (known_N := scored.fields.get("gold_logprob")) is None:
            self._nll_S[index] = NO_NLL  # a row that is no distribution
        else:
            gold_N = known_N.astype(np.float16).astype(np.float64)
            nll = -gold_N.mean() if len(gold_N) else 0.0
            self._nll_S[index] = NO_NLL if np.isnan(nll) else nll
        if facts is not None:
            self._sums = with_sample(self._sums, self._samples[index], facts, self._manifest.teacher.vocabulary)
            if SOURCE in facts.fields:
                self._chosen += np.bincount(facts[SOURCE], minlength=len(self._chosen))

    def commit(self, fidelity: Fidelity, sums: Sums | None = None, chosen: Sequence[int] | None = None) -> PartRecord:
        """Make the part visible.

        Args:
            fidelity: the fidelity that was measured on its rows.
            sums: replaces the sums that `write` added up.
            chosen: how many rows come from each of the caches that rows were chosen among, where `write` was not told.

        Raises:
            StorageError: the folder cannot be written; the part is not visible then.
        """
        counted = self._chosen.tolist() if self._chosen.any() else chosen
        own = list(counted) if counted and self._manifest.chosen_by is not None else None
        return self._staged.commit(sums or self._sums, fidelity, self._write_samples, own)

    def _write_samples(self, folder: Path) -> None:
        stored_samples(self._manifest).write(folder / layout.SAMPLES_FILE, self._manifest, self._samples, self._nll_S)


class PartTaken(Exception):
    """Another writer has committed this part."""


class StagedPart:
    """Receives the stored rows of the samples of one part, in any order, and commits them together.

    Use it as a context: leaving it without `commit` drops the staged files.
    """

    def __init__(
        self,
        storage: Storage,
        plan: PartsPlan,
        part: int,
        samples: Sequence[Asked],
        counts_S: Sequence[int] | None = None,
    ) -> None:
        """Stage part number `part` of a cache or of a tap, in a folder that no reader looks into.

        Args:
            storage: that of the cache or of the tap.
            plan: that of the cache or of the tap.
            part: its number.
            samples: the samples.
            counts_S: how many rows are stored of each; None for those that the sample has.

        Raises:
            StorageError: the folder cannot be written.
            PartTaken: another writer was first.
        """
        self._storage, self._plan, self._part, self._samples = storage, plan, part, samples
        # an interrupt may drop the part on one thread while another still writes or commits it
        self._lock = threading.RLock()
        counts = np.array([sample.rows for sample in samples] if counts_S is None else counts_S, np.int64)
        self._row_start_S = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._done_S = np.zeros(len(samples), np.bool_)
        self.rows = int(counts.sum())
        self._rows_writer: RowsWriter | None = None
        with storage_errors(storage):
            if is_committed(storage, part):
                raise PartTaken(part)
            self._folder = storage.stage(part)
            try:
                self._rows_writer = open_writer(self._folder / layout.ROWS_FOLDER, plan.fields, self.rows, plan.layout)
            except BaseException:
                self._drop()
                raise

    def __enter__(self) -> StagedPart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def write(self, index: int, fields: dict[str, Array]) -> None:
        """Store the rows of sample number `index` of this part, as they are to be stored."""
        with self._lock, storage_errors(self._storage):
            if self._rows_writer is None:
                raise RuntimeError("this part is closed")
            self._rows_writer.write(int(self._row_start_S[index]), fields)
            self._done_S[index] = True

    def commit(
        self,
        sums: Sums | None = None,
        fidelity: Fidelity | None = None,
        beside: Callable[[Path], None] | None = None,
        chosen: list[int] | None = None,
    ) -> PartRecord:
        """Make the part visible.

        Args:
            sums: the sums over its rows.
            fidelity: the fidelity that was measured on its rows.
            beside: writes the other files of the part into the folder that it gets.
            chosen: how many rows were taken from each of several caches.

        Raises:
            StorageError: the folder cannot be written; the part is not visible then.
        """
        with self._lock:
            if self._rows_writer is None or not self._done_S.all():
                raise RuntimeError(f"part {self._part} is not complete")
            try:
                with storage_errors(self._storage):
                    if beside is not None:
                        beside(self._folder)
                    self._rows_writer.finish()
                    self._rows_writer = None
                    return self._commit(sums or Sums(), fidelity or Fidelity(), chosen)
            except FileNotFoundError:
                # another writer of this part was first, and cleared away what was staged beside it
                if is_committed(self._storage, self._part):
                    return read_record(self._storage, self._plan, self._part)
                raise

    def _commit(self, sums: Sums, fidelity: Fidelity, chosen: list[int] | None) -> PartRecord:
        record = PartRecord(
            plan=self._plan.identity,
            part=self._part,
            samples=len(self._samples),
            rows=self.rows,
            tokens=sum(sample.length for sample in self._samples),
            sums=sums,
            fidelity=fidelity,
            chosen=chosen,
            files={
                path.relative_to(self._folder).as_posix(): seal_of(path)
                for path in below(self._folder)
                if path.is_file()
            },
        )
        write_whole(self._folder / RECORD_NAME, seal(record))
        self._storage.commit(self._part, self._folder)
        return record

    def _drop(self) -> None:
        with self._lock:
            if self._rows_writer is not None:
                self._rows_writer.close()
                self._rows_writer = None
            self._storage.drop(self._folder)
