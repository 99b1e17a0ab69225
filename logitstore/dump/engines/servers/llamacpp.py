"""llama.cpp's server. It says nothing about a prompt, so each position is a request of its own: the tokens so far, which the
server still has from the request before, and one token more, which is forced to be the next one of the text.

A bias forces it. The logprobs are those before any bias and sampler, and the forced token's own logprob is told even where it
is not in the list. (A grammar of token ids would force a whole text at once. It is as fast, and gives the same bits, but the
server dies of one that holds a piece of a character.)

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import ClassVar

import numpy as np

from logitstore.core.types import Array
from logitstore.dump.engines.servers.api import Lists, Served, number, tokens_from, whole
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError

FORCED = 10_000.0
"""Bias of the token that is forced: more than the logits of two tokens are ever apart."""

LOWEST = -149 * math.log(2)
"""Nats. The server takes the logarithm of a float32, whose smallest is 2^-149, and gives its lowest number for a 0."""

FIRST_SEARCH, WIDER = 256, 16
"""Entries of the first list that a piece of a character is looked for in, and how much longer each next one is."""

FEW = 16
"""Tokens of a text up to which it does not matter whether the server forgets it between two requests."""

UPDATE = "Update llama.cpp (builds of October 2026 do it), and check that nothing between here and the server changes requests."

FIELDS = ["completion_probabilities", "tokens", "tokens_evaluated", "truncated", "model", "timings/cache_n"]
"""What is wanted of an answer; an older server gives all of it."""


class _Places:
    """The slots of a server: so many texts are under way at once, for each has the slot that knows its beginning."""

    def __init__(self) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        self._count = 0

    def grow_to(self, count: int) -> None:
        for _ in range(self._count, count):
            self._free.put(None)
        self._count = max(self._count, count)

    @contextmanager
    def one(self) -> Iterator[None]:
        self._free.get()
        try:
            yield
        finally:
            self._free.put(None)


@dataclass(frozen=True, eq=False)
class LlamaCppApi:
    """How llama.cpp's server is asked. See `logitstore.dump.engines.servers.api.Api`.

    Attributes:
        places: the server's slots, known once `served` was asked.
        halves: tokens that are known to end within a character.
    """

    engine: ClassVar[str] = "llamacpp"

    places: _Places = field(default_factory=_Places)
    halves: set[int] = field(default_factory=set)

    def served(self, wire: Wire, model: str | None) -> Served:
        wire.get("/health", optional=True)  # 503 until the model is loaded
        about = wire.get("/props") or {}
        defaults = about.get("default_generation_settings")
        context = whole(defaults.get("n_ctx")) if isinstance(defaults, dict) else None
        slots = whole(about.get("total_slots"))
        if not context or not slots:
            raise ModelError(f"{wire.server}: it is no server of llama.cpp. Check --engine and the address.")
        cards = (wire.get("/v1/models") or {}).get("data")
        if not isinstance(cards, list) or len(cards) != 1 or not isinstance(cards[0], dict):
            raise ModelError(
                f"{wire.server}: it serves several models, or none. Start llama-server with one (-m FILE)."
            )
        [card] = cards
        name, aliases, meta = card.get("id"), card.get("aliases"), card.get("meta")
        if not isinstance(name, str):
            raise ModelError(f"{wire.server}: it is no server of llama.cpp. Check --engine and the address.")
        if model not in (None, name, *(aliases if isinstance(aliases, list) else ())):
            raise ModelError(
                f"{wire.server}: it serves no model called '{model}'. Give the name that --alias or -m of its start has, or "
                "leave out what stands behind '#'."
            )
        self.places.grow_to(slots)
        version = about.get("build_info")
        return Served(
            model=name,
            version=version if isinstance(version, str) and version.isprintable() else None,
            # the last place of a context is never filled: an answer there counts as cut off
            longest=context - 1,
            vocabulary=whole(meta.get("n_vocab")) if isinstance(meta, dict) else None,
        )

    def tokens(self, wire: Wire, text: str) -> list[int] | None:
        return tokens_from(wire, {"content": text, "add_special": False, "parse_special": True})

    def lists(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> Lists:
        """Ask for the list of each position, one after the other; see `Api`."""
        rows: list[_Row] = []
        with self.places.one():
            for length in range(1, len(tokens_T)):
                rows.append(self._row(wire, model, tokens_T[: length + 1], entries))
        forgotten = sum(row.known is not None and row.known < length // 2 for length, row in enumerate(rows, 1))
        if len(rows) > FEW and forgotten > len(rows) / 2:
            raise ModelError(
                f"{wire.server}: it forgets a text between two requests about it, and reads it again from its beginning. Start "
                "llama-server with --parallel N and --no-kv-unified, and give --concurrency N for all dumps together."
            )
        width = min(len(row.ids_K) for row in rows)
        return Lists(
            ids_RK=np.stack([row.ids_K[:width] for row in rows]),
            logprobs_RK=np.stack([row.logprobs_K[:width] for row in rows]),
            gold_R=np.array([row.gold for row in rows], np.float32),
        )

    def _row(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> _Row:
        """Return what the server says of the last of some tokens, given those before it."""
        *prompt, gold = tokens_T
        row = None if gold in self.halves else _asked(wire, model, prompt, gold, entries)
        if row is not None:
            return row
        # the server tells nothing of a token that ends within a character; another one is forced, and this one is looked for
        self.halves.add(gold)
        other = next(iter(self.tokens(wire, "a") or [0]))
        count, listed = max(entries, FIRST_SEARCH), 0
        while True:
            row = _asked(wire, model, prompt, other, count)
            if row is None or len(row.ids_K) == listed:
                raise ModelError(
                    f"{wire.server}: it tells no logprob of a token, neither by itself nor in a list. {UPDATE}"
                )
            if (found := np.flatnonzero(row.ids_K == gold)).size:
                return row.cut(entries, float(row.logprobs_K[found[0]]))
            count, listed = count * WIDER, len(row.ids_K)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What a server says of one position.

    Attributes:
        ids_K, logprobs_K: int64 and float32, the list.
        gold: logprob of the token that was forced.
        known: how many tokens of the prompt the server had not forgotten; None where it does not say.
    """

    ids_K: Array
    logprobs_K: Array
    gold: float
    known: int | None

    def cut(self, entries: int, gold: float) -> _Row:
        return _Row(ids_K=self.ids_K[:entries], logprobs_K=self.logprobs_K[:entries], gold=gold, known=self.known)


def _asked(wire: Wire, model: str, prompt_T: list[int], forced: int, entries: int) -> _Row | None:
    """Return the list after some tokens, and the logprob of the one that is forced; None where that is a piece of a character.

    What a server may do by itself to a token, such as a grammar or a sampler of its start, is named and switched off.

    Raises:
        ModelError: the server did not do it.
    """
    answer = wire.post(
        "/completion",
        {
            "prompt": prompt_T,
            "n_predict": 1,
            "n_probs": entries,
            "post_sampling_probs": False,
            "logit_bias": [[forced, FORCED]],
            "samplers": ["top_k"],
            "top_k": 1,
            "grammar": "",
            "stop": [],
            "ignore_eos": False,
            "cache_prompt": True,
            "return_tokens": True,
            "stream": False,
            "response_fields": FIELDS,
        },
        way_out=f"Its log says why: it may have no room for {len(prompt_T) + 1} tokens (--ctx-size), or another vocabulary.",
    )
    answer, server = answer or {}, wire.server
    if answer.get("model") != model:
        raise ModelError(
            f"{server}: another model answers than the one that it said to serve. Start it with that one alone."
        )
    if answer.get("tokens_evaluated") != len(prompt_T) or answer.get("truncated") is not False:
        raise ModelError(
            f"{server}: it did not read a text of {len(prompt_T)} tokens as it is: it adds tokens, or cuts texts. Start it "
            f"with a larger --ctx-size, and without --context-shift. {UPDATE}"
        )
    if answer.get("tokens") != [forced]:
        raise ModelError(
            f"{server}: it ignores logit_bias, samplers or return_tokens, and made another token. {UPDATE}"
        )
    said = answer.get("completion_probabilities")
    if said is None or said == []:
        # the same is said of pieces of characters, and by a server that gives no lists: of which, the next request tells
        return None
    if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], dict) or said[0].get("id") != forced:
        raise ModelError(f"{server}: it gave lists of other tokens than it was asked for. {UPDATE}")
    listed = said[0].get("top_logprobs")
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ModelError(
            f"{server}: it ignores n_probs or post_sampling_probs, and gives no lists of logprobs. {UPDATE}"
        )
    ids = [whole(each.get("id")) for each in listed]
    values = [number(each.get("logprob")) for each in [*listed, said[0]]]
    if None in ids or None in values:
        raise ModelError(f"{server}: it left out an id or a logprob of a list of {len(listed)} tokens. {UPDATE}")
    *logprobs, gold = np.maximum(np.array(values, np.float32), np.float32(LOWEST))
    return _Row(
        ids_K=np.array(ids, np.int64),
        logprobs_K=np.array(logprobs, np.float32),
        gold=float(gold),
        known=whole(answer.get("timings/cache_n")),
    )
