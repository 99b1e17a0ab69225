"""Map layers of the student to layers of the teacher, and name the features of a layer."""

from __future__ import annotations

import re

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import Pair


def layer_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Return pairs (layer of the student, layer of the teacher). Decoder layers count from 1; 0 stands for the embeddings.

    Args:
        layers: one of
            "uniform": layer i of the student's L_S goes to layer round(i * L_T / L_S) of the teacher's L_T, so the last
                goes to the last;
            "inner": the same without the student's last layer;
            "last-3": the last three go to the last three, in their order; any other number likewise;
            "all": each layer goes to the one at its own depth; both models need the same number of layers;
            "at-0.75": the two at this share of the depth of each, from the first on;
            "1:4,2:8": the pairs themselves, the student's layer first.
        student_layers, teacher_layers: number of decoder layers of each model.

    Raises:
        BadInput: the text is none of these, or a layer is not there.
    """
    if layers in ("uniform", "inner"):
        ratio = teacher_layers / student_layers
        count = student_layers - (layers == "inner")
        if not count:
            raise BadInput(f"layers 'inner': the student has {student_layers} layer. Use 'uniform'.")
        return [(layer, max(1, round(layer * ratio))) for layer in range(1, count + 1)]
    if layers == "all":
        if student_layers != teacher_layers:
            raise BadInput(
                f"layers 'all': the student has {student_layers} layers and the teacher {teacher_layers}; it needs as many "
                "on both sides. Use 'uniform'."
            )
        return [(layer, layer) for layer in range(1, student_layers + 1)]
    if (last := re.fullmatch(r"last-(\d+)", layers)) is not None:
        return _last(int(last[1]), student_layers, teacher_layers)
    if (share := re.fullmatch(r"at-(0?\.\d+|1)", layers)) is not None:
        return [(max(1, round(float(share[1]) * student_layers)), max(1, round(float(share[1]) * teacher_layers)))]
    if re.fullmatch(r"\d+:\d+(,\d+:\d+)*", layers):
        return _explicit(layers, student_layers, teacher_layers)
    raise BadInput(
        f"layers '{layers}': write uniform, inner, all, last-N such as last-3, at-SHARE such as at-0.75, or pairs such as "
        "1:4,2:8."
    )


def hidden_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """Return the names of the hidden states of `layer_pairs`; the name of a last layer is "final".

    Raises:
        BadInput: as `layer_pairs`.
    """
    return [
        (_hidden(student_layer, student_layers), _hidden(teacher_layer, teacher_layers))
        for student_layer, teacher_layer in layer_pairs(layers, student_layers, teacher_layers)
    ]


def attention_pairs(layers: str, student_layers: int, teacher_layers: int) -> list[Pair]:
    """Return the names of queries, keys and values of `layer_pairs`, three pairs for each layer, in this order.

    Raises:
        BadInput: as `layer_pairs`, or layer 0, which has no attention.
    """
    pairs = layer_pairs(layers, student_layers, teacher_layers)
    if any(0 in pair for pair in pairs):
        raise BadInput(f"layers '{layers}': layer 0 is the embeddings, which have no queries. Count layers from 1.")
    kinds = ("query", "key", "value")
    return [
        (f"{kind}-{student_layer}", f"{kind}-{teacher_layer}")
        for student_layer, teacher_layer in pairs
        for kind in kinds
    ]


def _last(count: int, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    most = min(student_layers, teacher_layers)
    if not 1 <= count <= most:
        raise BadInput(
            f"layers 'last-{count}': the student has {student_layers} layers and the teacher {teacher_layers}. Name from 1 to "
            f"{most} of them."
        )
    return [(student_layers - back, teacher_layers - back) for back in reversed(range(count))]


def _explicit(layers: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    pairs = []
    for piece in layers.split(","):
        student_layer, teacher_layer = (int(number) for number in piece.split(":"))
        for side, number, count in (
            ("student", student_layer, student_layers),
            ("teacher", teacher_layer, teacher_layers),
        ):
            if number > count:
                raise BadInput(
                    f"layers '{layers}': {piece}: the {side} has {count} layers. Name one from 0 to {count}."
                )
        pairs.append((student_layer, teacher_layer))
    if len(set(pairs)) < len(pairs):
        raise BadInput(f"layers '{layers}': a pair stands there twice. Name each once.")
    return pairs


def _hidden(layer: int, layers: int) -> str:
    return "final" if layer == layers else f"hidden-{layer}"
