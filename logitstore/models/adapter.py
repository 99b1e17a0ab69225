"""Adapters of the library peft: put on a model, loaded, saved, and added to its weights.

The adapter's layers stand inside the model, which has no wrapper around it: it stays what it was for everything else.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, ModelError, one_line
from logitstore.models.adapter_ref import MERGE, read_settings
from logitstore.settings.models.lora import ALL_LINEAR, Lora

WEIGHTS_NAME = "adapter_model.safetensors"


IN_FILE = "base_model.model."
"""What peft writes before the names of weights."""


def peft() -> Any:
    """Return the library peft.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise BadInput(
            f"adapters need peft, which cannot be imported ({one_line(error)}). Install it: pip install 'logitstore[lora]'."
        ) from error


def has_adapter(model: Any) -> bool:
    """Say whether an adapter is put on a model."""
    return bool(getattr(model, "peft_config", None))


def put_new(model: PreTrainedModel, lora: Lora, who: object) -> None:
    """Put a new adapter on a model. Its products are 0 at first; it alone is trained.

    Raises:
        BadInput: peft is not installed, or no layer has the name of a target, or one that has it cannot have an adapter.
    """
    library = peft()
    everything = lora.targets == (ALL_LINEAR,)
    if not everything:
        _check_targets(model, lora.targets, who)
    config = library.LoraConfig(
        r=lora.r,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if everything else list(lora.targets),
        task_type="CAUSAL_LM" if model.can_generate() else None,
    )
    try:
        _inject(model, config)
    except ValueError as error:
        raise BadInput(f"--lora {lora}: {who} cannot have it: {one_line(error)}") from error
    for _, weight in adapter_weights(model):
        weight.data = weight.data.float()  # whatever the model is in


def _check_targets(model: PreTrainedModel, targets: tuple[str, ...], who: object) -> None:
    names = [name for name, _ in model.named_modules() if name]
    ends = sorted({name.rpartition(".")[2] for name, each in model.named_modules() if hasattr(each, "weight")})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise BadInput(f"--lora: no layer of {who} is called '{target}'. {suggest(target, [ALL_LINEAR, *ends])}")


def _inject(model: PreTrainedModel, config: Any, *, empty: bool = False) -> None:
    """Put an adapter in the layers of a model; an empty one takes no memory until it is given weights."""
    with _quiet():
        peft().inject_adapter_in_model(config, model, low_cpu_mem_usage=empty)
    # so that transformers lets gradients pass where activations are computed again
    model._hf_peft_config_loaded = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what peft says of layers that keep their weights transposed, and of embeddings, which it handles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def put_saved(model: PreTrainedModel, adapter: str, who: object) -> None:
    """Put a saved adapter on the model that it changes.

    Args:
        model: without an adapter.
        adapter: its folder or hub name.
        who: what messages call it.

    Raises:
        BadInput: peft is not installed.
        ModelError: it cannot be loaded, or does not fit the model.
    """
    library = peft()
    said = read_settings(Path(str(find_adapter_config_file(adapter))), who)
    said.pop("runtime_config", None)
    try:
        kinds = library.PeftConfig
        config = kinds.from_peft_type(**kinds.check_kwargs(**said))
        config.inference_mode = False
        _inject(model, config, empty=True)
    except Exception as error:
        # peft raises errors of many classes about entries that do not go together
        raise ModelError(f"{who}: its adapter_config.json does not fit the model: {one_line(error)}") from error
    load_saved(model, adapter, who)


def load_saved(model: PreTrainedModel, adapter: str, who: object) -> None:
    """Give the adapter on a model the weights that are saved in a folder, all of them.

    Raises:
        ModelError: they cannot be read, or are not those of this adapter.
    """
    library = peft()
    own = {name for name, _ in adapter_weights(model)}
    is_empty = any(weight.is_meta for _, weight in adapter_weights(model))
    try:
        saved = _without_base(model, library.load_peft_weights(adapter, device="cpu"), own, who)
        with _quiet():
            found = library.set_peft_model_state_dict(
                model, saved, adapter_name=_name(model), low_cpu_mem_usage=is_empty
            )
    except ModelError:
        raise
    except Exception as error:
        # as above; shapes that differ are RuntimeErrors of torch
        raise ModelError(f"{who}: the weights of the adapter cannot be loaded: {one_line(error)}") from error
    if missing := own & set(found.missing_keys):
        raise ModelError(f"{who}: its file has no values for {_first(missing)}. Give the whole adapter.")
    if found.unexpected_keys:
        raise ModelError(
            f"{who}: its file has the weight {_first(found.unexpected_keys)}, for which its adapter_config.json has no place "
            "in the model. Give the adapter_config.json and the model that belong to the file."
        )
    for _, weight in adapter_weights(model) if is_empty else ():
        weight.data = weight.data.to(model.dtype)


def _without_base(model: PreTrainedModel, saved: dict[str, Tensor], own: set[str], who: object) -> dict[str, Tensor]:
    """Return saved weights by their names in the model, without those of the model itself, which peft adds where an output
    layer has an adapter.

    Raises:
        ModelError: such a weight is another one than that of the model.
    """
    saved = {name.removeprefix(IN_FILE): value for name, value in saved.items()}
    weights = {name: value for name, value in model.state_dict().items() if name not in own}
    of_model = {name: value for name, value in saved.items() if name in weights}
    changed = {
        name
        for name, value in of_model.items()
        if value.shape != weights[name].shape or not torch.equal(value.to(weights[name].dtype), weights[name].cpu())
    }
    if changed:
        raise ModelError(
            f"{who}: its file also has the weight {_first(changed)} of the model, with other values. {MERGE}"
        )
    return {name: value for name, value in saved.items() if name not in of_model}


def _first(names: Any) -> str:
    return f"{min(names)} and {len(names) - 1} more" if len(names) > 1 else f"{min(names)}"


def _name(model: PreTrainedModel) -> str:
    """Return the name of the one adapter on a model."""
    return str(next(iter(model.peft_config)))


def adapter_weights(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the weights of the adapter on a model, by their names in it, trained or not."""
    if has_adapter(model):
        tuner = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
        wrapper = importlib.import_module("peft.utils.other").AuxiliaryTrainingWrapper
        base = {
            id(weight)
            for each in model.modules()
            if isinstance(each, tuner | wrapper)
            for part in ("base_layer", "original_module")
            if hasattr(each, part)
            for weight in getattr(each, part).parameters()
        }
        for name, each in model.named_modules():
            if isinstance(each, tuner | wrapper):
                for part, weight in each.named_parameters(name):
                    if id(weight) not in base:
                        yield part, weight


def layers_with_adapter(model: PreTrainedModel) -> list[str]:
    """Return the names of the layers that have an adapter."""
    tuner = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return [name for name, each in model.named_modules() if isinstance(each, tuner)]


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Save the adapter on a model in a folder as peft does: adapter_model.safetensors and adapter_config.json."""
    name = _name(model)
    kept = peft().get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    weights = {IN_FILE + each: value.detach().cpu().contiguous() for each, value in kept.items()}
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[name])
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))


def tied_target(model: PreTrainedModel) -> str | None:
    """Return the name of a layer with an adapter whose weight another layer shares; None where there is none."""
    owners: dict[int, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), set()).add(name)
    for name in layers_with_adapter(model):
        weight = getattr(model.get_submodule(name).get_base_layer(), "weight", None)
        if len(owners.get(id(weight), ())) > 1:
            return name
    return None


def merge(model: PreTrainedModel) -> None:
    """Add the adapter on a model to its weights, and leave the model without an adapter. One without any stays as it is.

    Raises:
        ModelError: a weight that is to be changed belongs to two layers, or becomes no number.
    """
    if not has_adapter(model):
        return
    if (shared := tied_target(model)) is not None:
        raise ModelError(
            f"{shared} shares its weight with another layer, so its adapter cannot be added to it. Save the adapter alone."
        )
    tuner = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    wrapper = importlib.import_module("peft.utils.other").AuxiliaryTrainingWrapper
    for name, layer in [(name, each) for name, each in model.named_modules() if isinstance(each, tuner | wrapper)]:
        parent, _, last = name.rpartition(".")
        if isinstance(layer, tuner):
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise ModelError(f"{name}: its adapter cannot be added to it: {one_line(error)}") from error
            plain = layer.get_base_layer()
        else:
            plain = layer.modules_to_save[_name(model)]
        setattr(model.get_submodule(parent), last, plain)
    del model.peft_config
    model._hf_peft_config_loaded = False
