"""A whole dump from a server that is honest: its rows, its fingerprint, how many requests are in flight, and its key."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.dump.engines.servers import wire
from logitstore.dump.engines.servers.address import KEY, Address
from logitstore.dump.teachers import open_source
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.settings.models.engine import ServingChoices
from logitstore.store.checks.verify import verify
from tests.dump.engines.conftest import Plan
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.lying_server import LyingServer
from tests.parts.schemas import MARK

SECRET = "sk-Zr4-never-to-be-seen"


def fields_of(cache: logitstore.Cache) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([cache[index].answer[name] for index in range(len(cache))]).astype(np.float64)
        for name in cache.manifest.fields
    }


def test_its_rows_are_those_of_the_model_in_this_process(
    plan: Plan, of_transformers: Path, command: Command, server: LyingServer, plain_teacher: Path
) -> None:
    settings = plan()
    assert command("dump", *flags_of(settings)) == 0
    assert verify(settings.out) == []
    cache, whole = logitstore.open(settings.out), logitstore.open(of_transformers)
    assert cache.keys() == whole.keys()
    found, wanted = fields_of(cache), fields_of(whole)
    assert found.keys() == wanted.keys()
    assert (found["ids"] == wanted["ids"]).all()
    for name in ("logprobs", "gold_logprob"):
        # both are rounded to float16: where 1e-4 nats lie across the edge of a step, they differ by a whole step
        assert (np.abs(found[name] - wanted[name]) <= 1e-4 + np.abs(wanted[name]) * 2.0**-10).all()
    np.testing.assert_allclose(np.exp(found["tail_logmass"]), np.exp(wanted["tail_logmass"]), atol=1e-6)
    made = cache.manifest.teacher
    assert made.engine is not None
    assert (made.engine.name, made.dtype, made.vocabulary) == (server.engine, "as served", 320)
    assert len(made.engine.probes) > 100
    assert made.engine.noise == 0.0
    assert 1 < server.behaviour.together <= 4
    # asked again, by the same engine and by transformers, which may be told how far they may be apart
    again = ["verify", settings.out, "--against-teacher"]
    assert command(*again, settings.teacher, "--share", 0.3) == 0
    assert command(*again, plain_teacher, "--share", 0.3, "--device", "cpu", "--tolerance", 1e-3) == 0


def test_most_of_the_time_as_many_requests_are_in_flight_as_were_asked_for(plan: Plan, server: LyingServer) -> None:
    server.behaviour.seconds = 0.05
    began = time.monotonic()
    cache = dump(plan(concurrency=8, samples_per_part=1000))
    seconds = time.monotonic() - began
    texts = len(cache) + 16  # the probes, twice: one by one, and all at once
    assert server.behaviour.together == 8
    assert seconds < 0.05 * (8 + (texts - 8) / 8) * 2 + 2


def test_another_model_behind_the_same_address_is_refused(
    plan: Plan, server: LyingServer, small_student: Path, plain_teacher: Path
) -> None:
    settings = plan(parts="0")
    dump(settings)
    other = type(server._model)(small_student)
    other.name = str(plain_teacher)
    server._model = other
    with pytest.raises(CacheMismatch, match="gives other logprobs to the probe texts"):
        dump(plan())


def test_a_dump_that_goes_on_asks_only_about_what_is_missing(plan: Plan, server: LyingServer) -> None:
    whole = tree(dump(plan("whole")).path)
    dump(plan(parts="1"))
    before = len(server.behaviour.asked)
    assert tree(dump(plan()).path) == whole
    assert len(server.behaviour.asked) > before
    before = len(server.behaviour.asked)
    dump(plan())
    # what it serves is asked, and nothing about texts
    assert len(server.behaviour.asked) - before < 8


def test_its_key_is_sent_and_stands_nowhere(
    plan: Plan,
    server: LyingServer,
    command: Command,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(KEY, SECRET)
    server.behaviour.key = SECRET
    settings = plan()
    assert command("dump", *flags_of(settings)) == 0
    assert command("inspect", settings.out) == 0
    assert server.behaviour.keys == {SECRET}
    server.behaviour.key = "another"
    assert command("dump", *flags_of(plan("refused"))) == 2
    monkeypatch.delenv(KEY)
    assert command("dump", *flags_of(plan("without"))) == 2
    shown = capfd.readouterr()
    assert f"it refuses the key in {KEY} (status 401)" in shown.err
    assert f"it refuses a request without a key (status 401). Set the environment variable {KEY}" in shown.err
    for text in (shown.out, shown.err, caplog.text):
        assert SECRET not in text
        assert MARK not in text
    for content in tree(tmp_path).values():
        assert SECRET.encode() not in content
        assert MARK.encode() not in content


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("http://user:pass-word@127.0.0.1:1", "a user, a password or a query in an address would be stored"),
        ("http://127.0.0.1:1?key=pass-word", "a user, a password or a query in an address would be stored"),
        ("http://127.0.0.1:pass-word", "this is no address of a server"),
        ("http:///pass-word", "this is no address of a server"),
        ("http://host pass-word", "this is no address of a server"),
    ],
)
def test_an_address_that_cannot_be_is_refused_and_not_shown(
    plan: Plan, refused: Refused, name: str, says: str, server: LyingServer
) -> None:
    line = refused("dump", *flags_of(plan().model_copy(update={"teacher": name})))
    assert says in line
    assert "pass-word" not in line


@pytest.mark.parametrize(
    "name",
    [
        "http://user:pass-word@127.0.0.1:1",
        "HTTP://user:pass-word@127.0.0.1:1/v1#model",
        "http:/user:pass-word@127.0.0.1",
        "https://user:8/pass-word@127.0.0.1:1",
        "ftp://user:pass-word@127.0.0.1",
        "http://127.0.0.1:1/v1?key=pass-word#model",
    ],
)
def test_no_command_shows_the_password_of_an_address(name: str, plan: Plan, refused: Refused, tmp_path: Path) -> None:
    dumped = flags_of(plan().model_copy(update={"teacher": name}))
    data = ("--data", dumped[dumped.index("--data") + 1])
    for asked in (
        ("dump", *dumped, "--trust-remote-code"),
        ("dump", *dumped, "--quantization", "4bit"),
        ("dump", *dumped, "--hidden", "final"),
        ("plan", "--teacher", name, *data),
        ("add", tmp_path / "none", "--hidden", "final", "--teacher", name),
        ("verify", tmp_path / "none", "--against-teacher", name),
        ("generate", "--teacher", name, "--tokenizer", "none", *data, "--out", tmp_path / "answers"),
        ("dump", *flags_of(plan()), "--tokenizer", name),
    ):
        line = refused(*asked)
        assert "a user, a password or a query in an address would be stored" in line
        assert "pass-word" not in line


def test_what_a_server_cannot_give_is_refused_before_it_is_asked_about_a_text(
    plan: Plan, refused: Refused, server: LyingServer, tmp_path: Path
) -> None:
    for changes, says in (
        (
            {"preset": "small", "k": None, "tail": None},
            "tail sketch) needs logits of the whole vocabulary;",
        ),
        ({"max_length": 513}, "has positions for 511 tokens"),
        ({"dtype": "float32"}, "--dtype"),
    ):
        assert says in refused("dump", *flags_of(plan(**changes)))
        assert not (tmp_path / "cache").exists()
    line = refused("dump", *flags_of(plan().model_copy(update={"engine": None})))
    assert "say what serves it: --engine vllm, sglang, llamacpp or openai" in line
    assert "it takes one text a line. Leave out --packed" in refused("dump", *flags_of(plan()), "--packed")
    line = refused("dump", *flags_of(plan().model_copy(update={"teacher": f"{server.url}#no/such-model"})))
    assert "no/such-model" in line
    line = refused("dump", *flags_of(plan().model_copy(update={"teacher": "http://127.0.0.1:9#model"})))
    assert line == "error: http://127.0.0.1:9: nobody answers there. Start the server, or correct the address."
    assert not any(route in ("/generate", "/completion") for route in server.behaviour.asked)


def test_without_a_name_the_only_model_is_taken(server: LyingServer, plain_teacher: Path) -> None:
    source = open_source(server.url, engine=ServingChoices(engine=server.engine))  # type: ignore[arg-type]
    assert len(source.tokenizer()) == source.vocabulary == 320
    server.behaviour.lie = "other model"
    source_of = ServingChoices(engine=server.engine, tokenizer=str(plain_teacher))  # type: ignore[arg-type]
    assert open_source(server.url, engine=source_of).vocabulary == 320
    with pytest.raises(ModelError, match="no tokenizer is found under the name of its model") as caught:
        open_source(server.url, engine=ServingChoices(engine=server.engine))  # type: ignore[arg-type]
    assert "another/model" not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    monkeypatch.setenv(KEY, f"{SECRET}\nX-Other: 1")
    with pytest.raises(BadInput, match="the key has spaces or characters") as caught:
        dump(plan())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("proxy", ["ftp://user:pass-word@127.0.0.1:1", "http://user:pass-word@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_not_shown(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, proxy)
    with pytest.raises((BadInput, ModelError), match=r"^http://example\.invalid: ") as caught:
        wire.Wire(Address.parse("http://example.invalid")).get("/v1/models")
    assert "pass-word" not in str(caught.value)
    assert "\n" not in str(caught.value)
