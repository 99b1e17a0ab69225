"""A tiny model without padding rows, served as each engine does; and the dump that is made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.dump.dump import dump
from logitstore.dump.engines.servers import wire
from logitstore.dump.engines.servers.address import KEY
from logitstore.settings.dump import DumpSettings
from tests.parts.lying_server import LyingServer, TinyModel
from tests.parts.texts import VOCABULARY, plan_for, save_model

ENGINES = ("sglang", "vllm", "openai")
"""The engines that are tested against the server of the tests, each with every lie and every failure."""

Plan = Callable[..., DumpSettings]


@pytest.fixture(scope="session")
def plain_teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a teacher whose head has a row for each token, and no more."""
    return save_model(tmp_path_factory.mktemp("plain"), tokenizer, VOCABULARY)


@pytest.fixture(scope="session")
def tiny(plain_teacher: Path) -> TinyModel:
    return TinyModel(plain_teacher)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingServer]:
    """An honest server, until a test changes its behaviour. Pauses and time-outs are those of a test."""
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(wire, "GONE", 20.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv(KEY, raising=False)
    with LyingServer(engine, tiny) as running:
        yield running


def served_plan(url: str, engine: str, teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpSettings:
    """A dump of twelve documents from a server."""
    usual: dict[str, Any] = {
        "preset": "topk",
        "k": 8,
        "tail": "uniform",
        "limit": 12,
        "engine": engine,
        "concurrency": 4,
    }
    own: dict[str, Any] = {"dtype": "auto", "device": "auto", "samples_per_part": 10}
    return plan_for(f"{url}#{teacher}", texts, out, **usual | own | changes)  # type: ignore[arg-type]


@pytest.fixture
def plan(server: LyingServer, engine: str, plain_teacher: Path, texts: Path, tmp_path: Path) -> Plan:
    """Makes the plan of a dump from the server."""

    def make(out: str = "cache", **changes: Any) -> DumpSettings:
        return served_plan(server.url, engine, plain_teacher, texts, tmp_path / out, **changes)

    return make


@pytest.fixture(scope="session")
def of_transformers(plain_teacher: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the same model makes in this process; do not change it."""
    out = tmp_path_factory.mktemp("transformers") / "cache"
    dump(plan_for(plain_teacher, texts, out, preset="topk", k=8, tail="uniform", limit=12, samples_per_part=10))
    return out
