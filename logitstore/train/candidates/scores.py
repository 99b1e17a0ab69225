"""Score a student as it is against the answers and features of a cache; nothing is trained.

Axes: R positions of a batch, N rows, n rows that are compared with each other, C classes, D channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitstore.core.tasks import task_of
from logitstore.errors import BadInput
from logitstore.format.tap_names import ATTENTION, FINAL, flags_for
from logitstore.models.hooks import recording
from logitstore.models.load import config_from
from logitstore.models.shape import layer_count, shape_of
from logitstore.settings.train import TermSettings, TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets, Targets
from logitstore.train.candidates.likeness import class_gradient, classes_apart, rows_apart
from logitstore.train.features import width_of
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.objectives import forward_kl
from logitstore.train.objectives.features.feature import FeatureObjective, Sides
from logitstore.train.objectives.kernels.rowwise import rowwise
from logitstore.train.terms import criterion_of

KL, RELATIONS, ROWS, CLASSES = "kl", "relations", "diswot_rows", "diswot_classes"
SCORES = (KL, RELATIONS, ROWS, CLASSES)
"""The scores of a student by name; of each, less is better."""

MOST_ROWS = 256
"""Most rows of a batch that are compared with each other, evenly spaced. The comparison takes their square in memory."""


def served(cache: Cache, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the scores that a cache serves, of those that are wanted, and a line about each that it does not serve.

    Args:
        cache: the cache.
        wanted: names of scores; None for all.

    Raises:
        BadInput: a score is wanted by name that the cache does not serve, or it serves none.
    """
    task = task_of(cache.manifest.task)
    if task.keeps is not None or not cache.manifest.sparsifier.kind.is_distribution:
        raise BadInput(
            f"{cache.path}: a cache of {task.samples}, and students are compared by distributions. Train each of them with "
            "--max-steps, and compare with `logitstore evaluate`."
        )
    why = {name: _why_not(name, cache) for name in SCORES}
    for name in wanted or ():
        if why[name]:
            raise BadInput(f"--score {name}: {why[name]}")
    found = [name for name in SCORES if not why[name] and (wanted is None or name in wanted)]
    if not found:
        raise BadInput(f"{cache.path}: no score can be computed. {why[KL]}")
    return found, [f"note: without {name}: {why[name]}" for name in SCORES if why[name] and wanted is None]


def _why_not(name: str, cache: Cache) -> str:
    """Return why a cache does not serve a score, with the way out; empty where it does."""
    sparsifier = cache.manifest.sparsifier
    if name == RELATIONS:
        lacking = [each for each in last_attention(cache) if each not in cache.taps]
        return (
            f"{cache.path} has no tap {lacking[0]}. Add it with `logitstore add {flags_for(lacking)}`."
            if lacking
            else ""
        )
    if not sparsifier.keeps_rows:
        return f"{cache.path} keeps scores of samples only. Dump with another preset."
    if name == KL or (name == ROWS and FINAL in cache.taps):
        return ""
    if sparsifier.is_estimate:
        return f"{cache.path} holds random samples, and it needs whole distributions. Dump with another preset."
    if name == CLASSES and FINAL not in cache.taps:
        return f"{cache.path} has no tap final. Add it with `logitstore add --hidden final`."
    return ""


def last_attention(cache: Cache) -> list[str]:
    """Return the names of the teacher's queries, keys and values in its last layer."""
    layers = layer_count(config_from(cache.manifest.teacher.config))
    return [f"{kind}-{layers}" for kind in ATTENTION]


def taps_of(scores: Iterable[str], cache: Cache) -> list[str]:
    """Return the names of the taps that some scores read."""
    names = set(last_attention(cache)) if RELATIONS in scores else set()
    return sorted(names | ({FINAL} if FINAL in cache.taps and {ROWS, CLASSES} & set(scores) else set()))


def common_heads(cache: Cache, shapes: Sequence[dict[str, Any]]) -> int:
    """Return a number of relation heads that suits all students, so that they are compared by the same one: the largest one,
    up to the teacher's own, that divides every width."""
    names = last_attention(cache)
    widths = [cache.taps[name].info.width for name in names]
    for shape in shapes:
        last = int(shape["num_hidden_layers"] or 0)
        widths += [width_of(shape, f"{kind}-{last}") for kind in ATTENTION]
    teacher = shape_of(config_from(cache.manifest.teacher.config))
    most = int(teacher["num_attention_heads"] or 1)
    return max(heads for heads in range(1, most + 1) if math.gcd(*widths) % heads == 0)


@torch.no_grad()
def scored(
    student: PreTrainedModel,
    batches: Iterable[Batch],
    loader: BatchStream,
    scores: Sequence[str],
    relations: FeatureObjective | None = None,
) -> dict[str, float]:
    """Return the scores of a student, each a mean: `kl` and `relations` over rows, in nats, the others over batches.

    Args:
        student: in evaluation mode.
        batches: on the student's device.
        loader: decodes the batches.
        scores: names of the scores.
        relations: the objective that gives the score `relations`, made for this student.
    """
    pairs = [] if relations is None else cast(Any, relations).names
    features = sorted({own for own, _ in pairs} | ({FINAL} if ROWS in scores or CLASSES in scores else set()))
    sums, counts = dict.fromkeys(scores, 0.0), dict.fromkeys(scores, 0)
    for batch in batches:
        with recording(student, features) as seen:
            logits_RV = student(**batch.model_inputs()).logits.flatten(0, -2)
        given = loader.features(batch)
        own = {name: value.flatten(0, 1)[batch.rows] for name, value in seen.items()}
        rows = int(batch.row_mask.sum())
        if not rows:
            continue
        sides = Sides(student=own, teacher=given, counts_M=batch.counts, gold_N=batch.gold, mask_N=batch.row_mask)
        targets = loader.targets(batch) if {KL, ROWS, CLASSES} & set(scores) else None
        for name, value, weight in _of_batch(scores, batch, logits_RV, targets, sides, relations, rows):
            sums[name], counts[name] = sums[name] + weight * value, counts[name] + weight
    return {name: sums[name] / counts[name] if counts[name] else math.nan for name in scores}


def _of_batch(
    scores: Sequence[str],
    batch: Batch,
    logits_RV: Tensor,
    targets: AnyTargets | None,
    sides: Sides,
    relations: FeatureObjective | None,
    rows: int,
) -> Iterator[tuple[str, float, int]]:
    """Yield of each score its name, its value for a batch, and how much that counts."""
    if KL in scores and targets is not None:
        answers = targets
        loss_N = rowwise(lambda logits_nV, some: forward_kl(logits_nV, answers[some]), logits_RV, batch.rows)
        yield KL, float(loss_N[batch.row_mask].double().mean()), rows
    if RELATIONS in scores and relations is not None:
        yield RELATIONS, float(relations(sides)[batch.row_mask].double().mean()), rows
    if not {ROWS, CLASSES} & set(scores):
        return
    some = slice(None, None, -(-len(batch.rows) // MOST_ROWS))
    counts_n = batch.row_mask[some]
    own_nV = logits_RV[batch.rows[some]].float().log_softmax(-1)[counts_n]
    teacher_nV = None
    if isinstance(targets, Targets) and (CLASSES in scores or FINAL not in sides.teacher):
        teacher_nV = dense_logprobs(targets[some])[counts_n]
    if FINAL in sides.teacher:
        teacher_nD, student_nD = (each[FINAL][some][counts_n] for each in (sides.teacher, sides.student))
    elif teacher_nV is not None:
        teacher_nD, student_nD = _centred(teacher_nV), _centred(own_nV[:, : teacher_nV.shape[1]])
    if ROWS in scores:
        yield ROWS, float(rows_apart(teacher_nD, student_nD)), 1
    if CLASSES in scores and teacher_nV is not None:
        gold_n = sides.gold_N[some][counts_n]
        has_gold_n = gold_n >= 0
        classes_C = torch.unique(gold_n[has_gold_n])
        if len(classes_C) < 2:
            return
        is_gold_nC = gold_n[has_gold_n, None] == classes_C
        gradients = [
            class_gradient(logprobs_nV[has_gold_n][:, classes_C].exp(), is_gold_nC, features_nD[has_gold_n])
            for logprobs_nV, features_nD in ((teacher_nV, teacher_nD), (own_nV, student_nD))
        ]
        yield CLASSES, float(classes_apart(*gradients)), 1


def _centred(logprobs_nV: Tensor) -> Tensor:
    """Return logprobs less their mean in each row, those of tokens without mass at the smallest of the others."""
    is_mass = logprobs_nV.isfinite()
    low = torch.where(is_mass, logprobs_nV, torch.inf).amin(1, keepdim=True)
    filled = torch.where(is_mass, logprobs_nV, low)
    return filled - filled.mean(1, keepdim=True)


def relations_for(
    settings: TrainSettings, cache: Cache, student: PreTrainedModel, relation_heads: int
) -> FeatureObjective:
    """Return the objective whose loss is the score `relations` of a student, made as training makes it."""
    term = TermSettings(name="relations", options={"layers": "last-1", "relation_heads": relation_heads})
    plan = settings.model_copy(update={"objective": "none", "terms": [term]})
    return cast(FeatureObjective, criterion_of(plan, cache, shape_of(student.config), {}).features[0].module)
