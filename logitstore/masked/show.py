"""Masked texts for people, and what a cache or a dump of them is. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.core.progress import amount
from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.masked.sample import info_of
from logitstore.report.tokens import Listed, Spell, TokenView
from logitstore.store.cache import Cache


class MaskedShown:
    """What people see of masked texts; see `logitstore.report.shown.Shown`."""

    answers = "tokens"
    gold = "masked token"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        """Every token as it was; the teacher's answer beside those that were masked, with what it was shown in brackets."""
        text, answer = sample.sample, sample.answer
        row_of = {int(position): row for row, position in enumerate(text.positions_N)}
        views = []
        for position, token in enumerate(text.tokens_T[:tokens].tolist()):
            row = row_of.get(position)
            if row is None:
                views.append(TokenView(text=spell(token)))
                continue
            ids_K, logprobs_K = listed[0][row], listed[1][row].astype(np.float64)
            place = np.flatnonzero((ids_K == token) & np.isfinite(logprobs_K))
            shown = int(text.shown_N[row])
            views.append(
                TokenView(
                    text=f"{spell(token)} ({spell(shown)})",
                    probability=float(np.exp(np.float64(answer["gold_logprob"][row]))),
                    rank=int(place[0]) + 1 if len(place) else None,
                    entropy=float(answer["entropy"][row]),
                    alternatives=tuple(
                        (spell(int(ids_K[k])), float(np.exp(logprobs_K[k])))
                        for k in range(min(top, len(ids_K)))
                        if np.isfinite(logprobs_K[k])
                    ),
                )
            )
        return views

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, data = manifest.teacher, info_of(manifest).model_dump(mode="json")
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} tokens, {teacher.dtype})",
            f"data       {data['source']}: {amount(data['documents'], 'document')}, {data['skipped']:,} with nothing to mask",
            f"masks      {_rule(data['mask'], manifest.views)}",
            f"samples    {manifest.samples:,} of at most {data['max_length']:,} tokens, {manifest.tokens:,} tokens a mask",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        """Two bytes a token, or four of large vocabularies; for each row its position and what is shown there."""
        width = 2 if manifest.teacher.vocabulary <= 1 << 16 else 4
        of_view = manifest.tokens * width + manifest.rows * (4 + width) + 72 * manifest.samples
        return of_view * manifest.views

    def typical_error(self, manifest: Manifest) -> str:
        return "unknown; every dump measures its own"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        where = f"{data['source']} [{data['split']}], column '{data['column']}'"
        return [
            ("data", f"{where}, {amount(data['documents'], 'document')}, {data['skipped']:,} with nothing to mask"),
            ("masks", _rule(data["mask"], summary["views"])),
            ("windows", f"at most {data['max_length']:,} tokens"),
        ]

    def added(self, cache: Cache) -> str | None:
        return f"{amount(cache.manifest.views, 'mask')} of each text"


def _rule(mask: dict[str, Any], views: int) -> str:
    """Say by which rule tokens are masked."""
    random, unchanged = mask["random"], mask["unchanged"]
    return (
        f"{mask['share']:.3g} of the tokens, of them {1 - random - unchanged:.3g} masked, {random:.3g} random and "
        f"{unchanged:.3g} unchanged; {amount(views, 'mask')} of each text, seed {mask['seed']}"
    )
