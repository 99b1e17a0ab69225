"""A student's tokenizer may have added tokens that the cache does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.errors import CacheMismatch
from logitstore.store.vocabulary import read_pieces
from logitstore.text.tokenizer import check_tokenizer
from logitstore.train.train import train
from tests.parts.texts import PADDED_VOCABULARY, VOCABULARY, save_model, train_tokenizer
from tests.parts.training import plan_of


@pytest.mark.parametrize("rows", [VOCABULARY + 1, PADDED_VOCABULARY])
def test_a_student_with_a_token_for_padding_trains(rows: int, cache: logitstore.Cache, tmp_path: Path) -> None:
    own = train_tokenizer()
    own.add_special_tokens({"pad_token": "[PAD]"})
    assert len(own) == VOCABULARY + 1
    student = save_model(tmp_path / "student", own, rows, num_hidden_layers=1)
    train(plan_of(cache, tmp_path / "out", student=str(student), max_steps=1))
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert saved.pad_token == "[PAD]"


@pytest.mark.parametrize(
    ("make", "fits"),
    [
        (lambda: train_tokenizer(), True),
        (lambda: _with_added(["<a>", "<b>"]), True),
        (lambda: train_tokenizer(VOCABULARY + 40), False),
        (lambda: train_tokenizer(VOCABULARY - 20), False),
    ],
)
def test_more_tokens_are_allowed_where_they_are_added_ones(
    make: Callable[[], Any], fits: bool, cache: logitstore.Cache
) -> None:
    pieces, info = read_pieces(cache).to_pylist(), cache.manifest.text[0]
    if fits:
        check_tokenizer(make(), info, "it", pieces)
        return
    with pytest.raises(CacheMismatch, match="it: its tokenizer is not the cache's: id"):
        check_tokenizer(make(), info, "it", pieces)


def _with_added(tokens: list[str]) -> PreTrainedTokenizerFast:
    made = train_tokenizer()
    made.add_tokens(tokens)
    return made
