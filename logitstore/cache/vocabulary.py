"""The spelling of the token ids, from the cache's shared vocabulary."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.ipc

from logitstore.cache.layout import inside
from logitstore.cache.reader import Cache
from logitstore.errors import CacheDamaged


def read_pieces(cache: Cache) -> pa.ChunkedArray:
    """Every token id's piece, mapped, in the order of the ids.

    Raises:
        CacheDamaged: the file is missing or not a whole Arrow file with that column.
    """
    path = inside(cache.path, cache.manifest.shared_file("vocabulary"))
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("piece")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CacheDamaged(f"{path}: the cache's vocabulary cannot be read. Run `logitstore verify`.") from error
