"""The classes of a classifier: whether a student has the teacher's, and how its configuration names them."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.errors import CacheMismatch
from logitstore.models.load import load_config
from logitstore.models.shape import refuse_no_softmax
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import read_pieces


def lacks_classes(config: PretrainedConfig) -> bool:
    """Return True for a model of masked tokens. It can begin a classifier: all but its output is kept."""
    return any(architecture.endswith("ForMaskedLM") for architecture in config.architectures or ())


def check_classifier(cache: Cache, student: ModelRef, *, may_begin: bool = False) -> None:
    """Compare a student's classes with the cache's.

    Args:
        cache: of the teacher.
        student: the student.
        may_begin: whether a model without classes will get those of the cache.

    Raises:
        ModelError: there is no such model, or its outputs are no softmax over classes.
        CacheMismatch: the student has another number of classes, or gives them other names.
    """
    config = load_config(student)
    if may_begin and student.loaded is None and lacks_classes(config):
        return
    refuse_no_softmax(config, student)
    names = [str(name) for name in read_pieces(cache).to_pylist()]
    if config.num_labels != len(names):
        raise CacheMismatch(
            f"{student}: it has {config.num_labels} classes, {cache.path} {len(names)} ({', '.join(names[:3])}, ...). "
            f"Choose a student with {len(names)} classes."
        )
    student_names = [str(config.id2label[number]) for number in range(len(names))]
    differing = [
        number for number in range(len(names)) if student_names[number] not in (names[number], f"LABEL_{number}")
    ]
    if differing and not all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        number = differing[0]
        raise CacheMismatch(
            f"{student}: class {number} is '{student_names[number]}' there and '{names[number]}' in {cache.path}. "
            "Choose a student with the teacher's classes in the teacher's order."
        )


def class_names(cache: Cache) -> dict[str, Any]:
    """Return the entries of a configuration that name its classes as the cache names them."""
    names = [str(name) for name in read_pieces(cache).to_pylist()]
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
