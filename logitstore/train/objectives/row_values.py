"""The temperature of each row, from what is stored of the row or what the data say of its sample.

Swing distillation ("Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework") gives a token a higher
temperature the more private it is; here how private is a score of the sample, or is read off the teacher's answer.

Axes: N rows, M samples, S samples of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from logitstore.core.schedule import RowRule, scheduled
from logitstore.errors import BadInput
from logitstore.settings.train import TermSettings
from logitstore.store.cache import Cache
from logitstore.store.index.scored import column_scores


class RowValues(nn.Module):
    """Gives the numbers that rules set for the rows of a batch."""

    def __init__(self, rules: Sequence[RowRule], vocabulary: int, scores: Mapping[str, Tensor]) -> None:
        """
        Args:
            rules: each once.
            vocabulary: of the teacher, whose logarithm is the largest entropy.
            scores: float[S] by the names of columns, from 0 to 1; NaN counts as 0.
        """
        super().__init__()
        self.rules, self._largest = list(dict.fromkeys(rules)), math.log(max(vocabulary, 2))
        self._names = list(scores)
        for place, score_S in enumerate(scores.values()):
            # it follows from the cache, so no checkpoint holds it
            self.register_buffer(f"score_{place}", score_S.nan_to_num(nan=0.0).float(), persistent=False)

    def forward(
        self, answer: Mapping[str, Tensor], samples_M: Tensor, counts_M: Tensor, rows: int
    ) -> dict[RowRule, Tensor]:
        """Return float32[N] for each rule.

        Args:
            answer: `entropy` and `gold_logprob` of the rows, [N] each, as stored; what no rule reads may be missing.
            samples_M: int64, numbers of the samples; rows come sample after sample.
            counts_M: int64, rows of each sample.
            rows: N.
        """
        return {rule: self._of(rule, answer, samples_M, counts_M, rows) for rule in self.rules}

    def _of(
        self, rule: RowRule, answer: Mapping[str, Tensor], samples_M: Tensor, counts_M: Tensor, rows: int
    ) -> Tensor:
        if rule.by == "entropy":
            known_N = answer["entropy"].float() / self._largest
        elif rule.by == "nll":
            # a row without a gold token has no surprise
            known_N = 1 - answer["gold_logprob"].float().nan_to_num(nan=0.0).exp()
        else:
            score_S: Tensor = getattr(self, f"score_{self._names.index(rule.column)}")
            known_N = torch.repeat_interleave(score_S[samples_M.clamp(min=0)], counts_M, output_size=rows)
        return rule.first + (rule.last - rule.first) * known_N.clamp(0, 1)


def check_rules(pulls: Sequence[TermSettings], cache: Cache) -> None:
    """Refuse temperatures of rows that the loss or the cache does not serve.

    Args:
        pulls: all pulls towards the teacher.
        cache: to train from.

    Raises:
        BadInput: a pull that is no forward KL, or a column that is not there or not from 0 to 1.
    """
    for pull in pulls:
        rule = scheduled(pull.temperature)
        if not isinstance(rule, RowRule):
            continue
        called = f"--temperature {pull.temperature}"
        other = next((each.name for each in pulls if each.name != "forward_kl"), None)
        if other is not None:
            raise BadInput(
                f"{called}: a temperature of each row is for forward_kl alone, and {other} is a part of the loss. Give one."
            )
        if rule.by == "nll" and not cache.manifest.knows_gold:
            raise BadInput(f"{called}: {cache.path} does not know the logprob of every gold token. Take entropy.")
        if rule.by == "column":
            score_S = column_scores(cache, rule.column, called)
            known_S = score_S[~np.isnan(score_S)]
            if len(known_S) and (known_S.min() < 0 or known_S.max() > 1):
                raise BadInput(
                    f"{called}: the score {rule.column} goes from {known_S.min():g} to {known_S.max():g}, and a rule takes "
                    "scores from 0 to 1. Scale the column, and dump again."
                )


def row_values(pulls: Sequence[TermSettings], cache: Cache) -> RowValues | None:
    """Return what gives the rows their temperatures; None where no pull has one of each row."""
    rules = [rule for pull in pulls if isinstance(rule := scheduled(pull.temperature), RowRule)]
    if not rules:
        return None
    columns = dict.fromkeys(rule.column for rule in rules if rule.column)
    scores = {name: torch.from_numpy(column_scores(cache, name, "--temperature")) for name in columns}
    return RowValues(rules, cache.manifest.teacher.vocabulary, scores)
