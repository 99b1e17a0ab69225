"""`evaluate`: a student against a cache; no teacher runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from logitstore.batch import Batch
from logitstore.cache.order import held_out
from logitstore.cache.reader import Cache
from logitstore.loader import Loader, evaluation_loader
from logitstore.metrics import Evaluation, evaluate_batches
from logitstore.models import DTYPES, load_config, load_weights, pick_device
from logitstore.plans import EvaluatePlan
from logitstore.students.fit import check_student
from logitstore.types import ModelRef, Progress, Step, no_progress


def evaluate(plan: EvaluatePlan, progress: Progress = no_progress) -> Evaluation:
    """Judge a student on what a cache holds.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be loaded, or does not fit the cache.
    """
    cache = Cache(plan.cache)
    cache.check_sizes()
    student = ModelRef.parse(plan.student)
    check_student(cache, student)
    kept = np.flatnonzero(held_out(cache.documents(), plan.holdout)) if plan.samples == "heldout" else None
    loader = evaluation_loader(cache, kept, batch_size=plan.batch_size)
    device = pick_device(plan.device)
    model = load_weights(student, load_config(student), DTYPES[plan.dtype]).to(device).eval()
    return evaluate_batches(model, _counted(loader, progress), loader.targets, device)


def _counted(loader: Loader, progress: Progress) -> Iterator[Batch]:
    for done, batch in enumerate(loader, 1):
        yield batch
        progress(Step(stage="evaluate", done=done, total=len(loader)))
