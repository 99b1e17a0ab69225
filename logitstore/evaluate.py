"""`evaluate`: compare a student with what a cache holds; no teacher runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from logitstore.batch import Batch
from logitstore.cache.order import held_out
from logitstore.cache.reader import Cache
from logitstore.loader import Loader, evaluation_loader
from logitstore.metrics import Evaluation, evaluate_batches
from logitstore.models import DTYPES, load_config, load_weights, pick_device
from logitstore.pictures import pictures_of
from logitstore.plans import EvaluatePlan
from logitstore.reading import refuse_other_task
from logitstore.stream import BatchStream
from logitstore.students.fit import check_student, text_tokenizer
from logitstore.students.image_fit import check_classifier, check_takes, size_of
from logitstore.text import encoded_anew
from logitstore.text_loader import TextLoader
from logitstore.text_metrics import TextEvaluation, evaluate_text
from logitstore.types import Array, ModelRef, Progress, Step, no_progress
from logitstore.view_order import view_order


def evaluate(plan: EvaluatePlan, progress: Progress = no_progress) -> Evaluation | TextEvaluation:
    """Evaluate a student on what a cache holds.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: the cache keeps scores only, or chats although text is asked for; or an option means nothing to the task.
        ModelError, CacheMismatch: the student cannot be loaded, or does not fit the cache.
    """
    cache = Cache(plan.cache)
    cache.check_sizes()
    refuse_other_task(plan, cache)
    student = ModelRef.parse(plan.student)
    kept = None
    if plan.samples == "heldout" and cache.manifest.view is None:
        kept = np.flatnonzero(held_out(cache.documents(), plan.holdout))
    if plan.text:
        return _on_text(plan, cache, student, np.arange(len(cache)) if kept is None else kept, progress)
    cache.check_targets("evaluate (without --text)")
    if cache.manifest.view is not None:
        check_classifier(cache, student)
        loader = _of_images(plan, cache, student, progress)
    else:
        check_student(cache, student)
        loader = evaluation_loader(cache, kept, batch_size=plan.batch_size)
    device = pick_device(plan.device)
    model = load_weights(student, load_config(student), DTYPES[plan.dtype], cache.manifest.task).to(device).eval()
    if (pixels_B3HW := loader.at(0, 0).pixel_values) is not None:
        check_takes(model, plan.student, pixels_B3HW)
    return evaluate_batches(model, _counted(loader, progress, model.dtype), loader.targets, device)


def _of_images(plan: EvaluatePlan, cache: Cache, student: ModelRef, progress: Progress) -> Loader:
    """Return a loader of the first view of the images to evaluate on."""
    images_I = np.arange(len(cache.images))
    if plan.samples == "heldout":
        images_I = np.flatnonzero(held_out(images_I, plan.holdout))
    order = view_order(cache, images_I, None, 1, 0)
    pictures = pictures_of(cache, plan.images, plan.image_size or size_of(student, load_config(student)), progress)
    return Loader(
        cache, samples=order.firsts[0] + images_I, shuffle=False, batch_size=plan.batch_size, pictures=pictures
    )


def _on_text(
    plan: EvaluatePlan, cache: Cache, student: ModelRef, samples_M: Array, progress: Progress
) -> TextEvaluation:
    """Evaluate the student on the text alone, in its own tokens."""
    texts = encoded_anew(cache, samples_M, text_tokenizer(student), progress)
    loader = TextLoader(texts, batch_size=plan.batch_size, shuffle=False)
    device = pick_device(plan.device)
    model = load_weights(student, load_config(student), DTYPES[plan.dtype]).to(device).eval()
    return evaluate_text(model, _counted(loader, progress), device, size=loader.text_bytes)


def _counted(loader: BatchStream, progress: Progress, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
    """Yield the batches and report progress; convert images to the student's dtype, which not every classifier does itself."""
    for done, batch in enumerate(loader, 1):
        pixels_B3HW = batch.pixel_values
        yield batch if pixels_B3HW is None else replace(batch, pixel_values=pixels_B3HW.to(dtype))
        progress(Step(stage="evaluate", done=done, total=len(loader)))
