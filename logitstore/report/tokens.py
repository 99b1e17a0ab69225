"""One sample through the teacher's eyes, token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from logitstore.core.registry import resolve
from logitstore.core.tasks import facet, task_of
from logitstore.core.types import Answer, Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.checks.rows import check_features
from logitstore.store.vocabulary import from_bytes, read_pieces

DECODED = 16
"""Number of tokens that are ranked where a row stores the whole distribution."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Another image that a view is mixed with.

    Attributes:
        weight: share of the view's own image; the partner has the rest.
        label: class of the own image, as text; None without one.
        partner: key of the other image.
        partner_label: its class.
        box: top, left, bottom and right of the box in which the partner is seen, as shares of the view; None where all pixels
            are mixed.
    """

    weight: float
    label: str | None
    partner: str
    partner_label: str | None
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Vector:
    """The vector that a cache keeps of a sample in place of distributions, decoded.

    Attributes:
        channels: how many it has.
        codec: how they are stored.
        length: its Euclidean norm.
        first: the first channels.
    """

    channels: int
    codec: str
    length: float
    first: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """A token view is one token of a sample, and the teacher's answer about its position.

    Attributes:
        text: the token, as text.
        probability: the teacher's probability of this token; None where no row is about it, or for a view without a label.
        rank: its place among the listed tokens, from 1; None where it is not among them.
        entropy: the teacher's entropy, nats; None where no row is about the token.
        alternatives: the most probable tokens with their probabilities.
        left_out: count of tokens of context that stand before this one and are not shown.
        mixed: the image that a view is mixed with; None where it is not.
        vector: what stands in the place of a distribution; None where there is one.
    """

    text: str
    probability: float | None = None
    rank: int | None = None
    entropy: float | None = None
    alternatives: tuple[tuple[str, float], ...] = ()
    left_out: int = 0
    mixed: Mixed | None = None
    vector: Vector | None = None

    def plain(self) -> dict[str, Any]:
        """Return the attributes as plain JSON; `mixed` and `vector` only where there is something to say."""
        named = asdict(self)
        return {name: value for name, value in named.items() if value is not None or name not in ("mixed", "vector")}


Listed = tuple[Array, Array]
"""int[N, K] the most probable ids of some rows, and float[N, K] their logprobs; -inf in an empty slot."""

Spell = Callable[[int], str]
"""Gives the readable text of a token id or a class."""


def class_view(text: str, label: int, answer: Answer, listed: Listed, spell: Spell, top: int) -> list[TokenView]:
    """Return the one row of a sample that has a class.

    Args:
        text: what the sample is called.
        label: number of its class; -1 without one.
        answer, listed, spell, top: see `logitstore.report.shown.Shown.tokens`.
    """
    named = f" ({spell(label)})" if label >= 0 else ""
    ids_K, probs_K = listed[0][0], np.exp(listed[1][0].astype(np.float64))
    place = np.flatnonzero((ids_K == label) & (probs_K > 0))
    return [
        TokenView(
            text=f"{text}{named}",
            probability=float(np.exp(answer["gold_logprob"][0].astype(np.float64))) if named else None,
            rank=int(place[0]) + 1 if len(place) else None,
            entropy=float(answer["entropy"][0]),
            alternatives=tuple(
                (spell(int(ids_K[k])), float(probs_K[k])) for k in range(min(top, len(ids_K))) if probs_K[k] > 0
            ),
        )
    ]


def view(cache: Cache, index: int, tokens: int, top: int) -> list[TokenView]:
    """Return the teacher's view of the first tokens of a sample that have rows, and of those between them.

    Raises:
        BadInput: there is no such sample, or its rows keep no targets.
    """
    if index >= len(cache):
        raise BadInput(f"--sample {index}: the cache has samples 0 to {len(cache) - 1}.")
    keeps = task_of(cache.manifest.task).keeps
    if keeps is None:
        cache.check_targets(f"--sample {index}")
    sample = cache[index]
    listed = _listed(cache, sample.answer) if keeps is None else (np.zeros((1, 0), np.int64), np.zeros((1, 0)))
    views: list[TokenView] = facet(cache.manifest.task, "shown").tokens(
        cache, sample, listed, _speller(cache), tokens, top
    )
    return views if keeps is None else [replace(each, vector=_vector(cache, keeps, index, top)) for each in views]


def _vector(cache: Cache, name: str, index: int, top: int) -> Vector:
    """Return the vector of a sample with its first channels. Raises BadInput: it is not there; CacheDamaged: it is broken."""
    part, place = cache.locate(index)
    tap = cache.taps[name]
    tap.check_has([part.number])
    stored = {field: np.array(values[part.span(place)]) for field, values in tap.part(part.number).items()}
    check_features(stored, tap.info.codec, lambda: f"{cache.path}: {name} of sample {index}")
    values_D = np.asarray(tap.codec.decode(stored))[0].astype(np.float64)
    return Vector(
        channels=len(values_D),
        codec=tap.info.codec,
        length=float(np.linalg.norm(values_D)),
        first=tuple(values_D[:top].tolist()),
    )


def _listed(cache: Cache, answer: Answer) -> Listed:
    """Ids and logprobs of the most probable tokens of every row; for hidden states the head is loaded, and torch with it."""
    if "ids" in answer.fields:
        return answer["ids"], answer["logprobs"]
    if "hidden" in answer.fields:
        ranked: tuple[Array, Array] = resolve("logitstore.targets.decoder:top_of")(cache, answer, DECODED)
        return ranked
    if "logprobs" not in answer.fields:
        return np.zeros((len(answer["score"]), 0), np.int64), np.zeros((len(answer["score"]), 0))
    order = np.argsort(-answer["logprobs"], axis=1, kind="stable")[:, :DECODED]
    return order, np.take_along_axis(answer["logprobs"], order, 1)


def _speller(cache: Cache) -> Spell:
    """A function from token id to readable text."""
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
