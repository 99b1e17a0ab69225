"""Hold a student and its criterion, and compute its loss of a batch.

Axes: B sequences, T tokens, R = B * T positions, N rows, G positions without a row, A = N + G, L lines of the loss, D width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.models.head import LinearHead
from logitstore.models.hooks import recording
from logitstore.targets.targets import AnyTargets
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import also_name
from logitstore.train.loader.stream import BatchStream
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.beside import Beside
from logitstore.train.objectives.kernels.by_autograd import ByAutograd
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.nothing import nothing
from logitstore.train.objectives.kernels.weighted_sum import WeightedSum
from logitstore.train.objectives.learned import Routed, Seen, routed
from logitstore.train.objectives.rankings.term import of_scores
from logitstore.train.objectives.shares import Share
from logitstore.train.ranks.shards import head_of
from logitstore.train.students.beside.bilevel import Bilevel, slopes
from logitstore.train.students.beside.mixing import Mixing
from logitstore.train.students.beside.own_answers import Noting, OwnAnswers
from logitstore.train.students.hooks.hook import StudentHook
from logitstore.train.students.output_head import final_hidden
from logitstore.train.students.sides import sides_of

AnyLoss = WeightedSum | ByAutograd | Beside | Routed | Noting


@dataclass(eq=False, kw_only=True)
class Learner:
    """A learner is a student together with the criterion that it is trained on.

    Attributes:
        student: the model.
        criterion: the loss that is minimised.
        features: names of the student's features that the criterion uses.
        at_places: those of them that are compared at every place of a sample, instead of at its rows.
        head: the student's output layer, if it is known to be linear: the loss is then taken from the hidden states, and
            the logits of a batch never exist whole.
        hooks: what changes the student's weights around every optimizer step; they are prepared.
        bilevel: what the shares of a geometry learn by; None where there are none.
        own: the student's own answers, where it learns from these.
        mixing: mixes the images of a batch, if anything does.
        name: name of the student's figures and of its folder; empty for the only student.
        autocast: number format of the student's forward and backward pass. The Trainer's own bf16 would turn the logits
            into a float32 copy of [B, T, V]; here they keep their format until a few rows are reduced.
        product_dtype: number format of the products with the output layer, where it is not `autocast`.
        sums: sums of the rows, the loss and its terms, since the last line of the log.
        step_sums: the same sums since the last optimizer step, for criteria that change by them.
    """

    student: PreTrainedModel
    criterion: Criterion
    features: list[str] = field(default_factory=list)
    at_places: frozenset[str] = frozenset()
    head: LinearHead | None = None
    hooks: Sequence[StudentHook] = ()
    bilevel: Bilevel | None = None
    own: OwnAnswers | None = None
    mixing: Mixing | None = None
    name: str = ""
    autocast: torch.dtype | None = None
    product_dtype: torch.dtype | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    step_sums: dict[str, Tensor] = field(default_factory=dict)

    def labelled(self, label: str) -> str:
        """Return the name of one of the student's figures in the log."""
        return f"{self.name}/{label}" if self.name else label

    @property
    def of_hooks(self) -> nn.ModuleList:
        """What the hooks have of their own."""
        return nn.ModuleList([own for hook in self.hooks if (own := hook.modules()) is not None])

    @property
    def beside(self) -> dict[str, nn.Module]:
        """What is trained or kept beside the student, by the names that it has in checkpoints."""
        # the hyphen keeps a student's name apart from the attributes of a module
        end = f"-{self.name}" if self.name else ""
        return {f"student{end}": self.criterion} | ({f"hooks{end}": self.of_hooks} if len(self.of_hooks) else {})

    def precision(self, device: torch.device) -> torch.autocast:
        """Return the context of the student's forward pass."""
        return torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def loss(
        self,
        run: nn.Module,
        batch: Batch,
        loader: BatchStream,
        weights_A: Tensor,
        done: float,
        *,
        head_is_whole: bool = True,
        needs_output: bool = False,
        gold_scale_A: Tensor | None = None,
        epoch: int = 0,
        step: int = 0,
    ) -> tuple[Tensor, Any]:
        """Return sum_a weights_a loss_a, and the student's output where it is needed.

        The loss of a position without a row is the cross-entropy on its gold token, as far as it weighs anything.

        Args:
            run: the student, perhaps wrapped for several processes.
            batch: on the student's device.
            loader: the loader that the batch comes from; it decodes the teacher's answers.
            weights_A: weights of the rows in the sum, and then of the unanswered positions; or of the samples, where the
                criterion is about these or about rankings.
            done: the share of the run that is over.
            head_is_whole: whether the weight of the output layer is in one piece outside of the model's forward.
            needs_output: whether the student's output, with all logits, is returned.
            gold_scale_A: factor of the cross-entropy of each; see `Criterion.row_loss`.
            epoch, step: numbers of the epoch and the step of the run, for what is kept or looked at by these.
        """
        if self.criterion.is_ranking:
            with self.precision(batch.rows.device):
                output = run(**batch.model_inputs())
            targets: Any = loader.targets(batch)
            total, lines_LM, names = of_scores(
                output, batch, targets, self.criterion.rows, weights_A, gold_scale_A, done
            )
            self._count(lines_LM, names, batch.samples >= 0)
            return total, output
        second: dict[str, Any] = {}
        if self.mixing is not None:
            batch, partners, share_N = self.mixing.mixed(batch, step)
            second = {"also": [loader.targets(partners)], "shares": [share_N, 1 - share_N]}
        targets = self._targets(batch, loader, epoch)
        by_hidden = head_is_whole and not needs_output
        count = len(batch.rows)
        weights_N = weights_A[:count]
        loss = self._loss_of(targets, batch, loader, done, gold_scale_A, second)
        if isinstance(loss, Routed) and self.bilevel is not None and torch.is_grad_enabled():
            loss = replace(loss, slopes_CN=self._slopes(run, batch, loss, weights_N, done, step, by_hidden))
        elif self.own is not None and isinstance(loss, WeightedSum | ByAutograd):
            loss = self.own.noting(loss, batch)
        rows = (
            (torch.cat([batch.rows, batch.unanswered["rows"]]), weights_A)
            if isinstance(loss, Beside)
            else (batch.rows, weights_N)
        )
        with recording(self.student, self.features) as seen:
            if self.head is not None and by_hidden:
                output, on_logits = None, self._from_hidden(run, self.head, batch, loss, *rows)
            else:
                may_spoil = self.head is not None and not needs_output
                output, on_logits = self._from_logits(run, batch, loss, *rows, may_spoil)
        total, lines_LA, names = on_logits
        if isinstance(loss, Noting) and self.own is not None:
            self.own.keep(loss, batch, epoch)
        if self.criterion.sequence is not None:
            self._count(
                torch.cat([torch.ones_like(lines_LA[:1]), lines_LA]), ["rows", "loss", *names], batch.samples >= 0
            )
            return total, output
        lines_LN, lines_LG = lines_LA[:, :count], lines_LA[:, count:]
        if lines_LG.shape[1]:
            self._count(lines_LG, ["loss", *names], batch.unanswered["mask"])
        if self.criterion.features:
            sides = [sides_of(batch, seen, loader.features(batch), self.at_places)]
            for place, features in enumerate(loader.also_features(batch)):
                sides.append(sides_of(batch, seen, features, self.at_places, also_name(place, "")))
            for label, weight, loss_N in self.criterion.feature_losses(sides, total, weights_N, done):
                total = total + weight * torch.where(weights_N != 0, weights_N * loss_N, 0.0).sum()
                term_N = loss_N.detach()
                lines_LN = torch.cat([lines_LN[:1] + weight * term_N, lines_LN[1:], term_N[None]])
                names = [*names, label]
        counted_LN = torch.cat([torch.ones_like(lines_LN[:1]), lines_LN])
        self._count(counted_LN, ["rows", "loss", *names], batch.row_mask)
        return total, output

    def _targets(self, batch: Batch, loader: BatchStream, epoch: int) -> AnyTargets | None:
        """Return what the student is pulled towards: the teacher's answers, or its own."""
        if not self.criterion.needs_targets:
            return None
        return loader.targets(batch) if self.own is None else self.own.targets(batch, epoch)

    def _loss_of(
        self,
        targets: AnyTargets | None,
        batch: Batch,
        loader: BatchStream,
        done: float,
        gold_scale_A: Tensor | None,
        second: dict[str, Any],
    ) -> AnyLoss | None:
        """Return the pulls on logits; of rows and of unanswered positions together, where these have a loss."""
        if not self.criterion.rows:
            return None
        count = len(batch.rows)
        scale_N, scale_G = (None, None) if gold_scale_A is None else (gold_scale_A[:count], gold_scale_A[count:])
        further = dict(second)
        if (rules := self.criterion.row_values) is not None:
            further["by_row"] = rules(batch.answer, batch.samples, batch.counts, count)
        if self.criterion.shares is not None and targets is not None:
            scores = [batch.answer, *loader.also_answers(batch)]
            further |= {"also": loader.also_targets(batch), "shares": self.criterion.shares(scores, done)}
        if (network := self.criterion.routing) is not None and targets is not None:
            also = loader.also_targets(batch)

            def shared(scale_N: Tensor | None, shares: Sequence[Share]) -> WeightedSum | ByAutograd:
                return self.criterion.row_loss(targets, batch.gold, done, scale_N, also=also, shares=shares, **further)

            return routed(network, shared, [targets, *also], batch.gold, scale_N)
        answered = self.criterion.row_loss(targets, batch.gold, done, scale_N, **further)
        if not batch.unanswered:
            return answered
        gold = self.criterion.gold_loss(batch.unanswered["gold"], done, scale_G)
        return answered if gold is None else Beside(answered=answered, rows=count, gold=gold)

    def _slopes(
        self, run: nn.Module, batch: Batch, loss: Routed, weights_N: Tensor, done: float, step: int, by_hidden: bool
    ) -> Tensor:
        """Return the slopes by which a geometry learns; the student computes in float32, without dropout, meanwhile."""
        if self.bilevel is None:
            raise ValueError("there are no held-out batches")
        plain = replace(self, autocast=None, product_dtype=None)
        held = self.bilevel.batch(step, batch.rows.device)
        gold = self.criterion.gold_loss(held.gold, done, (held.gold >= 0).float())
        counts_N = held.row_mask & (held.gold >= 0)

        def passed(of: Batch, own: Any, weights: Tensor) -> tuple[Tensor, Tensor]:
            if plain.head is not None and by_hidden:
                return plain._from_hidden(run, plain.head, of, own, of.rows, weights)[:2]
            return plain._from_logits(run, of, own, of.rows, weights, False)[1][:2]

        def seen() -> tuple[Tensor, Tensor]:
            return loss.of(passed(batch, loss.seen, torch.ones_like(weights_N))[1])

        was_training = self.student.training
        self.student.eval()
        with torch.no_grad():
            shared = loss.shared(loss.network(seen()[1]))
        found = slopes(
            [each for each in self.student.parameters() if each.requires_grad],
            lambda: passed(batch, shared, weights_N)[0],
            lambda: passed(held, gold, counts_N / counts_N.sum().clamp(min=1))[0],
            lambda: seen()[0],
            weights_N,
            self.bilevel.rate,
        )
        self.student.train(was_training)
        return found

    def _from_hidden(
        self,
        run: nn.Module,
        head: LinearHead,
        batch: Batch,
        loss: AnyLoss | Seen | None,
        rows_A: Tensor,
        weights_A: Tensor,
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Return the weighted sum of the pulls on logits, its lines and their names, with the output layer inside the loss."""
        with self.precision(batch.rows.device):
            hidden_RD = final_hidden(run, self.student, batch.model_inputs()).flatten(0, 1)
        head = head_of(self.student, head)
        if loss is None:
            return nothing(len(batch.rows), hidden_RD, head.weight_VD, head.bias_V)

        def of_rows(weights: Tensor, _: bool = True, own: Any = loss) -> tuple[Tensor, Tensor]:
            return from_hidden(own, hidden_RD, head, rows_A, weights, dtype=self.product_dtype or self.autocast)

        return self._summed(of_rows, batch, weights_A, loss)

    def _summed(
        self, of_rows: Any, batch: Batch, weights_A: Tensor, loss: AnyLoss | Seen
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Return the weighted sum of the losses of rows, its lines and their names; or that of samples, made of their rows."""
        if isinstance(loss, Routed):
            return loss.summed(of_rows, weights_A)
        if (sequence := self.criterion.sequence) is None:
            return *of_rows(weights_A, True), loss.names
        found = sequence.loss(of_rows, batch.samples, batch.counts, weights_A, len(batch.rows))
        return *found, sequence.labels

    def _from_logits(
        self,
        run: nn.Module,
        batch: Batch,
        loss: AnyLoss | Seen | None,
        rows_A: Tensor,
        weights_A: Tensor,
        may_spoil: bool,
    ) -> tuple[Any, tuple[Tensor, Tensor, list[str]]]:
        """Return the student's output, and the pulls on its logits in the form of `_from_hidden`."""
        with self.precision(batch.rows.device):
            output = run(**batch.model_inputs())
        logits_RV = output.logits.flatten(0, -2)
        if loss is None:
            return output, nothing(len(batch.rows), logits_RV)

        def of_rows(weights: Tensor, is_last: bool, own: Any = loss) -> tuple[Tensor, Tensor]:
            return from_logits(own, logits_RV, rows_A, weights, in_place=may_spoil and is_last)

        return output, self._summed(of_rows, batch, weights_A, loss)

    def _count(self, lines_LN: Tensor, names: list[str], mask_N: Tensor) -> None:
        """Add lines to the sums of their names, on the device."""
        for name, line_N in zip(names, lines_LN, strict=True):
            added = torch.where(mask_N, line_N, 0.0).sum()
            for sums in (self.sums, self.step_sums) if self.criterion.states else (self.sums,):
                sums[name] = sums[name] + added if name in sums else added
