"""How many samples a part holds, from the bytes that it is to have."""

from __future__ import annotations

import re

import numpy as np

from logitstore.format.manifest import Manifest

PART_BYTES = 128_000_000
"""Bytes of a part where nobody says how many: few enough to be written in minutes, and so many that 10^10 rows make some
10^4 parts."""

FEWEST_PARTS = 64
"""Count of parts below which none grows beyond the usual count of samples: a kill costs at most about so small a share."""

SAMPLE_BYTES = 96
"""About what a sample takes in `samples.arrow` beside its tokens and mask."""

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def bytes_of(text: str) -> int:
    """Return the bytes of a text such as 64MB, 1.5 GB, 128MiB or 64000000.

    Raises:
        ValueError: it is no such text, or less than one byte.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    size = 0 if found is None or unit is None else int(float(found[1]) * unit)
    if size < 1:
        raise ValueError(f"{text!r:.40} is no size. Write a number of bytes with its unit, such as 64MB or 128MiB")
    return size


def bytes_of_samples(manifest: Manifest, tap_bytes: int, count: float) -> float:
    """Return about how many bytes some samples take with their rows, before compression.

    Args:
        manifest: of the cache.
        tap_bytes: bytes per row of the taps.
        count: of samples, each of the mean size.
    """
    token = np.dtype(manifest.token_dtype).itemsize + 1 / 8
    of_rows = manifest.rows * (manifest.bytes_per_row + tap_bytes)
    return count * ((of_rows + manifest.tokens * token) / manifest.samples + SAMPLE_BYTES)


def samples_per_part(manifest: Manifest, tap_bytes: int, part_bytes: int | None, largest: int) -> int:
    """Return how many samples a part holds.

    Args:
        manifest: of the cache to be, with the usual count of its task.
        tap_bytes: bytes per row of the taps that are written with it.
        part_bytes: bytes of a part that are asked for. None leaves the usual count to small caches, and to samples so large
            that fewer of them make `PART_BYTES`.
        largest: the most samples that a part can hold.
    """
    most = min(manifest.samples, largest)
    wanted = int((part_bytes or PART_BYTES) / bytes_of_samples(manifest, tap_bytes, 1))
    if part_bytes is not None:
        return max(min(wanted, most), 1)
    return max(min(wanted, most, manifest.samples * manifest.views // FEWEST_PARTS), manifest.samples_per_part)
