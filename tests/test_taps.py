"""Taps: what is kept of the teacher's hidden states, queries, keys and values is what the teacher computes, and is kept safely.

Axes: B sequences, T tokens, N rows, D channels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import xxhash
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import logitstore
from logitstore.add import add
from logitstore.batch import Batch
from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.staged_part import PartTaken
from logitstore.cache.verify import repair, verify
from logitstore.codecs.feature import FeatureCodec
from logitstore.dump import dump
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, ModelError
from logitstore.manifest import RECORD_NAME, PartRecord
from logitstore.mixture import Mixture
from logitstore.part_loop import write_part
from logitstore.plans import AddPlan, DumpPlan, RecodePlan
from logitstore.recode import recode
from logitstore.recording import recording
from logitstore.sealed import seal, seal_of, unseal
from logitstore.tap_info import TapInfo, tap_fields
from logitstore.tap_names import names_of
from logitstore.tap_pilot import moments_for, shared_of
from logitstore.types import Step
from tests.conftest import VOCABULARY, logitstore_command, plan_for, save_model, tree

ALL = ["hidden-0", "hidden-1", "final", "query-2", "key-2", "value-2"]


def small_plan(teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpPlan:
    """A dump of three small parts, with windows that overlap."""
    return plan_for(teacher, texts, out, **{"limit": 6, "samples_per_part": 9} | changes)


@pytest.fixture(autouse=True)
def _as_many_threads_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last bits of a float may depend on the number of threads; here they must not differ."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """A complete small cache without taps; do not change it."""
    cache = dump(small_plan(teacher, texts, tmp_path_factory.mktemp("bare") / "cache"))
    assert cache.manifest.parts == 3
    return cache.path


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """The same cache, dumped with every kind of tap in float32; do not change it."""
    out = tmp_path_factory.mktemp("tapped") / "cache"
    plan = small_plan(teacher, texts, out, hidden="0,1,final", qkv="2", tap_codec="float32")
    return dump(plan).path


@pytest.fixture
def copy(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "copy"))


@pytest.fixture
def tapped_copy(tapped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tapped, tmp_path / "copy"))


@torch.inference_mode()
def features_of(teacher: Path, tokens_T: Any) -> dict[str, Tensor]:
    """What the teacher's own modules give for one sample: hidden states as transformers reports them, the second layer's
    projections turned by hand; float32[T, D] each."""
    model: Any = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    tokens_BT = torch.from_numpy(np.asarray(tokens_T, np.int64))[None]
    states = model(tokens_BT, output_hidden_states=True).hidden_states
    attention, before_BTD = model.model.layers[1].self_attn, model.model.layers[1].input_layernorm(states[1])
    split = (1, len(tokens_T), -1, attention.head_dim)
    query, key, value = (
        linear(before_BTD).view(split).transpose(1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    turns = model.model.rotary_emb(before_BTD, torch.arange(len(tokens_T))[None])
    query, key = apply_rotary_pos_emb(query, key, *turns)
    flat = {
        f"{name}-2": heads.transpose(1, 2).flatten(2)[0]
        for name, heads in (("query", query), ("key", key), ("value", value))
    }
    return {"hidden-0": states[0][0], "hidden-1": states[1][0], "final": states[-1][0]} | flat


def decoded(cache: Cache, name: str, index: int) -> Any:
    """float32[N, D]: the rows of one sample of a tap."""
    part, number = cache.locate(index)
    tap = cache.taps[name]
    stored = {field: np.array(array[part.span(number)]) for field, array in tap.part(part.number).items()}
    return tap.codec.decode(stored)


# what is stored


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
    cache = dump(small_plan(teacher, texts, out, batch_tokens=1, hidden="all", qkv="1-2", tap_codec="float32"))
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
    codec: str, copy: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in copy.rglob("*") if path.is_file()}
    plan = small_plan(teacher, texts, tmp_path / "dumped", hidden="1,final", qkv="2", tap_codec=codec)
    add(AddPlan(cache=copy, hidden="1,final", qkv="2", tap_codec=codec, device="cpu"))
    assert tree(copy) == tree(dump(plan).path)
    assert verify(copy) == []
    for path, (changed, content) in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, content), path


@pytest.mark.parametrize(
    ("codec", "most"), [("bfloat16", 2**-8), ("float16", 2**-10), ("int8", 0.05), ("pca-31", 0.3), ("pca-32", 1e-3)]
)
def test_a_codec_returns_the_feature_within_its_rounding(codec: str, most: float, copy: Path, tapped: Path) -> None:
    """Relative to the size of a row; pca with as many directions as channels loses nothing but float16."""
    cache = add(AddPlan(cache=copy, hidden="1", tap_codec=codec, device="cpu"))
    for index in range(len(cache)):
        found_ND, exact_ND = decoded(cache, "hidden-1", index), decoded(Cache(tapped), "hidden-1", index)
        error = np.linalg.norm(found_ND - exact_ND, axis=1) / np.linalg.norm(exact_ND, axis=1)
        assert error.max() < most
    assert cache.taps["hidden-1"].info.bytes_per_row == {"int8": 34, "pca-31": 62}.get(codec, 64)


floats = arrays.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(values_ND=floats)
@pytest.mark.parametrize("codec", ["bfloat16", "float16", "float32"])
def test_floats_are_rounded_to_the_nearest_but_never_to_infinity(codec: str, values_ND: Any) -> None:
    usual_ND = torch.from_numpy(values_ND).to(getattr(torch, codec)).float()
    made = codec_of(codec, 5)
    found_ND = made.decode(made.encode(torch.from_numpy(values_ND)))
    assert torch.isfinite(found_ND).all()
    assert torch.equal(found_ND[torch.isfinite(usual_ND)], usual_ND[torch.isfinite(usual_ND)])


def codec_of(codec: str, width: int, **shared: Any) -> FeatureCodec:
    info = TapInfo.model_construct(codec=codec, width=width, fields=tap_fields(codec, width))
    return FeatureCodec(info=info, shared=shared)


@pytest.mark.parametrize("codec", ["bfloat16", "float16", "float32", "int8", "pca-3"])
def test_a_feature_is_decoded_alike_in_numpy_and_torch(codec: str) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32) * [1, 5, 0.1, 1, 2, 3]
    moments = moments_for(codec, 6)
    moments.add(torch.from_numpy(rows_ND.astype(np.float32)))
    shared = (
        {name: value.numpy() for name, value in shared_of(codec, moments).items()} if codec in ("int8", "pca-3") else {}
    )
    made = codec_of(codec, 6, **shared)
    stored = {name: value.numpy() for name, value in made.encode(torch.from_numpy(rows_ND.astype(np.float32))).items()}
    assert {name: value.dtype.name for name, value in stored.items()} == {
        name: field.dtype for name, field in made.info.fields.items()
    }
    if codec != "bfloat16":
        in_numpy = made.encode(rows_ND.astype(np.float32))
        assert all(np.array_equal(in_numpy[name], value) or codec == "pca-3" for name, value in stored.items())
    in_torch = made.decode({name: torch.from_numpy(value) for name, value in stored.items()})
    assert in_torch.dtype == torch.float32
    np.testing.assert_allclose(in_torch.numpy(), made.decode(stored), rtol=1e-5, atol=1e-5)


def test_the_directions_of_pca_are_those_of_the_covariance() -> None:
    rows_ND = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 0.1, 3, 1, 1]) + 4
    moments = moments_for("pca-2", 6)
    for some in rows_ND.split(123):
        moments.add(some)
    shared = shared_of("pca-2", moments)
    _, vectors = np.linalg.eigh(np.cov(rows_ND.double().numpy().T, bias=True))
    assert torch.allclose(shared["mean"], rows_ND.mean(0), atol=1e-5)
    assert torch.allclose(shared["directions"] @ shared["directions"].T, torch.eye(2), atol=1e-6)
    found_RR = shared["directions"].double().numpy() @ vectors[:, [5, 4]]
    np.testing.assert_allclose(np.abs(found_RR), np.eye(2), atol=1e-4)


def test_the_page_is_enough_to_read_a_tap(copy: Path) -> None:
    """docs/format.md, "taps/": JSON, a checksum, bytes; nothing of this package but for the cache's own identity."""
    plan = Cache(copy).manifest.identity
    add(AddPlan(cache=copy, hidden="final", tap_codec="int8", device="cpu"))
    folder = copy / "taps" / "final"
    said = json.loads((folder / "tap.json").read_text())
    del said["checksum"]
    assert list(said) == ["format", "version", "plan", "name", "width", "codec", "pilot_rows", "fields", "shared"]
    assert (said["plan"], said["name"], said["codec"], said["width"]) == (plan, "final", "int8", 32)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    record = json.loads((folder / "parts/00001/part.json").read_text())
    assert record["plan"] == xxhash.xxh3_128_hexdigest(text.encode())
    assert record["sums"]["entropy_histogram"] == []
    assert record["fidelity"]["rows"] == 0
    assert record["rows"] == Cache(copy).part(1).record.rows
    (shared,) = folder.glob("shared/*")
    assert shared.name == f"codec-{xxhash.xxh3_64_hexdigest(shared.read_bytes())}.safetensors"
    values_ND = np.fromfile(folder / "parts/00001/rows.zarr/values/c/0/0", np.int8).reshape(-1, 32)
    scale_N = np.fromfile(folder / "parts/00001/rows.zarr/scale/c/0", "<f2")
    statistics = safetensors.numpy.load_file(shared)
    by_hand_ND = statistics["mean"] + statistics["std"] * (scale_N.astype(np.float32)[:, None] * values_ND)
    tap = Cache(copy).taps["final"]
    np.testing.assert_allclose(by_hand_ND, tap.codec.decode(tap.part(1)), rtol=1e-6, atol=1e-6)


def test_the_example_of_the_page_has_these_bytes() -> None:
    stored = codec_of("bfloat16", 3).encode(torch.tensor([[1, -2.5, 3.0e38]]))
    assert stored["values"].numpy().astype("<u2").tobytes().hex(" ") == "80 3f 20 c0 62 7f"


def test_a_dry_run_counts_the_taps(teacher: Path, texts: Path, tmp_path: Path) -> None:
    options = ["--teacher", teacher, "--data", texts, "--out", tmp_path / "cache", "--preset", "topk", "--dry-run"]
    told = logitstore_command("dump", *options, "--hidden", "0,final", "--qkv", "1", "--tap-codec", "int8")
    assert told.returncode == 0, told.stderr
    assert f"({72 + 34 + 34 + 34 + 18 + 18} B/row, 138 of them for taps)" in told.stdout


# recording


@pytest.fixture(scope="module")
def model(teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32, attn_implementation="sdpa").eval()


def test_recording_changes_nothing_and_leaves_nothing_behind(model: Any) -> None:
    tokens_BT = torch.arange(12).view(2, 6)
    before = dict(ALL_ATTENTION_FUNCTIONS)
    usual = model(tokens_BT).logits
    with recording(model, ALL) as seen:
        recorded = model(tokens_BT).logits
    assert sorted(seen) == sorted(ALL)
    assert torch.equal(usual, recorded)
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_flow_through_what_is_recorded(model: Any) -> None:
    with recording(model, ["query-1", "hidden-1", "final"]) as seen:
        model(torch.arange(6)[None])
    first, second = model.model.layers[0], model.model.layers[1]
    for name, reached, not_reached in (
        ("query-1", first.self_attn.q_proj.weight, first.self_attn.k_proj.weight),
        ("hidden-1", first.mlp.down_proj.weight, second.mlp.down_proj.weight),
        ("final", second.mlp.down_proj.weight, model.lm_head.weight),
    ):
        found = torch.autograd.grad(seen[name].sum(), [reached, not_reached], allow_unused=True, retain_graph=True)
        assert found[0] is not None
        assert found[0].abs().sum() > 0
        assert found[1] is None


def test_the_final_state_is_recorded_whole_where_only_the_last_logits_are_made(model: Any) -> None:
    tokens_BT = torch.arange(6)[None]
    with torch.inference_mode(), recording(model, ["final"]) as seen:
        few = model(tokens_BT, logits_to_keep=1).logits
    assert few.shape[1] == 1
    assert torch.equal(seen["final"], model(tokens_BT, output_hidden_states=True).hidden_states[-1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_queries_are_recorded_whichever_attention_a_model_uses(attention: str, teacher: Path) -> None:
    chosen: Any = AutoModelForCausalLM.from_pretrained(teacher, attn_implementation=attention).eval()
    tokens_T = torch.arange(9)
    with torch.inference_mode(), recording(chosen, ["query-2"]) as seen:
        chosen(tokens_T[None])
    assert torch.allclose(seen["query-2"][0], features_of(teacher, tokens_T)["query-2"], atol=1e-5)


TINY = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "num_attention_heads": 4}
TINY |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "phi3": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_hidden_states_of_other_models_are_those_that_transformers_gives(kind: str) -> None:
    """And the final one is what the output layer takes, also where the decoder is not the base model (OPT)."""
    other: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY | KINDS[kind])).eval()
    inputs = {"input_ids": torch.arange(1, 13).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    states = other(**inputs, output_hidden_states=True).hidden_states
    names = ["hidden-0", "hidden-1", "hidden-2", "final"]
    with recording(other, [*names, "query-1", "key-3"]) as seen:
        other(**inputs)
    for name, state_BTD in zip(names, states, strict=True):
        assert torch.equal(seen[name], state_BTD), name
    assert seen["query-1"].shape[:2] == seen["key-3"].shape[:2] == (2, 6)


def test_attention_that_cannot_be_recorded_is_told() -> None:
    other: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **TINY, n_layer=1))
    with pytest.raises(ModelError, match="BloomForCausalLM: query-1 cannot be recorded"), recording(other, ["query-1"]):
        other(torch.arange(6)[None])


def test_a_feature_that_a_pass_does_not_show_is_an_error(model: Any) -> None:
    with pytest.raises(ModelError, match="no hidden-2"), recording(model, ["hidden-2"]):
        pass
    with pytest.raises(ModelError, match="value-3 cannot be recorded"), recording(model, ["final", "value-3"]):
        model(torch.arange(6)[None])


# resuming


def test_any_mixture_of_parts_and_taps_that_are_there_ends_in_the_same_bytes(
    tapped: Path, tapped_copy: Path, teacher: Path, texts: Path
) -> None:
    for gone in (
        ["parts/00001", "taps/final/parts/00001", "taps/key-2/parts/00000", "taps/query-2"],
        ["parts/00000", "parts/00001", "parts/00002"],
        ["taps"],
    ):
        for name in gone:
            shutil.rmtree(tapped_copy / name)
        assert verify(tapped_copy) == []
        dump(small_plan(teacher, texts, tapped_copy, hidden="0,1,final", qkv="2", tap_codec="float32"))
        assert tree(tapped_copy) == tree(tapped)


def test_parts_may_be_added_one_after_the_other(tapped: Path, copy: Path) -> None:
    for parts in ("2", "0", "0-1"):
        cache = add(AddPlan(cache=copy, hidden="1", tap_codec="float32", parts=parts, device="cpu"))
        assert set(layout.parse_parts(parts, 3)) <= set(cache.taps["hidden-1"].part_numbers)
    assert tree(copy / "taps") == tree_of(tapped, "hidden-1")


def tree_of(cache: Path, *names: str) -> dict[str, bytes]:
    """The files of some taps, relative to `taps/`."""
    return {path: content for path, content in tree(cache / "taps").items() if path.split("/")[0] in names}


def test_what_is_there_is_not_asked_for_again(tapped_copy: Path, teacher: Path) -> None:
    """The teacher is not even loaded."""
    steps: list[Step] = []
    add(AddPlan(cache=tapped_copy, hidden="0,final", qkv="2", device="cpu"), steps.append)
    assert steps == []


def command(cache: Path) -> list[str]:
    return ["add", str(cache), "--hidden", "all", "--tap-codec", "int8", "--device", "cpu"]


@pytest.mark.slow
def test_an_add_killed_at_many_moments_ends_byte_identical(teacher: Path, texts: Path, tmp_path: Path) -> None:
    plan = plan_for(teacher, texts, tmp_path / "cache", samples_per_part=6)
    cache = dump(plan).path
    whole = Path(shutil.copytree(cache, tmp_path / "whole"))
    add(AddPlan(cache=whole, hidden="all", tap_codec="int8", device="cpu"))
    bare = tree(cache)
    killed = 0
    for wanted in (1, 30, 70):
        process = subprocess.Popen(
            [sys.executable, "-m", "logitstore", *command(cache)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(cache.glob("taps/*/parts/*/part.json"))) < wanted:
            time.sleep(0.001)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert verify(cache) == []
        there = tree(cache)
        assert {name: there[name] for name in bare} == bare
    assert killed >= 2
    done = logitstore_command(*command(cache))
    assert done.returncode == 0, done.stderr
    assert tree(cache) == tree(whole)


@pytest.mark.slow
def test_two_processes_begin_the_same_taps_together(tapped: Path, copy: Path) -> None:
    """Both write all parts; whoever is first with one keeps it."""
    options = ["--hidden", "0,1,final", "--qkv", "2", "--tap-codec", "float32", "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "logitstore", "add", str(copy), *options], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert tree(copy) == tree(tapped)


class Out:
    """A part being written, which remembers what became of it."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    def __enter__(self) -> Out:
        return self

    def __exit__(self, *error: Any) -> None:
        self.happened.append("closed")

    def store(self, batch: Any, kept: dict[str, Any]) -> None:
        self.happened.append("stored")

    def commit(self) -> None:
        self.happened.append("committed")


def test_what_another_process_was_first_with_is_not_asked_for() -> None:
    """Otherwise rows would be compared with the teacher of which no part says so."""
    out, asked = Out(), []

    def taken() -> Out:
        raise PartTaken(0)

    def ask(names: list[str]) -> Any:
        asked.append(names)
        yield SimpleNamespace(rows_N=torch.zeros(3)), dict

    write_part({"answers": taken, "final": lambda: out}, ask, lambda rows: None)
    write_part({"answers": taken}, ask, lambda rows: None)
    assert asked == [["final"]]
    assert out.happened == ["stored", "committed", "closed"]


# damage


def test_any_flipped_byte_of_a_tap_is_reported_with_its_part_and_file(copy: Path) -> None:
    add(AddPlan(cache=copy, hidden="1", tap_codec="int8", device="cpu"))
    chance = np.random.default_rng(3)
    names = [f"taps/{name}" for name in tree(copy / "taps")]
    assert len(names) == 2 + 3 * 6
    for name in names:
        path = copy / name
        whole = path.read_bytes()
        for offset in {0, len(whole) - 1, int(chance.integers(len(whole)))}:
            broken = bytearray(whole)
            broken[offset] ^= 1 << int(chance.integers(8))
            path.write_bytes(broken)
            part = re.search(r"parts/(\d+)/", name)
            found = {(problem.tap, problem.part, problem.file) for problem in verify(copy)}
            assert found == {("hidden-1", int(part[1]) if part else None, name)}, (name, offset)
        path.write_bytes(whole)
    assert verify(copy) == []


@pytest.mark.parametrize(
    "spoilt",
    [
        "tap.json",
        "parts/00001/part.json",
        "parts/00001/rows.zarr/values/c/0/0",
        "parts/00002/rows.zarr/scale/zarr.json",
    ],
)
def test_what_is_broken_is_dropped_and_added_again(spoilt: str, copy: Path) -> None:
    plan = AddPlan(cache=copy, hidden="1", tap_codec="int8", device="cpu")
    add(plan)
    whole = tree(copy)
    (copy / "taps/hidden-1" / spoilt).write_bytes(b"not this")
    problems = verify(copy)
    part = re.search(r"parts/\d+", spoilt)
    assert repair(copy, problems) == [f"taps/hidden-1/{part[0] if part else spoilt}"]
    assert {name: whole[name] for name in tree(copy)} == tree(copy)
    assert verify(copy) == []
    add(plan)
    assert tree(copy) == whole


def test_a_shared_file_that_is_gone_is_fitted_again(copy: Path) -> None:
    plan = AddPlan(cache=copy, hidden="1,final", tap_codec="pca-4", device="cpu")
    add(plan)
    whole = tree(copy)
    shutil.rmtree(copy / "taps/final/shared")
    assert [problem.what for problem in verify(copy)] == ["missing"]
    with pytest.raises(CacheDamaged, match="logitstore verify"):
        _ = Cache(copy).taps["final"].codec
    add(plan)
    assert tree(copy) == whole


def test_a_tap_whose_values_are_not_finite_is_reported(tapped_copy: Path) -> None:
    """Sealed anew, so that no checksum tells it."""
    folder = tapped_copy / "taps/final/parts/00001"
    chunk = folder / "rows.zarr/values/c/0/0"
    chunk.write_bytes(np.float32(np.nan).tobytes() + chunk.read_bytes()[4:])
    record = unseal(PartRecord, folder / RECORD_NAME)
    files = record.files | {"rows.zarr/values/c/0/0": seal_of(chunk)}
    (folder / RECORD_NAME).write_bytes(seal(record.model_copy(update={"files": files})))
    assert [problem.what for problem in verify(tapped_copy)] == ["a value is not finite"]


def test_a_tap_of_another_cache_is_refused_reported_and_dropped(
    tapped: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    other = dump(small_plan(teacher, texts, tmp_path / "other", k=7)).path
    shutil.copytree(tapped / "taps/final", other / "taps/final")
    with pytest.raises(CacheMismatch, match=r"taps/final belongs to another cache. Remove"):
        Cache(other).loader(taps=["final"])
    with pytest.raises(CacheMismatch, match="another cache"):
        add(AddPlan(cache=other, hidden="final", device="cpu"))
    problems = verify(other)
    assert [(problem.tap, problem.file) for problem in problems] == [("final", "taps/final")]
    assert repair(other, problems) == ["taps/final"]
    assert verify(other) == []


@pytest.mark.parametrize("name", ["parts", "shared", "taps/final/parts", "taps/final/shared"])
def test_nothing_behind_a_link_is_swept(name: str, teacher: Path, texts: Path, tapped_copy: Path) -> None:
    """Neither hidden files nor what looks like a killed writer's, whichever command comes to the end of a cache."""
    outside = tapped_copy.parent / "outside"
    if (tapped_copy / name).exists():
        shutil.move(tapped_copy / name, outside)
    for mine in (".mine", "00001.partial-mine/.mine"):
        (outside / mine).parent.mkdir(parents=True, exist_ok=True)
        (outside / mine).write_text("two years of work")
    (tapped_copy / name).symlink_to(outside)
    before = tree(outside)
    for again in (
        lambda: add(AddPlan(cache=tapped_copy, hidden="final", device="cpu")),
        lambda: dump(small_plan(teacher, texts, tapped_copy, hidden="final")),
        lambda: layout.sweep(tapped_copy / Path(name).parent),
    ):
        with pytest.raises(CacheDamaged, match="leads outside the cache"):
            again()
        assert tree(outside) == before


@pytest.mark.parametrize("name", ["parts", "taps/final/parts", "taps"])
def test_nothing_is_written_behind_a_link(name: str, teacher: Path, texts: Path, tapped_copy: Path) -> None:
    outside = tapped_copy.parent / "outside"
    (outside / "00001.partial-mine").mkdir(parents=True)
    shutil.rmtree(tapped_copy / name)
    (tapped_copy / name).symlink_to(outside)
    with pytest.raises(CacheDamaged, match="leads outside the cache"):
        dump(small_plan(teacher, texts, tapped_copy, hidden="final"))
    assert os.listdir(outside) == ["00001.partial-mine"]


def test_a_part_of_another_tap_is_refused(tapped_copy: Path) -> None:
    shutil.rmtree(tapped_copy / "taps/key-2/parts/00001")
    shutil.copytree(tapped_copy / "taps/value-2/parts/00001", tapped_copy / "taps/key-2/parts/00001")
    with pytest.raises(CacheMismatch, match="another plan"):
        Cache(tapped_copy).taps["key-2"].part(1)
    assert [problem.file for problem in verify(tapped_copy)] == ["taps/key-2/parts/00001/part.json"]


# wrong input


@pytest.mark.parametrize(
    ("hidden", "qkv", "said"),
    [
        ("2", None, "--hidden 2: the last of the 2 layers is named final: write --hidden final."),
        ("3", None, "--hidden 3: the teacher has 0 to 1; 3 is not there."),
        ("1,x", None, "--hidden '1,x': write numbers, final and ranges, such as 4,8-12, final, or all."),
        (None, "0", "--qkv 0: the teacher has 1 to 2; 0 is not there."),
        (None, "2-3", "--qkv 2-3: the teacher has 1 to 2; 2-3 is not there."),
        (None, "final", "--qkv 'final': write numbers and ranges, such as 4,8-12, or all."),
        (None, None, "add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final."),
    ],
)
def test_layers_that_are_not_there_are_told_in_one_line(
    hidden: str | None, qkv: str | None, said: str, bare: Path
) -> None:
    with pytest.raises(BadInput) as error:
        add(AddPlan(cache=bare, hidden=hidden, qkv=qkv))
    assert str(error.value) == said
    assert not (bare / "taps").exists()


def test_names_come_once_and_in_order() -> None:
    assert names_of("final,3,1-2,2", "4,1", 4) == [
        "hidden-1",
        "hidden-2",
        "hidden-3",
        "final",
        *["query-1", "key-1", "value-1", "query-4", "key-4", "value-4"],
    ]
    assert names_of("all", "all", 1) == ["hidden-0", "final", "query-1", "key-1", "value-1"]
    assert names_of(None, None, 4) == []


def test_another_teacher_is_refused(bare: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tokenizer, VOCABULARY + 8, seed=3)
    with pytest.raises(CacheMismatch, match="its weights are not those"):
        add(AddPlan(cache=bare, teacher=str(other), hidden="1", device="cpu"))
    assert not (bare / "taps").exists()


def test_another_codec_than_the_one_there_is_refused(tapped_copy: Path, teacher: Path, texts: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"--tap-codec int8: .* has the tap 'final' as float32"):
        add(AddPlan(cache=tapped_copy, hidden="final", tap_codec="int8", device="cpu"))
    with pytest.raises(CacheMismatch, match="as float32"):
        dump(small_plan(teacher, texts, tapped_copy, hidden="final", tap_codec="int8"))


def test_more_directions_than_channels_are_refused(copy: Path) -> None:
    with pytest.raises(BadInput, match=r"final has 32 channels\. Give at most pca-32"):
        add(AddPlan(cache=copy, hidden="final", tap_codec="pca-33", device="cpu"))


def test_a_feature_that_cannot_be_had_is_refused_before_the_dump_begins(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="key-1 has 16 channels"):
        dump(small_plan(teacher, texts, tmp_path / "cache", qkv="1", tap_codec="pca-20"))
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_parts_that_the_cache_does_not_have_are_refused(copy: Path) -> None:
    shutil.rmtree(copy / "parts/00001")
    with pytest.raises(BadInput, match="part 00001"):
        add(AddPlan(cache=copy, hidden="final", parts="1", device="cpu"))
    assert add(AddPlan(cache=copy, hidden="final", device="cpu")).taps["final"].part_numbers == [0, 2]


# reading


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packed": True},
        {"batch_rows": 300},
        {"shuffle": False, "samples": np.array([5, 3, 20])},
        {"workers": 0, "rank": 1, "world_size": 2},
    ],
)
def test_features_of_a_batch_belong_to_its_rows(options: dict[str, Any], tapped: Path) -> None:
    cache = Cache(tapped)
    loader = cache.loader(seed=3, taps=ALL, **{"batch_size": 4} | options)
    for batch in loader:
        features = loader.features(batch)
        assert list(features) == ALL
        counts = [cache[int(index)].sample.rows for index in batch.samples if index >= 0]
        if not counts:
            continue
        for name, value_ND in features.items():
            assert value_ND.dtype == torch.float32
            expected = [decoded(cache, name, int(index)) for index in batch.samples]
            assert np.array_equal(value_ND.numpy(), np.concatenate(expected))
        assert sum(counts) == len(batch.rows)


def test_features_survive_every_form_of_a_batch(copy: Path) -> None:
    cache = add(AddPlan(cache=copy, hidden="1", tap_codec="int8", device="cpu"))
    loader = cache.loader(batch_size=3, taps=["hidden-1"])
    batch = next(iter(loader))
    assert batch.features["hidden-1/values"].dtype == torch.int8
    assert {"features.hidden-1/values", "features.hidden-1/scale"} <= batch.tensors().keys()
    for again in (Batch.of(batch.tensors()), batch.to("cpu")):
        assert torch.equal(loader.features(again)["hidden-1"], loader.features(batch)["hidden-1"])
        assert again.answer.keys() == batch.answer.keys()
    assert next(iter(cache.loader(batch_size=3))).features == {}


def test_a_mixture_gives_the_features_of_the_loader_a_batch_comes_from(tapped: Path) -> None:
    loaders = [
        Cache(tapped).loader(batch_size=2, taps=[name], seed=seed) for seed, name in enumerate(("final", "key-2"))
    ]
    mixture = Mixture(loaders, [1.0, 1.0])
    names = [list(mixture.features(batch)) for batch in mixture]
    assert sorted(map(str, {str(each) for each in names})) == ["['final']", "['key-2']"]


def test_a_tap_that_is_missing_is_told_with_the_command_that_adds_it(copy: Path) -> None:
    with pytest.raises(BadInput, match=rf"no tap 'hidden-1'\. Run: logitstore add {copy} --hidden 1$"):
        Cache(copy).loader(taps=["hidden-1"])
    with pytest.raises(BadInput, match=rf"logitstore add {copy} --qkv 2$"):
        Cache(copy).loader(taps=["value-2"])
    with pytest.raises(BadInput, match="no tap is named 'layer 3'"):
        Cache(copy).loader(taps=["layer 3"])
    add(AddPlan(cache=copy, hidden="final", parts="0,2", device="cpu"))
    with pytest.raises(BadInput, match=rf"lacks 1 of its parts, the first 00001\. Run: .* {copy} --hidden final$"):
        Cache(copy).loader(taps=["final"])
    assert len(list(Cache(copy).loader(taps=["final"], samples=np.arange(9)))) == 2


def test_taps_of_an_archive_are_mapped_all_the_same(copy: Path, tmp_path: Path) -> None:
    archive = recode(RecodePlan(cache=copy, out=tmp_path / "archive", layout="archive")).path
    add(AddPlan(cache=archive, hidden="1", device="cpu"))
    add(AddPlan(cache=copy, hidden="1", device="cpu"))
    assert verify(archive) == []
    rows = {name: content for name, content in tree(archive / "taps").items() if "rows.zarr" in name}
    assert rows == {name: content for name, content in tree(copy / "taps").items() if "rows.zarr" in name}
    batch = next(iter(loader := Cache(archive).loader(taps=["hidden-1"])))
    assert torch.isfinite(loader.features(batch)["hidden-1"]).all()


def test_zarr_alone_opens_a_tap(tapped: Path) -> None:
    group: Any = zarr.open_group(str(tapped / "taps/final/parts/00001/rows.zarr"), mode="r")
    assert np.array_equal(group["values"][...], Cache(tapped).taps["final"].part(1)["values"])


# the command line


def test_the_command_adds_and_inspect_and_verify_tell(copy: Path, tmp_path: Path) -> None:
    added = logitstore_command("add", copy, "--hidden", "final", "--qkv", "1", "--tap-codec", "int8", "--device", "cpu")
    assert added.returncode == 0, added.stderr
    assert f"{copy}: final: 34 B/row as int8, 3 of 3 parts" in added.stdout.splitlines()
    summary = logitstore_command("inspect", copy)
    assert re.search(r"final +32 +int8 +34 +3 of 3", summary.stdout), summary.stdout
    sound = logitstore_command("verify", copy)
    assert "final: 3 parts" in sound.stdout
    recoded = logitstore_command("recode", copy, "--layout", "archive", "--out", tmp_path / "archive")
    assert "not carried over: final, key-1, query-1, value-1" in recoded.stdout


def test_a_layer_that_is_not_there_changes_nothing(copy: Path) -> None:
    before = tree(copy)
    wrong = logitstore_command("add", copy, "--hidden", "7")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == ["error: --hidden 7: the teacher has 0 to 1; 7 is not there."]
    assert tree(copy) == before


def test_opening_taps_needs_no_torch(tapped: Path) -> None:
    code = f"""
import sys, numpy
import logitstore
tap = logitstore.open({str(tapped)!r}).taps["final"]
assert tap.codec.decode(tap.part(0)).shape[1] == 32
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert logitstore.open(tapped).taps["final"].complete
