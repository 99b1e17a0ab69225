"""Copy a cache to the Hub: a data set repository with a card, the parts as in an object store, and their samples as tables.

card, shared files and cache.json in one commit -> parts with their samples, some at a time in a commit -> the same of each tap

A commit is there as a whole or not at all, so what readers find is never incomplete; parts that are there are left out. Each
commit is made on top of what was looked at: where another push was faster, this one looks again, and leaves out what is there.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, NotACache, StorageError
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.tap import TAP_NAME, TapInfo, tap_folder
from logitstore.report.card import SAMPLES, card, samples_table, speller
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.part import PartsPlan, open_samples, read_shared
from logitstore.store.remote.bundle import pack
from logitstore.store.remote.hub import HubObjects
from logitstore.store.remote.names import SUFFIX
from logitstore.store.remote.storage import ObjectStorage
from logitstore.store.storage import Far, Storage, read_sealed, read_small, record_digest
from logitstore.store.taps import Tap
from logitstore.store.transfer.copy import Copied, Extent
from logitstore.store.transfer.parts import PartCopy, lay

COMMIT_PARTS, COMMIT_BYTES = 48, 1 << 30
"""Most parts, and about the most bytes, of a commit. The Hub asks for fewer than 100 files in
a commit, and a part has two; an interrupt loses one commit."""

OVERTAKEN, PAUSE_SECONDS = 30, 5.0
"""How often a commit is made anew because others were faster, and the longest pause before. Each time another push went on."""

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
        BadInput: the address leads into a folder; the repository holds something else; a part or tap does not exist.
        CacheMismatch: the repository holds another cache.
        StorageError: the Hub refuses.
    """
    cache, hub = Cache(source), HubObjects(address)
    if not hub.is_whole:
        raise BadInput(f"{address}: a cache is pushed to a repository of its own. Leave out what follows its name.")
    numbers = layout.parse_parts(extent.parts, cache.manifest.parts)
    taps = {name: cache.taps[name] for name in (cache.taps if extent.taps is None else extent.taps)}
    with hub.told(""):
        hub.api.create_repo(hub.repo, repo_type="dataset", private=True, exist_ok=True)
    run = _Run(cache, hub, progress, stage)
    run.total = len(numbers) * (1 + len(taps))
    run.commit(run.beginning, "Begin the cache")
    run.parts(cache.storage, cache.manifest, numbers, cache.part_numbers, "")
    for name, tap in taps.items():
        run.commit(partial(run.beginning_of, tap), f"Begin {name}")
        run.parts(tap.storage, tap.plan, numbers, tap.part_numbers, f"{tap_folder(name)}/")
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


class _Run:
    """One run of `push_to_hub`: what is there, what came of it, and how it is told."""

    def __init__(self, cache: Cache, hub: HubObjects, progress: Progress, stage: str) -> None:
        self._cache, self._hub, self._there = cache, hub, ObjectStorage(hub.address)
        self._progress, self._stage = progress, stage
        self._spell = speller(cache)
        self.found, self.total, self._done = Copied(), 0, 0
        self._look()

    def _look(self) -> None:
        """Learn what is there. What comes after the commit that is noted first is noticed when the next one is made."""
        self._commit = self._hub.last_commit()
        self._names = {found.name for found in self._hub.below("")}

    def commit(self, missing: Callable[[], dict[str, bytes]], message: str) -> None:
        """Write files in one commit.

        Args:
            missing: gives those that are not there, and is asked again where another push was faster; without files nothing
                happens.
            message: of the commit.

        Raises:
            StorageError: the Hub refuses, or others were faster again and again.
        """
        for attempt in range(OVERTAKEN):
            if not (files := missing()):
                return
            made = self._hub.commit(files, message, self._commit)
            if made is not None:
                self._commit = made
                self._names |= files.keys()
                return
            time.sleep(random.uniform(0, min(0.1 * 2**attempt, PAUSE_SECONDS)))
            self._look()
        raise StorageError(f"{self._hub.address}: others write there at the same time. The same command goes on later.")

    def beginning(self) -> dict[str, bytes]:
        """Return what all parts share, and the card, as far as they are not there. Raises as `push_to_hub` does."""
        cache, names = self._cache, self._names
        _check_target(cache, self._there, names)
        begun = {} if CARD in names else {CARD: card(cache, self._hub.address).encode()}
        if MANIFEST_NAME not in names:
            begun |= read_shared(cache.storage, cache.manifest.shared)
            begun[MANIFEST_NAME] = read_small(cache.storage, MANIFEST_NAME)
        return begun

    def beginning_of(self, tap: Tap) -> dict[str, bytes]:
        """Return what all parts of a tap share, if it is not there. Raises CacheMismatch: another tap of this name is."""
        folder = f"{tap_folder(tap.name)}/"
        if f"{folder}{TAP_NAME}" not in self._names:
            described = {f"{folder}{TAP_NAME}": read_small(tap.storage, TAP_NAME)}
            shared = read_shared(tap.storage, tap.info.shared)
            return {f"{folder}{name}": content for name, content in shared.items()} | described
        if read_sealed(TapInfo, self._there.within(tap_folder(tap.name)), TAP_NAME).identity != tap.info.identity:
            raise CacheMismatch(f"{self._hub.address}: another tap {tap.name} is there. Leave it out with --taps.")
        return {}

    def parts(self, source: Storage, plan: PartsPlan, numbers: list[int], there: list[int], folder: str) -> None:
        """Write the parts of the cache, or of a tap, that are not there yet."""
        present = set(there)
        wanted = [number for number in numbers if number in present]
        self.found.lacking += len(numbers) - len(wanted)
        self.total -= len(numbers) - len(wanted)
        waiting: dict[int, tuple[PartCopy, dict[str, bytes]]] = {}
        for number in wanted:
            if self._name(number, folder) in self._names:
                self._tell([self._compared(source, number, folder)], folder)
                continue
            waiting[number] = self._packed(source, plan, number, folder)
            size = sum(len(content) for _, files in waiting.values() for content in files.values())
            if len(waiting) >= COMMIT_PARTS or size >= COMMIT_BYTES:
                self._write(source, waiting, folder, f"Parts up to {number:05d}")
                waiting = {}
        self._write(source, waiting, folder, "The last parts")

    def _write(
        self, source: Storage, waiting: dict[int, tuple[PartCopy, dict[str, bytes]]], folder: str, message: str
    ) -> None:
        def missing() -> dict[str, bytes]:
            for number, (_, files) in waiting.items():
                if files and self._name(number, folder) in self._names:
                    waiting[number] = self._compared(source, number, folder), {}
            return {name: content for _, files in waiting.values() for name, content in files.items()}

        self.commit(missing, message)
        self._tell([part for part, _ in waiting.values()], folder)

    @staticmethod
    def _name(number: int, folder: str) -> str:
        return f"{folder}{layout.part_name(number)}{SUFFIX}"

    def _packed(self, source: Storage, plan: PartsPlan, number: int, folder: str) -> tuple[PartCopy, dict[str, bytes]]:
        with tempfile.TemporaryDirectory(prefix="logitstore-") as scratch:
            staged = Path(scratch) / f"{number:05d}"
            staged.mkdir()
            try:
                record, digest = lay(source, plan, number, staged)
            except (CacheDamaged, CacheMismatch, NotACache) as error:
                return PartCopy(number, damage=str(error)), {}
            files = {self._name(number, folder): pack(staged, f"{source}: part {number:05d}")}
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
