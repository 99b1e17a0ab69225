"""A view of an image for people, and what a cache or a dump of images is."""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView
from logitstore.store.cache import Cache

VIEW_BYTES = 24
"""Of a view in `samples.arrow`."""


class ImageShown:
    """What people see of views of images; see `logitstore.report.shown.Shown`."""

    def tokens(self, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int) -> list[TokenView]:
        view, answer = sample.sample, sample.answer
        named = f" ({spell(view.label)})" if view.label >= 0 else ""
        ids_K, probs_K = listed[0][0], np.exp(listed[1][0].astype(np.float64))
        place = np.flatnonzero((ids_K == view.label) & (probs_K > 0))
        return [
            TokenView(
                text=f"{view.name}, view {view.view}{named}",
                probability=float(np.exp(answer["gold_logprob"][0].astype(np.float64))) if named else None,
                rank=int(place[0]) + 1 if len(place) else None,
                entropy=float(answer["entropy"][0]),
                alternatives=tuple(
                    (spell(int(ids_K[k])), float(probs_K[k])) for k in range(min(top, len(ids_K))) if probs_K[k] > 0
                ),
            )
        ]

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, (data, view) = manifest.teacher, manifest.images
        height, width = view.size
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} classes, {teacher.dtype})",
            f"data       {data.source}: {manifest.samples:,} images, {data.unlabelled:,} without a label",
            f"views      {manifest.views:,} of each, {height} x {width}: {view.spelled}",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        return manifest.samples * manifest.views * VIEW_BYTES

    def typical_error(self, manifest: Manifest) -> str:
        return "unknown; every dump measures its own"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data, view = summary["data"], summary["view"]
        height, width = view["size"]
        libraries = ", ".join(f"{name} {version}" for name, version in view["versions"].items())
        return [
            (
                "data",
                f"{data['source']} [{data['split']}], {summary['images']:,} images, {data['unlabelled']:,} unlabelled",
            ),
            ("views", f"{summary['views']:,} of each, {height} x {width}, {view['interpolation']}: {view['spelled']}"),
            ("made with", f"{libraries}; seed {view['seed']}"),
        ]

    def added(self, cache: Cache) -> str:
        return f"{cache.manifest.views:,} views of {cache.manifest.samples:,} images"
