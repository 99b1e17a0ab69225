"""Python code in a cache from a stranger is run by no command, whatever names it, and is not handed on to a student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from logitstore.dump.dump import dump
from tests.parts.commands import Command
from tests.parts.images import images_plan
from tests.parts.own_code import CONFIGURATION, PROCESSING, TOKENIZATION, change, write_code
from tests.parts.specification import adopt, seal_again, tamper
from tests.parts.texts import PADDED_VOCABULARY, plan_for, save_model

TRUST = "--trust-remote-code"
TOKENIZER = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
ANY = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor"), "configuration_own.OwnConfig")

SAID: list[dict[str, Any]] = [
    {"tokenizer_class": "OwnTokenizer", "auto_map": TOKENIZER},
    {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": TOKENIZER},
    {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": {"AutoTokenizer": [None, "someone/model--code.T"]}},
    {"tokenizer_class": "AutoModel"},
    {"tokenizer_class": "AutoProcessor"},
    {"tokenizer_class": None, "auto_map": TOKENIZER},
]
"""What a tokenizer's configuration may say to have code run."""


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("the terminal was asked")

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", asked)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("small") / "cache", limit=4)).path


@pytest.fixture(scope="module")
def bare_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student without a tokenizer, which gets that of the cache."""
    return save_model(tmp_path_factory.mktemp("bare"), None, PADDED_VOCABULARY, num_hidden_layers=1)


def with_code(cache: Path, out: Path, mark: Path, said: dict[str, Any]) -> Path:
    """A copy of a cache whose tokenizer names code that lies beside it, behind valid seals."""
    shutil.copytree(cache, out)
    (folder,) = (path for path in (out / "shared").iterdir() if path.is_dir())
    write_code(folder, "tokenization_own.py", TOKENIZATION, mark)
    write_code(folder, "configuration_own.py", CONFIGURATION, mark)
    (folder / "config.json").write_text(json.dumps({"model_type": "own-kind", "auto_map": ANY}))
    change(folder / "tokenizer_config.json", **said)
    seal_again(out, folder)
    return out


@pytest.mark.parametrize("said", [*SAID[:2], *(pytest.param(said, marks=pytest.mark.exhaustive) for said in SAID[2:])])
def test_no_command_runs_the_code_of_a_caches_tokenizer(
    small: Path,
    teacher: Path,
    small_student: Path,
    bare_student: Path,
    tmp_path: Path,
    command: Command,
    said: dict[str, Any],
) -> None:
    mark = tmp_path / "ran"
    cache = with_code(small, tmp_path / "cache", mark, said)
    device = ("--device", "cpu")
    train = ("train", cache, *device, "--max-steps", "1")
    text = ("--student", small_student, "--text", TRUST, *device)
    assert command("verify", cache) == 0
    assert command("inspect", cache, "--sample", "0") == 0
    assert command("verify", cache, "--against-teacher", teacher, TRUST, *device) == 0
    assert command("add", cache, "--hidden", "1", "--teacher", teacher, TRUST, *device) == 0
    assert command("evaluate", cache, "--student", small_student, TRUST, *device, "--samples", "all") == 0
    students = {"own": ("--student", small_student, TRUST), "bare": ("--student", bare_student, TRUST), "fresh": ()}
    codes = {name: command(*train, "--out", tmp_path / name, *options) for name, options in students.items()}
    codes["text"] = command(*train, "--out", tmp_path / "text", *text, "--alpha", "0")
    codes["judged"] = command("evaluate", cache, "--samples", "all", *text)
    is_known = said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert codes == {"own": 0} | dict.fromkeys(("bare", "fresh", "text", "judged"), 0 if is_known else 2)
    assert not mark.exists()
    for name in students:
        saved = tmp_path / name
        assert [*saved.rglob("*.py")] == []
        if (saved / "tokenizer_config.json").exists():
            assert "auto_map" not in json.loads((saved / "tokenizer_config.json").read_text())
            assert "auto_map" not in json.loads((saved / "config.json").read_text())


def test_the_configuration_of_a_caches_teacher_hands_on_no_code(small: Path, tmp_path: Path, command: Command) -> None:
    cache = Path(shutil.copytree(small, tmp_path / "cache"))
    code = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "someone/model--code.C")
    kernels = {"attn_implementation": "someone/kernel", "experts_implementation": "someone/kernel"}
    inside = {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "auto_map": code}}
    tamper(cache / "cache.json", lambda plan: plan["teacher"]["config"].update(auto_map=code, **kernels, **inside))
    adopt(cache)
    out = tmp_path / "student"
    assert command("train", cache, "--layers", "1", "--out", out, "--device", "cpu", "--max-steps", "1") == 0
    assert "someone" not in (out / "config.json").read_text()


def test_a_teacher_of_a_kind_that_transformers_does_not_know_is_no_shape_for_a_student(
    small: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Path(shutil.copytree(small, tmp_path / "cache"))
    tamper(cache / "cache.json", lambda plan: plan["teacher"]["config"].update(model_type="own-kind", auto_map=ANY))
    adopt(cache)
    assert command("train", cache, "--out", tmp_path / "student", "--device", "cpu") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the teacher is of the kind own-kind, which this transformers does not know" in line
    assert "Give a --student" in line


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "OwnImageProcessor"])
def test_no_command_runs_the_code_of_a_caches_image_processor(
    classifier: Path, images: Path, tmp_path: Path, command: Command, kind: str
) -> None:
    cache, mark = tmp_path / "cache", tmp_path / "ran"
    assert dump(images_plan(classifier, images, cache, views=1, limit=20)).complete
    (folder,) = (path for path in (cache / "shared").iterdir() if path.is_dir())
    write_code(folder, "image_processing_own.py", PROCESSING, mark)
    named = {"AutoImageProcessor": "image_processing_own.OwnImageProcessor"}
    change(folder / "preprocessor_config.json", auto_map=named, image_processor_type=kind)
    seal_again(cache, folder)
    bare = Path(shutil.copytree(classifier, tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    rest = ("--device", "cpu", "--images", images)
    assert command("verify", cache, "--against-teacher", classifier, TRUST, *rest) == 0
    train = ("train", cache, "--max-steps", "1", "--student", bare, TRUST, *rest)
    assert command(*train, "--out", tmp_path / "student") == 0
    other = command(*train, "--out", tmp_path / "other", "--image-size", "16")
    assert other == (0 if kind == "ViTImageProcessor" else 2)
    assert command("evaluate", cache, "--student", bare, TRUST, *rest) == 0
    saved = json.loads((tmp_path / "student" / "preprocessor_config.json").read_text())
    assert "auto_map" not in saved
    assert not mark.exists()
