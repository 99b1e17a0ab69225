"""`train --window-parts`: a run by windows of parts resumes as it was, and only with the same windows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.errors import BadInput
from logitstore.train.run_folder import SUMMARY_NAME
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.training import curve, plan_of


def plan(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> Any:
    usual = {"student": str(student), "epochs": 2.0, "batch_size": 4, "save_every": 15, "keep_checkpoints": 99}
    return plan_of(cache, out, **usual | {"window_parts": 1, "evaluate_every": 1000} | changes)


def test_a_run_by_windows_goes_on_in_the_middle_and_with_the_same_windows_alone(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    train(plan(cache, small_student, tmp_path / "whole"))
    mixed = tmp_path / "mixed"
    train(plan(cache, small_student, mixed, window_parts=None))
    assert curve(tmp_path / "whole").keys() == curve(mixed).keys()
    assert curve(tmp_path / "whole") != curve(mixed)
    out = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole" / "checkpoint-15", out / "checkpoint-15")
    for other in (2, None):
        with pytest.raises(BadInput, match=f"began with window_parts = 1, not {other}. Give the same options"):
            train(plan(cache, small_student, out, window_parts=other, resume=True))
    train(plan(cache, small_student, out, resume=True))
    assert curve(out) == curve(tmp_path / "whole")


def test_a_run_of_before_mixed_all_samples(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    train(plan(cache, small_student, tmp_path / "whole", window_parts=None, max_steps=20))
    out = tmp_path / "stopped"
    kept = shutil.copytree(tmp_path / "whole" / "checkpoint-15", out / "checkpoint-15") / SUMMARY_NAME
    summary = json.loads(kept.read_text())
    del summary["plan"]["window_parts"]
    kept.write_text(json.dumps(summary))
    with pytest.raises(BadInput, match="began with window_parts = None, not 2"):
        train(plan(cache, small_student, out, window_parts=2, max_steps=20, resume=True))
    train(plan(cache, small_student, out, window_parts=None, max_steps=20, resume=True))
    assert curve(out) == curve(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--curriculum", "easy-first"], "--curriculum easy-first"),
        (["--reweight-domains", 5], "--reweight-domains 5"),
        (["--text", "--alpha", 0], "--text"),
    ],
)
def test_what_reads_in_another_order_is_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused, options: list[object], named: str
) -> None:
    base = ["train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--window-parts", 3]
    assert f"--window-parts 3 with {named}: it reads samples out of the order of the parts." in refused(*base, *options)
