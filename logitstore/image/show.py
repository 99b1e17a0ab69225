"""A view of an image for people, and what a cache or a dump of images is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from logitstore.core.progress import amount
from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.format.views import MIXING
from logitstore.image.stored import images_of
from logitstore.image.view import View
from logitstore.image.views.mix import mixing
from logitstore.report.tokens import Listed, Mixed, Spell, TokenView, class_view
from logitstore.store.cache import Cache

MIXED = "mixed views have no label of their own"

NAMED = 5
"""Most images that are named of those that were left out."""

VIEW_BYTES = 24
"""Of a view in `samples.arrow`."""


class ImageShown:
    """What people see of views of images; see `logitstore.report.shown.Shown`."""

    answers = "classes"
    gold = "label"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        view, mixed = sample.sample, _mixed(cache, sample.sample, spell)
        shown = class_view(f"{view.name}, view {view.view}", view.label, sample.answer, listed, spell, top)
        return [replace(each, mixed=mixed) for each in shown]

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, (data, view) = manifest.teacher, manifest.images
        height, width = view.size
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} classes, {teacher.dtype})",
            f"data       {data.source}: {amount(manifest.samples, 'image')}, "
            + (MIXED if view.mixes else f"{data.unlabelled:,} without a label")
            + _skipped(data.skipped),
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
                f"{data['source']} [{data['split']}], {amount(summary['images'], 'image')}, {_labels(summary)}"
                + _skipped(data.get("skipped", ())),
            ),
            ("views", f"{summary['views']:,} of each, {height} x {width}, {view['interpolation']}: {view['spelled']}"),
            ("made with", f"{libraries}; seed {view['seed']}"),
        ]

    def added(self, cache: Cache) -> str:
        return f"{amount(cache.manifest.views, 'view')} of {amount(cache.manifest.samples, 'image')}"


def _mixed(cache: Cache, view: View, spell: Spell) -> Mixed | None:
    """Return what a view is mixed with; None where it is not."""
    images, info = images_of(cache), cache.manifest.images[1]
    mix = mixing(info, view.image, len(images), view.view)
    if mix is None:
        return None
    label, partner_label = (
        spell(int(images.labels[image])) if images.labels[image] >= 0 else None for image in (view.image, mix.partner)
    )
    return Mixed(
        weight=mix.weight, label=label, partner=images.name(mix.partner), partner_label=partner_label, box=mix.box
    )


def _labels(summary: dict[str, Any]) -> str:
    """Say how many images have labels; of mixed views the cache keeps those of the images."""
    if not any(each["name"] in MIXING for each in summary["view"]["transforms"]):
        return f"{summary['data']['unlabelled']:,} unlabelled"
    labelled = int((images_of(Cache(summary["path"])).labels >= 0).sum())
    return f"{summary['images'] - labelled:,} unlabelled; {MIXED}"


def _skipped(keys: Sequence[str]) -> str:
    """Say which images were left out, the first of them by their keys."""
    if not keys:
        return ""
    more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
    return f"; {len(keys):,} left out because they are damaged: {', '.join(keys[:NAMED])}{more}"
