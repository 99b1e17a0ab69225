"""Answers of a server: generated, resumed, read again, dumped, and used to train; each row is compared with the model's own.

Axes: T tokens, N rows, V vocabulary.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

import logitstore
from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.dump.engines.answers.folder import Answers
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from logitstore.store.index.scored import group_codes
from logitstore.text.answers.generate import generate, planned
from logitstore.text.answers.run import Generated
from tests.parts.chat_server import ChatServer
from tests.parts.commands import Command
from tests.parts.places import ROOT
from tests.text.answers.conftest import PROMPTS, Make

Run = Callable[..., Generated]


def rows_of(folder: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="train")


def dumped(folder: Path, out: Path, **changes: object) -> logitstore.Cache:
    plan = {"teacher": f"recorded:{folder}", "data": str(folder), "out": out, "preset": "topk", "tail": "uniform"}
    return dump(DumpSettings(**plan | changes))


def test_answers_become_a_cache_whose_rows_are_those_of_the_model(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    server.behaviour.lists_end = True
    found = generated()
    assert (found.prompts, found.answers, found.without_row, found.dropped) == (6, 6, 0, 0)
    cache = dumped(tmp_path / "answers", tmp_path / "cache", k=20)
    assert verify(cache.path) == []
    assert (len(cache), cache.rows) == (6, found.rows)
    for index in range(len(cache)):
        sample, answer = cache[index].sample, cache[index].answer
        with torch.inference_mode():
            logits_TV = server.model.model(torch.tensor(sample.tokens_T.astype(np.int64))[None]).logits[0]
        direct_NV = logits_TV[torch.from_numpy(sample.positions_N), :320].double().log_softmax(-1).numpy()
        ids_NK = answer["ids"].astype(np.int64)
        assert (ids_NK[:, 0] == direct_NV.argmax(1)).all()
        gold_N = direct_NV[np.arange(len(ids_NK)), sample.gold_N]
        # float16 keeps 11 bits of what float32 says
        for stored, direct in (
            (answer["logprobs"], np.take_along_axis(direct_NV, ids_NK, 1)),
            (answer["gold_logprob"], gold_N),
        ):
            np.testing.assert_allclose(stored.astype(np.float64), direct, rtol=2.0**-11, atol=1e-4)
        listed = np.exp(np.take_along_axis(direct_NV, ids_NK, 1)).sum(1)
        np.testing.assert_allclose(np.exp(answer["tail_logmass"].astype(np.float64)), 1 - listed, atol=1e-4)


def test_the_answers_to_a_prompt_are_a_group(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    server.behaviour.lists_end = True
    generated(samples_per_prompt=2)
    cache = dumped(tmp_path / "answers", tmp_path / "cache", k=20, group_column="number", score_columns="sample")
    rows = rows_of(tmp_path / "answers")
    found = [(each.sample.group, each.sample.scores["sample"]) for each in cache]
    assert found == [(str(row["number"]), float(row["sample"])) for row in rows]
    assert len(group_codes(cache)) == len(rows) > len(set(rows["number"]))


def test_the_folder_holds_float32_of_what_the_model_says(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    generated()
    for row in rows_of(tmp_path / "answers"):
        with torch.inference_mode():
            logits_TV = server.model.model(torch.tensor(row["input_ids"])[None]).logits[0, :, :320]
        positions_N = np.flatnonzero(row["completion_mask"]) - 1
        direct_NV = logits_TV[positions_N].double().log_softmax(-1).numpy()
        ids_NK = np.array(row["ids"])
        np.testing.assert_allclose(row["logprobs"], np.take_along_axis(direct_NV, ids_NK, 1), atol=1e-4)
        gold_N = np.array(row["input_ids"])[positions_N + 1]
        np.testing.assert_allclose(row["gold_logprobs"], direct_NV[np.arange(len(gold_N)), gold_N], atol=1e-4)


def test_what_is_recorded_is_the_prompt_the_answer_and_where_it_begins(generated: Run, tmp_path: Path) -> None:
    generated()
    rows = rows_of(tmp_path / "answers")
    assert rows["number"] == [*range(6)]
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": text}] for text in PROMPTS]
    assert rows[0]["answer"] == "Grüße, 你好, 🙂!"
    assert set(rows["finish_reason"]) <= {"stop", "length"}
    for row in rows:
        assert sum(row["completion_mask"]) == len(row["ids"]) == len(row["logprobs"]) == len(row["gold_logprobs"])
    plan = yaml.safe_load((tmp_path / "answers" / "plan.yaml").read_text())
    assert (plan["model"], plan["temperature"], plan["top_logprobs"]) == ("tiny", 1.0, 20)


def test_a_student_trains_from_it_and_it_agrees_with_its_teacher(
    generated: Run, small_student: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    generated()
    answers, cache = tmp_path / "answers", tmp_path / "cache"
    options = ["--preset", "topk", "--tail", "uniform", "--out", cache]
    assert command("dump", "--teacher", f"recorded:{answers}", "--data", answers, *options) == 0
    assert command("verify", cache) == 0
    assert command("verify", cache, "--against-teacher", f"recorded:{answers}", "--share", 1) == 0
    assert "it agrees" in capsys.readouterr().out
    student = tmp_path / "student"
    assert (
        command("train", cache, "--student", small_student, "--out", student, "--max-steps", 5, "--device", "cpu") == 0
    )
    log = json.loads((student / "logitstore.json").read_text())["log"]
    assert [entry["train_loss"] for entry in log if "train_loss" in entry]


def test_nothing_that_is_there_is_asked_again(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    first = generated()
    before = {file: file.read_bytes() for file in (tmp_path / "answers" / "data").iterdir()}
    server.behaviour.asked.clear()
    again = generated()
    assert server.behaviour.asked == []
    assert (again.answers, again.rows, again.asked) == (first.answers, first.rows, [0, 0])
    assert {file: file.read_bytes() for file in (tmp_path / "answers" / "data").iterdir()} == before


def test_more_prompts_may_follow(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    generated(limit=2)
    assert rows_of(tmp_path / "answers")["number"] == [0, 1]
    generated()
    assert len(server.answers()) == 6
    shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
    assert rows_of(tmp_path / "answers")["number"] == [*range(6)]


def test_data_are_made_of_the_journal_alone(generated: Run, server: ChatServer, tmp_path: Path) -> None:
    generated()
    folder = tmp_path / "answers"
    before = {file.name: file.read_bytes() for file in (folder / "data").iterdir()}
    shutil.rmtree(folder / "data")
    server.behaviour.asked.clear()
    generated()
    # the first token alone is compared where a shard is not whole, and here both are
    assert server.behaviour.asked == []
    assert {file.name: file.read_bytes() for file in (folder / "data").iterdir()} == before


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_prompts(
    settings: Make, server: ChatServer, teacher: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps({"prompt": f"say: number {n}"}) + "\n" for n in range(60)))
    server.behaviour.seconds = 0.05
    options = ["--teacher", f"{server.url}#tiny", "--tokenizer", teacher, "--data", many, "--out", tmp_path / "answers"]
    options += ["--concurrency", 3, "--max-new-tokens", 24]
    run = [sys.executable, "-m", "logitstore", "generate", *map(str, options)]
    with subprocess.Popen(run, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while len(server.answers()) < 20:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.3)
    (journal,) = (tmp_path / "answers" / "asked").iterdir()
    kept = journal.read_bytes().count(b"\n")
    journal.write_bytes(journal.read_bytes() + b'{"number": 59, "check"')  # as a kill may cut a line
    asked = len(server.answers())
    assert asked - 3 <= kept <= asked
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"({kept} of 60 are answered already)" in done.stderr
    assert len(server.answers()) == asked + 60 - kept
    rows = rows_of(tmp_path / "answers")
    assert [row["answer"] for row in rows] == [f"number {n}" for n in range(60)]


def test_a_journal_with_a_line_that_cannot_be_read_is_named(generated: Run, tmp_path: Path) -> None:
    generated()
    folder = tmp_path / "answers"
    shutil.rmtree(folder / "data")
    journal = folder / "asked" / "00001.journal"
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(logitstore.errors.CacheDamaged, match=r"00001\.journal: line 1 cannot be read"):
        generated()


def test_several_answers_to_a_prompt_are_rows_of_their_own(generated: Run, tmp_path: Path) -> None:
    found = generated(samples_per_prompt=3, limit=3)
    rows = rows_of(tmp_path / "answers")
    assert found.answers == len(rows) == 9
    assert list(zip(rows["number"], rows["sample"], strict=True)) == [(n, s) for n in range(3) for s in range(3)]
    # the same answer was given three times to the first prompt, and its rows are found under the same tokens
    cache = dumped(tmp_path / "answers", tmp_path / "cache")
    assert len(cache) == 9


def test_costs_are_shown_before_anything_is_asked(
    settings: Make, server: ChatServer, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Step, int]] = []
    said = planned(settings(price_in=1000, price_out=2000))
    assert server.behaviour.asked == []
    generate(settings(price_in=1000, price_out=2000), lambda step: seen.append((step, len(server.behaviour.asked))))
    costs = next(step for step, _ in seen if step.stage == "costs")
    assert all(asked == 0 for step, asked in seen if step.stage in ("prompts", "costs"))
    assert costs.note == said
    tokens = sum(len(server.model.prompt(body)) for body in server.answers())
    assert said == (
        f"6 prompts of {tokens} tokens are to be asked; at most 144 tokens of answers; at most "
        f"{tokens / 1000 + 0.288:.2f}: {tokens / 1000:.2f} for prompts and 0.29 for answers"
    )
    notes = [step.note for step, _ in seen if step.stage == "generate"]
    assert notes[-1].endswith(" spent")


def test_the_key_is_from_the_environment_and_in_no_file(
    generated: Run, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    server.behaviour.key = "sk-very-secret"
    generated()
    assert server.behaviour.keys == {"sk-very-secret"}
    files = [file for file in (tmp_path / "answers").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if b"very-secret" in file.read_bytes()]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_new_tokens": 23}, "max_new_tokens 24, and now it is 23"),
        ({"temperature": 0.5}, r"temperature 1\.0, and now it is 0\.5"),
        ({"teacher": "http://localhost:1#other"}, "model tiny, and now it is other"),
        ({"top_logprobs": 5}, "top_logprobs 20, and now it is 5"),
    ],
)
def test_a_folder_keeps_to_one_plan(generated: Run, changes: dict[str, object], says: str) -> None:
    generated(limit=1)
    with pytest.raises(CacheMismatch, match=says):
        generated(**changes)


def test_other_prompts_are_refused(generated: Run, prompts: Path) -> None:
    generated(limit=3)
    prompts.write_text(json.dumps({"prompt": "another one"}) + "\n" + prompts.read_text())
    with pytest.raises(CacheMismatch, match="prompt 0 of the data, counted from 0, is another one"):
        generated()


def test_a_folder_of_other_things_and_one_that_is_in_use_are_refused(
    generated: Run, settings: Make, tmp_path: Path
) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="it holds other things than answers"):
        generated()
    with Answers(tmp_path / "new").held(), pytest.raises(BadInput, match="another process generates answers there"):
        generated(out=tmp_path / "new")


def test_at_another_temperature_the_logprobs_are_still_those_at_1(
    generated: Run, server: ChatServer, tmp_path: Path
) -> None:
    generated(temperature=0.5)
    # two requests more: a probe, and the first token at temperature 1
    assert [body["temperature"] for body in server.behaviour.asked].count(1.0) == 2
    assert len(server.answers()) == 6
    assert dumped(tmp_path / "answers", tmp_path / "cache").complete


def test_a_server_that_gives_logprobs_after_the_temperature_is_found(generated: Run, server: ChatServer) -> None:
    def only_answers(answer: dict, body: dict) -> None:
        server.behaviour.sharper = 0.5 if len(server.behaviour.asked) == 1 else 1.0

    server.behaviour.change = only_answers
    with pytest.raises(CacheMismatch, match=r"other logprobs at temperature 1 than that of --temperature 0\.5"):
        generated(temperature=0.5)
    assert len(server.behaviour.asked) == 3


def test_a_server_with_another_model_is_found_when_a_run_resumes(generated: Run, server: ChatServer) -> None:
    generated(limit=2)
    server.behaviour.sharper = 3.0
    with pytest.raises(CacheMismatch, match="than the one that began the folder"):
        generated()
    assert len(server.answers()) == 2
    assert server.behaviour.asked[-1]["max_tokens"] == 1


def test_a_recorded_teacher_knows_its_own_texts_alone(generated: Run, tmp_path: Path, texts: Path) -> None:
    generated()
    folder = tmp_path / "answers"
    with pytest.raises(
        ModelError, match=r"it was not asked about a text of \d+ tokens\. Its texts have up to \d+ tokens"
    ):
        dumped(folder, tmp_path / "others", data=str(texts), column="text")
    with pytest.raises(ModelError, match="it was not asked about a text of"):
        dumped(folder, tmp_path / "cut", max_length=12, overlap=2)
    with pytest.raises(ModelError, match="its lists have 20 tokens, and 25 are wanted"):
        dumped(folder, tmp_path / "more", k=25)
    with pytest.raises(ModelError, match="it has no logprobs of some tokens that the data ask about"):
        dumped(folder, tmp_path / "all", positions="all")
    with pytest.raises(BadInput, match="needs logits of the whole vocabulary"):
        dumped(folder, tmp_path / "tail", tail=None)


@pytest.mark.parametrize("column", ["input_ids", "completion_mask", "ids", "logprobs", "gold_logprobs"])
def test_data_that_were_changed_are_refused_and_made_again_for_nothing(
    generated: Run, server: ChatServer, tmp_path: Path, column: str
) -> None:
    generated()
    file = tmp_path / "answers" / "data" / "train-00000.arrow"
    before = file.read_bytes()
    table = pa.ipc.open_file(before).read_all()
    rows = table.to_pylist()
    rows[0][column] = rows[0][column][::-1]
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    with pa.ipc.new_file(str(file), changed.schema) as writer:
        writer.write_table(changed)
    with pytest.raises(BadInput, match="damaged ones"):
        dumped(tmp_path / "answers", tmp_path / "cache", k=4)
    server.behaviour.asked.clear()
    generated()
    assert server.behaviour.asked == []
    assert file.read_bytes() == before
