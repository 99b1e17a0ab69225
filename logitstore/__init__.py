"""Run a teacher once, keep what it said in a small exact cache, fit any number of students from it.

>>> cache = logitstore.open("my-cache")            # milliseconds; no row is touched
>>> cache[0].sample.tokens_T, cache[0].answer["ids"]
>>> for batch in cache.loader(batch_size=8): ...     # tensors, ready for a student and an objective
>>> logitstore.train(cache, student="my-student", out="out")    # what `logitstore train` does; any model will do
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from logitstore.core.registry import resolve
from logitstore.errors import LogitstoreError

if TYPE_CHECKING:
    from logitstore.core.place import Place
    from logitstore.core.types import Answer, CachedSample
    from logitstore.store.cache import Cache
    from logitstore.text.sample import Sample
    from logitstore.train import train_student as train


__version__ = "0.1.0"


__all__ = ["Answer", "Cache", "CachedSample", "LogitstoreError", "Sample", "open", "train"]

_LATER = {
    "Answer": "logitstore.core.types:Answer",
    "Cache": "logitstore.store.cache:Cache",
    "CachedSample": "logitstore.core.types:CachedSample",
    "Sample": "logitstore.text.sample:Sample",
}


def open(path: Place) -> Cache:
    """Open a cache for reading. Costs milliseconds whatever its size, and touches no row.

    Raises:
        NotACache: no cache there, or one of a newer format version.
        CacheDamaged: its manifest does not match its checksum.
    """
    opened: Cache = resolve(_LATER["Cache"])(path)
    return opened


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a command pays only for what it needs."""
    if name == "train":  # the package can be called
        return import_module("logitstore.train")
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value = resolve(_LATER[name])
    return value
