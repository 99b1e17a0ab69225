"""The watch over held-out cross-entropy and KL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from logitstore.core.progress import Step
from logitstore.train.loop.callbacks import Report, parting


def log_of(cross_entropies: Sequence[float], kls: Sequence[float], rows: float = 1e6) -> list[dict[str, Any]]:
    judged = [
        {"step": 10 * place, "eval_cross_entropy": cross, "eval_kl": kl, "eval_rows": rows}
        for place, (cross, kl) in enumerate(zip(cross_entropies, kls, strict=True), 1)
    ]
    return [entry for each in judged for entry in ({"step": each["step"], "loss": 1.0}, each)]


def test_gold_tokens_that_get_worse_while_the_teacher_gets_nearer_are_announced() -> None:
    found = parting(log_of([5.0, 4.5, 4.6, 4.7], [3.0, 2.5, 2.4, 2.3]))
    assert found is not None
    assert found[0] == "eval_cross_entropy"
    assert "since step 20" in found[1]
    assert "4.500 to 4.700" in found[1]
    assert "2.500 to 2.300" in found[1]


def test_a_teacher_that_gets_farther_while_the_text_gets_nearer_is_announced() -> None:
    found = parting(log_of([5.0, 4.5, 4.4, 4.3], [3.0, 2.5, 2.6, 2.7]))
    assert found is not None
    assert found[0] == "eval_kl"


def test_no_figures_of_an_earlier_step_are_reported_for_the_last(tmp_path: Path) -> None:
    told: list[Step] = []
    report, rest = Report(told.append), (TrainingArguments(str(tmp_path), use_cpu=True), TrainerControl())
    for step in (1, 2):
        state = TrainerState(global_step=step, max_steps=2, is_world_process_zero=True)
        report.on_step_end(rest[0], state, rest[1])
        report.on_log(rest[0], state, rest[1], {"eval_kl": float(step)})
    assert [(each.done, each.note) for each in told] == [(1, ""), (1, "eval_kl 1.0000"), (2, "eval_kl 2.0000")]


def test_a_single_rise_may_be_chance() -> None:
    assert parting(log_of([5.0, 4.5, 4.6], [3.0, 2.5, 2.4])) is None


def test_where_both_turn_it_is_no_hacking() -> None:
    assert parting(log_of([5.0, 4.5, 4.6, 4.7], [3.0, 2.5, 2.6, 2.7])) is None


def test_a_rise_that_another_choice_of_samples_could_make_is_not_announced() -> None:
    """The same curve on few rows: 4.7 / sqrt(rows) is more than the rise of 0.2."""
    curve = ([5.0, 4.5, 4.6, 4.7], [3.0, 2.5, 2.2, 1.9])
    assert parting(log_of(*curve, rows=400)) is None
    assert parting(log_of(*curve, rows=1000)) is not None


def announced(run: Callable[[np.random.Generator], tuple[Any, Any]], runs: int) -> float:
    """The share of runs in which something is announced after any of their evaluations."""
    found = 0
    for seed in range(runs):
        log = log_of(*run(np.random.default_rng(seed)))
        found += any(parting(log[:end]) is not None for end in range(6, len(log) + 1, 2))
    return found / runs


@pytest.mark.parametrize("noise", [0.002, 0.03])
@pytest.mark.parametrize("evaluations", [8, 40])
def test_noise_is_not_announced_and_a_turn_is(evaluations: int, noise: float) -> None:
    """Curves with noise from one evaluation to the next: one falls to a plateau, one turns after a third of the run."""
    times = np.arange(evaluations)

    def plateau(random: np.random.Generator) -> tuple[Any, Any]:
        cross, kl = random.normal(0, (noise, noise / 2), (evaluations, 2)).T
        return 3 + 2 * np.exp(-times / 2) + cross, 0.5 + np.exp(-times / 2) + kl

    def turn(random: np.random.Generator) -> tuple[Any, Any]:
        cross, kl = random.normal(0, (noise, noise / 2), (evaluations, 2)).T
        done = times / evaluations
        return 3 + np.maximum(0.3 - done, 0) * 4 + np.maximum(done - 0.3, 0) / 2 + cross, 1 - done / 2 + kl

    assert announced(plateau, 40) <= 0.025
    assert announced(turn, 20) >= 0.75


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=9))
def test_what_only_falls_is_never_announced(pairs: list[tuple[float, float]]) -> None:
    crosses, kls = (sorted((pair[side] for pair in pairs), reverse=True) for side in (0, 1))
    assert parting(log_of(crosses, kls)) is None
