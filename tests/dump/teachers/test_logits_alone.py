"""A teacher of another package that gives logits alone: its sketch is made of them, through all commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import logitstore
from logitstore.convert.recode import recode
from logitstore.core.progress import Step
from logitstore.dump import teachers
from logitstore.dump.dump import dump
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.errors import BadInput, ModelError
from logitstore.settings.convert import RecodeSettings
from logitstore.store.checks.verify import verify
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense_logprobs
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.places import ROOT
from tests.parts.texts import plan_for

SMALL: dict[str, Any] = {"preset": "small", "k": None, "limit": 12, "samples_per_part": 20, "pilot_rows": 900}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package logitstore-logits were installed."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "parts" / "plugin"))
    teachers._plugins.cache_clear()
    yield
    monkeypatch.undo()
    teachers._plugins.cache_clear()


@pytest.fixture
def cached(tmp_path: Path, teacher: Path, texts: Path) -> Path:
    made = dump(plan_for(Path(f"logits:{teacher}"), texts, tmp_path / "cache", **SMALL))
    assert made.complete
    return tmp_path / "cache"


def shared_of(folder: Path) -> dict[str, torch.Tensor]:
    file = logitstore.open(folder).manifest.tail.file
    found: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / str(file))
    return found


def decoded(folder: Path) -> np.ndarray:
    """Logprobs of all rows, float64[N, V]."""
    cache = logitstore.open(folder)
    decode, parts = decoder_of(cache), [cache.part(number) for number in cache.part_numbers]
    stored = [{name: torch.from_numpy(np.array(array)) for name, array in part.fields.items()} for part in parts]
    return np.concatenate([dense_logprobs(decode(each)).double().numpy() for each in stored])


def test_its_rows_are_as_good_as_those_made_of_hidden_states(
    cached: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    assert verify(cached) == []
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", **SMALL))
    alone = logitstore.open(cached)
    for name in ("ids", "logprobs", "tail_logmass", "gold_logprob"):
        for one, other in zip(alone, whole, strict=True):
            assert (one.answer[name] == other.answer[name]).all()
    shared, with_head = shared_of(cached), shared_of(tmp_path / "whole")
    assert shared["logit_projection"].shape == (320, len(shared["widths"]))
    assert shared["projection"].shape[0] == 0
    assert "logit_projection" not in with_head
    assert shared["widths"].tolist() == with_head["widths"].tolist()
    assert np.median(np.abs(decoded(cached) - decoded(whole.path))) < 1e-2
    for at in ("kl_t1", "kl_t2"):
        both = [float(each.fidelity.sums[at][0]) / each.fidelity.rows for each in (alone, whole)]
        assert both[0] == pytest.approx(both[1], rel=0.05, abs=1e-4)


def test_it_is_compared_with_its_teacher_and_a_student_learns(
    cached: Path,
    teacher: Path,
    small_student: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for name in (f"logits:{teacher}", str(teacher)):
        assert command("verify", cached, "--against-teacher", name, "--share", 0.2, "--device", "cpu") == 0
        assert "it agrees" in capsys.readouterr().out
    options = ["--student", small_student, "--out", tmp_path / "student", "--max-steps", 2, "--device", "cpu"]
    assert command("train", cached, *options) == 0
    log = json.loads((tmp_path / "student" / "logitstore.json").read_text())["log"]
    assert any(entry.get("train_loss", 0) > 0 for entry in log)


@pytest.mark.parametrize("changes", [{"k": 4}, {"layout": "archive"}, {"tail": "prior"}])
def test_it_is_recoded_like_any_other(cached: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    made = recode(RecodeSettings(cache=cached, out=tmp_path / "recoded", **changes))
    assert made.complete
    assert verify(made.path) == []
    if changes == {"layout": "archive"}:
        np.testing.assert_array_equal(decoded(made.path), decoded(cached))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stage", ["directions", "pilot", "dump"])
def test_a_dump_that_ends_at_any_stage_goes_on_to_the_same_bytes(
    cached: Path, teacher: Path, texts: Path, tmp_path: Path, stage: str
) -> None:
    plan = plan_for(Path(f"logits:{teacher}"), texts, tmp_path / "again", **SMALL)

    def dies(step: Step) -> None:
        if step.stage == stage and step.done:
            raise Killed

    with pytest.raises(Killed):
        dump(plan, dies)
    dump(plan)
    assert tree(tmp_path / "again") == tree(cached)


def test_several_processes_write_the_same(cached: Path, teacher: Path, texts: Path, tmp_path: Path) -> None:
    plan = plan_for(Path(f"logits:{teacher}"), texts, tmp_path / "beside", **SMALL, processes=2)
    dump(plan)
    assert tree(tmp_path / "beside") == tree(cached)


def test_the_notice_says_what_the_directions_leave_out(teacher: Path, texts: Path, tmp_path: Path) -> None:
    said: list[str] = []
    dump(
        plan_for(Path(f"logits:{teacher}"), texts, tmp_path / "cache", **SMALL),
        lambda step: said.append(step.note) if step.stage == "directions" and step.note else None,
    )
    assert len(said) == 1
    assert said[0].startswith(
        "no head explains the logits, so 32 directions of them stand for it; what they leave out costs "
    )


def test_a_cache_of_hidden_states_is_not_continued_without_them(teacher: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    dump(plan_for(teacher, texts, out, **SMALL, parts="0"))
    plan = plan_for(Path(f"logits:{teacher}"), texts, out, **SMALL)
    with pytest.raises((BadInput, logitstore.errors.CacheMismatch)):
        dump(plan)


def test_plan_tries_sketches_and_dump_takes_what_it_fitted(
    teacher: Path, texts: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    options = ["--teacher", f"logits:{teacher}", "--data", texts, "--device", "cpu", "--dtype", "float32"]
    options += ["--max-length", 96, "--limit", 12]
    assert command("plan", *options, "--out", out, "--pilot-samples", 20, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = {line["name"] for line in found["candidates"]}
    assert {"small", "faithful", "tiny"} <= names
    assert "exact" not in names
    assert command("dump", *options, "--out", out, "--preset", "small") == 0
    assert "logit_projection" in shared_of(out)
    assert verify(out) == []


def test_the_whole_hidden_state_cannot_be_kept(teacher: Path, texts: Path, refused: Refused, tmp_path: Path) -> None:
    line = refused(
        "dump", *flags_of(plan_for(Path(f"logits:{teacher}"), texts, tmp_path / "cache", preset="exact", k=None))
    )
    assert "Use --preset small" in line


def test_a_model_whose_head_is_not_known_is_dumped_by_its_logits(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that bends its logits in a way of its own, as `tests/models/test_head.py` has one."""
    plain = CausalTeacher.logits

    def bent(self: CausalTeacher, inputs: Any, **options: Any) -> torch.Tensor:
        logits_BTV = plain(self, inputs, **options)
        return logits_BTV + 0.05 * logits_BTV.sin()

    monkeypatch.setattr(CausalTeacher, "logits", bent)
    made = dump(plan_for(teacher, texts, tmp_path / "cache", **SMALL))
    assert verify(made.path) == []
    assert "logit_projection" in shared_of(tmp_path / "cache")
    assert made.fidelity.rows
    with pytest.raises(ModelError, match=r"its logits differ from head times hidden state.*Use --preset small\.$"):
        dump(plan_for(teacher, texts, tmp_path / "exact", **SMALL | {"preset": "exact"}))
