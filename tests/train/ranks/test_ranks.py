"""One student on several ranks: the run of one rank, step by step, whole or in pieces, from a checkpoint of any of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.settings.train import TrainSettings
from logitstore.train.run_folder import checkpoint_of
from logitstore.train.train import train
from tests.parts.marks import rarely
from tests.parts.specification import packed_plan
from tests.parts.training import curve, plan_of, recipe_of, train_in

pytestmark = pytest.mark.slow

NOISE = 2e-6
"""By which losses of about 3.5 nats may differ, in float32: sums have another order."""

STEP = 4
"""Batches of a step, over all ranks; the batches of an epoch do not divide by it."""

Run = Callable[..., Path]


def options_of(count: int, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "accumulate": STEP // count,
        "epochs": 2,
        "batch_size": 3,
        "alpha": 0.7,
        "objective": "forward_kl",
        "precision": "float32",
        "save_every": 3,
        "keep_checkpoints": 99,
        "evaluate_every": 5,
    }
    return usual | changes


@pytest.fixture(scope="module")
def run(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train on some ranks, once for each number of them."""
    made: dict[tuple[int, bool], Path] = {}

    def trained(count: int, fsdp: bool = False) -> Path:
        if (count, fsdp) not in made:
            out = tmp_path_factory.mktemp("ranks") / "out"
            plan = plan_of(cache, out, student=str(small_student), fsdp=fsdp, **options_of(count))
            if count == 1:
                train(plan)
            else:
                first, *others = train_in(count, "--config", recipe_of(plan, out.with_suffix(".json")))
                assert "saved to" in first[0]
                assert all(said == ("", "") for said in others)
            made[count, fsdp] = out
        return made[count, fsdp]

    return trained


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(out).state_dict())


def assert_same(out: Path, expected: Path) -> None:
    """Losses of each step, figures of the held-out samples, and weights are those of another run."""
    found, wanted = curve(out), curve(expected)
    assert found.keys() == wanted.keys()
    assert max(abs(found[step] - wanted[step]) for step in wanted) < NOISE
    figures, known = (json.loads((each / "logitstore.json").read_text())["figures"] for each in (out, expected))
    assert figures == pytest.approx(known, rel=1e-5)
    files = {each: load_file(each / "model.safetensors").keys() for each in (out, expected)}
    assert files[out] == files[expected]
    own, others = weights(out), weights(expected)
    assert own.keys() == others.keys()
    assert (
        max(float((own[name] - others[name]).abs().max()) for name in own) < 5e-5
    )  # a few roundings more or less, by the text


def sometimes(cases: list[tuple[Any, ...]]) -> list[Any]:
    """Cases of which few run each time."""
    return [case if case in ((2, False), (2, True), (1, False, 2, True)) else rarely(*case) for case in cases]


@pytest.mark.parametrize(("count", "fsdp"), sometimes([(2, False), (2, True), (4, False), (4, True)]))
def test_several_ranks_repeat_what_one_does_with_more_accumulation(run: Run, count: int, fsdp: bool) -> None:
    """The last step of an epoch has fewer batches than ranks, and the last batch fewer samples."""
    alone, out = run(1), run(count, fsdp)
    last = json.loads((alone / "checkpoint-9" / "logitstore.json").read_text())["batches_given"]
    assert last % STEP != 0
    assert_same(out, alone)
    assert json.loads((out / "logitstore.json").read_text())["loss_from"] == "hidden states"


RESUMED = [
    (1, False, 2, True),
    (1, False, 2, False),
    (2, False, 1, False),
    (2, False, 4, False),
    (2, True, 1, False),
    (2, True, 4, True),
    (4, True, 2, False),
]


@pytest.mark.parametrize(("before", "was_fsdp", "now", "fsdp"), sometimes(RESUMED))
def test_a_checkpoint_resumes_on_another_number_of_ranks(
    run: Run,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    before: int,
    was_fsdp: bool,
    now: int,
    fsdp: bool,
) -> None:
    """In the second epoch."""
    out, step = tmp_path / "out", 12
    shutil.copytree(run(before, was_fsdp) / f"checkpoint-{step}", out / f"checkpoint-{step}")
    plan = plan_of(cache, out, student=str(small_student), fsdp=fsdp, resume=True, **options_of(now))
    train(plan) if now == 1 else train_in(now, "--config", recipe_of(plan, tmp_path / "recipe.json"))
    assert_same(out, run(1))


def test_a_checkpoint_says_how_many_batches_were_given_whatever_the_ranks(run: Run, cache: logitstore.Cache) -> None:
    """It is the state of a loader, which goes on with the next sample."""
    found = {
        count: json.loads((run(count) / "checkpoint-12" / "logitstore.json").read_text())["batches_given"]
        for count in (1, 2)
    }
    assert found[1] == found[2]
    batches = -(-json.loads((run(1) / "logitstore.json").read_text())["figures"]["steps"] // 2)
    assert batches < found[1]


def test_other_steps_are_refused_by_name(
    run: Run, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run(1) / "checkpoint-12", out / "checkpoint-12")

    def refused(world: int, accumulate: int) -> str:
        plan = plan_of(cache, out, student=str(small_student), resume=True, **options_of(1, accumulate=accumulate))
        with pytest.raises(BadInput) as error:
            checkpoint_of(plan, world, cache)
        return str(error.value)

    began = f"--resume: the run in {out} began with steps of 4 batches (--accumulate 4 on 1 process)"
    assert refused(2, 4) == f"{began}, not 8. On 2 processes give --accumulate 2."
    assert refused(1, 2) == f"{began}, not 2. On 1 process give --accumulate 4."
    assert refused(3, 1) == (
        f"{began}, which 3 processes cannot share equally. Use a number of processes that divides 4."
    )
    plan = plan_of(cache, out, student=str(small_student), resume=True, **options_of(2))
    assert checkpoint_of(plan, 2, cache) == str(out / "checkpoint-12")


def test_pieces_need_several_processes(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"fsdp": True}, "--fsdp has no effect in one process"),
        ({"fsdp": True, "trainer": {"fsdp": True}}, "--fsdp with fsdp in the section trainer"),
    ):
        with pytest.raises(BadInput, match=said):
            train(plan_of(cache, tmp_path / "out", student=str(small_student), **changes))


def compared(cache: logitstore.Cache, student: Path, folder: Path, **changes: Any) -> None:
    """Train on one rank, and in pieces on two, and compare."""
    plans: dict[int, TrainSettings] = {
        count: plan_of(cache, folder / str(count), student=str(student), max_steps=3, **options_of(count, **changes))
        for count in (1, 2)
    }
    train(plans[1])
    pieces = plans[2].model_copy(update={"fsdp": True})
    train_in(2, "--config", recipe_of(pieces, folder / "recipe.json"))
    assert_same(folder / "2", folder / "1")


@pytest.mark.exhaustive
@pytest.mark.parametrize("preset", ["small", "exact", "sampled"])
def test_every_tail_is_decoded_beside_a_student_in_pieces(
    teacher: Path, texts: Path, small_student: Path, tmp_path: Path, preset: str
) -> None:
    other = dump(packed_plan(teacher, texts, tmp_path / "cache", preset).model_copy(update={"k": None}))
    compared(other, small_student, tmp_path)


@pytest.mark.exhaustive
def test_a_student_in_pieces_may_have_its_embeddings_as_output_layer(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    tied = shutil.copytree(small_student, tmp_path / "tied")
    config = AutoConfig.from_pretrained(tied)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    compared(cache, tied, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", ["taid", "reverse_kl"])
def test_objectives_with_a_state_or_by_autograd_go_with_pieces(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, objective: str
) -> None:
    compared(cache, small_student, tmp_path, objective=objective, alpha=1.0)
