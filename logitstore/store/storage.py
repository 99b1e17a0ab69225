"""Where a cache lies: what a storage does, and the table of schemes.

A storage holds one cache or one tap. Names in it are relative and have forward slashes, such as `parts/00003/part.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from logitstore.core.place import Place, is_utf8, split_scheme
from logitstore.core.record import Record
from logitstore.core.registry import resolve, suggest
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.sealed import LARGEST, unseal_from
from logitstore.store.layout import part_name, record_name
from logitstore.store.local_disk import LocalDisk

PLUGINS = "logitstore.storages"
"""The entry-point group in which other packages name storages of theirs, by scheme."""

FULL = "full"
"""The stamp of a folder of parts from which nothing goes before the index does."""


class Storage(Protocol):
    """One place that holds a cache or a tap; `str` of it names the place in messages.

    What it refuses for want of space, rights or a network is an OSError or a StorageError.
    """

    @property
    def address(self) -> str:
        """The place in full. Two storages are the same place if their addresses are equal; one lies in another if its
        address continues the other's after a slash."""
        ...

    def within(self, name: str) -> Storage:
        """Return the storage below a folder, such as that of a tap. Raises CacheDamaged: see `local`."""
        ...

    # reading

    def read(self, name: str) -> bytes:
        """Return the contents of a file.

        Raises:
            FileNotFoundError: there is none.
            CacheDamaged: see `local`.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if there is none. Raises CacheDamaged: see `local`."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names of what lies right below a folder; none for a folder that is not there."""
        ...

    def files(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, however deep, relative to the storage and sorted."""
        ...

    def holds(self, part: int) -> bool:
        """Say whether a part is committed, as the place itself says now."""
        ...

    def list_parts(self) -> list[int]:
        """Return the numbers of the committed parts, ascending."""
        ...

    def stamp(self, folder: str) -> str | None:
        """Return a text that is another one after anything has come into a folder or gone from it, right below it.

        None where that cannot be said, also because the folder has just changed and could change again without another
        stamp. FULL where parts only ever come, unless an index that tells of them goes first: then an index of all parts
        stays true. A storage may leave this method out; its caches are listed whenever they are opened.
        """
        ...

    def commit_times(self) -> dict[int, float]:
        """Return when each committed part came, in seconds since 1970, by its number; one listing, and no part is opened.

        A storage that keeps no times may leave this method out.
        """
        ...

    def local(self, name: str) -> Path:
        """Return a local path of a file or folder, such as that of a part, whose files can be mapped.

        A storage that is not local brings the files here first. A path to nothing is returned for a name of nothing.

        Raises:
            CacheDamaged: the name leads outside the storage, or to neither a file nor a folder.
        """
        ...

    def prefetch(self, names: Sequence[str]) -> None:
        """Bring some folders, such as those of parts, to where `local` finds them, in the given order, and do not wait.

        It is a hint of what is needed next, and may be ignored; what fails is said when the folder is asked for. A storage
        may leave this method out; then nothing is brought before it is asked for.
        """
        ...

    # writing

    def claim(self) -> AbstractContextManager[list[str]]:
        """Make sure that the place can be written, and give the names of what lies in it.

        A new place that is still empty is removed again if the work inside fails.

        Raises:
            BadInput: something stands there that can hold no cache.
        """
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write a file so that it is there entirely or not at all; an existing one is replaced."""
        ...

    def put_first(self, name: str, content: bytes) -> bool:
        """Write a file as `put` does, but the first writer wins: return False, and change nothing, if it exists."""
        ...

    def swap(self, name: str, known: bytes, content: bytes) -> bool:
        """Replace a file whose contents are known; return False, and change nothing, if they are others by now."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Make other processes that ask for the same wait, where the storage can do that."""
        ...

    def stage(self, part: int) -> Path:
        """Return a new local folder in which one writer prepares a part; readers never look into it, and nobody sweeps it
        away before it is committed or dropped, or its writer has ended."""
        ...

    def being_written(self) -> list[int]:
        """Return the numbers of the parts that living writers have staged, as far as that can be seen from here. A storage
        may leave this method out; then nobody is told that parts are written twice."""
        ...

    def commit(self, part: int, staged: Path) -> None:
        """Make a staged part visible, its record `part.json` last. If another writer was first, that writer's part stays.

        The staged folder is gone afterwards, and now and then also what killed writers left.
        """
        ...

    def drop(self, staged: Path) -> None:
        """Remove a staged folder that is not to be committed; nothing happens if it is gone."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens if there is none."""
        ...

    def sweep(self) -> None:
        """Remove what killed writers left, and nothing of those that still write."""
        ...

    def free_bytes(self) -> int | None:
        """Return the bytes that are free there; None if there is no limit to ask for."""
        ...


@runtime_checkable
class Far(Storage, Protocol):
    """A storage whose parts are brought here when they are asked for, and checked as they come."""

    def anew(self) -> AbstractContextManager[Storage]:
        """Give a storage of the same place that uses nothing of what was brought here before, and leaves nothing here."""
        ...

    def forget(self, part: int) -> None:
        """Remove what was brought here of a part."""
        ...

    def digest(self, part: int) -> bytes:
        """Return the 32 digits that seal the commit record of a part, as the store has it now: one small request.

        Raises:
            FileNotFoundError: there is no such part.
            CacheDamaged: it does not begin with a record.
        """
        ...

    def bring_to(self, part: int, folder: Path) -> None:
        """Write the files of a part into an empty folder, each after comparing it with the commit record.

        Raises:
            FileNotFoundError: there is no such part.
            CacheDamaged: it came damaged, twice.
        """
        ...


def _far(scheme: str) -> Callable[[str], Storage]:
    """Return what makes storages of an object store. Its library is imported when one is used."""

    def make(rest: str) -> Storage:
        storage: Storage = resolve("logitstore.store.remote.storage:ObjectStorage")(f"{scheme}://{rest}")
        return storage

    return make


STORAGES: dict[str, Callable[[str], Storage]] = {
    "": LocalDisk,
    **{scheme: _far(scheme) for scheme in ("s3", "gs", "az", "hf", "memory")},
}
"""What makes a storage of the text that follows `scheme://`, by scheme; a place without a scheme is a path on the local disk.

Those of other packages stand under the entry point `logitstore.storages`."""


def open_storage(place: Place) -> Storage:
    """Return the storage at a place: a path, or a text `scheme://rest`. Nothing there is touched.

    Raises:
        BadInput: no storage has the scheme, or the place is not UTF-8.
    """
    if not is_utf8(place):
        raise BadInput(f"{str(place)!a}: the path is not UTF-8, which Arrow cannot open. Rename it, or move the cache.")
    scheme, rest = split_scheme(place)
    return (STORAGES.get(scheme) or _plugin(scheme, place))(rest)


def _plugin(scheme: str, place: Place) -> Callable[[str], Storage]:
    """Return what another package makes storages of that scheme with. Plugins are looked for only where it is none of ours."""
    found = {entry.name: entry for entry in entry_points(group=PLUGINS)}
    if scheme not in found:
        known = [name for name in (*STORAGES, *found) if name]
        raise BadInput(
            f"{place}: no storage has the scheme '{scheme}'. {suggest(scheme, known) if known else 'None is installed.'} "
            "Install the package that has it, or give a path."
        )

    def whole(rest: str) -> Storage:
        storage: Storage = found[scheme].load()(rest)
        # one that was written for an earlier version is refused before anything is done with it
        if lacking := sorted(name for name in _NEEDED if not hasattr(storage, name)):
            package = getattr(found[scheme].dist, "name", found[scheme].value)
            raise BadInput(
                f"{place}: its storage, of the package {package}, has no {', '.join(lacking)}, which this version of "
                "logitstore needs. Install a newer version of that package."
            )
        return storage

    return whole


_NEEDED = {name for name in vars(Storage) if name[0] != "_"} - {"stamp", "commit_times", "prefetch", "being_written"}
"""What every storage has: all but what one may leave out."""


def free_bytes(place: Place) -> int | None:
    """Return the bytes that are free where a cache is to lie; None if there is no limit to ask for."""
    return open_storage(place).free_bytes()


R = TypeVar("R", bound=Record)


def read_sealed(kind: type[R], storage: Storage, name: str) -> R:
    """Read a sealed JSON file.

    Raises:
        NotACache, CacheDamaged: see `logitstore.format.sealed.unseal`; or the name leads outside the storage.
    """
    folder, _, file = f"{storage}/{name}".rpartition("/")
    return unseal_from(kind, folder, file, lambda: read_small(storage, name))


def read_small(storage: Storage, name: str) -> bytes:
    """Return the contents of a sealed JSON file, after looking at its size.

    Raises:
        CacheDamaged: it is larger than any such file, or see `Storage.read`.
    """
    if (storage.size(name) or 0) > LARGEST:
        raise CacheDamaged(
            f"{storage}: {name} is larger than {LARGEST} bytes, so it is no record. Do not use this cache."
        )
    return storage.read(name)


def stamp_of(storage: Storage, folder: str) -> str | None:
    """Return the stamp of a folder; None where the storage has none to give, or cannot look."""
    try:
        return storage.stamp(folder) if hasattr(storage, "stamp") else None
    except OSError:
        return None


def prefetch(storage: Storage, parts: Sequence[int]) -> None:
    """Tell a storage which parts are needed next, the first one first; nothing happens where it does not fetch ahead."""
    if hasattr(storage, "prefetch"):
        storage.prefetch([part_name(part) for part in parts])


def record_digest(storage: Storage, part: int) -> bytes:
    """Return the 32 digits at the end of the commit record of a part, which seal it; the rest is not looked at.

    Raises:
        CacheDamaged: the record is no file of its own.
        OSError: there is none, or it cannot be read.
    """
    return read_small(storage, record_name(part))[-36:-4]


def is_committed(storage: Storage, part: int) -> bool:
    """Say whether a part is there as a whole."""
    return storage.holds(part)
