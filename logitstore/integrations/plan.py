"""The settings of `train` that a loop of somebody else takes: those of the loss and of what is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from logitstore.core.methods import method_of
from logitstore.core.registry import suggest
from logitstore.errors import BadInput
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.objectives.learned import learned_kind

ACCEPTED = (
    "alpha",
    "objective",
    "temperature",
    "options",
    "terms",
    "also",
    "weights",
    "strict",
    "holdout",
    "select",
    "packed",
    "window_parts",
    "curriculum",
    "curriculum_start",
    "views",
    "views_per_step",
    "images",
    "image_size",
)
"""Settings of `train` by their names there."""


OF_THE_LOOP = (
    "learning_rate",
    "learning_rate_batch",
    "weight_decay",
    "scheduler",
    "warmup",
    "epochs",
    "max_steps",
    "batch_size",
    "accumulate",
    "precision",
    "seed",
    "workers",
    "device",
    "out",
    "resume",
    "evaluate_every",
    "save_every",
    "keep_checkpoints",
)
"""Settings that belong to the loop. Those that a recipe sets are named in a warning."""


def plan_of(
    cache: Cache,
    given: Mapping[str, Any],
    *,
    recipe: str | Path | None,
    elsewhere: Mapping[str, str],
    loop: Mapping[str, Any],
    notice: Callable[[str], None],
) -> TrainSettings:
    """Return the settings of a run in somebody else's loop.

    Args:
        cache: the cache to learn from.
        given: settings by name.
        recipe: the name of a recipe, or a YAML file with a section `train`; what is given overrides it.
        elsewhere: for settings that the loop has under another name: that name.
        loop: values of the settings that the loop decides.
        notice: receives a line for each setting of the recipe that the loop decides.

    Raises:
        BadInput: a setting is unknown, impossible, or one of `logitstore train` alone.
    """
    for name in given:
        if name in ACCEPTED:
            continue
        if name in elsewhere:
            raise BadInput(f"{name}: give {elsewhere[name]} instead.")
        if name in OF_THE_LOOP:
            raise BadInput(f"{name}: your loop decides this. Leave it out.")
        if name in TrainSettings.model_fields:
            raise BadInput(f"{name}: only `logitstore train` does this. Leave it out.")
        raise BadInput(f"{name}: no such setting. {suggest(name, list(ACCEPTED))}")
    file = None if recipe is None or not str(recipe).endswith((".yaml", ".yml")) else Path(recipe)
    flags = dict(given) | dict(loop) | {"cache": str(cache.path)}
    settings = load(TrainSettings, "train", file, flags, named=None if file or recipe is None else str(recipe))
    for name in sorted(settings.model_fields_set - flags.keys() - set(ACCEPTED)):
        value = getattr(settings, name)
        if name not in OF_THE_LOOP:
            raise BadInput(
                f"recipe {recipe}: it sets {name} = {value}, and only `logitstore train` does this. Give the objective and its "
                "options without the recipe, or use `logitstore train`."
            )
        notice(f"warning: recipe {recipe}: its {name} = {value} is not applied, because your loop decides it.")
    learned = learned_kind(settings.weights)
    if learned is not None and learned[0] == "geometry":
        raise BadInput(
            "weights geometry: it looks ahead at a step, and only `logitstore train` does this. Take gate, or fixed weights."
        )
    if settings.objective not in ("auto", "none") and method_of(settings.objective).form == "sequences":
        raise BadInput(
            f"objective {settings.objective}: it compares whole samples, and only `logitstore train` does this. Take another."
        )
    return settings
