"""`evaluate`: compare a student with what a cache holds; no teacher runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.tasks import task_of
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.adapter_ref import student_ref
from logitstore.models.load import DTYPES, load_config, load_weights, pick_device, pick_dtype
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.store.cache import Cache
from logitstore.store.index.figures import write_figures
from logitstore.train.figures.samples import SampleFigures
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.task import train_task


def evaluate(settings: EvaluateSettings, progress: Progress = no_progress) -> Any:
    """Judge a student on what a cache holds; return a record of figures.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: the cache keeps scores only, or chats although text is asked for; or an option means nothing to the task.
        StorageError: the file of figures cannot be written.
        ModelError, CacheMismatch: the student cannot be loaded, or does not fit the cache.
    """
    cache = Cache(settings.cache)
    cache.check_soon()
    task = cache.manifest.task
    refuse_other_tasks(settings, "evaluate", task, f"{settings.cache}, a cache of {task_of(task).samples}")
    if settings.samples == "all":
        refuse_set(settings, ("holdout",), "with --samples all no samples are held out")
    if settings.figures is not None and settings.figures.exists():
        raise BadInput(f"--figures {settings.figures}: something stands there already. Choose another name.")
    if settings.figures is not None and settings.text:
        raise BadInput(
            f"--figures {settings.figures} with --text: text that is cut anew has other samples. Leave one out."
        )
    student = student_ref(settings.student, trust_remote_code=settings.trust_remote_code)
    if settings.figures is None:
        return train_task(cache).evaluate(settings, cache, student, progress)
    watch = SampleFigures()
    found = train_task(cache).evaluate(settings, cache, student, progress, watch)
    write_figures(settings.figures, cache, *watch.found())
    return found


def loaded(settings: EvaluateSettings, student: ModelRef, task: str) -> tuple[PreTrainedModel, torch.device]:
    """Load the student that is judged, in evaluation mode; return it with its device. Raises ModelError."""
    device = pick_device(settings.device)
    dtype = DTYPES[pick_dtype(settings.dtype, settings.device)]
    model = load_weights(student, load_config(student), dtype, task).to(device).eval()
    return model, device


def counted(loader: BatchStream, progress: Progress) -> Iterator[Batch]:
    """Give the batches of a loader, and report on them."""
    for done, batch in enumerate(loader, 1):
        yield batch
        progress(Step(stage="evaluate", done=done, total=len(loader)))
