"""The loader's batches, as the Trainer takes them, and what the rows that count in them weigh in the loss of a step.

Axes: N rows, G positions with a gold token and no row, A = N + G, M samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments

from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.ranks.schedule import Schedule


def row_counts(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return int64[2]: how many rows of a batch count, and how many of its gold tokens or labels, of positions without a row
    too."""
    mask_N = tensors["row_mask"]
    labelled = (mask_N & (tensors["gold"] >= 0)).sum()
    if "unanswered.mask" in tensors:
        labelled = labelled + tensors["unanswered.mask"].sum()
    return torch.stack([mask_N.sum(), labelled])


def row_weights(
    batch: Batch, counts: Tensor, *, processes: int, has_unlabelled: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return float32[A], the weights by which the losses of a batch sum to its share of the mean over a step, of its rows and
    then of its unanswered positions; and the factors of their cross-entropy, where they are not 1.

    Args:
        batch: one of the step.
        counts: int64[2], the sum of `row_counts` over all batches of the step, of all processes.
        processes: number of processes, over which gradients are averaged afterwards, although `counts` covers all.
        has_unlabelled: whether there are rows without a gold token or label. Cross-entropy is the mean over all gold tokens
            or labels of the step, while the loss is one over its rows.
    """
    count, labelled = counts
    mask_A, is_gold_A, weight_A = batch.row_mask, batch.row_mask & (batch.gold >= 0), batch.weight
    if beside := batch.unanswered:
        mask_A, is_gold_A = torch.cat([mask_A, beside["mask"]]), torch.cat([is_gold_A, beside["mask"]])
        weight_A = None if weight_A is None else torch.cat([weight_A, beside["weight"]])
    gold_scale_A = is_gold_A * (count / labelled.clamp(min=1)) if has_unlabelled or beside else None
    weights_A = mask_A * (processes / count.clamp(min=1))
    return weights_A if weight_A is None else weights_A * weight_A, gold_scale_A


def sample_counts(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return int64[2]: how many samples of a batch count, twice; what `row_counts` is for objectives on whole samples."""
    count = (tensors["samples"] >= 0).sum()
    return torch.stack([count, count])


def sample_weights(batch: Batch, counts: Tensor, *, processes: int) -> tuple[Tensor, None]:
    """Return float32[M], the weights by which the losses of the samples of a batch sum to its share of the mean over a step."""
    return (batch.samples >= 0) * (processes / counts[0].clamp(min=1)), None


def query_counts(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return int64[2]: how many queries of a batch count, and how many of them have a relevant document."""
    is_read_M = tensors["samples"] >= 0
    return torch.stack([is_read_M.sum(), (is_read_M & _is_labelled(tensors["gold"], tensors["counts"])).sum()])


def query_weights(
    batch: Batch, counts: Tensor, *, processes: int, has_unlabelled: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return float32[M], what `row_weights` gives, for the queries of a batch; a query weighs what its first document does."""
    count, labelled = counts
    weights_M = (batch.samples >= 0) * (processes / count.clamp(min=1))
    if batch.weight is not None:
        weights_M = weights_M * batch.weight[batch.counts.cumsum(0) - batch.counts]
    is_labelled_M = _is_labelled(batch.gold, batch.counts)
    return weights_M, is_labelled_M * (count / labelled.clamp(min=1)) if has_unlabelled else None


def _is_labelled(gold_N: Tensor, counts_M: Tensor) -> Tensor:
    """Return bool[M]: whether a document of a query is relevant."""
    owner_N = torch.repeat_interleave(torch.arange(len(counts_M), device=counts_M.device), counts_M)
    found_M = torch.zeros(len(counts_M), dtype=torch.int64, device=counts_M.device)
    return found_M.index_add_(0, owner_N, (gold_N > 0).long()) > 0


def weighing(
    criteria: Iterable[Criterion], has_unlabelled: bool
) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor | None]]]:
    """Return what counts and what weighs the rows of a batch, or its samples where the criteria are about these.

    Args:
        criteria: of the students of a run.
        has_unlabelled: as for `row_weights`; objectives on whole samples have no cross-entropy beside them.
    """
    known = list(criteria)
    if any(each.is_ranking for each in known):
        return query_counts, partial(query_weights, has_unlabelled=has_unlabelled)
    if any(each.sequence is not None for each in known):
        return sample_counts, sample_weights
    return row_counts, partial(row_weights, has_unlabelled=has_unlabelled)


def schedule_of(arguments: TrainingArguments, loader: BatchStream) -> Schedule:
    """Return which batches of a loader each step of a run takes, over all its ranks."""
    return Schedule(
        batch_size=arguments.train_batch_size,
        batches=loader.batches,
        accumulate=arguments.gradient_accumulation_steps,
        world_size=loader.world_size,
    )


class Batches(Dataset[dict[str, Tensor]]):
    """Give the loader's batches by (epoch, step), as dictionaries of tensors, which the Trainer knows how to move."""

    def __init__(self, loader: BatchStream) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.count

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        return self._loader.at(*where).tensors()
