"""What `train` reads: which samples, in which order, from the cache's rows or from its text.

Axes: S samples of the cache, M chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.cache.order import held_out
from logitstore.cache.reader import Cache
from logitstore.errors import BadInput
from logitstore.loader import Loader, evaluation_loader
from logitstore.ordered import Order
from logitstore.plans import TrainPlan
from logitstore.reweighting import AHEAD, Reweighting
from logitstore.selection.curricula import Curriculum
from logitstore.selection.file import Selection, read_selection
from logitstore.stream import BatchStream
from logitstore.students.fit import text_tokenizer
from logitstore.text import encoded_anew
from logitstore.text_loader import TextLoader
from logitstore.types import Array, ModelRef, Progress

START = 0.25
"""Share of the samples that a curriculum begins with."""


def check_reading(plan: TrainPlan) -> None:
    """Refuse options about what is read that do not go together.

    Raises:
        BadInput: naming them.
    """
    if plan.text and (plan.alpha != 0 or plan.terms or plan.objective == "none"):
        raise BadInput(
            f"--text with --alpha {plan.alpha}: no teacher has seen the student's own tokens. Give --alpha 0."
        )
    if plan.text and len(plan.students) != 1:
        raise BadInput("--text needs a --student with a tokenizer of its own, and no other.")
    if plan.text and plan.curriculum is not None:
        raise BadInput(
            f"--text with --curriculum {plan.curriculum}: text that is cut anew has no score. Leave one of them out."
        )
    if plan.reweight_domains is not None and (plan.text or plan.curriculum is not None):
        other = "--text" if plan.text else f"--curriculum {plan.curriculum}"
        raise BadInput(
            f"--reweight-domains {plan.reweight_domains} with {other}: one of them decides what is read. Leave one out."
        )
    if plan.reweight_domains is not None and (plan.prune or len(plan.students) > 1):
        other = "--prune" if plan.prune else "several --student"
        raise BadInput(
            f"--reweight-domains {plan.reweight_domains} with {other}: what is read follows one student as it is. "
            "Leave one out."
        )
    if plan.curriculum_start is not None and plan.curriculum is None:
        raise BadInput(f"--curriculum-start {plan.curriculum_start:g}: it changes nothing without a --curriculum.")


def selection_for(plan: TrainPlan, cache: Cache) -> Selection | None:
    """The selection that is asked for, which fits the cache.

    Raises:
        BadInput: it cannot be read.
        CacheMismatch: it was made for other samples.
    """
    if plan.select is None:
        return None
    selection = read_selection(plan.select)
    selection.check(cache, plan.select)
    if plan.text and selection.weight_M is not None:
        raise BadInput(
            f"--text with --select {plan.select}: its samples have weights, and text that is cut anew has none. "
            "Select by another method."
        )
    return selection


def loaders(
    plan: TrainPlan,
    cache: Cache,
    reference: ModelRef | None,
    selection: Selection | None,
    taps: list[str],
    place: dict[str, Any],
    progress: Progress,
) -> tuple[BatchStream, BatchStream | None, Reweighting | None]:
    """The batches to train on, those to judge on if any documents are held out, and what re-weights domains if anything does.

    Args:
        plan: of the training.
        cache: to read.
        reference: the student, where it has a tokenizer of its own to read with.
        selection: the samples to train on, but for those held out; all of them without it.
        taps: names of the teacher's features that are read to train on.
        place: rank, world_size and workers.
        progress: receives the steps.

    Raises:
        BadInput: nothing is left to train on.
    """
    kept_out_S = held_out(cache.documents(), plan.holdout)
    train_M, held_M = chosen(cache, selection, kept_out_S), np.flatnonzero(kept_out_S)
    options: dict[str, Any] = {"batch_size": plan.batch_size, **place}
    mixing: dict[str, Any] = {"seed": plan.seed, "packed": plan.packed, **options}
    if plan.text and reference is not None:
        tokenizer = text_tokenizer(reference)
        train_loader = TextLoader(encoded_anew(cache, train_M, tokenizer, progress), **mixing)
        if not len(held_M):
            return train_loader, None, None
        judge = TextLoader(encoded_anew(cache, held_M, tokenizer, progress), shuffle=False, **options)
        return train_loader, judge, None
    order: Order | None = None
    weights_S = reweighting = None
    if plan.reweight_domains is not None:
        reweighting = Reweighting(
            cache,
            train_M,
            held_M,
            seed=plan.seed,
            batch_size=plan.batch_size,
            step_samples=plan.batch_size * plan.accumulate * place["world_size"],
            every=plan.reweight_domains,
        )
        order = reweighting.order
        mixing["ahead"] = AHEAD
    if plan.curriculum is not None:
        start = START if plan.curriculum_start is None else plan.curriculum_start
        order = Curriculum.of(plan.curriculum, cache.nll()[train_M], plan.seed, start)
    if selection is not None and selection.weight_M is not None:
        weights_S = np.ones(len(cache), np.float32)
        weights_S[selection.samples_M] = selection.weight_M
    loader = Loader(cache, samples=train_M, taps=taps, order=order, weights=weights_S, **mixing)
    return loader, evaluation_loader(cache, held_M, **options) if len(held_M) else None, reweighting


def chosen(cache: Cache, selection: Selection | None, kept_out_S: Array) -> Array:
    """int64[M], rising: the samples to train on."""
    if selection is None:
        return np.flatnonzero(~kept_out_S)
    left_M = selection.samples_M[~kept_out_S[selection.samples_M]]
    if not len(left_M):
        raise BadInput(
            f"{cache.path}: every chosen sample is of a document that is held out. Choose more, or a smaller --holdout."
        )
    return np.asarray(left_M)
