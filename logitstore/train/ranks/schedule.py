"""Which batches an optimizer step takes, over all ranks: the same for every number of ranks with as many batches a step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The batches of a run, step by step.

    An epoch is one sequence of batches. A step takes the next `step_batches` of them, the last step of an epoch what is left.

    Attributes:
        batch_size: samples in a batch, which one rank computes at once.
        batches: batches of an epoch, over all ranks.
        accumulate: batches of a step on one rank.
        world_size: number of ranks.
    """

    batch_size: int
    batches: int
    accumulate: int
    world_size: int

    @property
    def step_batches(self) -> int:
        """Batches of a step, over all ranks."""
        return self.accumulate * self.world_size

    def given(self, step: int) -> int:
        """Return how many batches of all epochs the ranks have been given together after a number of steps.

        This one number says where a run stands in the data; it is the state of a loader, too, and means the same on any number
        of ranks.
        """
        epochs, steps = divmod(step, -(-self.batches // self.step_batches))
        return epochs * self.batches + min(steps * self.step_batches, self.batches)

    def epochs(self, step: int) -> float:
        """Return after how many epochs a rank is then, by the count of the Trainer: of this rank's batches, with those that do
        not count."""
        own = -(-self.batches // self.world_size)
        epochs, steps = divmod(step, -(-own // self.accumulate))
        return epochs + min(steps * self.accumulate, own) / own
