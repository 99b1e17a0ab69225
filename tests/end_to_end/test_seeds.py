"""Every published system of docs/seeds.yaml that runs takes 20 steps here, by the commands that stand there.

A row's `select`, `merge` and `train` are run on small caches of the task that its `dump` names. Words in capital letters are
filled in; what stands in brackets or behind a comma is left out. A row that says more than that names the test that runs it,
as `tested`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from logitstore.dump.dump import dump
from tests.parts.classes import classes_plan, save_bert, wordpiece
from tests.parts.commands import Command
from tests.parts.images import images_plan, save_classifier, small_vit
from tests.parts.places import ROOT
from tests.parts.scored import scored_cache
from tests.parts.texts import VOCABULARY, plan_for, save_model

STEPS = 20
ROWS = [row for row in yaml.safe_load((ROOT / "docs" / "seeds.yaml").read_text("utf-8")) if "commands" in row]
ALONE = {"--keep-zeros", "--text", "--packed", "--prune"}
"""Options without a value."""

VALUES = {"A": "0.3", "T": "2", "N": "8", "R": "0.5", "X": "0"}
"""What stands for words in capital letters that are numbers or widths."""

STUDENTS = ("RANDOM", "FAST", "OLD", "OUT", "ONE", "A", "TWO", "B", "SPARSE")
"""Words that stand for a student after --student."""


CAPITALS = re.compile(r"[A-Z]+")
FILES = ("CACHE", "FILE", "FIGURES")


def words_of(command: str) -> list[str]:
    """A command of the page without its remarks: its name, and options with their values."""
    words = re.sub(r"\(.*?\)|,(?= ).*", "", command).split()
    kept, before = words[:1], ""
    for word in words[1:]:
        if not word.startswith("-") and (not before.startswith("-") or before in ALONE):
            break
        kept.append(word)
        before = word
    return kept


def steps_of(row: dict[str, str]) -> list[list[str]]:
    return [words_of(command) for command in row["commands"].split("; ")]


def after(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


@dataclass
class Place:
    """What the commands of one task are run on.

    Attributes:
        caches: two caches of the same samples, by different teachers.
        student, sparse: a student, and one of which half the weights are 0.
        folder: where runs and files go.
        runs: the folder of every student that was trained so far, by what it was trained with.
    """

    caches: list[Path]
    student: Path
    sparse: Path | None
    folder: Path
    runs: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def filled(self, words: list[str], chosen: Path | None) -> list[str]:
        """The words with something for each one in capital letters."""
        found = []
        for before, word in zip(["", *words], words, strict=False):
            if before == "--student" and word in STUDENTS:
                found.append(str(self.sparse if word in ("SPARSE", "TWO", "B") else self.student))
            elif word in ("CACHE", "FILE"):
                found.append(str(self.caches[1] if word == "CACHE" else chosen))
            else:
                found.append(VALUES.get(word, word))
        return found


@pytest.fixture(scope="module")
def text_place(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path, tokenizer: PreTrainedTokenizerFast
) -> Place:
    """Texts with all features of the teacher, in three domains; a student as deep as the teacher."""
    folder = tmp_path_factory.mktemp("texts")
    other = save_model(folder / "teacher", tokenizer, VOCABULARY + 8, seed=5)
    usual: dict[str, Any] = {"preset": "small", "k": None, "limit": 12}
    taps = {"hidden": "all", "qkv": "all", "tap_codec": "float32"}
    first = dump(plan_for(teacher, texts, folder / "first", **usual, **taps)).path
    second = dump(plan_for(other, texts, folder / "second", **usual)).path
    student = save_model(folder / "student", tokenizer, VOCABULARY, seed=2, hidden_size=32)
    model = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        for weight in (each for name, each in model.named_parameters() if "proj" in name):
            weight[:, ::2] = 0
    model.save_pretrained(folder / "sparse")
    tokenizer.save_pretrained(folder / "sparse")
    return Place([first, second], student, folder / "sparse", folder)


@pytest.fixture(scope="module")
def scored_place(tmp_path_factory: pytest.TempPathFactory, teacher: Path, small_student: Path) -> Place:
    """Answers with a reward and whether they are right, three to a prompt."""
    folder = tmp_path_factory.mktemp("scored")
    cache = scored_cache(teacher, folder, preset="scores", k=None)
    return Place([cache.path, cache.path], small_student, None, folder)


@pytest.fixture(scope="module")
def image_place(tmp_path_factory: pytest.TempPathFactory, classifier: Path, images: Path) -> Place:
    folder = tmp_path_factory.mktemp("images")
    other = save_classifier(folder / "teacher", small_vit(3))
    usual: dict[str, Any] = {"views": 2, "limit": 24, "tail": "uniform"}
    teachers = (classifier, other)
    caches = [dump(images_plan(each, images, folder / f"by-{n}", **usual)).path for n, each in enumerate(teachers)]
    student = save_classifier(folder / "student", small_vit(4, num_hidden_layers=1))
    return Place(caches, student, None, folder)


@pytest.fixture(scope="module")
def class_place(tmp_path_factory: pytest.TempPathFactory, judge: Path, labelled: Path) -> Place:
    folder = tmp_path_factory.mktemp("classes")
    other = save_bert(folder / "teacher", wordpiece(), seed=7)
    caches = [
        dump(classes_plan(each, labelled, folder / f"by-{place}")).path for place, each in enumerate((judge, other))
    ]
    return Place(caches, save_bert(folder / "student", wordpiece(), seed=1, num_hidden_layers=1), None, folder)


def kind_of(row: dict[str, str]) -> str | None:
    """The fixture of the caches that a row's commands need; None where there is none."""
    tasks = {None: "text_place", "image-classification": "image_place", "text-classification": "class_place"}
    dumps = [words for words in steps_of(row) if words[0] == "dump"]
    if any("--score-columns" in words for words in dumps):
        return "scored_place"
    return tasks.get(next((name for words in dumps if (name := after(words, "--task"))), None))


def is_literal(row: dict[str, str]) -> bool:
    """Return True if a row's commands can be run here: there are caches for them, and all words in capitals are known."""
    steps = [words for words in steps_of(row) if words[0] in ("select", "merge", "train")]
    names = {word for words in steps for word in words if CAPITALS.fullmatch(word)}
    is_known = names <= {*VALUES, *STUDENTS, *FILES}
    return "tested" not in row and kind_of(row) is not None and is_known and any(words[0] == "train" for words in steps)


@pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in ROWS if is_literal(row)])
def test_the_commands_of_a_system_train_a_student(
    row: dict[str, str], command: Command, request: pytest.FixtureRequest
) -> None:
    place: Place = request.getfixturevalue(str(kind_of(row)))
    cache, chosen = place.caches[0], None
    trained = 0
    for words in steps_of(row):
        if words[0] == "select":
            chosen = _selected(words[1:], place, cache, command)
        elif words[0] == "merge":
            cache = _merged(words[1:], place, command)
        elif words[0] == "train":
            _trained(words[1:], place, cache, chosen, command)
            trained += 1
    assert trained


def _once(place: Place, what: str, words: tuple[str, ...], run: Any) -> Path:
    """What a command makes; it runs once for all rows."""
    key = (what, *words)
    if key not in place.runs:
        out = place.folder / f"{what}-{len(place.runs)}"
        assert run(out) == 0, key
        place.runs[key] = out
    return place.runs[key]


def _selected(words: list[str], place: Place, cache: Path, command: Command) -> Path:
    flags = ["column:reward" if word.startswith("column:") else VALUES.get(word, word) for word in words]
    if "FIGURES" in flags:
        flags[flags.index("FIGURES")] = str(_figures(place, cache, command))
    if "difference" in words:
        flags += ["--reference", str(place.caches[1])]
    if not {"--ratio", "--samples", "llkd"} & {*words}:
        flags += ["--ratio", "0.7"]
    return _once(place, "select", (str(cache), *flags), lambda out: command("select", cache, *flags, "--out", out))


def _figures(place: Place, cache: Path, command: Command) -> Path:
    judged = ["--student", str(place.student), "--samples", "all", "--device", "cpu"]
    return _once(place, "figures", (str(cache),), lambda out: command("evaluate", cache, *judged, "--figures", out))


def _merged(words: list[str], place: Place, command: Command) -> Path:
    # rows of two caches that keep sketches are of one form only when they are stored anew
    flags = [*words, *(["--preset", "topk", "-k", "8", "--tail", "uniform"] if "--by" in words else [])]
    return _once(place, "merge", tuple(flags), lambda out: command("merge", *place.caches, *flags, "--out", out))


def _trained(words: list[str], place: Place, cache: Path, chosen: Path | None, command: Command) -> None:
    flags, recipe = place.filled(words, chosen), after(words, "--recipe")
    if chosen is not None and "--select" not in words:
        flags += ["--select", str(chosen)]
    if "--student" not in words:
        flags += ["--student", str(place.student)]
    if recipe in ("dpo", "ipo", "simpo", "redi", "rwr"):
        flags += ["--score", "reward"]
    # to re-weight domains, samples of each must be held out
    flags += ["--reweight-domains", "10", "--holdout", "0.4"] if recipe == "ddk" else ["--holdout", "0"]
    usual = [
        "--max-steps",
        STEPS,
        "--batch-size",
        4,
        "--device",
        "cpu",
        "--keep-checkpoints",
        0,
        "--set",
        "logging_steps=1",
    ]
    out = _once(place, "train", (str(cache), *flags), lambda out: command("train", cache, *usual, *flags, "--out", out))
    logs = [*out.rglob("logitstore.json")]
    assert logs
    for log in logs:
        losses = [entry for entry in json.loads(log.read_text("utf-8"))["log"] if "loss" in entry]
        assert [entry["step"] for entry in losses] == list(range(1, STEPS + 1))
        assert all(math.isfinite(entry["loss"]) for entry in losses)


@pytest.mark.parametrize("row", [pytest.param(row, id=row["name"]) for row in ROWS if not is_literal(row)])
def test_any_other_system_names_the_test_that_runs_it(row: dict[str, str]) -> None:
    tested = row.get("tested")
    assert tested, (
        f"{row['name']}: no small cache here suits its commands, or a word in capitals is not known. Add it to "
        f"{Path(__file__).name}, or name the test that takes 20 steps as `tested: tests/FOLDER/test_FILE.py::test_NAME`."
    )
    file, _, name = tested.partition("::")
    assert re.search(rf"^def {re.escape(name)}\(", (ROOT / file).read_text("utf-8"), re.M), f"{tested} does not exist"


def test_there_are_systems_of_every_kind_of_cache() -> None:
    kinds = {kind_of(row) for row in ROWS if is_literal(row)}
    assert kinds == {"text_place", "scored_place", "image_place", "class_place"}
