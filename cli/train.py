"""`logitstore train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console, errors
from rich.table import Table

from logitstore.core.registry import resolve
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings


def train(
    cache: Annotated[Path | None, argument(TrainSettings, "cache")] = None,
    student: Annotated[list[str] | None, option(TrainSettings, "student")] = None,
    out: Annotated[Path | None, option(TrainSettings, "out")] = None,
    config: Config = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help="A method by name, with its paper's settings; see `logitstore recipes`."
        ),
    ] = None,
    copy_layers: Annotated[str | None, option(TrainSettings, "copy_layers")] = None,
    prune: Annotated[bool | None, option(TrainSettings, "prune", "--prune")] = None,
    prune_samples: Annotated[int | None, option(TrainSettings, "prune_samples")] = None,
    layers: Annotated[int | None, option(TrainSettings, "layers")] = None,
    hidden_size: Annotated[int | None, option(TrainSettings, "hidden_size")] = None,
    intermediate_size: Annotated[int | None, option(TrainSettings, "intermediate_size")] = None,
    heads: Annotated[int | None, option(TrainSettings, "heads")] = None,
    kv_heads: Annotated[int | None, option(TrainSettings, "kv_heads")] = None,
    alpha: Annotated[str | None, option(TrainSettings, "alpha")] = None,
    objective: Annotated[str | None, option(TrainSettings, "objective")] = None,
    temperature: Annotated[str | None, option(TrainSettings, "temperature")] = None,
    strict: Annotated[bool | None, option(TrainSettings, "strict", "--strict")] = None,
    epochs: Annotated[float | None, option(TrainSettings, "epochs")] = None,
    max_steps: Annotated[int | None, option(TrainSettings, "max_steps")] = None,
    batch_size: Annotated[int | None, option(TrainSettings, "batch_size")] = None,
    accumulate: Annotated[int | None, option(TrainSettings, "accumulate")] = None,
    learning_rate: Annotated[float | None, option(TrainSettings, "learning_rate")] = None,
    scheduler: Annotated[str | None, option(TrainSettings, "scheduler")] = None,
    warmup: Annotated[float | None, option(TrainSettings, "warmup")] = None,
    weight_decay: Annotated[float | None, option(TrainSettings, "weight_decay")] = None,
    precision: Annotated[str | None, option(TrainSettings, "precision")] = None,
    device: Annotated[str | None, option(TrainSettings, "device")] = None,
    packed: Annotated[bool | None, option(TrainSettings, "packed", "--packed")] = None,
    holdout: Annotated[float | None, option(TrainSettings, "holdout")] = None,
    select: Annotated[Path | None, option(TrainSettings, "select")] = None,
    images: Annotated[str | None, option(TrainSettings, "images")] = None,
    image_size: Annotated[int | None, option(TrainSettings, "image_size")] = None,
    views: Annotated[str | None, option(TrainSettings, "views")] = None,
    views_per_step: Annotated[int | None, option(TrainSettings, "views_per_step")] = None,
    text: Annotated[bool | None, option(TrainSettings, "text", "--text")] = None,
    curriculum: Annotated[str | None, option(TrainSettings, "curriculum")] = None,
    curriculum_start: Annotated[float | None, option(TrainSettings, "curriculum_start")] = None,
    reweight_domains: Annotated[int | None, option(TrainSettings, "reweight_domains")] = None,
    evaluate_every: Annotated[int | None, option(TrainSettings, "evaluate_every")] = None,
    save_every: Annotated[int | None, option(TrainSettings, "save_every")] = None,
    resume: Annotated[bool | None, option(TrainSettings, "resume", "--resume")] = None,
    workers: Annotated[int | None, option(TrainSettings, "workers")] = None,
    seed: Annotated[int | None, option(TrainSettings, "seed")] = None,
) -> None:
    """Fit a student from a cache. No teacher is loaded.

    What pulls the student is one --objective, or a method by its name with --recipe (see logitstore recipes).

    Works under torchrun; everything else that the transformers Trainer can do goes into the `trainer` setting of a recipe.

    Example: logitstore train my-cache --student ./my-model --copy-layers 6 --out my-student
    """
    flags = {name: value for name, value in locals().items() if name not in ("config", "recipe")}
    flags["student"] = student or None
    asked = load(TrainSettings, "train", config, flags, named=recipe)
    with Bars() as progress:
        try:
            figures = resolve("logitstore.train.train:train")(asked, progress, _tell)
        except KeyboardInterrupt:
            errors.print(
                f"interrupted. Add --resume to go on from the last checkpoint in {asked.out}, if one was saved.",
                soft_wrap=True,
            )
            raise
    if os.environ.get("RANK", "0") != "0":
        return
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4f}" if value % 1 else f"{value:,.0f}")
    console.print(table)
    console.print(f"saved to {asked.out}", highlight=False, soft_wrap=True)


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        errors.print(text, style="yellow" if text.startswith("warning") else "dim", highlight=False, soft_wrap=True)
