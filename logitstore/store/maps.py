"""The budget of memory maps of this process, which all open caches and taps share."""

from __future__ import annotations

from pathlib import Path

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
