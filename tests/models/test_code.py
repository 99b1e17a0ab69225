"""Code that comes with a model is run if the user says so; otherwise the model is refused, and nobody is asked."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.core.types import ModelRef
from logitstore.errors import ModelError
from logitstore.models.code import loading
from logitstore.models.load import load_tokenizer
from logitstore.settings import SETTINGS
from logitstore.settings.recipe import named_recipe, recipe_names
from logitstore.settings.trust import TrustChoice
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.images import images_plan
from tests.parts.own_code import change, save_own_model, with_own_processor, with_own_tokenizer, write_code
from tests.parts.texts import PADDED_VOCABULARY, plan_for

TRUST = "--trust-remote-code"


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies code into a folder of its own before it runs it."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", _asked)


def _asked(*_: object) -> str:
    raise AssertionError("the terminal was asked")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once code has been run."""
    return tmp_path / "ran"


@pytest.fixture
def own(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, mark: Path) -> Path:
    return save_own_model(tmp_path / "own", tokenizer, PADDED_VOCABULARY, mark)


def test_a_model_with_code_of_its_own_dumps_verifies_and_trains(
    own: Path, mark: Path, texts: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out, first, second = tmp_path / "cache", tmp_path / "first", tmp_path / "second"
    plan = plan_for(own, texts, out, limit=4, preset="small", k=None, fidelity_rows=50)
    assert (
        command(
            "plan", *flags_of(plan_for(own, texts, out, limit=4, preset=None, k=None, samples_per_part=None)), TRUST
        )
        == 0
    )
    assert command("dump", *flags_of(plan), TRUST) == 0
    assert "own" in mark.read_text()
    assert command("verify", out, "--against-teacher", own, TRUST, "--device", "cpu", "--share", "1") == 0
    assert command("add", out, "--hidden", "1,final", "--teacher", own, TRUST, "--device", "cpu") == 0
    train = ("train", out, "--device", "cpu", "--max-steps", "2", TRUST)
    assert command(*train, "--student", own, "--copy-layers", "0,2", "--out", first) == 0
    assert {"configuration_own.py", "modeling_own.py"} <= {path.name for path in first.iterdir()}
    assert command("evaluate", out, "--student", first, "--device", "cpu", TRUST) == 0
    assert command(*train, "--student", first, "--out", second) == 0
    config = json.loads((second / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_own.OwnForCausalLM"
    assert config["num_hidden_layers"] == 2
    capsys.readouterr()


def test_every_command_refuses_code_in_one_line_and_runs_none(
    own: Path, mark: Path, texts: Path, cache: logitstore.Cache, tmp_path: Path, refused: Refused
) -> None:
    device = ("--device", "cpu")
    out = tmp_path / "out"
    flags = flags_of(plan_for(own, texts, out))
    short = flags_of(plan_for(own, texts, out, preset=None, k=None, samples_per_part=None))
    for line in (
        refused("dump", *flags),
        refused("dump", *flags, "--dry-run"),
        refused("plan", *short),
        refused("add", cache.path, "--hidden", "1", "--teacher", own, *device),
        refused("train", cache.path, "--student", own, "--out", out, *device),
        refused("train", cache.path, "--student", own, "--out", out, *device, "--text", "--alpha", "0"),
        refused("rank", cache.path, "--student", own, *device),
        refused("evaluate", cache.path, "--student", own, *device),
    ):
        assert f"{own}: it needs Python code that comes with it, configuration_own.OwnConfig," in line
        assert f"Give {TRUST} if you trust whoever wrote that code." in line
    assert not mark.exists()
    assert not out.exists()


def test_verify_refuses_it_after_it_has_checked_the_cache(
    own: Path, mark: Path, cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", cache.path, "--against-teacher", own) == 2
    assert f"Give {TRUST} if you trust" in capsys.readouterr().err.splitlines()[-1]
    assert not mark.exists()


@pytest.mark.exhaustive  # of what is asked for, the others say it in this process
@pytest.mark.parametrize("has_terminal", [True, False])
def test_nothing_is_asked_on_a_terminal_and_nothing_waits_for_an_answer(
    own: Path, mark: Path, cache: logitstore.Cache, has_terminal: bool
) -> None:
    command = [
        sys.executable,
        "-m",
        "logitstore",
        "evaluate",
        str(cache.path),
        "--student",
        str(own),
        "--device",
        "cpu",
    ]
    master, slave = pty.openpty()
    stdin = slave if has_terminal else subprocess.DEVNULL
    try:
        os.write(master, b"y\n")
        ended = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=120, check=False)
    finally:
        os.close(master)
        os.close(slave)
    assert ended.returncode == 2
    assert f"Give {TRUST} if you trust" in ended.stderr.splitlines()[-1]
    assert "[y/N]" not in ended.stdout + ended.stderr
    assert not mark.exists()


def test_parts_of_a_model_that_name_code_are_not_asked_about(tmp_path: Path, teacher: Path) -> None:
    """transformers builds the parts of some models by a call that leaves open whether code is run."""
    plain = json.loads((teacher / "config.json").read_text())
    inside = {"model_type": "encoder-decoder", "encoder": plain, "decoder": plain}
    code = {"AutoModel": "someone/model--code.C", "AutoModelForCausalLM": "someone/model--code.C"}
    config = transformers.AutoConfig.for_model(**inside)
    config.auto_map = code
    with loading(), pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModel.from_config(config)
    assert transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("add {cache} --hidden 1", "--teacher"),
        ("verify {cache}", "--against-teacher"),
        ("train {cache} --out {out}", "--student"),
    ],
)
def test_the_flag_is_for_a_model_that_the_user_names(
    cache: logitstore.Cache, tmp_path: Path, refused: Refused, words: str, option: str
) -> None:
    line = refused(*words.format(cache=cache.path, out=tmp_path / "out").split(), TRUST)
    assert f"{TRUST}: it is for a model that you name, and {option} is not given." in line


def test_every_command_that_loads_a_model_has_the_flag() -> None:
    has = {name for name in SETTINGS if issubclass(SETTINGS[name], TrustChoice)}
    assert has == {"prepare", "dump", "plan", "add", "verify", "convert", "train", "rank", "evaluate"}
    assert all(SETTINGS[name].model_fields["trust_remote_code"].default is False for name in has)
    others = SETTINGS.keys() - has
    assert not any("trust_remote_code" in SETTINGS[name].model_fields for name in others)


def test_no_recipe_of_ours_trusts_code() -> None:
    assert [name for name in recipe_names() if "trust" in named_recipe(name).read_text("utf-8")] == []


def test_a_tokenizer_with_code_of_its_own_is_not_replaced_by_another(
    teacher: Path, mark: Path, texts: Path, cache: logitstore.Cache, tmp_path: Path, refused: Refused, command: Command
) -> None:
    own = with_own_tokenizer(teacher, tmp_path / "own", mark)
    out, student = tmp_path / "cache", tmp_path / "student"
    flags = flags_of(plan_for(own, texts, out, limit=4))
    for line in (
        refused("dump", *flags),
        refused("train", cache.path, "--student", own, "--out", student, "--device", "cpu"),
        refused("evaluate", cache.path, "--student", own, "--device", "cpu", "--text"),
    ):
        assert f"{own}: it needs Python code that comes with it, tokenization_own.OwnTokenizer," in line
    assert not mark.exists()
    assert command("dump", *flags, TRUST) == 0
    assert mark.exists()
    train = ("train", out, "--device", "cpu", "--max-steps", "1")
    assert command(*train, "--student", own, "--out", student, TRUST) == 0
    again = ModelRef.parse(str(student), trust_remote_code=True)
    assert type(load_tokenizer(again)).__name__ == "OwnTokenizer"
    assert (student / "tokenization_own.py").is_file()
    mark.unlink()
    # the tokenizer that the cache keeps needs code too
    line = refused(*train, "--out", tmp_path / "fresh")
    assert "code that lies in a cache is never run. Give a --student that has a tokenizer" in line
    assert not mark.exists()


def test_an_image_processor_with_code_of_its_own(
    classifier: Path, images: Path, mark: Path, tmp_path: Path, refused: Refused, command: Command
) -> None:
    own = with_own_processor(classifier, tmp_path / "own", mark)
    out, student = tmp_path / "cache", tmp_path / "student"
    flags = flags_of(images_plan(own, images, out, views=1, limit=20))
    line = refused("dump", *flags)
    assert f"{own}: it needs Python code that comes with it, image_processing_own.OwnImageProcessor," in line
    assert not mark.exists()
    assert command("dump", *flags, TRUST) == 0
    assert mark.exists()
    train = ("train", out, "--device", "cpu", "--max-steps", "1", "--images", images)
    assert command(*train, "--student", own, "--out", student, TRUST) == 0
    assert (student / "image_processing_own.py").is_file()
    assert command("evaluate", out, "--student", student, "--device", "cpu", "--images", images, TRUST) == 0
    # a fresh student gets the processor of the cache, and no name of code with it
    mark.unlink()
    assert command(*train, "--layers", "1", "--out", tmp_path / "fresh") == 0
    assert "auto_map" not in json.loads((tmp_path / "fresh" / "preprocessor_config.json").read_text())
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["AutoModel", "AutoProcessor", "AutoConfig", "AutoTokenizer", "pipeline", "LlamaForCausalLM"]
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_what_is_no_tokenizer_is_not_loaded_as_one(
    teacher: Path, mark: Path, tmp_path: Path, name: str, file: str
) -> None:
    folder = Path(shutil.copytree(teacher, tmp_path / "model"))
    code = {"AutoConfig": "code.C", "AutoModel": "code.C", "AutoProcessor": "code.C"}
    change(folder / "config.json", auto_map=code, model_type="own-kind")
    change(folder / file, tokenizer_class=name)
    if file == "config.json":
        plain = json.loads((folder / "tokenizer_config.json").read_text())
        del plain["tokenizer_class"]
        (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    write_code(folder, "code.py", "", mark)
    with pytest.raises(ModelError, match=f"its tokenizer_class is {name}, which is no tokenizer"):
        load_tokenizer(ModelRef.parse(str(folder)))
    assert not mark.exists()
