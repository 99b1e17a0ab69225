"""PS-KD by commands: a student learns from the label and from what it said itself an epoch ago (docs/quickstart.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import logitstore


def test_an_epoch_begins_at_the_student_s_own_past_answers(
    cache: logitstore.Cache, small_student: Path, texts: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    steps = ["--batch-size", 8, "--holdout", 0, "--device", "cpu", "--set", "logging_steps=1", "--epochs", 1]
    first, past, second = (tmp_path / name for name in ("epoch-1", "past-1", "epoch-2"))
    assert command("train", cache.path, "--student", small_student, "--alpha", 0, "--out", first, *steps) == 0
    assert (
        command(
            "dump",
            "--teacher",
            first,
            "--data",
            texts,
            "--out",
            past,
            "--preset",
            "exact",
            "--device",
            "cpu",
            "--max-length",
            64,
        )
        == 0
    )
    assert command("train", past, "--student", first, "--alpha", 0.53, "--out", second, *steps) == 0
    log = [each for each in json.loads((second / "logitstore.json").read_text())["log"] if "loss" in each]
    assert log[0]["kl"] == pytest.approx(0.0, abs=2e-3)
    for entry in log:
        assert entry["loss"] == pytest.approx(0.53 * entry["kl"] + 0.47 * entry["cross_entropy"], rel=1e-3)
    assert log[-1]["kl"] > log[0]["kl"]
