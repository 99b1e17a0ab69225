"""The settings of the commands that read caches: the folder on this machine that far caches are read through."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.place import Place
from logitstore.core.record import Record
from logitstore.settings.fields import ByteSize, FilePath


class LocalCacheChoices(Record):
    """The folder that caches in object stores are read through, and its size."""

    local_cache: FilePath | None = Field(
        None,
        description="Folder on this machine that parts of a cache in an object store are brought to, once for all processes. "
        "Default: LOGITSTORE_CACHE, else ~/.cache/logitstore.",
    )
    local_cache_size: ByteSize | None = Field(
        None,
        examples=["SIZE"],
        description="Most bytes that this folder may take, such as 500GB; what was used longest ago goes first. Default: "
        "LOGITSTORE_CACHE_SIZE, else no bound.",
    )

    @property
    def places(self) -> list[Place]:
        """The caches that the command reads or writes, wherever they lie."""
        named = (getattr(self, name, None) for name in ("cache", "caches", "also", "reference", "out"))
        return [place for each in named if each is not None for place in (each if isinstance(each, list) else [each])]
