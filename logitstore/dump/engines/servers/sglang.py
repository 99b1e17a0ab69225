"""SGLang's own API: `/generate` with the lists of a whole text as two arrays in base64, the shortest form that any engine has.

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from logitstore.core.types import Array
from logitstore.dump.engines.servers.api import Lists, Served, number, tokens_from, whole
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError

FLAT = "input_top_logprobs_{}_flat_b64"
UPDATE = "Update SGLang (0.5.23 does it), and check that nothing between here and the server changes requests."


@dataclass(frozen=True)
class SglangApi:
    """How SGLang is asked. See `logitstore.dump.engines.servers.api.Api`."""

    engine: ClassVar[str] = "sglang"

    def served(self, wire: Wire, model: str | None) -> Served:
        about = wire.get("/model_info", optional=True) or wire.get("/get_model_info") or {}
        path = about.get("model_path")
        if not isinstance(path, str) or about.get("is_generation") is False:
            raise ModelError(f"{wire.server}: it serves no language model by SGLang. Check --engine and the address.")
        cards = (wire.get("/v1/models", optional=True) or {}).get("data")
        card = cards[0] if isinstance(cards, list) and cards and isinstance(cards[0], dict) else {}
        if model not in (None, path, card.get("id")):
            raise ModelError(
                f"{wire.server}: it serves no model called '{model}'. Give the name that --model-path or --served-model-name "
                "of its start has, or leave out what stands behind '#'."
            )
        info = wire.get("/server_info", optional=True) or wire.get("/get_server_info", optional=True) or {}
        version = info.get("version")
        # one token is made beside the prompt; a prompt is refused from `max_req_input_len` on
        limits = [whole(card.get("max_model_len")), whole(info.get("max_req_input_len"))]
        longest = min((limit for limit in limits if limit is not None), default=None)
        return Served(
            model=path if model is None else model,
            version=version if isinstance(version, str) and version.isprintable() else None,
            longest=None if longest is None else longest - 1,
        )

    def tokens(self, wire: Wire, text: str) -> list[int] | None:
        return tokens_from(wire, {"prompt": text, "add_special_tokens": False})

    def lists(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> Lists:
        """Ask for the lists of a text; see `Api`. The temperature is named, so that a default of the server does not count."""
        answer = wire.post(
            "/generate",
            {
                "input_ids": tokens_T,
                "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
                "return_logprob": True,
                "logprob_start_len": 0,
                "top_logprobs_num": entries,
                "return_text_in_logprobs": False,
                "return_flat_raw_top_logprobs": True,
                "return_flat_raw_top_logprobs_b64": True,
            },
            way_out=f"It may not take texts of {len(tokens_T)} tokens (--context-length), or lists of {entries}.",
        )
        about = (answer or {}).get("meta_info")
        if not isinstance(about, dict):
            raise ModelError(f"{wire.server}: it does not answer like SGLang. Check --engine and the address.")
        gold_R = _gold(about, tokens_T, wire.server)
        ids_RK, logprobs_RK = _flat(about, len(gold_R), entries, wire.server)
        return Lists(ids_RK=ids_RK, logprobs_RK=logprobs_RK, gold_R=gold_R)


def _gold(about: dict[str, Any], tokens_T: list[int], server: str) -> Array:
    """Return the logprobs of the tokens after the first, float32[R]; they must be those that were asked."""
    said = about.get("input_token_logprobs")
    if not isinstance(said, list):
        raise ModelError(f"{server}: it ignores return_logprob, and gives no logprobs of the prompt. {UPDATE}")
    pairs = [each[:2] if isinstance(each, list) and len(each) >= 2 else [None, None] for each in said]
    if len(pairs) != len(tokens_T):
        raise ModelError(
            f"{server}: it gave logprobs of {len(pairs)} tokens of a text of {len(tokens_T)}: it ignores logprob_start_len, or "
            f"cuts texts. {UPDATE}"
        )
    if [token for _, token in pairs] != tokens_T:
        raise ModelError(f"{server}: it answered about other tokens than it was asked about. {UPDATE}")
    values = [number(logprob) for logprob, _ in pairs[1:]]
    if None in values:
        raise ModelError(
            f"{server}: it left out the logprob of token {values.index(None) + 1} of {len(pairs)}. {UPDATE}"
        )
    return np.array(values, np.float32)


def _flat(about: dict[str, Any], rows: int, entries: int, server: str) -> tuple[Array, Array]:
    """Return ids int64[R, K] and logprobs float32[R, K] of the two arrays."""
    shape, nulls = about.get("input_top_logprobs_shape"), about.get("input_top_logprobs_null_prefix")
    texts = [about.get(FLAT.format(name)) for name in ("val", "idx")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(shape, list) or len(shape) != 2:
        raise ModelError(
            f"{server}: it ignores top_logprobs_num or return_flat_raw_top_logprobs_b64, and gives no lists of the prompt as "
            f"arrays. {UPDATE}"
        )
    if [about.get(f"{FLAT.format(name)}_dtype") for name in ("val", "idx")] != ["float32", "int32"]:
        raise ModelError(f"{server}: its lists are not in float32 and int32. {UPDATE}")
    listed = whole(shape[1])
    if listed is None or listed < entries:
        raise ModelError(f"{server}: its lists have fewer than {entries} entries. Give a smaller --k. {UPDATE}")
    try:
        values, ids = (base64.b64decode(str(text), validate=True) for text in texts)
    except (binascii.Error, ValueError):
        raise ModelError(f"{server}: its lists are not in base64. {UPDATE}") from None
    # versions differ in whether the shape counts the positions without a list, of which there is one: the first
    if nulls != 1 or not len(values) == len(ids) == 4 * rows * listed or shape[0] not in (rows, rows + 1):
        raise ModelError(
            f"{server}: it gave lists for other positions than the {rows} of a text of {rows + 1} tokens. {UPDATE}"
        )
    logprobs_RK = np.frombuffer(values, "<f4").reshape(rows, listed)
    ids_RK = np.frombuffer(ids, "<i4").reshape(rows, listed)
    return ids_RK.astype(np.int64), logprobs_RK
