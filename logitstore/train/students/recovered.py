"""Start a student's output layer from the teacher's answers alone: their logits span the columns of its output layer.

The logits of a linear layer are h W^T for hidden states of D channels, so the matrix of many rows of logits has rank D, and
its right singular vectors span the columns of W (Carlini et al. 2024, "Stealing Part of a Production Language Model"; Clone
What You Can't Steal starts a student from them). Which hidden state gives which logits stays unknown: W is found but for a
D x D matrix. Of logprobs the mean over the tokens is taken out of each row, which takes it out of each column of W as well, and
no softmax sees the difference.

Axes: N rows, V vocabulary, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.core.progress import Progress, Step
from logitstore.errors import BadInput, ModelError
from logitstore.format.row_kinds import Lists
from logitstore.models.head import scaling_of
from logitstore.models.shape import classifier_of
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from logitstore.train.loader.stream import BatchStream

ROWS = 2048
"""Rows whose logits are decomposed; V float32 each are held meanwhile. More than the teacher has channels are needed."""

FLOOR = 1e-7
"""Singular values below this share of the largest one are rounding: those of a matrix of products in float64."""

PIECE = 1 << 14
"""Tokens whose products are taken at a time."""


@dataclass(frozen=True, eq=False)
class Recovered:
    """What the logits of some rows say of the output layer that made them.

    Attributes:
        weight_VD: float32[V, D], orthogonal columns, the strongest first: singular vectors times singular values over sqrt N,
            so that a channel of the hidden states that they take is 1 on average in its square.
        rank: D, the place of the largest gap between the logs of neighbouring singular values, as in Carlini et al. 2024.
        gap: how many times the last singular value of the rank is larger than the next one.
        rows: N.
    """

    weight_VD: Tensor
    rank: int
    gap: float
    rows: int

    @classmethod
    def of(cls, logprobs_NV: Tensor) -> Recovered:
        """Return the output layer of whole rows of logits or logprobs, float32 or float64, all finite.

        Raises:
            BadInput: there are fewer than three rows, or they are all constant.
        """
        rows_NV = logprobs_NV - logprobs_NV.mean(1, keepdim=True)
        count = len(rows_NV)
        products_NN = rows_NV.new_zeros(count, count, dtype=torch.float64)
        for some_NV in torch.split(rows_NV, PIECE, 1):
            products_NN += some_NV.double() @ some_NV.double().T
        squares_N, vectors_NN = torch.linalg.eigh(products_NN)
        values_N = squares_N.flip(0).clamp(min=0).sqrt()
        if count < 3 or not values_N[0] > 0:
            raise BadInput(f"an output layer cannot be found in {count} rows of logits that do not differ.")
        logs_N = values_N.clamp(min=FLOOR * float(values_N[0])).log()
        gaps = logs_N[:-1] - logs_N[1:]
        rank = int(gaps.argmax()) + 1
        left_ND = vectors_NN.flip(1)[:, :rank]
        weight_VD = torch.cat([some_NV.double().T @ left_ND for some_NV in torch.split(rows_NV, PIECE, 1)]) / count**0.5
        return cls(weight_VD.float(), rank, float(gaps.max().exp()), count)


def recovered_from(cache: Cache, loader: BatchStream, progress: Progress, rows: int = ROWS) -> Recovered:
    """Return what the first batches of a training say of the teacher's output layer.

    Args:
        cache: that the batches come from.
        loader: gives them.
        progress: receives the steps.
        rows: most rows.

    Raises:
        BadInput: see `check_recovered`.
    """
    check_recovered(cache)
    found: list[Tensor] = []
    count = 0
    for number in range(len(loader)):
        batch = loader.at(0, number)
        targets = loader.targets(batch)
        if not isinstance(targets, Targets):
            raise BadInput("--recover-head needs whole distributions.")
        some = slice(0, rows - count)
        found.append(dense_logprobs(targets[some])[batch.row_mask[some]])
        count += len(found[-1])
        progress(Step(stage="gather", done=number + 1, total=len(loader)))
        if count >= rows:
            break
    logprobs_NV = torch.cat(found)
    if not logprobs_NV.isfinite().all():
        raise BadInput(f"--recover-head: {cache.path} has tokens without any mass, whose logits are unknown.")
    return Recovered.of(logprobs_NV)


def check_recovered(cache: Cache) -> None:
    """Refuse a cache whose rows do not say the logits of every token.

    Raises:
        BadInput: it has a tail that is modelled, random samples or no rows.
    """
    row = cache.manifest.row
    kind = row.sparsifier.kind
    is_listed = kind.lists is Lists.GIVEN and row.sparsifier.k >= row.vocabulary
    if not (kind.keeps_hidden or kind.lists is Lists.ALL or is_listed) or kind.is_estimate:
        raise BadInput(
            f"--recover-head: {cache.path} does not keep the logits of every token. Dump with --preset "
            "exact, for few classes with --sparsifier dense, or with --preset topk and -k as large as the vocabulary."
        )


@torch.no_grad()
def start_head(student: PreTrainedModel, found: Recovered, *, frozen: bool, who: str) -> str:
    """Put what was found into the output layer of a student, and return what was done, as a line.

    A student of fewer channels than the rank gets the strongest columns, which is the nearest matrix of its width; one of more
    channels has zeros in the others. Rows beyond the teacher's vocabulary stay as they are.

    Args:
        student: on the processor.
        found: of the cache.
        frozen: whether the layer is not trained.
        who: name of the student, for messages.

    Raises:
        ModelError: its output layer is no linear one, or its logits are bounded or scaled.
    """
    layer: Any = student.get_output_embeddings()
    layer = classifier_of(student) if layer is None else layer
    if not isinstance(layer, nn.Linear):
        raise ModelError(f"--recover-head: {who}: its output layer is no linear one. Choose another student.")
    if scaling_of(student.config) != (1.0, 0.0):
        raise ModelError(f"--recover-head: {who}: its logits are scaled or bounded. Choose another student.")
    weight_VD, vocabulary = layer.weight, len(found.weight_VD)
    width = min(weight_VD.shape[1], found.rank)
    weight_VD[:vocabulary] = 0.0
    weight_VD[:vocabulary, :width] = found.weight_VD[:, :width]
    if layer.bias is not None:
        layer.bias[:vocabulary] = 0.0
    if frozen:
        layer.requires_grad_(False)
    smaller = f"the next singular value is {found.gap:,.3g} times smaller"
    shown = f"{found.rows:,} rows of logits have rank {found.rank:,} ({smaller})"
    if found.gap < CLEAR:
        shown += ", which is no clear gap"
    is_tied = any(each.weight is layer.weight for each in student.modules() if isinstance(each, nn.Embedding))
    tied = ", which is that of its embeddings too" if is_tied else ""
    kept = "is not trained" if frozen else "is trained on"
    return f"note: {who}: {shown}; its output layer begins as the {width:,} strongest directions{tied}, and {kept}."


CLEAR = 2.0
"""Smallest ratio of two neighbouring singular values that counts as a gap."""
