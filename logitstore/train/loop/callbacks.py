"""What happens beside the steps of the Hugging Face Trainer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from logitstore.core.progress import Progress, Step

RISES = 2
"""Number of evaluations in a row that must be worse than the best one; a single one may be chance."""


SPREADS = 6.0
"""Standard deviations of the noise from one evaluation to the next that a change must exceed. The best of many evaluations is
compared with the worst since, again and again: after 100 evaluations without any turn, 4 would announce up to 39 of 100 runs,
6 at most 3."""


ENOUGH = 8
"""Number of evaluations from which on that noise can be told from the curve itself."""


_CALLED = {"eval_cross_entropy": "cross-entropy on held-out gold tokens", "eval_kl": "KL to the teacher"}


_ADVICE = {
    "eval_cross_entropy": "the student learns the teacher's faults. Stop there, lower --alpha, or use more text",
    "eval_kl": "the student leaves the teacher for the text. Raise --alpha if that is not wanted",
}


def parting(history: Sequence[dict[str, Any]], student: str = "") -> tuple[str, str] | None:
    """Return which of the two figures turned while the other still falls, and a sentence about it; None while they move
    together.

    Args:
        history: the log of a run; its entries with `eval_kl` and `eval_cross_entropy` count, in their order.
        student: name of the student, where there are several.
    """
    prefix = f"{student}/" if student else ""
    judged = [entry for entry in history if all(prefix + name in entry for name in _CALLED)]
    for turned, falling in (("eval_cross_entropy", "eval_kl"), ("eval_kl", "eval_cross_entropy")):
        values = [entry[prefix + turned] for entry in judged]
        others = [entry[prefix + falling] for entry in judged]
        if len(judged) <= RISES:
            continue
        best = min(range(len(values)), key=values.__getitem__)
        since = values[best:]
        turns = len(since) > RISES and since[-1] > since[-2] > since[-3]
        is_large = since[-1] - since[0] > _chance(values, judged[-1].get(f"{prefix}eval_rows"))
        falls = others[best] - others[-1] > _chance(others, judged[-1].get(f"{prefix}eval_rows"))
        if turns and is_large and falls and others[-1] < min(others[:-1]):
            return turned, (
                f"{f'{student}: ' if student else ''}since step {judged[best]['step']} {_CALLED[turned]} rises "
                f"({values[best]:.3f} to {values[-1]:.3f}) while {_CALLED[falling]} still falls "
                f"({others[best]:.3f} to {others[-1]:.3f}): {_ADVICE[turned]}."
            )
    return None


def _chance(values: Sequence[float], rows: float | None) -> float:
    """Return how far a figure may move by chance.

    Another choice of held-out samples would move it by about its value divided by the root of their rows, which is several
    times the standard error of the difference of two checkpoints on the same documents. Besides, it moves from one evaluation
    to the next; the second differences of the curve tell by how much.
    """
    sampling = abs(values[-1]) / math.sqrt(rows) if rows else 0.0
    if len(values) < ENOUGH:
        return sampling
    bends = [abs(one - 2 * two + three) for one, two, three in zip(values, values[1:], values[2:], strict=False)]
    # the median of |x| is 0.6745 standard deviations of x, and second differences have 6 times the variance
    return max(sampling, SPREADS * statistics.median(bends) / 0.6745 / math.sqrt(6))


class CriterionCallback(TrainerCallback):  # type: ignore[misc]
    """Do for the parameters of the objectives what the Trainer does only for those of the students."""

    def __init__(self, criteria: nn.Module, accelerator: Any, settle: Callable[[], None]) -> None:
        self._criteria, self._accelerator, self._settle = criteria, accelerator, settle

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._accelerator.num_processes > 1:
            for parameter in self._criteria.parameters():
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "mean")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._settle()


class EpochCallback(TrainerCallback):  # type: ignore[misc]
    """Tell the sampler which epoch begins, also when training resumes in the middle of one; and that none does, when it resumes
    after the last step, where the Trainer would do one more."""

    def __init__(self, steps: EpochSteps, accumulation: int) -> None:
        self._steps = steps
        self._updates = -(-len(steps) // accumulation)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._steps.epoch = state.global_step // self._updates
        self._steps.is_over = control.should_training_stop = state.global_step >= state.max_steps


class LogBeforeSaving(TrainerCallback):  # type: ignore[misc]
    """Log a line at every checkpoint and at the end, so that a resumed run misses no steps in its log."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save or control.should_training_stop:
            control.should_log = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.on_step_end(args, state, control)


class DivergenceWarning(TrainerCallback):  # type: ignore[misc]
    """Give one notice for each student when one of KL and cross-entropy turns while the other still falls."""

    def __init__(self, students: Sequence[str], notice: Callable[[str], None]) -> None:
        self._students, self._notice, self._reported = students, notice, set[tuple[str, str]]()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for student in self._students:
            turn = parting(state.log_history, student)
            if turn is not None and (student, turn[0]) not in self._reported and state.is_world_process_zero:
                self._reported.add((student, turn[0]))
                self._notice(f"warning: {turn[1]}")


class Report(TrainerCallback):  # type: ignore[misc]
    """Report how training goes: each step, and each line of the log with a loss or with figures of held-out samples."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._note = ""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        shown = [f"{name} {value:.4f}" for name, value in (logs or {}).items() if name.rpartition("/")[2] in _SHOWN]
        if shown:
            self._note = " ".join(shown)
            self._report(state, is_news=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step < state.max_steps:  # a line of the log follows the last step
            self._report(state)

    def _report(self, state: TrainerState, *, is_news: bool = False) -> None:
        if state.is_world_process_zero:
            done, total = state.global_step, state.max_steps
            self._progress(Step(stage="train", done=done, total=total, note=self._note, is_news=is_news))


_SHOWN = ("loss", "eval_kl", "eval_cross_entropy", "eval_nats_per_byte")


class EpochSteps:
    """Name each step of the current epoch, as a batch sampler of PyTorch."""

    def __init__(self, steps: int) -> None:
        self.epoch, self.is_over, self._count = 0, False, steps

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(self.epoch, step)] for step in range(0 if self.is_over else self._count)])
