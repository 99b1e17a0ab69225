"""Prompts with several answers each, their scores and their groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import logitstore
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from tests.parts.texts import TEXTS, plan_for

PROMPTS, ANSWERS = 20, 3


def scored_rows() -> list[dict[str, Any]]:
    """Return rows in the order of the prompts; every seventh has no reward."""
    rows = []
    for number in range(PROMPTS * ANSWERS):
        prompt, answer = divmod(number, ANSWERS)
        text = TEXTS[prompt + 3]
        reward = None if number % 7 == 6 else round((number * 37 % 61) / 61 - 0.3, 4)
        begin = 20 + 17 * answer
        rows.append(
            {
                "prompt": text[: 20 + prompt],
                "completion": text[begin + 30 : begin + 60 + 11 * answer],
                "reward": reward,
                "correct": answer == prompt % ANSWERS,
                "asked": prompt,
            }
        )
    return rows


def scored_plan(teacher: Path, folder: Path, out: str = "scored", **changes: Any) -> DumpSettings:
    """Return a dump of these rows; the file is written where it is missing."""
    data = folder / "answers.jsonl"
    if not data.exists():
        data.write_text("\n".join(map(json.dumps, scored_rows())) + "\n", encoding="utf-8")
    usual = {
        "domain_column": None,
        "score_columns": "reward,correct",
        "group_column": "asked",
        "samples_per_part": 16,
        "prepared": folder / "prepared",
    }
    return plan_for(teacher, data, folder / out, **usual | changes)


def scored_cache(teacher: Path, folder: Path, out: str = "scored", **changes: Any) -> logitstore.Cache:
    plan = scored_plan(teacher, folder, out, **changes)
    dump(plan)
    return logitstore.open(plan.out)
