"""Run a Trainer to its end, and say what is known and what stays then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from logitstore.core.place import below
from logitstore.errors import refusal_of
from logitstore.settings.train import TrainSettings
from logitstore.train.loop.best import EarlyStopping
from logitstore.train.loop.checkpoints import drop_cut_off, keep_newest
from logitstore.train.loop.packages import package_errors
from logitstore.train.loop.watched import WatchedTrainer


def run(trainer: WatchedTrainer, out: Path, checkpoint: str | None, stopping: EarlyStopping | None) -> None:
    """Train. A checkpoint that could not be written whole is removed, so that it takes no space from the next try.

    Raises:
        KeyboardInterrupt: the run was stopped from outside, after a checkpoint; see enable_jit_checkpoint of transformers.
    """
    try:
        with package_errors():
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.check_finite()
        if trainer.state.global_step < trainer.state.max_steps and not (stopping is not None and stopping.stopped):
            raise KeyboardInterrupt
    except Exception as error:
        if refusal_of(error) is not None and trainer.is_world_process_zero():
            drop_cut_off(out)
        raise


def clear(settings: TrainSettings, best: str | None, notice: Callable[[str], None]) -> None:
    """Remove the checkpoints of a finished run that are not to stay, and say what stays. By default that is the last one."""
    count = 1 if settings.keep_checkpoints is None else settings.keep_checkpoints
    stay = keep_newest(settings.out, count, best)
    if stay and settings.keep_checkpoints is None and not settings.trainer.get("save_only_model"):
        size = sum(path.stat().st_size for folder in stay for path in below(folder) if path.is_file())
        notice(
            f"note: {', '.join(folder.name for folder in stay)} {'stays' if len(stay) == 1 else 'stay'} beside the student "
            f"({size / 1e6:,.1f} MB), so that "
            "--resume with more steps can go on. With --keep-checkpoints 0 nothing stays."
        )


def saved_step(trainer: WatchedTrainer) -> int:
    """Return after which step the student that is saved was reached: the last, or the best."""
    state = trainer.state
    is_best = trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None
    return int(state.best_global_step if is_best else state.global_step)


def last_evaluation(trainer: WatchedTrainer) -> dict[str, float]:
    """Return the figures of the student that is saved; evaluate now if there are none yet."""
    state, saved = trainer.state, saved_step(trainer)
    for entry in state.log_history:
        figures = {name: value for name, value in entry.items() if name.rpartition("/")[2].startswith("eval_")}
        if figures and entry["step"] == saved:
            return figures
    evaluated: dict[str, float] = trainer.evaluate()
    return evaluated
