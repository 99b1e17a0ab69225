"""The budget of memory maps of this process, which all open caches and taps share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from logitstore.core.memo import Budget

LARGEST_SHARE = 0.5
"""Share of the maps of a process that go to caches: the rest is for libraries, memory, and arrays that somebody still holds."""


USUAL_LIMIT, MOST = 65_530, 1 << 15
"""Maps that Linux allows a process where nobody changed it; and the most that are kept, because each part costs memory too."""


def map_limit(told: Path = Path("/proc/sys/vm/max_map_count")) -> int:
    """Return how many maps the system allows a process; the usual number of Linux where it does not say."""
    try:
        return int(told.read_text())
    except (OSError, ValueError):
        return USUAL_LIMIT


MAPS = Budget(min(int(map_limit() * LARGEST_SHARE), MOST))
"""Every open file of samples, rows and taps is one map, and no file descriptor: Arrow closes the file once it is mapped."""


Watch = Callable[[str, object], None]
"""Is told of a path that is mapped, and of the object that holds the map as long as it lives."""

_WATCHES: dict[str, Watch] = {}


def watch_maps(root: str, watch: Watch) -> None:
    """Tell of every map of a file below a folder from now on."""
    _WATCHES[f"{root}/"] = watch


def tell_of_map(path: Path | str, holder: object) -> None:
    """Tell those who watch of a file that is mapped from now on, as long as an object lives."""
    for root, watch in list(_WATCHES.items()):
        if str(path).startswith(root):
            watch(str(path), holder)


def map_file(path: Path | str, size: int) -> pa.Buffer:
    """Return a map of the first bytes of a file, read-only. Unlike `numpy.memmap` it keeps no file descriptor open.

    Raises:
        OSError, pa.ArrowException: the file cannot be mapped.
    """
    buffer = pa.memory_map(str(path)).read_buffer(size)
    tell_of_map(path, buffer)
    return buffer
