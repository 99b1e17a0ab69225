"""llama.cpp's server, which is asked about each position: its lies, pieces of characters, and what it forgets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.dump.engines.servers import wire
from logitstore.dump.engines.servers.address import Address
from logitstore.dump.engines.servers.api import Lists, checked, checked_gold
from logitstore.dump.engines.servers.llamacpp import LOWEST, LlamaCppApi
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import ModelError
from logitstore.store.checks.verify import verify
from tests.dump.engines.conftest import served_plan
from tests.parts import schemas
from tests.parts.lying_server import LyingServer, TinyModel
from tests.parts.schemas import LIES, MARK
from tests.parts.texts import VOCABULARY, plan_for

TEXT = "In Köln, 你好: 🙂 is a <|end|> smile."
"""Characters that the tokenizer of the tests cuts into pieces, and a token after which a server goes no further by itself."""

AROUND = ("ignored", "other model", "cut JSON", "HTML", "a list", "redirect")


@pytest.fixture
def server(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingServer]:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(wire, "GONE", 0.5)
    with LyingServer("llamacpp", tiny) as running:
        yield running


def lists_of(server: LyingServer, tokens_T: list[int], entries: int = 8, api: LlamaCppApi | None = None) -> Lists:
    """The checked lists of a text."""
    api = api or LlamaCppApi()
    with closing(Wire(Address.parse(server.url), connections=2)) as connected:
        served = api.served(connected, server._model.name)
        found = checked(
            api.lists(connected, served.model, tokens_T, entries), len(tokens_T), entries, VOCABULARY, connected.server
        )
        checked_gold(found, tokens_T, connected.server)
        return found


@pytest.fixture
def tokens_T(tiny: TinyModel) -> list[int]:
    found: list[int] = tiny.tokenizer(TEXT)["input_ids"]
    return found


def test_its_lists_are_those_of_the_model_pieces_of_characters_and_ends_included(
    server: LyingServer, tiny: TinyModel, tokens_T: list[int]
) -> None:
    logprobs_RV = tiny.logprobs(tokens_T)
    api = LlamaCppApi()
    for entries in (1, 8, VOCABULARY):
        found = lists_of(server, tokens_T, entries, api)
        np.testing.assert_allclose(found.gold_R, logprobs_RV[np.arange(len(tokens_T) - 1), tokens_T[1:]], atol=1e-5)
        np.testing.assert_allclose(found.logprobs_RK, -np.sort(-logprobs_RV, 1)[:, :entries], atol=1e-5)
        assert (found.ids_RK[:, 0] == logprobs_RV.argmax(1)).all()
    assert 3 < len(api.halves) < len(tokens_T) / 2
    # a piece that is known is not asked about by itself again
    asked = server.behaviour.asked.count("/completion")
    lists_of(server, tokens_T, VOCABULARY, api)
    assert server.behaviour.asked.count("/completion") - asked == len(tokens_T) - 1


@pytest.mark.parametrize("lie", [*LIES, *AROUND])
def test_each_lie_is_found(lie: str, server: LyingServer, tokens_T: list[int]) -> None:
    server.behaviour.lie = lie
    with pytest.raises(ModelError) as caught:
        # of a temperature that is not named, only a list of all tokens tells
        lists_of(server, tokens_T, VOCABULARY if lie == "temperature" else 8)
    assert str(caught.value).startswith(f"{server.url}: ")
    assert str(caught.value).endswith(".")
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens_evaluated": 999}, "it did not read a text of 1 tokens as it is: it adds tokens, or cuts texts"),
        ({"truncated": True}, "it did not read a text of 1 tokens as it is"),
        ({"tokens": []}, "it ignores logit_bias, samplers or return_tokens"),
        ({"tokens": [7]}, "it ignores logit_bias, samplers or return_tokens"),
        ({"model": "another"}, "another model answers than the one that it said to serve"),
        ({"completion_probabilities": "all"}, "it gave lists of other tokens"),
        ({"completion_probabilities": [{"id": 7}]}, "it gave lists of other tokens"),
        ({"completion_probabilities": [{"id": None, "top_probs": []}]}, "it ignores n_probs or post_sampling_probs"),
        ({"timings/cache_n": 0}, "it forgets a text between two requests about it"),
    ],
)
def test_what_it_does_not_do_is_told(
    changes: dict[str, Any], says: str, server: LyingServer, tokens_T: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(route: str, body: dict[str, Any], asked: schemas.Asked) -> dict[str, Any] | None:
        answer = schemas.llamacpp(route, body, asked)
        if route != "/completion" or answer is None:
            return answer
        for entry in changes.get("completion_probabilities", []):
            if isinstance(entry, dict) and entry["id"] is None:
                entry["id"] = answer["tokens"][0]
        return answer | changes

    monkeypatch.setitem(schemas.SCHEMAS, "llamacpp", changed)
    monkeypatch.setattr("tests.parts.lying_server.SCHEMAS", schemas.SCHEMAS)
    with pytest.raises(ModelError, match=says):
        lists_of(server, tokens_T)


def test_a_server_of_something_else_is_told(server: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Wire(Address.parse(server.url))) as connected:
        with pytest.raises(ModelError, match="it serves no model called 'no/such'"):
            LlamaCppApi().served(connected, "no/such")
        served = LlamaCppApi().served(connected, None)
        assert (served.model, served.longest, served.vocabulary) == (server._model.name, 511, VOCABULARY)
        assert served.version == "b7000-0123abc"
        monkeypatch.setitem(schemas.SCHEMAS, "llamacpp", lambda route, body, asked: {"default_generation_settings": 1})
        with pytest.raises(ModelError, match="it is no server of llama"):
            LlamaCppApi().served(connected, None)
        props = {"default_generation_settings": {"n_ctx": 8}, "total_slots": 1, "data": [{}, {}]}
        monkeypatch.setitem(schemas.SCHEMAS, "llamacpp", lambda route, body, asked: props)
        with pytest.raises(
            ModelError, match=r"it serves several models, or none. Start llama-server with one \(-m FILE\)"
        ):
            LlamaCppApi().served(connected, None)


def test_what_is_impossible_in_float32_stays_a_listed_token(
    server: LyingServer, tiny: TinyModel, tokens_T: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TinyModel.logprobs

    def with_impossible(self: TinyModel, tokens: Any) -> Any:
        made = whole(self, tokens)
        made = np.where(made < np.median(made, -1, keepdims=True), -np.inf, made)
        return made - np.log(np.exp(made).sum(-1, keepdims=True))

    monkeypatch.setattr(TinyModel, "logprobs", with_impossible)
    found = lists_of(server, tokens_T, VOCABULARY)
    assert found.logprobs_RK.min() == np.float32(LOWEST)
    assert math.isclose(LOWEST, math.log(2.0**-149), rel_tol=1e-6)


def test_a_dump_is_that_of_transformers(
    server: LyingServer, plain_teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"limit": 2, "max_length": 64}
    cache = dump(served_plan(server.url, "llamacpp", plain_teacher, texts, tmp_path / "cache", **changes))
    assert verify(cache.path) == []
    own = plan_for(plain_teacher, texts, tmp_path / "own", preset="topk", k=8, tail="uniform", **changes)
    whole = logitstore.open(dump(own).path)
    assert cache.keys() == whole.keys()
    for index in range(len(whole)):
        np.testing.assert_array_equal(cache[index].answer["ids"], whole[index].answer["ids"])
        np.testing.assert_allclose(
            cache[index].answer["logprobs"], whole[index].answer["logprobs"], atol=2e-2, rtol=2**-10
        )
