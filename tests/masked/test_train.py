"""Students of masked words: they are shown what the teacher was shown, and learn from every objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import logitstore
from logitstore.core.progress import no_progress
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.masked.train import MaskedTraining
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.store.selection import read_selection
from logitstore.train.evaluate import evaluate
from logitstore.train.learner import Learner
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.students.build import loss_head
from logitstore.train.task import Place
from logitstore.train.train import train
from tests.masked.test_dump import KINDS, said
from tests.parts.classes import save_bert, wordpiece
from tests.parts.marks import often
from tests.parts.masked import save_masked
from tests.parts.training import plan_of


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return save_masked(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)


def judged(cache: logitstore.Cache, student: Path, **changes: Any) -> Any:
    settings = {"cache": cache.path, "student": str(student), "samples": "all", "device": "cpu", "dtype": "float32"}
    return evaluate(EvaluateSettings(**settings | changes))


def test_a_batch_shows_a_student_exactly_what_the_teacher_was_shown(masked_cache: logitstore.Cache) -> None:
    loader = masked_cache.loader(batch_size=7, shuffle=False)
    for batch in loader:
        inputs = batch.model_inputs()
        assert inputs.keys() == {"input_ids", "attention_mask"}
        assert torch.equal(batch.gold, torch.cat([_gold(masked_cache, number) for number in batch.samples.tolist()]))
        for line, number in enumerate(batch.samples.tolist()):
            text = masked_cache[number].sample
            own = inputs["input_ids"][line, : text.length]
            assert own.tolist() == text.input_T.tolist()
            assert inputs["attention_mask"][line].sum() == text.length
        width = inputs["input_ids"].shape[1]
        positions = [(int(place) // width, int(place) % width) for place in batch.rows]
        expected = [
            (line, int(position))
            for line, number in enumerate(batch.samples.tolist())
            for position in masked_cache[number].sample.positions_N
        ]
        assert positions == expected


def _gold(cache: logitstore.Cache, number: int) -> torch.Tensor:
    return torch.from_numpy(cache[number].sample.gold_N)


def test_figures_are_those_of_the_masked_positions(
    masked_cache: logitstore.Cache, guesser: Path, student: Path
) -> None:
    figures = judged(masked_cache, student)
    first = masked_cache.manifest.samples
    own_NV, teacher_NV = said(student, masked_cache), said(guesser, masked_cache)
    gold_N = torch.cat([_gold(masked_cache, number) for number in range(len(masked_cache))])
    rows = sum(masked_cache[number].sample.rows for number in range(first))
    assert figures.rows == rows == masked_cache.manifest.rows
    own_NV, teacher_NV, gold_N = own_NV[:rows], teacher_NV[:rows], gold_N[:rows]
    nll_N = -own_NV.gather(1, gold_N[:, None])
    assert figures.cross_entropy == pytest.approx(float(nll_N.mean()), rel=1e-5)
    assert figures.perplexity == pytest.approx(float(nll_N.mean().exp()), rel=1e-4)
    assert figures.accuracy == pytest.approx(float((own_NV.argmax(1) == gold_N).double().mean()))
    assert figures.agreement == pytest.approx(
        float((own_NV.argmax(1) == teacher_NV.argmax(1)).double().mean()), abs=0.01
    )


@pytest.mark.parametrize("kind", often(KINDS, {"distilbert", "modernbert"}.__contains__))
def test_students_of_any_kind_come_nearer_to_the_teacher(
    masked_cache: logitstore.Cache, tmp_path: Path, kind: str
) -> None:
    place = save_masked(tmp_path / kind, wordpiece(), kind, seed=1)
    before, out = judged(masked_cache, place), tmp_path / "out"
    train(plan_of(masked_cache, out, student=str(place), max_steps=20, holdout=0.1))
    after = judged(masked_cache, out)
    assert after.kl < 0.9 * before.kl
    assert AutoModelForMaskedLM.from_pretrained(out).config.model_type == kind
    assert len(AutoTokenizer.from_pretrained(out)) == 400


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_from_hidden_states_is_the_one_from_all_logits(
    masked_cache: logitstore.Cache, tmp_path: Path, kind: str
) -> None:
    """The output layer, with its bias, is run at the masked positions alone; loss and gradients are the same."""
    student = AutoModelForMaskedLM.from_pretrained(save_masked(tmp_path / "student", wordpiece(), kind, seed=1)).eval()
    loader = masked_cache.loader(batch_size=4)
    head, why = loss_head(student, loader)
    assert head is not None, why
    batch = loader.at(0, 0)
    weights_N = torch.rand(len(batch.rows))
    found = []
    for each in (head, None):
        learner = Learner(student=student, criterion=Criterion.mixed(alpha=0.5), head=each)
        student.zero_grad()
        loss, _ = learner.loss(student, batch, loader, weights_N, 0.0)
        loss.backward()
        found.append({name: value.grad.clone() for name, value in student.named_parameters() if value.grad is not None})
        found[-1]["loss"] = loss.detach()
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_every_epoch_has_each_text_once_in_the_mask_of_that_epoch(
    masked_cache: logitstore.Cache, student: Path, tmp_path: Path
) -> None:
    def open_(**changes: Any) -> Any:
        settings = plan_of(masked_cache, tmp_path / "out", student=str(student), **changes)
        return MaskedTraining().open(settings, masked_cache, None, None, [], Place(), no_progress)

    count = masked_cache.manifest.samples
    documents_S = np.asarray(masked_cache.column("documents"))
    data = open_(holdout=0.2)
    held = {int(each) for batch in data.held_out for each in batch.samples}
    assert held < set(range(count))
    rest = [number for number in range(count) if documents_S[number] not in documents_S[sorted(held)]]
    for epoch in range(3):
        seen = [int(each) for number in range(len(data.train)) for each in data.train.at(epoch, number).samples]
        assert sorted(seen) == [number + count * (epoch % 2) for number in rest]
    only = open_(holdout=0.2, views="1", window_parts=2).train
    seen = [int(each) for number in range(len(only)) for each in only.at(0, number).samples]
    assert sorted(seen) == [number + count for number in rest]
    with pytest.raises(BadInput, match="view 2 is not there"):
        open_(views="2")


def test_a_fresh_student_has_the_shape_of_the_teacher_but_for_what_is_asked(
    masked_cache: logitstore.Cache, tmp_path: Path
) -> None:
    train(plan_of(masked_cache, tmp_path / "out", layers=1, hidden_size=16, heads=2, max_steps=2))
    config = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 16, 2)


def test_students_that_do_not_fit_are_refused(masked_cache: logitstore.Cache, tmp_path: Path) -> None:
    short = save_masked(tmp_path / "short", wordpiece(), max_position_embeddings=32)
    with pytest.raises(CacheMismatch, match="it takes at most 32 tokens"):
        judged(masked_cache, short)
    few = save_masked(tmp_path / "few", None, vocab_size=300)
    with pytest.raises(CacheMismatch, match="the student's head has 300 rows"):
        judged(masked_cache, few)
    with pytest.raises(CacheMismatch, match="its tokenizer is not the cache's"):
        judged(masked_cache, save_masked(tmp_path / "other", wordpiece(200)))
    with pytest.raises(ModelError, match=r"BertForSequenceClassification\. Give a masked language model"):
        judged(masked_cache, save_bert(tmp_path / "classes", wordpiece()))


@pytest.mark.parametrize("method", ["random", "llkd"])
def test_a_selection_names_texts_and_each_is_seen_in_the_mask_of_the_epoch(
    masked_cache: logitstore.Cache, tmp_path: Path, method: str
) -> None:
    count, place = masked_cache.manifest.samples, tmp_path / "chosen.arrow"
    select(SelectSettings(cache=masked_cache.path, out=place, method=method, ratio=0.3))
    selection = read_selection(place)
    assert len(selection.samples_M) < count

    def seen(epoch: int, **changes: Any) -> dict[int, float]:
        settings = plan_of(masked_cache, tmp_path / "out", holdout=0, select=place, **changes)
        MaskedTraining().check(settings, masked_cache, [])
        train = MaskedTraining().open(settings, masked_cache, None, selection, [], Place(), no_progress).train
        found = {}
        for batch in (train.at(epoch, number) for number in range(len(train))):
            first_M = (batch.counts.cumsum(0) - batch.counts).tolist()
            weights = [1.0 if batch.weight is None else float(batch.weight[first]) for first in first_M]
            found |= dict(zip(batch.samples.tolist(), weights, strict=True))
        return found

    weights = [1.0] * len(selection.samples_M) if selection.weight_M is None else selection.weight_M.tolist()
    assert (method == "llkd") == (selection.weight_M is not None)
    expected = dict(zip(selection.samples_M.tolist(), weights, strict=True))
    assert seen(0) == expected
    assert seen(1) == seen(0, views="1") == {number + count: weight for number, weight in expected.items()}
