"""The commands and the Python of docs/rounds.md and docs/preferences.md, run in their order on small models and data.

A server answers as a teacher's would. Every training takes 20 steps.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logitstore.store.cache import Cache
from tests.parts.chat_server import ChatServer
from tests.parts.classes import labelled_rows, save_bert, save_rows, wordpiece
from tests.parts.commands import Command
from tests.parts.places import ROOT
from tests.parts.texts import TEXTS

STEPS = 20
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def server(teacher: Path) -> Iterator[ChatServer]:
    with ChatServer(teacher) as running:
        yield running


def rows_of(count: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Prompts with completions, two of each prompt one behind the other, and columns by the number of the row."""
    return [
        {"prompt": TEXTS[number // 2][:20], "completion": TEXTS[number + 5][20 : 50 + 3 * number]}
        | {name: value(number) for name, value in columns.items()}
        for number in range(count)
    ]


PREFERENCES = {
    "prompts": [{"prompt": text[:30]} for text in TEXTS[:6]],
    "traces": rows_of(16, correct=lambda row: row % 2, problem=lambda row: row // 2),
    "templates": rows_of(8),
    "corrections": rows_of(16, correction=lambda row: row % 2, problem=lambda row: row // 2),
    "rationales": rows_of(16, mark=lambda row: row * 7 % 5, question=lambda row: row // 4),
    "label-and-rationale": rows_of(8, weight=lambda row: 0.5),
    "generated": rows_of(16, critic=lambda row: row % 4 / 3),
    "round1": rows_of(16, gap=lambda row: row % 5, task=lambda row: f"task {row % 3}"),
    "distances": rows_of(16, distance=lambda row: row * 3 % 7),
    "steps": rows_of(16, step_errors=lambda row: row * 3 % 4),
}
ROUNDS = {
    "self-written": rows_of(16, critic=lambda row: row % 4 / 3),
    "preferences": rows_of(16, preference=lambda row: row * 7 % 5, question=lambda row: row // 4),
}


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Path, small_student: Path, texts: Path
) -> Callable[[dict[str, Any]], Path]:
    """A folder with the models and the files that a page speaks of, as the current one."""

    def make(files: dict[str, list[dict[str, Any]]]) -> Path:
        shutil.copytree(teacher, tmp_path / "my-teacher")
        shutil.copytree(small_student, tmp_path / "my-student")
        shutil.copy(texts, tmp_path / "texts.jsonl")
        for name, rows in files.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def run_page(page: str, server: ChatServer, command: Command) -> list[list[str]]:
    """Run all blocks of a page; return the commands."""
    names: dict[str, Any] = {"__name__": "__main__"}
    done = []
    for language, block in _BLOCK.findall((ROOT / "docs" / page).read_text("utf-8")):
        if language == "python":
            exec(compile(block, page, "exec"), names)
            continue
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ logitstore "))
            assert command(*_small(words, server)) == 0, line
            done.append(words)
    return done


def _small(words: list[str], server: ChatServer) -> list[str]:
    """A command of the page, with less to do, and with the address of the server."""
    flags = [f"{server.url}/v1#tiny" if word.startswith("http://") else word for word in words]
    more = {
        "generate": ["--max-new-tokens", "12"],
        "train": ["--max-steps", str(STEPS), "--batch-size", "4", "--device", "cpu", "--keep-checkpoints", "0"],
        "evaluate": ["--device", "cpu"],
    }
    if words[0] == "dump" and "--task" not in words:
        flags = ["128" if before == "--max-length" else word for before, word in zip(["", *flags], flags, strict=False)]
        more["dump"] = [] if "--max-length" in words else ["--max-length", "128"]
    return flags + more.get(words[0], [])


def check_trained(place: Path, done: list[list[str]]) -> None:
    """Every student took its steps."""
    outs = [words[words.index("--out") + 1] for words in done if words[0] == "train"]
    assert outs
    for out in outs:
        log = json.loads((place / out / "logitstore.json").read_text("utf-8"))["log"]
        assert max(entry["step"] for entry in log) == STEPS, out


def test_every_command_of_the_page_on_rounds_runs(place: Any, server: ChatServer, command: Command) -> None:
    folder = place(ROUNDS)
    save_bert(folder / "my-classifier", wordpiece())
    save_bert(folder / "my-small-classifier", wordpiece(), seed=1, num_hidden_layers=1)
    rows = labelled_rows()
    save_rows(folder / "labelled.jsonl", [row for row in rows if row.get("label")])
    half = [row | {"label": None} if number % 2 else row for number, row in enumerate(rows)]
    save_rows(folder / "partly-labelled.jsonl", half)
    done = run_page("rounds.md", server, command)
    check_trained(folder, done)
    assert {words[0] for words in done} == {"generate", "dump", "train", "evaluate", "select"}
    first = [json.loads(line)["prompt"] for line in (folder / "prompts-1.jsonl").read_text().splitlines()]
    more = [json.loads(line)["prompt"] for line in (folder / "prompts-2.jsonl").read_text().splitlines()]
    losses = {line["sample"]: line["cross_entropy"] for line in map(json.loads, (folder / "figures-1.jsonl").open())}
    worst = sorted(losses, key=lambda sample: -losses[sample])[: len(more)]
    documents = [Cache(folder / "round-1")[sample].sample.document for sample in worst]
    assert {text.split(": ", 1)[1] for text in more} == {first[document] for document in documents}


def test_every_command_of_the_page_on_preferences_runs(place: Any, server: ChatServer, command: Command) -> None:
    folder = place(PREFERENCES)
    check_trained(folder, run_page("preferences.md", server, command))
