"""What `train` refuses before any weights are loaded."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import PreTrainedModel

from logitstore.core.methods import method_of
from logitstore.core.schedule import Schedule
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.data import ImagesInfo
from logitstore.image.train import check_classifier
from logitstore.models.load import config_from, load_config
from logitstore.models.shape import layer_count
from logitstore.settings.train import EvaluateSettings, TrainSettings
from logitstore.store.cache import Cache
from logitstore.text.train import check_reading, check_student
from logitstore.train.loader.stream import BatchStream
from logitstore.train.students.build import _changes, parse_layers
from logitstore.train.terms import check_terms

TEXT_ONLY = (
    "text", "packed", "curriculum", "curriculum_start", "reweight_domains", "select", "prune", "hidden_size",
    "intermediate_size", "heads", "kv_heads",
)  # fmt: skip


IMAGES_ONLY = ("images", "image_size", "views", "views_per_step")


def refuse_other_task(settings: TrainSettings | EvaluateSettings, cache: Cache) -> None:
    """Refuse options that mean nothing to the task of a cache.

    Raises:
        BadInput: names the first such option.
    """
    is_text = cache.manifest.view is None
    what = "texts" if is_text else "images"
    fields = type(settings).model_fields
    for name in IMAGES_ONLY if is_text else TEXT_ONLY:
        if name in fields and getattr(settings, name) != fields[name].default:
            raise BadInput(
                f"--{name.replace('_', '-')}: it means nothing to {settings.cache}, a cache of {what}. Leave it out."
            )


def check_task(settings: TrainSettings, cache: Cache) -> None:
    """Refuse a plan that does not fit the task of a cache.

    Raises:
        BadInput: an option means nothing to the task, or the loss needs labels that the cache does not have.
    """
    refuse_other_task(settings, cache)
    if isinstance(cache.manifest.data, ImagesInfo) and cache.manifest.data.unlabelled and needs_labels(settings):
        raise BadInput(
            f"{settings.cache}: {cache.manifest.data.unlabelled:,} of its images have no label"
            + (" that is true of a mixed view" if cache.manifest.view and cache.manifest.view.mixes else "")
            + ", which this training needs. Give --alpha 1, and an objective without labels."
        )


def needs_labels(settings: TrainSettings) -> bool:
    """Return whether the loss uses labels."""
    names = {settings.objective, *(term.name for term in settings.terms)} - {"none"}
    return (Schedule.of(settings.alpha).span[0] < 1 and settings.objective != "none") or any(
        method_of(name).needs_gold for name in names
    )


def _check(settings: TrainSettings, cache: Cache) -> dict[str, ModelRef | None]:
    """Refuse what cannot work before any weights are loaded. Return the students by name; None stands for a fresh one.

    A single student has no name: it is saved in --out itself.
    """
    check_task(settings, cache)
    names = _names(settings)
    _check_out(settings, names)
    if len(names) > 1 and (settings.precision == "float16" or settings.trainer.get("gradient_checkpointing")):
        what = "--precision float16" if settings.precision == "float16" else "gradient_checkpointing"
        raise BadInput(f"several --student with {what}: that is for one student only. Train each in a run of its own.")
    check_reading(settings)
    check_terms(settings, cache)
    if settings.prune_samples is not None and not settings.prune:
        raise BadInput(f"--prune-samples {settings.prune_samples}: it changes nothing without --prune.")
    changes = _changes(settings)
    if not settings.students:
        if settings.copy_layers is not None:
            raise BadInput("--copy-layers needs a --student to copy them from.")
        if settings.prune:
            raise BadInput("--prune needs a --student to prune.")
        return {"": None}
    if settings.prune and settings.packed:
        raise BadInput(
            "--prune with --packed: it looks at samples one by one. Prune in a run of one step, and train on that."
        )
    if settings.prune and not changes.keys() - {"num_hidden_layers"}:
        raise BadInput("--prune needs --hidden-size, --intermediate-size, --heads or --kv-heads to prune to.")
    if changes and (not settings.prune or settings.layers is not None):
        raise BadInput(
            f"--student {settings.students[0]} has its shape already; --layers, --hidden-size and the like are for a fresh one. "
            "Add --prune to make it narrower, or --copy-layers to take some of its layers."
        )
    references = [ModelRef.parse(student) for student in settings.students]
    if cache.manifest.view is not None:
        for reference in references:
            check_classifier(cache, reference)
    elif not settings.text:
        for reference in references:
            check_student(cache, reference)
    return dict(zip(names, references, strict=True))


def _check_out(settings: TrainSettings, names: list[str]) -> None:
    """Refuse a folder in which saving would overwrite something else."""
    if settings.out.exists() and not settings.out.is_dir():
        raise BadInput(f"--out {settings.out}: a file stands there. Choose another folder.")
    taken = {settings.cache.resolve(), *(Path(ModelRef.parse(student).name).resolve() for student in settings.students)}
    for place in (settings.out, *(settings.out / name for name in names)):
        if place.resolve() in taken:
            raise BadInput(f"--out {settings.out}: {place} is the cache or a student itself. Choose another folder.")


def _names(settings: TrainSettings) -> list[str]:
    """Return the names of the students in the log and below --out: those of their folders; empty for a single student."""
    if len(settings.students) < 2:
        return [""]
    names: list[str] = []
    for student in settings.students:
        name = Path(ModelRef.parse(student).name).name.replace(".", "_")
        if not name or re.fullmatch(r"checkpoint-\d+", name):
            raise BadInput(
                f"--student {student}: of several, each is saved below --out under the name of its folder, and '{name}' "
                "cannot be one there. Rename the folder, or write its path with its name."
            )
        if name in names:
            raise BadInput(f"--student {student}: there is another one called '{name}'. Rename one of the folders.")
        names.append(name)
    return names


def _layers(settings: TrainSettings, cache: Cache, reference: ModelRef | None) -> int:
    """Return the number of decoder layers that a student will have, or 0; see `layer_count`."""
    if reference is None:
        return settings.layers or layer_count(config_from(cache.manifest.teacher.config))
    count = layer_count(load_config(reference))
    return len(parse_layers(settings.copy_layers, count)) if settings.copy_layers is not None else count


def _check_length(student: PreTrainedModel, loader: BatchStream) -> None:
    limit = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and loader.longest > limit:
        raise CacheMismatch(
            f"the cache has samples of {loader.longest} tokens; the student takes at most {limit}. "
            f"Choose another student, or dump with --max-length {limit}."
        )
