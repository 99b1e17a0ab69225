"""Queries with their documents for people, and what a cache or a dump of them is. No torch."""

from __future__ import annotations

from typing import Any

from logitstore.classification.show import pieces_of
from logitstore.core.progress import amount
from logitstore.core.types import Array, CachedSample
from logitstore.format.manifest import Manifest
from logitstore.ranking.sample import info_of
from logitstore.report.tokens import Listed, Spell, TokenView, visible
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import bytes_of_piece


class RankedShown:
    """What people see of queries; see `logitstore.report.shown.Shown`."""

    answers = "score a document"
    gold = "label"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        """Return one line for each document: the text, its label, and the teacher's score as the only alternative."""
        query, score_D = sample.sample, sample.answer["score"]
        found = []
        for place, pair in enumerate(query.tokens[: max(tokens, 1)]):
            text = (
                visible(query.documents[place]) if query.documents is not None else self._spelled(cache, pair[:tokens])
            )
            label = int(query.label_D[place])
            named = f" ({label})" if label >= 0 else ""
            score = float(score_D[place])
            better = int((score_D > score).sum())
            found.append(
                TokenView(
                    text=f"{text}{named}",
                    probability=None,
                    rank=better + 1,
                    entropy=0.0,
                    alternatives=(("score", score),),
                )
            )
        return found

    def _spelled(self, cache: Cache, tokens_T: Array) -> str:
        pieces, spelling = pieces_of(cache), info_of(cache.manifest).tokenizer.spelling
        spelled = [bytes_of_piece(str(pieces[token]), spelling) for token in tokens_T.tolist()]
        joint = b" " if spelling == "plain" else b""
        return visible(joint.join(spelled).decode("utf-8", "replace"))

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, data = manifest.teacher, info_of(manifest)
        plain = data.model_dump(mode="json")
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, one score, {teacher.dtype})",
            f"data       {data.source}: {_counted(plain, manifest.samples)}",
            f"texts      {_lengths(plain)}, {manifest.tokens:,} tokens in all",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        """Two bytes a token, or four of large vocabularies; about four for each where the texts are kept."""
        data = info_of(manifest)
        width = (2 if data.tokenizer.size <= 1 << 16 else 4) + data.token_types + (4 if data.texts else 0)
        return manifest.tokens * width + 8 * manifest.rows + 48 * manifest.samples

    def typical_error(self, manifest: Manifest) -> str:
        return "none: a score is kept as the teacher gives it"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        kept = "the texts too" if data["texts"] else "tokens alone"
        columns = f"'{data['column']}' with '{data['document_column']}'"
        return [
            ("data", f"{data['source']} [{data['split']}], {columns}, {_counted(data, summary['samples'])}"),
            ("pairs", f"{_lengths(data)}; kept: {kept}"),
        ]

    def added(self, cache: Cache) -> None:
        """Return None: no queries can be added to a cache."""


def _counted(data: dict[str, Any], count: int) -> str:
    queries = "1 query" if count == 1 else f"{count:,} queries"
    return f"{queries} with {amount(data['documents'], 'document')}, {data['unlabelled']:,} queries without a label"


def _lengths(data: dict[str, Any]) -> str:
    return f"at most {data['max_length']:,} tokens; {data['cut']:,} had more and are cut"
