"""A user's mistake ends with exit code 2 and one line that names what is wrong; never with a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.dump import dump
from logitstore.manifest import MANIFEST_NAME, RECORD_NAME
from logitstore.sealed import is_sealed, seal
from tests.conftest import (
    TEXTS,
    VOCABULARY,
    Command,
    Refused,
    error_line,
    flags_of,
    logitstore_command,
    plan_for,
    save_model,
    train_tokenizer,
)


@pytest.fixture
def refused_dump(refused: Refused, teacher: Path, texts: Path, tmp_path: Path) -> Refused:
    """A dump that is right but for the options given; it must be refused, and must not leave a cache."""

    def call(**changes: object) -> str:
        options: dict[str, object] = {
            "teacher": teacher,
            "data": texts,
            "out": tmp_path / "out",
            "max_length": 96,
            "overlap": 16,
            "k": 8,
            "dtype": "float32",
            "device": "cpu",
        } | changes
        flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        line = refused("dump", *flags)
        assert not (tmp_path / "out" / MANIFEST_NAME).exists()
        return line

    return call


@pytest.fixture(params=["text", "images"])
def own_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the complete cache of a task, to be spoilt."""
    whole = request.getfixturevalue({"text": "cache", "images": "image_cache"}[request.param])
    return Path(shutil.copytree(whole.path, tmp_path / "cache"))


OF_TEXT = pytest.mark.parametrize("own_cache", ["text"], indirect=True)


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a sealed file by hand, as somebody might who knows how it is sealed."""
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)

    class Plain:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return content

    path.write_bytes(seal(Plain()))  # type: ignore[arg-type]
    assert is_sealed(path.read_bytes())


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


# data


@pytest.mark.parametrize("name", ["absent.jsonl", "absent/*.jsonl", "./absent"])
def test_data_that_are_not_there_are_named(refused_dump: Refused, tmp_path: Path, name: str) -> None:
    data = name if name.startswith(".") else tmp_path / name
    assert f"--data {data}: no such file" in refused_dump(data=data)


def test_a_file_of_unknown_type_is_named_with_the_types_that_are_known(refused_dump: Refused, tmp_path: Path) -> None:
    data = tmp_path / "texts.docx"
    data.write_text("text")
    line = refused_dump(data=data)
    assert str(data) in line
    assert ".docx" in line
    assert ".jsonl" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", ""),
        ("empty.json", "[]"),
        ("empty.txt", ""),
        ("empty.csv", ""),
        ("head.csv", "text\n"),
        ("blank.jsonl", "\n\n"),
        ("broken.jsonl", '{"text": "a b c"}\n{"text": \n'),
        ("binary.parquet", "no parquet at all"),
    ],
)
def test_data_without_a_document_are_named(refused_dump: Refused, tmp_path: Path, name: str, content: str) -> None:
    data = tmp_path / name
    data.write_text(content)
    assert str(data) in refused_dump(data=data)


@pytest.mark.parametrize("content", ["", "[]"])
def test_an_empty_file_is_called_empty(refused_dump: Refused, tmp_path: Path, content: str) -> None:
    data = tmp_path / "empty.json"
    data.write_text(content)
    assert "empty" in refused_dump(data=data).replace("empty.json", "")


def test_an_empty_folder_of_data_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "no-data"
    folder.mkdir()
    assert str(folder) in refused_dump(data=folder)


def test_data_in_which_no_document_has_two_tokens_leave_nothing_to_predict(
    refused_dump: Refused, tmp_path: Path
) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps({"text": letter}) + "\n" for letter in ["", "a", "b"]))
    line = refused_dump(data=data)
    assert str(data) in line
    assert "none of its 3 documents has a token to predict" in line


def test_an_unknown_column_is_named_with_the_nearest_known_one(refused_dump: Refused) -> None:
    line = refused_dump(column="txet")
    assert "no column named 'txet'" in line
    assert "Did you mean 'text'?" in line


def test_an_unknown_domain_column_is_named_with_the_nearest_known_one(refused_dump: Refused) -> None:
    line = refused_dump(domain_column="topics")
    assert "no column named 'topics'" in line
    assert "Did you mean 'topic'?" in line


def test_data_without_a_usual_column_ask_for_one(refused_dump: Refused, tmp_path: Path) -> None:
    data = tmp_path / "body.jsonl"
    data.write_text(json.dumps({"body": TEXTS[0]}) + "\n")
    line = refused_dump(data=data)
    assert str(data) in line
    assert "--column" in line
    assert "body" in line


@pytest.mark.parametrize("value", [3, 2.5, True, {"a": 1}, ["a", "b"]])
def test_a_column_that_holds_neither_texts_nor_chats_is_named(
    refused_dump: Refused, tmp_path: Path, value: object
) -> None:
    data = tmp_path / "values.jsonl"
    data.write_text(json.dumps({"text": value}) + "\n" + json.dumps({"text": value}) + "\n")
    line = refused_dump(data=data)
    assert str(data) in line
    assert "column 'text'" in line


def test_a_split_that_is_not_there_is_named(refused_dump: Refused) -> None:
    assert "--split trian" in refused_dump(split="trian")


def test_chats_need_a_tokenizer_with_a_chat_template(refused_dump: Refused, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "plain", train_tokenizer(), VOCABULARY)
    data = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "What is a set?"}, {"role": "assistant", "content": "A collection."}]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    line = refused_dump(teacher=folder, data=data)
    assert str(folder) in line
    assert "no chat template" in line


# teachers, students, options


def test_a_teacher_that_is_not_there_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path}/absent" in refused_dump(teacher=tmp_path / "absent")


def test_a_teacher_without_weights_is_named(refused_dump: Refused, teacher: Path, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow"
    shutil.copytree(teacher, hollow, ignore=shutil.ignore_patterns("*.safetensors"))
    assert f"{hollow}: cannot be loaded as a causal language model" in refused_dump(teacher=hollow)


def test_a_teacher_with_truncated_weights_is_named(refused_dump: Refused, teacher: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(teacher, tmp_path / "cut"))
    truncate(cut / "model.safetensors")
    assert f"{cut}: cannot be loaded as a causal language model" in refused_dump(teacher=cut)


def test_a_teacher_without_a_tokenizer_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    mute = save_model(tmp_path / "mute", None, VOCABULARY)
    assert f"{mute}: no tokenizer could be loaded" in refused_dump(teacher=mute)


def test_a_gguf_file_that_is_not_there_is_named(refused_dump: Refused, teacher: Path) -> None:
    assert f"{teacher}::absent.gguf" in refused_dump(teacher=f"{teacher}::absent.gguf")


def test_k_may_not_exceed_the_vocabulary(refused_dump: Refused) -> None:
    line = refused_dump(k=VOCABULARY + 1)
    assert f"-k {VOCABULARY + 1}" in line
    assert f"{VOCABULARY} tokens" in line


@pytest.mark.parametrize("overlap", [96, 200])
def test_the_overlap_must_be_smaller_than_the_window(refused_dump: Refused, overlap: int) -> None:
    line = refused_dump(overlap=overlap)
    assert f"--overlap {overlap}" in line
    assert "--max-length, which is 96" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 0), ("max_length", 1), ("overlap", -1), ("limit", 0), ("samples_per_part", 0), ("batch_tokens", 0)],
)
def test_a_number_out_of_range_is_named_with_its_option(refused_dump: Refused, name: str, value: int) -> None:
    assert f"--{name.replace('_', '-')} {value}: " in refused_dump(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("dtype", "float64"), ("tail", "even")])
def test_a_choice_that_there_is_not_is_named_with_its_option(refused_dump: Refused, name: str, value: str) -> None:
    assert f"--{name} {value}: " in refused_dump(**{name: value})


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_named(refused_dump: Refused, device: str) -> None:
    assert f"--device {device}" in refused_dump(device=device)


@pytest.mark.parametrize("parts", ["", "x", "1;2", "3-1", "-1", "0-999", "999999"])
def test_parts_that_the_plan_does_not_have_are_named(refused_dump: Refused, parts: str) -> None:
    assert f"--parts '{parts}'" in refused_dump(parts=parts)


def test_a_missing_option_is_named_with_what_it_means(refused: Refused, teacher: Path, texts: Path) -> None:
    assert "dump needs --out: The cache to write." in refused("dump", "--teacher", teacher, "--data", texts)


def test_a_value_with_a_line_break_in_it_still_makes_one_line(refused_dump: Refused) -> None:
    assert "/no\\nsuch.jsonl" in refused_dump(data="/no\nsuch.jsonl")


# targets


def test_a_target_that_holds_other_files_is_refused_and_left_alone(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("two years of work")
    assert f"--out {tmp_path / 'out'}: the folder holds other files" in refused_dump()
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]


def test_a_target_that_is_a_file_is_refused_and_left_alone(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("two years of work")
    assert f"--out {tmp_path / 'file'}: a file stands there" in refused_dump(out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "two years of work"


def test_a_target_below_a_file_is_refused(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("two years of work")
    assert str(tmp_path / "file" / "out") in refused_dump(out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"k": 7}, "sparsifier.k = 8, this command asks for 7"),
        ({"max_length": 95}, "data.max_length = 96, this command asks for 95"),
        ({"overlap": 15}, "data.overlap = 16, this command asks for 15"),
        ({"limit": 20}, "data.documents = 27, this command asks for 20"),
        ({"tail": "uniform"}, "tail.shape = prior, this command asks for uniform"),
        ({"samples_per_part": 51}, "samples_per_part = 50, this command asks for 51"),
        ({"batch_tokens": 500}, "batch_tokens = 512, this command asks for 500"),
        ({"dtype": "bfloat16"}, "teacher.dtype = float32, this command asks for bfloat16"),
    ],
)
def test_a_cache_of_another_plan_is_refused_with_the_setting_that_differs(
    refused: Refused, teacher: Path, texts: Path, cache: Cache, setting: dict[str, Any], name: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*") if path.is_file()}
    flags = flags_of(plan_for(teacher, texts, cache.path, **setting))
    line = refused("dump", *flags)
    assert f"--out {cache.path}: the cache there has {name}" in line
    assert before == {path: path.stat().st_mtime_ns for path in cache.path.rglob("*") if path.is_file()}


@OF_TEXT
def test_another_teacher_is_refused_by_its_weights(
    refused: Refused, tokenizer: PreTrainedTokenizerFast, teacher: Path, texts: Path, own_cache: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own_cache / "parts" / "00001")
    other = save_model(tmp_path / "other", tokenizer, 328, seed=5)
    flags = flags_of(plan_for(other, texts, own_cache))
    assert "teacher.fingerprint" in refused("dump", *flags)


def test_no_resume_refuses_a_cache_that_is_there(refused: Refused, teacher: Path, texts: Path, cache: Cache) -> None:
    line = refused("dump", "--teacher", teacher, "--data", texts, "--out", cache.path, "--no-resume")
    assert f"--out {cache.path}: a cache is there already" in line


# recipes


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("dupm:\n  k: 8\n", "no section named 'dupm'. Did you mean 'dump'?"),
        ("dump:\n  max_lenght: 8\n", "no setting named 'max_lenght'. Did you mean 'max_length'?"),
        ("dump: {teacher: a, data: b, out: c, k: many}\n", "--k many: "),
        ("dump: [1, 2\n", "not valid YAML"),
        ("dump:\n\tk: 8\n", "not valid YAML"),
        ("a sentence", "a recipe has one section a command"),
        ("", "a recipe has one section a command"),
        ("- dump\n", "a recipe has one section a command"),
        ("dump: 8\n", "a recipe has one section a command"),
        ("dump:\n  8: 8\n", "no setting named '8'"),
        ("8:\n  k: 8\n", "no section named '8'"),
        ("dump: {k: \0}\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid YAML"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named_with_what_is_wrong(
    refused: Refused, tmp_path: Path, recipe: str | bytes, expected: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    line = refused("dump", "--config", path)
    assert expected in line
    assert str(path) in line or expected.startswith("--")


def test_a_recipe_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    assert f"--config {tmp_path}/absent.yaml" in refused("train", "--config", tmp_path / "absent.yaml")
    assert f"--config {tmp_path}: cannot be read" in refused("train", "--config", tmp_path)


def test_an_unknown_setting_of_the_trainer_is_named(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("train:\n  trainer: {learning_rat: 1}\n")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", path)
    assert "learning_rat" in line


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("terms: [{name: reverse_kl, temperature: 0}]", "terms.0.temperature 0: must be above 0."),
        ("terms: [{name: match}, {name: dkd, weight: -1}]", "terms.1.weight -1: must not be below 0."),
        ("terms: [{name: dkd, weight: .nan}]", "terms.0.weight nan: 'nan' is not finite."),
        ("terms: [{name: dkd, weight: heavy}]", "terms.0.weight heavy: 'heavy' is no schedule."),
        ("terms: [{weight: 1}]", "train needs terms.0.name."),
        ("alpha: .nan", "--alpha nan: 'nan' is not finite."),
        ("{objective: skew_reverse_kl, options: {skew: 1.0}}", "skew 1: it must be above 0 and below 1."),
        ("{objective: jensen_shannon, options: {beta: 0.0}}", "beta 0: it must be above 0 and below 1."),
        ("{objective: taid, options: {start: 0.9, end: 0.1}}", "start 0.9 and end 0.1: t goes from start up to end"),
        (
            "{terms: [{name: sinkhorn, options: {epsilon: -1.0}}]}",
            "epsilon -1 and iterations 20: both must be positive.",
        ),
        (
            "{objective: dkd, options: {target_weight: .inf}}",
            "objective dkd: target_weight is inf, but must be finite.",
        ),
        (
            "{objective: none, alpha: 0.5, terms: [{name: dkd}]}",
            "--objective none with --alpha 0.5: it belongs to the objective",
        ),
        ("{objective: none, temperature: 2, terms: [{name: dkd}]}", "--objective none with --temperature 2.0: "),
        (
            "{objective: none, options: {beta: 0.5}, terms: [{name: dkd}]}",
            "--objective none with options {'beta': 0.5}: ",
        ),
        (
            "{objective: dkd, alpha: 0, options: {target_weight: 2.0}}",
            "--alpha 0 with options {'target_weight': 2.0}: ",
        ),
        ("terms: [{name: match, temperature: 2}]", "terms: match: temperature 2.0: features have none."),
        ("terms: [{name: dkd, weight: balanced}]", "terms: dkd: only pulls on features can be balanced."),
        (
            "terms: [{name: mutual_information, weight: balanced}]",
            "terms: mutual_information: its loss may be negative",
        ),
        ("{objective: none, terms: [{name: match, weight: balanced}]}", "terms: match: nothing pulls on the logits"),
        (
            "{objective: none, terms: [{name: match, weight: balanced}, {name: dkd, weight: 0}, {name: square_head}]}",
            "terms: match: nothing pulls on the logits",
        ),
    ],
)
def test_settings_of_pulls_that_do_nothing_or_harm_are_refused_before_anything_is_made(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path, settings: str, expected: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"train: {settings}\n" if settings.startswith("{") else f"train:\n  {settings}\n")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", path)
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_an_unknown_schedule_is_named(refused: Refused, cache: Cache, small_student: Path, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--scheduler", "cosin")
    assert "cosin" in line


# students


def commands_with_a_student(cache: Path, student: object, out: Path) -> list[list[object]]:
    return [["train", cache, "--student", student, "--out", out], ["evaluate", cache, "--student", student]]


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_with_too_small_a_vocabulary_is_refused(
    refused: Refused, cache: Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, which: int
) -> None:
    student = save_model(tmp_path / "student", tokenizer, VOCABULARY - 20)
    line = refused(*commands_with_a_student(cache.path, student, tmp_path / "out")[which])
    assert str(student) in line
    assert f"has {VOCABULARY - 20} rows" in line


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_with_another_tokenizer_is_refused(
    refused: Refused, cache: Cache, tmp_path: Path, which: int
) -> None:
    student = save_model(tmp_path / "student", train_tokenizer(VOCABULARY + 40), VOCABULARY + 40)
    line = refused(*commands_with_a_student(cache.path, student, tmp_path / "out")[which])
    assert f"{student}: its tokenizer is not the cache's" in line


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_that_is_not_there_is_named(refused: Refused, cache: Cache, tmp_path: Path, which: int) -> None:
    line = refused(*commands_with_a_student(cache.path, tmp_path / "absent", tmp_path / "out")[which])
    assert f"{tmp_path}/absent" in line


def test_a_student_that_is_too_short_for_the_samples_is_refused(
    refused: Refused, cache: Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = save_model(tmp_path / "student", tokenizer, VOCABULARY, max_position_embeddings=64)
    line = refused("train", cache.path, "--student", student, "--out", tmp_path / "out")
    assert "96 tokens; the student takes at most 64" in line


@pytest.mark.parametrize("layers", ["x", "", "0", "9", "1,0", "0,0", "0,7", "0-1", "-1"])
def test_layers_that_the_student_does_not_have_are_named(
    refused: Refused, cache: Cache, teacher: Path, tmp_path: Path, layers: str
) -> None:
    line = refused(
        "train",
        cache.path,
        "--student",
        teacher,
        "--out",
        tmp_path / "out",
        f"--copy-layers={layers}",
        "--device",
        "cpu",
    )
    assert "--copy-layers" in line
    assert layers in line


def test_layers_to_copy_need_a_student(refused: Refused, cache: Cache, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--out", tmp_path / "out", "--copy-layers", "1")
    assert "--copy-layers needs a --student" in line


def test_a_student_that_exists_cannot_be_given_a_shape(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--hidden-size", "16")
    assert f"--student {small_student} has its shape already" in line


def test_a_fresh_student_of_impossible_shape_is_refused(refused: Refused, cache: Cache, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--out", tmp_path / "out", "--hidden-size", "30", "--heads", "7")
    assert "no student can be made with" in line


def test_resuming_without_a_checkpoint_is_refused(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = refused("train", cache.path, "--student", small_student, "--out", out, "--resume", "--device", "cpu")
    assert f"--resume: no checkpoint in {out}" in line


def test_a_folder_for_the_student_that_is_a_file_is_refused(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("two years of work")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "file", "--device", "cpu")
    assert str(tmp_path / "file") in line
    assert "file" in line.replace(str(tmp_path / "file"), "")
    assert (tmp_path / "file").read_text() == "two years of work"


# names on a hub that cannot be reached


def test_a_teacher_on_a_hub_that_cannot_be_reached_is_named(refused_dump: Refused) -> None:
    assert "nobody/such-a-teacher: " in refused_dump(teacher="nobody/such-a-teacher")


def test_data_on_a_hub_that_cannot_be_reached_are_named(refused_dump: Refused) -> None:
    assert "--data nobody/such-data" in refused_dump(data="nobody/such-data")


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_on_a_hub_that_cannot_be_reached_is_named(
    refused: Refused, cache: Cache, tmp_path: Path, which: int
) -> None:
    line = refused(*commands_with_a_student(cache.path, "nobody/such-a-student", tmp_path / "out")[which])
    assert "nobody/such-a-student: " in line


# caches


def every_reader(cache: Path, out: Path) -> list[list[object]]:
    """Every command that reads a cache. The students do not exist: a refusal that names the cache came before them."""
    student = out.parent / "no-student"
    return [["inspect", cache], ["verify", cache], *commands_with_a_student(cache, student, out)]


READERS = ["inspect", "verify", "train", "evaluate"]


@pytest.mark.parametrize("which", range(4), ids=READERS)
def test_a_folder_that_is_no_cache_is_named(refused: Refused, tmp_path: Path, which: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    line = refused(*every_reader(tmp_path / "folder", tmp_path / "out")[which])
    assert f"{tmp_path / 'folder'}: no cache.json in it" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize("path", ["absent", "file", "file/below"])
def test_a_cache_that_is_no_folder_is_named(refused: Refused, tmp_path: Path, path: str, which: int) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path / path}: " in refused(*every_reader(tmp_path / path, tmp_path / "out")[which])


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize("content", ["{}", "[]", "7", '{"format": "zarr"}'])
def test_a_cache_json_of_another_program_is_named(refused: Refused, tmp_path: Path, content: str, which: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(content)
    line = refused(*every_reader(folder, tmp_path / "out")[which])
    assert f"{folder / MANIFEST_NAME}: this file was not written by logitstore" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
def test_a_cache_of_a_newer_format_asks_for_a_newer_logitstore(
    refused: Refused, own_cache: Path, tmp_path: Path, which: int
) -> None:
    reseal(own_cache / MANIFEST_NAME, lambda content: content.update(version=2, news={"codec": "better"}))
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert "format version 2" in line
    assert "Install a newer logitstore" in line


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
@pytest.mark.parametrize("file", ["samples.arrow", "rows.zarr/ids/c/0/0", "rows.zarr/entropy/zarr.json"])
def test_a_truncated_part_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, file: str, which: int
) -> None:
    truncate(own_cache / "parts" / "00002" / file)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert f"{own_cache}: parts/00002/{file} has" in line
    assert "--repair" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, f"parts/00001/{RECORD_NAME}"])
def test_a_truncated_record_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, name: str, which: int
) -> None:
    truncate(own_cache / name)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert f"{own_cache / name}: " in line
    assert "--repair" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize(
    "outside", ["../../secret", "/etc/passwd", "shared/../../secret", "C:/secret", "shared\\..\\x"]
)
def test_a_shared_file_that_lies_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, outside: str, which: int
) -> None:
    def lead_out(content: dict[str, Any]) -> None:
        name = next(iter(content["shared"]))
        content["shared"][outside] = content["shared"].pop(name)

    reseal(own_cache / MANIFEST_NAME, lead_out)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert outside in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
@pytest.mark.parametrize("outside", ["../../../secret", "/etc/passwd"])
def test_a_part_whose_files_lie_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, outside: str, which: int
) -> None:
    def lead_out(content: dict[str, Any]) -> None:
        content["files"][outside] = content["files"].pop("samples.arrow")

    reseal(own_cache / "parts" / "00001" / RECORD_NAME, lead_out)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert outside in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
def test_a_part_that_links_to_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, which: int
) -> None:
    folder = own_cache / "parts" / "00001"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
def test_a_cache_without_a_part_has_nothing_to_learn_from(
    refused: Refused, own_cache: Path, small_student: Path, classifier: Path, tmp_path: Path, which: int
) -> None:
    student = small_student if Cache(own_cache).manifest.view is None else classifier
    shutil.rmtree(own_cache / layout.PARTS)
    line = refused(*commands_with_a_student(own_cache, student, tmp_path / "out")[which - 2])
    assert str(own_cache) in line


def test_a_sample_that_the_cache_does_not_have_is_named(refused: Refused, cache: Cache) -> None:
    line = refused("inspect", cache.path, "--sample", len(cache))
    assert f"--sample {len(cache)}: the cache has samples 0 to {len(cache) - 1}" in line


def test_a_sample_of_a_cache_whose_vocabulary_is_broken_names_the_file(refused: Refused, own_cache: Path) -> None:
    vocabulary = next((own_cache / "shared").glob("vocabulary-*"))
    truncate(vocabulary)
    assert str(vocabulary) in refused("inspect", own_cache, "--sample", "0")
    vocabulary.unlink()
    assert str(vocabulary) in refused("inspect", own_cache, "--sample", "0")


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
@pytest.mark.parametrize(
    ("own_cache", "what"),
    [("text", what) for what in ("vocabulary", "tokenizer", "tail")]
    + [("images", what) for what in ("vocabulary", "processor", "images", "tail")],
    indirect=["own_cache"],
)
@pytest.mark.parametrize("spoil", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_broken_shared_file_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, spoil: Callable[[Path], object], what: str, which: int
) -> None:
    spoilt = next(path for path in (own_cache / "shared").rglob("*") if what in path.name and path.is_file())
    spoil(spoilt)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert spoilt.relative_to(own_cache).as_posix() in line
    assert str(own_cache) in line


def test_the_wrong_teacher_to_verify_against_is_named(
    command: Command, capsys: pytest.CaptureFixture[str], cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert command("verify", cache.path, "--against-teacher", tmp_path / "empty") == 2
    assert f"{tmp_path / 'empty'}: " in error_line(capsys.readouterr().err)


# exit codes


@pytest.mark.parametrize(
    "arguments",
    [
        ["dump", "--no-such-option"],
        ["dump", "--teacher"],
        ["dump", "-k", "many"],
        ["inspect", "cache", "--sample", "first"],
        ["no-such-command"],
        ["verify", "one", "two"],
    ],
)
def test_a_wrong_command_line_exits_with_2_and_names_what_is_wrong(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert command(*arguments) == 2
    shown = capsys.readouterr()
    assert any(argument in shown.err for argument in arguments[-2:])
    assert "Traceback" not in shown.err


def test_verify_of_a_broken_cache_exits_with_1_and_names_the_file(
    command: Command, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    assert command("verify", own_cache) == 0
    truncate(own_cache / "parts" / "00002" / "samples.arrow")
    capsys.readouterr()
    assert command("verify", own_cache) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("part 00002: parts/00002/samples.arrow: ")
    assert len(shown.out.splitlines()) == 1
    assert command("verify", own_cache, "--repair") == 1
    assert "dropped parts/00002" in capsys.readouterr().out
    assert command("verify", own_cache) == 0


@pytest.mark.parametrize("name", ["", "dump", "inspect", "verify", "train", "evaluate"])
def test_help_exits_with_0(command: Command, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert command(*filter(None, [name]), "--help") == 0
    assert f"logitstore {name}".strip() in capsys.readouterr().out


def test_the_version_exits_with_0(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert re.fullmatch(r"logitstore \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_without_a_command_the_help_is_shown(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command()
    shown = capsys.readouterr()
    assert "evaluate" in shown.out + shown.err


# the same in processes of their own, where nothing catches what the libraries print


@OF_TEXT
@pytest.mark.slow
def test_a_process_that_is_refused_prints_one_line_and_exits_with_2(
    teacher: Path, own_cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text('{"text": "a"}\n')
    for arguments, expected in (
        (["dump", "--teacher", teacher, "--data", data, "--out", tmp_path / "out"], str(data)),
        (
            ["train", own_cache, "--student", "nobody/such-a-student", "--out", tmp_path / "out"],
            "nobody/such-a-student",
        ),
        (["inspect", tmp_path], f"{tmp_path}: no cache.json"),
    ):
        done = logitstore_command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert expected in error_line(done.stderr)


@OF_TEXT
@pytest.mark.slow
def test_a_process_that_finds_a_broken_cache_exits_with_1(own_cache: Path) -> None:
    truncate(own_cache / "parts" / "00000" / "samples.arrow")
    done = logitstore_command("verify", own_cache)
    assert done.returncode == 1
    assert "part 00000: parts/00000/samples.arrow" in done.stdout


def test_a_dump_is_not_refused_when_nothing_is_wrong(
    command: Command, teacher: Path, texts: Path, tmp_path: Path, cache: Cache
) -> None:
    """The options that the refusals above start from are right, so it is the change that is refused."""
    flags = flags_of(plan_for(teacher, texts, tmp_path / "out"))
    assert command("dump", *flags) == 0
    assert Cache(tmp_path / "out").manifest == cache.manifest
    assert dump(plan_for(teacher, texts, tmp_path / "out")).complete
