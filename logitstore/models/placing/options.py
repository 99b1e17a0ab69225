"""What transformers is told when it loads a model that is spread, split or packed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import GgufConfig

from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.placing.placement import Placement
from logitstore.models.placing.quantized import packing
from logitstore.models.placing.spread import check_map, device_map_of, memory_of, offload_folder


def loading_options(
    model: ModelRef,
    placement: Placement,
    dtype: torch.dtype,
    device: torch.device,
    skeleton: Callable[[], nn.Module],
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that follow from a placement.

    Args:
        model: where the model is.
        placement: how it is loaded.
        dtype: in which it computes.
        device: where it lies if it is not spread.
        skeleton: makes the model without its weights.

    Returns:
        the arguments; `offload_folder` is a temporary folder, and not yet its path.

    Raises:
        BadInput: the placement names what is not here.
    """
    options: dict[str, Any] = {}
    if placement.attention is not None:
        options["attn_implementation"] = placement.attention
    if model.gguf:
        options["quantization_config"] = GgufConfig(dequantize=True)
    elif (packed := packing(placement, dtype)) is not None:
        options["quantization_config"] = packed
    if placement.tensor_parallel > 1:
        options["distributed_config"] = _splitting(placement.tensor_parallel)
    elif placement.device_map is not None:
        device_map = device_map_of(placement)
        if isinstance(device_map, dict) and not model.trust_remote_code:
            with torch.device("meta"):
                check_map(device_map, skeleton(), f"--device-map {placement.device_map}")
        options |= {"device_map": device_map, "max_memory": memory_of(placement), "offload_folder": offload_folder()}
    elif device.type != "cpu" or placement.quantization is not None:
        number = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
        options["device_map"] = {"": device if number is None else torch.device(device.type, number)}
    return options


def _splitting(count: int) -> Any:
    """Return what tells transformers to split a model by its own plan."""
    try:
        return importlib.import_module("transformers.distributed").DistributedConfig(tp_size=count, tp_plan="auto")
    except (ImportError, AttributeError, TypeError) as error:
        raise BadInput(
            f"--tensor-parallel {count}: it needs a newer transformers: pip install -U transformers."
        ) from error
