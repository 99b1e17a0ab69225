"""Make a cache from other caches, without a teacher: the code that `recode` and `merge` share.

target -> fit on rows of the sources -> cache.json and shared files -> part by part
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np

from logitstore.convert.row_source import RowSource, batches
from logitstore.convert.rows import Recoder
from logitstore.core.order import spread
from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step
from logitstore.dump.begin import Fit, existing_manifest
from logitstore.dump.fit import fitted, listed_by
from logitstore.dump.parts import ANSWERS, finished, missing_work
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.format.manifest import Manifest
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.store.cache import Cache
from logitstore.store.layout import part_name
from logitstore.store.part import PartsPlan, check_seals, read_record, read_shared
from logitstore.store.staged.others import tell_of_others
from logitstore.store.storage import Far, Storage, open_storage
from logitstore.store.writer import PartTaken, PartWriter


def check_whole(
    caches: Sequence[Cache], taps: Collection[str], out: Storage, wanted: Manifest, progress: Progress
) -> None:
    """Compare every file of some caches with its seal, before another cache is made of them, unless that one is there already.

    A wrong byte would be right by the seals of that one, so `verify` could not find it any more. Files of a cache in an object
    store are compared when they are fetched.

    Args:
        caches: those that are read.
        taps: the names of those that are read of them.
        out: the storage of the cache to be.
        wanted: the plan of that cache.
        progress: receives the steps.

    Raises:
        CacheMismatch: another cache is there.
        CacheDamaged: a file is missing, or is not what its seal says.
        StorageError: the system refuses to read one.
    """
    is_begun = existing_manifest(out, wanted) is not None
    if is_begun and not missing_work(out, caches[0].part_numbers, [ANSWERS, *taps]):
        return
    parts: list[tuple[Storage, PartsPlan, int]] = []
    for cache in (cache for cache in caches if not isinstance(cache.storage, Far)):
        check_seals(cache.storage, "", cache.manifest.shared)
        parts += [(cache.storage, cache.manifest, number) for number in cache.part_numbers]
        for tap in (cache.taps[name] for name in taps):
            check_seals(tap.storage, "", tap.info.shared)
            parts += [(tap.storage, tap.plan, number) for number in tap.part_numbers]
    for done, (storage, plan, number) in enumerate(parts, 1):
        check_seals(storage, f"{part_name(number)}/", read_record(storage, plan, number).files)
        progress(Step(stage="check", done=done, total=len(parts), part=number))


def shared_files(source: Cache) -> dict[str, bytes]:
    """Return the contents of a cache's shared files by path, but for the tail's. Raises CacheDamaged: see `read_shared`."""
    tail = source.manifest.tail.file
    return read_shared(source.storage, {name: seal for name, seal in source.manifest.shared.items() if name != tail})


def fit_on(
    distributions: RowSource,
    source: Cache,
    row: RowInfo,
    pilot_rows: int,
    progress: Progress,
    head: LinearHead | None = None,
) -> Fit:
    """Fit the shared part of the tails, such as a prior or a sketch.

    Args:
        distributions: gives the distributions of the source's rows.
        source: the cache to fit on; evenly spread samples of it are used.
        row: the description of a row of the new cache.
        pilot_rows: the approximate count of rows to fit on.
        progress: receives the steps.
        head: the head of the teacher; needed for a sketch.
    """
    pilot, sparsifier = TailPilot(row.vocabulary, head), sparsifier_of(row)
    chosen_M = np.array(spread(len(source), source.rows, pilot_rows))
    parts_M, indices_M = source.places(chosen_M)
    total = max(round(len(chosen_M) * source.rows / len(source)), 1)
    for number in np.unique(parts_M).tolist():
        part, indices = source.part(number), indices_M[parts_M == number].tolist()
        for batch in batches([part.samples.sample(index) for index in indices], indices, row.vocabulary):
            chunks, _ = distributions(part, batch)
            for chunk in chunks:
                pilot.add(chunk.logits(), listed_by(sparsifier, chunk, row.vocabulary), chunk.hidden_nD)
            progress(Step(stage="pilot", done=min(pilot.rows, total), total=total))
    return fitted(pilot, row), pilot.rows


def write_parts(
    out: Place, manifest: Manifest, source: Cache, recoder: Recoder, stage: str, progress: Progress
) -> Cache:
    """Write the missing parts, with the same numbers and samples as the parts of the source. Return the new cache.

    Raises:
        CacheMismatch, CacheDamaged: existing parts belong to another plan or are not whole.
        StorageError: the disk is full or the folder cannot be written; committed parts stay.
    """
    storage = open_storage(out)
    done = set(storage.list_parts())
    counts = zip(source.part_numbers, source.index.facts()["rows"].tolist(), strict=True)
    rows = {number: count for number, count in counts if number not in done}
    tell_of_others([storage], rows, progress)
    total, written = sum(rows.values()), 0

    def report_rows(count: int) -> None:
        nonlocal written
        written += count
        progress(Step(stage=stage, done=written, total=total, part=number))

    for number in rows:
        part = source.part(number)
        samples = [part.samples.sample(index) for index in range(len(part.samples))]
        with suppress(PartTaken), PartWriter(storage, manifest, number, samples) as writer:
            recoder.write(part, samples, writer, report_rows)
    return finished(out)
