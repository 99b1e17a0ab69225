"""Runs on whole samples: their pairs, batches that keep these whole, and loss and gradient against plain code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.core.progress import no_progress
from logitstore.core.schedule import Schedule
from logitstore.errors import BadInput
from logitstore.integrations.distiller import Distiller
from logitstore.models.adapter_ref import student_ref
from logitstore.models.head import LinearHead
from logitstore.store.index.scored import column_scores, group_codes
from logitstore.text.train import kept_out
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.pairs import PairOrder, pairs_of
from logitstore.train.loop.batches import sample_counts, sample_weights
from logitstore.train.objectives.criterion import GOLD, Criterion, RowTerm
from logitstore.train.sequences import reference_S, term_of
from logitstore.train.students.build import loss_head
from logitstore.train.task import Place, train_task
from logitstore.train.train import train
from tests.parts.scored import scored_cache
from tests.parts.training import curve, plan_of, recipe_of, train_in_two


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> logitstore.Cache:
    return scored_cache(teacher, tmp_path_factory.mktemp("scored"), preset="scores", k=None)


def settings_of(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> Any:
    usual = {"student": str(student), "objective": "dpo", "score": "reward", "holdout": 0.1, "batch_size": 4}
    usual |= {"precision": "float32"}
    return plan_of(cache, out, **usual | changes)


def test_the_best_and_the_worst_of_each_group_are_a_pair() -> None:
    group_S = np.array([0, 1, 0, 0, 1, 2, 3, 3])
    score_S = np.array([0.5, 2.0, 0.9, 0.1, math.nan, 1.0, 4.0, 4.0])
    every_S = np.ones(8, np.bool_)
    np.testing.assert_array_equal(pairs_of("extremes", group_S, score_S, every_S), [[2, 3]])
    np.testing.assert_array_equal(pairs_of("all", group_S, score_S, every_S), [[2, 0], [2, 3], [0, 3]])
    every_S[3] = False
    np.testing.assert_array_equal(pairs_of("extremes", group_S, score_S, every_S), [[2, 0]])
    assert pairs_of("all", group_S, np.ones(8), every_S).shape == (0, 2)
    assert pairs_of("extremes", group_S, score_S, np.zeros(8, np.bool_)).shape == (0, 2)


def test_an_epoch_reads_every_pair_once_and_keeps_it_whole() -> None:
    pairs_P2 = np.arange(14).reshape(7, 2)
    order = PairOrder(pairs_P2=pairs_P2, seed=5)
    for epoch in range(3):
        read = order(epoch, np.arange(14)).reshape(7, 2)
        np.testing.assert_array_equal(np.sort(read[:, 0]), pairs_P2[:, 0])
        np.testing.assert_array_equal(read[:, 1], read[:, 0] + 1)
    assert not np.array_equal(order(0, np.arange(14)), order(1, np.arange(14)))


def direct(model: Any, cache: logitstore.Cache, number: int, vocabulary: int | None = None) -> Tensor:
    """The logprob of the gold tokens of one sample, summed, by a pass of its own in float64."""
    sample = cache[number].sample
    tokens_T = torch.from_numpy(np.asarray(sample.tokens_T, np.int64))
    logprobs_TV = torch.log_softmax(model(tokens_T[None]).logits[0, :, :vocabulary].double(), -1)
    places = torch.from_numpy(sample.positions_N)
    return logprobs_TV[places, tokens_T[places + 1]].sum()


def test_the_reference_is_the_teachers_logprob_of_each_text(scored: logitstore.Cache, teacher: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = [
            float(direct(model, scored, number, scored.manifest.teacher.vocabulary)) for number in range(len(scored))
        ]
    np.testing.assert_allclose(reference_S(scored), expected, rtol=2e-3)


@pytest.mark.parametrize("by_hidden", [True, False])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("dpo", {"beta": 0.2}),
        ("ipo", {}),
        ("simpo", {}),
        ("redi", {}),
        ("score_likelihood", {"beta": 0.5}),
    ],
)
def test_loss_and_gradient_are_those_of_plain_code(
    scored: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    objective: str,
    options: dict[str, Any],
    packed: bool,
    by_hidden: bool,
) -> None:
    """Against float64 without batches, kernels or packing."""
    settings = settings_of(scored, small_student, tmp_path, objective=objective, options=options)
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32, attn_implementation="eager").eval()
    plain: Any = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float64).eval()
    score_S = column_scores(scored, "reward", "test")
    pairs = pairs_of("all", group_codes(scored), score_S, np.ones(len(scored), np.bool_))[:4]
    loader = Loader(scored, batch_size=8, order=PairOrder(pairs_P2=pairs, seed=0), epoch_samples=8, packed=packed)
    batch = next(iter(loader))
    term = term_of(settings, scored)
    criterion = Criterion([RowTerm(name=GOLD, label=GOLD, weight=Schedule.of(1.0))], sequence=term)
    head = loss_head(model, loader)[0] if by_hidden else None
    assert isinstance(head, LinearHead) == by_hidden
    learner = Learner(student=model, criterion=criterion, head=head)
    weights_M, _ = sample_weights(batch, sample_counts(batch.tensors()), processes=1)
    total, _ = learner.loss(model, batch, loader, weights_M, 0.0)
    total.backward()

    numbers = batch.samples.tolist()
    values_M = torch.stack([direct(plain, scored, number) for number in numbers])
    counts_M = torch.tensor([cache_rows(scored, number) for number in numbers], dtype=torch.float64)
    some = term.of(values_M, batch.samples, batch.counts)
    torch.testing.assert_close(some.counts_M, counts_M)
    expected = term.method.function(some, **options).mean()
    expected.backward()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=2e-5, abs=1e-5)
    for (name, found), (_, wanted) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        scale = float(wanted.grad.abs().max()) + 1e-9
        assert float((found.grad.double() - wanted.grad).abs().max()) < 2e-4 * scale, name


def cache_rows(cache: logitstore.Cache, number: int) -> int:
    return int(cache[number].sample.rows)


def test_dpo_from_the_teacher_begins_at_log_2_and_falls(small_student: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    own = scored_cache(small_student, tmp_path, preset="scores", k=None)
    settings = settings_of(
        own, small_student, tmp_path / "run", options={"beta": 0.5}, epochs=6, learning_rate=1e-3, warmup=0.0
    )
    figures = train(settings, notice=notes.append)
    losses = curve(tmp_path / "run")
    assert losses[1] == pytest.approx(math.log(2), abs=5e-3)
    assert losses[max(losses)] < 0.5
    assert figures["eval_cross_entropy"] > 0
    log = json.loads((tmp_path / "run/logitstore.json").read_text())["log"]
    assert [entry["preferred"] for entry in log if "preferred" in entry][-1] == 1.0
    assert any("pairs from" in note for note in notes)


@pytest.mark.parametrize("recipe", ["dpo", "ipo", "simpo", "redi", "rwr"])
def test_every_recipe_of_whole_texts_trains(
    scored: logitstore.Cache, small_student: Path, tmp_path: Path, recipe: str
) -> None:
    asked: dict[str, Any] = {"score": "correct", "max_steps": 20, "learning_rate": 1e-3}
    logitstore.train(
        scored,
        student=str(small_student),
        out=tmp_path / "run",
        recipe=recipe,
        device="cpu",
        trainer={"logging_steps": 1},
        **asked,
    )
    losses = list(curve(tmp_path / "run").values())
    assert len(losses) == 20
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_run_that_is_resumed_ends_where_one_that_was_not_does(
    scored: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    whole = settings_of(scored, small_student, tmp_path / "whole", max_steps=6, save_every=3, scheduler="constant")
    train(whole)
    cut = settings_of(scored, small_student, tmp_path / "cut", max_steps=3, save_every=3, scheduler="constant")
    train(cut)
    train(cut.model_copy(update={"max_steps": 6, "resume": True}))
    assert curve(tmp_path / "cut") == pytest.approx(curve(tmp_path / "whole"), rel=1e-5)


def test_loops_of_others_refuse_whole_texts(scored: logitstore.Cache, small_student: Path) -> None:
    with pytest.raises(
        BadInput, match="objective dpo: it compares whole samples, and only `logitstore train` does this"
    ):
        Distiller(str(small_student), scored, objective="dpo", batch_size=2)


def test_classified_texts_and_several_teachers_are_refused(
    scored: logitstore.Cache, class_cache: logitstore.Cache, small_student: Path, judge: Path, tmp_path: Path
) -> None:
    for name in ("dpo", "score_likelihood"):
        with pytest.raises(BadInput, match="is a cache of classified texts, which have no scores"):
            train(settings_of(class_cache, judge, tmp_path / "run", objective=name, score=None))
    with pytest.raises(BadInput, match="--also with --objective dpo: it compares whole samples"):
        train(settings_of(scored, small_student, tmp_path / "run", also=[tmp_path / "other"]))


def test_groups_are_held_out_whole(scored: logitstore.Cache) -> None:
    group_S, is_out_S = group_codes(scored), kept_out(scored, 0.2)
    assert is_out_S.any()
    assert not set(group_S[is_out_S]) & set(group_S[~is_out_S])


def test_accumulation_changes_nothing(scored: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    one = settings_of(scored, small_student, tmp_path / "one", batch_size=8, max_steps=3)
    two = settings_of(scored, small_student, tmp_path / "two", batch_size=4, accumulate=2, max_steps=3)
    train(one)
    train(two)
    assert curve(tmp_path / "one") == pytest.approx(curve(tmp_path / "two"), rel=1e-5)


@pytest.mark.slow
def test_two_processes_are_as_one(scored: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    one = settings_of(scored, small_student, tmp_path / "one", batch_size=4, accumulate=2, max_steps=3)
    train(one)
    two = settings_of(scored, small_student, tmp_path / "two", batch_size=4, max_steps=3)
    train_in_two(recipe_of(two, tmp_path / "recipe.yaml"))
    assert curve(tmp_path / "one") == pytest.approx(curve(tmp_path / "two"), rel=1e-5)


def test_score_likelihood_leaves_out_what_has_no_score(
    scored: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    train(
        settings_of(scored, small_student, tmp_path / "run", objective="score_likelihood", max_steps=2),
        notice=notes.append,
    )
    assert any("have no score, and are left out" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": 0.5}, "it stands alone"),
        ({"batch_size": 3}, "Give an even number"),
        ({"score": None}, "say with --score which of them counts: reward, correct"),
        ({"score": "rewrd"}, "Did you mean 'reward'"),
        ({"temperature": 2.0}, "at temperature 1 only"),
        ({"early_stopping": 1}, "with --objective dpo: the best student would be that of the lowest"),
        ({"scheduler": "reduce_lr_on_plateau"}, "which says nothing of scores"),
        ({"curriculum": "easy-first"}, "pairs have an order of their own"),
        ({"objective": "score_likelihood", "pairs": "all"}, "takes each sample alone"),
        ({"objective": "forward_kl", "pairs": "all"}, "compares single tokens"),
        ({"options": {"beta": 0.0}}, "must be above 0"),
        ({"options": {"bta": 0.1}}, "no option named 'bta'"),
        ({"objective": "none", "terms": [{"name": "dpo"}], "score": None}, "stands alone as --objective"),
    ],
)
def test_what_has_no_meaning_is_refused(
    scored: logitstore.Cache, small_student: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        train(settings_of(scored, small_student, tmp_path / "run", **changes))


@pytest.mark.parametrize(
    ("dumped", "says"),
    [
        ({"group_column": None}, "Dump with --group-column"),
        ({"score_columns": None}, "keeps no scores"),
        ({"positions": "random:0.5"}, "rows at a share of the positions"),
        ({"max_length": 24, "overlap": 4}, "cut into several windows"),
    ],
)
def test_a_cache_that_does_not_serve_is_refused(
    teacher: Path, small_student: Path, tmp_path: Path, dumped: dict[str, Any], says: str
) -> None:
    preset = {} if "positions" in dumped else {"preset": "scores", "k": None}
    cache = scored_cache(teacher, tmp_path, **preset | dumped)
    with pytest.raises(BadInput, match=says):
        train(settings_of(cache, small_student, tmp_path / "run"))


@pytest.mark.parametrize("changes", [{"curriculum": "easy-first"}, {"reweight_domains": 2}, {}])
def test_what_has_no_score_is_in_no_order(teacher: Path, small_student: Path, tmp_path: Path, changes: Any) -> None:
    cache = scored_cache(teacher, tmp_path, preset="scores", k=None, domain_column="correct")
    settings = settings_of(cache, small_student, tmp_path / "run", objective="score_likelihood", **changes)
    place = Place(rank=0, world_size=1, workers=0)
    data = train_task(cache).open(settings, cache, student_ref(str(small_student)), None, [], place, no_progress)
    assert isinstance(data.train, Loader)
    if data.companion is not None:
        data.companion.order.shares.extend([np.ones(2)] * 99)
    read = {number for batch in data.train for number in batch.samples.tolist()}
    scored_S = ~np.isnan(column_scores(cache, "reward", "test")) & ~kept_out(cache, settings.holdout)
    asked = set(np.flatnonzero(scored_S).tolist())
    assert read <= asked
    assert read == asked or "reweight_domains" in changes
