"""A task from another package, end to end: labelled texts are dumped, resumed, checked, shown, learnt from and judged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

import logitstore
from logitstore.core import tasks
from logitstore.errors import BadInput, CacheDamaged
from tests.parts.commands import Command, Refused, cold_command
from tests.parts.files import tree
from tests.parts.places import ROOT
from tests.parts.texts import TEXTS, VOCABULARY

PLUGINS = ROOT / "tests" / "parts" / "plugin"
CLASSES = ["short", "medium", "long"]
NOT_KNOWN = "the task 'short-texts' of this cache is not known here; install the package that provides it"


def forget_plugins() -> None:
    """Look for installed packages anew: a process looks once."""
    for found in (tasks._plugins, tasks.task_of, tasks.facet):
        found.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package logitstore-short-texts were installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    forget_plugins()
    yield
    monkeypatch.undo()
    forget_plugins()


def save_classifier(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, **changes: Any) -> Path:
    """A small BERT with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: place for place, name in enumerate(CLASSES)}}
    config = BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.3, **shape | names | changes
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The teacher."""
    return save_classifier(tmp_path_factory.mktemp("judge") / "teacher", tokenizer, seed=0)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short texts, each with the name of a class."""
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    lines = [
        json.dumps({"text": text[: 20 + 5 * place], "label": CLASSES[place * 3 // 40]})
        for place, text in enumerate(TEXTS[:40])
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def options(judge: Path, reviews: Path) -> list[object]:
    """Those of the dump that the tests use, but for --out: four parts."""
    named = {"task": "short-texts", "teacher": judge, "data": reviews, "samples-per-part": 10}
    named |= {"dtype": "float32", "device": "cpu", "k": 2, "batch-tokens": 128}
    return [text for name, value in named.items() for text in (f"--{name}", value)]


@pytest.fixture
def made(installed: None, options: list[object], command: Command, tmp_path: Path) -> Path:
    """A complete cache of labelled texts."""
    assert command("dump", *options, "--out", tmp_path / "cache") == 0
    return tmp_path / "cache"


def test_a_dump_of_it_is_sound_and_says_what_the_teacher_says(made: Path, judge: Path, command: Command) -> None:
    assert command("verify", made) == 0
    assert command("verify", made, "--against-teacher", judge, "--share", 1, "--device", "cpu") == 0
    cache = logitstore.open(made)
    assert (cache.complete, len(cache), cache.manifest.parts) == (True, 40, 4)
    batch = next(iter(cache.loader(batch_size=40, shuffle=False)))
    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    with torch.no_grad():
        logprobs_NC = model(**batch.model_inputs()).logits.log_softmax(-1)
    assert batch.gold.tolist() == [place * 3 // 40 for place in range(40)]
    stored_N = batch.gold_logprob
    torch.testing.assert_close(stored_N, logprobs_NC.gather(1, batch.gold[:, None])[:, 0], rtol=2e-3, atol=2e-3)
    assert stored_N.exp().std() > 0.1


def test_a_dump_of_it_resumes_part_by_part(made: Path, options: list[object], command: Command, tmp_path: Path) -> None:
    for parts in ("2", "0,3"):
        assert command("dump", *options, "--out", tmp_path / "again", "--parts", parts) == 0
    assert not logitstore.open(tmp_path / "again").complete
    assert command("dump", *options, "--out", tmp_path / "again") == 0
    assert tree(tmp_path / "again") == tree(made)


def test_people_see_its_samples(made: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", made) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "BertForSequenceClassification, 3 classes" in shown
    assert "40 labelled texts of at most 64 tokens" in shown
    assert command("inspect", made, "--sample", 39, "--json") == 0
    (view,) = json.loads(capsys.readouterr().out)
    assert view["text"].endswith("(long)")
    assert {name for name, _ in view["alternatives"]} <= set(CLASSES)


def test_students_learn_from_it_and_are_judged(
    made: Path,
    tokenizer: PreTrainedTokenizerFast,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    student = save_classifier(tmp_path / "student", tokenizer, seed=1, num_hidden_layers=1)
    judged = ["--samples", "all", "--json", "--device", "cpu"]
    figures = []
    for trained, given in ((tmp_path / "trained", ["--student", student]), (tmp_path / "fresh", ["--layers", 1])):
        steps = ["--max-steps", 30, "--batch-size", 10, "--holdout", 0.2, "--learning-rate", 3e-3, "--device", "cpu"]
        assert command("train", made, *given, "--out", trained, *steps) == 0
        saved = AutoModelForSequenceClassification.from_pretrained(trained)
        assert [saved.config.id2label[number] for number in range(3)] == CLASSES
        capsys.readouterr()
        assert command("evaluate", made, "--student", trained, *judged) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert command("evaluate", made, "--student", student, *judged) == 0
    before = json.loads(capsys.readouterr().out)
    assert figures[0]["rows"] == figures[1]["rows"] == 40
    assert figures[0]["kl"] < before["kl"]


@pytest.mark.parametrize("given", [["--views", 2], ["--domain-column", "label"], ["--qkv", "all"]])
def test_options_of_other_tasks_are_refused(
    installed: None, options: list[object], refused: Refused, tmp_path: Path, given: list[object]
) -> None:
    line = refused("dump", *options, "--out", tmp_path / "cache", *given)
    assert line == f"error: {given[0]}: it means nothing to --task short-texts. Leave it out."
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("given", [["--preset", "exact"], ["--hidden", "final"]])
def test_what_its_teacher_does_not_give_is_refused(
    installed: None, options: list[object], refused: Refused, tmp_path: Path, given: list[object]
) -> None:
    cut = options[: options.index("--k")] + options[options.index("--k") + 2 :]
    line = refused("dump", *cut, "--out", tmp_path / "cache", *given)
    assert line.startswith(f"error: {given[0]} {given[1]}")
    assert "gives logits of the whole vocabulary" in line


def test_a_dry_run_describes_it(
    installed: None, options: list[object], command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("dump", *options, "--out", tmp_path / "cache", "--dry-run") == 0
    assert "reviews.jsonl: 40 labelled texts" in capsys.readouterr().out
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_other_commands_refuse_what_means_nothing_to_it(made: Path, refused: Refused, tmp_path: Path) -> None:
    nothing = f"it means nothing to {made}, a cache of labelled texts. Leave it out."
    train = ["train", made, "--out", tmp_path / "student", "--layers", 1]
    assert refused(*train, "--packed") == f"error: --packed: {nothing}"
    assert refused("evaluate", made, "--student", tmp_path, "--text") == f"error: --text: {nothing}"
    assert "nothing can be added" in refused("add", made, "--hidden", "final")


def test_without_the_package_its_caches_are_refused_in_one_line(
    made: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, tmp_path: Path
) -> None:
    monkeypatch.undo()
    forget_plugins()
    for arguments in (["inspect", made], ["verify", made, "--repair"], ["train", made, "--out", tmp_path / "student"]):
        assert refused(*arguments) == f"error: {made / 'cache.json'}: {NOT_KNOWN}."
    with pytest.raises(CacheDamaged, match=NOT_KNOWN):
        logitstore.open(made)


def test_an_unknown_task_is_refused_with_the_nearest_name(
    installed: None, options: list[object], refused: Refused, tmp_path: Path
) -> None:
    options[1] = "short-text"
    line = refused("dump", *options, "--out", tmp_path / "cache")
    assert "Did you mean 'short-texts'?" in line
    assert line.endswith(
        "Known: causal-lm, embedding, image-classification, masked-lm, ranking, short-texts, text-classification."
    )


def test_an_installed_package_is_found_by_itself(made: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")])}
    done = cold_command("inspect", made, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "short-texts"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("causal-lm = logitstore_minp:KIND", "'causal-lm' of logitstore_minp:KIND: the name is taken"),
        ("text = json:dumps", "'text' of json:dumps is no logitstore.core.tasks.Task"),
        ("text = misspelt:TASK", "the option 'label_colum' of `dump`, which no task has"),
    ],
)
def test_a_package_with_a_taken_name_or_another_thing_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entries: str, says: str
) -> None:
    folder = tmp_path / "wrong-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[logitstore.tasks]\n{entries}\n")
    (tmp_path / "misspelt.py").write_text(
        "from dataclasses import replace\n"
        "from logitstore.core.tasks import TASKS\n"
        "TASK = replace(TASKS['text-classification'], options={'dump': ('label_colum',)})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_plugins()
    with pytest.raises(BadInput, match=says):
        tasks.task_of("text")
    monkeypatch.undo()
    forget_plugins()


def test_what_a_task_does_not_name_is_refused(made: Path, judge: Path, refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refused("select", made, "--method", "random", "--ratio", 0.5, "--out", out)
    assert "a cache of labelled texts, of which train reads no selection" in line
    line = refused("evaluate", made, "--student", judge, "--figures", out)
    assert line.endswith("--figures: it means nothing to " + str(made) + ", a cache of labelled texts. Leave it out.")
    assert not out.exists()
