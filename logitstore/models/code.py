"""Python code that comes with a model: it is run if the user says so, and nobody is asked about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase, dynamic_module_utils
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError

NAMES_CODE = "auto_map"
"""The entry of a configuration that names classes in Python files beside it, or in a repository of the hub."""

_LOADING = threading.RLock()


@contextmanager
def loading() -> Iterator[None]:
    """Load with transformers, one thread at a time, without a question on the terminal.

    transformers changes its classes while it loads and changes them back: two loading threads would leave them changed. And
    it asks whether to run code where a caller does not say; parts of a model are loaded by such callers of its own.
    """
    with _LOADING:
        seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # so it refuses at once
        try:
            yield
        finally:
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def is_about_code(error: Exception) -> bool:
    """Return True for the errors that transformers raises because code is not to be run."""
    return "trust_remote_code" in str(error)


def needs_code(model: ModelRef, named: Any) -> ModelError:
    """Return the refusal to run the code that a model needs.

    Args:
        model: what was to be loaded.
        named: what the model says of the code: a class, several of them, or None.
    """
    classes = [each for each in (named if isinstance(named, list | tuple) else [named]) if each]
    what = f"needs Python code that comes with it, {', '.join(map(str, classes)) or 'of an unnamed class'},"
    if model.in_cache:
        return ModelError(
            f"{model}: it {what} and code that lies in a cache is never run. Give a --student that has a tokenizer or image "
            "processor of its own."
        )
    return ModelError(
        f"{model}: it {what} which is not run unasked. Give --trust-remote-code if you trust whoever wrote that code."
    )


def named_in_config(model: ModelRef, auto_class: str) -> Any:
    """Return what the configuration of a model names as its code for one of transformers' auto classes; None for nothing.

    Raises:
        Exception: the configuration cannot be read.
    """
    return _named(PretrainedConfig.get_config_dict(model.name)[0], auto_class)


def _named(plain: dict[str, Any], auto_class: str) -> Any:
    named = plain.get(NAMES_CODE) or {}
    return named.get(auto_class) if isinstance(named, dict) else named


def check_tokenizer_class(model: ModelRef) -> None:
    """Refuse what transformers would replace by a tokenizer of its own without a word, or load as something else.

    Where the code of a tokenizer is not run, transformers takes a general tokenizer in its place. And it takes any of its
    classes whose name stands where that of a tokenizer belongs, such as AutoModel, which would look for code again.

    Raises:
        ModelError: the tokenizer's class is made by code that is not run, or is no tokenizer.
        Exception: the tokenizer's configuration cannot be read.
    """
    said = get_tokenizer_config(model.name)
    code, name = _named(said, "AutoTokenizer"), said.get("tokenizer_class")
    found = tokenizer_class_from_name(str(name)) if name else None
    if code and found is None and not model.trust_remote_code:
        raise needs_code(model, code)
    for each in (name, _class_in_config(model)):
        refused = tokenizer_class_from_name(str(each)) if each else None
        if refused is not None and not _is_tokenizer(refused):
            raise ModelError(f"{model}: its tokenizer_class is {each}, which is no tokenizer. Mend its configuration.")


def _class_in_config(model: ModelRef) -> Any:
    try:
        return PretrainedConfig.get_config_dict(model.name)[0].get("tokenizer_class")
    except OSError:
        return None  # a tokenizer without a model


def _is_tokenizer(found: Any) -> bool:
    # a class whose library is not installed stands in for itself, and says so when it is used
    return getattr(found, "is_dummy", False) or (isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase))


def without_code(plain: Any) -> Any:
    """Return a plain configuration in which nothing names code, at any depth.

    Besides Python classes, these are kernels of the hub in place of a way to compute attention or experts.
    """
    if isinstance(plain, dict):
        return {name: without_code(value) for name, value in plain.items() if name not in _CODE}
    return [without_code(value) for value in plain] if isinstance(plain, list) else plain


def forget_code(config: PretrainedConfig) -> None:
    """Let a configuration, and those inside it, name no code."""
    for each in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if each is not None:
            vars(each).pop(NAMES_CODE, None)


_CODE = {
    NAMES_CODE,
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
}
