"""A teacher whose layers lie in memory and on the disk says the same, bit by bit, as one that lies whole in memory."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from logitstore.core.progress import Step
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.teachers.causal_lm import CausalTeacher, source
from logitstore.models.load import load_config, load_weights
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.models.placing.spread import lies_where
from logitstore.settings.dump import DumpSettings
from tests.parts.files import tree
from tests.parts.marks import rarely
from tests.parts.tasks import Task
from tests.parts.texts import plan_for, save_model, teacher_gguf

IDS = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
HALF = Placement(device_map="auto", max_memory={"cpu": 90_000})
DISK = Placement(device_map="sequential", max_memory={"cpu": 1})


def untied(folder: Path) -> Path:
    return save_model(folder, None, 328)


def tied(folder: Path) -> Path:
    return save_model(folder, None, 328, tie_word_embeddings=True)


def pickled(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(save_model(folder / "saved", None, 328))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    model.config.save_pretrained(folder)
    return folder


def experts(folder: Path) -> Path:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=328, num_key_value_heads=2, num_local_experts=4, **shape)
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def loaded(folder: Path, placement: Placement) -> CausalTeacher:
    teacher = source(str(folder), placement=placement).load("float32", "cpu")
    assert isinstance(teacher, CausalTeacher)
    return teacher


@pytest.mark.parametrize("make", [untied, tied, rarely(pickled), experts])
def test_layers_on_the_disk_say_the_same(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    whole = loaded(folder, WHOLE)
    names = ["hidden-1", "final", "query-2", "key-1"]
    logits, hidden = whole.logits_and_hidden(BATCH)
    features = whole.features(BATCH, names)
    for placement in (HALF, DISK):
        spread = loaded(folder, placement)
        assert "disk" in str(lies_where(spread._model))
        assert spread.device == torch.device("cpu")
        assert all(torch.equal(a, b) for a, b in zip(spread.logits_and_hidden(BATCH), (logits, hidden), strict=True))
        there = spread.features(BATCH, names)
        assert all(torch.equal(there[name], features[name]) for name in names)
        assert spread.widths(names) == whole.widths(names)
        assert torch.equal(spread.head(320).weight_VD, whole.head(320).weight_VD)
        assert spread.fingerprint() == whole.fingerprint()


def test_a_file_says_where_each_module_lies(tmp_path: Path) -> None:
    folder = untied(tmp_path / "model")
    said = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu", "model.norm": "cpu"}
    map_file = tmp_path / "map.json"
    map_file.write_text(json.dumps(said | {"lm_head": "disk", "model.rotary_emb": "cpu"}))
    spread = loaded(folder, Placement(device_map=str(map_file)))
    assert spread._model.hf_device_map["model.layers.0"] == "disk"
    assert torch.equal(spread.logits(BATCH), loaded(folder, WHOLE).logits(BATCH))
    assert torch.equal(spread.head(320).weight_VD, loaded(folder, WHOLE).head(320).weight_VD)


def test_what_was_written_anew_goes_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    folder = pickled(tmp_path / "model")
    spread = loaded(folder, DISK)
    assert [*(tmp_path / "tmp").iterdir()] != []
    del spread
    gc.collect()
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_a_map_of_one_device_loads_what_no_map_loads(tmp_path: Path) -> None:
    """It is what is told where the device is no CPU, so that no copy is made in memory first."""
    reference = ModelRef(name=str(tied(tmp_path)))
    config = load_config(reference)
    map_file = tmp_path / "map.json"
    map_file.write_text('{"": "cpu"}')
    plain = load_weights(reference, config, torch.bfloat16)
    mapped = load_weights(reference, config, torch.bfloat16, placement=Placement(device_map=str(map_file)))
    assert lies_where(mapped) is None
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), mapped.state_dict().values(), strict=True)
    )


def test_a_cache_does_not_tell_how_its_teacher_was_spread(teacher: Path, texts: Path, tmp_path: Path) -> None:
    plan = {"preset": "small", "k": None, "limit": 8, "hidden": "1,final", "device": "auto"}
    steps: list[Step] = []
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", **plan), steps.append)
    assert "layers" not in {step.stage for step in steps}
    spread = dump(
        plan_for(teacher, texts, tmp_path / "spread", device_map="auto", max_memory="cpu=90KB", **plan), steps.append
    )
    assert tree(spread.path) == tree(whole.path)
    assert [step.note for step in steps if step.stage == "layers"] == ["modules on cpu: 1, disk: 4"]


def test_images_are_shown_to_a_spread_classifier(
    task: Task, small_cache: Path, small_plan: Callable[..., DumpSettings], tmp_path: Path
) -> None:
    spread = dump(small_plan(tmp_path / "spread", device="auto", device_map="auto", max_memory="cpu=1B"))
    assert tree(spread.path) == tree(small_cache)


@pytest.mark.slow
@pytest.mark.real_teacher
@pytest.mark.exhaustive
def test_the_real_teacher_says_the_same_from_the_disk(tmp_path: Path) -> None:
    gguf = teacher_gguf()
    assert gguf is not None
    reference = ModelRef.parse(gguf)
    load_weights(reference, load_config(reference), torch.float32).save_pretrained(tmp_path)
    whole = loaded(tmp_path, WHOLE)
    spread = loaded(tmp_path, Placement(device_map="auto", max_memory={"cpu": 300_000_000}))
    assert {"cpu", "disk"} == set(spread._model.hf_device_map.values())
    assert torch.equal(spread.logits(BATCH), whole.logits(BATCH))
    assert spread.fingerprint() == whole.fingerprint()
