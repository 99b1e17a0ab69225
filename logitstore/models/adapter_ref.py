"""Where an adapter lies, and which model it changes: what a student's name stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from logitstore.core.place import matching
from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line


def student_ref(text: str, *, trust_remote_code: bool = False) -> ModelRef:
    """Return the place of a student. That of an adapter is its model, with the adapter to be put on it.

    The path or hub name of that model in the adapter's folder is followed as if the user had named it; its code is run only if
    the user says so.

    Raises:
        ModelError: an adapter does not say which model it changes, or is of another kind.
    """
    given = ModelRef.parse(text, trust_remote_code=trust_remote_code)
    try:
        path = None if given.gguf else find_adapter_config_file(given.name)
    except (OSError, ValueError):
        return given  # whoever loads it says what is wrong
    if path is None or _has_weights(Path(given.name)):
        return given
    said = read_settings(Path(path), given)
    base = said.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{given}: its adapter_config.json does not say which model it changes. "
            "Write that as base_model_name_or_path there."
        )
    _check_kind(said, given)
    is_path = base.startswith((".", "/", "~")) or base.count("/") > 1
    if is_path and not Path(base).is_dir():
        raise ModelError(
            f"{given}: it is an adapter of {base}, and there is no such folder. Write in its adapter_config.json, as "
            "base_model_name_or_path, where that model lies now."
        )
    return ModelRef(
        name=base,
        adapter=given.name,
        called=f"{given} (an adapter of {base})",
        trust_remote_code=trust_remote_code,
    )


def _has_weights(folder: Path) -> bool:
    """Say whether the weights of a whole model lie in a folder."""
    return any(matching(folder, pattern) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def read_settings(path: Path, who: object) -> dict[str, Any]:
    """Return what the adapter_config.json of an adapter says. Raises ModelError: it cannot be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{who}: its adapter_config.json cannot be read: {one_line(error)}") from error
    if not isinstance(said, dict):
        raise ModelError(f"{who}: its adapter_config.json is no JSON object. Give the folder of an adapter.")
    return said


MERGE = "Merge it into its model with peft (merge_and_unload), save that, and give the folder."


_OTHERS = (
    "megatron_config",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "arrow_config",
    "alora_invocation_tokens",
)
"""Entries of adapters that do more than to add products to layers."""


_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights with which the model's own weights stay as they are."""


def _check_kind(said: dict[str, Any], who: ModelRef) -> None:
    """Refuse adapters that are not products in layers, and those of one revision of their model."""
    if said.get("peft_type") != "LORA":
        raise ModelError(f"{who}: it is an adapter of the kind {said.get('peft_type')}; known is LORA. {MERGE}")
    other = next((name for name in _OTHERS if said.get(name)), None)
    if other is not None:
        raise ModelError(f"{who}: its adapter_config.json has {other}, which is not known here. {MERGE}")
    start = said.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise ModelError(
            f"{who}: it began as {start!r:.40} (init_lora_weights), which changes the weights of its model too. {MERGE}"
        )
    if said.get("revision") not in (None, "main"):
        raise ModelError(
            f"{who}: it belongs to the revision {said['revision']} of {said['base_model_name_or_path']}. Download that, and "
            "write its folder as base_model_name_or_path."
        )
