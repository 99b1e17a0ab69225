"""A batch is a mapping, so that other people's loops take it like a dictionary of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import logitstore
from logitstore.train.loader.batch import Batch
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.train import train
from tests.parts.training import curve, plan_of


def same(one: Batch, other: Mapping[str, Any]) -> bool:
    assert isinstance(other, Batch)
    ours, theirs = one.tensors(), other.tensors()
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        for name, value in ours.items()
    )


@pytest.fixture(scope="module", params=["text", "packed", "tapped", "images"])
def batch(request: pytest.FixtureRequest) -> Batch:
    name = {"images": "image_cache", "tapped": "tapped"}.get(request.param, "cache")
    found = request.getfixturevalue(name)
    cache = logitstore.open(found) if isinstance(found, Path) else found
    options = {"packed": {"packed": True}, "tapped": {"taps": ["final"]}, "images": {"with_images": False}}
    made: Batch = next(iter(cache.loader(batch_size=3, **options.get(request.param, {}))))
    return made


def test_a_batch_maps_the_names_of_its_tensors(batch: Batch) -> None:
    tensors = batch.tensors()
    assert list(batch) == list(batch.keys()) == list(tensors)
    assert len(batch) == len(tensors)
    for name, value in batch.items():
        assert name in batch
        assert batch[name] is value is tensors[name]
    for name in ("weight", "labels", "inputs", "inputs.nothing", "nothing.rows", "tensors"):
        assert name not in batch
        assert batch.get(name) is None
    assert {**batch}.keys() == tensors.keys()


@pytest.mark.parametrize("how", ["mapping", "dict", "to", "accelerate", "loader"])
def test_what_moves_dictionaries_gives_the_same_batch(batch: Batch, how: str) -> None:
    moved: Any = {
        "mapping": lambda: type(batch)(dict(batch.items())),
        "dict": lambda: Batch(dict(batch)),
        "to": lambda: batch.to("cpu", non_blocking=False),
        "accelerate": lambda: send_to_device(batch, torch.device("cpu"), non_blocking=True),
        "loader": lambda: next(iter(DataLoader([batch], batch_size=None))),  # type: ignore[arg-type]
    }[how]()
    assert same(batch, moved)


def test_a_batch_of_too_little_or_too_much_is_a_mistake(batch: Batch) -> None:
    tensors = batch.tensors()
    with pytest.raises(TypeError, match="lacks rows"):
        Batch({name: value for name, value in tensors.items() if name != "rows"})
    with pytest.raises(TypeError, match="has no labels"):
        Batch(tensors | {"labels": tensors["gold"]})


class Plain(Trainer):  # type: ignore[misc]
    """What somebody else would write."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_dataset, batch_size=None)

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any) -> Any:
        loss = Criterion.mixed(alpha=0.5).row_loss(self.train_dataset.targets(inputs), inputs.gold, 0.0)
        output = model(**inputs.model_inputs())
        weights_N = inputs.row_mask / inputs.row_mask.sum()
        total, _ = from_logits(loss, output.logits.flatten(0, 1), inputs.rows, weights_N)
        return (total, output) if return_outputs else total


def test_a_trainer_of_somebody_else_has_the_losses_of_ours(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "alpha": 0.5,
        "max_steps": 3,
        "holdout": 0,
        "warmup": 0.0,
        "scheduler": "constant",
        "batch_size": 4,
    }
    options |= {"precision": "float32", "objective": "forward_kl"}
    train(plan_of(cache, tmp_path / "ours", student=str(small_student), **options))
    arguments = TrainingArguments(
        str(tmp_path / "theirs"),
        max_steps=3,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    student = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    trainer = Plain(student, arguments, train_dataset=cache.loader(batch_size=4, seed=0))
    trainer.train()
    theirs = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert theirs == pytest.approx(curve(tmp_path / "ours"), rel=1e-3)
