"""Processes that tokenise: what they give, how they fail, and that they end."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput, StorageError
from logitstore.text.chats.options import ChatOptions
from logitstore.text.forms.form import Encoder
from logitstore.text.forms.ids import ids_of, plain_ids
from logitstore.text.prepare import workers
from logitstore.text.prepare.encoded import Job, Rows
from logitstore.text.prepare.workers import Workers
from tests.parts.failing import failing
from tests.parts.texts import TEXTS


def batch(first: int) -> Rows:
    return Rows(
        values=pa.record_batch({"text": ["a b", "c"]}),
        documents_D=np.arange(first, first + 2),
        numbers_D=np.arange(first, first + 2) + 1,
    )


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", StorageError, r"^--prepare-workers 2: a process that tokenises ended \(SIGKILL\)"),
        ("a bug", ZeroDivisionError, "a bug"),
        ("a row", BadInput, r"^--data s, row 1: no text$"),
    ],
)
def test_a_process_that_fails_ends_the_preparation(
    how: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORTH", 0)
    encoder = Encoder(tokenizer=None, chats=ChatOptions(), vocabulary=9)  # type: ignore[arg-type]
    job = Job(
        encode=partial(failing, how), encoder=encoder, source="s", is_partial=False, domain_column=None, domain=None
    )
    with Workers(2) as started, pytest.raises(error, match=message):
        list(started.in_order(job, map(batch, range(0, 20, 2))))
    assert [process._process.returncode is not None for process in started._crew._processes] == [True, True]


def test_a_tokenizer_s_core_gives_the_same_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = plain_ids(tokenizer)
    assert plain is not None
    texts = [*TEXTS[:5], "", "<|end|>", "Grüße <|user|>"]
    assert ids_of(plain, texts) == tokenizer(texts)["input_ids"]


def test_a_tokenizer_with_a_way_of_its_own_is_asked_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    class Own(PreTrainedTokenizerFast):  # type: ignore[misc]
        def __call__(self, *arguments: object, **named: object) -> object:
            return super().__call__(*arguments, **named)

    assert plain_ids(Own(tokenizer_object=tokenizer.backend_tokenizer)) is None
