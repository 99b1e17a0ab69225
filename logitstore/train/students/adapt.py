"""Which weights of a student are trained: all of them, those of an adapter alone, or all but those that are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.adapter import adapter_weights, has_adapter, layers_with_adapter, peft, put_new, tied_target
from logitstore.models.hooks import recording
from logitstore.settings.models.lora import Lora
from logitstore.settings.train import TrainSettings
from logitstore.train.loader.stream import BatchStream


def check_adapters(settings: TrainSettings, students: Sequence[ModelRef]) -> None:
    """Refuse, before any weights are loaded, options about adapters that do not go together or would change nothing.

    Raises:
        BadInput: names the options; or peft is not installed.
    """
    having = [student for student in students if student.adapter is not None or has_adapter(student.loaded)]
    if settings.lora is not None and not students:
        raise BadInput("--lora needs a --student to put the adapter on: a fresh one has learned nothing yet.")
    if settings.lora is not None and having:
        raise BadInput(f"--lora: {having[0]} has its adapter already. Leave --lora out to train that one on.")
    if settings.lora is None and not having:
        if settings.lora_merge:
            raise BadInput("--lora-merge: it changes nothing without --lora or an adapter as --student.")
        return
    peft()
    if settings.hooks:
        raise BadInput(
            f"--hook {settings.hooks[0]}: an adapter adds to the weights that a hook keeps by its rule. Train without one "
            "of them."
        )
    if settings.keep_zeros:
        raise BadInput(
            "--keep-zeros: an adapter adds to every weight of its layers, also to those that are 0. Leave it out."
        )
    changed = "--copy-layers" if settings.copy_layers is not None else "--prune" if settings.prune else None
    if changed and having:
        raise BadInput(
            f"{changed}: {having[0]} does not fit a model of another shape. Train it for one step with --lora-merge, which "
            "saves the whole model, and give that."
        )
    if settings.lora_merge:
        return
    alone = "the adapter alone would be of no use. Add --lora-merge to save the whole model"
    if changed:
        raise BadInput(f"--lora with {changed}: the model that the adapter changes lies nowhere, so {alone}.")
    for student in students:
        if student.gguf:
            raise BadInput(f"--lora: peft puts no adapter on a GGUF file such as {student}, so {alone}.")
        if student.loaded is not None and not _has_place(student.name):
            raise BadInput(f"lora: {student} was loaded from nowhere, so {alone} (lora_merge=True).")


def _has_place(name: str) -> bool:
    """Say whether a model can be loaded by its name: a folder, or what may be a name of the hub."""
    return Path(name).is_dir() or name.count("/") == 1


def adapt(settings: TrainSettings, student: PreTrainedModel, reference: ModelRef | None) -> None:
    """Put on a student the adapter that the settings ask for, and freeze what they ask for.

    Raises:
        BadInput: no layer has the name of a target, a pattern changes nothing, nothing is left to train, or weights would be
            trained that are not saved.
    """
    who = str(reference or "the fresh student")
    if settings.lora is not None:
        put_new(student, Lora.of(settings.lora), who)
    if has_adapter(student) and reference is not None:
        for config in student.peft_config.values():
            config.base_model_name_or_path = base_name(reference)
    if has_adapter(student):
        _refuse_beside(student, who)
    if settings.lora_merge and has_adapter(student) and (shared := tied_target(student)) is not None:
        raise BadInput(
            f"--lora-merge: {shared} of {who} shares its weight with another layer, so its adapter cannot be added to it. "
            "Leave --lora-merge out, or name other targets."
        )
    for pattern in settings.freeze:
        _freeze(student, pattern, who)
    if not any(weight.requires_grad for weight in student.parameters()):
        flags = "".join(f"--freeze {each}: " for each in settings.freeze)
        raise BadInput(
            f"{flags}no weight of {who} is left to train. Freeze fewer; a model with an adapter is loaded with "
            "is_trainable=True."
        )


def _refuse_beside(student: PreTrainedModel, who: str) -> None:
    """Refuse weights that are trained beside an adapter, with which neither it nor a checkpoint is saved. Raises BadInput."""
    own = {id(weight) for _, weight in adapter_weights(student)}
    beside = [name for name, each in student.named_parameters() if each.requires_grad and id(each) not in own]
    if beside:
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        raise BadInput(
            f"{who}: its weight {beside[0]}{more} would be trained beside its adapter, and would not be saved with it. Freeze "
            "it (requires_grad_(False)), give its layer an adapter too, or merge the adapter and train the whole model."
        )


def base_name(reference: ModelRef) -> str:
    """Return what an adapter calls its model: a folder by its whole path, so that it is found from everywhere."""
    path = Path(reference.name)
    return str(path.resolve()) if path.is_dir() else reference.name


def _freeze(student: PreTrainedModel, pattern: str, who: str) -> None:
    """Freeze the weights whose names a pattern describes. One that two layers share is frozen by either name."""
    names = dict(student.named_parameters(remove_duplicate=False))
    found = [weight for name, weight in names.items() if fnmatchcase(name, pattern)]
    if not found:
        some = ", ".join(list(names)[:3])
        raise BadInput(f"--freeze {pattern}: no weight of {who} has such a name; they are called {some}, ... Mend it.")
    if not any(weight.requires_grad for weight in found):
        raise BadInput(f"--freeze {pattern}: what it describes of {who} is not trained anyhow. Leave it out.")
    for weight in found:
        weight.requires_grad_(False)


def check_reached(student: PreTrainedModel, features: Sequence[str], loader: BatchStream, who: str) -> None:
    """Refuse objectives on features that no trained weight changes, by showing the student one line of the first batch.

    Raises:
        BadInput: names the first.
    """
    if not features or all(weight.requires_grad for weight in student.parameters()):
        return
    shown = loader.at(0, 0).model_inputs()
    inputs = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in shown.items()}
    with torch.enable_grad(), recording(student, features) as seen:
        student(**inputs)
    fixed = [name for name in features if not seen[name].requires_grad]
    if fixed:
        raise BadInput(
            f"an objective compares {fixed[0]} of {who}, which no weight that is trained changes. Compare a later layer, or "
            "train more weights."
        )


def counts_of(student: PreTrainedModel) -> dict[str, Any]:
    """Return how many weights a student has, how many of them are trained, and what is saved of it, as plain JSON."""
    weights = list(student.parameters())
    return {
        "weights": sum(each.numel() for each in weights),
        "trained": sum(each.numel() for each in weights if each.requires_grad),
        "adapter": has_adapter(student),
    }


def trained_note(student: PreTrainedModel, name: str) -> list[str]:
    """Return a line about the weights that are trained; none where all are.

    Args:
        student: ready to be trained.
        name: of the student, where there are several.
    """
    counts = counts_of(student)
    if counts["trained"] == counts["weights"]:
        return []
    share = counts["trained"] / counts["weights"]
    text = f"{counts['trained']:,} of {counts['weights']:,} weights are trained ({share:.2%})"
    if has_adapter(student):
        own = sum(weight.numel() for _, weight in adapter_weights(student))
        text += f": those of an adapter on {len(layers_with_adapter(student))} layers"
        text += " that are not frozen" if own > counts["trained"] else ""
    return [f"note: {name + ': ' if name else ''}{text}."]
