"""Tell when a run has diverged: its losses, or the weights of its students, are no finite numbers any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from logitstore.errors import ModelError
from logitstore.train.loop.checkpoints import checkpoints, is_whole

SKIPPED = 50
"""Losses in a row that may overflow in float16, where the step is left out and the scale of the loss is halved."""


class LossWatch:
    """Remember, on the device, since which step the losses are no finite numbers. Nothing waits for the device until
    `diverged_at` asks.

    Attributes:
        tolerated: how many such losses in a row do not count yet.
    """

    def __init__(self, tolerated: int = 0) -> None:
        self.tolerated = tolerated
        self._seen: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Take note of the loss of a batch.

        Args:
            loss: a scalar.
            step: the optimizer step that the batch belongs to, from 1.
        """
        if self._seen is None:
            self._seen = torch.zeros(3, dtype=torch.int64, device=loss.device)
        streak, longest, since = self._seen
        is_bad = ~torch.isfinite(loss.detach())
        since = torch.where(is_bad & (streak == 0) & (longest <= self.tolerated), step, since)
        streak = torch.where(is_bad, streak + 1, 0)
        self._seen = torch.stack([streak, torch.maximum(longest, streak), since])

    def diverged_at(self, gather: Callable[[Tensor], Tensor]) -> int | None:
        """Return the first step of too many losses that are no finite numbers, over all processes; None if there is none.

        Args:
            gather: puts the tensors of all processes behind each other.
        """
        if self._seen is None:
            return None
        found = gather(self._seen).view(-1, 3).tolist()
        return min((since for _, longest, since in found if longest > self.tolerated), default=None)


@torch.no_grad()
def are_finite(weights: Iterable[Tensor]) -> Tensor:
    """Return int64[1], on the device: 1 where all weights are finite numbers, of which a process may hold a piece."""
    pieces = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights]
    flags = [torch.isfinite(piece).all() for piece in pieces if piece.numel()]
    return torch.stack(flags).all().long()[None] if flags else torch.ones(1, dtype=torch.int64)


def diverged(out: Path, what: str, learning_rate: float) -> ModelError:
    """Return the error of a run that has diverged, with what is left of it and what to do.

    Args:
        out: folder of the run.
        what: what is no finite number, and since when.
        learning_rate: of the run.
    """
    kept = next((folder for folder in reversed(checkpoints(out)) if is_whole(folder)), None)
    left = (
        "no checkpoint is of before"
        if kept is None
        else f"{kept.name} is of before, and --student {kept} with another --out goes on from it"
    )
    return ModelError(
        f"--out {out}: the training has diverged: {what}. The student is not saved; {left}. Give a --learning-rate below "
        f"{learning_rate:g}, a longer --warmup, or a smaller max_grad_norm."
    )
