"""Images for a student: loaders, image processors, and checks that a classifier fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.format.views import ViewInfo
from logitstore.image.batches import ViewCollator
from logitstore.image.pictures import pictures_of
from logitstore.image.processors.proof import prove_numbers
from logitstore.image.processors.saved import code_of, load_processor
from logitstore.image.stored import images_of
from logitstore.models.cached import shared_model
from logitstore.models.code import NAMES_CODE, without_code
from logitstore.models.load import load_config
from logitstore.models.shape import size_errors
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.checks.run import has_cross_entropy, needing_labels, refuse_unjudged
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.views.order import view_order, views_in
from logitstore.train.metrics import Evaluation, evaluate_batches
from logitstore.train.run_folder import ARITHMETIC, arithmetic_of
from logitstore.train.students.classes import check_classifier, class_names
from logitstore.train.task import Place, RunData, Watch

PROCESSOR = "preprocessor_config.json"


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
    with size_errors(name, first_13HW), torch.inference_mode():
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
    source = _processor_of(student)
    return None if source is None else load_processor(source, config).edge


def shown_to(cache: Cache, student: ModelRef | None) -> ViewInfo:
    """Return the views of a cache with the mean, deviation and channels that a student is shown: those of the image processor
    saved with it, with which it will be used; without one those of the teacher.

    Raises:
        ModelError: the image processor cannot be read, or does something else than its settings say.
    """
    view = cache.manifest.images[1]
    source = None if student is None else _processor_of(student)
    if student is None or source is None:
        return view
    processor = load_processor(source, load_config(student))
    found = processor.described
    prove_numbers(processor, found)
    return view.model_copy(update={"mean": found.mean, "std": found.std, "channels": found.channels})


def processor_for(cache: Cache, student: ModelRef | None, edge: int | None) -> dict[str, bytes]:
    """Return the files of the image processor that belongs with a trained student: its own, else the teacher's.

    They name no code that was not run: a student may be loaded with the code that its folder names.

    Args:
        cache: the teacher's cache.
        student: the model that is trained; None for a fresh one.
        edge: edge of the images that the student is shown, if the plan gives one.

    Raises:
        ModelError: the student's own processor cannot be read, or names no size.
    """
    if student is not None and (source := _processor_of(student)) is not None:
        return _processor_files(source, edge)
    with shared_model(cache, "processor") as kept:
        return _processor_files(kept, edge)


def _processor_files(source: ModelRef, edge: int | None) -> dict[str, bytes]:
    code = code_of(load_processor(source)) if source.trust_remote_code else {}
    content = (Path(source.name) / PROCESSOR).read_bytes()
    said = json.loads(content) if edge is None else load_processor(source).at(edge).said
    if NAMES_CODE in said and not code:
        said = without_code(said)
    elif edge is None:
        return code | {PROCESSOR: content}
    return code | {PROCESSOR: json.dumps(said, indent=2).encode() + b"\n"}


def _processor_of(student: ModelRef) -> ModelRef | None:
    """Return where the image processor of a student lies: beside its adapter, else beside its model; None for nowhere."""
    places = [student.adapter, student.name]
    found = next((name for name in places if name is not None and (Path(name) / PROCESSOR).is_file()), None)
    return None if found is None else replace(student, name=found, adapter=None)


class ImageTraining:
    """What a student is shown of images; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({"with_images": False})

    def collator(self, cache: Cache, **options: Any) -> ViewCollator:
        return ViewCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        manifest = cache.manifest
        data, view = manifest.images
        refuse_unjudged(settings, cache)
        named = needing_labels(settings)
        have = "has" if data.unlabelled == 1 else "have"
        without = f"{settings.cache}: {data.unlabelled:,} of its images {have} no label" + (
            " that is true of a mixed view" if view.mixes else ""
        )
        if data.unlabelled and named:
            raise BadInput(f"{without}, and {named[0]} needs one for every image. Give an objective without labels.")
        if data.unlabelled == manifest.samples and has_cross_entropy(settings):
            raise BadInput(f"{without}, so there is no cross-entropy. Give --alpha 1.")
        for student in students:
            check_classifier(cache, student)

    def open(
        self,
        settings: TrainSettings,
        cache: Cache,
        student: ModelRef | None,
        selection: Selection | None,
        taps: list[str],
        place: Place,
        progress: Progress,
    ) -> RunData:
        """Open the views to train on, and the first view of those images that are held out."""
        size = settings.image_size or (None if student is None else size_of(student, load_config(student)))
        shown = shown_to(cache, student)
        if settings.resume and arithmetic_of(settings.out) < ARITHMETIC and shown != cache.manifest.images[1]:
            raise BadInput(
                f"--resume: the run in {settings.out} was begun by a version of logitstore that showed the student the mean "
                "and deviation of the teacher's image processor, and not its own. Finish it with that version, or train "
                "again in another folder."
            )
        views_in(cache, settings.views)  # as many images as the plan says are there
        pictures = pictures_of(cache, settings.images, size, progress, shown)
        kept_out_I = held_out(range(cache.manifest.samples), settings.holdout)
        is_read_I, weights_S = ~kept_out_I, None
        if selection is not None:
            is_chosen_S, weights_S = selection.among(cache)
            is_read_I &= is_chosen_S[: len(is_read_I)]
        if not is_read_I.any():
            raise BadInput(
                f"{cache.path}: every chosen image is held out. Choose more, or give a smaller --holdout than "
                f"{settings.holdout:g}."
            )
        images = SampleSet(is_read_I)
        lack_I = (images_of(cache).labels < 0) & is_read_I
        unlabelled = len(images) if cache.manifest.images[1].mixes else int(np.count_nonzero(lack_I))
        if unlabelled == len(images) > 0 and has_cross_entropy(settings):
            raise BadInput(
                f"{settings.cache}: the images that --holdout {settings.holdout:g} leaves to train on have no label, so there "
                "is no cross-entropy. Give --alpha 1."
            )
        order = view_order(cache, images, settings.views, settings.views_per_step, settings.seed, settings.window_parts)
        options: dict[str, Any] = {"pictures": pictures, **vars(place)}
        train = Loader(
            cache,
            order=order,
            epoch_samples=order.epoch_samples,
            windows=order.windows,
            taps=taps,
            seed=settings.seed,
            batch_size=settings.batch_size * settings.views_per_step,
            weights=weights_S,
            **options,
        )
        judged = None
        if kept_out_I.any():
            firsts = SampleSet(kept_out_I, order.firsts[0])
            judged = Loader(cache, samples=firsts, shuffle=False, batch_size=settings.batch_size, **options)
        return RunData(train=train, held_out=judged, unlabelled=unlabelled)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return cache.manifest.teacher.config | class_names(cache)

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return class_names(cache)

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        check_takes(student, name, loader.at(0, 0).model_inputs()["pixel_values"])

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[None, str]:
        return None, "an image classifier has few of them"

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Read the image processor now, so that a broken one is refused before training."""
        files = processor_for(cache, student, settings.image_size)

        def save(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content)

        return save

    def evaluate(
        self,
        settings: EvaluateSettings,
        cache: Cache,
        student: ModelRef,
        progress: Progress,
        watch: Watch | None = None,
    ) -> Evaluation:
        """Judge a student on the first view of the images."""
        cache.check_targets("evaluate")
        check_classifier(cache, student)
        views_in(cache, None)  # as many images as the plan says are there
        is_judged_I = np.ones(cache.manifest.samples, np.bool_)
        if settings.samples == "heldout":
            is_judged_I = held_out(range(cache.manifest.samples), settings.holdout)
        order = view_order(cache, SampleSet(is_judged_I), None, 1, 0)
        size = settings.image_size or size_of(student, load_config(student))
        loader = Loader(
            cache,
            samples=SampleSet(is_judged_I, order.firsts[0]),
            shuffle=False,
            batch_size=settings.batch_size,
            pictures=pictures_of(cache, settings.images, size, progress, shown_to(cache, student)),
        )
        model, device = loaded(settings, student, cache.manifest.task)
        check_takes(model, settings.student, loader.at(0, 0).model_inputs()["pixel_values"])
        batches = _in_dtype(counted(loader, progress), model.dtype)
        return evaluate_batches(model, batches, loader.targets, device, watch=watch)


def _in_dtype(batches: Iterable[Batch], dtype: torch.dtype) -> Iterator[Batch]:
    """Give the images in the dtype of the student, which not every classifier sees to itself."""
    for batch in batches:
        yield replace(batch, inputs={name: value.to(dtype) for name, value in batch.inputs.items()})
