"""Loading models: configurations, tokenizers, weights, devices, and what they refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from logitstore.core.place import matching
from logitstore.core.registry import resolve
from logitstore.core.tasks import task_of
from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line
from logitstore.models.adapter import has_adapter, load_saved, put_saved
from logitstore.models.code import (
    check_tokenizer_class,
    is_about_code,
    loading,
    named_in_config,
    needs_code,
    without_code,
)
from logitstore.models.placing.launch import ranks_for
from logitstore.models.placing.options import loading_options
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.models.placing.quantized import missing_library, refuse_mixing
from logitstore.models.placing.ranks import Load
from logitstore.models.placing.spread import keep_folder
from logitstore.models.whole import check_weights, refuse_adapter

CPU = torch.device("cpu")

ZERO_SHOT = "zero-shot"
"""What `load_weights` takes in place of a task for models that compare images with texts."""


KINDS = {ZERO_SHOT: ("a model of images and texts", "transformers:AutoModel")}
"""Kinds of models that are no task's students."""


def models_of(kind: str) -> tuple[str, Any]:
    """Return what the models of a task or of a kind are called, and the class of transformers that loads them."""
    called, target = KINDS.get(kind) or task_of(kind).models
    return called, resolve(target)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_config(model: ModelRef) -> PretrainedConfig:
    """Return the configuration of a model, without its weights.

    Raises:
        ModelError: there is no such model, or it is an adapter of another one.
    """
    if model.loaded is not None:
        given: PretrainedConfig = model.loaded.config
        return given
    try:
        with loading():
            refuse_adapter(model)
            config: PretrainedConfig = AutoConfig.from_pretrained(model.name, **model.pretrained)
    except ModelError:
        raise
    except Exception as error:
        # transformers raises nearly any error here, from OSError to KeyError: keep the reason, chain the traceback
        if needs := _needs_code(model, "AutoConfig", error):
            raise needs from error
        is_there = Path(model.name).exists()
        if not is_there and (model.name.startswith((".", "/", "~")) or model.name.count("/") > 1):
            raise ModelError(
                f"{model}: there is no such folder. Give a folder with a model, or its name on the hub."
            ) from error
        if kept := matching(Path(model.name), "checkpoint-*") if Path(model.name).is_dir() else []:
            newest = max(kept, key=lambda folder: (len(folder.name), folder.name))
            raise ModelError(
                f"{model}: it holds the checkpoints of a run that has not ended, and no student yet. Go on with it (train "
                f"--resume), or give a checkpoint: {newest}."
            ) from error
        where = "" if is_there else "there is no such folder, and as a hub name it "
        raise ModelError(f"{model}: {where}cannot be loaded as a model: {one_line(error)}") from error
    return config


def _needs_code(model: ModelRef, auto_class: str, error: Exception) -> ModelError | None:
    """Return what to tell of an error of transformers that code which is not run has caused; None for other errors."""
    return needs_code(model, named_in_config(model, auto_class)) if is_about_code(error) else None


def load_tokenizer(model: ModelRef) -> PreTrainedTokenizerBase:
    """Return the tokenizer that belongs to a model.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    if model.tokenizer is not None:
        given: PreTrainedTokenizerBase = model.tokenizer
        return given
    try:
        with loading():
            check_tokenizer_class(model)
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.name, **model.pretrained)
    except ModelError:
        raise
    except Exception as error:
        # as above
        raise ModelError(f"{model}: no tokenizer could be loaded: {one_line(error)}") from error
    return tokenizer


def load_weights(
    model: ModelRef,
    config: PretrainedConfig,
    dtype: torch.dtype,
    task: str = "causal-lm",
    placement: Placement = WHOLE,
    device: torch.device = CPU,
    *,
    new_head: bool = False,
) -> PreTrainedModel:
    """Load a model, with its weights in `dtype`; packed GGUF weights are unpacked. An adapter is put on it.

    The weights go from the files to where they lie; no other copy of all of them is made. A model that a caller has is
    returned as it is.

    Args:
        model: where it is.
        config: of it.
        dtype: of the weights.
        task: its name, or ZERO_SHOT.
        placement: how it is spread and packed.
        device: where it lies if it is not spread.
        new_head: draw the weights between its last layer and its output anew, which its file has for another purpose.

    Raises:
        BadInput: the placement names what is not here.
        ModelError: the model cannot be loaded for this task, or not all of its weights can.
    """
    if model.loaded is not None:
        given: PreTrainedModel = model.loaded
        return given
    refuse_mixing(config, model)
    with ExitStack() as stack:
        options = loading_options(model, placement, dtype, device, lambda: new_model(config, dtype, task))
        if "offload_folder" in options:
            stack.enter_context(options["offload_folder"])
        if placement.tensor_parallel > 1:
            ranks = ranks_for(placement.tensor_parallel)
            stack.callback(ranks.close)
            with ranks.loading(Load(model, dtype, task, placement)):
                loaded = _loaded(model, config, dtype, task, options, new_head)
            ranks.lead(loaded)
        else:
            loaded = _loaded(model, config, dtype, task, options, new_head)
        stack.pop_all()
    if "offload_folder" in options:
        keep_folder(loaded, options["offload_folder"])
    if model.adapter is not None:
        put_saved(loaded, model.adapter, model)
    return loaded


def _loaded(
    model: ModelRef, config: PretrainedConfig, dtype: torch.dtype, task: str, options: dict[str, Any], new_head: bool
) -> PreTrainedModel:
    called, auto_class = models_of(task)
    if folder := options.get("offload_folder"):
        options = options | {"offload_folder": folder.name}
    try:
        with loading():
            loaded, report = auto_class.from_pretrained(
                model.name,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **model.pretrained,
                **options,
            )
    except Exception as error:
        # as above
        if needs := _needs_code(model, auto_class.__name__, error) or missing_library(config, model, error):
            raise needs from error
        raise ModelError(f"{model}: cannot be loaded as {called}: {one_line(error)}") from error
    check_weights(model, loaded, report, called, new_head=new_head)
    whole: PreTrainedModel = loaded
    return whole


def new_model(config: PretrainedConfig, dtype: torch.dtype, task: str = "causal-lm") -> PreTrainedModel:
    """Return a model of this configuration with random weights. No code that the configuration names is run.

    Raises:
        Exception: models raise errors of many classes about configurations that do not go together.
    """
    with loading():
        made: PreTrainedModel = models_of(task)[1].from_config(config, dtype=dtype, trust_remote_code=False)
    return made


def load_again(
    model: PreTrainedModel,
    folder: Path,
    take: Callable[[PreTrainedModel, dict[str, Tensor]], object] = PreTrainedModel.load_state_dict,
) -> None:
    """Give a model, or the adapter on it, the weights that it was saved with, in a folder that `save_pretrained` wrote.

    The names in the file need not be those of the model: transformers saves experts, for one, under names of its own.

    Args:
        model: the model.
        folder: the folder.
        take: gives a model that has no adapter its weights by their names.

    Raises:
        ModelError: the folder cannot be read as such a model, or not all of its weights are there.
    """
    if has_adapter(model):
        load_saved(model, str(folder), folder)
        return
    where, called = ModelRef(name=str(folder)), f"a {type(model).__name__}"
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with loading():
            kept, report = type(model).from_pretrained(
                folder, config=copy.deepcopy(model.config), dtype=model.dtype, trust_remote_code=False, **options
            )
    except Exception as error:
        # as above
        raise ModelError(f"{where}: cannot be loaded as {called}: {one_line(error)}") from error
    check_weights(where, kept, report, called)
    take(model, kept.state_dict())


def config_from(plain: dict[str, Any]) -> PretrainedConfig:
    """Return the configuration that `describe` made plain, with defaults and with the names that all configurations share.

    What names code is left out: the configuration may come from a stranger's cache.

    Raises:
        ModelError: this transformers does not know such a kind of model, or refuses the entries.
    """
    kind = plain.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"the teacher is of the kind {kind}, which this transformers does not know, and the code of a cache is never run. "
            "Give a --student, and no objective on features."
        )
    try:
        config: PretrainedConfig = AutoConfig.for_model(**without_code(plain))
    except Exception as error:
        # as above
        raise ModelError(f"the teacher's configuration ({kind}): {one_line(error)}") from error
    return config


def pick_device(device: str) -> torch.device:
    """Return a device by its name; `auto` takes the first CUDA device, then MPS, then the CPU.

    Raises:
        ModelError: the named device does not exist here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"--device {device}: not available here ({one_line(error)}). Try --device cpu.") from error
    return picked


_IN_HARDWARE = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}
"""What PyTorch calls the instructions of processors, x86 and ARM, that multiply numbers in bfloat16."""


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device computes in bfloat16; where it does not, bfloat16 is slower than float32."""
    if device.type == "cpu":
        return any(torch.cpu.get_capabilities().get(name) for name in _IN_HARDWARE)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def pick_dtype(dtype: str, device: str) -> str:
    """Return the number format of that name; `auto` is bfloat16 where the device computes in it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(pick_device(device)) else "float32"


def describe(config: PretrainedConfig) -> tuple[str, dict[str, Any]]:
    """Return the architecture's name and the configuration as plain JSON, as the manifest keeps them."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for local in ("_name_or_path", "transformers_version", "quantization_config", "dtype", "torch_dtype"):
        plain.pop(local, None)
    architecture = (config.architectures or [config.model_type])[0]
    return str(architecture), plain
