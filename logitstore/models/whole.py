"""Tell whether the weights in the file of a model and the model that was made of its configuration belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError
from logitstore.models.placing.weights import is_put_away


def refuse_adapter(model: ModelRef) -> None:
    """Refuse a folder with an adapter where a whole model is meant: transformers leaves it out without a word where the library
    peft is missing.

    Raises:
        ModelError: the folder has the settings of an adapter.
    """
    if model.gguf or find_adapter_config_file(model.name) is None:
        return
    alone = "" if Path(model.name, "config.json").exists() else ", and no model"
    raise ModelError(
        f"{model}: it holds an adapter of the library peft{alone}. Merge it into the model that it changes "
        "(merge_and_unload), save that, and give the folder; or remove adapter_config.json from a folder whose model is whole."
    )


def check_weights(
    model: ModelRef, loaded: PreTrainedModel, report: dict[str, Any], called: str, *, new_head: bool = False
) -> None:
    """Refuse a model that is not the one in its file.

    transformers draws weights at random that the file lacks, and passes over those that the configuration has no place for.
    A weight that is tied to another one is not missing; nor is a buffer that the model makes itself and never saves.

    Args:
        model: where it is.
        loaded: the model.
        report: what transformers tells of loading it.
        called: what kind of model is meant.
        new_head: True if what stands between its last layer and its output is drawn anew.

    Raises:
        ModelError: a weight is missing, has another shape in the file, or belongs to a layer but has no place in it.
    """
    for name, in_file, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{model}: its file has the weight {name} in shape {tuple(in_file)}, its configuration asks for {tuple(wanted)}. "
            "Give the configuration that belongs to the file."
        )
    weights = dict(loaded.named_parameters())
    # means, variances and biases of balance are learned too, although they have no gradient
    kept = {name for name, _ in loaded.named_buffers() if not _NO_WEIGHTS.search(name)} & loaded.state_dict().keys()
    missing = set(report["missing_keys"]) & (weights.keys() | kept)
    missing |= {name for name, each in weights.items() if each.is_meta and not is_put_away(loaded, name)}
    if new_head:
        missing = {name for name in missing if not _is_of_head(loaded, name)}
    if missing:
        raise ModelError(
            f"{model}: its file has no values for the weight {_first(missing)}, so it is not a whole "
            f"{type(loaded).__name__}. Give {called} with all its weights."
        )
    unused = _without_place(loaded, report["unexpected_keys"])
    if unused:
        raise ModelError(
            f"{model}: its file has the weight {_first(unused)}, for which the {type(loaded).__name__} of its configuration "
            "has no place, so its answers would be another model's. Give the configuration that belongs to the file."
        )


def _is_of_head(loaded: PreTrainedModel, name: str) -> bool:
    """Return True for a weight between the last layer and the output: outside of the base model, or of its pooler."""
    prefix = f"{loaded.base_model_prefix}."
    return not name.startswith(prefix) or name.removeprefix(prefix).startswith("pooler.")


def _first(names: set[str]) -> str:
    return min(names) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


_NO_WEIGHTS = re.compile(r"masked_bias$|causal_mask$|rotary_emb\.|inv_freq$|position_ids$|num_batches_tracked$")
"""What older versions of transformers kept in files although the model makes it itself."""


def _without_place(loaded: PreTrainedModel, unexpected: Iterable[str]) -> set[str]:
    """Return those weights that belong to a layer of the model, or would be a further layer.

    Parts that the model does not have as a whole, such as a pooler, a value head or the tower of another kind of data, do not
    change what the others compute. Packed weights have scales, whose names the library that unpacks them knows.
    """
    if getattr(loaded, "hf_quantizer", None) is not None:
        return set()
    modules = dict(loaded.named_modules())
    buffers = {name for name, _ in loaded.named_buffers()}
    spare = _spare_layers(loaded.config)
    return {
        name
        for name in unexpected
        if name not in buffers and not _NO_WEIGHTS.search(name) and _is_inside(modules, name, spare)
    }


def _spare_layers(config: PretrainedConfig) -> int:
    """Return the number of layers after the last one that only predict further tokens, and are not loaded."""
    return int(getattr(config.get_text_config(), "num_nextn_predict_layers", None) or 0)


def _is_inside(modules: dict[str, nn.Module], name: str, spare: int) -> bool:
    parts = name.split(".")
    depth = next(depth for depth in range(len(parts) - 1, -1, -1) if ".".join(parts[:depth]) in modules)
    owner, rest = modules[".".join(parts[:depth])], parts[depth:]
    if isinstance(owner, nn.ModuleList):
        return rest[0].isdigit() and int(rest[0]) >= len(owner) + spare
    has_weights = any(True for _ in owner.parameters(recurse=False))
    is_in_layer = any(isinstance(modules[".".join(parts[:place])], nn.ModuleList) for place in range(1, depth))
    # attention of older models keeps its mask as `bias`
    return has_weights or (is_in_layer and rest != ["bias"])
