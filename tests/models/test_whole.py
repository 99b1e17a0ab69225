"""Files whose weights are not those of the model that their configuration describes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPTNeoConfig, GPTNeoForCausalLM, ResNetConfig, ResNetForImageClassification

import logitstore
from logitstore.core.types import ModelRef
from logitstore.errors import ModelError
from logitstore.models.load import load_config, load_weights
from tests.models.test_causal import classes, tiny
from tests.parts.commands import Refused
from tests.parts.vision import Told

LAYER = "model.layers.1"


def with_more(model: Path, folder: Path, more: dict[str, Tensor], **config: Any) -> Path:
    """A copy of a model whose file has more weights."""
    shutil.copytree(model, folder)
    path = folder / "model.safetensors"
    save_file(load_file(path) | more, path, metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    return folder


def loaded(folder: Path) -> Any:
    reference = ModelRef.parse(str(folder))
    return load_weights(reference, load_config(reference), torch.float32)


def classifier_in(folder: Path) -> Any:
    reference = ModelRef.parse(str(folder))
    return load_weights(reference, load_config(reference), torch.float32, "image-classification")


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.self_attn.q_proj.bias",
        f"{LAYER}.self_attn.q_norm.weight",
        f"{LAYER}.mlp.up_proj.weight_scale",
        f"{LAYER}.mlp.up_proj.lora_A.weight",
        f"{LAYER}.post_feedforward_layernorm.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_a_weight_without_a_place_in_the_model_is_named(teacher: Path, tmp_path: Path, name: str) -> None:
    folder = with_more(teacher, tmp_path / "other", {name: torch.ones(32)})
    with pytest.raises(ModelError, match=f"its file has the weight {name}, for which the LlamaForCausalLM .* no place"):
        loaded(folder)


@pytest.mark.parametrize(
    "name",
    [
        "v_head.summary.weight",
        "model.vision_tower.layers.0.bias",
        f"{LAYER}.self_attn.rotary_emb.inv_freq",
        "model.layers.2.mlp.up_proj.weight",
    ],
)
def test_parts_that_answer_nothing_do_not_matter(teacher: Path, tmp_path: Path, name: str) -> None:
    """The last one is a layer that predicts further tokens, as the configuration says."""
    folder = with_more(teacher, tmp_path / "more", {name: torch.ones(4)}, num_nextn_predict_layers=1)
    plain, model = loaded(teacher).state_dict(), loaded(folder).state_dict()
    assert plain.keys() == model.keys()
    assert all(torch.equal(plain[each], model[each]) for each in plain)


def test_masks_in_the_files_of_older_versions_do_not_matter(tmp_path: Path) -> None:
    config = GPTNeoConfig(
        vocab_size=32,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        attention_types=[[["global"], 1]],
        intermediate_size=16,
    )
    GPTNeoForCausalLM(config).save_pretrained(tmp_path / "model")
    masks = {f"transformer.h.0.attn.attention.{name}": torch.ones(4) for name in ("bias", "masked_bias")}
    loaded(with_more(tmp_path / "model", tmp_path / "older", masks))


def test_every_command_refuses_it(
    refused: Refused, stopped: Told, cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    name = f"{LAYER}.self_attn.q_proj.bias"
    folder = with_more(teacher, tmp_path / "other", {name: torch.ones(32)})
    assert name in refused("train", cache.path, "--student", folder, "--out", tmp_path / "student", "--device", "cpu")
    assert name in stopped("verify", cache.path, "--against-teacher", folder)


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_adapter_is_named(refused: Refused, texts: Path, teacher: Path, tmp_path: Path, is_alone: bool) -> None:
    folder = tmp_path / "adapter"
    if is_alone:
        folder.mkdir()
    else:
        shutil.copytree(teacher, folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "other/model"}')
    line = refused("dump", "--teacher", folder, "--data", texts, "--out", tmp_path / "cache")
    assert f"{folder}: it holds an adapter" in line
    assert ("and no model" in line) == is_alone


def test_a_buffer_that_was_learned_may_not_be_missing(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    name = next(name for name in sorted(whole) if name.endswith("running_mean"))
    counts = [name for name in whole if name.endswith("num_batches_tracked")]
    save_file({key: value for key, value in whole.items() if key not in counts}, path, metadata={"format": "pt"})
    assert classifier_in(tmp_path).num_labels == 3
    save_file({key: value for key, value in whole.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"its file has no values for the weight {name}"):
        classifier_in(tmp_path)


@pytest.mark.exhaustive
def test_what_every_class_saves_has_its_place(tmp_path: Path) -> None:
    """All causal classes of transformers that can be built tiny."""
    wrong, count = {}, 0
    for name in classes():
        if (model := tiny(name)) is None:
            continue
        folder = tmp_path / name
        model.save_pretrained(folder)
        try:
            loaded(folder)
            count += 1
        except ModelError as error:
            if "no place" in str(error):
                wrong[name] = str(error)
        shutil.rmtree(folder)
    print(count)
    assert not wrong
    assert count > 120
