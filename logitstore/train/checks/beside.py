"""What a run keeps and looks at beside its batches: own answers, and held-out batches; and what mixes its images."""

from __future__ import annotations

import json
import math
from pathlib import Path

from transformers import TrainingArguments

from logitstore.core.methods import method_of
from logitstore.core.schedule import RowRule, scheduled
from logitstore.errors import BadInput
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.checks.run import needing_labels
from logitstore.train.objectives.learned import learned_kind
from logitstore.train.students.beside.bilevel import Bilevel
from logitstore.train.students.beside.mixing import Mixing
from logitstore.train.students.beside.own_answers import OwnAnswers
from logitstore.train.task import RunData


def bilevel_of(settings: TrainSettings, data: RunData, arguments: TrainingArguments) -> Bilevel | None:
    """Return what the shares of a geometry learn by; None where the run has none.

    Raises:
        BadInput: nothing is held out, or several processes would each look at rows of their own.
    """
    learned = learned_kind(settings.weights)
    if learned is None or learned[0] == "gate":
        return None
    if data.held_out is None:
        raise BadInput(f"--weights {settings.weights}: nothing is held out to learn by. Give a larger --holdout.")
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise BadInput(
            f"--weights {settings.weights}: it looks ahead at a whole step, in one process on one device. Start one, or take a "
            "gate."
        )
    return Bilevel(held_out=data.held_out, rate=settings.learning_rate)


def mixing_of(settings: TrainSettings) -> Mixing | None:
    """Return what mixes the images of a batch; None without --mix.

    Raises:
        BadInput: a part of the loss that mixed answers do not serve.
    """
    if settings.mix is None:
        return None
    called = f"--mix {settings.mix:g}"
    if settings.alpha != 1:
        raise BadInput(f"{called} with --alpha {settings.alpha}: a mixed image has no label. Give --alpha 1.")
    if settings.terms or settings.objective == "none":
        raise BadInput(f"{called} with terms: it mixes the answers that one objective compares. Leave one out.")
    if needed := needing_labels(settings):
        raise BadInput(f"{called}: {needed[0]} needs a label, and a mixed image has none. Choose another objective.")
    if settings.also or settings.weights is not None or settings.own_answers is not None:
        raise BadInput(
            f"{called} with --also, --weights or --own-answers: it mixes the answers of one teacher. Leave one out."
        )
    if isinstance(scheduled(settings.temperature), RowRule) or method_of(settings.objective).state is not None:
        raise BadInput(
            f"{called}: two answers about an image take one objective at one temperature. Give forward_kl a number."
        )
    return Mixing(spread=settings.mix, seed=settings.seed)


def own_answers_of(
    settings: TrainSettings, cache: Cache, data: RunData, arguments: TrainingArguments, checkpoint: str | None
) -> OwnAnswers | None:
    """Return the student's own answers, ready for the step at which the run begins or goes on; None without --own-answers.

    Raises:
        BadInput: what does not go together with them.
    """
    if settings.own_answers is None:
        return None
    called = f"--own-answers {settings.own_answers}"
    if settings.also or settings.weights is not None:
        raise BadInput(f"{called} with --also or --weights: the student is its own and only teacher. Leave them out.")
    if settings.text or settings.alpha == 0:
        raise BadInput(
            f"{called}: nothing pulls the student towards an answer here. Give --alpha above 0, and no --text."
        )
    if len(settings.students) > 1:
        raise BadInput(f"{called}: one student has answers of its own. Train each in a run of its own.")
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise BadInput(f"{called}: one process keeps the answers. Start one, on one device.")
    if cache.manifest.teacher.vocabulary < 2:
        raise BadInput(
            f"{called}: what is kept of a student are its most probable tokens or classes, and {cache.path} is about none. "
            "Leave it out."
        )
    if cache.manifest.views > 1:
        raise BadInput(
            f"{called}: {cache.path} has {cache.manifest.views} views of each sample, and an answer is about one. "
            "Take a cache of one view."
        )
    if getattr(cache.manifest.data, "positions", None) is not None:
        raise BadInput(f"{called}: {cache.path} has rows at a share of the positions. Take a cache with all rows.")
    if data.unlabelled:
        raise BadInput(
            f"{called}: {data.unlabelled:,} of the samples to train on have no gold token or label, which stands for the "
            "answer in the first epoch. Leave them out with a selection."
        )
    if not cache.complete:
        raise BadInput(f"{called}: {cache.path} is not whole. Give the command that began it once more.")
    own = OwnAnswers(
        settings.out, cache.row_counts(), keep=settings.own_answers, vocabulary=cache.manifest.teacher.vocabulary
    )
    done = 0
    if checkpoint is not None:
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        done = int(state["global_step"])
    own.begin(done, math.ceil(len(data.train) / settings.accumulate))
    return own
