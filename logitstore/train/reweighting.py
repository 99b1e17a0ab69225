"""Evaluate the student domain by domain while it trains, and decide how often each domain is read from then on (DDK).

Axes: D domains, S samples of the cache, M some of them, N rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.local_disk import write_whole
from logitstore.train.loader.domains import DomainOrder, Kind, behind, first_shares, next_shares
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.objectives import cross_entropy
from logitstore.train.objectives.kernels.rowwise import rowwise

STATE_NAME = "domains.json"


ALPHA = 0.5
"""alpha of `next_shares`; the paper's value."""


JUDGED = 500
"""Most held-out samples of a domain on which the student is evaluated; the paper's value."""


OLDEST: Kind = "nll"
"""What runs compared whose checkpoints do not say it."""


AHEAD = 1
"""Batches that the loader may prepare before they are asked for."""


LEAD = 3
"""Number of steps before a span begins at which its shares are decided: the loader and the Trainer each fetch a batch
ahead."""


class Reweighting(TrainerCallback):  # type: ignore[misc]
    """Keep the shares of an order up to date, from before the first step on. They are saved with every checkpoint.

    Attributes:
        order: the order of the samples to train on.
        names: names of the domains.
        kind: what is compared of student and teacher.
    """

    def __init__(
        self,
        cache: Cache,
        train_M: Array,
        held_M: Array,
        *,
        seed: int,
        batch_size: int,
        step_samples: int,
        every: int,
        kind: Kind | None = None,
    ) -> None:
        """Choose the held-out samples to evaluate on, and read the teacher's losses on them.

        Args:
            cache: the cache to train from; its nll are the teacher's.
            train_M: int64, the samples to train on.
            held_M: int64, the held-out samples.
            seed: seed of the order.
            batch_size: samples that the student sees at once when it is evaluated.
            step_samples: samples of an optimizer step, over all ranks.
            every: optimizer steps between two evaluations.
            kind: what is compared of student and teacher; None for that of the run which is resumed, or the perplexity.

        Raises:
            BadInput: there are fewer than two domains, or a domain without held-out samples.
        """
        names, code_S = cache.domain_codes()
        texts, number_C = np.unique(np.array([str(name) for name in names]), return_inverse=True)
        domain_S = number_C[code_S]
        present, domain_M = np.unique(domain_S[train_M], return_inverse=True)
        self.names = texts[present]
        if len(self.names) < 2:
            raise BadInput(
                f"--reweight-domains: the samples to train on are of one domain. Dump {cache.path} with --domain-column."
            )
        self.order = DomainOrder(domain_S=domain_M, seed=seed, span=every * step_samples)
        self._every, self._asked = every, kind
        self.kind: Kind = kind or "perplexity"
        judged = []
        for number, name in zip(present.tolist(), self.names.tolist(), strict=True):
            members_M = held_M[domain_S[held_M] == number]
            if not len(members_M):
                raise BadInput(
                    f"--reweight-domains: no document of the domain '{name}' is held out to judge on. "
                    "Choose a larger --holdout."
                )
            judged.append(members_M[np.unique(np.linspace(0, len(members_M) - 1, JUDGED).round().astype(int))])
        self._judged_M = np.concatenate(judged)
        self._rows_M = cache.column("row_counts")[self._judged_M].astype(np.int64)
        self._domain_M = np.repeat(np.arange(len(judged)), [len(members_M) for members_M in judged])
        self._teacher_D = self._means(cache.nll()[self._judged_M].astype(np.float64) * self._rows_M)
        self._loader: Loader = evaluation_loader(cache, self._judged_M, batch_size=batch_size, workers=0)

    def begin(self, student: PreTrainedModel, device: torch.device, checkpoint: str | None) -> None:
        """Decide the first shares, or take them from the checkpoint from which the run resumes. Call this before any batch
        is read.

        Raises:
            BadInput: the checkpoint has no shares.
        """
        if checkpoint is not None:
            try:
                saved = json.loads((Path(checkpoint) / STATE_NAME).read_text(encoding="utf-8"))
                self.order.shares[:] = [np.array(each, np.float64) for each in saved["shares"]]
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"--resume: {checkpoint}: no shares of domains in it. Start again in another folder."
                ) from error
            kind: Kind = saved.get("kind", OLDEST)
            if self._asked not in (None, kind):
                raise BadInput(
                    f"--resume: the run began with --reweight-kind {kind}, not {self._asked}. Give the same."
                )
            self.kind = kind
            return
        before = next(student.parameters()).device
        self._decide(student.to(device), 0)
        student.to(before)  # checks between here and the training expect the student on its first device

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self._decide(model, state.global_step)

    def save(self, folder: Path) -> None:
        """Write the shares into the folder of a checkpoint."""
        shares = [each.tolist() for each in self.order.shares]
        content = {"kind": self.kind, "domains": self.names.tolist(), "shares": shares}
        write_whole(folder / STATE_NAME, json.dumps(content, indent=1).encode())

    def _decide(self, student: Any, steps: int) -> None:
        """Add the shares of every span that begins at most LEAD steps from now."""
        shares, wanted = self.order.shares, (steps + LEAD) // self._every + 1
        if len(shares) >= wanted:
            return
        behind_D = behind(self._look(student), self._teacher_D, self.kind)
        if not shares:
            shares.append(first_shares(behind_D))
        while len(shares) < wanted:
            shares.append(next_shares(shares[-1], behind_D, ALPHA))

    @torch.no_grad()
    def _look(self, student: Any) -> Array:
        """Return float64[D]: the student's cross-entropy on the gold tokens of each domain, nats per row."""
        was_training = student.training
        student.eval()
        rows = dict(zip(self._judged_M.tolist(), self._rows_M.tolist(), strict=True))
        losses: dict[int, float] = {}
        for each in self._loader:
            batch = each.to(next(student.parameters()).device)
            logits_RV: Tensor = student(**batch.model_inputs()).logits.flatten(0, 1)
            losses_N = _losses(logits_RV, batch.gold, batch.rows).double().cpu()
            samples = each.samples.tolist()
            for sample, sample_N in zip(
                samples, torch.split(losses_N, [rows[number] for number in samples]), strict=True
            ):
                losses[sample] = float(sample_N.sum())
        student.train(was_training)
        return self._means(np.array([losses[sample] for sample in rows]))

    def _means(self, totals_M: Array) -> Array:
        """Return float64[D]: totals of the judged samples divided by the rows of each domain."""
        return np.asarray(np.bincount(self._domain_M, totals_M) / np.bincount(self._domain_M, self._rows_M))


def _losses(logits_RV: Tensor, gold_N: Tensor, rows_N: Tensor) -> Tensor:
    return rowwise(lambda logits_nV, some: cross_entropy(logits_nV, gold_N[some]), logits_RV, rows_N)
