"""What `--objective auto` stands for: it depends on the tail, the temperature and the task, and a run keeps its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.dump.dump import dump
from logitstore.integrations.distiller import Distiller
from logitstore.targets.decoder import decoder_of
from logitstore.targets.targets import Targets
from logitstore.train.objectives.exactness import fidelity_note
from logitstore.train.run_folder import with_objective
from logitstore.train.train import train
from tests.parts.texts import plan_for
from tests.parts.training import curve, plan_of


def chosen(cache: logitstore.Cache, tmp_path: Path, **changes: Any) -> str:
    return with_objective(plan_of(cache, tmp_path / "none", **changes), cache).objective


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache like those of teachers that give lists; do not change it."""
    folder = tmp_path_factory.mktemp("uniform") / "cache"
    return dump(plan_for(teacher, texts, folder, preset="topk", tail="uniform", k=4, limit=12))


def test_it_is_the_list_alone_where_all_rows_share_a_tail_at_temperature_1(
    cache: logitstore.Cache, uniform: logitstore.Cache, image_cache: logitstore.Cache, tmp_path: Path
) -> None:
    assert cache.manifest.tail.shape == "prior"
    assert chosen(cache, tmp_path) == chosen(uniform, tmp_path, alpha="warmup(1, 0.1)") == "renormalised_kl"
    for changes in ({"temperature": 2.0}, {"temperature": "linear(2, 1)"}, {"alpha": 0.0}):
        assert chosen(cache, tmp_path, **changes) == "forward_kl"
    assert chosen(image_cache, tmp_path, student="x") == "forward_kl"
    assert chosen(cache, tmp_path, objective="lumped_kl") == "lumped_kl"


@pytest.mark.parametrize("preset", ["small", "exact", "sampled"])
def test_it_is_the_forward_kl_where_a_row_has_its_own_tail_or_is_an_estimate(
    teacher: Path, texts: Path, tmp_path: Path, preset: str
) -> None:
    own = dump(plan_for(teacher, texts, tmp_path / "cache", preset=preset, k=None, limit=4))
    assert chosen(own, tmp_path) == "forward_kl"


def test_the_first_loss_of_a_run_is_the_kl_from_the_lists_in_float64(
    uniform: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    plan = plan_of(uniform, tmp_path / "out", student=str(small_student), max_steps=1, precision="float32", epochs=1.0)
    distiller = Distiller(str(small_student), uniform, batch_size=8, holdout=0.2, precision="float32")
    assert distiller.settings.objective == "renormalised_kl"
    batch = next(iter(distiller.train))
    train(plan)
    summary = json.loads((tmp_path / "out" / "logitstore.json").read_text())
    assert summary["plan"]["objective"] == "renormalised_kl"
    student = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float64).eval()
    with torch.no_grad():
        logits_RV = student(**batch.inputs).logits.flatten(0, 1)[batch.rows[batch.row_mask]]
    targets = decoder_of(uniform)({name: value[batch.row_mask] for name, value in batch.answer.items()})
    assert isinstance(targets, Targets)
    p_NK = torch.softmax(targets.logprobs_NK.double(), 1)
    listed_NK = torch.log_softmax(logits_RV, 1).gather(1, targets.ids_NK)
    wanted = (p_NK * (p_NK.log() - listed_NK)).sum(1).mean()
    assert curve(tmp_path / "out")[1] == pytest.approx(float(wanted), rel=1e-4)


def test_a_run_that_began_with_another_objective_goes_on_with_it(
    uniform: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = {"student": str(small_student), "save_every": 2, "keep_checkpoints": 9, "holdout": 0}
    train(plan_of(uniform, tmp_path / "out", **options, objective="forward_kl", max_steps=2))
    train(plan_of(uniform, tmp_path / "out", **options, max_steps=3, resume=True))
    assert json.loads((tmp_path / "out" / "logitstore.json").read_text())["plan"]["objective"] == "forward_kl"


def test_a_tail_that_all_rows_share_is_warned_of_above_temperature_1_where_its_error_is_not_known(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    cache = dump(
        plan_for(teacher, texts, tmp_path / "cache", preset="topk", tail="uniform", k=4, limit=8, fidelity_rows=0)
    )
    for objective in ("forward_kl", "renormalised_kl"):
        found = {temperature: fidelity_note(cache, objective, temperature) for temperature in (1.0, 2.0)}
        assert found[1.0] is not None
        assert not found[1.0][1]
        assert found[2.0] is not None
        assert found[2.0][1]
        assert found[2.0][0].endswith("(docs/presets.md). Train at temperature 1.")
