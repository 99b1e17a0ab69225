"""Whether two caches hold the same samples, and if not, why."""

from __future__ import annotations

from logitstore.errors import CacheMismatch
from logitstore.store.cache import Cache
from logitstore.store.samples import stored_samples


def check_same_samples(cache: Cache, other: Cache, called: str) -> None:
    """Refuse two complete caches whose samples differ.

    Args:
        cache: the cache that the other one must fit.
        other: the other cache.
        called: name of the other cache on the command line, for the beginning of the message.

    Raises:
        CacheMismatch: the samples differ; the message gives the likely reason.
    """
    here, there = cache.manifest, other.manifest
    stored = stored_samples(here)
    if (here.task, here.data.fingerprint, len(cache)) == (there.task, there.data.fingerprint, len(other)):
        mismatch = stored.mismatch(here, there)
        if mismatch is None:
            return
        why, way_out = mismatch
    else:
        why, way_out = stored.advice(here, there)
        why = why.format(difference=_first_difference(cache, other))
    raise CacheMismatch(f"{called}: its samples are not those of {cache.path}: {why}. {way_out}")


def _first_difference(cache: Cache, other: Cache) -> str:
    """Name the first sample that differs, or how many there are."""
    if len(cache) != len(other):
        return f"it has {len(other):,} of them, not {len(cache):,}"
    pairs = zip(cache.keys(), other.keys(), strict=True)
    place = next((place for place, (key, other_key) in enumerate(pairs) if key != other_key), None)
    if place is None:
        return (
            f"the fingerprint of its data is {other.manifest.data.fingerprint}, not {cache.manifest.data.fingerprint}"
        )
    return f"its sample {place} has the key {other.keys()[place]}, not {cache.keys()[place]}"
