"""Shared files that were changed and sealed again, or that nobody listed: `verify` names them, and no command uses them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

import logitstore
from logitstore.errors import CacheDamaged, StorageError
from logitstore.store.checks import shared
from logitstore.store.checks.shared import LARGEST_PROCESSOR
from logitstore.store.checks.verify import verify
from logitstore.targets.shared import load_shared
from tests.parts.stranger import reseal

pytestmark = pytest.mark.attack


@pytest.fixture
def copied(tmp_path: Path, small_preset: logitstore.Cache, image_cache: logitstore.Cache, which: str) -> Path:
    source = small_preset if which == "texts" else image_cache
    return Path(shutil.copytree(source.path, tmp_path / "copy"))


def shared_file(cache: Path, pattern: str) -> Path:
    (path,) = (cache / "shared").glob(pattern)
    return path


def problem_of(cache: Path) -> str:
    """The one problem of a cache whose seals are right; where it is, and what."""
    (problem,) = verify(cache)
    return f"{problem.file}: {problem.what}"


def infinite(tensors: dict[str, Any]) -> None:
    tensors["weight"][3, 0] = np.inf


def negative(tensors: dict[str, Any]) -> None:
    tensors["prior"][3] = -tensors["prior"][3]


def narrower(tensors: dict[str, Any]) -> None:
    tensors["weight"] = np.ascontiguousarray(tensors["weight"][:, 1:])


def less(tensors: dict[str, Any]) -> None:
    del tensors["bias"]


def other_type(tensors: dict[str, Any]) -> None:
    tensors["base"] = tensors["base"].astype(np.float16)


def many_coefficients(tensors: dict[str, Any]) -> None:
    tensors["widths"] = np.full(1 << 16, 8, np.uint8)


@pytest.mark.parametrize("which", ["texts"])
@pytest.mark.parametrize("change", [infinite, negative, narrower, less, other_type, many_coefficients])
def test_a_tail_with_other_tensors_is_named_and_not_used(
    copied: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = shared_file(copied, "tail-*")
    tensors = {name: np.array(value) for name, value in safetensors.numpy.load_file(path).items()}
    assert verify(copied) == []
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    reseal(copied)
    assert f"shared/{path.name}: " in problem_of(copied)
    cache = logitstore.open(copied)
    with pytest.raises(CacheDamaged, match="tail-"):
        load_shared(cache.storage, cache.manifest)


HEADERS: list[Any] = [
    {"prior": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 1 << 62]}},
    {"prior": {"dtype": "F32", "shape": [-320], "data_offsets": [0, 1280]}},
    {"prior": {"dtype": "F32", "shape": [320.0], "data_offsets": [0, 1280]}},
    {"prior": {"dtype": "F32", "shape": [320], "data_offsets": [1280, 0]}},
    {"prior": {"dtype": "F99", "shape": [320], "data_offsets": [0, 1280]}},
    {"prior": {"dtype": "F32", "shape": "320", "data_offsets": [0, 1280]}},
    {"prior": [1, 2, 3]},
    [1, 2, 3],
    "prior",
    None,
]


@pytest.mark.parametrize("which", ["texts"])
@pytest.mark.parametrize("header", [*HEADERS, b"[" * 900, b"\xff" * 16, "long"])
def test_a_tail_with_an_impossible_header_is_named(copied: Path, header: Any) -> None:
    path = shared_file(copied, "tail-*")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = 1 << 40 if header == "long" else len(text)
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(1280))
    reseal(copied)
    assert "not a safetensors file" in problem_of(copied)


def one_more_piece(content: dict[str, Any]) -> None:
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 320, "content": "<|more|>"})


def swapped_pieces(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    (one, first), (other, second) = list(vocabulary.items())[40:42]
    vocabulary[one], vocabulary[other] = second, first


def no_model(content: dict[str, Any]) -> None:
    del content["model"]


def huge_id(content: dict[str, Any]) -> None:
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 2**31 - 1, "content": "<|far|>"})


@pytest.mark.parametrize("which", ["texts"])
@pytest.mark.parametrize("change", [one_more_piece, swapped_pieces, no_model, huge_id])
def test_a_tokenizer_of_another_vocabulary_is_named(copied: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = shared_file(copied, "tokenizer-*/tokenizer.json")
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    reseal(copied)
    assert "tokenizer.json: " in problem_of(copied)


@pytest.mark.parametrize(
    ("which", "pattern"),
    [("texts", "tokenizer-*/tokenizer_config.json"), ("images", "processor-*/preprocessor_config.json")],
)
@pytest.mark.parametrize(
    "content", ["", "{", "3", '"text"', "null", "[" * 100_000, '{"a":' * 5000, "\0" * 9, "1" * 5000]
)
def test_json_that_no_library_should_be_given_is_named(copied: Path, pattern: str, content: str) -> None:
    path = shared_file(copied, pattern)
    path.write_text(content)
    reseal(copied)
    assert path.name in problem_of(copied)


@pytest.mark.parametrize("which", ["images"])
def test_a_processor_larger_than_any_is_named(copied: Path) -> None:
    path = shared_file(copied, "processor-*/preprocessor_config.json")
    path.write_bytes(path.read_bytes() + b" " * LARGEST_PROCESSOR)
    reseal(copied)
    assert "larger than" in problem_of(copied)


@pytest.mark.parametrize("which", ["texts"])
def test_a_vocabulary_of_other_pieces_is_named(copied: Path) -> None:
    path = shared_file(copied, "vocabulary-*")
    raw = path.read_bytes()
    place = raw.index(b"<|user|>")
    path.write_bytes(raw[:place] + b"<|evil|>" + raw[place + 8 :])
    reseal(copied)
    assert "pieces are not those" in problem_of(copied)


@pytest.mark.parametrize(("which", "what"), [("texts", "tokenizer"), ("images", "processor")])
@pytest.mark.parametrize("stray", ["a file", "a pipe", "a link", "a folder"])
def test_what_lies_unlisted_beside_the_files_for_a_library_is_told(copied: Path, what: str, stray: str) -> None:
    path = shared_file(copied, f"{what}-*") / "added_tokens.json"
    if stray == "a file":
        path.write_text('{"surprise": 3}')
    elif stray == "a pipe":
        os.mkfifo(path)
    elif stray == "a link":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    assert "added_tokens.json" in problem_of(copied)


@pytest.mark.parametrize("which", ["texts"])
@pytest.mark.parametrize("reader", ["pieces_in", "check_tail", "tokenizers"])
def test_a_shared_file_that_the_system_refuses_to_read_is_not_called_damaged(
    copied: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify --repair` would drop it."""

    def damaged(*arguments: object) -> None:
        raise CacheDamaged("copy/shared/file: cannot be read.") from OSError(f"map: {os.strerror(errno.EIO)}")

    def of_rust(path: str) -> None:
        raise Exception("Input/output error (os error 5)")  # as tokenizers does

    if reader == "tokenizers":
        monkeypatch.setattr(tokenizers.Tokenizer, "from_file", of_rust)
    else:
        monkeypatch.setattr(shared, reader, damaged)
    with pytest.raises(StorageError, match="EIO"):
        verify(copied)
