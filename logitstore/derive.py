"""A cache that is made from caches, without a teacher: what `recode` and `merge` share.

target -> fit on rows of the sources -> cache.json and shared files -> part by part
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import Tensor

from logitstore.cache import layout
from logitstore.cache.part_writer import PartWriter
from logitstore.cache.reader import Cache
from logitstore.cache.staged_part import PartTaken
from logitstore.cache.verify import shared_problems
from logitstore.decode import load_shared
from logitstore.distributions import Distributions, batches
from logitstore.draft import spread
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.establish import refuse_other_plan, with_shared, with_views
from logitstore.fields import RowInfo
from logitstore.head import Head
from logitstore.keep import sparsifier_of
from logitstore.manifest import MANIFEST_NAME, Manifest
from logitstore.pilot import fitted, listed_by
from logitstore.recoders import Recoder
from logitstore.sealed import seal, unseal
from logitstore.sparsify.sketch import TailPilot
from logitstore.types import Progress, Step

Fit = tuple[dict[str, Tensor], int]
"""The shared tensors of a tail, and the rows they were fitted on."""


def check_target(out: Path, sources: Sequence[Path]) -> None:
    """Refuse, before any work, a folder that cannot become the cache.

    Raises:
        BadInput: it is one of the sources or lies inside of one, or holds something else.
    """
    for source in sources:
        if out.resolve() == source.resolve():
            raise BadInput(f"--out {out}: it is the source itself. Choose another folder.")
        if out.resolve().is_relative_to(source.resolve()):
            raise BadInput(f"--out {out}: it lies inside of {source}. Choose a folder outside of it.")
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: a file stands there. Choose another folder.")
    if out.is_dir() and not (out / MANIFEST_NAME).exists():
        names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        if names - {layout.PARTS, layout.SHARED}:
            raise BadInput(f"--out {out}: the folder holds other files. Choose an empty or new one.")


def fit_on(
    distributions: Distributions,
    source: Cache,
    row: RowInfo,
    pilot_rows: int,
    progress: Progress,
    head: Head | None = None,
) -> Fit:
    """Fit what the rows share of their tails.

    Args:
        distributions: of the source's rows.
        source: whose samples are gone through, some of them, spread evenly.
        row: what a row is to hold.
        pilot_rows: about so many rows.
        progress: receives the steps.
        head: of the teacher, for a sketch.
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
                pilot.add(chunk.logits_nV, listed_by(sparsifier, chunk, row.vocabulary), chunk.hidden_nD)
            progress(Step(stage="pilot", done=min(pilot.rows, total), total=total))
    return fitted(pilot, row), pilot.rows


def begin(out: Path, source: Cache, wanted: Manifest, fit: Callable[[], Fit]) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those which are there are this plan's.

    Args:
        out: the cache to be.
        source: the cache whose vocabulary and tokenizer it has.
        wanted: its plan, but for the shared files.
        fit: gives what its rows share; what is stored decides, so this is called once in the life of a cache.

    Raises:
        CacheMismatch: another plan's cache is there, or a shared file of it is damaged and cannot be made again.
        StorageError: the disk is full or the folder cannot be written.
    """
    found, broken = None, set()
    if (out / MANIFEST_NAME).exists():
        found = unseal(Manifest, out / MANIFEST_NAME)
        refuse_other_plan(out, found, wanted)
        broken = {problem.file for problem in shared_problems(out, found)}
        if not broken:
            return with_views(out, wanted.views)
    if found is not None and found.tail.file not in broken:
        manifest, contents = _with_shared(wanted, source, load_shared(out, found), found.tail.pilot_rows)
    else:
        manifest, contents = _with_shared(wanted, source, *fit())
    with storage_errors(out):
        if found is not None:
            for name in sorted(broken & found.shared.keys()):
                if found.shared[name] != manifest.shared.get(name):
                    raise CacheMismatch(
                        f"--out {out}: {name} is damaged, and other bytes would be written now. Choose a new folder."
                    )
                layout.write_whole(out / name, contents[name])
            return with_views(out, wanted.views)
        for name, content in contents.items():
            layout.write_whole(out / name, content)
        if layout.write_first(out / MANIFEST_NAME, seal(manifest)):
            return manifest
        first = unseal(Manifest, out / MANIFEST_NAME)
        refuse_other_plan(out, first, manifest)
        for name in contents.keys() - first.shared.keys():
            (out / name).unlink(missing_ok=True)
    return with_views(out, wanted.views)


def _with_shared(
    wanted: Manifest, source: Cache, tensors: dict[str, Tensor], pilot_rows: int
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with its shared files, and their contents: the source's, but for the tail's."""
    old = source.manifest
    contents = {name: layout.inside(source.path, name).read_bytes() for name in old.shared if name != old.tail.file}
    tail = wanted.tail.model_copy(update={"file": None, "pilot_rows": pilot_rows})
    return with_shared(wanted.model_copy(update={"tail": tail}), contents, tensors)


def write_parts(
    out: Path, manifest: Manifest, source: Cache, recoder: Recoder, stage: str, progress: Progress
) -> Cache:
    """Write the parts that are missing, with the numbers and samples of those that the source has.

    Raises:
        CacheMismatch, CacheDamaged: parts that are there belong to another plan or are not whole.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    done = set(layout.committed_parts(out))
    rows = {record.part: record.rows for record in source.records if record.part not in done}
    written = 0

    def told(count: int) -> None:
        nonlocal written
        written += count
        progress(Step(stage=stage, done=written, total=sum(rows.values()), part=number))

    for number in rows:
        part = source.part(number)
        samples = [part.samples.sample(index) for index in range(len(part.samples))]
        with suppress(PartTaken), PartWriter(out, manifest, number, samples) as writer:
            recoder.write(part, samples, writer, told)
    made = Cache(out)
    made.check_sizes()
    if made.complete:
        with storage_errors(out):
            layout.sweep(out)
    return made
