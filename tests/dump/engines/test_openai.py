"""Servers that give logprobs of a prompt by `echo`: tokens by their texts, which name ids or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.dump.engines.answers.reply import Token
from logitstore.dump.engines.answers.spelling import DIFFERS, SEVERAL, UNKNOWN, Spelling
from logitstore.dump.engines.servers.api import Served
from logitstore.dump.engines.servers.openai import OpenAiApi
from logitstore.errors import ModelError
from logitstore.store.checks.verify import verify
from tests.dump.engines.conftest import served_plan
from tests.parts.lying_server import LyingServer, TinyModel


class Said:
    """A wire to a server that says what a test has it say; `refuses` prompts of that type."""

    server = "http://host"

    def __init__(self, answer: dict[str, Any], refuses: type | None = None) -> None:
        self.answer, self.refuses, self.asked = answer, refuses, list[Any]()

    def post(self, route: str, body: dict[str, Any], *, optional: bool = False, way_out: str = "") -> Any:
        self.asked.append(body["prompt"])
        return None if self.refuses and isinstance(body["prompt"], self.refuses) else self.answer

    def get(self, route: str, *, optional: bool = False) -> Any:
        return self.answer


def answer_of(tokens: list[str], golds: list[float | None], tops: list[dict[str, float] | None], **more: Any) -> Any:
    logprobs = {"tokens": tokens, "token_logprobs": golds, "top_logprobs": tops}
    return {"model": "m", "choices": [{"logprobs": logprobs}]} | more


@pytest.fixture(scope="module")
def api(tokenizer: PreTrainedTokenizerFast) -> OpenAiApi:
    return OpenAiApi().reading(tokenizer)


def ids(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> list[int]:
    return [int(tokenizer(piece)["input_ids"][0]) for piece in pieces]


GOOD = answer_of(["a", "b", "c"], [None, -1.0, -0.5], [None, {"b": -1.0, "x": -1.5}, {"c": -0.5, "y": -3.0}])


def test_texts_become_ids(api: OpenAiApi, tokenizer: PreTrainedTokenizerFast) -> None:
    a, b, c, x, y = ids(tokenizer, "a", "b", "c", "x", "y")
    wire: Any = Said(GOOD)
    lists = api.lists(wire, "m", [a, b, c], 2)
    assert lists.ids_RK[:, :2].tolist() == [[b, x], [c, y]]
    np.testing.assert_allclose(lists.logprobs_RK[:, :2], [[-1.0, -1.5], [-0.5, -3.0]])
    assert lists.gold_R.tolist() == [-1.0, -0.5]
    assert lists.dropped_R is not None
    assert lists.dropped_R.tolist() == [0, 0]
    # one token is made behind the text, and its list is of no interest
    made = answer_of(
        ["a", "b", "c", "!"], [None, -1.0, -0.5, -9.0], [*GOOD["choices"][0]["logprobs"]["top_logprobs"], {}]
    )
    assert api.lists(Said(made), "m", [a, b, c], 2).ids_RK.tolist() == lists.ids_RK.tolist()  # type: ignore[arg-type]


def test_a_server_that_takes_texts_alone_gets_a_text(api: OpenAiApi, tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = ids(tokenizer, "a", "b", "c")
    wire: Any = Said(GOOD, refuses=list)
    fresh = OpenAiApi().reading(tokenizer)
    first = fresh.lists(wire, "m", tokens, 2)
    assert fresh.lists(wire, "m", tokens, 2).ids_RK.tolist() == first.ids_RK.tolist()
    assert wire.asked == [tokens, "abc", "abc"]
    half = int(tokenizer("é")["input_ids"][0])
    with pytest.raises(ModelError, match="a window of the data begins or ends within a character"):
        fresh.lists(wire, "m", [half, *tokens], 2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"model": "m", "choices": [{"logprobs": None}]}, "it ignores `echo` or `logprobs`"),
        (GOOD | {"model": "other"}, "it answered by another model than 'm'"),
        (GOOD | {"usage": {"prompt_tokens": 4}}, "it counts 4 tokens in a text of 3"),
        (
            answer_of(["a", "c", "b"], [None, -1.0, -1.0], [None, {}, {}]),
            "token 1 of a text of 3 has another text there",
        ),
        (answer_of(["ab", "c"], [None, -1.0], [None, {}]), "it gave logprobs of 2 tokens of a text of 3"),
        (answer_of(["a", "b", "c"], [None, None, -1.0], [None, {}, {}]), "the logprob of the next token is not said"),
        (
            answer_of(["a", "b", "c"], [None, -9999.0, -1.0], [None, {}, {}]),
            "the logprob of the next token is not said",
        ),
        (
            answer_of(["a", "b", "c"], [None, -1.0, -1.0], [None, {"b": -1.0}, {}]),
            "it lists 1 tokens, and 2 were asked for",
        ),
        (
            answer_of(["a", "b", "c"], [None, -1.0, -1.0], [None, {"\ufffd": -1.0}, {}]),
            "several of its entries are parts of characters, which texts do not tell apart. Where vLLM serves, give --engine",
        ),
        (
            answer_of(["a", "b", "c"], [None, -1.0, -1.0], [None, {"b": -1.0, "zzzz": -2.0}, {}]),
            "texts of its list are those of no token, or of several, with a probability of 0.14",
        ),
        ({"choices": []}, "it does not answer with completions"),
    ],
)
def test_what_does_not_fit_is_refused(
    api: OpenAiApi, tokenizer: PreTrainedTokenizerFast, answer: Any, says: str
) -> None:
    wire: Any = Said(answer)
    with pytest.raises(ModelError) as caught:
        api.lists(wire, "m", ids(tokenizer, "a", "b", "c"), 2)
    assert says in str(caught.value)


def test_a_rare_entry_that_names_no_token_is_left_out(api: OpenAiApi, tokenizer: PreTrainedTokenizerFast) -> None:
    tops = [None, {"b": -1.0, "\ufffd": -6.0}, {"c": -0.5, "y": -3.0}]
    wire: Any = Said(answer_of(["a", "b", "c"], [None, -1.0, -0.5], tops))
    lists = api.lists(wire, "m", ids(tokenizer, "a", "b", "c"), 2)
    assert lists.dropped_R is not None
    assert lists.dropped_R.tolist() == [1, 0]
    assert np.isneginf(lists.logprobs_RK[0, 1:]).all()


def test_the_only_model_is_asked_and_one_of_several_is_named() -> None:
    cards = [{"id": "one", "context_length": 4096}]
    wire: Any = Said({"data": cards})
    assert OpenAiApi().served(wire, None) == Served(model="one", longest=4095)
    assert OpenAiApi().served(wire, "hidden") == Served(model="hidden")
    several: Any = Said({"data": [*cards, {"id": "two"}]})
    with pytest.raises(ModelError, match=r"it serves 2 models\. Name one"):
        OpenAiApi().served(several, None)


def test_a_cache_from_echo_is_that_of_the_model(
    tiny: TinyModel, plain_teacher: Path, texts: Path, of_transformers: Path, tmp_path: Path
) -> None:
    with LyingServer("openai", tiny) as server:
        cache = dump(served_plan(server.url, "openai", plain_teacher, texts, tmp_path / "cache"))
    assert verify(cache.path) == []
    whole = logitstore.open(of_transformers)
    assert len(cache) == len(whole)
    for index in range(len(cache)):
        one, other = cache[index].answer, whole[index].answer
        assert (one["ids"] == other["ids"]).all()
        for name in ("logprobs", "gold_logprob"):
            np.testing.assert_allclose(one[name].astype(float), other[name].astype(float), rtol=2.0**-10, atol=1e-4)


class Vocabulary:
    """A vocabulary of SentencePiece: blanks are marked, and there are tokens of one byte."""

    all_special_ids = (0,)
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

    def get_vocab(self) -> dict[str, int]:
        return {"<s>": 0, "<0x0A>": 1, "<0x41>": 2, "A": 3, "\u2581yes": 4, "yes": 5, "\u2581no": 6, "\u00e9": 7}

    def get_added_vocab(self) -> dict[str, int]:
        return {"<s>": 0}


@pytest.mark.parametrize(
    ("token", "found"),
    [
        (Token("\n", -1.0), 1),
        (Token("A", -1.0), SEVERAL),
        (Token(" yes", -1.0), 4),
        (Token("yes", -1.0), SEVERAL),  # also what a server says of the other one, when it decodes that alone
        (Token("no", -1.0), 6),
        (Token(" no", -1.0), 6),
        (Token("\u00e9", -1.0), 7),
        (Token("maybe", -1.0), UNKNOWN),
        (Token("token_id:5", -1.0), 5),
        (Token("token_id:99", -1.0), UNKNOWN),
        (Token("A", -1.0, None, 2), 2),
        (Token("A", -1.0, None, 4), DIFFERS),
        (Token("", -1.0, None, 0), 0),
        (Token("?", -1.0, b"\n"), 1),
    ],
)
def test_bytes_name_a_token_only_where_one_alone_has_them(token: Token, found: int | str) -> None:
    assert Spelling(Vocabulary()).find(token) == found  # type: ignore[arg-type]
