"""Each lie of a server is found before a row is written, and each passing failure leaves the bytes of a cache as they are."""

from __future__ import annotations

import shutil
import signal
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.dump.engines.servers import wire
from logitstore.format.needs import TOP_LOGPROBS, Wants
from logitstore.store import layout
from logitstore.store.checks.verify import verify
from logitstore.text.dump import TextDump
from tests.dump.engines.conftest import ENGINES, Plan, served_plan
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.lying_server import LyingServer, TinyModel, served_beside
from tests.parts.marks import often
from tests.parts.schemas import LIES, MARK
from tests.parts.warm import WarmProcess, free_port

AROUND = ("ignored", "other model", "other tokenizer", "wrong lengths", "cut JSON", "HTML", "a list", "redirect")
NOT_OF: dict[str, set[str]] = {"vllm": {"wrong lengths"}, "llamacpp": {"wrong lengths"}, "openai": {"wrong lengths"}}
"""Lies that the schema of an engine has no place for."""

KILLED = ("dump", "server", "interrupted")


@pytest.mark.parametrize("lie", [*LIES, *AROUND])
def test_each_lie_is_found_before_a_row_is_written(
    lie: str, plan: Plan, server: LyingServer, engine: str, refused: Refused, tmp_path: Path
) -> None:
    if lie in NOT_OF.get(engine, ()):
        pytest.skip(f"{engine} cannot tell that lie")
    server.behaviour.lie = lie
    # of a temperature that is not named, only a list of all tokens tells
    settings = plan(k=320 if lie == "temperature" else 8)
    line = refused("dump", *flags_of(settings))
    assert MARK not in line
    assert line.count("\n") == 0
    assert line.startswith(f"error: {server.url}: ")
    assert line.endswith(".")
    assert not list((tmp_path / "cache").glob("parts/*"))


@pytest.mark.parametrize("lie", ["all shifted", "k capped", "null in the middle", "HTML"])
def test_a_lie_in_the_middle_ends_the_dump_and_what_is_committed_is_true(
    lie: str, plan: Plan, server: LyingServer, refused: Refused
) -> None:
    whole = tree(dump(plan("whole")).path)
    server.behaviour.asked.clear()
    server.behaviour.lie, server.behaviour.honest = lie, 16 + 25
    settings = plan()
    assert MARK not in refused("dump", *flags_of(settings))
    there = tree(settings.out)
    parts = {name for name in there if name.startswith("parts/")}
    assert 0 < len(parts) < sum(name.startswith("parts/") for name in whole)
    assert all(there[name] == whole[name] for name in parts)
    server.behaviour.lie = ""
    assert tree(dump(settings).path) == whole


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [("500", None), ("502", None), ("503", "0"), ("429", "1"), ("429", "Wed, 21 Oct 2015 07:28:00 GMT"), ("408", "x"),
     ("reset", None), ("cut", None), ("slow", None)],
)  # fmt: skip
def test_what_fails_in_passing_is_asked_again_and_changes_no_byte(
    fault: str, retry_after: str | None, plan: Plan, server: LyingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(dump(plan("whole")).path)
    monkeypatch.setattr(wire, "ANSWERING", 0.7)
    server.behaviour.fault, server.behaviour.retry_after = fault, retry_after
    server.behaviour.every = 20 if fault in ("slow", "429") else 3
    asked = len(server.behaviour.asked)
    assert tree(dump(plan()).path) == whole
    assert server._failed
    assert len(server.behaviour.asked) - asked > asked


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_a_server_that_is_gone_ends_the_dump_and_the_same_command_goes_on(
    fault: str, plan: Plan, server: LyingServer, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(dump(plan("whole")).path)
    monkeypatch.setattr(wire, "GONE", 0.5)
    count = server._count

    def fails(number: int, request: bytes) -> bool:
        # what it serves, its tokens of the probe texts, and its answers about them, alone and together; then two parts
        return number > count + 10 + 8 + 16 + 25

    monkeypatch.setattr(server, "fails", fails)
    server.behaviour.fault = fault
    settings = plan()
    began = time.monotonic()
    line = refused("dump", *flags_of(settings))
    assert time.monotonic() - began < 10
    assert "It was given up after 0 minutes. What is committed stays; run the same command again" in line
    assert MARK not in line
    assert 0 < len(list((settings.out / layout.PARTS).iterdir())) < 5
    monkeypatch.undo()
    server.behaviour.fault = ""
    assert tree(dump(settings).path) == whole


def test_a_pause_that_is_longer_than_anybody_waits_is_told(
    plan: Plan, server: LyingServer, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour.fault, server.behaviour.every, server.behaviour.retry_after = "429", 1, "86400"
    line = refused("dump", *flags_of(plan()))
    assert "with status 429, and asks to wait for 86,400 seconds. It was given up after 0 minutes." in line


def test_a_padding_row_that_is_listed_is_taken_out(
    server: LyingServer, engine: str, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    """The tiny teacher of other tests has eight rows beyond its tokens; with all of them listed the rest is exact."""
    server._model = TinyModel(teacher)
    settings = served_plan(server.url, engine, teacher, texts, tmp_path / "padded", k=320, limit=3)
    assert verify(dump(settings).path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "engine"),
    often(product(KILLED, ENGINES), lambda case: KILLED.index(case[0]) == ENGINES.index(case[1])),
    indirect=["engine"],
)
def test_a_dump_that_is_killed_or_whose_server_is_goes_on(
    killed: str, engine: str, plain_teacher: Path, texts: Path, tmp_path: Path, command: Command
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def settings(out: str) -> Any:
        return served_plan(url, engine, plain_teacher, texts, tmp_path / out, samples_per_part=5)

    with served_beside(engine, plain_teacher, port, seconds=0.03):
        whole = tree(dump(settings("whole")).path)
    out = tmp_path / "cache"
    with served_beside(engine, plain_teacher, port, seconds=0.1) as (process, _):
        begun = WarmProcess("dump", *flags_of(settings("cache")))
        try:
            until = time.monotonic() + 60
            while not any(name.name.isdigit() for name in (out / "parts").glob("*")):
                assert time.monotonic() < until, begun.communicate()
                time.sleep(0.01)
            if killed == "server":
                process.kill()
                process.wait()
                with served_beside(engine, plain_teacher, port):
                    # it goes on by itself when a server is there again
                    assert begun.wait(60) == 0, begun.communicate()
            else:
                begun.send_signal(signal.SIGKILL if killed == "dump" else signal.SIGINT)
                began = time.monotonic()
                assert begun.wait(30) == (-signal.SIGKILL if killed == "dump" else 130)
                assert time.monotonic() - began < 5
                assert len(list((out / "parts").glob("0*"))) < len(list((tmp_path / "whole" / "parts").glob("0*")))
                assert command("dump", *flags_of(settings("cache"))) == 0
        finally:
            begun.close()
    assert verify(out) == []
    shutil.rmtree(out / "parts" / ".staging", ignore_errors=True)
    assert tree(out) == whole


def test_closing_ends_what_is_under_way(plan: Plan, server: LyingServer) -> None:
    prepared = TextDump().prepare(plan())
    teacher = prepared.load()
    server.behaviour.seconds = 30.0
    [batch, *_] = prepared.batches(prepared.samples[:8])
    teacher.expect(batch, Wants(frozenset({TOP_LOGPROBS}), 8))
    while server._busy < 4:
        time.sleep(0.01)
    began = time.monotonic()
    teacher.close()
    teacher._workers.wait()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 2
