"""transformers gets a copy of the files that a cache lists, and nothing in it leads to another file."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import CacheDamaged, ModelError
from logitstore.models.cached import shared_model
from logitstore.models.tokens.tokenizer import cached_tokenizer
from tests.parts.own_code import change
from tests.parts.specification import seal_again
from tests.parts.texts import plan_for

OPENED: list[str] = []
"""Every path that this process opened."""


@pytest.fixture(scope="module", autouse=True)
def _record() -> Iterator[None]:
    is_on = True

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in ("open", "os.listdir", "os.scandir"):
            OPENED.append(str(arguments[0]))

    sys.addaudithook(opened)  # one cannot be removed
    yield
    is_on = False


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("small") / "cache", limit=4)).path


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "cache"))


@pytest.fixture
def elsewhere(copy: Path, tmp_path: Path) -> Path:
    """A folder outside of the cache, with files that a tokenizer could be made of."""
    folder = Path(shutil.copytree(tokenizer_folder(copy), tmp_path / "elsewhere"))
    shutil.copy(folder / "tokenizer.json", folder / "tokenizer.4.0.0.json")
    whole = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(whole["vocab"]))
    (folder / "merges.txt").write_text("")
    return folder


def tokenizer_folder(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "shared").iterdir() if path.is_dir())
    return folder


def load(cache: Path) -> PreTrainedTokenizerBase:
    return cached_tokenizer(logitstore.open(cache))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    "said",
    [
        {"fast_tokenizer_files": ["{}/tokenizer.4.0.0.json"]},
        {"fast_tokenizer_files": ["../../../elsewhere/tokenizer.4.0.0.json"]},
        {"gguf_file": "{}/vocab.json"},
        {"vocab_file": "{}/vocab.json", "merges_file": "{}/merges.txt", "tokenizer_class": "BioGptTokenizer"},
        {"vocab": "{}/vocab.json", "merges": "{}/merges.txt", "tokenizer_class": "GPT2Tokenizer"},
        {"init_inputs": ["{}/vocab.json"], "tokenizer_class": "BioGptTokenizer"},
    ],
)
def test_no_setting_of_a_tokenizer_has_a_file_outside_of_the_cache_opened(
    copy: Path, elsewhere: Path, said: dict[str, Any], name: str
) -> None:
    folder = tokenizer_folder(copy)
    said = json.loads(json.dumps(said).replace("{}", str(elsewhere)))
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    change(folder / name, **said)
    for remove in (False, True):
        if remove:
            (folder / "tokenizer.json").unlink()
        seal_again(copy, folder)
        OPENED.clear()
        with suppress(ModelError):
            load(copy)
        assert [path for path in OPENED if "elsewhere" in path] == []


@pytest.mark.parametrize("kind", ["pipe", "link", "file"])
@pytest.mark.parametrize("name", ["config.json", "added_tokens.json"])
def test_a_file_that_the_cache_does_not_list_is_neither_opened_nor_waited_for(
    copy: Path, elsewhere: Path, kind: str, name: str
) -> None:
    expected = load(copy).get_vocab()
    replaced(tokenizer_folder(copy) / name, kind, elsewhere)
    assert load(copy).get_vocab() == expected


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_pipe_or_link_in_place_of_a_listed_file_is_damage(copy: Path, elsewhere: Path, kind: str) -> None:
    replaced(tokenizer_folder(copy) / "tokenizer_config.json", kind, elsewhere)
    with pytest.raises(CacheDamaged):
        load(copy)


def replaced(path: Path, kind: str, elsewhere: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(elsewhere / "vocab.json")
    else:
        path.write_text('{"a stranger": 3}')


def test_the_copy_stays_as_long_as_its_tokenizer(copy: Path, tmp_path: Path) -> None:
    tokenizer = load(copy)
    folder = Path(tokenizer.name_or_path)
    assert folder.is_dir()
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not any(str(folder) in path.read_text("utf-8") for path in (tmp_path / "saved").iterdir())
    del tokenizer
    gc.collect()
    assert not folder.exists()


def test_what_is_copied_is_what_the_cache_has(copy: Path) -> None:
    with shared_model(logitstore.open(copy), "tokenizer") as model:
        assert str(model) == str(tokenizer_folder(copy))
        assert not model.trust_remote_code
        kept = {path.name: path.read_bytes() for path in Path(model.name).iterdir()}
    assert kept == {path.name: path.read_bytes() for path in tokenizer_folder(copy).iterdir()}
    assert not Path(model.name).exists()
