"""Students with another tokenizer learn the text of the samples."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.text.retokenise import TextLoader, encoded_anew
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.selections import selection_of, training
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve


def test_the_text_of_joined_windows_is_the_document_s(
    cache: logitstore.Cache, texts: Path, other_student: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(other_student)
    documents = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    found = encoded_anew(cache, np.arange(len(cache)), tokenizer)
    used = sorted(set(cache.documents().tolist()))
    expected = [tokenizer(documents[document])["input_ids"] for document in used]
    said = [int(token) for s in range(len(found)) for token in found.tokens_of(s)[found.positions_of(s) + 1]]
    assert said == [token for tokens in expected for token in tokens[1:]]
    firsts = sum(len(tokenizer.decode(tokens[:1]).encode()) for tokens in expected)
    assert found.bytes == sum(len(documents[document].encode()) for document in used) - firsts
    assert found.column("lengths").max() <= 96
    assert (found.column("row_counts") == [len(found.positions_of(s)) for s in range(len(found))]).all()


def test_a_window_alone_is_its_own_text(cache: logitstore.Cache, other_student: Path, tokenizer: Any) -> None:
    tokenizer_of_student = AutoTokenizer.from_pretrained(other_student)
    documents = cache.documents()
    long = next(s for s in range(len(cache) - 2) if documents[s] == documents[s + 2])
    found = encoded_anew(cache, np.array([long, long + 2]), tokenizer_of_student)
    text = "".join(tokenizer_of_student.decode(found.tokens_of(s)) for s in range(len(found)))
    wanted = "".join(tokenizer.decode(cache[s].sample.tokens_T.astype(int)) for s in (long, long + 2))
    assert text == wanted


def test_a_student_with_another_tokenizer_learns_the_chosen_text_and_is_judged_per_byte(
    cache: logitstore.Cache, other_student: Path, half: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"select": half, "alpha": 0.0, "text": True, "epochs": 3.0}
    figures = train(training(cache, out, other_student, **options))
    judge = {"cache": cache.path, "holdout": 0.2, "device": "cpu", "text": True}
    before = evaluate(EvaluateSettings(**judge, student=str(other_student)))
    after = evaluate(EvaluateSettings(**judge, student=str(out)))
    assert after.cross_entropy < before.cross_entropy
    assert after.rows == figures["eval_rows"]
    assert vars(after)["nats_per_byte"] == pytest.approx(figures["eval_nats_per_byte"], rel=1e-4)
    assert AutoTokenizer.from_pretrained(out).vocab_size == VOCABULARY + 80
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == VOCABULARY + 80


def test_nats_per_byte_is_the_loss_of_transformers_over_the_bytes_of_the_text(
    teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    text = "Grüße, 你好, naïve façade and some more of it"
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": text}) + "\n")
    alone = dump(plan_for(teacher, data, tmp_path / "cache", preset="scores", k=None, domain_column=None))
    plan = EvaluateSettings(cache=alone.path, student=str(small_student), samples="all", text=True, device="cpu")
    found = evaluate(plan)
    tokens = AutoTokenizer.from_pretrained(small_student)(text, return_tensors="pt")["input_ids"]
    loss = AutoModelForCausalLM.from_pretrained(small_student)(tokens, labels=tokens).loss.item()
    assert found.cross_entropy == pytest.approx(loss, rel=1e-5)
    first = len(AutoTokenizer.from_pretrained(small_student).decode(tokens[0, :1]).encode())
    assert vars(found)["nats_per_byte"] == pytest.approx(loss * (tokens.numel() - 1) / (len(text.encode()) - first))


def test_text_is_read_in_the_same_batches_by_any_number_of_ranks(cache: logitstore.Cache, other_student: Path) -> None:
    texts = encoded_anew(cache, np.arange(60), AutoTokenizer.from_pretrained(other_student))
    alone = [batch.samples.tolist() for batch in TextLoader(texts, batch_size=4, seed=3)]
    ranks = [list(TextLoader(texts, batch_size=4, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [ranks[n % 2][n // 2].samples.tolist() for n in range(len(alone))] == alone
    packed = next(iter(TextLoader(texts, batch_size=6, packed=True)))
    for sample in range(6):
        rows = texts.positions_of(int(packed.samples[sample]))
        assert len(rows)
    assert int(packed.row_mask.sum()) == sum(len(texts.positions_of(int(s))) for s in packed.samples)
    torch.testing.assert_close(packed.gold, packed.input_ids.flatten()[packed.rows + 1])


def test_a_run_on_text_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, other_student: Path, half: Path, tmp_path: Path
) -> None:
    options = {"select": half, "alpha": 0.0, "text": True, "epochs": 2.0, "save_every": 3, "packed": True}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, other_student, **options, keep_checkpoints=99))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    train(training(cache, stopped, other_student, **options, resume=True))
    assert curve(stopped) == curve(whole)


def test_text_goes_without_a_teacher_only(
    refused: Refused,
    cache: logitstore.Cache,
    other_student: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    base = ["train", cache.path, "--out", tmp_path / "out"]
    assert "Give --alpha 0" in refused(*base, "--student", other_student, "--text")
    assert "--text needs a --student" in refused(*base, "--text", "--alpha", 0)
    line = refused(*base, "--student", other_student, "--text", "--alpha", 0, "--curriculum", "easy-first")
    assert "has no score" in line
    assert "changes nothing without" in refused(*base, "--student", small_student, "--curriculum-start", 0.5)
    mismatch = refused(*base, "--student", other_student)
    assert "its tokenizer is not the cache's" in mismatch
    assert "--text (in train with --alpha 0)" in mismatch
    weighted, _ = selection_of(cache, tmp_path, method="llkd")
    line = refused(*base, "--student", other_student, "--text", "--alpha", 0, "--select", weighted)
    assert "has none" in line
    bare = save_model(tmp_path / "bare", None, VOCABULARY)
    with pytest.raises(ModelError, match="no tokenizer is saved with it"):
        evaluate(EvaluateSettings(cache=cache.path, student=str(bare), text=True, device="cpu"))


def test_chats_have_no_text_for_another_tokenizer(teacher: Path, other_student: Path, tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello you"}]
    data.write_text(json.dumps({"messages": chat}) + "\n")
    chats = dump(plan_for(teacher, data, tmp_path / "cache", preset="scores", k=None, domain_column=None))
    with pytest.raises(BadInput, match="has rows about chosen tokens only"):
        evaluate(EvaluateSettings(cache=chats.path, student=str(other_student), samples="all", text=True, device="cpu"))


def test_the_samples_of_a_packed_row_are_texts_of_their_own(teacher: Path, tokenizer: Any, tmp_path: Path) -> None:
    texts = ["the first text of them all", "a second", "and the third text, which is longer than a window of tokens"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    data = tmp_path / "ids.jsonl"
    data.write_text(
        json.dumps({"input_ids": list(chain.from_iterable(ids)), "seq_lengths": [len(each) for each in ids]}) + "\n"
    )
    plan = plan_for(teacher, data, tmp_path / "cache", domain_column=None, max_length=16, overlap=4)
    cache = dump(plan.model_copy(update={"preset": "scores", "k": None}))
    assert len(cache) > len(texts)
    found = encoded_anew(cache, np.arange(len(cache)), tokenizer)
    assert found.bytes == sum(len(text.encode()) for text in texts) - sum(
        len(tokenizer.decode(each[:1])) for each in ids
    )
    own = np.flatnonzero(found.first_S == 0)
    assert [found.tokens_of(int(sample)).tolist() for sample in own] == [each[:16] for each in ids]
    # a selection may leave out windows
    last = encoded_anew(cache, np.array([0, len(cache) - 1]), tokenizer)
    assert tokenizer.decode(last.tokens_of(len(last.lengths_S) - 1).tolist()).endswith("tokens")
