"""Labelled texts for people. No torch."""

from __future__ import annotations

from typing import Any

from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView, class_view, visible
from logitstore.store.cache import Cache


class LabelledTextShown:
    """What people see of labelled texts; see `logitstore.report.shown.Shown`."""

    answers = "classes"
    gold = "label"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        text = sample.sample
        return class_view(visible(text.text[:tokens]), text.label, sample.answer, listed, spell, top)

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher = manifest.teacher
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} classes, {teacher.dtype})",
            f"data       {manifest.data.source}: {manifest.samples:,} labelled texts",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        return manifest.samples * 256

    def typical_error(self, manifest: Manifest) -> str:
        return "unknown; every dump measures its own"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        where = f"{data['source']} [{data['split']}], {summary['samples']:,} labelled texts"
        return [("data", f"{where} of at most {data['max_length']:,} tokens")]

    def added(self, cache: Cache) -> None:
        """Return None: nothing can be added."""
