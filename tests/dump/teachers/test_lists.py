"""A teacher of another package that gives lists of its most probable tokens; and what any such list becomes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.dump import teachers
from logitstore.dump.dump import dump
from logitstore.dump.sparsify.lists import ListedTopK
from logitstore.dump.sparsify.topk import TopK
from logitstore.dump.teachers import open_source, scheme_of
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.errors import BadInput, ModelError
from logitstore.format.needs import TOP_LOGPROBS
from logitstore.store.checks.verify import verify
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import TopLogprobs
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.kept_rows import listed_targets, row_for, teacher_logits
from tests.parts.places import ROOT
from tests.parts.texts import plan_for

PLUGINS = ROOT / "tests" / "parts" / "plugin"
UNIFORM: dict[str, Any] = {"preset": "topk", "k": 8, "tail": "uniform", "limit": 12}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package logitstore-lists were installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    teachers._plugins.cache_clear()
    yield
    monkeypatch.undo()
    teachers._plugins.cache_clear()


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """A cache dumped from the teacher of lists."""
    out = tmp_path_factory.mktemp("lists") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGINS))
        teachers._plugins.cache_clear()
        made = dump(plan_for(f"lists:{teacher}", texts, out, **UNIFORM))
    teachers._plugins.cache_clear()
    assert made.complete
    return out


def fields_of(cache: logitstore.Cache) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([cache[index].answer[name] for index in range(len(cache))]).astype(np.float64)
        for name in cache.manifest.fields
    }


def test_its_rows_are_those_of_the_model_behind_it(listed: Path, teacher: Path, texts: Path, tmp_path: Path) -> None:
    assert verify(listed) == []
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", **UNIFORM))
    cache = logitstore.open(listed)
    assert (cache.manifest.fidelity_rows, cache.fidelity.rows) == (0, 0)
    assert cache.manifest.teacher.fingerprint == whole.manifest.teacher.fingerprint
    found, wanted = fields_of(cache), fields_of(whole)
    assert found.keys() == wanted.keys()
    assert (found["ids"] == wanted["ids"]).all()
    for name in ("logprobs", "gold_logprob"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=2.0**-10, atol=2.0**-20)
    # a small tail is a difference of numbers near 1, each known to float32
    np.testing.assert_allclose(np.exp(found["tail_logmass"]), np.exp(wanted["tail_logmass"]), atol=1e-6)
    # with an even tail nothing is surer than the teacher
    assert (found["entropy"] >= wanted["entropy"] * (1 - 2.0**-10) - 1e-4).all()


def test_it_is_shown_and_a_student_learns_from_it(
    listed: Path, small_student: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("inspect", listed) == 0
    shown = capsys.readouterr().out
    assert "topk, k 8; tail uniform" in shown
    assert "fidelity" not in shown
    options = ["--student", small_student, "--out", tmp_path / "student", "--max-steps", 1, "--device", "cpu"]
    assert command("train", listed, *options) == 0
    log = json.loads((tmp_path / "student" / "logitstore.json").read_text())["log"]
    assert any(entry.get("train_loss", 0) > 0 for entry in log)


@pytest.mark.usefixtures("installed")
def test_it_is_compared_with_its_teacher(
    listed: Path, teacher: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in (f"lists:{teacher}", str(teacher)):
        assert command("verify", listed, "--against-teacher", name, "--share", 0.2, "--device", "cpu") == 0
        assert "it agrees" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_a_teacher_of_lists_with_other_weights_differs(
    listed: Path, small_student: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--against-teacher", f"lists:{small_student}", "--share", 0.2, "--device", "cpu"]
    assert command("verify", listed, *options) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"preset": "small"},
            "--preset small (rows of kind topk, tail sketch) needs logits of the whole vocabulary;",
        ),
        ({"preset": "exact"}, "tail head) needs logits of the whole vocabulary and final hidden states"),
        ({"preset": "topk", "k": 8}, "tail prior) needs logits of the whole vocabulary;"),
        ({"preset": "sampled"}, "--preset sampled (rows of kind sampled, tail none) needs logits"),
        (UNIFORM | {"hidden": "final"}, "--hidden final needs features"),
    ],
)
def test_what_it_does_not_give_is_refused_before_anything_is_loaded(
    teacher: Path,
    texts: Path,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    says: str,
) -> None:
    def loaded(*arguments: object) -> None:
        raise AssertionError("the teacher was loaded, or the texts were read")

    monkeypatch.setattr(CausalTeacher, "__init__", loaded)
    monkeypatch.setattr("logitstore.text.dump.open_samples", loaded)
    settings = plan_for(f"lists:{teacher}", texts, tmp_path / "cache", **{"k": None} | changes)
    line = refused("dump", *flags_of(settings))
    assert says in line
    assert f"lists:{teacher} gives lists of the most probable tokens. " in line
    assert line.endswith(("Use --preset topk --tail uniform.", "Leave it out."))
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("installed")
def test_plan_and_add_refuse_it(listed: Path, teacher: Path, texts: Path, refused: Refused, tmp_path: Path) -> None:
    options = ["--teacher", f"lists:{teacher}", "--data", texts, "--out", tmp_path / "cache"]
    assert "plan needs logits of the whole vocabulary; lists:" in refused("plan", *options)
    assert "--hidden 1 needs features; lists:" in refused("add", listed, "--hidden", 1)
    assert not (listed / "taps").exists()


@pytest.mark.usefixtures("installed")
def test_only_known_schemes_are_schemes(teacher: Path) -> None:
    assert scheme_of("lists:somewhere") == "lists"
    assert scheme_of("transformers:owner/name") == "transformers"
    for name in ("C:/models/teacher", "C:teacher", "listz:somewhere", "lists::file.gguf", "lists:", "owner/name"):
        assert scheme_of(name) is None
    assert open_source(f"lists:{teacher}").gives == {TOP_LOGPROBS}
    assert open_source(f"transformers:{teacher}").gives == open_source(str(teacher)).gives == CausalTeacher.gives


def test_without_the_package_its_scheme_is_a_name_like_any_other(teacher: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        open_source(f"lists:{teacher}")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("transformers = logitstore_lists:source", "'transformers' of logitstore_lists:source: the name is taken"),
        ("text = json:dumps", "the teacher 'text' gives no logitstore.dump.teachers.source.TeacherSource"),
    ],
)
def test_a_package_with_a_taken_name_or_another_thing_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entries: str, says: str
) -> None:
    folder = tmp_path / "wrong-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[logitstore.teachers]\n{entries}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    teachers._plugins.cache_clear()
    with pytest.raises(BadInput, match=says):
        open_source("text:somewhere")
    monkeypatch.undo()
    teachers._plugins.cache_clear()


def top_of(logprobs_NV: torch.Tensor, gold_N: torch.Tensor, listed: int) -> TopLogprobs:
    found = logprobs_NV.topk(listed)
    gold_logprob_N = logprobs_NV.gather(1, gold_N.clamp(min=0)[:, None]).squeeze(1)
    return TopLogprobs(ids_nK=found.indices, logprobs_nK=found.values, gold_logprob_n=gold_logprob_N)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
def test_a_list_becomes_the_row_that_the_whole_distribution_becomes(seed: int, k: int, listed: int) -> None:
    logprobs_NV = teacher_logits(6, 12, seed, torch.float32).double().log_softmax(-1)
    gold_N = torch.randint(0, 12, (6,), generator=torch.Generator().manual_seed(seed))
    kept = ListedTopK(k=k, vocabulary=12)(top_of(logprobs_NV, gold_N, listed), gold_N)
    whole = TopK(k=k, vocabulary=12)(logprobs_NV, gold_N)
    both = min(k, listed)
    torch.testing.assert_close(kept["logprobs"][:, :both], whole["logprobs"][:, :both])
    assert torch.isneginf(kept["logprobs"][:, both:]).all()
    torch.testing.assert_close(kept["logprobs"].exp().sum(1) + kept["tail_logmass"].exp(), torch.ones(6))
    torch.testing.assert_close(kept["gold_logprob"], whole["gold_logprob"])
    stored = listed_targets(row_for("topk", 12, k=k), kept)
    q_NV = dense_logprobs(stored).double().exp()
    torch.testing.assert_close(kept["entropy"].double(), -torch.special.xlogy(q_NV, q_NV).sum(1), atol=1e-4, rtol=1e-4)


GOOD = TopLogprobs(
    ids_nK=torch.tensor([[3, 1, 0], [2, 0, 1]]),
    logprobs_nK=torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.5, 0.0]]).log(),
    gold_logprob_n=torch.tensor([0.25, 0.0]).log(),
)


def changed(name: str, place: tuple[int, ...], value: float) -> TopLogprobs:
    tensor = getattr(GOOD, name).clone()
    tensor[place] = value
    return dataclasses.replace(GOOD, **{name: tensor})


@pytest.mark.parametrize(
    ("top", "says"),
    [
        (changed("ids_nK", (1, 1), 2), "row 1 of 2: an id is listed twice"),
        (changed("ids_nK", (0, 2), 5), "row 0 of 2: an id is not below the vocabulary"),
        (changed("logprobs_nK", (0, 0), 0.1), "row 0 of 2: a logprob is NaN or positive"),
        (changed("logprobs_nK", (0, 0), math.nan), "row 0 of 2: a logprob is NaN or positive"),
        (changed("logprobs_nK", (0, 2), -0.9), "row 0 of 2: the logprobs do not fall"),
        (changed("logprobs_nK", (1, 0), -0.1), "row 1 of 2: the probabilities sum to more than 1"),
        (dataclasses.replace(GOOD, logprobs_nK=torch.full((2, 3), -math.inf)), "row 0 of 2: nothing is listed"),
        (changed("gold_logprob_n", (0,), -3.0), "gold logprob of row 0 of 2: -3.0 is"),
        (changed("gold_logprob_n", (1,), math.nan), "gold logprob of row 1 of 2: nan is"),
    ],
)
def test_a_list_that_cannot_be_is_refused_with_its_row(top: TopLogprobs, says: str) -> None:
    gold_N = torch.tensor([1, 4])
    kept = ListedTopK(k=2, vocabulary=5)(GOOD, gold_N)
    assert kept["ids"].tolist() == [[3, 1], [0, 2]]  # equal logprobs by rising id
    with pytest.raises(ModelError, match=says):
        ListedTopK(k=2, vocabulary=5)(top, gold_N)


def test_a_row_without_a_gold_token_needs_no_gold_logprob() -> None:
    top = dataclasses.replace(GOOD, gold_logprob_n=torch.full((2,), math.nan))
    assert not ListedTopK(k=2, vocabulary=5)(top, torch.tensor([-1, -1]))["gold_listed"].any()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("option", [{"device_map": "auto"}, {"tensor_parallel": 2}, {"attention": "eager"}])
def test_only_models_of_transformers_are_spread(
    option: dict[str, Any], teacher: Path, texts: Path, tmp_path: Path
) -> None:
    plan = plan_for(f"lists:{teacher}", texts, tmp_path / "out", **UNIFORM, device="auto", **option)
    flag = f"--{next(iter(option)).replace('_', '-')}"
    with pytest.raises(BadInput, match=f"{flag}: teachers of 'lists' are no models of transformers"):
        dump(plan)
