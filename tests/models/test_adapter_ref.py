"""An adapter's folder leads to the model that it changes, and what cannot be one is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import logitstore
from logitstore.errors import ModelError
from logitstore.models.adapter_ref import student_ref
from logitstore.models.load import load_config, load_weights
from tests.fixtures import Refused
from tests.parts.adapters import peft_logits, saved_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def adapter(small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_adapter(small_student, tmp_path_factory.mktemp("adapters") / "adapter")


def changed(adapter: Path, folder: Path, **entries: Any) -> Path:
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | entries))
    return folder


def answer(student: Path, tokens_BT: torch.Tensor) -> torch.Tensor:
    reference = student_ref(str(student))
    model = load_weights(reference, load_config(reference), torch.float32).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens_BT).logits
    return logits


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
    ],
    ids=str,
)
def test_an_adapter_answers_as_peft_says(small_student: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    adapter = saved_adapter(small_student, tmp_path / "adapter", **kind)
    tokens_BT = torch.arange(24).view(2, 12)
    expected = peft_logits(adapter, tokens_BT)
    torch.testing.assert_close(answer(adapter, tokens_BT), expected, rtol=1e-5, atol=1e-5)
    assert (expected - answer(small_student, tokens_BT)).abs().max() > 0.1


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no base": ({"base_model_name_or_path": None}, "does not say which model it changes"),
    "a base that is not there": (
        {"base_model_name_or_path": "/no/such/model"},
        "it is an adapter of /no/such/model, and there is no such folder",
    ),
    "a base that the hub does not give": (
        {"base_model_name_or_path": "other/model"},
        "(an adapter of other/model): there is no such folder, and as a hub name it",
    ),
    "another kind": ({"peft_type": "IA3"}, "an adapter of the kind IA3; known is LORA"),
    "other parts": ({"layer_replication": [[0, 1]]}, "has layer_replication, which is not known here"),
    "a module to import": ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "has megatron_config"),
    "weights that change the model's": ({"init_lora_weights": "pissa"}, "changes the weights of its model too. Merge"),
    "a revision": ({"revision": "v2"}, "belongs to the revision v2"),
    "other layers": ({"target_modules": ["o_proj"]}, "has no values for model.layers.0.self_attn.o_proj.lora_A"),
    "fewer layers": ({"target_modules": ["q_proj"]}, "for which its adapter_config.json has no place"),
    "a rank that no memory holds": ({"r": 10**12}, "its adapter_config.json does not fit the model"),
    "a rank of much memory": ({"r": 10**7}, "the weights of the adapter cannot be loaded"),
    "another rank": ({"r": 5}, "the weights of the adapter cannot be loaded"),
    "no layers": ({"target_modules": ["nothing"]}, "its adapter_config.json does not fit the model"),
    "impossible": ({"r": -1}, "its adapter_config.json does not fit the model"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(
    refused: Refused, cache: logitstore.Cache, adapter: Path, tmp_path: Path, name: str
) -> None:
    entries, said = BROKEN[name]
    folder = changed(adapter, tmp_path / "adapter", **entries)
    line = refused("evaluate", cache.path, "--student", folder, "--device", "cpu")
    assert said in line
    assert str(folder) in line


def test_weights_of_the_model_in_the_file_of_an_adapter_are_those_of_the_model(
    small_student: Path, tmp_path: Path
) -> None:
    """peft saves the output layer with its adapter. One that was changed would be passed over."""
    folder = saved_adapter(small_student, tmp_path / "adapter", target_modules=["lm_head"])
    weights = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.lm_head.base_layer.weight"
    save_file(weights | {name: weights[name] + 1}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"has the weight lm_head.base_layer.weight of the model, with other values"):
        answer(folder, torch.arange(4)[None])


def test_an_adapter_of_an_adapter_and_one_beside_a_whole_model_are_refused(
    refused: Refused, cache: logitstore.Cache, adapter: Path, small_student: Path, tmp_path: Path
) -> None:
    above = changed(adapter, tmp_path / "above", base_model_name_or_path=str(adapter))
    beside = tmp_path / "beside"
    shutil.copytree(small_student, beside)
    shutil.copy(adapter / "adapter_config.json", beside)
    for folder in (above, beside):
        line = refused("train", cache.path, "--student", folder, "--out", tmp_path / "out", "--device", "cpu")
        assert "it holds an adapter" in line
    assert not (tmp_path / "out").exists()


def test_code_of_the_model_below_an_adapter_is_run_only_if_the_user_says_so(
    refused: Refused, cache: logitstore.Cache, adapter: Path, small_student: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(small_student, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (base / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (base / "own.py").write_text(f"open({str(ran)!r}, 'w')\nraise RuntimeError('stop')\n")
    folder = changed(adapter, tmp_path / "adapter", base_model_name_or_path=str(base))
    line = refused("evaluate", cache.path, "--student", folder, "--device", "cpu")
    assert "not run unasked" in line
    assert not ran.exists()


def test_an_adapter_needs_peft(
    refused: Refused, cache: logitstore.Cache, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    line = refused("evaluate", cache.path, "--student", adapter, "--device", "cpu")
    assert "pip install 'logitstore[lora]'" in line
