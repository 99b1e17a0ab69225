"""`train`: fit a student from a cache; no teacher runs. Reads top to bottom.

cache -> check that the student fits -> split -> loaders -> student -> Trainer -> saved student
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from logitstore.cache.reader import Cache
from logitstore.distill_trainer import DistillTrainer
from logitstore.errors import BadInput, CacheMismatch, one_line, storage_errors
from logitstore.learner import Learner
from logitstore.models import config_from, layer_count, load_config, load_weights, pick_device, shape_of
from logitstore.objectives.from_hidden import LinearHead
from logitstore.plans import TrainPlan
from logitstore.pulls import check_exact, check_pulls, compared, criterion_of, honestly
from logitstore.reading import check_reading, check_task, loaders, selection_for
from logitstore.run_folder import checkpoint_of, conditions, write_summary
from logitstore.sidecars import sidecar
from logitstore.stream import BatchStream
from logitstore.students.build import copied, fresh, parse_layers
from logitstore.students.fit import check_student, tokenizer_for
from logitstore.students.image_fit import PROCESSOR, check_classifier, check_takes, class_names, processor_for
from logitstore.students.output_head import UnknownHead, output_head
from logitstore.students.packing import check_packing
from logitstore.students.width import Widths, importance_of, narrow_config, narrowed
from logitstore.trainer_callbacks import Report, WatchTurns
from logitstore.types import ModelRef, Progress, Step, no_progress

EVALUATIONS = 0.25
"""Share of a run between two evaluations, if the plan gives none."""

PRUNE_SAMPLES = 256
"""Number of samples by which a student is pruned, if the plan gives none."""

TRIED_TOKENS = 16
"""Number of tokens that is enough to tell whether the output layer computes what its weights say."""


def no_notice(text: str) -> None:
    """Discard a notice."""


def train(
    plan: TrainPlan, progress: Progress = no_progress, notice: Callable[[str], None] = no_notice
) -> dict[str, float]:
    """Train and save the student that `plan` describes.

    Args:
        plan: the plan of the training.
        progress: receives the steps.
        notice: receives what the user should know before training begins, such as how far the cache is from its teacher.

    Returns:
        the last figures logged, including those of the held-out samples.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be made or loaded, or does not fit the cache.
        BadInput: options do not go together.
        StorageError: --out cannot be written.
    """
    cache = Cache(plan.cache)
    cache.check_sizes()
    references = _check(plan, cache)
    selection = selection_for(plan, cache)
    arguments = _arguments(plan)
    if len(references) > 1 and arguments.world_size > 1:
        raise BadInput("several --student in several processes: train each in a run of its own, or all in one process.")
    chosen = None if selection is None else selection.checksum
    checkpoint = checkpoint_of(plan, arguments.world_size, cache, chosen)
    place = {"rank": arguments.process_index, "world_size": arguments.world_size, "workers": plan.workers}
    layers = {_layers(plan, cache, each) for each in references.values()}
    taps = sorted({other for count in layers for _, other in compared(plan, cache, count)})
    cache.taps.check_has(taps)
    check_exact(plan, cache, layers)
    if taps and arguments.n_gpu > 1:
        raise BadInput(
            f"pulls on features with {arguments.n_gpu} GPUs in one process: their features cannot be had together. Start one "
            f"process for each with torchrun --nproc-per-node {arguments.n_gpu}, or give one GPU with CUDA_VISIBLE_DEVICES."
        )
    first = next(iter(references.values()))
    train_loader, held_out_loader, reweighting = loaders(plan, cache, first, selection, taps, place, progress)
    begin = reweighting and partial(reweighting.begin, device=arguments.device, checkpoint=checkpoint)
    processors: dict[str, bytes] = {}
    if cache.manifest.view is not None:
        processors = {name: processor_for(cache, each, plan.image_size) for name, each in references.items()}
    learners, reasons = [], []
    for name, reference in references.items():
        learner, why_not = _learner(plan, cache, name, reference, train_loader, progress, begin)
        learners.append(learner)
        reasons.append(why_not)
    trainer = DistillTrainer(
        learners=learners,
        args=arguments,
        train_loader=train_loader,
        held_out_loader=held_out_loader,
        also_save=reweighting.save if reweighting else None,
        callbacks=[Report(progress), WatchTurns(list(references), notice), *([reweighting] if reweighting else [])],
    )
    by_hidden = trainer.head_is_whole and all(learner.head is not None for learner in learners)
    summary = {
        "cache": cache.manifest.identity,
        "samples": len(cache),
        "selection": chosen,
        "teacher": cache.manifest.teacher.name,
        "loss_from": "hidden states" if by_hidden else "logits",
        **conditions(plan, arguments.world_size),
    }
    for text in honestly(plan, cache, layers):
        notice(text)
    for learner, why_not in zip(learners, reasons, strict=True):
        whose = f"{learner.name}: " if learner.name else ""
        if learner.head is not None and trainer.head_is_whole:
            notice(f"note: {whose}the loss includes the student's output layer, so its logits never exist whole.")
        else:
            notice(f"note: {whose}the loss is taken from the student's logits ({why_not}).")
    with storage_errors(plan.out, then="run the same command with --resume"):
        if trainer.is_world_process_zero():
            write_summary(plan.out, summary)
        trainer.train(resume_from_checkpoint=checkpoint)
        steps = float(trainer.state.global_step)
        figures = {"train_loss": trainer.mean_loss, "steps": steps} | _last_evaluation(trainer)
        trainer.save_model(str(plan.out))
        if trainer.is_world_process_zero():
            for name, reference in references.items():
                if cache.manifest.view is not None:
                    (plan.out / name / PROCESSOR).write_bytes(processors[name])
                else:
                    tokenizer_for(cache, reference).save_pretrained(str(plan.out / name))
            write_summary(plan.out, summary | {"figures": figures, "log": trainer.state.log_history})
    return figures


def _learner(
    plan: TrainPlan,
    cache: Cache,
    name: str,
    reference: ModelRef | None,
    loader: BatchStream,
    progress: Progress,
    begin: Callable[[PreTrainedModel], None] | None,
) -> tuple[Learner, str]:
    """Return a student ready to be trained, and the reason why its loss is taken from its logits, where it is.

    `begin` gets the student before the loader is asked for a batch.
    """
    transformers.set_seed(plan.seed)
    student = _student(plan, cache, reference, loader, progress)
    _check_length(student, loader)
    # no text is read yet, because `begin` may decide its order
    pixels_B3HW = loader.at(0, 0).pixel_values if cache.manifest.view is not None else None
    if pixels_B3HW is not None:
        check_takes(student, str(reference or "the fresh student"), pixels_B3HW)
    if begin is not None:
        begin(student)
    if plan.packed:
        check_packing(student, str(reference or "the fresh student"))
    head, why_not = _head(student, loader)
    autocast = torch.bfloat16 if plan.precision == "bfloat16" else None
    given = {"means_VD": lambda: sidecar(cache, "means", "final", progress)["by_gold"]}
    learner = Learner(
        student=student,
        criterion=criterion_of(plan, cache, shape_of(student.config), given),
        features=sorted({name for name, _ in compared(plan, cache, layer_count(student.config))}),
        head=head,
        name=name,
        autocast=autocast,
    )
    return learner, why_not


def _last_evaluation(trainer: DistillTrainer) -> dict[str, float]:
    """Return the figures after the last step; evaluate now if there are none yet."""
    for entry in trainer.state.log_history:
        figures = {name: value for name, value in entry.items() if name.rpartition("/")[2].startswith("eval_")}
        if figures and entry["step"] == trainer.state.global_step:
            return figures
    return trainer.evaluate()


def _check(plan: TrainPlan, cache: Cache) -> dict[str, ModelRef | None]:
    """Refuse what cannot work before any weights are loaded. Return the students by name; None stands for a fresh one.

    A single student has no name: it is saved in --out itself.
    """
    check_task(plan, cache)
    names = _names(plan)
    _check_out(plan, names)
    if len(names) > 1 and (plan.precision == "float16" or plan.trainer.get("gradient_checkpointing")):
        what = "--precision float16" if plan.precision == "float16" else "gradient_checkpointing"
        raise BadInput(f"several --student with {what}: that is for one student only. Train each in a run of its own.")
    check_reading(plan)
    check_pulls(plan, cache)
    if plan.prune_samples is not None and not plan.prune:
        raise BadInput(f"--prune-samples {plan.prune_samples}: it changes nothing without --prune.")
    changes = _changes(plan)
    if not plan.students:
        if plan.copy_layers is not None:
            raise BadInput("--copy-layers needs a --student to copy them from.")
        if plan.prune:
            raise BadInput("--prune needs a --student to prune.")
        return {"": None}
    if plan.prune and plan.packed:
        raise BadInput(
            "--prune with --packed: it looks at samples one by one. Prune in a run of one step, and train on that."
        )
    if plan.prune and not changes.keys() - {"num_hidden_layers"}:
        raise BadInput("--prune needs --hidden-size, --intermediate-size, --heads or --kv-heads to prune to.")
    if changes and (not plan.prune or plan.layers is not None):
        raise BadInput(
            f"--student {plan.students[0]} has its shape already; --layers, --hidden-size and the like are for a fresh one. "
            "Add --prune to make it narrower, or --copy-layers to take some of its layers."
        )
    references = [ModelRef.parse(student) for student in plan.students]
    if cache.manifest.view is not None:
        for reference in references:
            check_classifier(cache, reference)
    elif not plan.text:
        for reference in references:
            check_student(cache, reference)
    return dict(zip(names, references, strict=True))


def _check_out(plan: TrainPlan, names: list[str]) -> None:
    """Refuse a folder in which saving would overwrite something else."""
    if plan.out.exists() and not plan.out.is_dir():
        raise BadInput(f"--out {plan.out}: a file stands there. Choose another folder.")
    taken = {plan.cache.resolve(), *(Path(ModelRef.parse(student).name).resolve() for student in plan.students)}
    for place in (plan.out, *(plan.out / name for name in names)):
        if place.resolve() in taken:
            raise BadInput(f"--out {plan.out}: {place} is the cache or a student itself. Choose another folder.")


def _names(plan: TrainPlan) -> list[str]:
    """Return the names of the students in the log and below --out: those of their folders; empty for a single student."""
    if len(plan.students) < 2:
        return [""]
    names: list[str] = []
    for student in plan.students:
        name = Path(ModelRef.parse(student).name).name.replace(".", "_")
        if not name or re.fullmatch(r"checkpoint-\d+", name):
            raise BadInput(
                f"--student {student}: of several, each is saved below --out under the name of its folder, and '{name}' "
                "cannot be one there. Rename the folder, or write its path with its name."
            )
        if name in names:
            raise BadInput(f"--student {student}: there is another one called '{name}'. Rename one of the folders.")
        names.append(name)
    return names


def _layers(plan: TrainPlan, cache: Cache, reference: ModelRef | None) -> int:
    """Return the number of decoder layers that a student will have, or 0; see `layer_count`."""
    if reference is None:
        return plan.layers or layer_count(config_from(cache.manifest.teacher.config))
    count = layer_count(load_config(reference))
    return len(parse_layers(plan.copy_layers, count)) if plan.copy_layers is not None else count


def _changes(plan: TrainPlan) -> dict[str, int]:
    """Return the entries of the teacher's configuration that a fresh student changes."""
    wanted = {
        "num_hidden_layers": plan.layers,
        "hidden_size": plan.hidden_size,
        "intermediate_size": plan.intermediate_size,
        "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.kv_heads,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _arguments(plan: TrainPlan) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(plan.out),
        "num_train_epochs": plan.epochs,
        "max_steps": plan.max_steps,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": plan.scheduler,
        "warmup_steps": plan.warmup,
        "weight_decay": plan.weight_decay,
        "fp16": plan.precision == "float16",
        "use_cpu": pick_device(plan.device).type == "cpu",
        "seed": plan.seed,
        "eval_strategy": "steps" if plan.holdout else "no",
        "eval_steps": plan.evaluate_every or EVALUATIONS,
        "save_strategy": "steps" if plan.save_every else "epoch",
        "save_steps": plan.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # the filter would ask the device for the loss at every step
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
    }
    if plan.precision == "float16" and pick_device(plan.device).type == "cpu":
        raise BadInput("--precision float16 needs a GPU. Use bfloat16 or float32.")
    fixed = settings.keys() - {"save_strategy", "save_total_limit", "logging_steps", "report_to", "disable_tqdm"}
    taken = sorted(plan.trainer.keys() & (fixed | {"dataloader_num_workers"}))
    if taken:
        raise BadInput(f"trainer: '{taken[0]}' is set by an option of train. Use that.")
    try:
        with storage_errors(plan.out):
            return TrainingArguments(**settings | plan.trainer)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the training options do not go together: {one_line(error)}") from error


def _student(
    plan: TrainPlan, cache: Cache, reference: ModelRef | None, loader: BatchStream, progress: Progress
) -> PreTrainedModel:
    task = cache.manifest.task
    named = class_names(cache) if cache.manifest.view is not None else {}
    if reference is None:
        return fresh(cache.manifest.teacher.config | named, _changes(plan), task)
    if plan.copy_layers is not None:
        student = copied(reference, plan.copy_layers, task)
    else:
        student = load_weights(reference, load_config(reference), torch.float32, task)
    student.config.update(named)
    return _pruned(plan, student, loader, progress) if plan.prune else student


def _pruned(plan: TrainPlan, student: PreTrainedModel, loader: BatchStream, progress: Progress) -> PreTrainedModel:
    """Return a narrower copy of the student, by what is most active on the first samples that it will be trained on."""
    widths = Widths(
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        heads=plan.heads,
        kv_heads=plan.kv_heads,
    )
    narrow_config(student, widths)  # refuse an impossible shape before the model runs
    device = pick_device(plan.device)
    batches = min(-(-(plan.prune_samples or PRUNE_SAMPLES) // plan.batch_size), len(loader))

    def token_batches() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(batches):
            inputs = loader.at(0, number).to(device).model_inputs()
            yield inputs["input_ids"], inputs["attention_mask"]
            progress(Step(stage="prune", done=number + 1, total=batches))

    importance = importance_of(student.to(device).eval(), token_batches())
    return narrowed(student.cpu(), importance, widths)


def _head(student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
    """Return the student's output layer, tried on some tokens of the first sample, if the loss can take its place; else
    None. Also return why a loss is taken from logits."""
    input_ids = loader.at(0, 0).input_ids
    if input_ids is None:
        return None, "an image classifier has few of them"
    tokens = input_ids[:1, :TRIED_TOKENS]
    try:
        return output_head(student, tokens), "its weights are in pieces"
    except UnknownHead as reason:
        return None, str(reason)


def _check_length(student: PreTrainedModel, loader: BatchStream) -> None:
    limit = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and loader.longest > limit:
        raise CacheMismatch(
            f"the cache has samples of {loader.longest} tokens; the student takes at most {limit}. "
            f"Choose another student, or dump with --max-length {limit}."
        )
