"""The student's half: stored rows are read, compared with a student's output, and the student is trained.

The package itself can be called, from Python what `logitstore train` is on the command line: see `train_student`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from logitstore.core.progress import Progress, no_progress
from logitstore.core.registry import resolve, suggest
from logitstore.errors import BadInput
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a training.

    Attributes:
        path: the folder of the trained student.
        figures: the last figures logged, including those of the held-out samples, such as `eval_kl`.
    """

    path: Path
    figures: dict[str, float]


def train_student(
    cache: Any,
    *,
    student: Any = None,
    out: Path | str,
    tokenizer: Any = None,
    recipe: str | None = None,
    progress: Progress = no_progress,
    notice: Callable[[str], None] | None = None,
    **settings: Any,
) -> Trained:
    """Train a student from a cache, and save it; what `logitstore train` does.

    Args:
        cache: a cache, or where it lies.
        student: a folder or hub name of a model or an adapter, several of them, or the model itself: a `PreTrainedModel`, or a
            `PeftModel` with one LoRA adapter. A model is trained in place: afterwards it is the student that is saved. None
            is a fresh student, shaped like the teacher.
        out: folder for the trained student.
        tokenizer: of a model that is given itself; without one it is that of the cache.
        recipe: a published method by its name, with the settings of its paper.
        progress: receives the steps.
        notice: receives what the user should know before training begins.
        settings: the options of `logitstore train`, with underscores, such as batch_size; and what a recipe may set besides.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be made or loaded, or does not fit the cache.
        BadInput: a setting is unknown or impossible, or settings do not go together.
        StorageError: `out` cannot be written.
    """
    unknown = next((name for name in settings if name not in TrainSettings.model_fields), None)
    if unknown is not None:
        raise BadInput(f"train: no setting named '{unknown}'. {suggest(unknown, list(TrainSettings.model_fields))}")
    is_named = student is None or isinstance(student, str | Path | list | tuple)
    if is_named and tokenizer is not None:
        raise BadInput("train: tokenizer: it is for a student that is given as a model. Save it beside the student.")
    given = None
    if not is_named:
        given_student = resolve("logitstore.train.students.given:given_student")
        given = given_student(student, tokenizer, gets_adapter=settings.get("lora") is not None)
    named = [str(each) for each in student] if isinstance(student, list | tuple) else student
    flags = settings | {
        "cache": getattr(cache, "path", cache),
        "student": given.name if given else str(named) if isinstance(named, Path) else named,
        "out": Path(out),
    }
    plan = load(TrainSettings, "train", None, flags, named=recipe)
    if plan.local_cache or plan.local_cache_size:
        use_local_cache = resolve("logitstore.store.remote.settings:use_local_cache")
        use_local_cache(plan.places, plan.local_cache, plan.local_cache_size)
    more = {} if notice is None else {"notice": notice}
    figures = resolve("logitstore.train.train:train")(plan, progress=progress, given=given, **more)
    return Trained(path=plan.out, figures=figures)


class _Callable(ModuleType):
    """The package, which can be called as well."""

    def __call__(self, *arguments: Any, **settings: Any) -> Trained:
        return train_student(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
