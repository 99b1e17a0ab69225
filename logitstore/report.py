"""`inspect`: summarise a cache, and show what the teacher answered about a text. No torch; the summary reads no row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as once
from typing import Any

import numpy as np

from logitstore.cache.layout import ROWS_FOLDER, SAMPLES_FILE
from logitstore.cache.part_sums import entropy_edges
from logitstore.cache.reader import Cache
from logitstore.cache.taps import Tap
from logitstore.cache.vocabulary import read_pieces
from logitstore.errors import BadInput
from logitstore.fidelity_report import fidelity_of
from logitstore.registry import resolve
from logitstore.types import Answer, Array, View


def summarise(cache: Cache) -> dict[str, Any]:
    """Return a summary of a cache as plain JSON; everything comes from the manifest and the commit records."""
    manifest, sums, rows = cache.manifest, cache.sums, cache.rows
    counted = max(rows, 1)
    disk = {
        "rows": _bytes(cache, f"{ROWS_FOLDER}/"),
        "samples": _bytes(cache, SAMPLES_FILE),
        "shared": sum(seal.bytes for seal in manifest.shared.values()),
    }
    return {
        "path": str(cache.path),
        "complete": cache.complete,
        "parts": {"committed": len(cache.part_numbers), "planned": manifest.parts},
        "recoded_from": manifest.recoded_from,
        "merged_from": manifest.merged_from and [member.model_dump(mode="json") for member in manifest.merged_from],
        "teacher": manifest.teacher.model_dump(mode="json", exclude={"config"}),
        "task": manifest.task,
        "tokenizer": manifest.tokenizer.model_dump(mode="json") if manifest.tokenizer else None,
        "data": manifest.data.model_dump(mode="json"),
        "view": manifest.view and manifest.view.model_dump(mode="json") | {"spelled": manifest.view.spelled},
        "images": manifest.view and manifest.samples,
        "views": manifest.views,
        "samples": len(cache),
        "rows": rows,
        "bytes": sum(disk.values()),
        "disk": disk,
        "bytes_per_row": manifest.bytes_per_row,
        "target_bytes_per_row": manifest.target_bytes_per_row,
        "preset": manifest.preset,
        "sparsifier": manifest.sparsifier.model_dump(mode="json"),
        "tail": manifest.tail.model_dump(mode="json"),
        "codec": manifest.codec.model_dump(mode="json"),
        "fidelity": fidelity_of(cache.fidelity),
        "mean_tail_mass": sums.tail_mass / counted,
        "mean_entropy": sums.entropy / counted,
        "gold_cross_entropy": -sums.gold_logprob / max(counted - sums.gold_impossible - sums.no_gold, 1),
        "gold_impossible": sums.gold_impossible,
        "no_gold": sums.no_gold,
        "gold_is_top1": sums.gold_is_top1 / max(counted - sums.no_gold, 1),
        "gold_is_listed": sums.gold_is_listed / max(counted - sums.no_gold, 1),
        "entropy_histogram": {
            "edges": [round(float(edge), 4) for edge in entropy_edges(manifest.teacher.vocabulary)],
            "rows": sums.entropy_histogram,
        },
        "fields": {name: info.model_dump(mode="json") for name, info in manifest.fields.items()},
        "taps": {name: _tap(tap) for name, tap in cache.taps.items()},
        "created_by": manifest.created_by,
    }


def _tap(tap: Tap) -> dict[str, Any]:
    """Return a summary of a tap as plain JSON."""
    return {
        "codec": tap.info.codec,
        "width": tap.info.width,
        "bytes_per_row": tap.info.bytes_per_row,
        "parts": len(tap.part_numbers),
        "bytes": sum(seal.bytes for record in tap.records for seal in record.files.values())
        + sum(seal.bytes for seal in tap.info.shared.values()),
    }


def _bytes(cache: Cache, prefix: str) -> int:
    """Return the bytes of those files of all parts whose names begin with `prefix`."""
    files = [item for record in cache.records for item in record.files.items()]
    return sum(seal.bytes for name, seal in files if name.startswith(prefix))


DECODED = 16
"""Number of tokens that are ranked where a row stores the whole distribution."""


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """A token view is one token of a sample, and the teacher's answer about its position.

    Attributes:
        text: the token, as text.
        probability: the teacher's probability of this token; None where no row is about it, or for a view without a label.
        rank: its place among the listed tokens, from 1; None where it is not among them.
        entropy: the teacher's entropy, nats; None where no row is about the token.
        alternatives: the most probable tokens with their probabilities.
    """

    text: str
    probability: float | None = None
    rank: int | None = None
    entropy: float | None = None
    alternatives: tuple[tuple[str, float], ...] = ()


def view(cache: Cache, index: int, tokens: int, top: int) -> list[TokenView]:
    """Return the teacher's view of the first tokens of a sample.

    Raises:
        BadInput: there is no such sample, or its rows keep no targets.
    """
    if index >= len(cache):
        raise BadInput(f"--sample {index}: the cache has samples 0 to {len(cache) - 1}.")
    cache.check_targets(f"--sample {index}")
    item = cache[index]
    spell = _speller(cache)
    if isinstance(item.sample, View):
        return [_class_view(item.sample, item.answer, spell, _listed(cache, item.answer), top)]
    row_of = {int(position) + 1: row for row, position in enumerate(item.sample.positions_N)}
    listed = _listed(cache, item.answer)
    views = []
    for position, token in enumerate(item.sample.tokens_T[:tokens]):
        row = row_of.get(position)
        if row is None:
            views.append(TokenView(text=spell(int(token))))
            continue
        ids_K, logprobs_K = listed[0][row], listed[1][row].astype(np.float64)
        place = np.flatnonzero((ids_K == token) & np.isfinite(logprobs_K))
        views.append(
            TokenView(
                text=spell(int(token)),
                probability=float(np.exp(item.answer["gold_logprob"][row].astype(np.float64))),
                rank=int(place[0]) + 1 if len(place) else None,
                entropy=float(item.answer["entropy"][row]),
                alternatives=tuple(
                    (spell(int(ids_K[k])), float(np.exp(logprobs_K[k])))
                    for k in range(min(top, len(ids_K)))
                    if np.isfinite(logprobs_K[k])
                ),
            )
        )
    return views


def _class_view(asked: View, answer: Answer, spell: Any, listed: tuple[Array, Array], top: int) -> TokenView:
    """Return the teacher's view of one view of an image."""
    named = f" ({spell(asked.label)})" if asked.label >= 0 else ""
    ids_K, probs_K = listed[0][0], np.exp(listed[1][0].astype(np.float64))
    place = np.flatnonzero((ids_K == asked.label) & (probs_K > 0))
    return TokenView(
        text=f"{asked.name}, view {asked.view}{named}",
        probability=float(np.exp(answer["gold_logprob"][0].astype(np.float64))) if named else None,
        rank=int(place[0]) + 1 if len(place) else None,
        entropy=float(answer["entropy"][0]),
        alternatives=tuple(
            (spell(int(ids_K[k])), float(probs_K[k])) for k in range(min(top, len(ids_K))) if probs_K[k] > 0
        ),
    )


def _listed(cache: Cache, answer: Answer) -> tuple[Array, Array]:
    """Return ids and logprobs of the most probable tokens of every row. Hidden states need the head, and torch to load it."""
    if "ids" in answer.fields:
        return answer["ids"], answer["logprobs"]
    if "hidden" in answer.fields:
        ranked: tuple[Array, Array] = resolve("logitstore.decode:top_of")(cache, answer, DECODED)
        return ranked
    order = np.argsort(-answer["logprobs"], axis=1, kind="stable")[:, :DECODED]
    return order, np.take_along_axis(answer["logprobs"], order, 1)


def _speller(cache: Cache) -> Any:
    """Return a function from token id to readable text."""
    pieces = read_pieces(cache)
    spelling = cache.manifest.tokenizer.spelling if cache.manifest.tokenizer else "plain"

    def spell(token: int) -> str:
        piece = str(pieces[token]) if token < len(pieces) else f"<{token}>"
        if spelling == "byte-level":
            return visible(from_bytes(piece))
        return visible(piece.replace("\u2581", " ") if spelling == "metaspace" else piece)

    return spell


def visible(text: str) -> str:
    """Return a text with white space and control characters made visible."""
    return "".join({"\n": "\u23ce", "\t": "\u21e5"}.get(c, c if c.isprintable() else "\ufffd") for c in text)


def from_bytes(piece: str) -> str:
    """Return the text of a byte-level BPE piece, which writes every byte as one printable character."""
    table = _byte_of()
    if any(character not in table for character in piece):
        return piece
    return bytes(table[character] for character in piece).decode("utf-8", "replace")


@once
def _byte_of() -> dict[str, int]:
    """Return GPT-2's byte alphabet (Radford et al. 2019): printable Latin-1 bytes stand for themselves, the rest from
    U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(rest)}
