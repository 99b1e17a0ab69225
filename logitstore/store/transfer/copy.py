"""Copy a cache from one storage into another, whole or in part: exactly the same files, compared with their seals on the way.

shared files -> cache.json -> parts, several at a time -> the same of each tap -> the index, where the target is far away

In this order nothing that readers find is ever incomplete. What is there already is not copied again, so the same command goes
on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from logitstore.core.place import Place, split_scheme
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import FileSeal, seal, unseal_from
from logitstore.format.tap import TAP_NAME, TAPS, TapInfo, tap_folder
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.index.index import PartsIndex
from logitstore.store.part import PartsPlan, read_shared
from logitstore.store.storage import Far, Storage, open_storage, read_sealed, read_small
from logitstore.store.transfer.parts import PartCopy, copies

THREADS = 8
"""Parts that are copied at a time: a store far away answers several requests as quickly as one."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What of a cache is copied.

    Attributes:
        parts: numbers such as `0-99,120`; None for all.
        taps: names of taps; None for all.
        streams: parts that are copied at a time.
    """

    parts: str | None = None
    taps: Sequence[str] | None = None
    streams: int = THREADS


@dataclass(kw_only=True)
class Copied:
    """What came of copying; parts of taps count too.

    Attributes:
        copied, bytes: parts that were copied, and the bytes of their files.
        there: count of parts that were there already, with the same record.
        others: parts that were there already with another record, and were left as they are.
        damaged: of each part that was not copied because it is damaged, what is wrong with it.
        lacking: count of parts that were asked for and that the source has not.
    """

    copied: int = 0
    bytes: int = 0
    there: int = 0
    others: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    lacking: int = 0

    def add(self, part: PartCopy, name: str) -> None:
        """Count a part of the cache or of a tap."""
        if part.damage is not None:
            self.damaged.append(part.damage)
        elif part.was_there:
            self.there += 1
        elif part.is_other:
            self.others.append(name)
        else:
            self.copied += 1
            self.bytes += part.size


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """What is copied part by part: a cache or a tap of it."""

    source: Storage
    target: Storage
    plan: PartsPlan
    index: PartsIndex
    name: str
    numbers: list[int]


def copy_cache(
    source: Place, target: Place, extent: Extent, progress: Progress = no_progress, stage: str = "push"
) -> Copied:
    """Copy a cache, or the parts of it that are not there yet.

    Args:
        source, target: where the cache lies, and where it shall lie.
        extent: what of it.
        progress: receives the steps.
        stage: name of the work in them.

    Raises:
        NotACache, CacheDamaged: the source is no cache, or what all its parts share is damaged.
        BadInput: the target is the source or lies in it, or holds something else; a part or tap does not exist.
        CacheMismatch: the target is another cache.
        StorageError: a storage refuses to read or write; what is copied stays.
    """
    cache = Cache(source)
    manifest, there = cache.manifest, open_storage(target)
    _refuse_same(cache.storage, there, target)
    numbers = layout.parse_parts(extent.parts, manifest.parts)
    taps = {name: cache.taps[name] for name in (cache.taps if extent.taps is None else extent.taps)}
    with storage_errors(target):
        with there.claim() as present:
            _refuse_another(cache, there, {name for name in present if not name.startswith(".")})
            _copy_shared(cache.storage, there, manifest.shared)
            _copy_manifest(cache, there)
        within = {name: there.within(tap_folder(name)) for name in taps}
        for name, tap in taps.items():
            _copy_tap(tap.storage, within[name], tap.info)
        pieces = [
            _piece(cache.storage, there, manifest, cache.index, "cache", numbers),
            *(_piece(tap.storage, within[name], tap.plan, tap.index, name, numbers) for name, tap in taps.items()),
        ]
        return _copy_parts(pieces, numbers, extent.streams, partial(_tell, progress, stage), there)


def _piece(
    source: Storage, target: Storage, plan: PartsPlan, index: PartsIndex, name: str, numbers: list[int]
) -> _Piece:
    there = set(index.numbers_P.tolist())
    wanted = [number for number in numbers if number in there]
    return _Piece(source=source, target=target, plan=plan, index=index, name=name, numbers=wanted)


def _tell(progress: Progress, stage: str, total: int, done: int, found: Copied) -> None:
    progress(Step(stage=stage, done=done, total=total, note=f"{found.bytes / 1e6:,.1f} MB"))


def _copy_parts(pieces: list[_Piece], numbers: list[int], streams: int, tell: partial[None], there: Storage) -> Copied:
    found, done = Copied(), 0
    total = sum(len(piece.numbers) for piece in pieces)
    for piece in pieces:
        found.lacking += len(numbers) - len(piece.numbers)
        digests = []
        for part in copies(piece.source, piece.target, piece.plan, piece.numbers, streams):
            found.add(
                part, layout.part_name(part.number) if piece.name == "cache" else f"{piece.name} {part.number:05d}"
            )
            digests.append(b"" if part.damage or part.is_other else part.digest)
            done += 1
            tell(total, done, found)
        if isinstance(there, Far) and len(digests) == piece.plan.parts:
            # what readers of a store would have to ask every part for
            piece.index.copy_to(piece.target, there, np.array(digests, "S32"))
    return found


def _refuse_same(here: Storage, there: Storage, target: Place) -> None:
    if here.address == there.address:
        raise BadInput(f"{target}: it is the source itself. Give another place.")
    if there.address.startswith(f"{here.address.rstrip('/')}/"):
        raise BadInput(f"{target}: it lies inside of {here}. Give a place outside of it.")
    if not split_scheme(target)[0] and Path(target).exists() and not Path(target).is_dir():
        raise BadInput(f"{target}: a file stands there. Give another folder.")


def _refuse_another(cache: Cache, there: Storage, names: set[str]) -> None:
    if MANIFEST_NAME in names:
        _check_same(cache, read_sealed(Manifest, there, MANIFEST_NAME), there)
    elif names - {layout.PARTS, layout.SHARED, layout.PILOT, layout.SIDECARS, TAPS, "lost+found"}:
        raise BadInput(f"{there}: it holds other files. Give an empty place, or one that is not there yet.")


def _check_same(cache: Cache, other: Manifest, there: Storage) -> None:
    if other.identity != cache.manifest.identity:
        raise CacheMismatch(
            f"{there}: another cache is there, with the plan {other.identity:.8} of the teacher {other.teacher.name}; that of "
            f"{cache.path} is {cache.manifest.identity:.8}. Give another place."
        )


def _copy_shared(here: Storage, there: Storage, seals: dict[str, FileSeal]) -> None:
    """Copy shared files that are not there yet in their size. Raises CacheDamaged: one is not what its seal says."""
    for name, expected in seals.items():
        if there.size(name) != expected.bytes:
            there.put(name, read_shared(here, {name: expected})[name])


def _copy_manifest(cache: Cache, there: Storage) -> None:
    """Write `cache.json`; where there is one already, let it have at least as many views."""
    if there.put_first(MANIFEST_NAME, read_small(cache.storage, MANIFEST_NAME)):
        return
    while True:
        known = read_small(there, MANIFEST_NAME)
        other = unseal_from(Manifest, str(there), MANIFEST_NAME, partial(bytes, known))
        _check_same(cache, other, there)
        more = other.model_copy(update={"views": cache.manifest.views})
        if other.views >= cache.manifest.views or there.swap(MANIFEST_NAME, known, seal(more)):
            return


def _copy_tap(here: Storage, there: Storage, info: TapInfo) -> None:
    """Copy what all parts of a tap share. Raises CacheMismatch: the target has another tap of this name."""
    if there.size(TAP_NAME) is None:
        _copy_shared(here, there, info.shared)
        if there.put_first(TAP_NAME, read_small(here, TAP_NAME)):
            return
    if read_sealed(TapInfo, there, TAP_NAME).identity != info.identity:
        raise CacheMismatch(
            f"{there}: another tap {info.name} is there, with other values or another codec. Leave it out with --taps."
        )
    _copy_shared(here, there, info.shared)


def parse_taps(text: str) -> list[str] | None:
    """Return the names in a list such as `hidden-8,final`; none for `none`, and None for `all`.

    Raises:
        BadInput: there is no name in it.
    """
    if text in ("all", "none"):
        return None if text == "all" else []
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadInput(f"--taps '{text}': write all, none, or names such as hidden-8,final.")
    return list(dict.fromkeys(names))
