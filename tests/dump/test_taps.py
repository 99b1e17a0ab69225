"""Taps hold what the teacher's own modules compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.settings.dump import AddSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import Refused, logitstore_command
from tests.parts.files import tree
from tests.parts.taps import ALL, decoded, features_of, small_taps_plan


def test_taps_hold_what_the_teachers_own_modules_give(tapped: Path, teacher: Path) -> None:
    """One sample at a time against batches with padding, so the last bits may differ."""
    cache = Cache(tapped)
    assert sorted(cache.taps) == sorted(ALL)
    assert any(not cache[index].sample.mask_T[:-1].all() for index in range(len(cache))), "no overlap to look at"
    for index in range(0, len(cache), 3):
        sample = cache[index].sample
        expected = features_of(teacher, sample.tokens_T)
        for name in ALL:
            found_ND = decoded(cache, name, index)
            assert found_ND.shape == (sample.rows, cache.taps[name].info.width)
            np.testing.assert_allclose(found_ND, expected[name][sample.positions_N].numpy(), rtol=1e-4, atol=1e-4)
    assert {name: cache.taps[name].info.width for name in ALL} == dict(zip(ALL, (32, 32, 32, 32, 16, 16), strict=True))


@torch.inference_mode()
def test_float32_taps_are_exact_where_the_teacher_sees_the_same_batch(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    """With a budget of one token every sample is a batch of its own."""
    out = tmp_path / "cache"
    cache = dump(small_taps_plan(teacher, texts, out, batch_tokens=1, hidden="all", qkv="1-2", tap_codec="float32"))
    model: Any = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    for index in range(0, len(cache), 4):
        sample = cache[index].sample
        tokens_BT = torch.from_numpy(np.asarray(sample.tokens_T, np.int64))[None]
        states = model(tokens_BT, attention_mask=torch.ones_like(tokens_BT), output_hidden_states=True).hidden_states
        for name, state_BTD in zip(("hidden-0", "hidden-1", "final"), states, strict=True):
            assert np.array_equal(decoded(cache, name, index), state_BTD[0][sample.positions_N].numpy()), name
        assert np.array_equal(decoded(cache, "value-1", index), values_of(model, 0, states[0])[sample.positions_N])


def values_of(model: Any, layer: int, before_BTD: Tensor) -> Any:
    """The values of one layer, which no rotary embedding turns."""
    return model.model.layers[layer].self_attn.v_proj(model.model.layers[layer].input_layernorm(before_BTD))[0].numpy()


def test_taps_change_nothing_of_what_else_is_dumped(bare: Path, tapped: Path) -> None:
    without = {name: content for name, content in tree(tapped).items() if not name.startswith("taps/")}
    assert without == tree(bare)


@pytest.mark.parametrize("codec", ["bfloat16", "float16", "int8", "pca-5"])
def test_what_is_added_later_is_byte_for_byte_what_the_dump_would_have_written(
    codec: str, bare_copy: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bare_copy.rglob("*") if path.is_file()}
    plan = small_taps_plan(teacher, texts, tmp_path / "dumped", hidden="1,final", qkv="2", tap_codec=codec)
    add(AddSettings(cache=bare_copy, hidden="1,final", qkv="2", tap_codec=codec, device="cpu"))
    assert tree(bare_copy) == tree(dump(plan).path)
    assert verify(bare_copy) == []
    for path, (changed, content) in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, content), path


def test_a_dry_run_counts_the_taps(teacher: Path, texts: Path, tmp_path: Path) -> None:
    options = ["--teacher", teacher, "--data", texts, "--out", tmp_path / "cache", "--preset", "topk", "--dry-run"]
    options += ["--max-length", 512]
    told = logitstore_command("dump", *options, "--hidden", "0,final", "--qkv", "1", "--tap-codec", "int8")
    assert told.returncode == 0, told.stderr
    assert f"({72 + 34 + 34 + 34 + 18 + 18} B/row, 138 of them for taps)" in told.stdout


def test_a_codec_of_no_tap_is_refused(refused_dump: Refused) -> None:
    line = refused_dump(tap_codec="int8")
    assert line == "error: --tap-codec int8: without --hidden or --qkv there is nothing to store so. Leave it out."
