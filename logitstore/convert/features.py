"""Features that caches keep in place of distributions: the mean of several teachers' vectors, and copies in another layout.

Axes: M samples of one part, one row each, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step
from logitstore.dump.compare.vectors import stored_features
from logitstore.dump.parts import missing_work
from logitstore.dump.taps import begin_given, finish_taps, layout_for
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.format.sealed import seal
from logitstore.format.tap import TAP_NAME, needs_pilot, tap_folder
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.rows import check_features as refuse_impossible
from logitstore.store.part import read_shared
from logitstore.store.taps import Tap
from logitstore.store.writer import PartTaken, StagedPart

OF_VECTORS = "keeps a vector of each text"
"""What stands in the place of distributions, for messages."""

MEAN_CODEC = "float16"
"""How a mean is stored where the first cache's codec is fitted on the answers of its teacher."""


def refuse_row_options(settings: RecodeSettings | MergeSettings, cache: Cache, why: str) -> None:
    """Refuse options about distributions, for a cache that has none.

    Args:
        settings: of the command; how rows lie on disk is no such option.
        cache: that is read.
        why: what it keeps in their place, and what is done with that.

    Raises:
        BadInput: naming the first that was given.
    """
    asked = {"preset": settings.preset} | settings.choices()
    for name, value in asked.items():
        if value is not None and name != "layout":
            flag = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            raise BadInput(f"{flag} {value}: it is about distributions, and {cache.path} {why}. Leave it out.")


def check_features(settings: MergeSettings, caches: Sequence[Cache], name: str) -> None:
    """Refuse options and caches of which no mean of features can be made.

    Raises:
        BadInput: an option is about distributions, or an option chooses between them.
        CacheMismatch: a cache lacks a part of the feature, or has another count of channels.
    """
    if settings.by is not None:
        raise BadInput(
            f"--by {settings.by}: it is about distributions, and {caches[0].path} {OF_VECTORS}. Leave it out."
        )
    refuse_row_options(settings, caches[0], OF_VECTORS)
    widths = [cache.taps[name].info.width for cache in caches]
    for cache, width in zip(caches, widths, strict=True):
        cache.taps[name].check_has(cache.part_numbers)
        if width != widths[0]:
            raise CacheMismatch(
                f"{cache.path}: its vectors have {width} channels, those of {caches[0].path} {widths[0]}. Only vectors of one "
                "width have a mean."
            )


def write_mean(out: Place, caches: Sequence[Cache], weights: Sequence[float], name: str, progress: Progress) -> Cache:
    """Write what is missing of the mean of a feature into a cache whose parts are there. Return the cache.

    Args:
        out: the cache.
        caches: the sources, of the same samples.
        weights: of each; they sum to 1.
        name: of the feature.
        progress: receives the steps.

    Raises:
        CacheMismatch, CacheDamaged: an existing tap or part belongs to another plan, or is not whole.
        StorageError: the disk is full or the folder cannot be written.
    """
    cache = Cache(out)
    codec = caches[0].taps[name].info.codec
    chosen = MEAN_CODEC if needs_pilot(codec) else codec
    (tap,) = begin_given(cache.storage, cache.manifest, {name: caches[0].taps[name].info.width}, chosen)
    is_unit = bool(getattr(cache.manifest.data, "normalised", False))
    work = missing_work(cache.storage, cache.part_numbers, [name])
    for done, number in enumerate(work, 1):
        samples = [cache.samples_of(number).sample(index) for index in range(len(cache.samples_of(number)))]
        first = cache.manifest.samples_below(number)
        numbers_M = np.arange(first, first + len(samples))
        mean_MD = torch.stack(
            [weight * stored_features(each, name, numbers_M) for each, weight in zip(caches, weights, strict=True)]
        ).sum(0)
        if is_unit:
            mean_MD = torch.nn.functional.normalize(mean_MD, dim=-1)
        with suppress(PartTaken), StagedPart(tap.storage, tap.plan, number, samples) as staged:
            fields = {field: value.numpy() for field, value in tap.codec.encode(mean_MD).items()}
            for index in range(len(samples)):
                staged.write(index, {field: value[index : index + 1] for field, value in fields.items()})
            staged.commit()
        progress(Step(stage="mean of vectors", done=done, total=len(work), part=number))
    cache = Cache(out)
    finish_taps(cache, [name], cache.part_numbers)
    return cache


def write_copy(out: Place, source: Cache, name: str, progress: Progress) -> Cache:
    """Write what is missing of the feature of another cache into one whose parts are there, in the layout of its plan.

    The values are copied as they are stored. Return the cache.

    Args:
        out: the cache.
        source: the other one; it has the same samples.
        name: of the feature.
        progress: receives the steps.

    Raises:
        CacheMismatch, CacheDamaged: an existing tap or part belongs to another plan, or is not whole.
        StorageError: the disk is full or the folder cannot be written.
    """
    cache = Cache(out)
    tap = _begin_copy(cache, source.taps[name])
    work = missing_work(cache.storage, cache.part_numbers, [name])
    for done, number in enumerate(work, 1):
        stored = source.taps[name].part(number)
        refuse_impossible(stored, tap.info.codec, partial("{}: {}, part {:05d}".format, source.path, name, number))
        samples = [cache.samples_of(number).sample(index) for index in range(len(cache.samples_of(number)))]
        with suppress(PartTaken), StagedPart(tap.storage, tap.plan, number, samples) as staged:
            for index in range(len(samples)):
                staged.write(index, {field: values[index : index + 1] for field, values in stored.items()})
            staged.commit()
        progress(Step(stage="copy of vectors", done=done, total=len(work), part=number))
    cache = Cache(out)
    finish_taps(cache, [name], cache.part_numbers)
    return cache


def _begin_copy(cache: Cache, source: Tap) -> Tap:
    """Begin a tap with the codec and the shared file of another cache's, or find the one that is there.

    Raises:
        CacheMismatch: the one that is there is stored in another way.
        CacheDamaged: the shared file is not what its seal says.
    """
    plan, layout = cache.manifest.identity, layout_for(cache.manifest, source.name)
    wanted = source.info.model_copy(update={"plan": plan, "layout": layout})
    storage = cache.storage.within(tap_folder(source.name))
    with storage_errors(storage):
        for file, content in read_shared(source.storage, wanted.shared).items():
            storage.put(file, content)
        storage.put_first(TAP_NAME, seal(wanted))
    found = Tap(cache.storage, cache.manifest, source.name)
    if found.info != wanted:
        raise CacheMismatch(
            f"{storage}: its vectors are stored as {found.info.codec}, {found.info.layout}, and not as those of "
            f"{source.storage}. Remove that folder, or choose another --out."
        )
    return found
