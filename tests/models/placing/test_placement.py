"""What cannot be done with a teacher is refused in one line, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.parts.refusing import Refused
from tests.parts.vision import Told

MAPS = {
    "not json": ("{", "cannot be read as JSON"),
    "a list": ("[1]", "give an object with a device for each module"),
    "a device that is not here": ('{"": 7}', "there is no accelerator 7 here"),
    "no device": ('{"": "fast"}', "fast is no device"),
    "another kind of value": ('{"": [0]}', "Give a number, cpu, disk, or a name such as cuda:1"),
    "no such module": ('{"": "cpu", "model.layer.0": "disk"}', "the model has no module 'model.layer.0'. Did you mean"),
    "a module is left out": ('{"model": "cpu"}', "it says no device for lm_head"),
}


@pytest.mark.parametrize("case", MAPS)
def test_a_file_that_is_no_map_is_refused(case: str, refused_dump: Callable[..., str], tmp_path: Path) -> None:
    said, why = MAPS[case]
    (tmp_path / "map.json").write_text(said)
    assert why in refused_dump(device="auto", device_map=tmp_path / "map.json")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device_map": "balance"}, "--device-map balance: there is no such file. Give one of auto, balanced, "),
        (
            {"device_map": "auto", "max_memory": "3=1GiB"},
            "--max-memory 3=...: there is no accelerator 3 here; there are 0",
        ),
        ({"tensor_parallel": 3}, "has num_attention_heads = 4, which 3 processes cannot share"),
        (
            {"tensor_parallel": 2, "quantization": "torchao-int8"},
            "--quantization torchao-int8 with --tensor-parallel 2",
        ),
        (
            {"tensor_parallel": 2, "qkv": "1"},
            "--qkv 1 with --tensor-parallel 2: each process computes some of the heads",
        ),
        ({"attention": "flash_attention_2"}, "--attention flash_attention_2: it needs the package flash-attn"),
        ({"attention": "flash_attention_3"}, "--attention flash_attention_3: it needs the package flash-attn-3"),
        ({"attention": "fast"}, "--attention fast: "),
        ({"quantization": "3bit"}, "--quantization 3bit: "),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, object], why: str, refused_dump: Callable[..., str]
) -> None:
    assert why in refused_dump(**{"device": "auto"} | options)


def test_a_model_without_a_plan_is_not_split(
    refused_dump: Callable[..., str], tokenizer: object, tmp_path: Path
) -> None:
    config = GPT2Config(vocab_size=328, n_embd=32, n_layer=1, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")  # type: ignore[attr-defined]
    told = refused_dump(device="auto", tensor_parallel=2, teacher=tmp_path / "model")
    assert "transformers has no plan by which to split a model of the kind gpt2" in told


def test_a_classifier_is_not_split(refused_image_dump: Told) -> None:
    told = refused_image_dump("--tensor-parallel", 2, device="auto")
    assert "--tensor-parallel: it means nothing to --task image-classification" in told


def test_verify_spreads_only_a_teacher_that_it_asks(refused: Refused, small_cache: Path) -> None:
    assert "--attention eager: only --against-teacher uses it" in refused("verify", small_cache, "--attention", "eager")


def test_attention_changes_the_last_bits_alone(command: Callable[..., int], bare_copy: Path, teacher: Path) -> None:
    asked = ("--against-teacher", teacher, "--share", 0.2, "--attention", "eager")
    assert command("verify", bare_copy, *asked) == 0
