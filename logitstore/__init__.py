"""Run a teacher once, keep what it said in a small exact cache, fit any number of students from it.

>>> cache = logitstore.open("my-cache")            # milliseconds; no row is touched
>>> cache[0].sample.tokens_T, cache[0].answer["ids"]
>>> for batch in cache.loader(batch_size=8): ...     # tensors, ready for a student and an objective
>>> logitstore.train(cache, student="my-student", out="out")    # what `logitstore train` does; any model will do
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.core.registry import resolve
from logitstore.errors import LogitstoreError

if TYPE_CHECKING:
    from logitstore.core.place import Place
    from logitstore.core.types import Answer, CachedSample
    from logitstore.store.cache import Cache
    from logitstore.store.values.zarr_store import ValuesStore
    from logitstore.text.sample import Sample
    from logitstore.train import train_student as train


__version__ = "0.1.0"


__all__ = ["Answer", "Cache", "CachedSample", "LogitstoreError", "Sample", "open", "train", "zarr_store"]

_LATER = {
    "Answer": "logitstore.core.types:Answer",
    "Cache": "logitstore.store.cache:Cache",
    "CachedSample": "logitstore.core.types:CachedSample",
    "Sample": "logitstore.text.sample:Sample",
}


def open(path: Place, *, local_cache: Path | str | None = None, local_cache_size: str | None = None) -> Cache:
    """Open a cache for reading. Costs milliseconds whatever its size, and touches no row.

    Args:
        path: a folder, or the address of a cache in an object store, such as s3://bucket/name.
        local_cache: folder that parts of a cache in an object store are brought to; from now on it is that of this process and
            of those that it starts. Default: LOGITSTORE_CACHE, else ~/.cache/logitstore.
        local_cache_size: most bytes that this folder may take, such as "500GB". Default: LOGITSTORE_CACHE_SIZE, else no bound.

    Raises:
        BadInput: no storage has the scheme of `path`, or one of the two is given for a cache on the local disk.
        NotACache: no cache there, or one of a newer format version.
        CacheDamaged: its manifest does not match its checksum.
    """
    if local_cache is not None or local_cache_size is not None:
        folder = None if local_cache is None else Path(local_cache)
        resolve("logitstore.store.remote.settings:use_local_cache")([path], folder, local_cache_size)
    opened: Cache = resolve(_LATER["Cache"])(path)
    return opened


def zarr_store(path: Place) -> ValuesStore:
    """Return the values of a cache as a read-only Zarr store: a group with one array for each field.

    >>> zarr.open_group(logitstore.zarr_store("my-cache"), mode="r")["logprobs"][:100]      # nats, float32[100, 8]
    >>> xarray.open_zarr(logitstore.zarr_store("my-cache"))

    The rows are those of all parts that are there, and are read when they are asked for. docs/format.md, "The view of values",
    says what the arrays are.

    Args:
        path: a folder, or the address of a cache in an object store.

    Raises:
        BadInput, NotACache, CacheDamaged: see `open`.
    """
    opened: ValuesStore = resolve("logitstore.store.values.zarr_store:ValuesStore")(path)
    return opened


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a command pays only for what it needs."""
    if name == "train":  # the package can be called
        return import_module("logitstore.train")
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value = resolve(_LATER[name])
    return value
