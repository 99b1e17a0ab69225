"""Measure a student's step on a GPU: from the cache, on gold tokens alone, and with the teacher in the same process.

All steps go through the trainer of `train`, with the student's output layer in the loss. A visit is a short run of one kind
of step; visits take turns, and the figures are medians of the ratios of a round.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import losses
from bench import found, in_turns, line_of, ratio, say
from card import GIB, Budget, Card
from gpu_checks import CPU, Check, near
from gpu_dump import Lines, forget_tails
from live import LiveTrainer
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.targets import Targets
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.loop.arguments import training_arguments
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.students.build import loss_head
from logitstore.train.trainer import DistillTrainer
from random_models import Shapes, make_model

STEPS, SKIPPED, ROUNDS = 9, 3, 5
GOLD, LIVE = "gold tokens alone", "the live teacher"


@dataclass
class Visits:
    """Short runs of the same student.

    Attributes:
        card: where it is trained.
        shapes: of the models.
        student: the model.
        teacher: the live one; None where there is no room for it.
        folder: for what the trainer writes.
        steps: of a visit, and how many of them do not count.
        seen: the losses of the last visit.
    """

    card: Card
    shapes: Shapes
    student: Any
    teacher: CausalTeacher | None
    folder: Path
    steps: tuple[int, int]
    seen: list[Tensor] = field(default_factory=list)

    def run(self, cache: Cache, alpha: float, temperature: float = 1.0, live: bool = False) -> float:
        """Return the seconds of a step, the mean over the steps that count; nothing waits for the device between them."""
        count, skipped = self.steps
        precision = "float32" if self.card.is_small else "bfloat16"
        settings = TrainSettings(
            cache=cache.path, out=self.folder, batch_size=max(self.shapes.batch_tokens // self.shapes.length, 1),
            max_steps=count, holdout=0, precision=precision, learning_rate=1e-6,
            device="auto" if self.card.is_gpu else "cpu", trainer={"save_strategy": "no"},
        )  # fmt: skip
        loader = Loader(cache, batch_size=settings.batch_size)
        learner = Learner(
            student=self.student,
            criterion=Criterion.mixed(alpha=alpha, temperature=temperature),
            head=loss_head(self.student, loader)[0],
            autocast=None if precision == "float32" else torch.bfloat16,
        )
        ends, losses_seen, card = list[float](), self.seen, self.card
        losses_seen.clear()
        kind: Any = LiveTrainer if live else DistillTrainer

        class Clock(kind):  # type: ignore[misc]
            def training_step(self, *arguments: Any, **options: Any) -> Any:
                if self.state.global_step == skipped:
                    card.settle()
                    ends.append(time.perf_counter())
                loss = super().training_step(*arguments, **options)
                losses_seen.append(loss.detach())
                return loss

        trainer = Clock(
            learners=[learner],
            args=training_arguments(settings, ["kl"]),
            train_loader=loader,
            held_out_loader=None,
            **({"teacher": self.teacher} if live else {}),
        )
        trainer.train()
        card.settle()
        ends.append(time.perf_counter())
        # what a trainer holds is a circle, with the optimizer's state in it
        del trainer, learner
        self.student.zero_grad(set_to_none=True)
        gc.collect()
        shutil.rmtree(self.folder, ignore_errors=True)
        forget_tails()
        return (ends[1] - ends[0]) / (count - skipped)


def step_lines(card: Card, budget: Budget, visits: Visits, caches: dict[str, Cache], lines: Lines) -> None:
    """Measure steps from every cache. Lines are added as soon as there are some, and made anew after every round."""
    any_cache = next(iter(caches.values()))
    ways: dict[str, Callable[[], float]] = {GOLD: partial(visits.run, any_cache, 0.0)}
    if visits.teacher is not None:
        ways[LIVE] = partial(visits.run, any_cache, 1.0, live=True)
    ways |= {preset: partial(visits.run, cache, 0.5) for preset, cache in caches.items() if preset != "archive"}
    if "small" in caches:
        ways["small at T = 2"] = partial(visits.run, caches["small"], 0.5, 2.0)
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    first = len(lines)
    for name, way in ways.items():
        began = time.monotonic()
        times: list[float] = []
        peaks[name] = card.peak(lambda way=way, times=times: times.append(way()))  # type: ignore[misc]
        seconds[name] = times
        lines[first:] = _step_lines(visits, seconds, peaks, is_warm=False)
        if not budget.allows(1.5 * (time.monotonic() - began)):
            return
    warm: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(0 if card.is_small else ROUNDS):
        began = time.monotonic()
        for name, way in ways.items():
            warm[name].append(way())
        lines[first:] = _step_lines(visits, warm, peaks, is_warm=True)
        if not budget.allows(1.1 * (time.monotonic() - began)):
            break
    for line in lines[first:]:
        say(line)


def _step_lines(visits: Visits, seconds: dict[str, list[float]], peaks: dict[str, int], *, is_warm: bool) -> Lines:
    """Return the lines of what was measured so far; `is_warm` is False for the visits that measured the memory."""
    made: Lines = []
    tokens = max(visits.shapes.batch_tokens // visits.shapes.length, 1) * visits.shapes.length
    for name, times in seconds.items():
        speed = tokens / statistics.median(times)
        more: dict[str, Any] = {
            "tokens_per_second": round(speed), "peak_gib": round(peaks[name] / GIB, 2),
            "rounds": len(times) if is_warm else 0,
        }  # fmt: skip
        if name == GOLD:
            made.append(line_of(f"a step on {GOLD}", speed, "tokens/s", **more))
            continue
        what = f"a step with {LIVE}" if name == LIVE else f"a step from the cache, {name}"
        made.append(line_of(f"{what}, to one on {GOLD}", ratio(seconds, name, GOLD), **more))
        if LIVE in seconds and name != LIVE:
            made.append(line_of(f"{what}, to one with {LIVE}", ratio(seconds, name, LIVE)))
        made.append(line_of(f"{what}, peak memory to one on {GOLD}", peaks[name] / peaks[GOLD]))
    return made


def loader_lines(card: Card, budget: Budget, shapes: Shapes, caches: dict[str, Cache], lines: Lines) -> None:
    """Measure how fast rows come to the device, as they are stored and decoded."""
    size = max(shapes.batch_tokens // shapes.length, 1)
    for preset, cache in caches.items():
        loader = Loader(cache, batch_size=size, workers=2, pin_memory=card.is_gpu)

        def moved(decoded: bool, loader: Loader = loader) -> None:
            for batch in loader:
                there = batch.to(card.device)
                if decoded:
                    loader.targets(there)

        ways = {"as stored": partial(moved, False), "decoded": partial(moved, True)}
        seconds = in_turns(ways, 1 if card.is_small else 9, settle=card.settle, allows=budget.allows)
        for name, times in seconds.items():
            speed = cache.manifest.rows / statistics.median(times) / 1e6
            lines.append(found(f"rows to the device, {preset}, {name}", speed, "million rows/s", rounds=len(times)))
        forget_tails()
        if budget.left < 0:
            return


BLOCKS = (1, 4)
"""Times the rows that a block of logits has on this device by default."""


def loss_lines(card: Card, budget: Budget, lines: Lines) -> None:
    """Measure the loss with the output layer in it beside PyTorch's cross-entropy of all logits, as losses.py does."""
    if card.is_small:
        losses.ROWS, losses.VOCABULARY, losses.WIDTH, losses.LISTED = 64, 300, 16, 8
    hidden_ND, weight_VD, gold_N = (
        each.to(card.device) for each in (losses.make_hidden(), losses.make_weight(), losses.make_gold())
    )
    made = losses.make_targets()
    ids_NK, logprobs_NK, tail_N = (
        each.to(card.device) for each in (made.ids_NK, made.logprobs_NK, made.tail_logmass_N)
    )
    targets = Targets(ids_NK, logprobs_NK, tail_N, made.tail)
    for dtype in ("float32", "bfloat16"):
        ways = {
            name.partition(",")[0]: partial(way, hidden_ND, weight_VD, targets, gold_N)
            for name, way in losses.FROM_HIDDEN.items()
            if name.endswith(dtype)
        }
        usual = losses.usual_block(weight_VD)
        for times in BLOCKS[1:]:
            ways[f"blocks of {times} times the rows"] = partial(ways["fused"], block=times * usual)
        peaks = {name: card.peak(way) for name, way in ways.items()}
        seconds = in_turns(ways, 1 if card.is_small else 15, settle=card.settle, allows=budget.allows)
        for name in ways:
            if name == "materialised":
                continue
            what = "sparse KL fused with the head" + ("" if name == "fused" else f", {name}")
            lines.append(
                found(f"{what}, time to head and cross-entropy, {dtype}", ratio(seconds, name, "materialised"))
            )
            lines.append(found(f"{what}, peak to head and cross-entropy, {dtype}", peaks[name] / peaks["materialised"]))


def trained_alike(card: Card, shapes: Shapes, cache: Callable[[], Cache], folder: Path) -> Iterator[Check]:
    """Train the same small student from the same cache on both, in float32, and compare its losses."""
    seen = []
    for device in (CPU, card.device):
        student = make_model(shapes.student, torch.float32, CPU).to(device)
        visits = Visits(Card(device, is_small=True), shapes, student, None, folder, (3, 1))
        visits.run(cache(), 0.5)
        seen.append(torch.stack(visits.seen).double().cpu())
    own, its = seen
    yield near("three steps of a student: losses", own, own, its, torch.float32)
