"""Prepare some data: read the files piece by piece, tokenise, keep shards, cut windows. Memory is bounded whatever the data.

At any time there are in memory: a piece of a file, twice as many batches as there are processes, and the arrays of one shard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from logitstore.core.progress import Progress, Step
from logitstore.core.types import Array
from logitstore.dump.files.piece import At, Batch, Values
from logitstore.errors import storage_errors
from logitstore.text.documents import Documents, empty
from logitstore.text.forms.form import Form, Taken
from logitstore.text.prepare import shards
from logitstore.text.prepare.cutting import Cutter
from logitstore.text.prepare.encoded import Job, Rows, schema_of
from logitstore.text.prepare.folder import PREPARED, WINDOWS, Folder, TokensInfo, WindowsInfo, write_sealed
from logitstore.text.prepare.shards import Collector, Made, ShardInfo
from logitstore.text.prepare.workers import Workers

_ROWS, _BYTES = 256, 1 << 22
"""The most documents of a batch, and about the most bytes; a larger document is a batch of its own."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of the data.

    Attributes:
        documents: its documents.
        job: how they become tokens.
        expected: about how many they are; 0 if that is not known.
    """

    documents: Documents
    job: Job
    expected: int = 0

    @property
    def form(self) -> Form:
        return self.documents.form

    def batches(self, first: int, before: int, at: At) -> Iterator[tuple[At, Rows]]:
        """Yield its documents from one on, in batches.

        Args:
            first: number of the document in the source.
            before: count of the documents of the sources before it.
            at: a file of the data that begins at or before its row.
        """
        taken = self.form.taken
        row = first if taken is None else int(taken.rows(first))
        rows = self.documents.rows(row, at)
        for batch in _evenly(rows if taken is None else _chosen(rows, taken)):
            places_D = np.arange(batch.row, batch.row + len(batch))
            numbers_D = places_D if taken is None else taken.rows(places_D)
            yield batch.at, Rows(values=batch.values, documents_D=before + places_D, numbers_D=numbers_D + 1)


def _chosen(batches: Iterator[Batch], taken: Taken) -> Iterator[Batch]:
    """Yield the rows that are documents; the number of a batch's first row is that of the document."""
    for batch in batches:
        places_D = _places(taken, batch.row, batch.row + len(batch))
        rows_D = taken.rows(places_D) - batch.row
        if isinstance(batch.values, dict):
            values: Values = {name: [column[row] for row in rows_D.tolist()] for name, column in batch.values.items()}
        else:
            values = batch.values.take(pa.array(rows_D))
        if len(places_D):
            yield Batch(at=batch.at, row=int(places_D[0]), values=values)


def _places(taken: Taken, start: int, stop: int) -> Array:
    """Return the documents that lie in some rows."""

    def before(row: int) -> int:
        """Return how many documents lie before a row."""
        place = max(0, min(taken.documents, (2 * taken.documents * row) // (2 * taken.count)) - 1)
        while place < taken.documents and taken.rows(place) < row:
            place += 1
        return place

    return np.arange(before(start), before(stop))


def _evenly(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Join small batches and split large ones."""
    small: list[Batch] = []
    for batch in batches:
        most = max(1, min(_ROWS, len(batch) * _BYTES // max(batch.bytes, 1)))
        if len(batch) < most // 2 and not isinstance(batch.values, dict):
            small.append(batch)
            if sum(map(len, small)) >= most:
                yield _joined(small)
                small = []
            continue
        if small:
            yield _joined(small)
            small = []
        for start in range(0, len(batch), most):
            yield batch[start : start + most]
    if small:
        yield _joined(small)


def _joined(batches: list[Batch]) -> Batch:
    return replace(batches[0], values=pa.concat_batches([each.values for each in batches]))


class Preparation:
    """The preparation of some sources in a folder."""

    def __init__(
        self,
        folder: Folder,
        sources: Sequence[Source],
        max_length: int,
        overlap: int,
        workers: int,
        keep_tokens: bool,
        unchanged: Callable[[], None],
    ) -> None:
        """Read nothing yet; `unchanged` raises an error where the data are no longer those that the folder is named by."""
        self._unchanged = unchanged
        self._folder, self._sources = folder, sources
        self._max_length, self._overlap = max_length, overlap
        self._count, self._keeps = workers, keep_tokens

    def run(self, progress: Progress) -> tuple[TokensInfo, WindowsInfo]:
        """Prepare what is missing.

        Raises:
            BadInput: a row that cannot be used, a source without documents, or data that change meanwhile.
            StorageError: the system refuses to write, or a process that tokenises was killed.
        """
        folder = self._folder
        with storage_errors(folder.path), Workers(self._count) as workers, folder.writing_windows() as aside:
            known = folder.tokens_info()
            is_kept = known is not None and known.kept
            cutter = Cutter(self._max_length, self._overlap)
            infos: list[ShardInfo] = []
            have_samples = [False] * len(self._sources)
            made = self._there(known, progress) if known and is_kept else self._shards(workers, progress)
            with (aside / WINDOWS).open("wb") as file:
                for each in made:
                    info = each.info
                    table = cutter.add(each.pairs, self._sources[info.source].form.is_partial)
                    file.write(table.data)
                    have_samples[info.source] |= len(table) > 0
                    infos.append(info)
            if not is_kept:
                known = TokensInfo(identity=folder.path.name, kept=self._keeps, shards=tuple(infos))
            windows = WindowsInfo.of(folder, cutter, sum(each.documents for each in infos), have_samples)
            if known is None:
                raise ValueError("no tokens")
            if not is_kept:
                folder.write_tokens(known)
            write_sealed(aside / PREPARED, windows)
        return known, windows

    def _there(self, known: TokensInfo, progress: Progress) -> Iterator[Made]:
        """Yield the shards that are there."""
        done, total = 0, known.documents
        for number, info in enumerate(known.shards):
            yield Made(info=info, pairs=shards.mapped(self._folder.shard(number)))
            done += info.documents
            progress(Step(stage="windows", done=done, total=total))

    def _shards(self, workers: Workers, progress: Progress) -> Iterator[Made]:
        """Yield all shards; those that a process before this one wrote are taken."""
        number = before = 0
        totals = [source.expected for source in self._sources]
        for place, source in enumerate(self._sources):
            first, at, rows, is_over = 0, At(), 0, False
            while self._keeps and not is_over and (there := shards.read(self._folder.shard(number))) is not None:
                if (there.info.source, there.info.first) != (place, first):
                    break
                yield there
                number += 1
                first += there.info.documents
                at, rows, is_over = there.info.at, there.info.rows, there.info.is_last
            if not is_over:
                rows = rows or (source.documents.all_rows() if source.documents.spec.share is not None else 0)
                source = replace(source, documents=source.documents.counted(rows))
                for made in self._made(source, place, first, before, at, rows, workers, progress, totals):
                    yield self._kept(made, number)
                    number += 1
                    first += made.info.documents
            if not first:
                raise empty(source.documents.spec)
            before, totals[place] = before + first, first
        if not all(source.expected for source in self._sources):
            progress(Step(stage="tokenise", done=before, total=before))

    def _made(
        self,
        source: Source,
        place: int,
        first: int,
        before: int,
        at: At,
        rows: int,
        workers: Workers,
        progress: Progress,
        totals: list[int],
    ) -> Iterator[Made]:
        if source.form.taken is not None:
            totals[place] = source.form.taken.documents
        collector = Collector(place, first, before, rows, schema_of(source.job.is_partial, source.job.said))
        places: deque[At] = deque()

        def given() -> Iterator[Rows]:
            for where, some in source.batches(first, before, at):
                places.append(where)
                yield some

        done = before + first
        for some, encoded in workers.in_order(source.job, given()):
            done += len(some)
            progress(Step(stage="tokenise", done=done, total=max(sum(totals), done) if all(totals) else 0))
            yield from collector.add(places.popleft(), encoded)
        yield collector.finish()

    def _kept(self, made: Made, number: int) -> Made:
        """Write a shard, if it is to be kept, and if what was read of the data for it is what the folder is named by."""
        self._unchanged()
        if not self._keeps:
            return made
        return replace(made, info=shards.write(self._folder.shard(number), made))
