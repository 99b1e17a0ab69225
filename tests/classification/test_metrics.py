"""The figures of classes are those of scikit-learn and of the authors' formulas, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import logitstore
from logitstore.classification.metrics import macro_f1, matthews, probability_loyalty
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from tests.classification.test_dump import said, stored
from tests.parts.classes import labelled_rows, save_bert, wordpiece

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(LABELS)
def test_f1_and_matthews_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold, answers = map(list, zip(*pairs, strict=True))
    counts = [
        torch.bincount(torch.tensor(each, dtype=torch.int64), minlength=4).double()
        for each in ([a for a, b in pairs if a == b], answers, gold)
    ]
    assert macro_f1(*counts) == pytest.approx(f1_score(gold, answers, average="macro"))
    assert matthews(*counts) == pytest.approx(matthews_corrcoef(gold, answers), abs=1e-12)


def test_without_labels_there_is_no_figure_of_them() -> None:
    nothing = torch.zeros(3)
    assert math.isnan(macro_f1(nothing, nothing, nothing))
    assert math.isnan(matthews(nothing, nothing, nothing))


def test_loyalty_is_that_of_scipy_and_is_one_for_the_same_distribution() -> None:
    teacher_NC, student_NC = torch.rand(20, 5, dtype=torch.float64), torch.rand(20, 5, dtype=torch.float64)
    teacher_NC[3, 2] = student_NC[4] = 0
    student_NC[4, 1] = 1
    teacher_NC, student_NC = teacher_NC / teacher_NC.sum(1, True), student_NC / student_NC.sum(1, True)
    expected = [1 - jensenshannon(p, s) for p, s in zip(teacher_NC.numpy(), student_NC.numpy(), strict=True)]
    np.testing.assert_allclose(probability_loyalty(teacher_NC, student_NC), expected, rtol=1e-12)
    np.testing.assert_allclose(probability_loyalty(teacher_NC, teacher_NC), 1, atol=1e-7)
    apart = probability_loyalty(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).flip(0))
    np.testing.assert_allclose(apart, 1 - math.sqrt(math.log(2)))


def test_every_figure_of_a_student_is_that_of_a_plain_loop(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    student = save_bert(tmp_path / "student", wordpiece(), seed=5)
    settings = EvaluateSettings(
        cache=class_cache.path, student=str(student), samples="all", device="cpu", dtype="float32"
    )
    found = evaluate(settings)
    student_NC, teacher_NC = said(student, [row["text"] for row in labelled_rows()]), stored(class_cache)
    gold = [class_cache[number].sample.label for number in range(42)]
    answers = student_NC.argmax(1).tolist()
    assert found.rows == 44
    assert found.accuracy == pytest.approx(accuracy_score(gold, answers[:42]))
    assert found.macro_f1 == pytest.approx(f1_score(gold, answers[:42], average="macro"))
    assert found.matthews == pytest.approx(matthews_corrcoef(gold, answers[:42]))
    assert found.agreement == pytest.approx(accuracy_score(teacher_NC.argmax(1).tolist(), answers))
    loyalty = [1 - jensenshannon(p.exp(), s.exp()) for p, s in zip(teacher_NC, student_NC, strict=True)]
    assert found.probability_loyalty == pytest.approx(np.mean(loyalty), rel=1e-3)
    divergence = (teacher_NC.exp() * (teacher_NC - student_NC)).sum(1).mean()
    assert found.kl == pytest.approx(float(divergence), rel=2e-3)
