"""The tokenizer: its files and its template, and telling what its ids mean so that a cache can refuse another one."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.meta
import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, CacheDamaged, ModelError, one_line
from logitstore.models.load import load_config
from logitstore.models.shape import head_rows
from logitstore.models.tokens.tokenizer import own_tokenizer
from logitstore.store.cache import Cache
from logitstore.store.part import read_shared
from logitstore.text.chats.variables import variables_of

LARGEST_TEMPLATE = 1 << 20
"""Most characters of the file of a chat template; those of models have up to some ten thousand."""


def with_template(tokenizer: PreTrainedTokenizerBase, path: Path | None) -> PreTrainedTokenizerBase:
    """Return a tokenizer with the chat template of a file in place of its own; None changes nothing.

    Raises:
        BadInput: see `read_template`.
    """
    if path is None:
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.chat_template = read_template(path)
    return changed


def template_fingerprint(template: str) -> str:
    """Return the xxh3-128 of a template in UTF-8, as docs/format.md asks."""
    return xxhash.xxh3_128_hexdigest(template.encode())


def read_template(path: Path) -> str:
    """Return the chat template in a file: Jinja, or a JSON object that has it as `chat_template`.

    Raises:
        BadInput: it cannot be read, is too large, is not UTF-8, or is no chat template.
    """
    where = f"--chat-template {path}"
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{where}: not a regular file. Give a Jinja file, or the chat_template.json of a model.")
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LARGEST_TEMPLATE + 1)
    except OSError as error:
        raise BadInput(f"{where}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 text: {one_line(error)}. Give a Jinja file in UTF-8.") from error
    except ValueError as error:
        raise BadInput(f"{where}: no path: {one_line(error)}. Give the path of a file.") from error
    if len(text) > LARGEST_TEMPLATE:
        raise BadInput(f"{where}: longer than {LARGEST_TEMPLATE:,} characters, so it is no chat template.")
    if path.suffix.lower() == ".json" or re.match(r'\s*\{\s*"', text):
        text = _from_json(text, where)
    try:
        text.encode()
        names = variables_of(text)
    except jinja2.TemplateSyntaxError as error:
        raise BadInput(f"{where}: no Jinja template: line {error.lineno}: {one_line(error)}") from error
    except (ValueError, RecursionError, MemoryError, SyntaxError) as error:
        raise BadInput(f"{where}: no Jinja template: {one_line(error)}.") from error
    if "messages" not in names:
        raise BadInput(f"{where}: no chat template, as it does not read `messages`. Give one that renders a chat.")
    return text


def _from_json(text: str, where: str) -> str:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {one_line(error)}. Give a Jinja file, or a chat_template.json.") from error
    template = content.get("chat_template") if isinstance(content, dict) else None
    if not isinstance(template, str):
        raise BadInput(
            f"{where}: JSON without a text under the key 'chat_template'. Give a chat_template.json, or the one template "
            "that you want as a Jinja file."
        )
    return template


def text_tokenizer(student: ModelRef) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a student that reads plain text.

    Raises:
        ModelError: the student has no tokenizer, or one that gives ids beyond the rows of its head.
    """
    tokenizer = own_tokenizer(student)
    if tokenizer is None:
        raise ModelError(f"{student}: no tokenizer is saved with it. --text needs one: save it there.")
    highest, rows = max(tokenizer.get_vocab().values(), default=-1), head_rows(load_config(student))
    if highest >= rows:
        raise ModelError(
            f"{student}: its tokenizer has ids up to {highest}, its head rows for ids below {rows}. "
            "The model and the tokenizer do not belong together."
        )
    return tokenizer


def given_template(cache: Cache) -> str | None:
    """Return the chat template that the dump of a cache of texts was given; None if it was given none.

    The tokenizer beside it is not loaded: it may need code.

    Raises:
        CacheDamaged: the template cannot be read.
    """
    if cache.manifest.text[1].chat_template is None:
        return None
    name = f"{cache.manifest.shared_file('tokenizer')}/chat_template.jinja"
    if (sealed := cache.manifest.shared.get(name)) is None:
        raise CacheDamaged(f"{cache.path}: {name} is not among its shared files.")
    try:
        return read_shared(cache.storage, {name: sealed})[name].decode()
    except UnicodeDecodeError as error:
        raise CacheDamaged(f"{cache.path}/{name}: no template in UTF-8: {one_line(error)}") from error
