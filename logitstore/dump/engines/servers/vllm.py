"""The API of vLLM's server: `/v1/completions` with token ids, and the logprobs of the prompt by token ids.

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from logitstore.dump.engines.servers.api import Lists, Served, number, tokens_from, whole
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError

UPDATE = "Update vLLM (0.32 does it), and check that nothing between here and the server changes requests."


@dataclass(frozen=True)
class VllmApi:
    """How vLLM's server is asked. See `logitstore.dump.engines.servers.api.Api`."""

    engine: ClassVar[str] = "vllm"

    def served(self, wire: Wire, model: str | None) -> Served:
        """Return what the server says of a model; the texts may be one token shorter than its context, as one token is made."""
        cards = (wire.get("/v1/models") or {}).get("data")
        if not isinstance(cards, list) or not all(
            isinstance(card, dict) and isinstance(card.get("id"), str) for card in cards
        ):
            raise ModelError(
                f"{wire.server}: it does not say what it serves as vLLM does. Check --engine and the address."
            )
        # adapters are models with a parent
        found = [card for card in cards if (card["id"] == model if model is not None else not card.get("parent"))]
        if model is not None and not found:
            raise ModelError(
                f"{wire.server}: it serves no model called '{model}'. Give the name that --served-model-name or --model of its "
                "start has, or leave out what stands behind '#'."
            )
        if len(found) != 1:
            raise ModelError(f"{wire.server}: it serves {len(found)} models. Name one: http://HOST:PORT#MODEL.")
        version = (wire.get("/version", optional=True) or {}).get("version")
        context = whole(found[0].get("max_model_len"))
        return Served(
            model=found[0]["id"],
            version=version if isinstance(version, str) and version.isprintable() else None,
            longest=None if context is None else context - 1,
        )

    def tokens(self, wire: Wire, text: str) -> list[int] | None:
        return tokens_from(wire, {"prompt": text, "add_special_tokens": False})

    def lists(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> Lists:
        """Ask for the lists of a text; see `Api`. The logprobs of a prompt are those before any temperature."""
        answer = wire.post(
            "/v1/completions",
            {
                "model": model,
                "prompt": tokens_T,
                "max_tokens": 1,
                "temperature": 1.0,
                "prompt_logprobs": entries,
                "return_token_ids": True,
            },
            way_out=f"It may not give lists of {entries} (start it with --max-logprobs {entries}; without, it gives 20), or "
            f"not take texts of {len(tokens_T)} tokens (--max-model-len).",
        )
        said = (answer or {}).get("choices")
        if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], dict):
            raise ModelError(f"{wire.server}: it does not answer like vLLM. Check --engine and the address.")
        if (answer or {}).get("model") != model:
            raise ModelError(f"{wire.server}: it answered by another model than '{model}'. {UPDATE}")
        return _lists(said[0], tokens_T, entries, wire.server)


def _lists(said: dict[str, Any], tokens_T: list[int], entries: int, server: str) -> Lists:
    """Return the lists of one answer, checked against what was asked."""
    echoed, said_T = said.get("prompt_token_ids"), said.get("prompt_logprobs")
    if not isinstance(echoed, list):
        raise ModelError(f"{server}: it ignores return_token_ids, so nobody knows which tokens it read. {UPDATE}")
    if echoed != tokens_T:
        raise ModelError(f"{server}: it answered about other tokens than it was asked about. {UPDATE}")
    if not isinstance(said_T, list):
        raise ModelError(f"{server}: it ignores prompt_logprobs, and gives no logprobs of the prompt. {UPDATE}")
    if len(said_T) != len(tokens_T) or said_T[0] is not None:
        raise ModelError(
            f"{server}: it gave logprobs of {len(said_T)} tokens of a text of {len(tokens_T)}, of which the first has none. "
            f"{UPDATE}"
        )
    ids_RK = np.zeros((len(tokens_T) - 1, entries), np.int64)
    logprobs_RK = np.full(ids_RK.shape, -np.inf, np.float32)
    gold_R = np.zeros(len(ids_RK), np.float32)
    for row, (gold, listed) in enumerate(zip(tokens_T[1:], said_T[1:], strict=True)):
        found = _entries(listed, str(gold))
        if found is None:
            raise ModelError(
                f"{server}: position {row} of a text of {len(tokens_T)} tokens: its list is not one of vLLM, or lacks the next "
                f"token. {UPDATE}"
            )
        ids, logprobs, ranks = found
        gold_R[row] = logprobs[ids.index(gold)]
        if len(ids) > entries:
            place = ids.index(gold)  # the next token is listed whatever its rank is
            del ids[place], logprobs[place], ranks[place]
        order = sorted(range(len(ids)), key=ranks.__getitem__)
        if [ranks[place] for place in order] != [*range(1, len(ids) + 1)] or len(ids) > entries:
            raise ModelError(
                f"{server}: position {row} of a text of {len(tokens_T)} tokens: its list is not that of the {entries} most "
                f"probable tokens. {UPDATE}"
            )
        ids_RK[row, : len(ids)] = [ids[place] for place in order]
        logprobs_RK[row, : len(ids)] = [logprobs[place] for place in order]
    return Lists(ids_RK=ids_RK, logprobs_RK=logprobs_RK, gold_R=gold_R)


def _entries(listed: object, gold: str) -> tuple[list[int], list[float], list[int]] | None:
    """Return the ids, logprobs and ranks of a list, which has an entry for the next token; None where it is none."""
    if not isinstance(listed, dict) or gold not in listed:
        return None
    try:
        # what is longer than any id is left out, and then missing
        ids = [int(name) for name in listed if len(name) < 19]
        logprobs = [number(entry["logprob"]) for entry in listed.values()]
        ranks = [whole(entry["rank"]) for entry in listed.values()]
    except (ValueError, KeyError, TypeError):
        return None
    known = [value for value in logprobs if value is not None], [value for value in ranks if value is not None]
    return (ids, *known) if len(known[0]) == len(known[1]) == len(ids) == len(listed) else None
