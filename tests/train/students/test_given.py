"""A student from Python: by its name, or as a model that is at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import logitstore
from logitstore.errors import BadInput, CacheMismatch
from tests.parts.adapters import ALL, peft_logits, plain, weights_of, with_peft
from tests.parts.texts import VOCABULARY, train_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

USUAL: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 3e-3,
    "holdout": 0.2,
    "device": "cpu",
    "precision": "float32",
    "max_steps": 2,
}


@pytest.fixture(scope="module")
def by_name(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("by name") / "out"
    return logitstore.train(cache, student=small_student, out=out, **USUAL)


def test_a_model_is_trained_in_place_as_the_folder_that_it_comes_from(
    cache: logitstore.Cache, small_student: Path, by_name: Any, tmp_path: Path
) -> None:
    model = plain(small_student)
    said: list[str] = []
    found = logitstore.train(str(cache.path), student=model, out=tmp_path / "out", notice=said.append, **USUAL)
    assert found.figures == by_name.figures
    assert {"train_loss", "eval_kl", "steps"} <= found.figures.keys()
    assert found.path == tmp_path / "out"
    assert said
    saved, other = (load_file(folder / "model.safetensors") for folder in (found.path, by_name.path))
    assert all(torch.equal(saved[name], value) for name, value in other.items())
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(found.path) is not None


def test_a_model_of_peft_is_trained_in_place(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    model = with_peft(small_student)
    found = logitstore.train(cache, student=model, out=tmp_path / "out", **USUAL)
    tokens_BT = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens_BT).logits
    torch.testing.assert_close(peft_logits(found.path, tokens_BT), expected, rtol=1e-5, atol=1e-5)
    again = peft.AutoPeftModelForCausalLM.from_pretrained(found.path, is_trainable=True, dtype=torch.float32)
    more = logitstore.train(cache, student=again, out=tmp_path / "more", **USUAL)
    assert more.figures["eval_kl"] != found.figures["eval_kl"]
    assert weights_of(more.path).keys() == weights_of(found.path).keys()


def test_a_model_gets_an_adapter_or_loses_its_own(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    by_path = logitstore.train(cache, student=str(small_student), lora=ALL, out=tmp_path / "path", **USUAL)
    given = logitstore.train(cache, student=plain(small_student), lora=ALL, out=tmp_path / "given", **USUAL)
    one, two = weights_of(by_path.path), weights_of(given.path)
    assert all(torch.equal(two[name], value) for name, value in one.items())
    model = plain(small_student)
    merged = logitstore.train(cache, student=model, lora=ALL, lora_merge=True, out=tmp_path / "merged", **USUAL)
    saved = load_file(merged.path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_a_model_in_bfloat16_gets_an_adapter_in_float32_and_stays(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    model = plain(small_student).to(torch.bfloat16)
    found = logitstore.train(cache, student=model, lora="r=4,targets=q_proj,lm_head", out=tmp_path / "out", **USUAL)
    saved = weights_of(found.path)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert all(value.any() for value in saved.values())
    base = plain(small_student).to(torch.bfloat16).state_dict()
    inside = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora_" not in name
    }
    assert all(torch.equal(inside[name], value) for name, value in base.items())


def test_a_tokenizer_that_is_given_is_compared_and_saved(
    cache: logitstore.Cache, small_student: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = plain(small_student)
    model.config._name_or_path = ""
    model.name_or_path = ""
    other = train_tokenizer()
    other.add_tokens(["<one>", "<two>"])
    found = logitstore.train(cache, student=model, tokenizer=other, out=tmp_path / "out", **USUAL)
    assert "<two>" in AutoTokenizer.from_pretrained(found.path).get_vocab()
    smaller = train_tokenizer(VOCABULARY - 9)
    with pytest.raises(CacheMismatch, match="its tokenizer is not the cache's"):
        logitstore.train(cache, student=model, tokenizer=smaller, out=tmp_path / "no", **USUAL)
    with pytest.raises(BadInput, match="was loaded from nowhere, so the adapter alone would be of no use"):
        logitstore.train(cache, student=model, lora=ALL, out=tmp_path / "no", **USUAL)


def test_what_cannot_be_trained_is_refused_in_one_line(
    cache: logitstore.Cache, small_student: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    half = plain(small_student).to(torch.bfloat16)
    frozen = with_peft(small_student)
    frozen.requires_grad_(False)
    two = with_peft(small_student)
    two.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    ia3 = peft.get_peft_model(
        plain(small_student),
        peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    )
    beside = with_peft(small_student)
    beside.base_model.model.lm_head.weight.requires_grad_(True)
    spread, packed = plain(small_student), plain(small_student)
    spread.hf_device_map, packed.is_quantized = {"model": 0, "lm_head": "cpu"}, True
    for student, more, said in (
        (spread, {}, "it lies on several devices"),
        (packed, {}, "its weights are packed in few bits"),
        (torch.nn.Linear(2, 2), {}, "a Linear cannot be trained"),
        (half, {}, "is bfloat16, and is trained in float32. Load it with dtype=torch.float32"),
        (frozen, {}, "is left to train. Freeze fewer; a model with an adapter is loaded with is_trainable=True"),
        (beside, {}, "its weight lm_head.weight would be trained beside its adapter, and would not be saved with it"),
        (two, {}, "its adapters are LORA, LORA; known is one of the kind LORA"),
        (ia3, {}, "its adapters are IA3; known is one of the kind LORA"),
        (with_peft(small_student), {"lora": ALL}, "has its adapter already"),
        (small_student, {"tokenizer": tokenizer}, "tokenizer: it is for a student that is given as a model"),
        (small_student, {"batchsize": 3}, "no setting named 'batchsize'. Did you mean 'batch_size'?"),
        (small_student, {"batch_size": 0}, "--batch-size 0: Input should be greater than or equal to 1"),
        (str(tmp_path / "nowhere"), {}, "there is no such folder"),
    ):
        with pytest.raises(logitstore.LogitstoreError, match=re.escape(said)):
            logitstore.train(cache, student=student, out=tmp_path / "out", **USUAL | more)
    assert not (tmp_path / "out").exists()
