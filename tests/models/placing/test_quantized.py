"""Packed weights: what they need, what tells them apart, and that a cache keeps to one way of packing."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.teachers.causal_lm import source
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.models.load import load_config, load_weights
from logitstore.models.placing.placement import Placement
from logitstore.models.placing.quantized import missing_library, refuse_mixing
from tests.parts.texts import plan_for, save_model

KINDS = {"bitsandbytes-8bit": "bitsandbytes", "bitsandbytes-4bit": "bitsandbytes", "torchao-int8": "torchao"}
IDS = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [kind for kind, library in KINDS.items() if find_spec(library) is None])
def test_a_missing_library_is_named_with_its_extra(kind: str, teacher: Path) -> None:
    with pytest.raises(BadInput, match=rf"--quantization {kind} needs {KINDS[kind]}.*'logitstore\[quantized\]'"):
        source(str(teacher), placement=Placement(quantization=kind)).load("float32", "cpu")


def test_a_way_of_packing_that_only_a_cache_knows_is_refused(teacher: Path) -> None:
    with pytest.raises(BadInput, match="were packed as 'own', which this version does not know"):
        source(str(teacher), placement=Placement(quantization="own")).load("float32", "cpu")


def packed_config(folder: Path, **said: Any) -> Path:
    path = save_model(folder, None, 328) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": said}))
    return folder


def test_what_is_packed_already_is_not_packed_again(tmp_path: Path) -> None:
    folder = packed_config(tmp_path, quant_method="fp8")
    with pytest.raises(ModelError, match=r"--quantization torchao-int8: the weights of .* lie packed .*\(fp8\)"):
        source(str(folder), placement=Placement(quantization="torchao-int8"))


def test_a_packed_checkpoint_says_what_it_needs(tmp_path: Path) -> None:
    config = LlamaConfig(quantization_config={"quant_method": "compressed-tensors"})
    told = missing_library(config, "here", ImportError("compressed_tensors is not there"))
    assert str(told) == (
        "here: its weights are packed (compressed-tensors): compressed_tensors is not there. Install it: "
        "pip install 'logitstore[quantized]'."
    )
    if find_spec("gptqmodel") is None:
        folder = packed_config(tmp_path, quant_method="gptq", bits=4, group_size=16)
        with pytest.raises(ModelError, match=r"its weights are packed \(gptq\): .*"):
            source(str(folder)).load("float32", "cpu")


def test_a_checkpoint_whose_texts_mix_is_refused() -> None:
    mixing = LlamaConfig(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(ModelError, match="the answer about one text depends on the others"):
        refuse_mixing(mixing, "here")
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 0.0}
    refuse_mixing(LlamaConfig(quantization_config=said), "here")


class Packed(nn.Module):
    """A layer whose weights are whole numbers, with a scale beside them that is no parameter."""

    def __init__(self, scale: float, is_packed: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6, dtype=torch.int8).reshape(2, 3), requires_grad=False)
        self.register_buffer("scale", torch.tensor(scale))
        self.config = SimpleNamespace(quantization_config={"quant_method": "any"} if is_packed else None)


def test_scales_are_a_part_of_the_fingerprint_of_packed_weights() -> None:
    made = {}
    for scale in (1.0, 2.0):
        for is_packed in (True, False):
            teacher = SimpleNamespace(_model=Packed(scale, is_packed), _packed=None)
            made[scale, is_packed] = ModelTeacher._fingerprint(teacher, "")  # type: ignore[arg-type]
    assert made[1.0, True] != made[2.0, True]
    assert made[1.0, False] == made[2.0, False]  # as ever: buffers of other models do not count


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_is_packed_while_it_is_loaded(kind: str, tokenizer: Any, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip(KINDS[kind])
    folder = save_model(tmp_path / "model", tokenizer, 328, hidden_size=64, intermediate_size=128)
    whole = source(str(folder)).load("float32", "cpu")
    packed = source(str(folder), placement=Placement(quantization=kind)).load("float32", "cpu")
    again = source(str(folder), placement=Placement(quantization=kind)).load("float32", "cpu")
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    one = {name: value[:1] for name, value in batch.items()}
    assert packed.fingerprint() == again.fingerprint() != whole.fingerprint()
    assert torch.equal(packed.logits(batch)[:1], packed.logits(one))
    assert torch.equal(packed.head(320).weight_VD, whole.head(320).weight_VD)
    apart = (packed.logits(batch) - whole.logits(batch)).abs().max() / whole.logits(batch).abs().max()
    assert 0 < apart < 1
    plan: Callable[..., Any] = lambda **more: plan_for(folder, texts, tmp_path / "out", limit=6, **more)  # noqa: E731
    made = dump(plan(quantization=kind, preset="small", k=None))
    assert made.manifest.teacher.quantization == kind
    with pytest.raises(CacheMismatch, match=rf"teacher.quantization = {kind}, this command asks for nothing"):
        dump(plan(preset="small", k=None))


def test_a_checkpoint_that_was_saved_packed_is_taken_as_it_is(tokenizer: Any, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = save_model(tmp_path / "model", tokenizer, 328, hidden_size=64, intermediate_size=128)
    placement = Placement(quantization="bitsandbytes-4bit")
    packed = source(str(folder), placement=placement).load("float32", "cpu")
    reference = ModelRef(name=str(folder))
    load_weights(reference, load_config(reference), torch.float32, placement=placement).save_pretrained(
        tmp_path / "packed"
    )
    tokenizer.save_pretrained(tmp_path / "packed")
    made = dump(plan_for(tmp_path / "packed", texts, tmp_path / "out", limit=6))
    assert made.manifest.teacher.quantization is None
    assert made.manifest.teacher.fingerprint == packed.fingerprint()
