"""Copy parts from one storage into another: every file is compared with the commit record, then the part is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from logitstore.core.background import Pending, Workers
from logitstore.errors import CacheDamaged, CacheMismatch, NotACache, way_out_of
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import seal_of_bytes, unseal_from
from logitstore.store.layout import part_name, record_name
from logitstore.store.part import PartsPlan
from logitstore.store.storage import Far, Storage, read_small, record_digest


class PartCopy(NamedTuple):
    """What came of one part.

    Attributes:
        number: of the part.
        digest: the 32 digits that seal its commit record in the source.
        size: bytes of its files, where they were copied.
        was_there: whether the target had it, with the same record.
        is_other: whether the target had it, with another record.
        damage: what is wrong with it in the source, so that it was not copied.
    """

    number: int
    digest: bytes = b""
    size: int = 0
    was_there: bool = False
    is_other: bool = False
    damage: str | None = None


def copies(source: Storage, target: Storage, plan: PartsPlan, numbers: list[int], streams: int) -> Iterator[PartCopy]:
    """Copy parts, several at a time, and yield them in order.

    An error, or an interrupt, ends it after the parts that were begun; each of them is there as a whole or not at all.

    Raises:
        StorageError, OSError: a storage refuses to read or write.
    """
    there = set(target.list_parts()) if numbers else set()
    workers, begun = Workers(max(min(streams, len(numbers)), 1)), deque[Pending[PartCopy]]()
    try:
        for number in numbers:
            begun.append(workers.submit(_copied, source, target, plan, number, number in there))
            if len(begun) > streams:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        workers.close(drop=True)
        workers.wait()


def _copied(source: Storage, target: Storage, plan: PartsPlan, number: int, is_there: bool) -> PartCopy:
    if is_there:
        try:
            here, there = _digest(source, number), _digest(target, number)
            return PartCopy(number, here, was_there=here == there, is_other=here != there)
        except FileNotFoundError:
            pass  # it was removed meanwhile
        except CacheDamaged as error:
            return PartCopy(number, damage=str(error))
    staged = target.stage(number)
    try:
        try:
            record, digest = lay(source, plan, number, staged)
        except (CacheDamaged, CacheMismatch, NotACache) as error:
            return PartCopy(number, damage=str(error))
        target.commit(number, staged)
    finally:
        target.drop(staged)
    return PartCopy(number, digest, size=sum(file.bytes for file in record.files.values()))


def _digest(storage: Storage, number: int) -> bytes:
    return storage.digest(number) if isinstance(storage, Far) else record_digest(storage, number)


def lay(source: Storage, plan: PartsPlan, number: int, folder: Path) -> tuple[PartRecord, bytes]:
    """Write the files of a part into an empty folder. Return its record, and the digits that seal it.

    Raises:
        NotACache, CacheDamaged: a file is missing, or is not what the record says.
        CacheMismatch: the part was written under another plan.
    """
    where = f"{source}: {part_name(number)}"
    if isinstance(source, Far):
        try:
            source.bring_to(number, folder)
        except FileNotFoundError as error:
            raise CacheDamaged(f"{where} is gone. {way_out_of(source)}") from error
        sealed = (folder / RECORD_NAME).read_bytes()
    else:
        sealed = read_small(source, record_name(number))
    record = unseal_from(PartRecord, f"{source}/{part_name(number)}", RECORD_NAME, partial(bytes, sealed))
    if record.plan != plan.identity:
        raise CacheMismatch(f"{where} was written under another plan. {way_out_of(source)}")
    if record.part != number or record.samples != plan.samples_in(number):
        raise CacheDamaged(f"{where}: its record is about another part. {way_out_of(source)}")
    if not isinstance(source, Far):
        for name, expected in record.files.items():
            try:
                content = source.read(f"{part_name(number)}/{name}")
            except FileNotFoundError as error:
                raise CacheDamaged(f"{where}/{name} is missing. {way_out_of(source)}") from error
            if seal_of_bytes(content) != expected:
                raise CacheDamaged(f"{where}/{name} is not what its record says. {way_out_of(source)}")
            _write(folder / name, content)
        _write(folder / RECORD_NAME, sealed)
    return record, sealed[-36:-4]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
