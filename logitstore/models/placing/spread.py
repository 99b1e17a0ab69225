"""Layers on several devices, in the memory of the machine and on the disk, through Accelerate."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.models.placing.placement import Placement
from logitstore.settings.models.placing import STRATEGIES

DISK = "disk"

LARGEST_MAP = 1 << 22
"""Most bytes of a file that maps modules to devices."""


def device_map_of(placement: Placement) -> str | dict[str, int | str] | None:
    """Return the map as transformers takes it: a way to make one, or the device of each module.

    Raises:
        BadInput: it names devices that are not here, or is no map.
    """
    given = placement.device_map
    if placement.max_memory is not None:
        for name in placement.max_memory:
            _check_device(_device(name), f"--max-memory {name}=...")
    return given if given is None or given in STRATEGIES else _read_map(Path(given).expanduser())


def memory_of(placement: Placement) -> dict[int | str, int] | None:
    """Return the bytes that may be used on each device, as Accelerate takes them."""
    if placement.max_memory is None:
        return None
    return {_device(name): size for name, size in placement.max_memory.items()}


def _device(name: str) -> int | str:
    return int(name) if name.isdigit() else name


def _read_map(path: Path) -> dict[str, int | str]:
    option = f"--device-map {path}"
    try:
        if path.stat().st_size > LARGEST_MAP:
            raise ValueError("it is too large")
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(STRATEGIES)
        raise BadInput(f"{option}: there is no such file. Give one of {known}, or a JSON file.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{option}: cannot be read as JSON: {one_line(error)}. Give an object of modules.") from error
    if not isinstance(said, dict) or not said:
        raise BadInput(f'{option}: give an object with a device for each module, such as {{"model.layers.0": 0}}.')
    for name, device in said.items():
        if isinstance(device, bool) or not isinstance(device, int | str):
            raise BadInput(
                f"{option}: {name} is on {device!r:.40}. Give a number, cpu, disk, or a name such as cuda:1."
            )
        _check_device(device, f"{option}: {name}")
    return said


def _check_device(device: int | str, what: str) -> None:
    """Refuse a device that is not here."""
    if device in ("cpu", DISK):
        return
    count = torch.accelerator.device_count()
    try:
        number = device if isinstance(device, int) else torch.device(device).index or 0
    except RuntimeError as error:
        raise BadInput(f"{what}: {device} is no device. Give a number, cpu, disk, or a name such as cuda:1.") from error
    if not 0 <= number < count:
        raise BadInput(f"{what}: there is no accelerator {device} here; there are {count}. Give cpu, or less.")


def check_map(given: Mapping[str, Any], model: nn.Module, option: str) -> None:
    """Refuse a map that names modules which a model does not have, or leaves some out.

    Args:
        given: devices by module.
        model: the model, or its skeleton.
        option: what messages begin with.

    Raises:
        BadInput: naming the first.
    """
    weights = [name for name, _ in model.named_parameters()]
    names = {name for name, _ in model.named_modules()} | set(weights)
    for name in given:
        if name not in names:
            raise BadInput(f"{option}: the model has no module '{name}'. {suggest(name, sorted(names))}")
    for name in weights:
        if not _covering(name, given):
            module = name.rpartition(".")[0]
            raise BadInput(
                f"{option}: it says no device for {module}. Give one for each module, or for '' (all others)."
            )


def _covering(name: str, given: Iterable[str]) -> bool:
    return any(each in ("", name) or name.startswith(f"{each}.") for each in given)


def offload_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for weights that are written anew because they do not lie in the model's files as they are used."""
    return tempfile.TemporaryDirectory(prefix="logitstore-offload-", ignore_cleanup_errors=True)


def keep_folder(model: PreTrainedModel, folder: tempfile.TemporaryDirectory[str]) -> None:
    """Remove a folder of weights when the model is gone, or with the process."""
    weakref.finalize(model, folder.cleanup)


def answers_on(model: Any) -> torch.device:
    """Return the device to which a model's inputs are given, and on which it then answers.

    A model that is spread moves its inputs where they are needed, and its answer back to where they were. Its output layer
    answers without a copy.
    """
    if getattr(model, "hf_device_map", None) is None:
        return torch.device(model.device)
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    # a model that wraps another one has no hook of its own
    for each in (layer, model, getattr(model, "base_model", None)):
        device = getattr(getattr(each, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device) if not isinstance(device, int) else torch.device(_accelerator(), device)
    weight = getattr(layer, "weight", None)
    return torch.device(next(model.parameters()).device if weight is None else weight.device)


def _accelerator() -> str:
    current = torch.accelerator.current_accelerator()
    return "cuda" if current is None else current.type


def lies_where(model: Any) -> str | None:
    """Return how many modules of a model lie where; None for a model that lies on one device."""
    placed = getattr(model, "hf_device_map", None)
    if placed is None:
        return None
    counts: dict[str, int] = {}
    for device in placed.values():
        counts[str(device)] = counts.get(str(device), 0) + 1
    return "modules on " + ", ".join(f"{device}: {count}" for device, count in counts.items())
