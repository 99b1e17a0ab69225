"""The figures of `evaluate` against a dense float64 reference."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
)

import logitstore
from logitstore.dump.dump import dump
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from tests.parts.commands import Refused, logitstore_command
from tests.parts.texts import VOCABULARY, plan_for


@torch.no_grad()
def test_the_figures_of_evaluate_are_those_of_a_dense_float64_reference(
    cache: logitstore.Cache, small_student: Path
) -> None:
    found = evaluate(
        EvaluateSettings(cache=cache.path, student=str(small_student), samples="all", device="cpu", batch_size=7)
    )
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32).eval()
    prior = load_file(cache.path / str(cache.manifest.tail.file))["prior"].double()
    sums = dict.fromkeys(("cross_entropy", "teacher_cross_entropy", "kl", "agreement", "acceptance"), 0.0)
    right, sure = [], []
    for each in cache:
        logits = model(torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]).logits[0].double()
        student = torch.log_softmax(logits, -1)[each.sample.positions_N]
        ids = torch.from_numpy(each.answer["ids"].astype(np.int64))
        listed = torch.from_numpy(each.answer["logprobs"].astype(np.float64)).exp()
        mass = torch.from_numpy(each.answer["tail_logmass"].astype(np.float64)).exp()
        listed = listed / listed.sum(1, keepdim=True) * (1 - mass)[:, None]
        spread = prior.expand(len(ids), -1).scatter(1, ids, 0.0)
        teacher = (spread / spread.sum(1, keepdim=True) * mass[:, None]).scatter(1, ids, listed)
        gold = torch.from_numpy(each.sample.gold_N.astype(np.int64))
        sums["cross_entropy"] -= float(student.gather(1, gold[:, None]).sum())
        sums["teacher_cross_entropy"] -= float(each.answer["gold_logprob"].astype(np.float64).sum())
        sums["kl"] += float((teacher * (teacher.log() - student)).sum())
        sums["agreement"] += float((student.argmax(1) == ids[:, 0]).sum())
        sums["acceptance"] += float(torch.minimum(student.exp(), teacher).sum())
        sure.append(student.exp().max(1).values)
        right.append(student.argmax(1) == gold)
    for name, total in sums.items():
        assert getattr(found, name) == pytest.approx(total / cache.rows, rel=1e-5), name
    confidence, correct = torch.cat(sure), torch.cat(right).double()
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        error += abs(float((confidence[inside] - correct[inside]).sum()))
    assert found.calibration_error == pytest.approx(error / cache.rows, rel=1e-5)
    assert found.kl_lower_bound < found.kl
    assert found.rows == cache.rows


def test_the_teacher_judged_against_its_own_cache_has_almost_no_kl(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    """Without its padding rows: a student's padding counts as tokens that the teacher never says."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(VOCABULARY)
    model.save_pretrained(tmp_path)
    found = evaluate(EvaluateSettings(cache=cache.path, student=str(tmp_path), samples="all", device="cpu"))
    assert found.agreement == 1
    assert found.cross_entropy == pytest.approx(found.teacher_cross_entropy, abs=1e-3)
    assert 0 <= found.kl_lower_bound < 1e-2


def test_without_a_tail_there_is_no_lower_bound_of_the_kl(
    teacher: Path, small_student: Path, texts: Path, tmp_path: Path
) -> None:
    cut = dump(plan_for(teacher, texts, tmp_path / "cut", tail="none", limit=8))
    found = evaluate(EvaluateSettings(cache=cut.path, student=str(small_student), samples="all", device="cpu"))
    assert np.isnan(found.kl_lower_bound)
    assert np.isfinite([found.kl, found.agreement, found.acceptance]).all()
    asked = ["evaluate", cut.path, "--student", small_student, "--samples", "all", "--device", "cpu"]
    shown = logitstore_command(*asked).stdout
    assert re.search(r"kl_lower_bound +unknown", shown)
    assert json.loads(logitstore_command(*asked, "--json").stdout)["kl_lower_bound"] is None


@pytest.mark.parametrize(("row", "is_bound_known"), [({"preset": "exact"}, False), ({"sparsifier": "dense"}, True)])
@torch.no_grad()
def test_of_whole_distributions_the_kl_is_the_full_one_and_a_bound_is_not_made_up(
    teacher: Path, small_student: Path, texts: Path, tmp_path: Path, row: dict[str, str], is_bound_known: bool
) -> None:
    whole = {"k": None, "tail": None} | row
    cache = dump(plan_for(teacher, texts, tmp_path / "whole", limit=4, **whole))
    found = evaluate(
        EvaluateSettings(cache=cache.path, student=str(small_student), samples="all", device="cpu", dtype="float32")
    )
    models = [
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).eval() for each in (teacher, small_student)
    ]
    total = 0.0
    for each in cache:
        tokens = torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]
        of_teacher, of_student = (model(tokens).logits[0].double()[each.sample.positions_N] for model in models)
        teacher_NV = of_teacher[:, :VOCABULARY].log_softmax(-1)
        student_NV = of_student.log_softmax(-1)[:, :VOCABULARY]
        total += float((teacher_NV.exp() * (teacher_NV - student_NV)).sum())
    assert found.kl == pytest.approx(total / cache.rows, rel=1e-3)
    if is_bound_known:
        assert found.kl_lower_bound == pytest.approx(found.kl, rel=1e-5)
    else:
        assert np.isnan(found.kl_lower_bound)
    assert 0 < found.acceptance < 1


def test_a_share_to_hold_out_is_refused_where_none_is(
    refused: Refused, cache: logitstore.Cache, small_student: Path
) -> None:
    line = refused("evaluate", cache.path, "--student", small_student, "--samples", "all", "--holdout", 0.3)
    assert line == "error: --holdout 0.3: with --samples all no samples are held out. Leave it out."
