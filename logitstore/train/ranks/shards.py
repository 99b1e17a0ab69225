"""Weights and states of which each rank holds a piece: made whole to compute with and to save, cut again to go on.

Axes: V vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, distribute_tensor
from transformers import PreTrainedModel

from logitstore.errors import ModelError
from logitstore.models.head import LinearHead

_CHECKPOINTED = "_checkpoint_wrapped_module."
"""What stands in the names of a layer whose activations are computed again."""


def whole(weight: Tensor) -> Tensor:
    """Return a weight in one piece, with a gradient: each rank's is averaged over the ranks and cut, as FSDP does.

    Every rank must ask at the same place. A weight that is in one piece already is returned as it is.
    """
    if not isinstance(weight, DTensor):
        return weight
    found: Tensor = _Whole.apply(weight)  # type: ignore[no-untyped-call]
    return found


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: DTensor) -> Tensor:
        ctx.mesh, ctx.placements = weight.device_mesh, weight.placements
        pieces: Any = weight.detach()
        found: Tensor = pieces.full_tensor()
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mean = gradients[0] / ctx.mesh.size()
        parts = DTensor.from_local(mean, ctx.mesh, [Partial()] * ctx.mesh.ndim, run_check=False)
        return parts.redistribute(ctx.mesh, ctx.placements)


def anchored(student: nn.Module, hidden: Tensor, output: Tensor) -> Tensor:
    """Return a tensor from within the forward pass of a student, whose gradient goes through the student's output too.

    FSDP gathers the weights for the backward pass when the gradient of an output arrives. Without one PyTorch 2.13 would read
    the freed memory of those that were cut again, and end by SIGSEGV.
    """
    return hidden + output.sum() * 0 if isinstance(student, FSDPModule) else hidden


def head_of(student: PreTrainedModel, head: LinearHead) -> LinearHead:
    """Return the output layer of a student as its parameters are now; call it after the student's forward pass.

    FSDP puts other parameters into the student than those that `head` was made of.
    """
    if not isinstance(student, FSDPModule):
        return head
    model: Any = student
    layer = model.get_output_embeddings()
    bias_V = getattr(layer, "bias", None)
    return replace(head, weight_VD=whole(layer.weight), bias_V=None if bias_V is None else whole(bias_V))


def whole_states(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimizer with every tensor in one piece in the memory of the machine, as it would be without
    FSDP. Every rank must ask at the same place."""
    kept: dict[str, Any] = optimizer.state_dict()
    states = {
        place: {name: _whole_on_host(value) for name, value in state.items()} for place, state in kept["state"].items()
    }
    return kept | {"state": states}


def _whole_on_host(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def take_states(optimizer: Any, kept: dict[str, Any]) -> None:
    """Give an optimizer the state that `whole_states` returned, in the pieces of its parameters."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    states = {
        place: {name: _cut(value, parameters[int(place)]) for name, value in state.items()}
        for place, state in kept["state"].items()
    }
    optimizer.load_state_dict(kept | {"state": states})


def _cut(value: Any, parameter: Tensor) -> Any:
    if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
        mesh = parameter.device_mesh
        return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)
    return value


def untied(student: nn.Module, whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return whole weights by their names without those that are tied to another of them: each is saved once, as of a student
    in one piece, where the two share their memory."""
    tied: dict[str, str] = getattr(student, "all_tied_weights_keys", {})
    return {name: value for name, value in whole.items() if tied.get(name) not in whole}


@torch.no_grad()
def take_weights(student: nn.Module, kept: dict[str, Tensor]) -> None:
    """Write whole weights by their names into a student, in pieces or not. A weight that is tied to another is written once."""
    if not isinstance(student, FSDPModule):
        student.load_state_dict(kept)
        return
    names: dict[int, list[str]] = {}
    for name, parameter in student.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.replace(_CHECKPOINTED, ""))
    for parameter in student.parameters():
        own = names[id(parameter)]
        found = next((name for name in own if name in kept), None)
        if found is None:
            raise ModelError(f"the kept weights have none for '{own[0]}'. Train again, or choose another checkpoint.")
        parameter.copy_(_cut(kept[found], parameter))
    for name, buffer in student.named_buffers():
        if (plain := name.replace(_CHECKPOINTED, "")) in kept:
            buffer.copy_(_cut(kept[plain], buffer))
