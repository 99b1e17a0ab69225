"""The student's own answers of the epoch before, kept in the run folder, as the targets of the next epoch.

PS-KD: "Self-Knowledge Distillation with Progressive Refinement of Targets".

An answer about a row is its K most probable tokens with their logprobs, and the mass of all others, spread evenly; with K at
least the vocabulary it is the whole distribution. It is taken in the same pass in which the student learns from the one before.
In the first epoch the gold token stands in its place. Every epoch has a file of its own: an epoch that is done once more after
an interruption reads what it read before.

Axes: N rows (n of a chunk), M samples, S samples of the cache, K kept, A all rows of the cache, V vocabulary of the cache.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from logitstore.core.place import matching
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.loader.batch import Batch
from logitstore.train.objectives.kernels.by_autograd import ByAutograd
from logitstore.train.objectives.kernels.weighted_sum import WeightedSum, Weights

FOLDER_NAME = "own-answers"


@dataclass(frozen=True, eq=False)
class Noting:
    """A `RowLoss` that notes what the student says of each row before its loss is computed.

    Attributes:
        loss: of the rows.
        said_N3K: float64[N, 2 K + 1], filled chunk by chunk: ids, their logprobs, the log of the other mass.
        vocabulary: V; of a student with more tokens the others are left out, and the rest sums to 1.
    """

    loss: WeightedSum | ByAutograd
    said_N3K: Tensor
    vocabulary: int

    @property
    def together(self) -> int | None:
        """As of the loss."""
        return self.loss.together

    @property
    def names(self) -> list[str]:
        """As of the loss."""
        return self.loss.names

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights = 1.0) -> Tensor:
        logprobs_nV = torch.log_softmax(logits_nV[:, : self.vocabulary], -1)
        count = (self.said_N3K.shape[1] - 1) // 2
        best_nK, ids_nK = logprobs_nV.topk(count, -1)
        rest_n = (1 - best_nK.double().exp().sum(-1)).clamp(min=0).log()
        if count == self.vocabulary:
            rest_n = torch.full_like(rest_n, -torch.inf)
        self.said_N3K[some] = torch.cat([ids_nK.double(), best_nK.double(), rest_n[:, None]], 1)
        return self.loss(logits_nV, some, scale)


class OwnAnswers:
    """The answers of the epochs of a run, each a file of 8 K + 4 bytes for each row of the cache."""

    def __init__(self, folder: Path, row_counts_S: Array, *, keep: int, vocabulary: int) -> None:
        """
        Args:
            folder: of the run.
            row_counts_S: int64, rows of each sample of the cache.
            keep: tokens of a row; the whole vocabulary where it is smaller.
            vocabulary: V.
        """
        self._folder = folder / FOLDER_NAME
        self._first_S = np.concatenate([[0], np.cumsum(row_counts_S)])
        self.kept, self.vocabulary = min(keep, vocabulary), vocabulary
        self._files: dict[int, Array] = {}
        self._saved: int | None = None

    def begin(self, done: int, steps: int) -> None:
        """Make ready for a run; of a new one what another run left is removed.

        Args:
            done: how many steps are done, 0 for a new run.
            steps: of an epoch.

        Raises:
            BadInput: an answer is not there that the run reads in this epoch or the next one.
        """
        if not done:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for epoch in range(max(done // steps - 1, 0), (done - 1) // steps + 1):
            if not self._path(epoch).exists():
                raise BadInput(
                    f"--resume: {self._path(epoch)}: what the student said before is not there. Start again in another folder."
                )

    def targets(self, batch: Batch, epoch: int) -> Targets:
        """Return what the student said of the rows in the epoch before; the gold token where it said nothing yet."""
        device, rows_N = batch.rows.device, self._rows(batch)
        stored = self._file(epoch - 1)[rows_N] if epoch else np.zeros((len(rows_N), 2 * self.kept + 1), np.float32)
        said = torch.from_numpy(stored).to(device)
        ids_NK = said[:, : self.kept].view(torch.int32).long()
        is_said_N = ids_NK[:, 0] > 0  # ids are kept one higher, and a file begins as zeros
        only_NK = torch.full_like(said[:, : self.kept], -torch.inf)
        only_NK[:, 0] = 0.0
        gold_NK = torch.zeros_like(ids_NK)
        gold_NK[:, 0] = batch.gold.clamp(min=0)
        return Targets(
            torch.where(is_said_N[:, None], ids_NK - 1, gold_NK),
            torch.where(is_said_N[:, None], said[:, self.kept : -1], only_NK),
            torch.where(is_said_N, said[:, -1], -torch.inf),
            FixedTail.uniform(self.vocabulary),
        )

    def noting(self, loss: WeightedSum | ByAutograd, batch: Batch) -> Noting:
        """Return a loss that notes what the student says of the rows of a batch."""
        said_N3K = torch.zeros(len(batch.rows), 2 * self.kept + 1, dtype=torch.float64, device=batch.rows.device)
        return Noting(loss, said_N3K, self.vocabulary)

    def keep(self, noted: Noting, batch: Batch, epoch: int) -> None:
        """Keep what was noted of a batch of an epoch."""
        mask_N = batch.row_mask.cpu()
        said = noted.said_N3K.cpu()[mask_N]
        ids = (said[:, : self.kept].to(torch.int32) + 1).view(torch.float32)
        whole = torch.cat([ids, said[:, self.kept :].float()], 1)
        self._file(epoch)[self._rows(batch)[mask_N.numpy()]] = whole.numpy()

    def save(self, checkpoint: Path) -> None:
        """Write to the disk what a checkpoint goes on from, and remove what neither it nor the one before needs any more."""
        epoch = max(self._files, default=0)
        for file in self._files.values():
            file.flush()  # type: ignore[attr-defined]
        oldest = min(epoch if self._saved is None else self._saved, epoch) - 1
        self._saved = epoch
        for number in [number for number in self._files if number < oldest]:
            self._files.pop(number)
        for path in matching(self._folder, "epoch-*.f32"):
            if int(path.stem.rpartition("-")[2]) < oldest:
                path.unlink()

    def _rows(self, batch: Batch) -> Array:
        """Return int64[N]: the places of the rows of a batch among all of the cache."""
        counts_M = batch.counts.cpu().numpy()
        first_M = self._first_S[batch.samples.cpu().clamp(min=0).numpy()]
        before_M = np.cumsum(counts_M) - counts_M
        return np.asarray(np.arange(counts_M.sum()) + np.repeat(first_M - before_M, counts_M))

    def _path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:05d}.f32"

    def _file(self, epoch: int) -> Array:
        """Return float32[A, 2 K + 1], mapped: ids as bits, logprobs, the log of the other mass."""
        if epoch not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            path, shape = self._path(epoch), (int(self._first_S[-1]), 2 * self.kept + 1)
            is_whole = path.exists() and path.stat().st_size == 4 * math.prod(shape)
            self._files = {number: file for number, file in self._files.items() if number >= epoch - 1}
            self._files[epoch] = np.memmap(path, np.float32, mode="r+" if is_whole else "w+", shape=shape)
        return self._files[epoch]
