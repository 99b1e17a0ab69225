"""What every server of a language model is asked, whatever it is: its lists of probable tokens, and how they are checked.

Axes: T tokens of a text, R = T - 1 positions that a token follows, K entries of a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.registry import Table
from logitstore.core.types import Array
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError

LARGEST = 3.4e38
"""A little less than the largest float32."""

SLACK = 9e-4
"""By how much the probabilities of a list may sum to more than 1, and the gold token's two logprobs may differ: a server
rounds. It is below what `logitstore.dump.sparsify.lists` allows, whose errors quote what the teacher said."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server says of itself.

    Attributes:
        model: the name under which it serves the model.
        version: of the engine; None where it does not say.
        longest: tokens of the longest text that it can be asked about; None where it does not say.
        entries: most entries of a list that it gives; None where no limit is known.
        vocabulary: rows of the model's output layer; None where it does not say.
    """

    model: str
    version: str | None = None
    longest: int | None = None
    entries: int | None = None
    vocabulary: int | None = None


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What a server says of one text. Row t is the distribution of token t + 1, given the tokens up to t.

    Attributes:
        ids_RK: int64, the most probable tokens.
        logprobs_RK: float32, nats at temperature 1, falling; -inf in the empty slots after a shorter list.
        gold_R: float32, the logprob of the token that follows.
        dropped_R: int, entries that are left out because their texts name no token; None where ids are given.
    """

    ids_RK: Array
    logprobs_RK: Array
    gold_R: Array
    dropped_R: Array | None = None


class Api(Protocol):
    """How one engine is asked over HTTP. Each answer is checked against what was asked; what does not fit is a ModelError,
    which says in one line what the server did not do, and how to start it so that it does, and quotes nothing of the answer."""

    engine: ClassVar[str]

    def served(self, wire: Wire, model: str | None) -> Served:
        """Return what the server says of the model with this name; None for the only one that it serves.

        Raises:
            ModelError: it serves no such model, or several; or see `Wire.post`.
        """
        ...

    def tokens(self, wire: Wire, text: str) -> list[int] | None:
        """Return the server's own tokens of a text, without special ones; None where it has no such route."""
        ...

    def lists(self, wire: Wire, model: str, tokens_T: list[int], entries: int) -> Lists:
        """Ask about one text. It is called on many threads at once.

        Args:
            wire: to the server.
            model: the name of the model, as `served` gave it.
            tokens_T: at least two.
            entries: how many entries each list must have; the whole vocabulary where that is smaller.

        Raises:
            ModelError: the server does not do it; see above.
        """
        ...


@runtime_checkable
class ByText(Protocol):
    """An API that names tokens by their texts, so that it must know the vocabulary."""

    def reading(self, tokenizer: PreTrainedTokenizerBase) -> Api:
        """Return the same, with the vocabulary in which tokens are read."""
        ...


def tokens_from(wire: Wire, body: dict[str, Any]) -> list[int] | None:
    """Return the tokens of a text from the route `/tokenize`, which several engines have; None where it is not there."""
    tokens = (wire.post("/tokenize", body, optional=True) or {}).get("tokens")
    if not isinstance(tokens, list) or not all(whole(token) is not None for token in tokens):
        return None
    return tokens


def whole(value: object) -> int | None:
    """Return a value of an answer if it is a whole number that is not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def number(value: object) -> float | None:
    """Return a value of an answer if it is a number that a float32 can hold, or NaN; what is lower is -inf."""
    if isinstance(value, bool) or not isinstance(value, float | int) or value > LARGEST:
        return None
    return -math.inf if value < -LARGEST else float(value)


APIS = Table(
    "engine",
    {
        "vllm": "logitstore.dump.engines.servers.vllm:VllmApi",
        "sglang": "logitstore.dump.engines.servers.sglang:SglangApi",
        "llamacpp": "logitstore.dump.engines.servers.llamacpp:LlamaCppApi",
        "openai": "logitstore.dump.engines.servers.openai:OpenAiApi",
    },
)
"""The classes of what `--engine` names. Each is made without arguments."""


def checked(lists: Lists, length: int, entries: int, vocabulary: int, server: str) -> Lists:
    """Return lists that are what they say to be: ids below the vocabulary, and nothing that no distribution has.

    A list may hold rows of padding, which the output layers of many models have beyond their tokens. These are taken out, and
    the rest is scaled as if they were not there.

    Args:
        lists: as an API returned them.
        length: tokens of the text.
        entries: what was asked for.
        vocabulary: token ids below this are real.
        server: for messages.

    Raises:
        ModelError: they are not; the line names the first position.
    """
    ids_RK, logprobs_RK, gold_R = lists.ids_RK, lists.logprobs_RK, lists.gold_R
    rows = length - 1
    if ids_RK.ndim != 2 or ids_RK.shape != logprobs_RK.shape or len(ids_RK) != rows or gold_R.shape != (rows,):
        raise ModelError(
            f"{server}: it gave lists for {len(ids_RK)} positions of a text of {length} tokens, which has {rows}. {UPDATE}"
        )
    wide_RK = logprobs_RK.astype(np.float64)
    is_empty_RK = np.isneginf(wide_RK)
    counts_R = ids_RK.shape[1] - is_empty_RK.sum(1)
    given_R = counts_R if lists.dropped_R is None else counts_R + lists.dropped_R
    _refuse(server, length, "a logprob is NaN", np.isnan(wide_RK).any(1) | np.isnan(gold_R))
    _refuse(server, length, "a logprob is positive", (wide_RK > SLACK).any(1) | (gold_R > SLACK))
    wide_RK, gold_R = np.minimum(wide_RK, 0.0), np.minimum(gold_R.astype(np.float64), 0.0)
    _refuse(server, length, "an id is negative", (ids_RK < 0).any(1))
    # empty slots are told apart by giving each an id of its own
    sorted_RK = np.sort(np.where(is_empty_RK, -1 - np.arange(ids_RK.shape[1]), ids_RK), 1)
    _refuse(server, length, "an id is listed twice", (sorted_RK[:, 1:] == sorted_RK[:, :-1]).any(1))
    with np.errstate(invalid="ignore"):
        _refuse(server, length, "the logprobs do not fall", (wide_RK[:, 1:] > wide_RK[:, :-1] + 1e-6).any(1))
    _refuse(
        server, length, f"fewer than {min(entries, vocabulary)} tokens are listed", given_R < min(entries, vocabulary)
    )
    mass_R = np.exp(wide_RK).sum(1)
    _refuse(server, length, "the probabilities sum to more than 1", mass_R > 1 + SLACK)
    is_padding_RK = (ids_RK >= vocabulary) & ~is_empty_RK
    is_whole_R = (counts_R - is_padding_RK.sum(1)) >= vocabulary
    _refuse(server, length, "all tokens are listed, and sum to less than 1", is_whole_R & (mass_R < 1 - SLACK))
    return Lists(**_without_padding(ids_RK, wide_RK, gold_R, is_padding_RK))


def checked_gold(lists: Lists, tokens_T: list[int], server: str) -> None:
    """Compare the gold logprobs with the lists: a list about another position does not fit to the token that follows.

    Raises:
        ModelError: they do not belong together; the line names the first position.
    """
    gold_R = lists.gold_R.astype(np.float64)
    listed_RK = lists.logprobs_RK.astype(np.float64)
    is_gold_RK = (lists.ids_RK == np.array(tokens_T[1:])[:, None]) & ~np.isneginf(listed_RK)
    is_listed_R = is_gold_RK.any(1)
    own_R = np.where(is_gold_RK, listed_RK, -np.inf).max(1)
    with np.errstate(invalid="ignore"):
        is_apart_R = is_listed_R & ~(np.abs(own_R - gold_R) <= SLACK)
        lowest_R = np.where(np.isneginf(listed_RK), np.inf, listed_RK).min(1)
        is_above_R = ~is_listed_R & (gold_R > lowest_R + SLACK)
        is_beyond_R = ~is_listed_R & (np.exp(gold_R) + np.exp(listed_RK).sum(1) > 1 + SLACK)
    problem = "the logprob of the next token is not that of its list"
    _refuse(server, len(tokens_T), problem, is_apart_R | is_above_R | is_beyond_R)


UPDATE = "Update the server, or check that --engine names what serves there."


def _refuse(server: str, length: int, problem: str, is_broken_R: Any) -> None:
    if is_broken_R.any():
        position = int(np.flatnonzero(is_broken_R)[0])
        raise ModelError(f"{server}: position {position} of a text of {length} tokens: {problem}. {UPDATE}")


def _without_padding(ids_RK: Array, logprobs_RK: Array, gold_R: Array, is_padding_RK: Array) -> dict[str, Array]:
    if is_padding_RK.any():
        padding_R = np.where(is_padding_RK, np.exp(logprobs_RK), 0.0).sum(1)
        scale_R = np.log1p(-np.minimum(padding_R, 1 - 1e-6))
        logprobs_RK = np.where(is_padding_RK, -np.inf, logprobs_RK - scale_R[:, None])
        # the taken places become the last ones; the order of the others stays
        order_RK = np.argsort(is_padding_RK, axis=1, kind="stable")
        ids_RK = np.take_along_axis(np.where(is_padding_RK, 0, ids_RK), order_RK, 1)
        logprobs_RK = np.minimum(np.take_along_axis(logprobs_RK, order_RK, 1), 0.0)
        gold_R = np.minimum(gold_R - scale_R, 0.0)
    return {
        "ids_RK": ids_RK.astype(np.int64),
        "logprobs_RK": logprobs_RK.astype(np.float32),
        "gold_R": gold_R.astype(np.float32),
    }
