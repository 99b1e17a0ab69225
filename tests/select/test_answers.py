"""Selections by the teacher's answers about classes, against plain references."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.select.answers import answers_of, classes_of, coreset, per_class
from logitstore.select.choice import Amount, Candidates
from logitstore.select.ranked import sure
from logitstore.select.scores import scores_of
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.targets.dense import dense
from logitstore.train.train import train
from tests.parts.classes import classes_plan, save_bert, wordpiece
from tests.parts.commands import Refused
from tests.parts.training import plan_of


def candidates(count: int, **given: Any) -> Candidates:
    usual = {"score_S": None, "domain_S": np.zeros(count, np.int64), "allowed_S": np.ones(count, np.bool_)}
    return Candidates(**usual | given)


def plain_centres(answers: list[list[float]], first: list[int], count: int) -> list[int]:
    """Greedy k-centre as a textbook has it."""
    centres, chosen = list(first), []
    for _ in range(min(count, len(answers) - len(first))):
        gaps = {
            sample: min(sum((a - b) ** 2 for a, b in zip(answers[sample], answers[c], strict=True)) for c in centres)
            for sample in range(len(answers))
            if sample not in centres
        }
        best = max(gaps, key=lambda sample: (round(gaps[sample], 9), -sample))
        centres.append(best)
        chosen.append(best)
    return sorted(chosen)


@given(
    points=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=12),
    count=st.integers(1, 12),
)
def test_a_coreset_is_that_of_a_plain_search(points: list[list[int]], count: int) -> None:
    labelled = np.arange(len(points)) < 1
    some = candidates(len(points), answers_SC=np.array(points, np.float32), labelled_S=labelled)
    expected = plain_centres([list(map(float, each)) for each in points], [0], count)
    assert coreset(some, Amount(samples=count)).samples_M.tolist() == expected


def test_without_labels_the_first_centre_is_drawn_with_the_seed() -> None:
    answers = np.random.default_rng(0).dirichlet(np.ones(4), 40).astype(np.float32)
    some = candidates(40, answers_SC=answers, labelled_S=np.zeros(40, np.bool_))
    firsts = {int(coreset(some, Amount(samples=1, seed=seed)).samples_M[0]) for seed in range(8)}
    assert len(firsts) > 3
    found = coreset(some, Amount(samples=9, seed=3)).samples_M
    first = int(coreset(some, Amount(samples=1, seed=3)).samples_M[0])
    assert found.tolist() == sorted([first, *plain_centres(answers.astype(float).tolist(), [first], 8)])


@given(classes=st.lists(st.integers(0, 3), min_size=1, max_size=25), count=st.integers(1, 25))
def test_per_class_takes_turns_between_the_classes(classes: list[int], count: int) -> None:
    scores = [((7 * place) % 11) / 11 for place in range(len(classes))]
    some = candidates(len(classes), score_S=np.array(scores), class_S=np.array(classes))
    queues = {
        each: sorted((s for s in range(len(classes)) if classes[s] == each), key=lambda s: (-scores[s], s))
        for each in set(classes)
    }
    expected: list[int] = []
    while any(queues.values()) and len(expected) < count:
        turn = sorted((queue.pop(0) for queue in queues.values() if queue), key=lambda s: (-scores[s], s))
        expected += turn[: count - len(expected)]
    assert per_class(some, Amount(samples=count)).samples_M.tolist() == sorted(expected)


def test_llkd_asks_a_student_too_and_weighs_by_both() -> None:
    confidence, entropy = np.array([0.9, 0.8, 0.9, 0.2]), np.array([1.0, 0.1, 2.0, 3.0])
    found = sure(candidates(4, score_S=confidence, uncertainty_S=entropy), Amount())
    # the means are 0.7 and 1.525
    assert found.samples_M.tolist() == [2]
    of_classes = sure(
        candidates(4, score_S=confidence, uncertainty_S=entropy, class_S=np.array([0, 0, 1, 1])), Amount()
    )
    # class 0: 0.7 and 1.525 x 0.55 / 2.5 = 0.3355; class 1: 0.7 x 0.55 / 0.85 = 0.453 and 1.525
    assert of_classes.samples_M.tolist() == [0, 2]
    np.testing.assert_allclose(of_classes.weight_M, np.array([0.9, 1.8]) / 1.35, rtol=1e-6)
    unknown = candidates(2, score_S=np.array([0.8, 0.9]), uncertainty_S=np.array([np.nan, 1.0]))
    assert sure(unknown, Amount()).samples_M.tolist() == [1]


@pytest.mark.parametrize("changes", [{}, {"tail": "uniform"}, {"sparsifier": "dense", "k": None, "preset": None}])
def test_the_answers_of_a_cache_are_those_that_training_reads(
    changes: dict[str, Any], judge_of_many: Path, more_labelled: Path, tmp_path: Path
) -> None:
    plan = classes_plan(judge_of_many, more_labelled, tmp_path / "cache", **{"k": 8} | changes)
    cache = dump(plan)
    loader = cache.loader(batch_size=len(cache), shuffle=False)
    targets = loader.targets(next(iter(loader)))
    expected_SC = dense(targets)
    found_SC = answers_of(cache)
    np.testing.assert_allclose(found_SC.sum(1), 1, atol=1e-5)
    if changes:  # without, the tail of the cache is no even one
        np.testing.assert_allclose(found_SC, expected_SC.numpy(), atol=1e-5)
    assert classes_of(cache, "per-class").tolist() == expected_SC.argmax(1).tolist()
    listed_SK = torch.from_numpy(found_SC).gather(1, expected_SC.topk(4).indices)
    assert torch.allclose(listed_SK, expected_SC.topk(4).values, atol=1e-5)


def test_images_are_chosen_by_the_mean_over_their_views_and_read_in_every_view(
    image_cache: logitstore.Cache, classifier: Path, tmp_path: Path
) -> None:
    count = image_cache.manifest.samples
    entropy_S = scores_of(image_cache, "entropy").reshape(-1, count).mean(0)
    plan: dict[str, Any] = {"cache": image_cache.path, "samples": 12}
    found = select(SelectSettings(method="top", score="entropy", out=tmp_path / "top.arrow", **plan))
    assert set(found.selection.samples_M.tolist()) == set(np.argsort(-entropy_S, kind="stable")[:12].tolist())
    assert (found.samples, found.selection.info.chosen.rows) == (count, 36)
    for method, more in (("per-class", {"score": "confidence"}), ("coreset", {})):
        out = tmp_path / f"{method}.arrow"
        chosen = select(SelectSettings(method=method, out=out, **plan, **more)).selection.samples_M
        # two images have no label, and the others are the first centres of a coreset
        assert len(chosen) == (12 if method == "per-class" else 2)
        if method == "per-class":
            classes = classes_of(image_cache, method)
            most = Counter(classes[chosen].tolist()).most_common(1)[0][1]
            full = [each for each in set(classes.tolist()) if (classes == each).sum() >= most]
            assert all((classes[chosen] == each).sum() >= most - 1 for each in full)
    settings = {"student": str(classifier), "select": tmp_path / "top.arrow", "max_steps": 20, "holdout": 0.1}
    train(plan_of(image_cache, tmp_path / "out", **settings, batch_size=4))
    log = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    assert max(entry["step"] for entry in log) == 20


def test_images_have_weights_in_every_view(image_cache: logitstore.Cache, classifier: Path, tmp_path: Path) -> None:
    select(SelectSettings(cache=image_cache.path, method="llkd", out=tmp_path / "sure.arrow"))
    settings = {"student": str(classifier), "select": tmp_path / "sure.arrow", "max_steps": 4, "holdout": 0.1}
    train(plan_of(image_cache, tmp_path / "out", **settings, batch_size=4))
    assert (tmp_path / "out" / "config.json").is_file()


def test_classified_texts_train_on_a_coreset(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    out = tmp_path / "few.arrow"
    found = select(SelectSettings(cache=class_cache.path, method="coreset", samples=10, out=out)).selection
    # the labelled texts are there already: of the two without a label both are chosen
    assert found.samples_M.tolist() == [42, 43]
    every = select(
        SelectSettings(cache=class_cache.path, method="per-class", score="confidence", ratio=0.5, out=tmp_path / "b")
    )
    assert len(every.selection.samples_M) == 22
    student = save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    train(plan_of(class_cache, tmp_path / "out", student=str(student), select=tmp_path / "b", max_steps=20, holdout=0))


def test_caches_without_an_answer_about_a_class_are_refused(
    cache: logitstore.Cache, judge: Path, labelled: Path, refused: Refused, tmp_path: Path
) -> None:
    common = ["--ratio", 0.5, "--out", tmp_path / "out"]
    line = refused("select", cache.path, "--method", "coreset", *common)
    assert "has no answer about a class for each sample. Choose by a score." in line
    drawn = dump(
        classes_plan(judge, labelled, tmp_path / "drawn", preset=None, sparsifier="sampled", draws=8, k=None, tail=None)
    )
    with pytest.raises(BadInput, match=r"does not list the most probable classes"):
        select(SelectSettings(cache=drawn.path, method="per-class", score="entropy", ratio=0.5, out=tmp_path / "out"))
