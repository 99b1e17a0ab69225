"""Writing one part: staged in a folder nobody reads, checksummed, made visible by one rename."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

from logitstore.cache import layout
from logitstore.cache.part_sums import HISTOGRAM_BINS, with_sample
from logitstore.cache.reader import read_record
from logitstore.cache.rows_writer import RowsWriter, open_writer
from logitstore.cache.samples_file import write_samples
from logitstore.errors import storage_errors
from logitstore.manifest import RECORD_NAME, Fidelity, Manifest, PartRecord, Sums, seal, seal_of
from logitstore.types import Answer, Sample


class PartTaken(Exception):
    """Another writer committed this part, and cleared away what was staged beside it."""


class PartWriter:
    """Receives the answers about the samples of one part, in any order, and commits them together.

    Used as a context: leaving it without `commit` drops what was staged.
    """

    def __init__(self, root: Path, manifest: Manifest, part: int, samples: list[Sample]) -> None:
        """Stage part number `part`.

        Raises:
            StorageError: the folder cannot be written.
            PartTaken: another writer was first.
        """
        self._root, self._manifest, self._part, self._samples = root, manifest, part, samples
        # an interrupt may drop the part on one thread while another still writes or commits it
        self._lock = threading.RLock()
        counts = np.array([sample.rows for sample in samples], np.int64)
        self._row_start_S = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._nll_S = np.zeros(len(samples), np.float32)
        self._sums = Sums(entropy_histogram=[0] * HISTOGRAM_BINS)
        self._done_S = np.zeros(len(samples), np.bool_)
        self.rows = int(counts.sum())
        self._rows_writer: RowsWriter | None = None
        with storage_errors(root):
            self._folder = layout.staging_folder(root, part)
            try:
                self._rows_writer = open_writer(
                    self._folder / layout.ROWS_FOLDER, manifest.fields, self.rows, manifest.codec.layout
                )
            except FileNotFoundError as error:
                self._drop()
                if (layout.part_folder(root, part) / RECORD_NAME).is_file():
                    raise PartTaken(part) from error
                raise
            except BaseException:
                self._drop()
                raise

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def write(self, index: int, answer: Answer, facts: Answer | None = None) -> None:
        """Store what the teacher said about sample number `index` of this part.

        Args:
            answer: the fields as stored.
            facts: what is counted about the rows (`part_sums.FACTS`), as the teacher said it; None where `commit` is
                given the sums, and the fields have the gold tokens' logprobs.
        """
        with self._lock, storage_errors(self._root):
            if self._rows_writer is None:
                raise RuntimeError("this part is closed")
            self._rows_writer.write(int(self._row_start_S[index]), answer.fields)
        # rounded as rows keep it, so a sample has the same score whatever is kept of its rows
        said = answer if facts is None or "gold_logprob" in answer.fields else facts
        gold_N = said["gold_logprob"].astype(np.float16).astype(np.float64)
        self._nll_S[index] = -gold_N.mean() if len(gold_N) else 0.0
        if facts is not None:
            self._sums = with_sample(self._sums, self._samples[index], facts, self._manifest.teacher.vocabulary)
        self._done_S[index] = True

    def commit(self, fidelity: Fidelity, sums: Sums | None = None) -> PartRecord:
        """Make the part visible.

        Args:
            fidelity: what was measured on its rows.
            sums: in place of those that were added up from `write`.

        Raises:
            StorageError: the folder cannot be written; nothing of the part is visible then.
        """
        with self._lock:
            if self._rows_writer is None or not self._done_S.all():
                raise RuntimeError(f"part {self._part} is not complete")
            self._sums = sums or self._sums
            try:
                return self._commit(self._rows_writer, fidelity)
            except FileNotFoundError:
                # another writer of this part was first, and cleared away what was staged beside it
                if (layout.part_folder(self._root, self._part) / RECORD_NAME).is_file():
                    return read_record(self._root, self._manifest, self._part)
                raise

    def _commit(self, rows_writer: RowsWriter, fidelity: Fidelity) -> PartRecord:
        with storage_errors(self._root):
            write_samples(self._folder / layout.SAMPLES_FILE, self._samples, self._nll_S, self._manifest.token_dtype)
            rows_writer.finish()
            self._rows_writer = None
            record = PartRecord(
                plan=self._manifest.identity,
                part=self._part,
                samples=len(self._samples),
                rows=self.rows,
                tokens=sum(len(sample.tokens_T) for sample in self._samples),
                sums=self._sums,
                fidelity=fidelity,
                files={
                    path.relative_to(self._folder).as_posix(): seal_of(path)
                    for path in sorted(self._folder.rglob("*"))
                    if path.is_file()
                },
            )
            layout.write_whole(self._folder / RECORD_NAME, seal(record))
            layout.commit(self._folder, self._root, self._part)
        return record

    def _drop(self) -> None:
        with self._lock:
            if self._rows_writer is not None:
                self._rows_writer.close()
                self._rows_writer = None
            shutil.rmtree(self._folder, ignore_errors=True)
