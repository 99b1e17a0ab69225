"""Whether an image classifier fits a cache of images, and what is saved with it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.cache.layout import inside
from logitstore.cache.reader import Cache
from logitstore.cache.vocabulary import read_pieces
from logitstore.errors import CacheMismatch
from logitstore.models import load_config, sized
from logitstore.types import ModelRef

PROCESSOR = "preprocessor_config.json"


def check_classifier(cache: Cache, student: ModelRef) -> None:
    """Compare a student's classes with the cache's.

    Raises:
        ModelError: there is no such model.
        CacheMismatch: it has another number of classes, or gives them other names.
    """
    config = load_config(student)
    names = [str(name) for name in read_pieces(cache).to_pylist()]
    if config.num_labels != len(names):
        raise CacheMismatch(
            f"{student}: it has {config.num_labels} classes, {cache.path} {len(names)} ({', '.join(names[:3])}, ...). "
            f"Choose a student with {len(names)} classes."
        )
    own = [str(config.id2label[number]) for number in range(len(names))]
    differing = [number for number in range(len(names)) if own[number] not in (names[number], f"LABEL_{number}")]
    if differing and not all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        number = differing[0]
        raise CacheMismatch(
            f"{student}: class {number} is '{own[number]}' there and '{names[number]}' in {cache.path}. "
            "Choose a student with the teacher's classes in the teacher's order."
        )


def class_names(cache: Cache) -> dict[str, Any]:
    """The entries of a configuration that name its classes as they are named in a cache."""
    names = [str(name) for name in read_pieces(cache).to_pylist()]
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def check_takes(student: PreTrainedModel, name: str, pixels_B3HW: Tensor) -> None:
    """Show a student one image.

    Args:
        student: is left as it was.
        name: of it.
        pixels_B3HW: float32; the first is shown.

    Raises:
        ModelError: it cannot take images of this size.
    """
    was_training = student.training
    first_13HW = pixels_B3HW[:1].to(student.device, student.dtype)
    with sized(name, first_13HW), torch.inference_mode():
        student.eval()(pixel_values=first_13HW)
    student.train(was_training)


def size_of(student: ModelRef, config: PretrainedConfig) -> int | None:
    """Edge of the images that a student takes: as its configuration says, else the image processor that is saved with it."""
    said: Any = getattr(config, "image_size", None)
    kept = Path(student.name) / PROCESSOR
    if not isinstance(said, int) and kept.is_file():
        with suppress(ValueError, AttributeError):
            size = json.loads(kept.read_text(encoding="utf-8")).get("size")
            said = size.get("height") if isinstance(size, dict) and size.get("height") == size.get("width") else None
    return said if isinstance(said, int) else None


def save_processor(cache: Cache, student: ModelRef | None, out: Path, size: int | None) -> None:
    """Save an image processor with a student: its own, else the teacher's.

    Args:
        cache: of the teacher.
        student: the model that was trained, if it is not a fresh one.
        out: folder of the trained student.
        size: edge of the images that it was shown, where it was asked for.
    """
    own = Path(student.name) / PROCESSOR if student is not None else None
    kept = inside(cache.path, f"{cache.manifest.shared_file('processor')}/{PROCESSOR}")
    source = own if own is not None and own.is_file() else kept
    if size is None:
        shutil.copyfile(source, out / PROCESSOR)
        return
    said = json.loads(source.read_text(encoding="utf-8"))
    said["size"] = {"height": size, "width": size}
    if said.get("do_center_crop"):
        said["crop_size"] = said["size"]
    (out / PROCESSOR).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
