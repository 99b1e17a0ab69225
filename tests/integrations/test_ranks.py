"""Two processes with half of the batches each come to what one process comes to, in every loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import logitstore
from tests.parts.loops import assert_same, loaded, trained, weights_of
from tests.parts.places import ROOT
from tests.parts.warm import free_port

ARGUMENTS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from tests.parts.loops import ARGUMENTS, RATE, falling, loaded
cache, student, out = sys.argv[1:]
arguments = ARGUMENTS | {"gradient_accumulation_steps": 1, "save_strategy": "no"}
told = {"alpha": 0.7, "holdout": 0.2}
"""

SCRIPTS = {
    "trainer": """
from transformers import Trainer, TrainingArguments
from logitstore.integrations.trainer import CachedTeacherMixin
class Mine(CachedTeacherMixin, Trainer): pass
trainer = Mine(student, TrainingArguments(out, **arguments), cache=cache, **told)
trainer.train()
figures, trained = trainer.evaluate(), trainer.model
is_first = trainer.is_world_process_zero()
""",
    "trl": """
from trl import SFTConfig
from logitstore.integrations.trl import DistillSFTTrainer
trainer = DistillSFTTrainer(student, SFTConfig(out, bf16=False, **arguments), cache=cache, **told)
trainer.train()
figures, trained = trainer.evaluate(), trainer.model
is_first = trainer.is_world_process_zero()
""",
    "lightning": """
import pytorch_lightning as pl
from logitstore.integrations.lightning import DistillModule
schedule = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
module = DistillModule(loaded(student), cache, batch_size=4, learning_rate=RATE, scheduler=schedule, **told)
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
trainer = pl.Trainer(max_steps=arguments["max_steps"], accelerator="cpu", devices=2, strategy="ddp", **quiet)
trainer.fit(module)
figures, trained = trainer.validate(module, verbose=False)[0], module.student
is_first = trainer.is_global_zero
""",
}

SAVE = """
if is_first:
    trained.save_pretrained(out)
    torch.save({name: float(value) for name, value in figures.items()}, out + "/figures.pt")
"""


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_two_processes_train_as_one_does(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, kind: str
) -> None:
    optimizer = {"optim": "adamw_torch", "logging_steps": 1}
    expected = trained(cache, small_student, tmp_path / "run", trainer=optimizer)
    script = tmp_path / "script.py"
    script.write_text(ARGUMENTS + SCRIPTS[kind] + SAVE, encoding="utf-8")
    out = tmp_path / "out"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    variables = os.environ | world | {"PYTHONPATH": path}
    command = [sys.executable, str(script), str(cache.path), str(small_student), str(out)]
    processes = [
        subprocess.Popen(
            command,
            env=variables | {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": "0"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert_same(weights_of(loaded(out)), expected.weights, rtol=0, atol=1e-4)
    figures = torch.load(out / "figures.pt")
    assert figures["eval_kl"] == pytest.approx(expected.figures["eval_kl"], rel=1e-4)
