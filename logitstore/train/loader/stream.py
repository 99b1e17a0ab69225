"""Address batches by (epoch, number): iterate, resume, divide them between processes, prepare them ahead.

An epoch is one global sequence of batches. Rank r of w takes batches r, r + w, ..., so the order does not depend on the
world size, and the whole state is one integer: how many global batches have been given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from logitstore.core.background import Pending, Workers
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.targets.targets import AnyTargets
from logitstore.train.loader.batch import Batch


class BatchStream(IterableDataset[Batch], ABC):
    """A batch stream is an endless sequence of epochs. Iterating gives the rest of the current epoch, then moves on to the
    next.

    Where the ranks cannot divide the batches evenly, the last step of some ranks is a batch whose rows do not count
    (`row_mask`), so that all ranks take the same number of steps. As a PyTorch data set a stream goes into
    `DataLoader(stream, batch_size=None)` and torchdata's `StatefulDataLoader`, without worker processes: its threads do
    their work.

    Attributes:
        count: number of samples that the stream reads.
        has_targets: whether the batches have a teacher's answers.
        text_bytes: bytes of the text that the rows of an epoch spell, over all ranks; None where it is not read as text.
    """

    count: int
    has_targets: bool = True
    text_bytes: int | None = None

    def __init__(self, *, rank: int, world_size: int, workers: int, ahead: int | None, pin_memory: bool) -> None:
        if workers < 0 or (ahead is not None and ahead < 0) or not 0 <= rank < world_size:
            raise BadInput(f"workers={workers}, ahead={ahead}, rank={rank} of {world_size}: out of range.")
        self._rank, self._world, self._pin = rank, world_size, pin_memory
        self._ahead = _Ahead(self._made, workers, workers if ahead is None else ahead)
        self._consumed = 0

    @property
    @abstractmethod
    def batches(self) -> int:
        """Number of batches of an epoch, over all ranks."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Number of tokens of the longest sample."""

    @abstractmethod
    def targets(self, batch: Batch) -> AnyTargets:
        """Return the targets for an objective: the batch's answers, decoded on the batch's device."""

    def also_answers(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return what each further cache that the stream reads stores about the rows."""
        return []

    def also_targets(self, batch: Batch) -> list[AnyTargets]:
        """Return the targets of each further cache that the stream reads, decoded on the batch's device."""
        return []

    def also_features(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return the taps of each further cache that the stream reads, as `features` does."""
        return []

    def read_also(self, caches: Sequence[Cache], taps: Sequence[Sequence[str]] = ()) -> None:
        """Let the batches bring along what further caches of the same samples say of the same rows, and some taps of each.

        Raises:
            BadInput: this stream reads no cache.
        """
        if caches:
            raise BadInput("further caches: these batches have no teacher's answers.")

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32[N, D] of each tap that the stream reads, decoded on the batch's device."""
        return {}

    @abstractmethod
    def _make(self, epoch: int, number: int) -> Batch:
        """Return global batch `number` of an epoch; called from several threads."""

    @property
    def world_size(self) -> int:
        """How many ranks share an epoch."""
        return self._world

    def __len__(self) -> int:
        """Return the number of steps of an epoch, the same for every rank."""
        return math.ceil(self.batches / self._world)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch. `state_dict` is exact between batches."""
        if get_worker_info() is not None:
            raise BadInput("num_workers: every worker process would give all batches. Use 0; the loader has threads.")
        epoch, start = divmod(self._consumed, self.batches)
        for first in range(start, self.batches, self._world):
            batch = self._ahead.get(epoch, range(first + self._rank, self.batches + self._rank, self._world))
            self._consumed = epoch * self.batches + min(first + self._world, self.batches)
            yield batch

    def at(self, epoch: int, step: int) -> Batch:
        """Return the batch of one step of one epoch, and prepare the next ones meanwhile."""
        return self._ahead.get(epoch, range(step * self._world + self._rank, len(self) * self._world, self._world))

    def state_dict(self) -> dict[str, int]:
        """Return the place of the reader: the number of global batches given since the start."""
        return {"batches": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from `state`, which another number of ranks may have saved."""
        self._consumed = state["batches"]

    def _made(self, key: tuple[int, int]) -> Batch:
        epoch, number = key
        is_real = number < self.batches
        batch = self._make(epoch, number if is_real else self.batches - 1)
        if not is_real:
            no_row_N, no_sample_M = torch.zeros_like(batch.row_mask), torch.full_like(batch.samples, -1)
            unanswered = dict(batch.unanswered)
            if unanswered:
                unanswered["mask"] = torch.zeros_like(unanswered["mask"])
            batch = replace(batch, row_mask=no_row_N, samples=no_sample_M, unanswered=unanswered)
        return batch.pin_memory() if self._pin else batch


class _Ahead:
    """Give batches by key, and prepare the next ones on threads before they are asked for."""

    def __init__(self, make: Callable[[tuple[int, int]], Batch], workers: int, depth: int) -> None:
        self._make, self._depth = make, depth
        self._pool = Workers(workers) if workers and depth else None
        self._pending: dict[tuple[int, int], Pending[Batch]] = {}

    def get(self, epoch: int, numbers: range) -> Batch:
        """Return the batch of the first number of an epoch, and start to make those of the next numbers."""
        if self._pool is None:
            return self._make((epoch, numbers[0]))
        wanted = [(epoch, number) for number in numbers[: self._depth + 1]]
        for stale in self._pending.keys() - set(wanted):
            self._pending.pop(stale).drop()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._make, key)
        return self._pending.pop(wanted[0]).result()
