"""Weights that are packed while a model is loaded, and what packed checkpoints need."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig, TorchAoConfig

from logitstore.errors import BadInput, ModelError, one_line
from logitstore.models.placing.placement import LIBRARIES, Placement, packing_of, refuse_missing

_NEEDED = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}
"""The package that unpacks a checkpoint, by the name of the method in its configuration."""

_IN_EXTRA = {"bitsandbytes", "compressed-tensors", "torchao"}


def packing(placement: Placement, dtype: torch.dtype) -> Any:
    """Return what tells transformers to pack the weights while it loads them; None to take them as they are.

    Args:
        placement: of the model.
        dtype: in which it computes.

    Raises:
        BadInput: the library is not installed, or a cache names another way of packing.
    """
    kind = placement.quantization
    if kind is None:
        return None
    if kind not in LIBRARIES:
        raise BadInput(
            f"the weights of this cache's teacher were packed as '{kind:.40}', which this version does not know. Known: "
            f"{', '.join(LIBRARIES)}."
        )
    refuse_missing(kind, LIBRARIES[kind])
    if kind == "torchao-int8":
        return TorchAoConfig(importlib.import_module("torchao.quantization").Int8WeightOnlyConfig())
    if kind == "bitsandbytes-4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    # columns with outliers would be chosen from all texts of a batch, so the answer about one would depend on the others
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def refuse_mixing(config: PretrainedConfig, who: object) -> None:
    """Refuse a checkpoint whose answer about a text depends on the other texts of a batch.

    Raises:
        ModelError: it is packed by LLM.int8 with a threshold for outliers (Dettmers et al. 2022, section 3.2).
    """
    said: Any = getattr(config, "quantization_config", None)
    if packing_of(config) != "bitsandbytes":
        return
    plain = said if isinstance(said, dict) else said.to_dict()
    if plain.get("load_in_8bit") and plain.get("llm_int8_threshold", 6.0):
        raise ModelError(
            f"{who}: it is packed by LLM.int8 with llm_int8_threshold = {plain.get('llm_int8_threshold', 6.0)}: columns with "
            "outliers are chosen from all texts of a batch, so the answer about one text depends on the others. Set it to 0 in "
            "the quantization_config of its config.json, or give the model that is not packed and --quantization."
        )


def missing_library(config: PretrainedConfig, who: object, error: Exception) -> ModelError | None:
    """Return what to tell of an error of transformers that a missing package has caused; None for other errors."""
    method = packing_of(config)
    if method is None or not isinstance(error, ImportError):
        return None
    package = _NEEDED.get(method)
    how = "" if package is None else f" Install it: pip install {package}."
    if package in _IN_EXTRA:
        how = " Install it: pip install 'logitstore[quantized]'."
    return ModelError(f"{who}: its weights are packed ({method}): {one_line(error).rstrip('.')}.{how}")
