"""By which figure the best student of a run is known, and when a run stops because no better one comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import IntervalStrategy, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from logitstore.core.methods import method_of
from logitstore.core.registry import suggest
from logitstore.errors import BadInput
from logitstore.settings.train import TrainSettings
from logitstore.train.loop.checkpoints import STATE_NAME

HIGHER_IS_BETTER = (
    "accuracy",
    "top5_accuracy",
    "agreement",
    "acceptance",
    "macro_f1",
    "matthews",
    "probability_loyalty",
    "cosine",
    "similarity_spearman",
    "neighbour_agreement",
    "gold_spearman",
    "ndcg",
    "mrr",
    "ndcg_to_teacher",
    "mrr_to_teacher",
    "spearman",
    "kendall",
)
"""Figures of which a student has more when it is better; of all others less is better."""


BY_FIGURE = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow a figure of the held-out samples."""


EVALUATIONS = 0.25
"""Share of a run between two evaluations, if the plan gives none."""


def best_model(settings: TrainSettings, given: dict[str, Any], figures: Iterable[str]) -> dict[str, Any]:
    """Return the arguments by which the best checkpoint is known, where a plan asks for it.

    Args:
        settings: of the run.
        given: its section `trainer`.
        figures: names of the figures of the held-out samples; the first is what a run is judged by.

    Raises:
        BadInput: nothing is held out, there is no such figure, or there are several students.
    """
    asked = [f"trainer: '{name}'" for name in ("load_best_model_at_end", "metric_for_best_model") if given.get(name)]
    if given.get("save_strategy") == "best":
        asked.append("trainer: 'save_strategy'")
    if settings.scheduler in BY_FIGURE:
        asked.insert(0, f"--scheduler {settings.scheduler}")
    if settings.early_stopping is not None:
        asked.insert(0, f"--early-stopping {settings.early_stopping}")
    names = list(figures)
    if not asked:
        if given.get("greater_is_better") is not None:
            raise BadInput("trainer: 'greater_is_better' has no effect without load_best_model_at_end. Leave it out.")
        return {}
    if not settings.holdout:
        raise BadInput(f"{asked[0]} needs held-out samples to judge by. Choose a --holdout above 0.")
    if len(settings.students) > 1:
        raise BadInput(f"{asked[0]} with several --student: each would have another best step. Train each alone.")
    if settings.early_stopping is not None and given.get("load_best_model_at_end") is False:
        raise BadInput(
            f"{asked[0]} with load_best_model_at_end false: it saves the best student. Leave one of them out."
        )
    is_of_scores = settings.objective not in ("auto", "none") and method_of(settings.objective).form == "sequences"
    if is_of_scores and not given.get("metric_for_best_model"):
        raise BadInput(
            f"{asked[0]} with --objective {settings.objective}: the best student would be that of the lowest {names[0]}, "
            "which says nothing of scores. Name a figure with --set metric_for_best_model=NAME, or leave it out."
        )
    metric = str(given.get("metric_for_best_model") or names[0]).removeprefix("eval_")
    if metric not in names:
        raise BadInput(f"trainer: metric_for_best_model '{metric}': no such figure. {suggest(metric, names)}")
    is_more = bool(given.get("greater_is_better", metric in HIGHER_IS_BETTER))
    found: dict[str, Any] = {"metric_for_best_model": f"eval_{metric}", "greater_is_better": is_more}
    if settings.scheduler in BY_FIGURE:
        found["lr_scheduler_kwargs"] = {"mode": "max" if is_more else "min"} | (given.get("lr_scheduler_kwargs") or {})
    if settings.early_stopping is not None:
        found["load_best_model_at_end"] = True
    if (found | given).get("load_best_model_at_end") and given.get("save_strategy", "steps") != "best":
        found |= _saved_when_judged(settings, given)
    return found


def _saved_when_judged(settings: TrainSettings, given: dict[str, Any]) -> dict[str, Any]:
    """Return when checkpoints are saved, so that each of them has been judged."""
    every, judged = settings.save_every, settings.evaluate_every
    if given.get("save_strategy", "steps") != "steps":
        raise BadInput(
            f"trainer: save_strategy '{given['save_strategy']}' with load_best_model_at_end: the best checkpoint is one that "
            "was evaluated. Give the save_strategy best or steps, or leave it out."
        )
    if every is not None and (judged is None or every % judged):
        known = "the evaluations four times in a run" if judged is None else f"--evaluate-every {judged}"
        raise BadInput(
            f"--save-every {every} and {known} do not go together: the best checkpoint is one that was evaluated. Give an "
            "--evaluate-every of which --save-every is a multiple, or leave --save-every out."
        )
    return {"save_strategy": "steps", "save_steps": every or judged or EVALUATIONS}


def evaluations_of(args: TrainingArguments, state: TrainerState) -> int | None:
    """Return how many evaluations a run has from its first step to its last; None if they do not come every so many steps."""
    if args.eval_strategy != IntervalStrategy.STEPS:
        return None
    every = int(state.eval_steps)
    delayed: int = max(math.ceil(args.eval_delay / every) - 1, 0)
    return max(int(state.max_steps) // every - delayed, 0)


class FindBest(TrainerCallback):  # type: ignore[misc]
    """When a run begins, see that it can know its best checkpoint; when it is resumed, find that checkpoint where the run lies
    now. Without it another one can become the best."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.metric_for_best_model is not None and evaluations_of(args, state) == 0:
            delay = f" and eval_delay {args.eval_delay:g}" if args.eval_delay else ""
            raise BadInput(
                f"no evaluation comes within the {state.max_steps} steps of this run (one every {int(state.eval_steps)} "
                f"steps{delay}), so nothing is judged by {args.metric_for_best_model}. Evaluate more often."
            )
        if state.best_global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            is_there = (folder / STATE_NAME).is_file()
            state.best_model_checkpoint = str(folder) if is_there else None
            if not is_there:
                state.best_metric = state.best_global_step = None


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Stop a run when the best evaluation lies so many evaluations back. The log of a run tells it, also of a resumed one.

    Attributes:
        stopped: whether it has stopped this run.
    """

    def __init__(self, patience: int, notice: Callable[[str], None]) -> None:
        self._patience, self._notice = patience, notice
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        count = evaluations_of(args, state)
        if count is not None and 0 < count <= self._patience and state.is_world_process_zero:
            self._notice(
                f"note: --early-stopping {self._patience} cannot stop this run, which has {count} evaluations; the best "
                "student is saved all the same. To stop, evaluate more often."
            )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        name = str(args.metric_for_best_model)
        judged = {entry["step"]: entry[name] for entry in state.log_history if name in entry}
        values = list(judged.values())
        best = (max if args.greater_is_better else min)(range(len(values)), key=values.__getitem__)
        if len(values) - 1 - best < self._patience or state.global_step >= state.max_steps:
            return
        self.stopped = control.should_training_stop = True
        if state.is_world_process_zero:
            self._notice(
                f"note: stopped at step {state.global_step} of {state.max_steps}: {name} was {values[best]:.4f} at step "
                f"{list(judged)[best]}, and no better in the {self._patience} evaluations since."
            )


def check_known(metric: str | None, figures: dict[str, float]) -> None:
    """Refuse a figure to judge by that the held-out samples do not give.

    Args:
        metric: its name; None where none is needed.
        figures: those of an evaluation, without what is not known.

    Raises:
        BadInput: names those that they give.
    """
    if metric is not None and not math.isfinite(figures.get(metric, math.nan)):
        known = ", ".join(name.removeprefix("eval_") for name in figures)
        raise BadInput(
            f"trainer: metric_for_best_model '{metric.removeprefix('eval_')}' is not known of the held-out samples of this "
            f"cache. Give one of these: {known}."
        )
