"""How a model is loaded: where its weights lie, how they are packed, and how it computes attention."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import import_utils

from logitstore.errors import BadInput, ModelError, one_line
from logitstore.settings.models.placing import PlacementChoices, refuse_misplaced

AS_IS = "as-is"
"""The `--quantization` that packs nothing."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model is loaded. By default it lies whole on one device.

    Attributes:
        device_map: a way of Accelerate to spread layers, or a JSON file with the device of each module; None for one device.
        max_memory: bytes that may be used on each device; None for what is free.
        tensor_parallel: processes that every layer is split over.
        quantization: how its weights are packed while it is loaded; None to take them as they are.
        attention: how it computes attention; None for what transformers chooses.
    """

    device_map: str | None = None
    max_memory: Mapping[str, int] | None = None
    tensor_parallel: int = 1
    quantization: str | None = None
    attention: str | None = None

    @classmethod
    def of(cls, choices: PlacementChoices, quantization: str | None = None) -> Placement:
        """Return what the settings of a command ask for.

        Args:
            choices: the settings.
            quantization: AS_IS, None or how the weights are packed.

        Raises:
            BadInput: the choices do not go together.
        """
        refuse_misplaced(choices)
        packed = None if quantization in (None, AS_IS) else quantization
        if packed is not None and choices.tensor_parallel > 1:
            raise BadInput(
                f"--quantization {packed} with --tensor-parallel {choices.tensor_parallel}: weights are split before they "
                "could be packed. Give one of them, or a checkpoint that is packed already."
            )
        return cls(
            device_map=choices.device_map,
            max_memory=choices.max_memory,
            tensor_parallel=choices.tensor_parallel,
            quantization=packed,
            attention=choices.attention,
        )

    @property
    def given(self) -> str | None:
        """The first option that is not left as it is, as it is spelled; None where all are."""
        for name, value in vars(self).items():
            if value != type(self).__dataclass_fields__[name].default:
                return f"--{name.replace('_', '-')}"
        return None


WHOLE = Placement()
"""A model that lies on one device as it is."""


def refuse_impossible(placement: Placement, config: PretrainedConfig, who: object, *, gguf: bool = False) -> None:
    """Refuse what cannot be done with a model, before anything is loaded.

    Args:
        placement: how it is to be loaded.
        config: of the model.
        who: what messages call it.
        gguf: True where it lies in a GGUF file.

    Raises:
        BadInput: a package is missing.
        ModelError: the model cannot be split so, or is packed already.
    """
    _refuse_attention(placement.attention)
    if placement.quantization is not None:
        packed = packing_of(config) or ("GGUF, which is unpacked while it is loaded" if gguf else None)
        if packed is not None:
            raise ModelError(
                f"--quantization {placement.quantization}: the weights of {who} lie packed in its files already ({packed}). "
                "Leave it out, or give the model whose weights are not packed."
            )
        if (library := LIBRARIES.get(placement.quantization)) is not None:
            refuse_missing(placement.quantization, library)
    if placement.tensor_parallel > 1:
        _refuse_unsplittable(placement.tensor_parallel, config, who, gguf=gguf)


LIBRARIES = {"bitsandbytes-8bit": "bitsandbytes", "bitsandbytes-4bit": "bitsandbytes", "torchao-int8": "torchao"}
"""What packs weights while they are loaded, by the value of `--quantization`."""


def refuse_missing(kind: str, library: str) -> None:
    """Refuse a way of packing whose library is missing or broken. Raises BadInput."""
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise BadInput(
            f"--quantization {kind} needs {library}, which cannot be imported ({one_line(error)}). Install it: pip install "
            "'logitstore[quantized]'."
        ) from error


def packing_of(config: PretrainedConfig) -> str | None:
    """Return the name of the method by which a checkpoint is quantised; None where it is not."""
    said: Any = getattr(config, "quantization_config", None)
    if said is None:
        return None
    method = said.get("quant_method") if isinstance(said, Mapping) else getattr(said, "quant_method", None)
    return str(getattr(method, "value", method))


_FLASH = {
    "flash_attention_2": ("flash-attn", "is_flash_attn_2_available"),
    "flash_attention_3": ("flash-attn-3", "is_flash_attn_3_available"),
    "flash_attention_4": ("flash-attn-4", "is_flash_attn_4_available"),
}
"""The packages of ways to compute attention. Without them transformers may take code from the hub, which nobody asked for."""


def _refuse_attention(attention: str | None) -> None:
    package, check = _FLASH.get(str(attention), (None, ""))
    if package is not None and not getattr(import_utils, check, bool)():
        raise BadInput(
            f"--attention {attention}: it needs the package {package} and a GPU that it supports, and is not available here. "
            f"Install it (pip install {package}), or give --attention sdpa."
        )


def _refuse_unsplittable(count: int, config: PretrainedConfig, who: object, *, gguf: bool) -> None:
    """Refuse to split a model for which there is no plan, or whose heads cannot be dealt out."""
    option = f"--tensor-parallel {count}"
    if gguf:
        raise ModelError(f"{option}: {who} is a GGUF file, whose weights cannot be split. Give --device-map auto.")
    if packing_of(config) == "bitsandbytes":
        raise ModelError(f"{option}: weights packed by bitsandbytes cannot be split. Give --device-map auto.")
    text = config.get_text_config()
    if not (getattr(text, "base_model_tp_plan", None) or getattr(config, "base_model_tp_plan", None)):
        raise ModelError(
            f"{option}: transformers has no plan by which to split a model of the kind {config.model_type} ({who}). Give "
            "--device-map auto, which spreads its layers."
        )
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(text, name, None)
        if isinstance(heads, int) and heads % count:
            raise ModelError(
                f"{option}: {who} has {name} = {heads}, which {count} processes cannot share. Give a number that divides it, "
                "or --device-map auto."
            )
