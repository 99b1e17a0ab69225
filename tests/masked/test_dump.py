"""Masked texts: what is stored of them is what the teacher says, whatever the model, the texts and what is kept of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import logitstore
from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.store.checks.verify import verify
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense
from tests.parts.classes import wordpiece
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.marks import often
from tests.parts.masked import masked_plan, masked_texts, save_masked, save_texts
from tests.parts.texts import save_model, train_tokenizer

KINDS = ["bert", "distilbert", "roberta", "modernbert"]


def said(teacher: Path, cache: logitstore.Cache) -> torch.Tensor:
    """What a model says of the masked tokens, one text at a time and without padding, as float64 logprobs [N, V]."""
    model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
    found = []
    for number in range(len(cache)):
        text = cache[number].sample
        with torch.no_grad():
            logits_TV = model(input_ids=torch.from_numpy(text.input_T)[None]).logits[0]
        found.append(logits_TV[text.positions_N].double().log_softmax(-1))
    return torch.cat(found)


def stored(cache: logitstore.Cache) -> torch.Tensor:
    """What a cache says of them, with its tail, as float64 probabilities [N, V]."""
    batches = cache.loader(batch_size=16, shuffle=False)
    decoder = decoder_of(cache)
    return torch.cat(
        [dense(decoder(batch.answer))[:, : cache.manifest.teacher.vocabulary] for batch in batches]
    ).double()


@pytest.mark.parametrize("kind", often(KINDS, {"bert", "modernbert"}.__contains__))
def test_every_row_is_what_the_teacher_says_of_the_masked_text_alone(
    kind: str, plain_texts: Path, tmp_path: Path
) -> None:
    teacher = save_masked(tmp_path / "teacher", wordpiece(), kind)
    cache = dump(
        masked_plan(teacher, plain_texts, tmp_path / "cache", preset=None, sparsifier="dense", k=None, limit=12)
    )
    expected_NV = said(teacher, cache)
    torch.testing.assert_close(stored(cache), expected_NV.exp(), rtol=4e-3, atol=1e-4)
    assert expected_NV.exp().std(0).max() > 0.05
    assert verify(cache.path) == []
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    texts = {}
    for number in range(cache.manifest.samples):
        text = cache[number].sample
        assert (text.tokens_T[0], text.tokens_T[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert text.length <= 64
        texts.setdefault(text.document, []).extend(text.tokens_T[1:-1].tolist())
    for document, tokens in texts.items():
        assert tokens == tokenizer(masked_texts()[document], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "row",
    [
        {"preset": "small", "k": None},
        {"preset": "sampled", "k": None},
        {"preset": "exact", "k": None},
        {"preset": "scores", "k": None},
    ],
    ids=lambda row: "-".join(str(each) for each in row.values() if each),
)
def test_every_preset_is_near_the_teacher(
    row: dict[str, Any], guesser: Path, plain_texts: Path, tmp_path: Path
) -> None:
    cache = dump(masked_plan(guesser, plain_texts, tmp_path / "cache", views=1, limit=14, **row))
    assert verify(cache.path) == []
    expected_NV = said(guesser, cache)
    gold_N = torch.from_numpy(np.concatenate([cache[number].sample.gold_N for number in range(len(cache))]))
    if row["preset"] == "scores":
        nll = -expected_NV.gather(1, gold_N[:, None])[:, 0]
        counts = [cache[number].sample.rows for number in range(len(cache))]
        means = torch.stack([each.mean() for each in nll.split(counts)])
        torch.testing.assert_close(torch.from_numpy(cache.nll()).double(), means, rtol=2e-3, atol=2e-3)
        return
    if row["preset"] == "sampled":
        return
    found_NV = stored(cache)
    kl_N = (expected_NV.exp() * (expected_NV - found_NV.clamp(min=1e-30).log())).sum(1)
    assert kl_N.mean() < (1e-3 if row["preset"] == "exact" else 0.05)


def test_only_words_are_masked_and_texts_without_any_have_no_row(masked_cache: logitstore.Cache) -> None:
    data = masked_cache.manifest.data
    assert (data.documents, data.skipped, data.kind) == (20, 2, "masked")
    texts = [masked_cache[number].sample for number in range(len(masked_cache))]
    assert {text.document for text in texts} == set(range(20)) - {0, 3}
    special = {0, 1, 2, 3, 4}
    for text in texts:
        assert text.rows >= 1
        assert not special & set(text.gold_N.tolist())
        assert set(text.shown_N.tolist()) & special <= {4}
    one = next(text for text in texts if text.document == 1)
    assert (one.length, one.rows) == (3, 1)
    samples = masked_cache.manifest.samples
    assert all(np.array_equal(a.tokens_T, b.tokens_T) for a, b in zip(texts[:samples], texts[samples:], strict=True))
    assert sum(a.key != b.key for a, b in zip(texts[:samples], texts[samples:], strict=True)) > 0.8 * samples


def test_a_dump_goes_on_where_it_stopped_and_repeats(guesser: Path, plain_texts: Path, tmp_path: Path) -> None:
    whole = dump(masked_plan(guesser, plain_texts, tmp_path / "whole"))
    parts = whole.manifest.parts
    for some in ("0", f"2-{parts - 1}"):
        dump(masked_plan(guesser, plain_texts, tmp_path / "pieces", parts=some))
    assert verify(tmp_path / "pieces") == []
    dump(masked_plan(guesser, plain_texts, tmp_path / "pieces"))
    assert tree(tmp_path / "pieces") == tree(whole.path)
    other = dump(masked_plan(guesser, plain_texts, tmp_path / "other", seed=1))
    assert other.manifest.identity != whole.manifest.identity
    assert other[5].sample.key != whole[5].sample.key


def test_the_shares_can_be_chosen(guesser: Path, plain_texts: Path, tmp_path: Path) -> None:
    notes: list[Step] = []
    options = {"mask_share": 0.4, "mask_random": 0.0, "mask_unchanged": 0.0, "views": 1}
    cache = dump(masked_plan(guesser, plain_texts, tmp_path / "cache", **options), notes.append)
    free = sum(int((cache[number].sample.tokens_T > 4).sum()) for number in range(len(cache)))
    assert cache.rows == pytest.approx(0.4 * free, rel=0.02)
    assert {int(each) for number in range(len(cache)) for each in cache[number].sample.shown_N} == {4}
    lines = {step.stage: step.note for step in notes if step.note}
    assert lines["data"].startswith("20 texts of column 'text', 2 with nothing to mask, in ")


def test_what_cannot_be_is_refused(guesser: Path, plain_texts: Path, refused: Refused, tmp_path: Path) -> None:
    def line(of: Path = guesser, **changes: Any) -> str:
        return refused("dump", *flags_of(masked_plan(of, plain_texts, tmp_path / "out", **changes)))

    assert "--max-length 65: " in line(max_length=65)
    assert "has positions for 64 tokens. Give --max-length 64 or less." in line(max_length=65)
    assert "--max-length 2: the tokenizer puts 2 tokens of its own around a text" in line(max_length=2)
    assert "--mask-random 0.6 and --mask-unchanged 0.5: together they are more than" in line(
        mask_random=0.6, mask_unchanged=0.5
    )
    assert "--overlap: it means nothing to --task masked-lm. Leave it out." in line(overlap=3)
    assert "--augment: it means nothing to --task masked-lm. Leave it out." in line(augment="flip")
    assert "--qkv 1: of masked language models only hidden states are kept" in line(qkv="1")
    assert "no column named 'words'" in line(column="words")
    plain = save_masked(tmp_path / "plain", None)
    other = train_tokenizer()
    other.save_pretrained(plain)
    assert "its tokenizer has no mask token" in line(plain)
    causal = save_model(tmp_path / "causal", other, 320)
    assert "it is a LlamaForCausalLM. Give a masked language model." in line(causal)
    with pytest.raises(ModelError, match="its tokenizer gives token id"):
        dump(masked_plan(save_masked(tmp_path / "few", wordpiece(), vocab_size=300), plain_texts, tmp_path / "out"))
    empty = save_texts(tmp_path / "empty.jsonl", ["", "[SEP]"])
    with pytest.raises(BadInput, match="none of the 2 documents has a token that may be masked"):
        dump(masked_plan(guesser, empty, tmp_path / "out"))
    text = "--mask-share: it means nothing to --task causal-lm. Leave it out."
    assert text in refused("dump", "--teacher", causal, "--data", plain_texts, "--out", "x", "--mask-share", 0.2)


def test_people_see_what_was_masked(
    masked_cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", masked_cache.path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.15 of the tokens, of them 0.8 masked, 0.1 random and 0.1 unchanged; 2 masks of each text, seed 0" in shown
    assert "2 with nothing to mask" in shown
    assert command("inspect", masked_cache.path, "--sample", 6, "--tokens", 64) == 0
    assert "([MASK])" in capsys.readouterr().out
