"""Copy a cache to the Hub: a data set repository with a card, the parts as in an object store, and their samples as tables.

card, shared files and cache.json in one commit -> parts with their samples, some at a time in a commit -> the same of each tap

A commit is there as a whole or not at all, so what readers find is never incomplete; parts that are there are left out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, NotACache, way_out_of
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import FileSeal, seal_of_bytes
from logitstore.format.tap import TAP_NAME, TapInfo, tap_folder
from logitstore.report.card import SAMPLES, card, samples_table, speller
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.part import PartsPlan, open_samples
from logitstore.store.remote.bundle import pack
from logitstore.store.remote.hub import HubObjects, library
from logitstore.store.remote.names import SUFFIX
from logitstore.store.remote.storage import ObjectStorage
from logitstore.store.storage import Far, Storage, read_sealed, read_small, record_digest
from logitstore.store.transfer.copy import Copied, Extent
from logitstore.store.transfer.parts import PartCopy, lay

COMMIT_PARTS, COMMIT_BYTES = 48, 1 << 30
"""Most parts, and about the most bytes, of a commit. The Hub asks for fewer than 100 files in
a commit, and a part has two; an interrupt loses one commit."""

CARD = "README.md"
_NOT_OURS = {CARD, ".gitattributes"}


def push_to_hub(
    source: Place, address: str, extent: Extent, progress: Progress = no_progress, stage: str = "push"
) -> Copied:
    """Copy a cache into a data set repository, which is made, and is private, if there is none.

    Args:
        source: where the cache lies.
        address: such as `hf://user/name`; a revision in it must be there.
        extent: what of the cache; its parts are copied one after the other.
        progress: receives the steps.
        stage: name of the work in them.

    Raises:
        NotACache, CacheDamaged: the source is no cache, or what all its parts share is damaged.
        BadInput: the repository holds something else; a part or tap does not exist.
        CacheMismatch: the repository holds another cache.
        StorageError: the Hub refuses.
    """
    cache, hub = Cache(source), HubObjects(address)
    there = ObjectStorage(address)
    numbers = layout.parse_parts(extent.parts, cache.manifest.parts)
    taps = {name: cache.taps[name] for name in (cache.taps if extent.taps is None else extent.taps)}
    with hub.told(""):
        hub.api.create_repo(hub.repo, repo_type="dataset", private=True, exist_ok=True)
    names = {found.name for found in hub.below("")}
    _check_target(cache, there, names)
    run = _Run(cache, hub, names, progress, stage)
    run.total = len(numbers) * (1 + len(taps))
    begun = {} if CARD in names else {CARD: card(cache, address).encode()}
    if MANIFEST_NAME not in names:
        shared = _shared(cache.storage, cache.manifest.shared, "")
        begun |= shared | {MANIFEST_NAME: read_small(cache.storage, MANIFEST_NAME)}
    run.commit(begun, "Begin the cache")
    run.parts(cache.storage, cache.manifest, numbers, cache.part_numbers, "")
    for name, tap in taps.items():
        folder = f"{tap_folder(name)}/"
        if f"{folder}{TAP_NAME}" not in names:
            described = {f"{folder}{TAP_NAME}": read_small(tap.storage, TAP_NAME)}
            run.commit(_shared(tap.storage, tap.info.shared, folder) | described, f"Begin {name}")
        elif read_sealed(TapInfo, there.within(tap_folder(name)), TAP_NAME).identity != tap.info.identity:
            raise CacheMismatch(f"{address}: another tap {name} is there. Leave it out with --taps.")
        run.parts(tap.storage, tap.plan, numbers, tap.part_numbers, folder)
    return run.found


def _check_target(cache: Cache, there: Storage, names: set[str]) -> None:
    if MANIFEST_NAME not in names:
        if others := sorted(names - _NOT_OURS):
            raise BadInput(f"{there}: the repository holds other files, such as {others[0]}. Give another name.")
        return
    other = read_sealed(Manifest, there, MANIFEST_NAME)
    if other.identity != cache.manifest.identity or other.views != cache.manifest.views:
        raise CacheMismatch(
            f"{there}: another cache is there, with the plan {other.identity:.8} and {other.views} views; that of {cache.path} "
            f"is {cache.manifest.identity:.8} with {cache.manifest.views}. Give another name."
        )


def _shared(storage: Storage, seals: dict[str, FileSeal], folder: str) -> dict[str, bytes]:
    """Return shared files by their paths. Raises CacheDamaged: one is missing, or not what its seal says."""
    contents = {}
    for name, expected in seals.items():
        try:
            contents[f"{folder}{name}"] = content = storage.read(name)
        except FileNotFoundError as error:
            raise CacheDamaged(f"{storage}: {name} is missing. {way_out_of(storage)}") from error
        if seal_of_bytes(content) != expected:
            raise CacheDamaged(f"{storage}: {name} is not what its seal says. {way_out_of(storage)}")
    return contents


class _Run:
    """One run of `push_to_hub`: what is there, what came of it, and how it is told."""

    def __init__(self, cache: Cache, hub: HubObjects, names: set[str], progress: Progress, stage: str) -> None:
        self._cache, self._hub, self._names = cache, hub, names
        self._progress, self._stage = progress, stage
        self._spell = speller(cache)
        self.found, self.total, self._done = Copied(), 0, 0

    def commit(self, files: dict[str, bytes], message: str) -> None:
        """Write files in one commit; nothing happens without files."""
        if not files:
            return
        hub: Any = library()
        added = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        with self._hub.told(""):
            self._hub.api.create_commit(
                self._hub.repo,
                added,
                commit_message=message,
                repo_type="dataset",
                revision=self._hub.revision,
            )

    def parts(self, source: Storage, plan: PartsPlan, numbers: list[int], there: list[int], folder: str) -> None:
        """Write the parts of the cache, or of a tap, that are not there yet."""
        present = set(there)
        wanted = [number for number in numbers if number in present]
        self.found.lacking += len(numbers) - len(wanted)
        self.total -= len(numbers) - len(wanted)
        files: dict[str, bytes] = {}
        waiting: list[PartCopy] = []
        for number in wanted:
            name = f"{folder}{layout.part_name(number)}{SUFFIX}"
            if name in self._names:
                self._tell([self._compared(source, number, folder)], folder)
                continue
            part, content = self._packed(source, plan, number, folder)
            files |= content
            waiting.append(part)
            if len(waiting) >= COMMIT_PARTS or sum(map(len, files.values())) >= COMMIT_BYTES:
                self.commit(files, f"Parts up to {number:05d}")
                self._tell(waiting, folder)
                files, waiting = {}, []
        self.commit(files, "The last parts")
        self._tell(waiting, folder)

    def _packed(self, source: Storage, plan: PartsPlan, number: int, folder: str) -> tuple[PartCopy, dict[str, bytes]]:
        with tempfile.TemporaryDirectory(prefix="logitstore-") as scratch:
            staged = Path(scratch) / f"{number:05d}"
            staged.mkdir()
            try:
                record, digest = lay(source, plan, number, staged)
                files = {f"{folder}{layout.part_name(number)}{SUFFIX}": pack(staged)}
            except (CacheDamaged, CacheMismatch, NotACache) as error:
                return PartCopy(number, damage=str(error)), {}
        if not folder:
            samples = open_samples(source, self._cache.manifest, number, self._cache.shared_samples)
            files[f"{SAMPLES}/{number:05d}.parquet"] = samples_table(samples, self._spell)
        return PartCopy(number, digest, size=sum(file.bytes for file in record.files.values())), files

    def _compared(self, source: Storage, number: int, folder: str) -> PartCopy:
        try:
            here = source.digest(number) if isinstance(source, Far) else record_digest(source, number)
            is_same = here == ObjectStorage(f"{self._hub.address}/{folder}".rstrip("/")).digest(number)
        except CacheDamaged as error:
            return PartCopy(number, damage=str(error))
        return PartCopy(number, here, was_there=is_same, is_other=not is_same)

    def _tell(self, parts: list[PartCopy], folder: str) -> None:
        for part in parts:
            self.found.add(part, f"{folder}{layout.part_name(part.number)}")
        self._done += len(parts)
        note = f"{self.found.bytes / 1e6:,.1f} MB"
        self._progress(Step(stage=self._stage, done=self._done, total=self.total, note=note))
