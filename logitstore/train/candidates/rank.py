"""`rank`: compare students before they are trained on a cache. Reads top to bottom.

cache -> scores that it serves -> each student: made, scored, trained for some steps -> how the scores agree with that
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.load import load_config, pick_device
from logitstore.models.shape import shape_of
from logitstore.settings.models.rank import RankSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.candidates.likeness import spearman
from logitstore.train.candidates.scores import RELATIONS, common_heads, relations_for, scored, served, taps_of
from logitstore.train.checks.run import checked_students
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.run_folder import with_objective
from logitstore.train.students.build import made_student
from logitstore.train.task import Place, train_task
from logitstore.train.train import no_notice, train

TRAINED = "kl_trained"
"""Name of the figure of a short training: the KL to the teacher on held-out samples after it, nats."""

LEAST = 3
"""Least number of students whose orders are compared."""

SHAPES = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads")
"""What may be said of a fresh student."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student that was compared.

    Attributes:
        student: its place, or the shape of a fresh one, as it was given.
        weights: how many it has.
        figures: by the name of a score what it has, less is better; and `kl_trained` after a short training.
        seconds: that scoring it took, with the time to load it.
    """

    student: str
    weights: int
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What `rank` found.

    Attributes:
        candidates: the best first: by the short training, without one by the first score.
        agreement: by the name of a score, Spearman's rank correlation of it and of the KL after the short trainings, NaN where
            all are alike; empty for fewer than three students and without short trainings.
        steps: of a short training.
    """

    candidates: list[Candidate]
    agreement: dict[str, float] = field(default_factory=dict)
    steps: int = 0


def rank(
    settings: RankSettings, progress: Progress = no_progress, notice: Callable[[str], None] = no_notice
) -> Ranking:
    """Score students against a cache, train each for some steps, and say how the scores agree with that.

    Args:
        settings: the students, and by what they are compared.
        progress: receives the steps.
        notice: receives what the user should know, such as which scores the cache does not serve.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: a student cannot be made or loaded, or does not fit the cache.
        BadInput: options do not go together, or the cache does not serve a score.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput("rank runs in one process. Start it without torchrun.")
    cache = Cache(settings.cache)
    cache.check_soon()
    scores, notes = served(cache, settings.score)
    for note in notes:
        notice(note)
    with tempfile.TemporaryDirectory(prefix="logitstore-rank-") as folder:
        plans = _plans(settings, cache, Path(folder))
        checked = {name: next(iter(checked_students(plan, cache).values())) for name, plan in plans.items()}
        shapes = [_shape(plan, cache, checked[name]) for name, plan in plans.items()] if RELATIONS in scores else []
        heads = common_heads(cache, shapes) if shapes else 0
        candidates = []
        for number, (name, plan) in enumerate(plans.items()):
            steps = _Counted(progress, name, number, len(plans), settings)
            candidates.append(_compared(name, plan, settings, cache, checked[name], scores, heads, steps))
    by = TRAINED if settings.steps else scores[0]
    candidates.sort(key=lambda each: each.figures[by])
    agreement = {}
    if settings.steps and len(candidates) >= LEAST:
        trained = [each.figures[TRAINED] for each in candidates]
        agreement = {name: spearman([each.figures[name] for each in candidates], trained) for name in scores}
    return Ranking(candidates=candidates, agreement=agreement, steps=settings.steps)


def _plans(settings: RankSettings, cache: Cache, folder: Path) -> dict[str, TrainSettings]:
    """Return the plan of a short training of each student, by the student as it was given.

    Raises:
        BadInput: there is no student or one twice, nothing to judge on, or a shape that cannot be read.
    """
    if settings.steps and not settings.holdout:
        raise BadInput("--holdout 0: the short trainings are judged on held-out samples. Give a share, or --steps 0.")
    shared: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "cache", "images", "image_size", "trust_remote_code", "local_cache", "local_cache_size", "learning_rate",
            "batch_size", "holdout", "device", "seed",
        )
    }  # fmt: skip
    course = {"max_steps": settings.steps, "keep_checkpoints": 0}
    if settings.steps:
        shared |= course | {"evaluate_every": settings.steps, "save_every": settings.steps}
    plans: dict[str, TrainSettings] = {}
    named = [(each, {"student": each}) for each in settings.student]
    for name, own in [*named, *((text, _shape_of_text(text)) for text in settings.fresh)]:
        if name in plans:
            raise BadInput(f"{name} is given twice. Name each student once.")
        plan = TrainSettings(**shared | own, out=folder / str(len(plans)))
        plans[name] = with_objective(plan, cache)
    if not plans:
        raise BadInput("no student is given. Name each with --student, or the shape of a fresh one with --fresh.")
    if settings.trust_remote_code and settings.fresh:
        raise BadInput("--trust-remote-code with --fresh: a fresh student brings no code. Rank it without.")
    return plans


def _shape_of_text(text: str) -> dict[str, Any]:
    """Return the settings of a fresh student from `layers=2,hidden_size=64`."""
    found: dict[str, Any] = {}
    for piece in text.split(","):
        name, _, number = (each.strip() for each in piece.partition("="))
        if name not in SHAPES or name in found or not number.isdecimal() or int(number) < 1:
            raise BadInput(
                f"--fresh {text}: write {', '.join(SHAPES)}, each once with a number, such as layers=2,heads=4."
            )
        found[name] = int(number)
    return found


def _shape(plan: TrainSettings, cache: Cache, reference: ModelRef | None) -> dict[str, Any]:
    """Return what is known of a student's shape; a fresh one is made for it."""
    if reference is not None:
        return shape_of(load_config(reference))
    return shape_of(_made(plan, cache, None, None).config)


def _made(plan: TrainSettings, cache: Cache, reference: ModelRef | None, loader: Any) -> PreTrainedModel:
    """Return a student as a training of it would begin with."""
    transformers.set_seed(plan.seed)
    return made_student(plan, cache, reference, loader, no_progress)


def _compared(
    name: str,
    plan: TrainSettings,
    settings: RankSettings,
    cache: Cache,
    reference: ModelRef | None,
    scores: Sequence[str],
    heads: int,
    steps: _Counted,
) -> Candidate:
    """Score one student, and train it for some steps."""
    began = time.monotonic()
    task = train_task(cache)
    loader = task.open(plan, cache, reference, None, taps_of(scores, cache), Place(), no_progress).train
    student = _made(plan, cache, reference, loader)
    task.check_made(plan, student, name, loader)
    relations = relations_for(plan, cache, student, heads) if heads else None
    device = pick_device(settings.device)
    student.to(device).eval()
    figures = scored(student, _batches(loader, settings, device, steps), loader, scores, relations)
    weights = sum(each.numel() for each in student.parameters())
    seconds = time.monotonic() - began
    del student
    if settings.steps:
        figures[TRAINED] = train(plan, steps.of_training).get("eval_kl", math.nan)
    return Candidate(student=name, weights=weights, figures=figures, seconds=seconds)


def _batches(loader: BatchStream, settings: RankSettings, device: torch.device, steps: _Counted) -> Iterator[Batch]:
    """Yield the batches that a student is scored by: the first ones of its training."""
    for number in range(min(_to_score(settings), len(loader))):
        yield loader.at(0, number).to(device)
        steps.report(number + 1)


def _to_score(settings: RankSettings) -> int:
    return -(-settings.samples // settings.batch_size)


class _Counted:
    """The progress of one student among several, in batches that are read of it.

    Args:
        progress: receives the steps.
        name: of the student.
        number, students: its place among them.
        settings: say how many batches a student takes.
    """

    def __init__(self, progress: Progress, name: str, number: int, students: int, settings: RankSettings) -> None:
        self._progress, self._name, self._scoring = progress, name, _to_score(settings)
        each = self._scoring + settings.steps
        self._before, self._total = number * each, students * each

    def report(self, done: int) -> None:
        """Report that so many batches of the student are done."""
        self._progress(Step(stage="rank", done=self._before + done, total=self._total, note=self._name))

    def of_training(self, step: Step) -> None:
        """Report a step of its short training; what it does besides is not counted."""
        if step.stage == "train":
            self.report(self._scoring + step.done)
