"""Whether two caches hold the same samples, and if not, why."""

from __future__ import annotations

import numpy as np

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
            _check_same_rows(cache, other, called)
            return
        why, way_out = mismatch
    else:
        why, way_out = stored.advice(here, there)
        why = why.format(difference=_first_difference(cache, other))
    raise CacheMismatch(f"{called}: its samples are not those of {cache.path}: {why}. {way_out}")


def check_same_vocabulary(cache: Cache, other: Cache) -> None:
    """Refuse two caches whose token ids or classes mean different things. Raises CacheMismatch: says how they differ."""
    first, second = cache.manifest, other.manifest
    if first.teacher.vocabulary != second.teacher.vocabulary:
        why = f"its teacher has {second.teacher.vocabulary:,} tokens, that of {cache.path} {first.teacher.vocabulary:,}"
    elif first.tokenizer != second.tokenizer:
        why = f"its token ids mean other pieces than those of {cache.path}"
    elif getattr(first.data, "classes", None) != getattr(second.data, "classes", None):
        why = f"its classes have other names than those of {cache.path}"
    else:
        return
    raise CacheMismatch(f"{other.path}: {why}. Take caches of teachers with one vocabulary.")


def _check_same_rows(cache: Cache, other: Cache, called: str) -> None:
    """Refuse two caches of the same samples whose teachers chose other rows of them. Raises CacheMismatch."""
    stored, numbers = stored_samples(cache.manifest), cache.part_numbers
    if not numbers or not cache.samples_of(numbers[0]).rows_need_teacher:
        return
    here, there = (
        zip(*(places.tolist() for places in each.places(np.arange(len(each)))), strict=True) for each in (cache, other)
    )
    for (part, place), (other_part, other_place) in zip(here, there, strict=True):
        one, another = cache.samples_of(part).sample(place), other.samples_of(other_part).sample(other_place)
        how = stored.difference(another, one)
        if how is not None:
            raise CacheMismatch(
                f"{called}: {how} than those of {cache.path}: each teacher chose its own. Dump both with --positions "
                "random:SHARE, or with a row at every position."
            )


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
