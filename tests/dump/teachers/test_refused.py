"""Models that are not what a dump, a student or an evaluation takes them for: each is refused, and the reason is named."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import logitstore
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch, LogitstoreError, ModelError
from logitstore.models.load import load_config, load_tokenizer, load_weights
from logitstore.train.students.build import fresh
from tests.parts.commands import Refused
from tests.parts.images import save_classifier, small_vit
from tests.parts.texts import PADDED_VOCABULARY, VOCABULARY, plan_for
from tests.parts.vision import Told

SHAPE: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def without(teacher: Path, folder: Path, change: Any) -> Path:
    """A copy of a model whose weights were changed."""
    shutil.copytree(teacher, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_masked_language_model_is_no_teacher(
    refused_dump: Refused, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bert = saved(BertForMaskedLM(BertConfig(**SHAPE)), tokenizer, tmp_path / "bert")
    line = refused_dump(teacher=bert)
    assert "it is a BertForMaskedLM, which looks at later tokens" in line


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_reward_model_is_no_teacher_and_no_student(
    refused_dump: Refused,
    refused: Refused,
    cache: logitstore.Cache,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    is_tied: bool,
) -> None:
    config = LlamaConfig(**SHAPE, num_labels=1, tie_word_embeddings=is_tied, pad_token_id=0)
    reward = saved(LlamaForSequenceClassification(config), tokenizer, tmp_path / "reward")
    assert "it is a LlamaForSequenceClassification" in refused_dump(teacher=reward)
    student = ("--student", reward, "--device", "cpu")
    assert "it is a LlamaForSequenceClassification" in refused("evaluate", cache.path, *student)
    assert "it is a LlamaForSequenceClassification" in refused("train", cache.path, *student, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_a_weight_that_the_file_lacks_is_named(teacher: Path, tmp_path: Path, name: str) -> None:
    broken = without(teacher, tmp_path / "broken", lambda weights: weights.pop(name))
    reference = ModelRef.parse(str(broken))
    with pytest.raises(ModelError, match=f"its file has no values for the weight {name}, "):
        load_weights(reference, load_config(reference), torch.float32)


def test_a_weight_of_another_shape_is_named(teacher: Path, tmp_path: Path) -> None:
    broken = without(
        teacher, tmp_path / "broken", lambda weights: weights.update({"lm_head.weight": torch.zeros(9, 32)})
    )
    reference = ModelRef.parse(str(broken))
    with pytest.raises(ModelError, match=r"the weight lm_head\.weight in shape \(9, 32\), its configuration asks for"):
        load_weights(reference, load_config(reference), torch.float32)


def test_dump_train_and_evaluate_refuse_a_model_that_lacks_a_weight(
    refused: Refused,
    stopped: Told,
    refused_dump: Refused,
    cache: logitstore.Cache,
    teacher: Path,
    tmp_path: Path,
) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    broken = without(teacher, tmp_path / "broken", lambda weights: weights.pop(name))
    assert name in refused_dump(teacher=broken)
    assert name in refused("evaluate", cache.path, "--student", broken, "--device", "cpu")
    assert name in refused("train", cache.path, "--student", broken, "--out", tmp_path / "student", "--device", "cpu")
    assert name in stopped("verify", cache.path, "--against-teacher", broken)


def test_tied_weights_are_not_missing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = saved(
        GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=128)),
        tokenizer,
        tmp_path / "gpt2",
    )
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    reference = ModelRef.parse(str(folder))
    load_weights(reference, load_config(reference), torch.float32)


def test_windows_longer_than_the_positions_are_refused_before_tokenising(
    refused_dump: Refused, teacher: Path, tmp_path: Path
) -> None:
    line = refused_dump(max_length=513, data=tmp_path / "nowhere.jsonl")
    assert "--max-length 513" in line
    assert "Give --max-length 512 or less." in line


def test_the_usual_window_is_refused_where_the_positions_are_fewer(
    refused: Refused, tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path
) -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    folder = saved(GPT2LMHeadModel(config), tokenizer, tmp_path / "gpt2")
    for command in ("dump", "plan"):
        line = refused(command, "--teacher", folder, "--data", texts, "--out", tmp_path / "cache", "--device", "cpu")
        assert "--max-length 1024" in line
        assert "Give --max-length 128 or less." in line


def test_numbers_that_overflow_float16_ask_for_another_format(
    refused_dump: Refused, teacher: Path, tmp_path: Path
) -> None:
    large = without(teacher, tmp_path / "large", lambda weights: weights.update(huge(weights)))
    for preset in ("small", "topk"):
        line = refused_dump(teacher=large, dtype="float16", preset=preset)
        assert "use --dtype bfloat16 or float32" in line
        assert "--preset" not in line


def huge(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"lm_head.weight": weights["lm_head.weight"] * 1e5}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"problem_type": "multi_label_classification"}, "its outputs are no softmax"),
        ({"problem_type": "regression"}, "its outputs are no softmax"),
        ({"id2label": {"0": "only"}, "label2id": {"only": 0}}, "it has 1 class"),
    ],
)
def test_a_head_that_is_no_softmax_is_refused(
    refused_image_dump: Told, tmp_path: Path, entries: dict[str, Any], why: str
) -> None:
    folder = save_classifier(tmp_path / "classifier", small_vit())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))
    assert why in refused_image_dump(teacher=folder)


def test_a_folder_with_two_colons_in_its_name_is_a_folder(teacher: Path, texts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(teacher, tmp_path / "x::y"))
    made = dump(plan_for(folder, texts, tmp_path / "out", limit=2))
    assert made.complete


@pytest.mark.parametrize("kind", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_model_is_neither_run_nor_asked_about(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = Path(shutil.copytree(teacher, tmp_path / "model"))
    ran = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    plain = json.loads((folder / kind).read_text())
    target = {"AutoConfig": "code.C", "AutoTokenizer": ["code.T", "code.T"], "AutoModelForCausalLM": "code.M"}
    (folder / kind).write_text(json.dumps(plain | {"auto_map": target, "model_type": "unheard_of"}))

    def asked(*_: object) -> str:
        raise AssertionError("the terminal was asked")

    monkeypatch.setattr("builtins.input", asked)
    reference = ModelRef.parse(str(folder))
    for load in (load_config, load_tokenizer):
        with suppress(LogitstoreError):
            load(reference)
    assert not ran.exists()


def test_code_that_a_cache_names_is_not_asked_about(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("the terminal was asked")

    monkeypatch.setattr("builtins.input", asked)
    plain = json.loads((teacher / "config.json").read_text())
    code = {"AutoConfig": "someone/model--code.C", "AutoModelForCausalLM": "someone/model--code.M"}
    student = fresh(plain | {"auto_map": code}, {"num_hidden_layers": 1})
    assert not hasattr(student.config, "auto_map")


def test_auto_goes_on_in_the_format_of_the_cache(teacher: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    first = dump(plan_for(teacher, texts, out, dtype="bfloat16", limit=12, samples_per_part=8, parts="0"))
    assert not first.complete
    again = dump(plan_for(teacher, texts, out, dtype="auto", limit=12, samples_per_part=8))
    assert again.complete
    assert again.manifest.teacher.dtype == "bfloat16"
    with pytest.raises(CacheMismatch, match=r"teacher\.dtype"):
        dump(plan_for(teacher, texts, out, dtype="float32", limit=12, samples_per_part=8))


@pytest.mark.parametrize(("has", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_device_has_it(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool, dtype: str
) -> None:
    monkeypatch.setattr("logitstore.models.load.has_bfloat16", lambda device: has)
    made = dump(plan_for(teacher, texts, tmp_path / "cache", dtype="auto", limit=2))
    assert made.manifest.teacher.dtype == dtype
