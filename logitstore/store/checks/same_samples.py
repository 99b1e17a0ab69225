"""Whether two caches are of the same samples, and if not, why."""

from __future__ import annotations

from logitstore.errors import CacheMismatch
from logitstore.format.manifest import Manifest
from logitstore.store.cache import Cache


def check_same_samples(cache: Cache, other: Cache, called: str) -> None:
    """Refuse two caches, both complete, whose samples are not the same ones.

    Args:
        cache: the one that the other must fit.
        other: the other one.
        called: what the command line calls it, to begin the message with.

    Raises:
        CacheMismatch: with the likely reason.
    """
    here, there = cache.manifest, other.manifest
    if here.data.fingerprint == there.data.fingerprint and len(cache) == len(other):
        if _views(here) == _views(there):
            return
        why = "their views are made in other ways"
        way_out = "Dump both with the same --augment and --seed."
    elif here.view is not None and there.view is not None:
        why = f"{_first_difference(cache, other)}, so the images or their views differ"
        way_out = "Dump both with the same --data, --limit and --views."
    elif here.tokenizer != there.tokenizer:
        why = "their teachers have different tokenizers, so the same text makes other samples"
        way_out = f"Take one whose teacher has the tokenizer of {here.teacher.name}."
    else:
        why = f"{_first_difference(cache, other)}, so the data, or how they are cut into windows, differ"
        way_out = "Dump both with the same --data, --limit, --max-length, --overlap and --domain-column."
    raise CacheMismatch(f"{called}: its samples are not those of {cache.path}: {why}. {way_out}")


def _views(manifest: Manifest) -> object:
    """What views of other sizes, for other models, have in common."""
    return None if manifest.view is None else (manifest.view.transforms, manifest.view.seed)


def _first_difference(cache: Cache, other: Cache) -> str:
    if len(cache) != len(other):
        return f"it has {len(other):,} of them, not {len(cache):,}"
    pairs = zip(cache.keys(), other.keys(), strict=True)
    place = next((place for place, (key, other_key) in enumerate(pairs) if key != other_key), None)
    if place is None:
        return (
            f"the fingerprint of its data is {other.manifest.data.fingerprint}, not {cache.manifest.data.fingerprint}"
        )
    return f"its sample {place} has the key {other.keys()[place]}, not {cache.keys()[place]}"
