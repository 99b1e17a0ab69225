"""Answers as rows of the data of a folder.

Axes: T tokens of a prompt with its answer, N rows, K entries of a list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from logitstore.dump.engines.answers.matching import Matched, Unfit
from logitstore.text.answers.prompts import Prompt


def rows_of(
    prompts: Mapping[int, Prompt], results: Mapping[int, list[Matched | Unfit]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the data of a shard, by the names of `logitstore.dump.engines.answers.folder.SCHEMA`, and its counts.

    Args:
        prompts: of the shard, by their numbers.
        results: the answers to each.
    """
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(prompts=len(prompts))
    left_out: Counter[str] = Counter()
    for number, prompt in prompts.items():
        for sample, each in enumerate(results[number]):
            if isinstance(each, Unfit):
                left_out[each.why] += 1
                continue
            if not each.rows:
                left_out["none of its tokens has a row"] += 1
                continue
            rows.append(_row(prompt, sample, each))
            counts.update(
                answers=1,
                rows=each.rows,
                tokens=len(each.ids_A),
                cut=each.finish == "length",
                without_row=len(each.ids_A) - each.rows,
                dropped=each.dropped,
                entries=each.entries,
            )
    return rows, dict(counts) | {"left_out": dict(left_out)}


def _row(prompt: Prompt, sample: int, answer: Matched) -> dict[str, Any]:
    has_row = [not math.isnan(gold) for gold in answer.gold_A]
    lists = [each for each, taken in zip(answer.lists_A, has_row, strict=True) if taken]
    return {
        "number": prompt.question.number,
        "sample": sample,
        "prompt": prompt.question.messages,
        "answer": answer.text,
        "finish_reason": answer.finish,
        "domain": prompt.domain,
        "input_ids": [*prompt.tokens_T, *answer.ids_A],
        "completion_mask": [0] * len(prompt.tokens_T) + [int(each) for each in has_row],
        "ids": [[token for token, _ in each] for each in lists],
        "logprobs": [[logprob for _, logprob in each] for each in lists],
        "gold_logprobs": [gold for gold in answer.gold_A if not math.isnan(gold)],
    }
