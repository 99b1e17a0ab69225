"""Choose what `train` reads: the samples, their order, and either the cache's rows or its text.

Axes: S samples of the cache, M chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.cache.order import held_out
from logitstore.cache.reader import Cache
from logitstore.errors import BadInput
from logitstore.loader import Loader, evaluation_loader
from logitstore.manifest import ImagesInfo
from logitstore.methods import method_of
from logitstore.models import load_config
from logitstore.ordered import Order
from logitstore.pictures import pictures_of
from logitstore.plans import EvaluatePlan, TrainPlan
from logitstore.reweighting import AHEAD, Reweighting
from logitstore.schedule import Schedule
from logitstore.selection.curricula import Curriculum
from logitstore.selection.file import Selection, read_selection
from logitstore.stream import BatchStream
from logitstore.students.fit import text_tokenizer
from logitstore.students.image_fit import size_of
from logitstore.text import encoded_anew
from logitstore.text_loader import TextLoader
from logitstore.types import Array, ModelRef, Progress
from logitstore.view_order import view_order

START = 0.25
"""Share of the samples that a curriculum starts with, if the plan gives none."""


def check_reading(plan: TrainPlan) -> None:
    """Refuse options about what is read that do not go together.

    Raises:
        BadInput: names the options.
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
    """Return the selection that the plan names, checked against the cache; None without one.

    Raises:
        BadInput: the selection cannot be read, or has weights, which text does not have.
        CacheMismatch: the selection was made for other samples.
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
    """Return the batches to train on, the batches to evaluate on if documents are held out, and the re-weighting of domains
    if the plan asks for it.

    Args:
        plan: the plan of the training.
        cache: the cache to read.
        reference: where the student comes from, if it is not a fresh one: text is read with its tokenizer, images at its
            size.
        selection: the samples to train on, except those held out; None trains on all samples.
        taps: names of the teacher's features to read for training.
        place: rank, world_size and workers.
        progress: receives the steps.

    Raises:
        BadInput: nothing is left to train on.
    """
    if cache.manifest.view is not None:
        return _of_images(plan, cache, reference, taps, place, progress)
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


def _of_images(
    plan: TrainPlan,
    cache: Cache,
    reference: ModelRef | None,
    taps: list[str],
    place: dict[str, Any],
    progress: Progress,
) -> tuple[BatchStream, BatchStream | None, None]:
    """Return the views to train on, and the first view of each held-out image."""
    size = plan.image_size or (None if reference is None else size_of(reference, load_config(reference)))
    pictures = pictures_of(cache, plan.images, size, progress)
    kept_out_I = held_out(np.arange(len(cache.images)), plan.holdout)
    order = view_order(cache, np.flatnonzero(~kept_out_I), plan.views, plan.views_per_step, plan.seed)
    options: dict[str, Any] = {"pictures": pictures, **place}
    loader = Loader(
        cache,
        order=order,
        epoch_samples=order.epoch_samples,
        taps=taps,
        seed=plan.seed,
        batch_size=plan.batch_size * plan.views_per_step,
        **options,
    )
    if not kept_out_I.any():
        return loader, None, None
    judged = order.firsts[0] + np.flatnonzero(kept_out_I)
    return loader, Loader(cache, samples=judged, shuffle=False, batch_size=plan.batch_size, **options), None


TEXT_ONLY = (
    "text", "packed", "curriculum", "curriculum_start", "reweight_domains", "select", "prune", "hidden_size",
    "intermediate_size", "heads", "kv_heads",
)  # fmt: skip
IMAGES_ONLY = ("images", "image_size", "views", "views_per_step")


def refuse_other_task(plan: TrainPlan | EvaluatePlan, cache: Cache) -> None:
    """Refuse options that mean nothing to the task of a cache.

    Raises:
        BadInput: names the first such option.
    """
    is_text = cache.manifest.view is None
    what = "texts" if is_text else "images"
    fields = type(plan).model_fields
    for name in IMAGES_ONLY if is_text else TEXT_ONLY:
        if name in fields and getattr(plan, name) != fields[name].default:
            raise BadInput(
                f"--{name.replace('_', '-')}: it means nothing to {plan.cache}, a cache of {what}. Leave it out."
            )


def check_task(plan: TrainPlan, cache: Cache) -> None:
    """Refuse a plan that does not fit the task of a cache.

    Raises:
        BadInput: an option means nothing to the task, or the loss needs labels that the cache does not have.
    """
    refuse_other_task(plan, cache)
    if isinstance(cache.manifest.data, ImagesInfo) and cache.manifest.data.unlabelled and needs_labels(plan):
        raise BadInput(
            f"{plan.cache}: {cache.manifest.data.unlabelled:,} of its images have no label"
            + (" that is true of a mixed view" if cache.manifest.view and cache.manifest.view.mixes else "")
            + ", which this training needs. Give --alpha 1, and an objective without labels."
        )


def needs_labels(plan: TrainPlan) -> bool:
    """Return whether the loss uses labels."""
    names = {plan.objective, *(term.name for term in plan.terms)} - {"none"}
    return (Schedule.of(plan.alpha).span[0] < 1 and plan.objective != "none") or any(
        method_of(name).needs_gold for name in names
    )


def chosen(cache: Cache, selection: Selection | None, kept_out_S: Array) -> Array:
    """Return int64[M], rising: the samples to train on."""
    if selection is None:
        return np.flatnonzero(~kept_out_S)
    left_M = selection.samples_M[~kept_out_S[selection.samples_M]]
    if not len(left_M):
        raise BadInput(
            f"{cache.path}: every chosen sample is of a document that is held out. Choose more, or a smaller --holdout."
        )
    return np.asarray(left_M)
