"""Shares of domains that follow the student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerState

import logitstore
from logitstore.core.order import held_out
from logitstore.dump.dump import dump
from logitstore.train.loader.domains import behind, first_shares, next_shares
from logitstore.train.reweighting import Reweighting
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.marks import rarely
from tests.parts.selections import training
from tests.parts.texts import plan_for
from tests.parts.training import curve


def test_the_shares_follow_the_student_and_are_saved(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[np.ndarray[Any, Any]] = []
    look = Reweighting._look

    def spy(self: Reweighting, student: Any) -> Any:
        looks.append(look(self, student))
        return looks[-1]

    def last(state: TrainerState, path: str) -> None:
        """What makes a checkpoint whole is written when everything else is there."""
        assert (Path(path).parent / "domains.json").is_file()
        write(state, path)

    write = TrainerState.save_to_json
    monkeypatch.setattr(TrainerState, "save_to_json", last)
    monkeypatch.setattr(Reweighting, "_look", spy)
    out = tmp_path / "out"
    train(training(cache, out, small_student, alpha=0.5, holdout=0.4, reweight_domains=4, max_steps=10, save_every=10))
    saved = json.loads((out / "checkpoint-10" / "domains.json").read_text())
    assert saved["domains"] == ["topic 0", "topic 1", "topic 2"]
    kept_out = np.flatnonzero(held_out(cache.documents(), 0.4))
    model = AutoModelForCausalLM.from_pretrained(small_student)
    sums = {name: [0.0, 0.0, 0.0] for name in saved["domains"]}
    for name, found in sums.items():
        own = [int(s) for s in kept_out if cache[int(s)].sample.domain == name]
        for s in (own[int(place)] for place in np.unique(np.linspace(0, len(own) - 1, 500).round())):
            each = cache[s]
            logits = model(torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]).logits[0]
            gold = torch.log_softmax(logits.double(), -1)[each.sample.positions_N, each.sample.gold_N]
            found[0] -= float(gold.sum().detach())
            found[1] += float(cache.nll()[s]) * each.sample.rows
            found[2] += each.sample.rows
    np.testing.assert_allclose(looks[0], [student / rows for student, _, rows in sums.values()], rtol=1e-5)
    teacher = np.array([teacher / rows for _, teacher, rows in sums.values()])
    shares = [first_shares(behind(looks[0], teacher))]
    # spans begin at the steps 0, 4, 8 and 12, and are decided at 0, 1, 5 and 9
    shares += [next_shares(shares[0], behind(looks[1], teacher), 0.5)]
    shares += [next_shares(shares[1], behind(looks[2], teacher), 0.5)]
    shares += [next_shares(shares[2], behind(looks[3], teacher), 0.5)]
    assert len(looks) == 4
    np.testing.assert_allclose(saved["shares"], shares)


@pytest.mark.parametrize(("every", "accumulate", "steps"), [rarely(1, 1, 5), (4, 2, 12)])
def test_a_re_weighted_run_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, every: int, accumulate: int, steps: int
) -> None:
    options = {
        "holdout": 0.4,
        "epochs": 9.0,
        "max_steps": steps,
        "accumulate": accumulate,
        "save_every": 3,
        "reweight_domains": every,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, small_student, **options, keep_checkpoints=99))
    middle = max(step for step in curve(whole) if step % 3 == 0 and step < max(curve(whole)))
    shutil.copytree(whole / f"checkpoint-{middle}", stopped / f"checkpoint-{middle}")
    train(training(cache, stopped, small_student, **options | {"workers": 3, "resume": True}))
    assert curve(stopped) == curve(whole)


def test_domains_that_cannot_be_re_weighted_are_refused(
    refused: Refused,
    cache: logitstore.Cache,
    teacher: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "some words to read"}\n{"text": "and some more"}\n')
    plain = dump(plan_for(teacher, data, tmp_path / "plain", domain_column=None))
    rest = ["--student", small_student, "--out", tmp_path / "out", "--reweight-domains", 5, "--device", "cpu"]
    assert "are of one domain" in refused("train", plain.path, *rest)
    assert "is held out to judge on. Choose a larger --holdout" in refused(
        "train", cache.path, *rest, "--holdout", 0.01
    )
    for others in (["--curriculum", "easy-first"], ["--prune", "--heads", 2], ["--student", teacher]):
        assert "Leave one out" in refused("train", cache.path, *rest, *others)
