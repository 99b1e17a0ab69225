"""What a configuration says layer by layer, when layers are left out: lists are cut, numbers of layers follow, and what is
built is compared with what was there.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from logitstore.errors import ModelError

BY_LAYER = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "attention_layers",
    "attn_layers",
    "indexer_types",
    "layer_rope_theta",
    "num_attention_heads_per_layer",
    "activation_sparsity_pattern",
    "intermediate_size",
)
"""Entries that may be lists with one value for each layer."""


BY_NUMBER = (
    "full_attn_idxs",
    "attn_layer_indices",
    "hybrid_layer_ids",
    "mlp_only_layers",
    "moe_layers",
    "cross_attention_layers",
)
"""Entries that are lists of the numbers of some layers."""


_COUNTS = ("num_hidden_layers", "decoder_layers")


def resize_layer_lists(plain: dict[str, Any], layers: list[int]) -> None:
    """Cut the lists of a plain configuration to the layers kept; for a deeper stack, repeat them."""
    for name in BY_LAYER:
        if isinstance(old := plain.get(name), list) and old:
            plain[name] = [old[layer % len(old)] for layer in layers]
    for name in BY_NUMBER:
        if isinstance(old := plain.get(name), list):
            plain[name] = [new for new, layer in enumerate(layers) if layer in old]


def fewer_layers(config: PretrainedConfig, layers: list[int]) -> PretrainedConfig:
    """Return a configuration of some layers of another one.

    Raises:
        ModelError: it derives the kinds of its layers from their numbers, and they would be others.
    """
    smaller = copy.deepcopy(config)
    if hasattr(smaller, "quantization_config"):
        del smaller.quantization_config
    text = smaller.get_text_config()
    kinds = {name: _listed(text, name, layers) for name in BY_LAYER}
    own = {name: value for name in (*BY_LAYER, *BY_NUMBER) if (value := text.__dict__.get(name)) is not None}
    resize_layer_lists(own, layers)
    for name, value in own.items():
        setattr(text, name, value)
    if "attention_types" in text.__dict__:  # of GPT-Neo, which makes its list of layers from it
        text.attention_types = [[list(own["attention_layers"]), 1]]
    for name in _COUNTS:
        if getattr(text, name, None) is not None:
            setattr(text, name, len(layers))
    for name, expected in kinds.items():
        if expected is not None and (found := list(getattr(text, name))) != expected:
            raise ModelError(
                f"{config.model_type}: the kinds of its layers follow from their numbers: layers {layers} are "
                f"{', '.join(map(str, expected))}, and would be {', '.join(map(str, found))}. Choose layers whose kinds stay, "
                "such as the first ones."
            )
    return smaller


def _listed(text: PretrainedConfig, name: str, layers: list[int]) -> list[Any] | None:
    """Return what a configuration says of some layers; None if it says nothing layer by layer."""
    old = getattr(text, name, None)
    return [old[layer] for layer in layers] if isinstance(old, list) and len(old) > max(layers) else None


def check_alike(before: nn.Module, after: nn.Module, what: str) -> None:
    """Compare what a layer was with what it is in the smaller model: its parts, and the numbers and flags that they keep.

    Raises:
        ModelError: they differ, so that the layer would compute something else with the same weights.
    """
    old, new = dict(before.named_modules()), dict(after.named_modules())
    differing = [name for name in {**old, **new} if type(old.get(name)) is not type(new.get(name))]
    for name in old.keys() & new.keys():
        one, other = (_kept(side[name]) for side in (old, new))
        differing += [f"{name}.{key}".lstrip(".") for key in {**one, **other} if one.get(key) != other.get(key)]
    if differing:
        raise ModelError(
            f"{what} would be another kind of layer among fewer: its {sorted(differing)[0]} follows from its number. Choose "
            "other layers, such as the first ones."
        )


_NUMBER = re.compile(r"idx|index|layer_id|layer_num|block_id|layer_number|^training$")


def _kept(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str)) and not _NUMBER.search(name)
    }
