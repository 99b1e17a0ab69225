"""Servers that give logprobs of a prompt by `echo`, as the first completions of OpenAI did: tokens come as texts.

A text that several tokens of the vocabulary have names none of them, and neither does the sign that stands for bytes which
are no character. Where it is an entry of a list, the entry is left out, and its probability is in the tail; where it is more
than a little, the answer is refused.

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.dump.engines.answers.chat import UNSAID
from logitstore.dump.engines.answers.matching import LARGEST_DROP
from logitstore.dump.engines.answers.reply import Token
from logitstore.dump.engines.answers.spelling import Spelling, id_in
from logitstore.dump.engines.servers.api import Lists, Served, number, whole
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError

IDS = (
    "Where vLLM serves, give --engine vllm, or start it with --return-tokens-as-token-ids; where llama.cpp does, --engine "
    "llamacpp"
)

TOKENIZER = "Give the tokenizer of the model that it serves by --tokenizer."

_HALF = "\ufffd"


@dataclass(frozen=True)
class OpenAiApi:
    """How such a server is asked. See `logitstore.dump.engines.servers.api.Api`.

    Attributes:
        spelling: of the plan's vocabulary; None before it is known.
        only_texts: holds something once the server has refused a prompt of token ids.
        served_as: holds the name of the model once it is known.
    """

    engine: ClassVar[str] = "openai"

    spelling: Spelling | None = None
    only_texts: list[bool] = field(default_factory=list, compare=False)
    served_as: list[str] = field(default_factory=list, compare=False)

    def reading(self, tokenizer: PreTrainedTokenizerBase) -> OpenAiApi:
        """Return the same, with the vocabulary in which tokens are read."""
        return replace(self, spelling=Spelling(tokenizer))

    def served(self, wire: Wire, model: str | None) -> Served:
        cards = (wire.get("/v1/models", optional=True) or {}).get("data")
        known = {card["id"]: card for card in cards if _is_card(card)} if isinstance(cards, list) else {}
        if model is None and len(known) != 1:
            serves = f"it serves {len(known)} models" if known else "it does not say which models it serves"
            raise ModelError(f"{wire.server}: {serves}. Name one: http://HOST:PORT#MODEL.")
        name = model or next(iter(known))
        card = known.get(name, {})
        limits = [whole(card.get(key)) for key in ("max_model_len", "context_length")]
        self.served_as.append(name)
        longest = next((limit for limit in limits if limit), None)
        return Served(model=name, longest=None if longest is None else longest - 1)

    def tokens(self, wire: Wire, text: str) -> list[int] | None:
        """Return the tokens of a text that the server repeats; None where its texts do not name all of them."""
        if self.spelling is None or not self.served_as:
            return None
        body = {"model": self.served_as[-1], "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1}
        said = (wire.post("/v1/completions", body, optional=True) or {}).get("choices")
        first = said[0] if isinstance(said, list) and said and isinstance(said[0], dict) else {}
        logprobs = first.get("logprobs")
        names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        found = [self.spelling.find(Token(name, None)) for name in names]
        while found and found[0] in self.spelling.special:
            del found[0]
        tokens: list[int] = []
        spelled = b""
        for token in found:
            if spelled.lstrip() == text.encode().lstrip():
                break  # what follows was made
            if isinstance(token, str):
                return None
            tokens.append(token)
            spelled += self.spelling.bytes_V[token]
        return tokens

    def lists(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> Lists:
        """Ask for the lists of a text; see `Api`. It is sent as token ids, to a server that refuses these as a text."""
        if self.spelling is None:
            raise ValueError("the vocabulary is not known yet")
        body: dict[str, Any] = {
            "model": model,
            "prompt": tokens_T,
            "max_tokens": 1,
            "temperature": 1.0,
            "echo": True,
            "logprobs": entries,
        }
        answer = None if self.only_texts else wire.post("/v1/completions", body, optional=True)
        if answer is None:
            way_out = (
                f"It may not do `echo`, or not give lists of {entries}: give a smaller --k. Servers of vLLM, SGLang and "
                "llama.cpp have an --engine of their own."
            )
            answer = wire.post("/v1/completions", body | {"prompt": self._text(tokens_T, wire.server)}, way_out=way_out)
            self.only_texts.append(True)
        said = (answer or {}).get("choices")
        if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], dict):
            raise ModelError(f"{wire.server}: it does not answer with completions. Check --engine and the address.")
        named = (answer or {}).get("model")
        if named != model:
            raise ModelError(
                f"{wire.server}: it answered by another model than '{model}'. Give the name that it answers with."
            )
        usage = (answer or {}).get("usage")
        count = whole(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        if count not in (None, len(tokens_T)):
            raise ModelError(f"{wire.server}: it counts {count} tokens in a text of {len(tokens_T)}. {TOKENIZER}")
        return _lists(said[0].get("logprobs"), tokens_T, entries, self.spelling, wire.server)

    def _text(self, tokens_T: list[int], server: str) -> str:
        spelled = b"".join(self.spelling.bytes_V[token] for token in tokens_T) if self.spelling else b""
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            raise ModelError(
                f"{server}: it takes texts, not token ids, and a window of the data begins or ends within a character. Give a "
                "larger --max-length, or a server that takes token ids."
            ) from None


def _is_card(card: object) -> bool:
    return isinstance(card, dict) and isinstance(card.get("id"), str)


def _lists(said: object, tokens_T: list[int], entries: int, spelling: Spelling, server: str) -> Lists:
    """Return the lists of one answer, checked against what was asked."""
    columns = [
        said.get(name) if isinstance(said, dict) else None for name in ("tokens", "token_logprobs", "top_logprobs")
    ]
    tokens, golds, tops = columns
    if not isinstance(tokens, list) or not isinstance(golds, list) or not isinstance(tops, list):
        raise ModelError(
            f"{server}: it ignores `echo` or `logprobs`, and gives no logprobs of the prompt. Give the --engine that serves "
            "there, or have the model answer prompts with `logitstore generate`."
        )
    length = len(tokens_T)
    # one token is made behind the text
    if not all(len(column) in (length, length + 1) for column in columns if column is not None):
        raise ModelError(f"{server}: it gave logprobs of {len(tokens)} tokens of a text of {length}. {TOKENIZER}")
    for place, (text, token) in enumerate(zip(tokens, tokens_T, strict=False)):
        if not isinstance(text, str) or not _is_spelled(text, token, spelling):
            raise ModelError(f"{server}: token {place} of a text of {length} has another text there. {TOKENIZER}")
    shape = length - 1, min(entries, len(spelling)) + 1
    ids_RK, logprobs_RK = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    gold_R, dropped_R = np.zeros(length - 1, np.float32), np.zeros(length - 1, np.int64)
    for row in range(length - 1):
        where = f"{server}: position {row} of a text of {length} tokens"
        gold = number(golds[row + 1])
        if gold is None or gold < UNSAID:
            raise ModelError(f"{where}: the logprob of the next token is not said. Another --engine may say it.")
        found = _list(tops[row + 1], shape[1] - 1, spelling, where)
        gold_R[row], dropped_R[row] = gold, max(shape[1] - 1 - len(found), 0)
        for slot, (logprob, token) in enumerate(found):
            ids_RK[row, slot], logprobs_RK[row, slot] = token, logprob
    return Lists(ids_RK=ids_RK, logprobs_RK=logprobs_RK, gold_R=gold_R, dropped_R=dropped_R)


def _is_spelled(text: str, token: int, spelling: Spelling) -> bool:
    """Whether a server calls a token so. It may leave the blank at its beginning out, and write nothing for a special token."""
    if (given := id_in(text)) is not None:
        return given == token
    own = spelling.bytes_V[token].decode("utf-8", "replace")
    return text in (own, own.removeprefix(" ")) or (token in spelling.special and not text)


def _list(given: object, entries: int, spelling: Spelling, where: str) -> list[tuple[float, int]]:
    """Return the entries of a list by falling logprob, without those whose text names no token.

    Raises:
        ModelError: it is no such list, is too short, or loses too much.
    """
    if not isinstance(given, dict):
        raise ModelError(f"{where}: it has no list. Another --engine may give it.")
    found: list[tuple[float, int]] = []
    lost = 0.0
    for text, value in given.items():
        logprob = number(value)
        if logprob is None or math.isnan(logprob):
            raise ModelError(f"{where}: an entry of its list has no logprob. Another --engine may give it.")
        # an id may be that of a row of padding, beyond the vocabulary
        token = given_id if (given_id := id_in(text)) is not None else spelling.find(Token(text, logprob))
        if isinstance(token, int):
            found.append((logprob, token))
        else:
            lost += math.exp(min(logprob, 0.0))
    # entries with equal texts are one, and its logprob is that of any of them
    if len(given) < entries:
        several = any(_HALF in text for text in given)
        why = (
            f"several of its entries are parts of characters, which texts do not tell apart. {IDS}."
            if several
            else f"it lists {len(given)} tokens, and {entries} were asked for. Give a smaller --k."
        )
        raise ModelError(f"{where}: {why}")
    if lost > LARGEST_DROP:
        raise ModelError(
            f"{where}: texts of its list are those of no token, or of several, with a probability of {lost:.2g}. {IDS}."
        )
    return sorted(found, key=lambda each: (-each[0], each[1]))[: entries + 1]
