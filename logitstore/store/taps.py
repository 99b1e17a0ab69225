"""Read taps: features of the teacher stored next to the parts of a cache, one folder per tap. Parts are mapped at first use."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import safetensors
import safetensors.numpy

from logitstore.core.memo import Budget, Memo
from logitstore.core.tasks import task_of
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, one_line
from logitstore.format.codecs.feature import FeatureCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.tap import TAP_NAME, TAPS, TapInfo, TapPlan, directions_of, tap_folder
from logitstore.format.tap_names import PATTERN, flags_for
from logitstore.store import layout
from logitstore.store.index.index import PartsIndex
from logitstore.store.maps import MAPS
from logitstore.store.part import OPEN_ARCHIVES, open_record
from logitstore.store.rows import map_rows, read_rows
from logitstore.store.storage import Storage, prefetch, read_sealed


def tap_folders(storage: Storage) -> list[str]:
    """Return the names of the folders below `taps/` that hold a tap."""
    names = (name for name in storage.names(TAPS) if re.match(PATTERN, name))
    return sorted(name for name in names if _holds_tap(storage, name))


def _holds_tap(storage: Storage, name: str) -> bool:
    try:
        return storage.size(f"{tap_folder(name)}/{TAP_NAME}") is not None
    except CacheDamaged:
        return True  # a folder that leads outside is refused when the tap is opened


def read_tap(storage: Storage, manifest: Manifest, name: str) -> TapPlan:
    """Return the plan of an existing tap.

    Raises:
        CacheDamaged: its record is broken, or belongs to another tap.
        CacheMismatch: the tap belongs to another cache.
    """
    info = read_sealed(TapInfo, storage, f"{tap_folder(name)}/{TAP_NAME}")
    if info.name != name:
        raise CacheDamaged(f"{storage}: {tap_folder(name)} holds the tap {info.name}. Remove that folder.")
    if info.plan != manifest.identity:
        raise CacheMismatch(f"{storage}: {tap_folder(name)} belongs to another cache. Remove that folder.")
    return TapPlan(info=info, manifest=manifest)


class Tap:
    """One stored feature of the teacher, such as `hidden-8`: one vector for every row of the cache."""

    def __init__(self, storage: Storage, manifest: Manifest, name: str) -> None:
        """Read the plan of the tap and list its parts. No part is opened.

        Raises:
            CacheDamaged, CacheMismatch: see `read_tap`.
        """
        self.plan = read_tap(storage, manifest, name)
        self.name, self.info = name, self.plan.info
        self.storage = storage.within(tap_folder(name))
        self.index = PartsIndex(self.storage, self.plan, storage, name)
        self._cache = storage
        if self.info.layout == "mapped":
            self._parts = Memo[int, dict[str, Array]](MAPS, len(self.plan.fields))
        else:
            self._parts = Memo[int, dict[str, Array]](Budget(OPEN_ARCHIVES))

    def __repr__(self) -> str:
        done = f"{self.index.parts} of {self.plan.parts} parts"
        return f"<Tap {self.storage}: {self.info.width} channels as {self.info.codec}, {done}>"

    @property
    def complete(self) -> bool:
        """True if every part of the plan is committed."""
        return self.index.parts == self.plan.parts

    @cached_property
    def part_numbers(self) -> list[int]:
        """Numbers of the committed parts, ascending."""
        numbers: list[int] = self.index.numbers_P.tolist()
        return numbers

    @property
    def records(self) -> list[PartRecord]:
        """The commit records of all committed parts; they are read once, at first use."""
        return self.index.records

    @cached_property
    def codec(self) -> FeatureCodec:
        """The codec that decodes stored rows to float32[N, D], in NumPy or torch.

        Raises:
            CacheDamaged: the shared file cannot be read, or holds other arrays.
        """
        return FeatureCodec(info=self.info, shared=load_tap_shared(self.storage, self.info))

    def part(self, number: int) -> dict[str, Array]:
        """Return the stored arrays of part `number`, mapped or decompressed as long as they are used.

        Raises:
            CacheDamaged: a file is missing, truncated, foreign or outside the tap.
            CacheMismatch: the part was written under another plan.
        """
        return self._parts.get(number, lambda: self._map(number))

    def prefetch(self, parts: Sequence[int]) -> None:
        """Say which parts of the tap are needed next, as `Cache.prefetch` does."""
        prefetch(self.storage, parts)

    def _map(self, number: int) -> dict[str, Array]:
        record = open_record(self.storage, self.plan, number)
        self.index.check(number)
        rows = self.storage.local(layout.part_name(number)) / layout.ROWS_FOLDER
        read = map_rows if self.info.layout == "mapped" else read_rows
        return read(rows, self.plan.fields, record.rows)

    def check_has(self, parts: Iterable[int]) -> None:
        """Raise BadInput if some of the parts do not exist."""
        if missing := sorted(set(parts) - set(self.part_numbers)):
            raise BadInput(
                f"{self._cache}: the tap '{self.name}' lacks {len(missing)} of its parts, the first {missing[0]:05d}. "
                f"Run: logitstore add {self._cache} {flags_for([self.name])}"
            )


class Taps(Mapping[str, Tap]):
    """The taps of a cache by name, complete or not. Each is opened at first use."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._cache, self._manifest = storage, manifest
        self._open: dict[str, Tap] = {}

    @cached_property
    def _names(self) -> list[str]:
        """Names of all taps; a store is asked for them at first use."""
        return tap_folders(self._cache)

    def __getitem__(self, name: str) -> Tap:
        """Return a tap. Raises BadInput if it does not exist (the message says how to add it), and the errors of `Tap`."""
        if name not in self._names:
            if not re.match(PATTERN, name):
                raise BadInput(f"no tap is named '{name}'. Names are like hidden-8, final, query-8, key-8, value-8.")
            raise BadInput(
                f"{self._cache}: it has no tap '{name}'. Run: logitstore add {self._cache} {flags_for([name])}"
            )
        if name not in self._open:
            self._open[name] = Tap(self._cache, self._manifest, name)
        return self._open[name]

    def check_kept(self, parts: Collection[int] | None) -> None:
        """Compare the sizes of the files of the tap in which the task keeps its rows; see `Cache.check_sizes`."""
        name = task_of(self._manifest.task).keeps
        if name is not None and name in self:
            self[name].index.check_sizes(parts)

    @property
    def lacking(self) -> int:
        """Count of the parts that are still to be written of the tap in which the task keeps its rows, such as vectors."""
        name = task_of(self._manifest.task).keeps
        if name is None:
            return 0
        return self._manifest.parts - (len(self[name].part_numbers) if name in self else 0)

    def check_has(self, names: Iterable[str]) -> None:
        """Raise BadInput if some taps do not exist; the message says how to add all of them."""
        wanted = sorted(names)
        if missing := [name for name in wanted if name not in self._names]:
            raise BadInput(
                f"{self._cache}: it has no {', '.join(missing)}. Run: logitstore add {self._cache} {flags_for(missing)}"
            )

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


TENSOR_FILE_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, safetensors.SafetensorError)
"""What safetensors raises about a damaged or forged file; some number formats are none that torch or NumPy has."""


def load_tap_shared(storage: Storage, info: TapInfo) -> dict[str, Array]:
    """Return the arrays of a tap's shared file, after checking them against its codec; none for a tap without such a file.

    Raises:
        CacheDamaged: the file cannot be read, or holds other arrays.
    """
    arrays: dict[str, Array] = {}
    for name in info.shared:
        path = storage.local(name)
        try:
            arrays = safetensors.numpy.load_file(path)
        except TENSOR_FILE_ERRORS as error:
            raise CacheDamaged(f"{path}: cannot be read: {one_line(error)}. Run `logitstore verify`.") from error
        wanted = shared_shapes(info)
        if {key: value.shape for key, value in arrays.items()} != wanted:
            raise CacheDamaged(
                f"{path}: it does not hold the arrays {', '.join(wanted)} of this tap. Run `logitstore verify`."
            )
        if any(value.dtype != np.float32 or not np.isfinite(value).all() for value in arrays.values()) or (
            "std" in arrays and not (arrays["std"] > 0).all()
        ):
            raise CacheDamaged(f"{path}: its arrays are not finite float32, or a deviation is not positive.")
    return arrays


def shared_shapes(info: TapInfo) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays in the shared file of a tap that is fitted on a pilot, by name."""
    if count := directions_of(info.codec):
        return {"mean": (info.width,), "directions": (count, info.width)}
    return {"mean": (info.width,), "std": (info.width,)}
