"""Which weights of a student a hook is for: those of layers that multiply their inputs, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from logitstore.errors import BadInput
from logitstore.settings.models.lora import ALL_LINEAR

_KINDS = (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Chosen:
    """A weight that a hook changes.

    Attributes:
        name: of the weight in the student, as `named_parameters` has it.
        channels: the dimension of its output channels: 0, but for the layers of GPT-2 1.
    """

    name: str
    channels: int

    def of(self, student: nn.Module) -> nn.Parameter:
        """Return the weight."""
        return student.get_parameter(self.name)

    def rows(self, weight: Tensor) -> Tensor:
        """Return a view of a tensor of its shape as [output channels, the rest]; a copy where the rest has several
        dimensions."""
        return weight.movedim(self.channels, 0).flatten(1)

    def unrows(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return what `rows` made of a tensor, in the shape of that tensor."""
        return rows.reshape(like.movedim(self.channels, 0).shape).movedim(0, self.channels)


def chosen(student: PreTrainedModel, targets: Sequence[str]) -> list[Chosen]:
    """Return the weights of a student's layers that `targets` name. One that several layers share is named once.

    Args:
        student: the model.
        targets: names of linear and convolutional layers, ends of names, or patterns with * and ?; all-linear alone stands
            for all but the output layer of a language model.

    Raises:
        BadInput: a target is the name of no such layer.
    """
    layers = {name: each for name, each in student.named_modules() if isinstance(each, _KINDS)}
    if tuple(targets) == (ALL_LINEAR,):
        output = student.get_output_embeddings()
        shared = {id(each.weight) for each in student.modules() if isinstance(each, nn.Embedding)}
        names = [name for name, each in layers.items() if each is not output and id(each.weight) not in shared]
    else:
        named = {target: [name for name in layers if _fits(name, target)] for target in targets}
        if (lost := next((target for target, found in named.items() if not found), None)) is not None:
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise BadInput(f"targets={lost}: no layer with a matrix has this name; they end in {ends}.")
        names = [name for name in layers if any(name in found for found in named.values())]
    if not names:
        raise BadInput(f"targets={','.join(targets)}: a {type(student).__name__} has no such layer.")
    own = {id(weight): name for name, weight in student.named_parameters()}
    found = {own[id(layers[name].weight)]: layers[name] for name in names}
    return [Chosen(name, 1 if isinstance(layer, Conv1D) else 0) for name, layer in found.items()]


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}") or fnmatchcase(name, target)
