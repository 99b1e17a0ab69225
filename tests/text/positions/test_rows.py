"""The rows of every choice of positions, against a direct forward pass of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.store.checks.verify import verify
from tests.parts.marks import rarely
from tests.parts.positions import NOISE, entropy_of, logprobs_of, masks, plan
from tests.parts.specification import assert_same, read_from_the_specification
from tests.parts.texts import PADDED_VOCABULARY, save_model

FORMS = ("texts", "chats", "labelled", "pairs")

OFTEN = {("texts", "assistant"), ("chats", "all"), ("chats", "mask"), ("chats", "random:0.5"), ("labelled", "mask")}


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_by_entropy_are_the_teachers_and_stand_where_it_is_least_certain(
    form: str, some_rows: dict[str, logitstore.Cache], all_rows: dict[str, logitstore.Cache], teacher: Path
) -> None:
    cache, whole = some_rows[form], all_rows[form]
    assert verify(cache.path) == []
    assert_same(read_from_the_specification(Path(cache.path)), cache)
    assert cache.manifest.data.fingerprint == whole.manifest.data.fingerprint
    assert len(cache) == len(whole)
    for index, before in enumerate(whole):
        asked, found = before.sample.mask_T, cache[index]
        assert found.sample.gold_T.tolist() == asked.tolist()
        assert found.sample.rows == max(int(0.25 * asked.sum() + 0.5), 1)
        logprobs_TV = logprobs_of(teacher, found.sample.tokens_T, cache.manifest.teacher.vocabulary)
        entropy_T, places = entropy_of(logprobs_TV), found.sample.positions_N
        left_T = asked & ~found.sample.mask_T
        assert entropy_T[places].min() >= entropy_T[left_T].max(initial=0.0) - NOISE * 5
        np.testing.assert_allclose(found.answer["entropy"], entropy_T[places], rtol=1e-3)
        at_N = (places[:, None], found.answer["ids"])
        np.testing.assert_allclose(found.answer["logprobs"], logprobs_TV[at_N], rtol=2e-3, atol=2e-3)
        golds_N = logprobs_TV[places, found.sample.tokens_T[places + 1]]
        np.testing.assert_allclose(found.answer["gold_logprob"], golds_N, rtol=2e-3, atol=2e-3)
        nll = float(cache.nll()[index])
        assert nll == pytest.approx(-found.answer["gold_logprob"].astype(np.float64).mean(), rel=1e-6)
        # the rows are those of the cache of all rows, of the same batches
        own_N = np.isin(before.sample.positions_N, places)
        np.testing.assert_allclose(found.answer["logprobs"], before.answer["logprobs"][own_N], atol=2e-3)
    assert cache.manifest.rows == cache.rows == sum(each.sample.rows for each in cache)


OTHERS = [(form, positions) for form in FORMS for positions in ("all", "assistant", "mask", "random:0.5")]


@pytest.mark.parametrize(
    ("form", "positions"),
    [case if case in OFTEN else rarely(*case) for case in OTHERS],
)
def test_every_other_word_has_its_rows_or_says_why_not(
    form: str,
    positions: str,
    all_rows: dict[str, logitstore.Cache],
    files: dict[str, Path],
    teacher: Path,
    tmp_path: Path,
) -> None:
    settings, whole = plan(teacher, files[form], tmp_path / "cache", positions=positions), all_rows[form]
    if (positions, form) in {("assistant", "texts"), ("assistant", "labelled"), ("assistant", "pairs")} | {
        ("mask", "texts"),
        ("mask", "chats"),
    }:
        with pytest.raises(BadInput, match=f"--positions {positions}: --data .* holds .*Leave it out"):
            dump(settings)
        return
    cache = dump(settings)
    assert verify(cache.path) == []
    if positions == "all":
        assert all(each.sample.gold_T is None for each in cache)
        assert all(each.sample.mask_T[:-1].all() for each in cache if not each.sample.window)
        assert (cache.manifest.identity == whole.manifest.identity) == (form == "texts")
        assert cache.manifest.data.kind == ("chat" if form == "chats" else "text")
    elif positions in ("assistant", "mask"):
        assert cache.manifest.identity == whole.manifest.identity
        assert (Path(cache.path) / "cache.json").read_bytes() == (Path(whole.path) / "cache.json").read_bytes()
    else:
        assert [each.sample.rows for each in cache] == [max((each.sample.rows + 1) // 2, 1) for each in whole]
        for ours, before in zip(cache, whole, strict=True):
            own_N = np.isin(before.sample.positions_N, ours.sample.positions_N)
            assert own_N.sum() == ours.sample.rows
            np.testing.assert_allclose(ours.answer["logprobs"], before.answer["logprobs"][own_N], atol=2e-3)


@pytest.mark.parametrize("batch_tokens", [1, rarely(4000)])
def test_the_batches_of_the_teacher_change_no_choice_but_near_ties(
    batch_tokens: int, some_rows: dict[str, logitstore.Cache], files: dict[str, Path], teacher: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"positions": "entropy:0.25", "batch_tokens": batch_tokens, "samples_per_part": 2}
    cache, before = dump(plan(teacher, files["texts"], tmp_path / "cache", **changes)), some_rows["texts"]
    assert cache.manifest.rows == before.manifest.rows
    for ours, theirs in zip(cache, before, strict=True):
        other_T = ours.sample.mask_T != theirs.sample.mask_T
        if other_T.any():
            entropy_T = entropy_of(logprobs_of(teacher, ours.sample.tokens_T, cache.manifest.teacher.vocabulary))
            assert np.ptp(entropy_T[other_T]) < NOISE * 5


def test_a_teacher_that_is_equally_uncertain_everywhere_gives_the_first_positions(
    tokenizer: Any, all_rows: dict[str, logitstore.Cache], files: dict[str, Path], tmp_path: Path
) -> None:
    uniform = save_model(tmp_path / "uniform", tokenizer, PADDED_VOCABULARY)
    model: Any = AutoModelForCausalLM.from_pretrained(uniform)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(uniform)
    cache = dump(plan(uniform, files["chats"], tmp_path / "cache", positions="entropy:0.1"))
    for ours, before in zip(cache, all_rows["chats"], strict=True):
        count = max(int(0.1 * before.sample.rows + 0.5), 1)
        assert ours.sample.positions_N.tolist() == before.sample.positions_N[:count].tolist()
    assert verify(cache.path) == []


def test_the_teacher_is_asked_again_which_rows_it_chooses(
    some_rows: dict[str, logitstore.Cache], all_rows: dict[str, logitstore.Cache], teacher: Path, small_student: Path
) -> None:
    found = audit(some_rows["texts"], str(teacher), 1.0)
    assert found.passed
    assert found.chosen is not None
    assert found.chosen < 1e-3
    other = audit(some_rows["texts"], str(small_student), 1.0)
    assert other.chosen is not None
    assert other.chosen > 0.1
    assert not other.passed
    assert audit(all_rows["texts"], str(teacher), 1.0).chosen is None


def test_masks_are_the_same_in_every_dump(
    some_rows: dict[str, logitstore.Cache], files: dict[str, Path], teacher: Path, tmp_path: Path
) -> None:
    again = dump(plan(teacher, files["chats"], tmp_path / "cache", positions="entropy:.250"))
    assert masks(again) == masks(some_rows["chats"])
    assert again.manifest.identity == some_rows["chats"].manifest.identity
