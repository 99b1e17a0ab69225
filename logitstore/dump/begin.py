"""Begin a cache, or continue one: `cache.json` and the shared files are written once, and compared ever after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, amount, no_progress
from logitstore.core.types import bytes_of
from logitstore.dump.engines.same_answers import refuse_other_answers
from logitstore.dump.taps import tap_bytes
from logitstore.dump.task import Prepared, prepare
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import seal, seal_of_bytes, unseal_from
from logitstore.format.tap import TAPS
from logitstore.settings.dump import DumpSettings
from logitstore.settings.fields import CommandLine
from logitstore.settings.tasks import refuse_set
from logitstore.store import layout
from logitstore.store.checks.verify import shared_problems
from logitstore.store.storage import Storage, open_storage, read_sealed, read_small
from logitstore.targets.shared import load_shared

Fit = tuple[dict[str, Tensor], int]
"""The shared tensors of a tail, and the count of rows on which they were fitted."""


PART_BYTES = 128_000_000
"""Bytes of a part where nobody says how many: few enough to be written in minutes, and so many that 10^10 rows make some
10^4 parts."""

FEWEST_PARTS = 64
"""Count of parts below which none grows beyond the usual count of samples: a kill costs at most about so small a share."""

SAMPLE_BYTES = 96
"""About what a sample takes in `samples.arrow` beside its tokens and mask."""


def prepare_parts(settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
    """Prepare a dump in parts of as many samples as are asked for, as the cache there has, or as make the bytes of a part.

    Raises:
        BadInput: both a count of samples and bytes are given; or see `logitstore.dump.task.prepare`.
        ModelError: see there.
    """
    if settings.samples_per_part is not None:
        refuse_set(settings, ("part_bytes",), f"--samples-per-part {settings.samples_per_part} decides")
        return prepare(settings, progress)
    prepared = prepare(settings, progress)
    manifest, out = prepared.manifest, open_storage(settings.out)
    if settings.part_bytes is None and out.size(MANIFEST_NAME) is not None:
        count = read_sealed(Manifest, out, MANIFEST_NAME).samples_per_part
    else:
        wanted = None if settings.part_bytes is None else bytes_of(settings.part_bytes)
        taps = tap_bytes(settings, prepared.config, prepared.places)
        count = samples_per_part(manifest, taps, wanted, prepared.largest_part)
        if count != manifest.samples_per_part:
            size = bytes_of_samples(manifest, taps, count)
            shown = f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e3:,.0f} kB"
            note = f"{amount(count, 'sample')} each, about {shown}"
            progress(Step(stage="parts", done=1, total=1, note=note))
    return replace(prepared, manifest=manifest.model_copy(update={"samples_per_part": count}))


def bytes_of_samples(manifest: Manifest, tap_bytes: int, count: float) -> float:
    """Return about how many bytes some samples take with their rows, before compression.

    Args:
        manifest: of the cache.
        tap_bytes: bytes per row of the taps.
        count: of samples, each of the mean size.
    """
    token = np.dtype(manifest.token_dtype).itemsize + 1 / 8
    of_rows = manifest.rows * (manifest.bytes_per_row + tap_bytes)
    return count * ((of_rows + manifest.tokens * token) / manifest.samples + SAMPLE_BYTES)


def samples_per_part(manifest: Manifest, tap_bytes: int, part_bytes: int | None, largest: int) -> int:
    """Return how many samples a part holds.

    Args:
        manifest: of the cache to be, with the usual count of its task.
        tap_bytes: bytes per row of the taps that are written with it.
        part_bytes: bytes of a part that are asked for. None takes `PART_BYTES`, and leaves the usual count to small caches.
        largest: the most samples that a part can hold.
    """
    wanted = int((part_bytes or PART_BYTES) / bytes_of_samples(manifest, tap_bytes, 1))
    most = manifest.samples
    if part_bytes is None:
        most = max(min(most, manifest.samples * manifest.views // FEWEST_PARTS), manifest.samples_per_part)
    return max(min(wanted, most, largest), 1)


@contextmanager
def target_folder(out: Place, sources: Sequence[Place] = (), *, resume: bool = True) -> Iterator[None]:
    """Refuse, before any work, a folder that cannot become or is not the cache; remove a new one if the work fails at once.

    Args:
        out: the cache to be.
        sources: caches that are read meanwhile.
        resume: whether a cache that is there may be continued.

    Raises:
        BadInput: `out` is a source or lies inside of one, is a file, holds something else, or may not be continued.
        StorageError: the folder cannot be written.
    """
    target = open_storage(out)
    for source in sources:
        address = open_storage(source).address
        if target.address == address:
            raise BadInput(f"--out {out}: it is the source itself. Choose another folder.")
        if target.address.startswith(f"{address.rstrip('/')}/"):
            raise BadInput(f"--out {out}: it lies inside of {source}. Choose a folder outside of it.")
    with ExitStack() as stack:
        with storage_errors(out):
            names = {name for name in stack.enter_context(target.claim()) if not name.startswith(".")}
        if MANIFEST_NAME in names:
            if not resume:
                raise BadInput(
                    f"--out {out}: a cache is there already. Choose another folder, or leave out --no-resume."
                )
        elif names - {layout.PARTS, layout.SHARED, layout.PILOT, layout.SIDECARS, TAPS, "lost+found"}:
            raise BadInput(f"--out {out}: the folder holds other files. Choose an empty or new one.")
        yield


def existing_manifest(storage: Storage, wanted: Manifest, but: set[str] | None = None) -> Manifest | None:
    """Return the manifest that is there, or None.

    Args:
        storage: that of the cache.
        wanted: what this command would write.
        but: entries of the teacher that are not known yet.

    Raises:
        CacheMismatch: it is another plan.
    """
    if storage.size(MANIFEST_NAME) is None:
        return None
    manifest = read_sealed(Manifest, storage, MANIFEST_NAME)
    refuse_other_plan(storage, manifest, wanted, but)
    return manifest


def refuse_other_plan(out: Storage, there: Manifest, wanted: Manifest, but: set[str] | None = None) -> None:
    """Compare two plans, except for what the pilot gave (each machine's may differ in the last bits) and `but`.

    Raises:
        CacheMismatch: the two plans differ, or their rows are made from other sources.
    """
    if there.made_from != wanted.made_from:
        raise CacheMismatch(
            f"--out {out}: the rows there {_made(there)}, those of this command {_made(wanted)}. "
            "Choose another folder, or give the same source as before."
        )
    old, new = there.identity_fields(), wanted.identity_fields()
    for fields in (old, new):
        # an older version wrote no origin, and what it recoded is continued
        fields.pop("origin", None)
        del fields["shared"], fields["tail"]["file"], fields["tail"]["pilot_rows"]
        for name in but or ():
            del fields["teacher"][name]
    difference = _first_difference(old, new)
    if difference is not None:
        name, before, now = difference
        raise CacheMismatch(
            f"--out {out}: the cache there has {name} = {_shown(before)}, this command asks for {_shown(now)}{_option(name)}. "
            "Choose another folder, or give the same options as before."
        )


def _option(entry: str) -> str:
    """Return the option of `dump` that an entry of a plan comes from, in parentheses; an empty text if none does."""
    name = entry.rpartition(".")[2]
    if name == "samples_per_part":
        return " (--samples-per-part, --part-bytes)"
    field = DumpSettings.model_fields.get(name)
    if field is None:
        return ""
    return f" ({(CommandLine.of(field).flags or ('--' + name.replace('_', '-'),))[0]})"


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!s:.80}"


def _made(manifest: Manifest) -> str:
    """Say where the rows of a plan come from, for the middle of a message."""
    plans = ", ".join(f"{plan:.8}" for plan, _ in manifest.made_from)
    if not plans:
        return f"come from the teacher {manifest.teacher.name}"
    if manifest.chosen_by is not None:
        return f"are chosen by {manifest.chosen_by} from the plans {plans}"
    return f"are recoded from plan {plans}" if manifest.recoded_from else f"are a mean of the plans {plans}"


def _choices_first(key: str) -> tuple[bool, str]:
    """Sort what the user chose before what only follows from it."""
    return key in ("fields", "fingerprint", "pilot_rows", "samples", "rows", "tokens"), key


def _first_difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the name and both values of the first entry that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys(), key=_choices_first):
            difference = _first_difference(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
            if difference is not None:
                return difference
        return None
    return None if there == here else (name, there, here)


def begin(
    storage: Storage, wanted: Manifest, files: Callable[[], dict[str, bytes]], fit: Callable[[], Fit]
) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those that are there belong to the same plan.

    Args:
        storage: that of the cache to be.
        wanted: its manifest, but for the shared files.
        files: gives the shared files that no pilot decides, by their paths in the cache.
        fit: gives what the rows share of their tails. What is stored decides, so it is called once in the life of a cache.

    Raises:
        CacheMismatch: another plan's cache is there, or a shared file is damaged and cannot be made again.
        StorageError: the disk is full or the folder cannot be written.
    """
    existing = existing_manifest(storage, wanted)
    if existing is not None:
        refuse_other_answers(storage, existing, wanted)
    if existing is None:
        return _written_first(storage, *_with_shared(wanted, files(), *fit()))
    damaged = {problem.file for problem in shared_problems(storage, existing)}
    if damaged:
        tail = fit() if existing.tail.file in damaged else (load_shared(storage, existing), existing.tail.pilot_rows)
        manifest, contents = _with_shared(wanted, files(), *tail)
        with storage_errors(storage):
            for name in sorted(damaged & existing.shared.keys()):
                if existing.shared[name] != manifest.shared.get(name):
                    raise CacheMismatch(
                        f"--out {storage}: {name} is damaged, and making it again here gives other bits. "
                        "Run this on the kind of machine that began the cache, or choose a new folder."
                    )
                storage.put(name, contents[name])
    return ensure_views(storage, wanted.views)


def _written_first(storage: Storage, manifest: Manifest, contents: dict[str, bytes]) -> Manifest:
    """Write the shared files and the manifest; if another writer was first, its manifest decides."""
    with storage_errors(storage):
        for name, content in contents.items():
            storage.put(name, content)
        if storage.put_first(MANIFEST_NAME, seal(manifest)):
            return manifest
        first = read_sealed(Manifest, storage, MANIFEST_NAME)
        refuse_other_plan(storage, first, manifest)
        refuse_other_answers(storage, first, manifest)
        for name in contents.keys() - first.shared.keys():
            storage.remove(name)
    return ensure_views(storage, manifest.views)


def ensure_views(storage: Storage, views: int) -> Manifest:
    """Return the manifest of a cache with at least `views` views of its data; write it again if it has fewer."""
    with storage_errors(storage):
        while True:
            known = read_small(storage, MANIFEST_NAME)
            manifest = unseal_from(Manifest, str(storage), MANIFEST_NAME, partial(bytes, known))
            if manifest.views >= views:
                return manifest
            more = manifest.model_copy(update={"views": views})
            if storage.swap(MANIFEST_NAME, known, seal(more)):
                return more


def _with_shared(
    wanted: Manifest, contents: dict[str, bytes], tail_tensors: dict[str, Tensor], pilot_rows: int
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest with its shared files, the tail's among them, and their contents by their paths.

    The file of the tail is added to `contents`. Its name contains a hash of its contents, so writers never collide.
    """
    tail = wanted.tail.model_copy(update={"file": None, "pilot_rows": pilot_rows})
    if tail_tensors:
        content = safetensors.torch.save(tail_tensors)
        tail = tail.model_copy(update={"file": layout.shared_name("tail", content, ".safetensors")})
        contents = contents | {str(tail.file): content}
    shared = {name: seal_of_bytes(content) for name, content in contents.items()}
    return wanted.model_copy(update={"tail": tail, "shared": shared}), contents
