"""Models that compare images with texts: which give one softmax over the texts, and the factor of its logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PretrainedConfig

from logitstore.errors import ModelError
from logitstore.models.placing.weights import whole_of

SIGMOID = ("siglip", "siglip2")
"""Kinds of models that are trained with a sigmoid for each pair of an image and a text (Zhai et al. 2023)."""

_FEATURES = ("get_image_features", "get_text_features")


def compares_texts(config: PretrainedConfig) -> bool:
    """Return whether a model has one tower for images and one for texts, as CLIP has, and is not a classifier made of one."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config") and not is_classifier(config)


def is_classifier(config: PretrainedConfig) -> bool:
    """Return whether a model was saved as an image classifier."""
    return "ForImageClassification" in (config.architectures or [""])[0]


def refuse_no_comparison(config: PretrainedConfig, who: object) -> None:
    """Refuse a model of images and texts that gives no softmax over texts.

    Raises:
        ModelError: it is trained with a sigmoid for each text, or does not compare one image with texts.
    """
    if config.model_type in SIGMOID:
        raise ModelError(
            f"{who}: it is a {config.model_type} model, which gives each text a probability of its own by a sigmoid, and no "
            "softmax over classes. Give a model such as CLIP, or an image classifier."
        )
    model_class = MODEL_MAPPING.get(type(config), None)
    if not all(hasattr(model_class, name) for name in _FEATURES):
        name = getattr(model_class, "__name__", config.model_type)
        raise ModelError(
            f"{who}: {name} reads images and texts, but does not compare one image with texts, as CLIP does. Give a model "
            "that does, or an image classifier."
        )


def scale_of(model: Any) -> Tensor:
    """Return the factor by which a model multiplies the cosines of images and texts, a float32 scalar.

    Raises:
        ModelError: it has none under a name that is known.
    """
    if hasattr(model, "logit_scale"):
        log_scale = whole_of(model, model, "logit_scale").float()
        return torch.exp(
            log_scale.clamp(0.0, math.log(model.config.max_logit_scale)) if _is_clamped(model) else log_scale
        )
    if hasattr(model, "temperature"):
        return torch.reciprocal(whole_of(model, model, "temperature").float())
    raise ModelError(
        f"{type(model).__name__}: it has neither a logit_scale nor a temperature. Give a model such as CLIP."
    )


def _is_clamped(model: Any) -> bool:
    return hasattr(model, "max_log_logit_scale")
