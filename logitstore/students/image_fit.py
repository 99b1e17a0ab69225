"""Check that an image classifier fits a cache of images, and choose what is saved with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.cache.layout import inside
from logitstore.cache.reader import Cache
from logitstore.cache.vocabulary import read_pieces
from logitstore.errors import CacheMismatch
from logitstore.image_processor import edge_of, load_processor, resized
from logitstore.models import load_config, sized
from logitstore.types import ModelRef

PROCESSOR = "preprocessor_config.json"


def check_classifier(cache: Cache, student: ModelRef) -> None:
    """Compare a student's classes with the cache's.

    Raises:
        ModelError: there is no such model.
        CacheMismatch: the student has another number of classes, or gives them other names.
    """
    config = load_config(student)
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


def check_takes(student: PreTrainedModel, name: str, pixels_B3HW: Tensor) -> None:
    """Show a student one image, to check that it takes images of this size.

    Args:
        student: the student; it is left as it was.
        name: name of the student.
        pixels_B3HW: float32; the first is shown.

    Raises:
        ModelError: the student cannot take images of this size.
    """
    was_training = student.training
    first_13HW = pixels_B3HW[:1].to(student.device, student.dtype)
    with sized(name, first_13HW), torch.inference_mode():
        student.eval()(pixel_values=first_13HW)
    student.train(was_training)


def size_of(student: ModelRef, config: PretrainedConfig) -> int | None:
    """Return the edge of the images that a student takes: from its configuration, else from the image processor saved with
    it.

    Raises:
        ModelError: the image processor cannot be read, or names no size.
    """
    edge: Any = getattr(config, "image_size", None)
    if isinstance(edge, int):
        return edge
    return edge_of(load_processor(student), str(student)) if _has_processor(student) else None


def processor_for(cache: Cache, student: ModelRef | None, edge: int | None) -> bytes:
    """Return the image processor that belongs with a trained student: its own, else the teacher's.

    Args:
        cache: the teacher's cache.
        student: the model that is trained; None for a fresh one.
        edge: edge of the images that the student is shown, if the plan gives one.

    Raises:
        ModelError: the student's own processor cannot be read, or names no size.
    """
    kept = inside(cache.path, cache.manifest.shared_file("processor"))
    source = student if student is not None and _has_processor(student) else ModelRef(name=str(kept))
    if edge is None:
        return (Path(source.name) / PROCESSOR).read_bytes()
    settings = resized(load_processor(source), str(source), edge)
    return json.dumps(settings, indent=2).encode() + b"\n"


def _has_processor(student: ModelRef) -> bool:
    return (Path(student.name) / PROCESSOR).is_file()
