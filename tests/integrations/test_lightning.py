"""A LightningModule of a cache: the loss of `logitstore train`, its figures, and a run that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import logitstore
from logitstore.errors import BadInput
from logitstore.integrations.lightning import DistillModule
from tests.parts.loops import RATE, STEPS, assert_same, falling, loaded, trained, weights_of

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Lightning warns of few workers, of GPUs and of what torch will rename


class Losses(pl.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["loss"]))


def fitted(
    cache: logitstore.Cache, student: Path, out: Path, checkpoint: Path | None = None
) -> tuple[DistillModule, list[float], dict[str, float]]:
    losses = Losses()
    module = DistillModule(
        loaded(student),
        cache.path,
        batch_size=4,
        accumulate=2,
        learning_rate=RATE,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, falling),
        alpha=0.7,
        holdout=0.2,
    )
    keep = pl.callbacks.ModelCheckpoint(dirpath=out, filename="{step}", every_n_train_steps=7, save_top_k=-1)
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses, keep],
    )
    trainer.fit(module, ckpt_path=checkpoint)
    figures = trainer.validate(module, verbose=False)[0]
    return module, losses.seen, figures


def test_it_trains_as_train_does_and_resumes_within_an_epoch(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    optimizer = {"optim": "adamw_torch", "logging_steps": 1}
    expected = trained(cache, small_student, tmp_path / "run", trainer=optimizer)
    module, losses, figures = fitted(cache, small_student, tmp_path / "own")
    torch.testing.assert_close(losses, expected.losses, rtol=1e-6, atol=0)
    assert_same(weights_of(module.student), expected.weights)
    assert figures["eval_kl"] == pytest.approx(expected.figures["eval_kl"], rel=1e-6)
    again, rest, _ = fitted(cache, small_student, tmp_path / "again", tmp_path / "own" / "step=7.ckpt")
    assert rest == losses[7:]
    assert_same(weights_of(again.student), expected.weights)


def test_the_student_is_trained_with_its_dropout(small_student: Path) -> None:
    module = DistillModule(loaded(small_student), "no-cache")
    assert not module.student.training
    with pytest.raises(BadInput, match=r"Give the module to Trainer\.fit first"):
        module.train_dataloader().__len__()
