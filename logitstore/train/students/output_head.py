"""The output layer of a student as part of its loss: found, compared with the student's own logits, then fed by hand.

Axes: B sequences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.errors import ModelError
from logitstore.models.head import LinearHead
from logitstore.train.ranks.shards import anchored


class UnknownHead(Exception):
    """Why the loss must be taken from the logits."""


def output_head(student: PreTrainedModel, input_ids_BT: Tensor) -> LinearHead:
    """The output layer of a student, if its logits are what `LinearHead` says of its final hidden states.

    Args:
        input_ids_BT: a few tokens to compare them on, on the student's device.

    Raises:
        UnknownHead: they are not, or its hidden states cannot be had without its logits.
    """
    layer: Any = student.get_output_embeddings()
    is_masked = fills_masks(student)
    if not is_masked and not _keeps_some(student):
        raise UnknownHead(f"{type(student).__name__} always computes all logits")
    was_training = student.training
    student.eval()
    try:
        found = LinearHead.of(student, student.config, head_width(layer))
        with torch.no_grad(), _seen(student) as hidden:
            logits_BTV = student(input_ids=input_ids_BT, **({} if is_masked else {"use_cache": False})).logits
            # the base model of OPT and of decoders of the Bart family is bypassed
            if (student.base_model is student and not is_masked) or not hidden or hidden[-1].shape[-1] != found.width:
                raise UnknownHead(f"{type(student).__name__} has no part that gives its final hidden states")
            if logits_BTV.shape[-1] != len(found.weight_VD):
                raise UnknownHead(f"{type(student).__name__} gives {logits_BTV.shape[-1]} logits from a larger layer")
            found = found.matching(type(student).__name__, hidden[-1].flatten(0, 1), logits_BTV.flatten(0, 1))
    except ModelError as error:
        raise UnknownHead(str(error).partition(". Use --preset")[0]) from error
    finally:
        student.train(was_training)
    return replace(found, weight_VD=layer.weight, bias_V=layer.bias)


def fills_masks(student: PreTrainedModel) -> bool:
    """Return True for a model of masked tokens. Between its last layer and its output layer there is a small network, and it
    computes the logits of all positions, unless its output layer is shown fewer of them."""
    return type(student).__name__.endswith("ForMaskedLM")


def _keeps_some(student: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(student.forward).parameters


def head_width(layer: nn.Module | None) -> int:
    """Rows of an output layer, padding included; 0 where it has no weight."""
    weight = getattr(layer, "weight", None)
    return 0 if weight is None else len(weight)


def final_hidden(run: Callable[..., Any], student: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """[B, T, D]: what the output layer would take; of the logits only those of the last position are computed.

    Args:
        run: the student, perhaps wrapped for several processes.
        student: the model within.
        inputs: of the student.
    """
    with _seen(student, last_alone=True) as hidden:
        output = run(**inputs, **({} if fills_masks(student) else {"logits_to_keep": 1}))
    return anchored(student, hidden[-1], output.logits)


@contextmanager
def _seen(student: PreTrainedModel, last_alone: bool = False) -> Iterator[list[Tensor]]:
    """What the output layer takes of the student, while the context lasts.

    Args:
        student: the model.
        last_alone: of a model of masked tokens, the output layer is shown the last position alone.
    """
    found: list[Tensor] = []
    handle: Any
    if fills_masks(student):

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found.append(inputs[0])
            return (inputs[0][:, -1:], *inputs[1:]) if last_alone else inputs

        layer: Any = student.get_output_embeddings()
        handle = layer.register_forward_pre_hook(keep)
    else:
        handle = student.base_model.register_forward_hook(lambda _module, _inputs, output: found.append(output[0]))
    try:
        yield found
    finally:
        handle.remove()
