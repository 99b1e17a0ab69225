"""The classes of a teacher, and which class each image of the data has."""

from __future__ import annotations

from transformers import PretrainedConfig

from logitstore.errors import BadInput, ModelError
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
        raise ModelError(f"{settings.teacher}: {what} is not an image classifier. Give one as the teacher.")
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
