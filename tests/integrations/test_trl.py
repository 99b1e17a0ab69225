"""SFTTrainer with a cache in it: the loss of `logitstore train`, adapters, evaluation, and a run that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from transformers import AutoTokenizer, Trainer
from trl import SFTConfig, SFTTrainer

import logitstore
from logitstore.errors import BadInput
from logitstore.integrations.trainer import CachedTeacherMixin
from logitstore.integrations.trl import DistillSFTTrainer
from tests.parts.loops import ARGUMENTS, assert_same, loaded, losses_of, trained, weights_of

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and peft warn of what will be renamed


def config(out: Path, **changes: Any) -> SFTConfig:
    return SFTConfig(str(out), **ARGUMENTS | {"bf16": False} | changes)


def test_it_trains_as_train_does(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    expected = trained(cache, small_student, tmp_path / "run")
    trainer = DistillSFTTrainer(
        str(small_student),
        config(tmp_path / "sft", eval_strategy="steps", eval_steps=8),
        cache=cache.path,
        alpha=0.7,
        holdout=0.2,
    )
    trainer.train()
    assert isinstance(trainer, SFTTrainer)
    assert losses_of(trainer.state.log_history) == expected.losses
    assert_same(weights_of(trainer.model), expected.weights)
    judged = [entry["eval_kl"] for entry in trainer.state.log_history if "eval_kl" in entry]
    assert len(judged) == 2
    assert judged[-1] == expected.figures["eval_kl"]


def test_only_adapters_are_trained_and_a_run_resumes_within_an_epoch(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    def adapted(**changes: Any) -> DistillSFTTrainer:
        torch.manual_seed(5)
        return DistillSFTTrainer(
            loaded(small_student),
            config(tmp_path / "lora", max_steps=6, learning_rate=1e-2, save_steps=2, **changes),
            cache=cache,
            holdout=0.2,
            peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM"),
        )

    trainer = adapted(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    first = trainer.evaluate()["eval_kl"]
    trainer.train()
    assert trainer.learners[0].head is not None
    figures = [entry["eval_kl"] for entry in trainer.state.log_history if "eval_kl" in entry]
    assert trainer.evaluate()["eval_kl"] == min(figures) < first
    weights = weights_of(trainer.model)
    before = loaded(small_student).state_dict()
    plain = {name.replace("base_model.model.", "").replace(".base_layer", ""): value for name, value in weights.items()}
    assert_same({name: plain[name] for name in before}, before)
    files = {path.name for path in (tmp_path / "lora" / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "logitstore.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files
    again = adapted()
    again.train(resume_from_checkpoint=str(tmp_path / "lora" / "checkpoint-2"))
    assert losses_of(again.state.log_history) == losses_of(trainer.state.log_history)
    if figures[-1] == min(figures):
        assert_same(weights_of(again.model), weights)


def test_a_fresh_student_is_saved_with_the_tokenizer_of_the_cache(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    fresh = type(loaded(small_student))(loaded(small_student).config)
    fresh.config._name_or_path = ""
    fresh.name_or_path = ""
    trainer = DistillSFTTrainer(fresh, config(tmp_path / "sft"), cache=cache)
    trainer.save_model(str(tmp_path / "saved"))
    saved, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "saved", small_student))
    assert saved.get_vocab() == own.get_vocab()


@pytest.mark.parametrize(
    ("changes", "options", "line"),
    [
        ({"packing": True}, {}, "packing=True: it has no effect here: packed=True of DistillSFTTrainer"),
        ({"completion_only_loss": True}, {}, "completion_only_loss=True: it has no effect here: the rows of the cache"),
        ({"max_length": 64}, {}, "max_length=64: the texts are in the cache"),
        ({"loss_type": "dft"}, {}, "loss_type=dft: it has no effect here"),
        ({}, {"formatting_func": print}, "formatting_func: it has no effect here"),
        ({}, {"peft_config": PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")}, "Use LoRA."),
        ({}, {"quantization_config": object()}, "quantization_config: load the student with it"),
    ],
)
def test_what_would_change_nothing_is_refused(
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    line: str,
) -> None:
    with pytest.raises(BadInput) as caught:
        DistillSFTTrainer(str(small_student), config(tmp_path / "sft", **changes), cache=cache, **options)
    assert line in str(caught.value)


def test_the_bare_mixin_before_a_trainer_of_trl_is_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    class Bare(CachedTeacherMixin, SFTTrainer):
        pass

    with pytest.raises(BadInput, match="Build on DistillSFTTrainer"):
        Bare(str(small_student), config(tmp_path / "sft"), cache=cache)
    assert issubclass(DistillSFTTrainer, Trainer)
