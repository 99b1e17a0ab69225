"""Classified texts for people, and what a cache or a dump of them is. No torch."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from logitstore.classification.sample import info_of
from logitstore.core.progress import amount
from logitstore.core.types import Array, CachedSample
from logitstore.errors import CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView, class_view, visible
from logitstore.store.cache import Cache
from logitstore.store.samples import open_arrow
from logitstore.store.vocabulary import bytes_of_piece

PIECES = "pieces"
"""The kind of the shared file with the pieces of the tokenizer."""


class ClassifiedShown:
    """What people see of classified texts; see `logitstore.report.shown.Shown`."""

    answers = "classes"
    gold = "label"

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        text = spelled(cache, sample.sample.tokens_T, info_of(cache.manifest).tokenizer.spelling, tokens)
        return class_view(text, sample.sample.label, sample.answer, listed, spell, top)

    def dry_run(self, manifest: Manifest) -> list[str]:
        teacher, data = manifest.teacher, info_of(manifest)
        return [
            f"teacher    {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} classes, {teacher.dtype})",
            f"data       {data.source}: {_counted(data.model_dump(mode='json'), manifest.samples)}",
            f"texts      {_lengths(data.model_dump(mode='json'))}, {manifest.tokens:,} tokens in all",
        ]

    def sample_bytes(self, manifest: Manifest) -> int:
        """Two bytes a token, or four of large vocabularies; about four for each where the texts are kept."""
        data = info_of(manifest)
        width = (2 if data.tokenizer.size <= 1 << 16 else 4) + data.token_types + (4 if data.texts else 0)
        return manifest.tokens * width + 48 * manifest.samples

    def typical_error(self, manifest: Manifest) -> str:
        return "unknown; every dump measures its own"

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        data = summary["data"]
        columns = " with ".join(f"'{data[name]}'" for name in ("column", "pair_column") if data[name])
        kept = "the texts too" if data["texts"] else "tokens alone"
        return [
            ("data", f"{data['source']} [{data['split']}], {columns}, {_counted(data, summary['samples'])}"),
            ("texts", f"{_lengths(data)}; kept: {kept}"),
        ]

    def added(self, cache: Cache) -> None:
        """Return None: no texts can be added to a cache."""


def _counted(data: dict[str, Any], count: int) -> str:
    what = amount(count, "pair" if data["pair_column"] else "text")
    return f"{what}, {data['unlabelled']:,} without a label"


def _lengths(data: dict[str, Any]) -> str:
    return f"at most {data['max_length']:,} tokens; {data['cut']:,} had more and are cut"


def spelled(cache: Cache, tokens_T: Array, spelling: str, tokens: int) -> str:
    """Return the first tokens of a text in readable form, and how many more there are."""
    pieces = pieces_of(cache)
    found = [bytes_of_piece(str(pieces[token]), spelling) for token in tokens_T[:tokens].tolist()]
    if spelling == "plain":  # of words and their ends
        joined = " ".join(piece.decode("utf-8", "replace") for piece in found).replace(" ##", "")
    else:
        joined = b"".join(found).decode("utf-8", "replace")
    return visible(joined) + (f" ... {len(tokens_T) - tokens:,} more" if len(tokens_T) > tokens else "")


def pieces_of(cache: Cache) -> pa.ChunkedArray:
    """Return the piece of every token id, mapped. Raises CacheDamaged: the file is missing or damaged."""
    path = cache.storage.local(cache.manifest.shared_file(PIECES))
    try:
        return open_arrow(pa.memory_map(str(path))).read_all().column("piece")
    except (pa.ArrowException, OSError, KeyError, struct.error) as error:
        raise CacheDamaged(f"{path}: the pieces of the tokenizer cannot be read. Run `logitstore verify`.") from error
