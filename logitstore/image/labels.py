"""The classes of a teacher, and which class each image of the data has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PretrainedConfig

from logitstore.core.types import Array
from logitstore.errors import BadInput, ModelError
from logitstore.image.data.images import Images
from logitstore.models.shape import shape_of
from logitstore.settings.dump import DumpSettings

FEW_CLASSES = 16
"""As many as preset topk lists; of more, small is both smaller and nearer to the teacher."""


def compares_texts(config: PretrainedConfig) -> bool:
    """Whether it compares images with texts, as CLIP does."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config")


def output_width(config: PretrainedConfig, is_zero_shot: bool) -> int | None:
    """Channels of what the output layer takes, where the configuration says it."""
    width = getattr(config, "projection_dim", None) if is_zero_shot else shape_of(config)["hidden_size"]
    return int(width) if width else None


def classes_of(settings: DumpSettings, config: PretrainedConfig, is_zero_shot: bool) -> list[str]:
    if is_zero_shot and settings.classes is None:
        raise BadInput(
            f"{settings.teacher}: it compares images with texts. Name the classes with --classes cat,dog,..."
        )
    if not is_zero_shot and (settings.classes is not None or settings.prompt is not None):
        raise BadInput("--classes and --prompt are for teachers that compare images with texts. Leave them out.")
    if settings.classes is not None:
        names = [name.strip() for name in settings.classes.split(",")]
        if "" in names or len(set(names)) < len(names) or len(names) < 2:
            raise BadInput(f"--classes {settings.classes}: name two classes or more, each once.")
        if settings.prompt is not None and "{}" not in settings.prompt:
            raise BadInput(f"--prompt '{settings.prompt}': put {{}} where the name of the class goes.")
        return names
    architecture = (config.architectures or [""])[0]
    if "ForImageClassification" not in architecture:
        raise ModelError(f"{settings.teacher}: {architecture or config.model_type} is no image classifier.")
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def labels_for(images: Images, names: Sequence[str], teacher: str) -> Array:
    """int64: the teacher's number of each image's class, -1 without one.

    Classes go by their names; by their numbers where the data name none, or as many as the teacher and none as it does.

    Raises:
        BadInput: classes that the teacher does not have.
    """
    own = images.label_names
    if own is not None and set(own) <= set(names):
        number_of = np.array([*(names.index(name) for name in own), -1], np.int64)
        return np.asarray(number_of[images.labels])
    count = len(own) if own is not None else int(images.labels.max(initial=-1)) + 1
    if count > len(names):
        what = f"the data have {count} classes" + (f" ({', '.join(own[:3])}, ...)" if own else "")
        raise BadInput(
            f"{teacher}: {what}, the teacher {len(names)} ({', '.join(names[:3])}, ...). Give a teacher of these classes, or "
            "leave the labels out with --no-labels."
        )
    if own is not None and len(own) < len(names) and not set(own) & set(names):
        # in order of their names only where there are as many: else the third of one is not the third of the other
        raise BadInput(
            f"{teacher}: of the {len(own)} classes of the data ({', '.join(own[:3])}, ...) the teacher knows none by name, "
            f"and it has {len(names)} ({', '.join(names[:3])}, ...). Name the classes as the teacher does, or leave the "
            "labels out with --no-labels."
        )
    if known := set(own or ()) & set(names):
        # by number only where none goes by name: class 3 of one may well be called like class 5 of the other
        unknown = next(name for name in own or () if name not in known)
        raise BadInput(
            f"{teacher}: the data have the class '{unknown}', which the teacher has not, and '{min(known)}', which it has. "
            "Name the classes as the teacher does, or leave the labels out with --no-labels."
        )
    return images.labels
