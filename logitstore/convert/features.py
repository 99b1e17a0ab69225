"""The mean of several teachers' vectors, of caches that keep a feature in place of distributions.

Axes: M samples of one part, one row each, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step
from logitstore.dump.compare.vectors import stored_features
from logitstore.dump.parts import missing_work
from logitstore.dump.taps import begin_given, finish_taps
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.tap import needs_pilot
from logitstore.settings.convert import MergeSettings
from logitstore.store.cache import Cache
from logitstore.store.writer import PartTaken, StagedPart

MEAN_CODEC = "float16"
"""How a mean is stored where the first cache's codec is fitted on the answers of its teacher."""


def check_features(settings: MergeSettings, caches: Sequence[Cache], name: str) -> None:
    """Refuse options and caches of which no mean of features can be made.

    Raises:
        BadInput: an option is about distributions, or an option chooses between them.
        CacheMismatch: a cache lacks a part of the feature, or has another count of channels.
    """
    asked = {"by": settings.by, "preset": settings.preset} | settings.choices()
    if named := [option for option, value in asked.items() if value is not None and option != "layout"]:
        raise BadInput(
            f"--{named[0].replace('_', '-')}: it is about distributions, and {caches[0].path} keeps a vector of each text. "
            "Leave it out."
        )
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
