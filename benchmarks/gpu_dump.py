"""Measure a dump on a GPU over the teacher's bare forward pass, for every preset."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench import found, in_turns, ratio
from card import GIB, Budget, Card
from gpu_checks import CPU, KEPT, Check, same, tried
from logitstore.core.progress import Stopwatch
from logitstore.dump.ask import ask_rows
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.store.cache import Cache
from logitstore.targets import tails
from passes import Passes
from random_models import Fitted, Shapes, Texts, begin_dump, make_teacher, make_texts, on_device, written_cache

Lines = list[dict[str, Any]]
ROUNDS = 7


def dump_lines(
    card: Card, budget: Budget, shapes: Shapes, teacher: CausalTeacher, dtype: str, folder: Path, lines: Lines
) -> dict[str, Cache]:
    """Measure every preset; return the caches, which the students learn from. Lines are added as they are found."""
    shapes = shapes if card.is_small else fitting(card, budget, shapes, teacher)
    texts, fitted = make_texts(shapes), Fitted()
    ready = {
        preset: begin_dump(shapes, texts, teacher, preset, folder / preset, fitted, dtype) for preset in presets(card)
    }
    first = next(iter(ready.values()))
    peaks = {"forward": card.peak(first.forward)}
    for preset, passes in ready.items():
        peaks[preset] = card.peak(passes.written)
    ways: dict[str, Callable[[], Any]] = {"forward": first.forward}
    ways |= {preset: passes.written for preset, passes in ready.items()}
    seconds = in_turns(ways, 1 if card.is_small else ROUNDS, 0, settle=card.settle, allows=budget.allows)
    bare = statistics.median(seconds["forward"])
    rounds = len(seconds["forward"])
    lines.append(
        found(f"bare forward, {dtype}", first.rows / bare, "rows/s", rounds=rounds, peak_gib=_gib(peaks["forward"]))
    )
    for preset, passes in ready.items():
        lines.append(found(f"dump, {preset}, over the bare forward", ratio(seconds, preset, "forward"), rounds=rounds))
        lines.append(found(f"dump, {preset}, bytes stored", passes.manifest.bytes_per_row, "B/row"))
        lines.append(found(f"dump, {preset}, peak memory to the bare forward", peaks[preset] / peaks["forward"]))
    for preset, passes in ready.items():
        wall = statistics.median(seconds[preset])
        if not budget.allows(2 * wall):
            break
        lines.append(found(f"dump, {preset}, bytes over the bus", bus_bytes(passes), "B/row"))
        lines += stage_lines(passes, preset, wall)
    return {preset: written_cache(passes) for preset, passes in ready.items()}


def presets(card: Card) -> tuple[str, ...]:
    """Return the presets that are measured; one of each kind where everything is small."""
    return ("small", "exact", "topk", "sampled") if card.is_small else KEPT


PASSES = 34
"""About how often the texts are gone through, a round of each way and its peak included, and that a dump takes longer."""


def fitting(card: Card, budget: Budget, shapes: Shapes, teacher: CausalTeacher) -> Shapes:
    """Return the shapes with as many texts as there is time for."""
    inputs = {"input_ids": torch.zeros(max(shapes.batch_tokens // shapes.length, 1), shapes.length, dtype=torch.int64)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    times = [card.seconds(partial(teacher.logits, inputs)) for _ in range(3)]
    a_text = min(times) / len(inputs["input_ids"])
    return replace(shapes, windows=min(max(int(0.6 * budget.left / PASSES / a_text), 8), shapes.windows))


def stage_lines(passes: Passes, preset: str, wall: float) -> Lines:
    """Return how long the stages take one after the other, to the time of a dump, in which they overlap."""
    watch = Stopwatch()
    passes.write(passes.writer(0, watch))
    sums = {
        side: sum(each for (thread, stage), each in watch.seconds.items() if thread == side and "wait" not in stage)
        for side in ("teacher", "behind")
    }
    stages = {stage: round(each, 4) for (_, stage), each in watch.seconds.items()}
    return [
        found(f"dump, {preset}, all stages one by one, to the dump", sum(sums.values()) / wall, stages=stages),
        found(f"dump, {preset}, copying, encoding and writing, to the dump", sums["behind"] / wall),
    ]


def bus_bytes(passes: Passes) -> float:
    """Return the bytes that go to the device and come back for each row, counted on the first batches."""
    rows = total = 0
    for batch, values in ask_rows(passes.teacher, passes.reducer(), islice(passes.prepared.batches(passes.asked), 2)):
        rows += len(batch.rows_N)
        sent = (*batch.inputs.values(), batch.rows_N, batch.gold_N)
        total += sum(each.nbytes for each in sent) + sum(each.nbytes for each in values().values())
    return total / rows


def dumped_alike(card: Card, shapes: Shapes, folder: Path) -> Iterator[Check]:
    """Dump with the same small teacher on both, in float32, and compare what is stored."""
    texts = make_texts(shapes)
    mine = make_teacher(shapes.teacher, "float32", CPU)
    its = on_device(mine, shapes.teacher, "float32", card.device)
    for preset in presets(card):
        yield from tried(f"dump {preset}", _dumped, shapes, texts, (mine, its), preset, folder)


def _dumped(
    shapes: Shapes, texts: Texts, teachers: tuple[CausalTeacher, ...], preset: str, folder: Path
) -> Iterator[Check]:
    own, there = (
        written_cache(begin_dump(shapes, texts, teacher, preset, folder / side / preset, Fitted(), "float32"))
        for side, teacher in zip(SIDES, teachers, strict=True)
    )
    for name, (mine_N, its_N) in _unpacked(own, there).items():
        if name != "sketch":  # its directions may have the other sign
            yield same(f"dump {preset}: {name}", mine_N, its_N, 0.02)


SIDES = ("own", "found")
"""Folders of the caches that are compared."""


def _unpacked(own: Cache, found_there: Cache) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the stored fields of two caches side by side; the scores, which are float16, as whole hundredths."""
    pairs = {}
    for name in own.manifest.fields:
        values = [torch.from_numpy(each.part(0).fields[name].copy()) for each in (own, found_there)]
        if values[0].is_floating_point():
            values = [each.float().mul(32).round().nan_to_num(neginf=-1e6).long() for each in values]
        pairs[name] = (values[0], values[1])
    return pairs


def forget_tails() -> None:
    """Give back the memory of tails that were decoded on the device."""
    tails._on.cache_clear()
    tails._tempered.cache_clear()


def _gib(count: int) -> float:
    return round(count / GIB, 3)


def tokens_for(card: Card) -> int:
    """Return how many tokens a batch may have, so that its logits and a student's step fit."""
    free = card.free()
    return next((tokens for tokens, least in ((8192, 56), (4096, 32), (2048, 0)) if free > least * GIB), 2048)
