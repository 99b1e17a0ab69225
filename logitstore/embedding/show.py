"""Texts with vectors for people, and what a cache or a dump of them is. No torch."""

from __future__ import annotations

import math
from typing import Any

from logitstore.classification.show import spelled
from logitstore.core.progress import amount
from logitstore.core.types import CachedSample
from logitstore.embedding.sample import info_of
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView
from logitstore.store.cache import Cache


class EmbeddedShown:
    """What people see of texts with vectors; see `logitstore.report.shown.Shown`."""

    answers = "vector a text"
    gold = "score"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        """Return the text with the score of its pair."""
        text = sample.sample
        score = "" if math.isnan(text.score) else f" ({text.score:g})"
        spelling = info_of(cache.manifest).tokenizer.spelling
        return [TokenView(text=spelled(cache, text.tokens_T, spelling, tokens) + score)]

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, data = manifest.teacher, info_of(manifest)
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {_vectors(data.model_dump(mode='json'))}, {teacher.dtype})",
            f"data       {data.source}: {_counted(data.model_dump(mode='json'), manifest.samples)}",
            f"texts      {_lengths(data.model_dump(mode='json'))}, {manifest.tokens:,} tokens in all",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        """Two bytes a token, or four of large vocabularies; about four for each where the texts are kept."""
        data = info_of(manifest)
        width = (2 if data.tokenizer.size <= 1 << 16 else 4) + data.token_types + (4 if data.texts else 0)
        return manifest.tokens * width + 48 * manifest.samples

    def typical_error(self, manifest: Manifest) -> str:
        return "none but the rounding of its vectors, see docs/embedding.md"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        columns = " and ".join(f"'{data[name]}'" for name in ("column", "pair_column") if data[name])
        kept = "the texts too" if data["texts"] else "tokens alone"
        return [
            ("data", f"{data['source']} [{data['split']}], {columns}, {_counted(data, summary['samples'])}"),
            ("texts", f"{_lengths(data)}; kept: {kept}"),
            ("vectors", _vectors(data)),
        ]

    def added(self, cache: Cache) -> None:
        """Return None: no texts can be added to a cache."""


def _vectors(data: dict[str, Any]) -> str:
    pooled = {"first": "of the first token", "last": "of the last token", "mean": "means over the tokens"}
    return f"vectors {pooled[data['pooling']]}{', of length 1' if data['normalised'] else ''}"


def _counted(data: dict[str, Any], count: int) -> str:
    if not data["pair_column"]:
        return amount(count, "text")
    return f"{amount(count, 'text')} in pairs, {'with' if data['score_column'] else 'without'} scores"


def _lengths(data: dict[str, Any]) -> str:
    return f"at most {data['max_length']:,} tokens; {data['cut']:,} had more and are cut"
