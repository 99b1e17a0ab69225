"""A loop of one's own around a Distiller: the loss of `logitstore train`, and a run that resumes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.integrations.distiller import Distiller
from tests.parts.loops import RATE, STEPS, assert_same, falling, loaded, trained, weights_of
from tests.parts.texts import VOCABULARY, plan_for, save_model


def looped(distiller: Distiller, student: PreTrainedModel, first: int = 0, state: object = None) -> list[float]:
    """Train to the end in plain PyTorch, from a step on; return the losses."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
    if isinstance(state, dict):
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    losses: list[float] = []
    distiller.seek(first, 2)
    while first + len(losses) < STEPS:
        for batches in distiller.steps(2):
            if isinstance(state, list) and len(losses) == 7:
                made = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                state.append(
                    torch.utils._pytree.tree_map(lambda each: each.clone() if torch.is_tensor(each) else each, made)
                )
                state.append(weights_of(student))
            rows = distiller.rows(batches)
            step = [distiller.loss(batch, rows, done=(first + len(losses)) / STEPS) for batch in batches]
            torch.stack(step).sum().backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(torch.stack(step).detach().sum()))
            if first + len(losses) == STEPS:
                break
    return losses


def test_a_plain_loop_trains_as_train_does_and_resumes_within_an_epoch(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    optimizer = {"optim": "adamw_torch", "logging_steps": 1}
    expected = trained(cache, small_student, tmp_path / "run", trainer=optimizer)
    student = loaded(small_student).train()
    distiller = Distiller(student, cache, batch_size=4, alpha=0.7, holdout=0.2)
    kept: list[object] = []
    losses = looped(distiller, student, state=kept)
    torch.testing.assert_close(losses, expected.losses, rtol=1e-6, atol=0)
    assert_same(weights_of(student), expected.weights, rtol=0, atol=1e-6)
    figures = {f"eval_{name}": value for name, value in distiller.evaluate().items()}
    assert figures == pytest.approx(
        {name: value for name, value in expected.figures.items() if name in figures}, rel=1e-5
    )
    again = loaded(small_student).train()
    again.load_state_dict(kept[1])  # type: ignore[arg-type]
    rest = looped(Distiller(again, cache, batch_size=4, alpha=0.7, holdout=0.2), again, 7, kept[0])
    assert rest == losses[7:]


def test_its_batches_go_through_a_loader_of_pytorch(cache: logitstore.Cache, small_student: Path) -> None:
    distiller = Distiller(loaded(small_student), str(cache.path), batch_size=4)
    some = [
        float(distiller.loss(batch).detach())
        for batch, _ in zip(DataLoader(distiller.train, batch_size=None), range(3), strict=False)
    ]
    distiller.seek(0)
    assert some == [
        float(distiller.loss(batch.tensors()).detach())
        for (batch,), _ in zip(distiller.steps(), range(3), strict=False)
    ]


def test_two_ranks_have_the_loss_of_one_process(cache: logitstore.Cache, small_student: Path) -> None:
    student = loaded(small_student)
    alone = Distiller(student, cache, batch_size=4)
    both = [Distiller(student, cache, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    batches = next(alone.steps(2))
    whole = sum(float(alone.loss(batch, alone.rows(batches)).detach()) for batch in batches)
    shares = [next(each.steps()) for each in both]
    rows = sum(each.rows(share) for each, share in zip(both, shares, strict=True))
    assert torch.is_tensor(rows)
    found = [float(each.loss(share[0], rows).detach()) for each, share in zip(both, shares, strict=True)]
    assert sum(found) / 2 == pytest.approx(whole, rel=1e-6)


def test_what_it_knows_is_logged_once(
    cache: logitstore.Cache, small_student: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "logitstore"):
        Distiller(loaded(small_student), cache, recipe="taid", rank=1, world_size=2)
        assert caplog.messages == []
        Distiller(loaded(small_student), cache, recipe="taid", world_size=2)
    assert [each.partition(":")[0] for each in caplog.messages] == ["warning", "warning"]
    assert "its learning_rate = 0.0001 is not applied" in caplog.messages[0]


def test_it_reads_by_windows_of_parts(cache: logitstore.Cache, small_student: Path) -> None:
    distiller = Distiller(loaded(small_student), cache, batch_size=4, holdout=0.2, window_parts=1)
    samples = [sample for batch in distiller.train for sample in batch.samples.tolist()]
    parts = cache.places(np.array(samples))[0]
    # a batch on the border of two parts may hold samples of both
    assert (np.diff(parts) != 0).sum() <= (len(cache.part_numbers) - 1) * 9
    assert len(samples) == distiller.train.count


def test_what_it_cannot_train_is_refused(cache: logitstore.Cache, small_student: Path) -> None:
    with pytest.raises(BadInput, match="the student must be a model of transformers"):
        Distiller(torch.nn.Linear(2, 2), cache)
    with pytest.raises(BadInput, match="epochs: your loop decides this"):
        Distiller(str(small_student), cache, epochs=3)
    with pytest.raises(BadInput, match="holdout=0: there is nothing to evaluate on"):
        Distiller(loaded(small_student), cache, holdout=0).evaluate()


@pytest.mark.parametrize("weighing", ["1,3", "gate"])
def test_several_caches_teach_in_a_loop_as_in_train(
    cache: logitstore.Cache,
    small_student: Path,
    texts: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    weighing: str,
) -> None:
    teacher = save_model(tmp_path / "teacher", tokenizer, VOCABULARY, seed=7, hidden_size=48)
    other = dump(plan_for(teacher, texts, tmp_path / "other")).path
    usual: dict[str, Any] = {"also": [str(other)], "weights": weighing, "objective": "forward_kl"}
    expected = trained(
        cache,
        small_student,
        tmp_path / "run",
        trainer={"optim": "adamw_torch", "logging_steps": 1},
        max_steps=4,
        **usual,
    )
    torch.manual_seed(0)
    distiller = Distiller(loaded(small_student).train(), cache, batch_size=4, alpha=0.7, holdout=0.2, **usual)
    if weighing == "gate":
        assert distiller.parameters()
        with pytest.raises(BadInput, match=r"weights geometry: .*only `logitstore train` does this"):
            Distiller(loaded(small_student), cache, holdout=0.2, weights="geometry")
    batches = next(distiller.steps(2))
    loss = sum(float(distiller.loss(batch, distiller.rows(batches)).detach()) for batch in batches)
    assert loss == pytest.approx(expected.losses[0], rel=1e-5)
