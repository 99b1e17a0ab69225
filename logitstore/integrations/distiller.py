"""A run without its loop: the batches of a cache, their loss, and the figures on held-out samples.

Axes: N rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.core.place import Place as CachePlace
from logitstore.core.progress import amount, no_progress
from logitstore.core.tasks import task_of
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.integrations.plan import plan_of
from logitstore.models.adapter_ref import student_ref
from logitstore.models.load import load_config, load_weights
from logitstore.models.shape import layer_count
from logitstore.store.cache import Cache
from logitstore.train.checks.also import also_notes, also_of
from logitstore.train.checks.run import selection_for
from logitstore.train.loader.batch import Batch
from logitstore.train.loop.batches import weighing
from logitstore.train.metrics import Evaluation
from logitstore.train.run_folder import with_objective
from logitstore.train.sidecars import gathered
from logitstore.train.students.adapt import check_reached
from logitstore.train.task import Place, same, train_task
from logitstore.train.terms import check_terms, fidelity_notes, learner_of, taps_read

ELSEWHERE = {"accumulate": "a list of several batches to each step of your loop"}


def log_notice(text: str) -> None:
    """Give a notice to Python's logging: a warning as one, other notes as information."""
    level = logging.WARNING if text.startswith("warning") else logging.INFO
    logging.getLogger("logitstore").log(level, text)


def no_notice(text: str) -> None:
    """Discard a notice, as all processes but the first do."""


class Distiller:
    """A distiller is what `logitstore train` has besides its loop, for a loop of your own.

    Attributes:
        model: the student as it was given.
        student: the model within its adapters.
        train: the batches to train on, endless; iterating gives the rest of an epoch.
        held_out: the batches to judge on; None with `holdout=0`.
        reference: what the student is called, and where it lies or the model itself.
        learner: the student with its criterion.
        selection: checksum of the selection that is trained on; None for all samples.
    """

    def __init__(
        self,
        student: nn.Module | str,
        cache: Cache | CachePlace,
        *,
        batch_size: int = 8,
        recipe: str | Path | None = None,
        tokenizer: Any = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        notice: Callable[[str], None] = log_notice,
        elsewhere: Mapping[str, str] = ELSEWHERE,
        loop: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Check that the student fits the cache, and open what is read.

        Args:
            student: a model of transformers, perhaps with adapters of peft; or the folder or hub name of one, which is loaded
                in float32 as `logitstore train` does.
            cache: the cache to learn from.
            batch_size: samples in a batch of this process.
            recipe: the name of a recipe, or a YAML file with a section `train`.
            tokenizer: the student's, to compare with the cache's; by default the one saved with a student that is named, or
                in the folder that a model was loaded from.
            seed: seed of the order.
            rank, world_size: this process among those that train together.
            workers: threads that prepare batches.
            precision: number format of the forward and backward pass.
            notice: receives what the user should know; by default it is logged by the name `logitstore`.
            elsewhere: names under which a loop has settings of `train`.
            loop: further settings of `train` that a loop decides.
            settings: settings of `train` about the loss and what is read, such as `alpha`, `objective`, `holdout`.

        Raises:
            BadInput: settings do not go together, or one is of `logitstore train` alone.
            CacheMismatch, ModelError: the student does not fit the cache.
        """
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        decided = {"batch_size": batch_size, "seed": seed, "workers": workers, "precision": precision, "out": "."}
        plan = plan_of(
            self.cache,
            settings,
            recipe=recipe,
            elsewhere=elsewhere,
            loop=decided | dict(loop or {}),
            notice=notice if rank == 0 else no_notice,
        )
        self.settings = with_objective(plan, self.cache)
        self.cache.check_soon()
        self._task, self._world = train_task(self.cache), world_size
        self._notice = notice if rank == 0 else no_notice
        check_terms(self.settings, self.cache)
        also = also_of(self.settings, self.cache)
        if isinstance(student, str):
            self.reference = replace(student_ref(student), tokenizer=tokenizer)
            self._task.check(self.settings, self.cache, [self.reference])
            self.model: nn.Module = _loaded(self.reference, self.cache)
            self.student = _within(self.model)
        else:
            self.model, self.student = student, _within(student)
            name = self.student.name_or_path or type(self.student).__name__
            self.reference = ModelRef(name=name, loaded=self.student, tokenizer=tokenizer, called=name)
            self._task.check(self.settings, self.cache, [self.reference])
        layers = {layer_count(self.student.config)}
        selection = selection_for(self.settings, self.cache)
        self.selection = None if selection is None else selection.checksum
        taps = taps_read(self.settings, self.cache, layers)
        place = Place(rank=rank, world_size=world_size, workers=workers)
        self.data = self._task.open(self.settings, self.cache, self.reference, selection, taps, place, no_progress)
        self.train, self.held_out = self.data.train, self.data.held_out
        self.train.read_also(also)
        self._task.check_made(self.settings, self.student, str(self.reference), self.train)
        self.student.config.update(self._task.config_entries(self.cache))
        self.learner = learner_of(
            self.settings,
            self.cache,
            self.student,
            gathered(self.cache, no_progress),
            autocast=torch.bfloat16 if precision == "bfloat16" else None,
        )
        if not self.cache.complete:
            self._notice(
                f"warning: {self.cache.path} has {len(self.cache.part_numbers):,} of its "
                f"{amount(self.cache.manifest.parts, 'part')} so far; the student learns from these alone."
            )
        check_reached(self.student, self.learner.features, self.train, str(self.reference))
        for text in (*fidelity_notes(self.settings, self.cache, layers), *also_notes(self.settings, also)):
            self._notice(text)
        self.take_head()

    @cached_property
    def save_beside(self) -> Callable[[Path], None]:
        """Saves in a folder what belongs beside the student: its tokenizer or image processor, or else the cache's."""
        return self._task.saver(self.settings, self.cache, self.reference)

    def take_head(self) -> None:
        """Look again whether the student's output layer can be a part of the loss, as after adapters were added."""
        self.learner.head, why_not = self._task.loss_head(self.student, self.train)
        if self.learner.head is None:
            self._notice(f"note: the loss is taken from the student's logits ({why_not}).")

    @property
    def figures(self) -> list[str]:
        """Names of the figures of the held-out samples; the first is what a run is judged by."""
        if not self.train.has_targets:
            return ["cross_entropy", "perplexity"]
        names = ["kl", *(each.name for each in fields(Evaluation) if each.name not in ("kl", "rows"))]
        return [*names, *task_of(self.cache.manifest.task).figures]

    def steps(self, accumulate: int = 1) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step of the rest of the epoch."""
        rest = iter(self.train)
        while batches := list(islice(rest, accumulate)):
            yield batches

    def steps_per_epoch(self, accumulate: int = 1) -> int:
        """Return how many optimizer steps an epoch has."""
        return -(-len(self.train) // accumulate)

    def seek(self, steps: int, accumulate: int = 1) -> None:
        """Go to where a run stands after so many optimizer steps; the next batches are those of the step that follows."""
        epoch, step = divmod(steps, self.steps_per_epoch(accumulate))
        taken = min(step * accumulate * self._world, self.train.batches)
        self.train.load_state_dict({"batches": epoch * self.train.batches + taken})

    def rows(self, batches: Iterable[Mapping[str, Any]]) -> Tensor:
        """Return int64[2]: how many rows of some batches count, and how many gold tokens or labels, of positions without a row
        too. Add the counts of all processes before they are given to `loss`."""
        count, _ = self._weighing
        return torch.stack([count(batch) for batch in batches]).sum(0)

    def loss(
        self, batch: Mapping[str, Any], rows: Tensor | None = None, *, model: nn.Module | None = None, done: float = 0.0
    ) -> Tensor:
        """Return a batch's share of the mean loss over the rows of an optimizer step; cross-entropy is a mean over its gold
        tokens.

        Args:
            batch: on the student's device.
            rows: the counts of the whole step, of all processes; None where the batch is the step.
            model: the student as it was wrapped for several processes; None for the student itself.
            done: the share of the run that is over, for weights that change and objectives that need it.

        Returns:
            float32; already multiplied by the number of processes, over which DDP averages gradients.
        """
        given = batch if isinstance(batch, Batch) else Batch(batch)
        self.learner.criterion.to(given.rows.device)
        count, weigh = self._weighing
        counts = (count(given) if rows is None else rows).to(given.rows.device)
        weights_A, gold_scale_A = weigh(given, counts, processes=self._world)
        run = self.model if model is None else model
        loss, _ = self.learner.loss(run, given, self.train, weights_A, done, gold_scale_A=gold_scale_A)
        return loss

    @property
    def _weighing(self) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor | None]]]:
        """What counts and what weighs the rows of a batch, or its queries."""
        return weighing([self.learner.criterion], self.data.unlabelled > 0)

    def parameters(self) -> list[nn.Parameter]:
        """Return what the objectives themselves learn; give it to the optimizer too, without weight decay."""
        return list(self.learner.criterion.parameters())

    def settle(self, done: float = 0.0, reduce: Callable[[Tensor], Tensor] = same) -> None:
        """After an optimizer step: let objectives that change by their own loss, such as TAID, see it.

        Args:
            done: the share of the run that is over.
            reduce: adds the sums of several processes.
        """
        self.learner.criterion.zero_grad()
        if sums := self.learner.step_sums:
            total = reduce(torch.stack(list(sums.values())))
            means = dict(zip(sums, total / total[list(sums).index("rows")].clamp(min=1), strict=True))
            self.learner.criterion.settle(means.get, done)
            self.learner.step_sums = {}

    def evaluate(self, reduce: Callable[[Tensor], Tensor] = same) -> dict[str, float]:
        """Return the figures of `logitstore evaluate` on the held-out samples, by name.

        Args:
            reduce: adds the sums of several processes, each of which judges its share.

        Raises:
            BadInput: nothing is held out.
        """
        if self.held_out is None:
            raise BadInput("holdout=0: there is nothing to evaluate on. Choose a holdout above 0.")
        device, was_training = self.student.device, self.student.training

        def run(**inputs: Any) -> Any:
            with self.learner.precision(device):
                return self.student(**inputs)

        self.student.eval()
        found = self.data.judge(run, self.held_out, self.train.targets, device, reduce)
        self.student.train(was_training)
        return {name: float(value) for name, value in vars(found).items() if value is not None}


def _loaded(reference: ModelRef, cache: Cache) -> PreTrainedModel:
    """Return a student that is given by its name, as `logitstore train` loads it."""
    return load_weights(reference, load_config(reference), torch.float32, cache.manifest.task)


def _within(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers within its adapters.

    Raises:
        BadInput: it is no model of transformers, or its adapters put tokens of their own before the text.
    """
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise BadInput(
            f"{type(config).__name__}: adapters that put tokens of their own before the text move its rows. Use LoRA."
        )
    found = model.get_base_model() if config is not None else model  # type: ignore[operator]
    if not isinstance(found, PreTrainedModel):
        raise BadInput(f"{type(found).__name__}: the student must be a model of transformers.")
    return found
