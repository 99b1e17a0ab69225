"""Which layer of the student looks at which layer of the teacher, and what the features of a layer are called."""

from __future__ import annotations

import re

from logitstore.errors import BadInput
from logitstore.features.feature import Pair


def layer_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """(layer of the student, layer of the teacher); decoder layers count from 1, and 0 stands for the embeddings.

    Args:
        layers: one of
            "uniform": layer i of the L_S on layer round(i * L_T / L_S) of the L_T, so the last on the last;
            "last-3": the last three on the last three, in their order; any other number likewise;
            "all": each on the one at its own depth, of which both have as many;
            "1:4,2:8": the pairs themselves, the student's layer first.
        student_layers, teacher_layers: how many decoder layers the models have.

    Raises:
        BadInput: none of these, or layers that are not there.
    """
    if layers == "uniform":
        ratio = teacher_layers / student_layers
        return [(layer, max(1, round(layer * ratio))) for layer in range(1, student_layers + 1)]
    if layers == "all":
        if student_layers != teacher_layers:
            raise BadInput(
                f"layers 'all': the student has {student_layers} layers and the teacher {teacher_layers}; it needs as many "
                "on both sides. Use 'uniform'."
            )
        return [(layer, layer) for layer in range(1, student_layers + 1)]
    if (last := re.fullmatch(r"last-(\d+)", layers)) is not None:
        return _last(int(last[1]), student_layers, teacher_layers)
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", layers):
        return _explicit(layers, student_layers, teacher_layers)
    raise BadInput(f"layers '{layers}': write uniform, all, last-N such as last-3, or pairs such as 1:4,2:8.")


def hidden_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """The names of the hidden states of `layer_pairs`; a last layer's is "final".

    Raises:
        BadInput: as `layer_pairs`.
    """
    return [
        (_hidden(own, student_layers), _hidden(other, teacher_layers))
        for own, other in layer_pairs(layers, student_layers, teacher_layers)
    ]


def attention_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """The names of queries, keys and values of `layer_pairs`, three pairs a layer, in this order.

    Raises:
        BadInput: as `layer_pairs`, or layer 0, which has no attention.
    """
    found = layer_pairs(layers, student_layers, teacher_layers)
    if any(0 in pair for pair in found):
        raise BadInput(f"layers '{layers}': layer 0 is the embeddings, which have no queries. Count layers from 1.")
    kinds = ("query", "key", "value")
    return [(f"{kind}-{own}", f"{kind}-{other}") for own, other in found for kind in kinds]


def _last(count: int, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    most = min(student_layers, teacher_layers)
    if not 1 <= count <= most:
        raise BadInput(
            f"layers 'last-{count}': the student has {student_layers} layers and the teacher {teacher_layers}. Name from 1 to "
            f"{most} of them."
        )
    return [(student_layers - back, teacher_layers - back) for back in reversed(range(count))]


def _explicit(layers: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    found = []
    for piece in layers.split(","):
        own, other = (int(number) for number in piece.split(":"))
        for side, number, count in (("student", own, student_layers), ("teacher", other, teacher_layers)):
            if number > count:
                raise BadInput(
                    f"layers '{layers}': {piece}: the {side} has {count} layers. Name one from 0 to {count}."
                )
        found.append((own, other))
    if len(set(found)) < len(found):
        raise BadInput(f"layers '{layers}': a pair stands there twice. Name each once.")
    return found


def _hidden(layer: int, layers: int) -> str:
    return "final" if layer == layers else f"hidden-{layer}"
