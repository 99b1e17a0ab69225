"""The shape of a model: its layers, its widths, its head, and the sizes it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from logitstore.errors import ModelError, one_line


def shape_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return how large a model is, by names that all configurations share; None for what the configuration does not say."""
    text = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    shape = {name: getattr(text, name, None) for name in names}
    stages = getattr(text, "hidden_sizes", None)  # of convolutional classifiers
    hidden = shape["hidden_size"] or (stages[-1] if stages else None)
    dense = (getattr(config, "pooling", None) or {}).get("dense")  # of an encoder with layers behind its pooling
    return shape | {"hidden_size": hidden} | ({"final_size": dense[-1]["outputs"]} if dense else {})


def layer_count(config: PretrainedConfig) -> int:
    """Return the number of layers of a model; 0 where it is not a stack of like layers."""
    return int(getattr(config.get_text_config(), "num_hidden_layers", None) or 0)


def is_causal(config: PretrainedConfig) -> bool:
    """Return whether a position of a model sees only those before it: its kind predicts the next token, and no masked one."""
    kind = config.get_text_config().model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


@contextmanager
def size_errors(name: str, pixels_B3HW: Tensor) -> Iterator[None]:
    """Raise a ModelError in place of a model's own error about images of a size that it cannot take.

    Args:
        name: name of the model.
        pixels_B3HW: the images that the model is shown in the context.

    Raises:
        ModelError: the model cannot take these images.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        # convolutions, windows and positions that were made for another size each fail in their own way
        height, width = pixels_B3HW.shape[-2:]
        if "dtype" in str(error):
            raise ModelError(
                f"{name}: it cannot compute in another number format than its own: {one_line(error).rstrip('.')}. "
                "Give --dtype float32."
            ) from error
        raise ModelError(
            f"{name}: it cannot take images of {height} x {width}: {one_line(error).rstrip('.')}. Give another --image-size."
        ) from error


def layer_list(model: PreTrainedModel) -> str:
    """Return the name of the one list of decoder layers in a model.

    Raises:
        ModelError: there is no such list, or more than one.
    """
    count = layer_count(model.config)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and 0 < len(module) == count
    ]
    if len(lists) != 1:
        raise ModelError(f"{type(model).__name__}: its decoder layers are not one list, so they cannot be chosen from.")
    return str(lists[0])


OF_TEXTS = "ForSequenceClassification"
"""How transformers ends the names of text classifiers."""


def classifies_texts(model: Any) -> bool:
    """Return True for a text classifier."""
    return any(each.__name__.endswith(OF_TEXTS) for each in type(model).__mro__)


def classifier_of(model: Any) -> nn.Linear | None:
    """Return the output layer of a classifier of images or texts, which is its last linear layer with one output for each
    class; None for other models."""
    if getattr(model, "main_input_name", "") != "pixel_values" and not classifies_texts(model):
        return None
    classes = int(model.config.num_labels)
    layers = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == classes]
    return layers[-1] if layers else None


def refuse_no_softmax(config: PretrainedConfig, who: object) -> None:
    """Refuse a classifier whose outputs are not the logits of one softmax over its classes.

    Raises:
        ModelError: it gives each class a probability of its own, or numbers, or has one class alone.
    """
    kind = getattr(config, "problem_type", None)
    if kind not in (None, "single_label_classification"):
        raise ModelError(
            f"{who}: its problem_type is {kind}, so its outputs are no softmax over classes. "
            "Give a classifier of single_label_classification."
        )
    if config.num_labels < 2:
        raise ModelError(f"{who}: it has {config.num_labels} class. Give a classifier of two classes or more.")


def head_rows(config: PretrainedConfig) -> int:
    """Return the number of rows of the model's head: its vocabulary with padding."""
    return int(config.get_text_config().vocab_size)
