"""The weights of a model one after the other, each whole, wherever the model lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from logitstore.models.placing.placement import packing_of


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter whole, by its name, in the model's order; one that layers share comes once.

    A model that is spread over devices or processes, or lies on the disk, gives the same as on one device. No more than one
    parameter is made whole at a time.
    """
    shared = _shared_with(model)
    for name, value in model.named_parameters():
        found = whole(model, name, value)
        if name in shared and torch.equal(found, whole_by_name(model, shared[name]).to(found.device)):
            continue
        yield name, found


def named_scales(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a model with packed weights keeps beside its parameters to unpack them; nothing for other models."""
    if packing_of(model.config) is None:
        return
    parameters = {name for name, _ in model.named_parameters()}
    for name, value in sorted(model.state_dict().items()):
        if name not in parameters:
            yield name, whole(model, name, value) if isinstance(value, Tensor) else value


def plain_tensors(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors that a packed one consists of, by their names; a plain one as it is."""
    if not hasattr(value, "__tensor_flatten__"):
        yield name, value
        return
    inner, _ = value.__tensor_flatten__()
    for each in inner:
        yield from plain_tensors(f"{name}.{each}", getattr(value, each))


def _shared_with(model: Any) -> dict[str, str]:
    """Return which parameters of a spread model may be another one under a second name, and that one.

    On the disk a weight that two layers share has two entries. Elsewhere it is one object, which comes once by itself.
    """
    if getattr(model, "hf_device_map", None) is None:
        return {}
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    first: dict[str, str] = {}
    shared = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        source = tied.get(name, name)
        if source in first and name != first[source]:
            shared[name] = first[source]
        first.setdefault(source, name)
    return shared


def whole_by_name(model: Any, name: str) -> Tensor:
    """Return a parameter or buffer of a model by its name, whole."""
    owner, _, last = name.rpartition(".")
    return whole(model, name, getattr(model.get_submodule(owner), last))


def whole_of(model: Any, layer: nn.Module, which: str = "weight") -> Tensor:
    """Return a parameter of a layer of a model, whole and detached."""
    value: Tensor = getattr(layer, which)
    if not _is_split(value) and not value.is_meta:
        return value.detach()
    owner = next(name for name, each in model.named_modules() if each is layer)
    return whole(model, f"{owner}.{which}".lstrip("."), value).detach()


def whole(model: Any, name: str, value: Tensor) -> Tensor:
    """Return a tensor of a model whole: gathered from all processes, or read from where it was put away."""
    if _is_split(value):
        return model.ranks.gathered(name, value)  # type: ignore[no-any-return]
    return _put_away(model, name) if value.is_meta else value


def _is_split(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def _put_away(model: Any, name: str) -> Tensor:
    """Return a weight that Accelerate keeps in the memory of the machine or on the disk until it is needed."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        owner = model.get_submodule(".".join(parts[:depth]))
        kept = getattr(getattr(owner, "_hf_hook", None), "weights_map", None)
        if kept is not None:
            found: Tensor = kept[".".join(parts[depth:])]
            return found
    raise ValueError(f"{name} of {type(model).__name__} has no value")


def is_put_away(model: Any, name: str) -> bool:
    """Return True where a weight without a value here lies in the memory of the machine or on the disk."""
    try:
        return not _put_away(model, name).is_meta
    except (KeyError, ValueError):
        return False
