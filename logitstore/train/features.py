"""What objectives on features compare on a cache: the names of the features of both models, and their shapes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from logitstore.core.methods import method_of
from logitstore.core.tasks import task_of
from logitstore.format.tap_names import FINAL
from logitstore.models.load import config_from
from logitstore.models.shape import is_causal, layer_count, shape_of
from logitstore.settings.train import TermSettings
from logitstore.store.cache import Cache
from logitstore.train.objectives.features.feature import Pair, Shapes


def pairs_of(pull: TermSettings, cache: Cache, student_layers: int) -> list[Pair]:
    """Return the pairs of features that one pull compares: the student's and the teacher's.

    Raises:
        BadInput: a layer is not there.
    """
    method = method_of(pull.name)
    if method.form != "features":
        return []
    # a convolutional network has one feature alone, what its output layer takes
    student_layers = max(student_layers, 1)
    teacher_layers = max(layer_count(config_from(cache.manifest.teacher.config)), 1)
    pairs: list[Pair] = method.function.pairs(student_layers, teacher_layers, **method.options | pull.options)
    if method.taps == FINAL or not task_of(cache.manifest.task).at_places:
        return pairs
    # of a classifier, `final` is one vector: it stands for the last layer where nothing else of that is compared
    own, last = last_layers(cache, student_layers)
    if all(pair == (FINAL, FINAL) for pair in pairs) and last not in cache.taps:
        return pairs
    return [(own if name == FINAL else name, last if other == FINAL else other) for name, other in pairs]


def last_layers(cache: Cache, student_layers: int) -> Pair:
    """Return the names of what the last layer of a student, and that of the teacher, gives at every place."""
    teacher_layers = layer_count(config_from(cache.manifest.teacher.config))
    return f"hidden-{student_layers}", f"hidden-{teacher_layers}"


def at_places(cache: Cache, pairs: Collection[Pair]) -> frozenset[str]:
    """Return the names of the student's features, of some pairs, that are compared at every place of a sample."""
    return frozenset(name for name, other in pairs if cache.taps[other].info.places is not None)


def shapes_of(names: Collection[Pair], cache: Cache, student: dict[str, Any]) -> Shapes:
    """Return what the objectives on features need to know of both models.

    Args:
        names: the features that one objective compares.
        cache: of the teacher.
        student: the shape of the student, see `shape_of`.
    """
    teacher = shape_of(config_from(cache.manifest.teacher.config))
    layers = int(student["num_hidden_layers"] or 0)
    own, last = last_layers(cache, layers)
    widths_student = {name: width_of(student, name) for name, _ in names}
    widths_teacher = {name: cache.taps[name].info.width for _, name in names}
    # an objective calls the last layer `final`, also at places
    for widths, name in ((widths_student, own), (widths_teacher, last)):
        if name in widths:
            widths.setdefault(FINAL, widths[name])
    return Shapes(
        student_layers=max(layers, 1),
        teacher_layers=max(int(teacher["num_hidden_layers"] or 0), 1),
        widths_student=widths_student,
        widths_teacher=widths_teacher,
        heads_student=int(student["num_attention_heads"] or 0),
        heads_teacher=int(teacher["num_attention_heads"] or 0),
        key_heads_student=_key_heads(student),
        key_heads_teacher=_key_heads(teacher),
        causal=is_causal(config_from(cache.manifest.teacher.config)),
    )


def width_of(config: dict[str, Any], feature: str) -> int:
    """Return the number of channels of a model's feature."""
    kind = feature.partition("-")[0]
    if kind == "final":
        return int(config.get("final_size") or config["hidden_size"])
    if kind == "hidden":
        return int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    return head_dim * (int(config["num_attention_heads"]) if kind == "query" else _key_heads(config))


def _key_heads(config: dict[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"] or 0)
