"""Writing one part: its rows staged in a folder nobody reads, checksummed, made visible by one rename."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from logitstore.cache import layout
from logitstore.cache.part_files import PartsPlan, read_record
from logitstore.cache.rows_writer import RowsWriter, open_writer
from logitstore.errors import storage_errors
from logitstore.manifest import RECORD_NAME, Fidelity, PartRecord, Sums
from logitstore.sealed import seal, seal_of
from logitstore.types import Array, Asked


class PartTaken(Exception):
    """Another writer committed this part, and cleared away what was staged beside it."""


class StagedPart:
    """Receives the stored rows of the samples of one part, in any order, and commits them together.

    Used as a context: leaving it without `commit` drops what was staged.
    """

    def __init__(self, root: Path, plan: PartsPlan, part: int, samples: Sequence[Asked]) -> None:
        """Stage part number `part` below `root`, the folder of a cache or of a tap.

        Raises:
            StorageError: the folder cannot be written.
            PartTaken: another writer was first.
        """
        self._root, self._plan, self._part, self._samples = root, plan, part, samples
        # an interrupt may drop the part on one thread while another still writes or commits it
        self._lock = threading.RLock()
        counts = np.array([sample.rows for sample in samples], np.int64)
        self._row_start_S = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._done_S = np.zeros(len(samples), np.bool_)
        self.rows = int(counts.sum())
        self._rows_writer: RowsWriter | None = None
        with storage_errors(root):
            self._folder = layout.staging_folder(root, part)
            try:
                self._rows_writer = open_writer(self._folder / layout.ROWS_FOLDER, plan.fields, self.rows, plan.layout)
            except FileNotFoundError as error:
                self._drop()
                if (layout.part_folder(root, part) / RECORD_NAME).is_file():
                    raise PartTaken(part) from error
                raise
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
        with self._lock, storage_errors(self._root):
            if self._rows_writer is None:
                raise RuntimeError("this part is closed")
            self._rows_writer.write(int(self._row_start_S[index]), fields)
            self._done_S[index] = True

    def commit(
        self,
        sums: Sums | None = None,
        fidelity: Fidelity | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> PartRecord:
        """Make the part visible.

        Args:
            sums: what was counted about its rows.
            fidelity: what was measured on its rows.
            beside: writes what else belongs into the part's folder.

        Raises:
            StorageError: the folder cannot be written; nothing of the part is visible then.
        """
        with self._lock:
            if self._rows_writer is None or not self._done_S.all():
                raise RuntimeError(f"part {self._part} is not complete")
            try:
                with storage_errors(self._root):
                    if beside is not None:
                        beside(self._folder)
                    self._rows_writer.finish()
                    self._rows_writer = None
                    return self._commit(sums or Sums(), fidelity or Fidelity())
            except FileNotFoundError:
                # another writer of this part was first, and cleared away what was staged beside it
                if (layout.part_folder(self._root, self._part) / RECORD_NAME).is_file():
                    return read_record(self._root, self._plan, self._part)
                raise

    def _commit(self, sums: Sums, fidelity: Fidelity) -> PartRecord:
        record = PartRecord(
            plan=self._plan.identity,
            part=self._part,
            samples=len(self._samples),
            rows=self.rows,
            tokens=sum(sample.length for sample in self._samples),
            sums=sums,
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
