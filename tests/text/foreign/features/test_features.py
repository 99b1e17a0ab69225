"""Hidden states that other software kept become the taps that the teacher itself would give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.store.checks.verify import verify
from logitstore.text.foreign.convert import convert
from tests.parts import hidden_states
from tests.parts.commands import Command, Refused
from tests.parts.hidden_states import States
from tests.parts.taps import decoded, features_of, small_taps_plan

Bare = Callable[[], logitstore.Cache]


@pytest.fixture(scope="session")
def dumped(teacher: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump without taps."""
    return dump(small_taps_plan(teacher, texts, tmp_path_factory.mktemp("bare") / "cache")).path


@pytest.fixture
def bare(dumped: Path, tmp_path: Path) -> logitstore.Cache:
    """A cache without taps, for one test."""
    shutil.copytree(dumped, tmp_path / "cache")
    return logitstore.open(tmp_path / "cache")


@pytest.fixture(scope="session")
def made(dumped: Path, teacher: Path) -> States:
    """What transformers says of every sample of the cache, in another order, and of one text that it does not have."""
    samples = [each.sample.tokens_T.tolist() for each in logitstore.open(dumped)][::-1]
    return [(tokens, features_of(teacher, tokens)) for tokens in [[5, 6, 7], *samples]]


def converted(source: Path, cache: logitstore.Cache, name: str, **options: Any) -> logitstore.Cache:
    return convert(ConvertSettings(source=source, out=cache.path, format=name, **options))


def assert_taps(cache: logitstore.Cache, made: States, names: list[str], rounded: bool = True) -> None:
    assert verify(cache.path) == []
    assert sorted(cache.taps) == sorted(names)
    states = {tuple(tokens): of_layers for tokens, of_layers in made}
    for number, each in enumerate(cache):
        for name in names:
            wanted = states[tuple(each.sample.tokens_T.tolist())][name][each.sample.positions_N]
            if rounded:
                wanted = wanted.to(torch.bfloat16).float()
            np.testing.assert_array_equal(decoded(cache, name, number), wanted.numpy())


def test_the_states_of_speculators_become_taps(bare: logitstore.Cache, made: States, tmp_path: Path) -> None:
    source = hidden_states.speculators(tmp_path / "hs", made, ["hidden-0", "hidden-1", "final"])
    with pytest.raises(BadInput, match="Say it: --layers"):
        converted(source, bare, "speculators")
    cache = converted(source, bare, "speculators", layers="0, 1,-")
    assert_taps(cache, made, ["hidden-0", "hidden-1"])
    # the same command writes what is missing
    folder = cache.path / "taps/hidden-1/parts/00001"
    shutil.rmtree(folder)
    assert_taps(converted(source, bare, "speculators", layers="0,1,-"), made, ["hidden-0", "hidden-1"])
    with pytest.raises(CacheMismatch, match="as bfloat16"):
        converted(source, bare, "speculators", layers="0,1,-", tap_codec="float32")


@pytest.mark.parametrize("compressed", [False, True])
def test_the_states_of_specforge_become_taps(
    compressed: bool, bare: logitstore.Cache, made: States, tmp_path: Path
) -> None:
    source = hidden_states.specforge(tmp_path / "forge", made, ["hidden-1", "hidden-0"], compressed)
    cache = converted(source, bare, "specforge", layers="1,0")
    assert_taps(cache, made, ["hidden-0", "hidden-1", "final"])


def test_the_states_of_automodel_become_taps_of_the_layers_that_its_manifest_names(
    bare: logitstore.Cache, made: States, tmp_path: Path
) -> None:
    longest = max(len(tokens) for tokens, _ in made)
    source = hidden_states.automodel(tmp_path / "shards", made, [1], 4, longest + 3)
    cache = converted(source, bare, "automodel", tap_codec="float32")
    assert_taps(cache, made, ["hidden-1"], rounded=False)


def test_a_student_is_matched_with_imported_states(
    bare: logitstore.Cache, made: States, small_student: Path, command: Command, tmp_path: Path
) -> None:
    source = hidden_states.specforge(tmp_path / "forge", made, ["hidden-1", "hidden-0"])
    assert command("convert", source, "--format", "specforge", "--layers", "1,-", "--out", bare.path) == 0
    assert command("verify", bare.path) == 0
    assert command("inspect", bare.path) == 0
    train = ("--max-steps", 20, "--batch-size", 4, "--device", "cpu", "--recipe", "distilbert")
    assert command("train", bare.path, "--student", small_student, "--out", tmp_path / "student", *train) == 0


def test_a_source_that_lacks_a_sample_or_another_width_is_refused(
    bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path
) -> None:
    source = hidden_states.speculators(tmp_path / "hs", made[:-1], ["hidden-0"])
    asked = ("convert", source, "--format", "speculators", "--layers", 0, "--out", bare.path)
    assert "no record with the tokens of sample 0" in refused(*asked)
    assert not (bare.path / "taps").exists()
    narrow = [(tokens, {"hidden-0": states["hidden-0"][:, :8]}) for tokens, states in made]
    hidden_states.speculators(tmp_path / "hs", [*made[:-1], narrow[-1]], ["hidden-0"])
    assert "not [tokens, layers, channels] of all files" in refused(*asked)
    bad = made[-1][1]["hidden-0"].clone()
    bad[3, 2] = torch.nan
    hidden_states.speculators(tmp_path / "hs", [*made[:-1], (made[-1][0], {"hidden-0": bad})], ["hidden-0"])
    assert "hidden-0 holds NaN or infinity" in refused(*asked)


def test_options_that_do_not_fit_are_refused(
    bare: logitstore.Cache, made: States, teacher: Path, refused: Refused, tmp_path: Path
) -> None:
    source = hidden_states.speculators(tmp_path / "hs", made, ["hidden-0", "hidden-1"])
    asked = ("convert", source, "--format", "speculators", "--out", bare.path)
    for layers in ("0", "0,0", "-,-", "0,x", "0,99999999", "0,1,2", ""):
        assert "has the states of 2 layers" in refused(*asked, "--layers", layers)
    assert "become taps of a cache" in refused(*asked, "--layers", "0,1", "-k", 4)
    assert "means nothing to speculators" in refused(*asked, "--columns", "tokens=x")
    assert "no such folder" in refused(*asked[:-1], tmp_path / "none", "--layers", "0,1")
    assert "give the tokenizer" in refused("convert", source, "--format", "generic", "--out", tmp_path / "none")


def test_layers_and_widths_that_the_teacher_does_not_have_are_refused(
    bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path
) -> None:
    """The teacher has two layers: what goes into them has the numbers 0 and 1."""
    source = hidden_states.speculators(tmp_path / "hs", made, ["hidden-1"])
    asked = ("convert", source, "--format", "speculators", "--out", bare.path)
    assert "numbered 0 to 1" in refused(*asked, "--layers", 2)
    narrow = [(tokens, {"hidden-1": states["hidden-1"][:, :8]}) for tokens, states in made]
    hidden_states.speculators(source, narrow, ["hidden-1"])
    assert "its states have 8 channels" in refused(*asked, "--layers", 1)
    assert not (bare.path / "taps").exists()
    high = [(tokens, {"hidden-1": states["hidden-1"] + 1e6}) for tokens, states in made]
    hidden_states.speculators(source, high, ["hidden-1"])
    assert "float16 has no room for" in refused(*asked, "--layers", 1, "--tap-codec", "float16")


@pytest.mark.parametrize("key", ["input_ids", "aux_hidden_state", "hidden_state"])
@pytest.mark.parametrize("way", ["sparse", "meta"])
def test_tensors_without_a_number_at_each_place_are_refused(
    key: str, way: str, bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path
) -> None:
    source = hidden_states.specforge(tmp_path / "forge", made[:1], ["hidden-1"])
    file = next(source.rglob("*.ckpt"))
    content = torch.load(file, weights_only=True)
    content[key] = content[key].to_sparse() if way == "sparse" else content[key].to("meta")
    torch.save(content, file)
    asked = ("convert", source, "--format", "specforge", "--layers", 1, "--out", bare.path)
    assert f"the tensor '{key}' is sparse, quantised or without values" in refused(*asked)


def test_a_compressed_file_that_is_damaged_inside_is_refused(
    bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path
) -> None:
    source = hidden_states.specforge(tmp_path / "forge", made[:1], ["hidden-1"], compressed=True)
    file = next(source.rglob("*.ckpt.gz"))
    whole = file.read_bytes()
    asked = ("convert", source, "--format", "specforge", "--layers", 1, "--out", bare.path)
    for place in range(10, len(whole), max(len(whole) // 12, 1)):
        file.write_bytes(whole[:place] + bytes(each ^ 0xFF for each in whole[place : place + 40]) + whole[place + 40 :])
        assert file.name in refused(*asked)


@pytest.mark.parametrize("name", ["speculators", "specforge", "automodel"])
def test_damaged_and_forged_files_are_refused_in_one_line(
    name: str, bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path
) -> None:
    some = [made[0]]
    source = {
        "speculators": lambda: hidden_states.speculators(tmp_path / "x", some, ["hidden-1"]),
        "specforge": lambda: hidden_states.specforge(tmp_path / "x", some, ["hidden-1"]),
        "automodel": lambda: hidden_states.automodel(tmp_path / "x", some, [1], 4, 9),
    }[name]()
    file = next(path for path in sorted(source.rglob("*")) if path.suffix in (".safetensors", ".ckpt"))
    whole = file.read_bytes()
    asked = ("convert", source, "--format", name, "--layers", 1, "--out", bare.path)
    huge = (1 << 60).to_bytes(8, "little") + whole[8:]
    for content in (b"", whole[:5], whole[: len(whole) // 2], b"\0" * 64, huge, b"PK" + whole[2:200]):
        file.write_bytes(content)
        assert file.name in refused(*asked)


def test_a_pickle_is_not_run(bare: logitstore.Cache, made: States, refused: Refused, tmp_path: Path) -> None:
    source = hidden_states.specforge(tmp_path / "forge", made[:1], ["hidden-1"])
    file = next(source.rglob("*.ckpt"))
    torch.save({"input_ids": Path("/")}, file)
    assert "no file of tensors" in refused("convert", source, "--format", "specforge", "--out", bare.path)
    torch.save({"input_ids": torch.tensor([1.5])}, file)
    assert "no token ids" in refused("convert", source, "--format", "specforge", "--out", bare.path)
    torch.save([1], file)
    assert "no tensor 'input_ids'" in refused("convert", source, "--format", "specforge", "--out", bare.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 1}, "format_version"),
        ({"num_samples": 10**30}, "num_samples"),
        ({"num_samples": 9}, "it is missing|has the shape"),
        ({"shard_size": 0}, "shard_size"),
        ({"aux_layer_ids": []}, "aux_layer_ids"),
        ({"aux_layer_ids": [0, 1, 2, 3, 4]}, "are not those of 5 layers"),
        ({"seq_length": 1 << 29}, "'input_ids' has the shape"),
    ],
)
def test_a_forged_manifest_is_refused(
    change: dict[str, Any], words: str, bare: logitstore.Cache, made: States, tmp_path: Path
) -> None:
    source = hidden_states.automodel(tmp_path / "shards", made[:6], [1], 4, 120, **change)
    with pytest.raises(BadInput, match=words):
        converted(source, bare, "automodel")
    (source / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(BadInput):
        converted(source, bare, "automodel")
