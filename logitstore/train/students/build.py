"""Make a student: from nothing but a configuration, or from some layers of a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from logitstore.core.progress import Progress, Step
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, LogitstoreError, ModelError, one_line
from logitstore.models.code import forget_code, loading
from logitstore.models.head import LinearHead
from logitstore.models.load import config_from, describe, load_config, load_weights, new_model, pick_device
from logitstore.models.shape import layer_count, layer_list
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.loader.stream import BatchStream
from logitstore.train.students.adapt import adapt
from logitstore.train.students.classes import lacks_classes
from logitstore.train.students.layers import check_alike, fewer_layers, resize_layer_lists
from logitstore.train.students.output_head import UnknownHead, output_head
from logitstore.train.students.prune import Widths, importance_of, narrow_config, narrowed
from logitstore.train.task import train_task

MOST_LAYERS = 10_000
"""Most layers of a fresh student; a stranger's cache may ask for any number."""


def fresh(teacher_config: dict[str, Any], changes: dict[str, int], task: str = "causal-lm") -> PreTrainedModel:
    """Return a model with random weights, shaped like the teacher except for `changes`.

    Args:
        teacher_config: the teacher's configuration, as the manifest keeps it.
        changes: configuration entries by their transformers name, such as num_hidden_layers.
        task: task of the student.

    Raises:
        BadInput: the teacher's configuration has no such entry, the numbers do not go together, or the weights would
            not fit into the memory of this machine.
        ModelError: this transformers does not know the teacher's kind of model.
    """
    teacher = config_from(teacher_config)
    _, plain = describe(teacher)
    keys = {name: teacher.attribute_map.get(name, name) for name in changes}
    unknown = [name for name, key in keys.items() if key not in plain]
    if "depths" in plain:  # a model of stages has no single number of layers
        unknown += [name for name in changes if name == "num_hidden_layers"]
    if unknown:
        raise BadInput(f"the teacher's configuration ({plain.get('model_type')}) has no '{unknown[0]}' to change.")
    if "hidden_size" in changes or "num_attention_heads" in changes:
        plain.pop("head_dim", None)
    plain |= {key: changes[name] for name, key in keys.items()}
    layers = changes.get("num_hidden_layers", layer_count(teacher))
    if layers > MOST_LAYERS:
        raise BadInput(
            f"no student can be made with {layers:,} layers; at most {MOST_LAYERS:,}. Give --layers with a smaller number."
        )
    resize_layer_lists(plain, list(range(layers)))
    try:
        config = AutoConfig.for_model(**plain)
        with torch.device("meta"):
            _check_memory(new_model(config, torch.float32, task))
        model = new_model(config, torch.float32, task)
    except LogitstoreError:
        raise
    except Exception as error:
        # configurations and layers raise errors of many classes: keep the reason, chain the traceback
        raise BadInput(f"no student can be made with {changes}: {one_line(error)}") from error
    return model


def _check_memory(shape: PreTrainedModel) -> None:
    """Refuse a model whose weights are more than the memory of this machine, which the teacher's shape may ask for."""
    needed, there = sum(weight.nbytes for weight in shape.parameters()), memory()
    if needed > there:
        raise BadInput(
            f"a student of this shape has {needed / 1e9:,.0f} GB of weights in float32, and this machine "
            f"{there / 1e9:,.0f} GB of memory. Give --layers, --hidden-size or --intermediate-size."
        )


def memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def copied(model: ModelRef, layers: str, task: str = "causal-lm") -> PreTrainedModel:
    """Return a checkpoint with only some of its layers; everything else is kept as it is.

    Args:
        model: the checkpoint.
        layers: numbers such as `0,6,12,18,29`, or one count such as `5`, which spreads that many evenly from the first to
            the last.
        task: task of the student.

    Raises:
        BadInput: a layer is not there.
        ModelError: the checkpoint cannot be loaded, or has no single list of decoder layers.
    """
    config = load_config(model)
    chosen = parse_layers(layers, layer_count(config))
    return keep_layers(load_weights(model, config, torch.float32, task), chosen)


def parse_layers(text: str, count: int) -> list[int]:
    """Return layer numbers from `0,6,29` or from a count, checked against the `count` layers of the model."""
    if not count:
        raise BadInput(f"--copy-layers {text}: the model does not say how many layers it has. Leave it out.")
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise BadInput(f"--copy-layers '{text}': write layer numbers, such as 0,6,12, or how many to keep, such as 5.")
    numbers = [int(piece) for piece in text.split(",")]
    if len(numbers) == 1 and not 1 <= numbers[0] <= count:
        hint = " One number is how many to keep; the first one alone is 1." if numbers == [0] else ""
        raise BadInput(f"--copy-layers {text}: the model has {count} layers; keep 1 to {count} of them.{hint}")
    if len(numbers) == 1:
        keep = numbers[0]
        return [round(index * (count - 1) / max(keep - 1, 1)) for index in range(keep)]
    if sorted(set(numbers)) != numbers or numbers[-1] >= count:
        raise BadInput(f"--copy-layers {text}: name layers from 0 to {count - 1}, each once, in rising order.")
    return numbers


def keep_layers(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """Return a new model with the named layers. Their weights and all others are copied.

    Raises:
        ModelError: the model has no single list of decoder layers, or its layers are not alike.
    """
    prefix = layer_list(model)
    new_number = {old: new for new, old in enumerate(layers)}
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")

    def renamed(name: str) -> str | None:
        match = pattern.match(name)
        if match is None:
            return name
        new = new_number.get(int(match[1]))
        return None if new is None else f"{prefix}.{new}.{name[match.end() :]}"

    config = fewer_layers(model.config, layers)
    try:
        with loading():
            smaller: PreTrainedModel = type(model)._from_config(config, dtype=model.dtype)
        kept: Any = smaller.get_submodule(prefix)
    except Exception as error:
        # configurations and layers raise errors of many classes: keep the reason, chain the traceback
        raise ModelError(
            f"{type(model).__name__}: it cannot be made with layers {layers}: {one_line(error)}"
        ) from error
    if len(kept) != len(layers):
        raise ModelError(
            f"{type(model).__name__}: its number of layers is not num_hidden_layers, so none can be left out."
        )
    weights = {new: value for name, value in model.state_dict().items() if (new := renamed(name)) is not None}
    try:
        smaller.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{type(model).__name__}: its layers are not alike, so they cannot be chosen from.") from error
    for number, layer in enumerate(layers):
        check_alike(model.get_submodule(f"{prefix}.{layer}"), kept[number], f"{type(model).__name__}: layer {layer}")
    return smaller


PRUNE_SAMPLES = 256
"""Number of samples by which a student is pruned, if the plan gives none."""


TRIED_TOKENS = 16
"""Number of tokens that is enough to tell whether the output layer computes what its weights say."""


def shape_changes(settings: TrainSettings) -> dict[str, int]:
    """Entries of the teacher's configuration that a fresh student changes."""
    wanted = {
        "num_hidden_layers": settings.layers,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def made_student(
    settings: TrainSettings, cache: Cache, reference: ModelRef | None, loader: BatchStream, progress: Progress
) -> PreTrainedModel:
    """Return the student that the settings ask for: fresh, a checkpoint, some of its layers, or a narrower copy. What of it is
    trained is settled too."""
    task, name = train_task(cache), cache.manifest.task
    if reference is None:
        student = fresh(task.student_config(cache), shape_changes(settings), name)
        adapt(settings, student, None)
        return student
    if reference.loaded is not None:
        reference.loaded.to("cpu")
    if settings.copy_layers is not None:
        student = copied(reference, settings.copy_layers, name)
    else:
        config, classes = load_config(reference), task.config_entries(cache)
        if begins := lacks_classes(config) and bool(classes) and reference.loaded is None:
            config.update(classes)
        student = load_weights(reference, config, torch.float32, name, new_head=begins)
    student.config.update(task.config_entries(cache))
    if not reference.trust_remote_code and reference.loaded is None:
        forget_code(student.config)  # a saved student names no code that was not run
    if settings.prune:
        student = _pruned(settings, student, loader, progress)
    adapt(settings, student, reference)
    return student


def _pruned(
    settings: TrainSettings, student: PreTrainedModel, loader: BatchStream, progress: Progress
) -> PreTrainedModel:
    """Return a narrower copy of the student, by what is most active on the first samples that it will be trained on."""
    widths = Widths(
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        heads=settings.heads,
        kv_heads=settings.kv_heads,
    )
    narrow_config(student, widths)  # refuse an impossible shape before the model runs
    device = pick_device(settings.device)
    batches = min(-(-(settings.prune_samples or PRUNE_SAMPLES) // settings.batch_size), len(loader))

    def activity() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(batches):
            inputs = loader.at(0, number).to(device).model_inputs()
            yield inputs["input_ids"], inputs["attention_mask"]
            progress(Step(stage="prune", done=number + 1, total=batches))

    importance = importance_of(student.to(device).eval(), activity())
    return narrowed(student.cpu(), importance, widths)


def loss_head(student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
    """Return a language model's output layer, tried on some tokens of the first sample; otherwise why it cannot be used."""
    tokens = loader.at(0, 0).model_inputs()["input_ids"][:1, :TRIED_TOKENS].to(student.device)
    try:
        return output_head(student, tokens), "its weights are in pieces"
    except UnknownHead as reason:
        return None, str(reason)
