"""`evaluate`: compare a student with what a cache holds; no teacher runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from logitstore.core.order import held_out
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import ModelRef
from logitstore.image.train import _first_views, check_classifier, check_takes
from logitstore.models.load import DTYPES, load_config, load_weights, pick_device
from logitstore.settings.train import EvaluateSettings
from logitstore.store.cache import Cache
from logitstore.text.metrics import TextEvaluation
from logitstore.text.train import _on_text, check_student
from logitstore.train.check import refuse_other_task
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import evaluation_loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.metrics import Evaluation, evaluate_batches


def evaluate(settings: EvaluateSettings, progress: Progress = no_progress) -> Evaluation | TextEvaluation:
    """Evaluate a student on what a cache holds.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: the cache keeps scores only, or chats although text is asked for; or an option means nothing to the task.
        ModelError, CacheMismatch: the student cannot be loaded, or does not fit the cache.
    """
    cache = Cache(settings.cache)
    cache.check_sizes()
    refuse_other_task(settings, cache)
    student = ModelRef.parse(settings.student)
    kept = None
    if settings.samples == "heldout" and cache.manifest.view is None:
        kept = np.flatnonzero(held_out(cache.documents(), settings.holdout))
    if settings.text:
        return _on_text(settings, cache, student, np.arange(len(cache)) if kept is None else kept, progress)
    cache.check_targets("evaluate (without --text)")
    if cache.manifest.view is not None:
        check_classifier(cache, student)
        loader = _first_views(settings, cache, student, progress)
    else:
        check_student(cache, student)
        loader = evaluation_loader(cache, kept, batch_size=settings.batch_size)
    device = pick_device(settings.device)
    model = load_weights(student, load_config(student), DTYPES[settings.dtype], cache.manifest.task).to(device).eval()
    if (pixels_B3HW := loader.at(0, 0).pixel_values) is not None:
        check_takes(model, settings.student, pixels_B3HW)
    return evaluate_batches(model, _counted(loader, progress, model.dtype), loader.targets, device)


def _counted(loader: BatchStream, progress: Progress, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
    """Yield the batches and report progress; convert images to the student's dtype, which not every classifier does itself."""
    for done, batch in enumerate(loader, 1):
        pixels_B3HW = batch.pixel_values
        yield batch if pixels_B3HW is None else replace(batch, pixel_values=pixels_B3HW.to(dtype))
        progress(Step(stage="evaluate", done=done, total=len(loader)))
