"""A student that reads other prompts than its teacher read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.text.contexts.read import contexts_of
from logitstore.text.stored import texts_of
from logitstore.train.loader.loader import Loader
from logitstore.train.train import train
from tests.parts.chat_templates import LLAMA_3
from tests.parts.commands import Command, Refused
from tests.parts.texts import TEXTS, VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of

Rows = list[dict[str, Any]]
RULE = "Answer as the language reference does. "
ASKED = [{"prompt": f"{RULE}{text[:24]} ", "completion": text[24 : 60 + 3 * n]} for n, text in enumerate(TEXTS[:12])]
SHORT = [{"prompt": f"{row['prompt'][len(RULE) :]}", "completion": "not read"} for row in ASKED]


def as_chats(rows: Rows, rule: str = "") -> Rows:
    before = [{"role": "system", "content": rule}] if rule else []
    return [
        {
            "messages": [
                *before,
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]


def written(path: Path, rows: Rows) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chat_teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = save_model(tmp_path_factory.mktemp("teacher"), tokenizer, VOCABULARY, seed=3)
    (folder / "chat_template.jinja").write_text(LLAMA_3)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, chat_teacher: Path) -> Callable[..., logitstore.Cache]:
    """Make a cache of prompts with completions; of chats where a rule stands before them."""
    caches: dict[str, logitstore.Cache] = {}

    def make(kind: str, **changes: Any) -> logitstore.Cache:
        name = f"{kind}-{sorted(changes)}"
        if name not in caches:
            folder = tmp_path_factory.mktemp(kind)
            data = written(folder / "data.jsonl", as_chats(SHORT, RULE) if kind == "chat" else ASKED)
            usual = {"domain_column": None, "samples_per_part": 5, "max_length": 256, "prepared": folder / "prepared"}
            plan = plan_for(chat_teacher, data, folder / "cache", **usual | changes)
            caches[name] = dump(plan)
        return caches[name]

    return make


def expected(cache: logitstore.Cache, teacher: Path, kind: str) -> list[list[int]]:
    """The tokens of each sample with its short prompt, written out by hand."""
    tokenizer = AutoTokenizer.from_pretrained(str(teacher))
    found = []
    for number, row in enumerate(SHORT):
        sample = cache[number].sample
        gold = sample.mask_T if sample.gold_T is None else sample.gold_T
        answer = sample.tokens_T[int(np.flatnonzero(gold)[0]) + 1 :]
        if kind == "chat":
            asked = [{"role": "user", "content": row["prompt"]}]
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            before = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            before = tokenizer(row["prompt"])["input_ids"]
        found.append([*before, *answer.tolist()])
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("positions", [None, "random:0.5"], ids=["all", "half"])
@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_student_reads_the_other_prompt_and_learns_the_same_rows(
    made: Callable[..., logitstore.Cache],
    chat_teacher: Path,
    tmp_path: Path,
    kind: str,
    positions: str | None,
    packed: bool,
) -> None:
    cache = made(kind, **({} if positions is None else {"positions": positions}))
    data = written(tmp_path / "short.jsonl", as_chats(SHORT) if kind == "chat" else SHORT)
    contexts = contexts_of(cache, str(data))
    wanted = expected(cache, chat_teacher, kind)
    for batch, plain in zip(
        Loader(cache, batch_size=4, shuffle=False, packed=packed, contexts=contexts),
        Loader(cache, batch_size=4, shuffle=False, packed=packed),
        strict=True,
    ):
        flat = batch.inputs["input_ids"].flatten()
        text = flat.tolist()
        for sample in batch.samples.tolist():
            joined = ",".join(map(str, wanted[sample]))
            assert joined in ",".join(map(str, text))
        assert torch.equal(batch.gold, plain.gold)
        assert torch.equal(flat[batch.rows + 1], plain.gold)
        assert {name: value.tolist() for name, value in batch.answer.items()} == {
            name: value.tolist() for name, value in plain.answer.items()
        }
        if positions is not None:
            assert torch.equal(batch.unanswered["gold"], plain.unanswered["gold"])
            assert torch.equal(flat[batch.unanswered["rows"] + 1], batch.unanswered["gold"])


def test_the_loss_is_that_of_the_student_on_the_short_prompts(
    made: Callable[..., logitstore.Cache], chat_teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    """Against a plain forward pass over hand-made inputs, in float64."""
    cache = made("text")
    data = written(tmp_path / "short.jsonl", SHORT)
    plan = plan_of(
        cache, tmp_path / "out", student=str(small_student), contexts=str(data), holdout=0.0, max_steps=1, batch_size=12,
        alpha=0.0, precision="float32",
    )  # fmt: skip
    train(plan)
    student = AutoModelForCausalLM.from_pretrained(str(small_student)).double().eval()
    losses = []
    for number, tokens in enumerate(expected(cache, chat_teacher, "text")):
        rows = int(cache[number].sample.rows)
        with torch.no_grad():
            logits = student(torch.tensor([tokens])).logits[0]
        logprobs = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(tokens)[1:, None])[:, 0]
        losses += (-logprobs[-rows:]).tolist()
    assert curve(tmp_path / "out")[1] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_teachers_own_prompts_train_the_same_student(
    made: Callable[..., logitstore.Cache], small_student: Path, tmp_path: Path
) -> None:
    cache = made("chat")
    data = written(tmp_path / "same.jsonl", as_chats(SHORT, RULE))
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 4, "objective": "forward_kl"}
    train(plan_of(cache, tmp_path / "plain", **usual))
    train(plan_of(cache, tmp_path / "told", **usual, contexts=str(data)))
    assert curve(tmp_path / "told") == curve(tmp_path / "plain")


def test_a_student_learns_to_answer_without_the_rule(
    made: Callable[..., logitstore.Cache], small_student: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "short.jsonl", as_chats(SHORT))
    plan = plan_of(made("chat"), tmp_path / "out", student=str(small_student), contexts=str(data), max_steps=20)
    train(plan)
    losses = curve(tmp_path / "out")
    assert sum(losses[step] for step in (18, 19, 20)) < 0.9 * sum(losses[step] for step in (1, 2, 3))


def test_a_run_resumes_with_the_same_contexts_only(
    made: Callable[..., logitstore.Cache], small_student: Path, tmp_path: Path, refused: Refused, command: Command
) -> None:
    cache = made("text")
    data = written(tmp_path / "short.jsonl", SHORT)
    usual: dict[str, Any] = {"student": str(small_student), "batch_size": 2, "objective": "forward_kl"}
    usual |= {"scheduler": "constant", "warmup": 0.0}
    train(plan_of(cache, tmp_path / "whole", **usual, max_steps=6, contexts=str(data)))
    train(plan_of(cache, tmp_path / "two", **usual, max_steps=4, contexts=str(data)))
    again = {**usual, "max_steps": 6, "resume": True}
    other = written(tmp_path / "other.jsonl", [{"prompt": "Say: "} for _ in SHORT])
    for contexts in (None, str(other)):
        with pytest.raises(BadInput, match="began with other contexts"):
            train(plan_of(cache, tmp_path / "two", **again, contexts=contexts))
    moved = written(tmp_path / "moved.jsonl", SHORT)
    train(plan_of(cache, tmp_path / "two", **again, contexts=str(moved)))
    last = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "two")]
    assert last[0] == last[1]
    found = [command("evaluate", cache.path, "--student", tmp_path / "two", "--samples", "all", "--contexts", data)]
    assert found == [0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (SHORT[:-1], "it has 11 rows, and .* was made of 12 documents"),
        ([{"words": "a"} for _ in SHORT], "no column of prompts that is known"),
        ([{"prompt": 5 if n == 3 else "a "} for n in range(12)], "line 4"),
    ],
    ids=["too few", "no column", "no text"],
)
def test_contexts_that_do_not_fit_are_refused(
    made: Callable[..., logitstore.Cache], tmp_path: Path, rows: Rows, message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        contexts_of(made("text"), str(written(tmp_path / "short.jsonl", rows)))
    assert "--data" not in str(caught.value)


def test_caches_without_answers_are_refused(
    cache: logitstore.Cache,
    made: Callable[..., logitstore.Cache],
    small_student: Path,
    tmp_path: Path,
    refused: Refused,
) -> None:
    data = written(tmp_path / "short.jsonl", SHORT)
    with pytest.raises(BadInput, match=r"about every token|became .* samples"):
        contexts_of(cache, str(data))
    cut = made("text", max_length=16, overlap=4)
    with pytest.raises(BadInput, match=r"became .* samples"):
        contexts_of(cut, str(data))
    pairs = made("text")
    for option in ("--text", "--prune", "--reweight-domains=5"):
        more = ["--alpha", 0] if option == "--text" else ["--student", small_student]
        more += ["--hidden-size", 16] if option == "--prune" else []
        line = refused("train", pairs.path, "--out", tmp_path / "out", "--contexts", data, option, *more)
        assert "--contexts" in line or "--text" in line


def test_a_prompt_longer_than_the_student_is_refused(
    made: Callable[..., logitstore.Cache], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    cache = made("text")
    assert texts_of(cache.samples_of(0)).lengths_S.max() < 96
    short = save_model(tmp_path / "student", tokenizer, VOCABULARY, seed=1, max_position_embeddings=96)
    data = written(tmp_path / "long.jsonl", [{"prompt": row["prompt"] * 12} for row in SHORT])
    with pytest.raises(CacheMismatch, match="takes at most 96"):
        train(plan_of(cache, tmp_path / "out", student=str(short), contexts=str(data)))


def test_an_empty_prompt_is_what_stands_before_a_text(
    made: Callable[..., logitstore.Cache], chat_teacher: Path, tmp_path: Path
) -> None:
    cache = made("text")
    data = written(tmp_path / "empty.jsonl", [{"prompt": ""} for _ in SHORT])
    added = AutoTokenizer.from_pretrained(str(chat_teacher))("")["input_ids"]
    if not added:
        with pytest.raises(BadInput, match="it has no token"):
            contexts_of(cache, str(data))
        return
    contexts = contexts_of(cache, str(data))
    assert contexts is not None
    assert contexts.of(0).tolist() == added
