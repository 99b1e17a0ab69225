"""The classes of a teacher, and which class each image of the data has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PretrainedConfig

from logitstore.core.types import Array
from logitstore.errors import BadInput, ModelError
from logitstore.image.data.images import Images
from logitstore.models.contrastive import is_classifier, refuse_no_comparison
from logitstore.models.shape import refuse_no_softmax, shape_of
from logitstore.settings.dump import DumpSettings

FEW_CLASSES = 16
"""The count that preset topk lists. With more classes, preset small is both smaller and closer to the teacher."""


def output_width(config: PretrainedConfig, is_zero_shot: bool) -> int | None:
    """Channels of what the output layer takes, where the configuration says it."""
    towers = getattr(config, "vision_config", config)  # of a classifier that was made of the one for images
    width = getattr(config, "projection_dim", None) if is_zero_shot else shape_of(towers)["hidden_size"]
    return int(width) if width else None


def classes_of(settings: DumpSettings, config: PretrainedConfig, is_zero_shot: bool) -> list[str]:
    """Return the names of the teacher's classes, in the order of its logits.

    Raises:
        BadInput: --classes or --prompt cannot be used, or are missing.
        ModelError: the teacher gives no softmax over classes.
    """
    if is_zero_shot:
        refuse_no_comparison(config, settings.teacher)
    elif not is_classifier(config):
        what = (config.architectures or [config.model_type])[0]
        raise ModelError(f"{settings.teacher}: {what} is not an image classifier.")
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
    refuse_no_softmax(config, settings.teacher)
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def labels_for(images: Images, names: Sequence[str], teacher: str) -> Array:
    """int64: the teacher's number of each image's class, -1 without one.

    Classes are matched by name. They are matched by number if the data have no class names, or if the data have as many
    classes as the teacher and no name in common with it.

    Raises:
        BadInput: the data have classes that the teacher does not have.
    """
    data_names = images.label_names
    if data_names is not None and set(data_names) <= set(names):
        number_of = np.array([*(names.index(name) for name in data_names), -1], np.int64)
        return np.asarray(number_of[images.labels])
    count = len(data_names) if data_names is not None else int(images.labels.max(initial=-1)) + 1
    if count > len(names):
        what = f"the data have {count} classes" + (f" ({', '.join(data_names[:3])}, ...)" if data_names else "")
        raise BadInput(
            f"{teacher}: {what}, the teacher {len(names)} ({', '.join(names[:3])}, ...). Give a teacher of these classes, or "
            "leave the labels out with --no-labels."
        )
    if data_names is not None and len(data_names) < len(names) and not set(data_names) & set(names):
        # with different counts of classes, class 3 of the data is not class 3 of the teacher
        raise BadInput(
            f"{teacher}: of the {len(data_names)} classes of the data ({', '.join(data_names[:3])}, ...) the teacher knows "
            f"none by name, and it has {len(names)} ({', '.join(names[:3])}, ...). Name the classes as the teacher does, or "
            "leave the labels out with --no-labels."
        )
    if shared := set(data_names or ()) & set(names):
        # with some names in common, numbers are no match: class 3 of the data may have the name of class 5 of the teacher
        unknown = next(name for name in data_names or () if name not in shared)
        raise BadInput(
            f"{teacher}: the data have the class '{unknown}', which the teacher does not have, and '{min(shared)}', which it "
            "has. Name the classes as the teacher does, or leave the labels out with --no-labels."
        )
    return images.labels
