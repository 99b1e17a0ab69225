"""A view of an image for people, and what a cache or a dump of images is."""

from __future__ import annotations

from typing import Any

from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView, class_view
from logitstore.store.cache import Cache

VIEW_BYTES = 24
"""Of a view in `samples.arrow`."""


class ImageShown:
    """What people see of views of images; see `logitstore.report.shown.Shown`."""

    answers = "classes"
    gold = "label"

    def tokens(self, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int) -> list[TokenView]:
        view = sample.sample
        return class_view(f"{view.name}, view {view.view}", view.label, sample.answer, listed, spell, top)

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
