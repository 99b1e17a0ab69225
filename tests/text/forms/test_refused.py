"""Rows that a form cannot have are refused with their row, and so are options without a meaning for the form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput, LogitstoreError
from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, open_samples
from tests.parts.commands import Refused
from tests.parts.documents import open_file
from tests.parts.texts import train_tokenizer
from tests.text.test_columns import write_lines, write_parquet

Row = dict[str, Any]
HI = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
PACKED = {"input_ids": [20, 21, 22, 23, 24]}
CALL = {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}

MALFORMED: dict[str, tuple[Row, Row, str]] = {
    # form: a sound row, the row behind it, what is said of it
    "a role that is unknown": (
        {"conversations": HI},
        {"conversations": [*HI, {"from": "alien", "value": "?"}]},
        r"row 2, turn 2 is from 'alien', which stands for no role\. Known: human, .*function_response\.",
    ),
    "a turn without a value": (
        {"conversations": HI},
        {"conversations": [{"from": "human", "value": None}, HI[1]]},
        r"row 2, turn 0: its value is None where a string is expected",
    ),
    "a turn without a speaker": (
        {"conversations": HI},
        {"conversations": [{"value": "Hi"}]},
        r"line 2: column 'conversations' holds .* where a string is expected, or a chat",
    ),
    "a call that is no JSON": (
        {"conversations": HI},
        {"conversations": [HI[0], CALL | {"value": "f()"}]},
        r"row 2, turn 1: 'f\(\)' is not JSON",
    ),
    "a call without a name": (
        {"conversations": HI},
        {"conversations": [HI[0], CALL | {"value": '[{"arguments": {}}]'}]},
        r"row 2, turn 1 is a function_call with {'arguments': {}}\. Give a name and arguments",
    ),
    "a user that says nothing": (
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hello."}]},
        {"messages": [{"role": "user", "text": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        r"row 2, turn 0, of the user, has no content",
    ),
    "an assistant that does nothing": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "name": "a"}]},
        r"row 2, turn 1, of the assistant, has no content",
    ),
    "a weight between": (
        {"conversations": [HI[0], HI[1] | {"weight": 1}]},
        {"conversations": [HI[0] | {"weight": 0.5}, HI[1] | {"weight": 0.5}]},
        r"row 2, turn 1: its weight is 0\.5, where 0 \(no rows\) or 1 is expected",
    ),
    "two systems": (
        {"conversations": HI, "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be long."}, *HI], "system": "Be brief."},
        r"row 2: its column 'system' and its first turn differ",
    ),
    "no instruction": (
        {"instruction": "Add.", "output": "3"},
        {"instruction": "", "input": "", "output": "3"},
        r"row 2: it has an output and no instruction",
    ),
    "an output that is no text": (
        {"instruction": "Add.", "output": "3"},
        {"instruction": "Add.", "output": 3},
        r"line 2: column 'output' holds 3 where a string is expected",
    ),
    "a history of single words": (
        {"instruction": "Add.", "output": "3"},
        {"instruction": "Add.", "output": "3", "history": [["A?"]]},
        r"row 2: history holds \['A\?'\]\. Give pairs",
    ),
    "tools that are not read": (
        {"prompt": "", "completion": [{"role": "assistant", "content": "3"}]},
        {"prompt": "", "completion": [{"role": "assistant", "content": "3"}], "tools": [{"name": "f"}]},
        r"row 2: it comes with tools, and the chat template does not read `tools`",
    ),
    "documents that are not read": (
        {"conversations": HI},
        {"conversations": HI, "documents": [{"text": "x"}]},
        r"row 2: it comes with documents, and the chat template does not read `documents`",
    ),
    "an id that the teacher does not have": (
        PACKED,
        {"input_ids": [20, 320, 21]},
        r"row 2: input_ids holds 320 at 1; the teacher's tokens are 0 to 319\. Tokenise with the teacher's tokenizer",
    ),
    "a negative id": (PACKED, {"input_ids": [20, -1]}, r"row 2: input_ids holds -1 at 1"),
    "an id that is no number": (PACKED, {"input_ids": [20, "a"]}, r"line 2: column 'input_ids' holds"),
    "no list": (PACKED, {"input_ids": 5}, r"line 2: column 'input_ids' holds 5 where a list of whole numbers"),
    "a text": (PACKED, {"input_ids": "words"}, r"row 2, input_ids: 'words' is not JSON"),
    "an object as text": (
        PACKED,
        {"input_ids": "{}"},
        r"row 2, input_ids: {} where a list|row 2, input_ids: '{}' where",
    ),
    "a null inside": (PACKED, {"input_ids": "[20, null]"}, r"row 2: input_ids holds None at 1, where a whole number"),
    "a number of 100 bits": (
        PACKED,
        {"input_ids": [2**100, 1]},
        r"row 2: input_ids holds a number of more than 64 bits",
    ),
    "shifted labels": (
        PACKED | {"labels": [-100, 21, 22, 23, 24]},
        PACKED | {"labels": [21, 22, 23, 24, -100]},
        r"row 2: labels holds 21 at 0, where input_ids has 20\. .* They look shifted by one: give them unshifted\.",
    ),
    "labels of another text": (
        PACKED | {"labels": [-100, 21, 22, 23, 24]},
        PACKED | {"labels": [-100, 21, 99, 23, 24]},
        r"row 2: labels holds 99 at 2, where input_ids has 22\. A label is the token itself, or -100 for no row about it\.",
    ),
    "labels of another length": (
        PACKED | {"labels": [-100, 21, 22, 23, 24]},
        PACKED | {"labels": [-100, 21]},
        r"row 2: labels has 2 entries for 5 input_ids\. Give one for each",
    ),
    "no labels": (PACKED | {"labels": PACKED["input_ids"]}, PACKED, r"row 2: it has no labels, as other rows have"),
    "a mask that is a share": (
        PACKED | {"loss_mask": [0, 1, 1, 1, 1]},
        PACKED | {"loss_mask": [0, 1, 2, 1, 1]},
        r"row 2: loss_mask holds 2 at 2, where 0 or 1 is expected",
    ),
    "a hole in a sample": (
        PACKED | {"attention_mask": [1] * 5},
        PACKED | {"attention_mask": [1, 1, 0, 1, 1]},
        r"row 2: attention_mask is 0 at 2, within a sample",
    ),
    "numbers that come back": (
        PACKED | {"attention_mask": [1, 1, 2, 2, 3]},
        PACKED | {"attention_mask": [1, 1, 2, 2, 1]},
        r"row 2: attention_mask holds 1 behind 2",
    ),
    "positions with a gap": (
        PACKED | {"position_ids": [0, 1, 0, 1, 2]},
        PACKED | {"position_ids": [0, 1, 0, 2, 3]},
        r"row 2: position_ids holds 2, where 0 or 1 is expected",
    ),
    "positions that begin late": (
        PACKED | {"position_ids": [0, 1, 0, 1, 2]},
        PACKED | {"position_ids": [3, 4, 5, 6, 7]},
        r"row 2: position_ids holds 3, where 0 or 0 is expected",
    ),
    "lengths of another row": (
        PACKED | {"seq_lengths": [2, 3]},
        PACKED | {"seq_lengths": [2, 2]},
        r"row 2: seq_lengths sums to 4, the row has 5 tokens",
    ),
    "lengths and positions that differ": (
        PACKED | {"seq_lengths": [2, 3], "position_ids": [0, 1, 0, 1, 2]},
        PACKED | {"seq_lengths": [3, 2], "position_ids": [0, 1, 0, 1, 2]},
        r"row 2: position_ids tells 2 samples apart, seq_lengths 2, or at other places",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    sound, malformed, message = MALFORMED[name]
    write_lines(tmp_path / "sound.jsonl", [sound])
    open_file(tmp_path / "sound.jsonl", tokenizer)
    write_lines(tmp_path / "data.jsonl", [sound, malformed])
    with pytest.raises(BadInput, match=rf"--data {tmp_path}/data\.jsonl, {message}") as caught:
        open_file(tmp_path / "data.jsonl", tokenizer)
    assert "\n" not in str(caught.value)


def test_labels_that_appear_late_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_lines(tmp_path / "a.jsonl", [PACKED])
    write_lines(tmp_path / "b.jsonl", [PACKED, PACKED | {"labels": [-100] * 5}])
    with pytest.raises(BadInput, match=r"row 3: it has labels, which the first rows do not have"):
        open_file(tmp_path / "*.jsonl", tokenizer)


@pytest.mark.parametrize("values", [[[1.5, 2.0]], ["words"], [1]])
def test_ids_of_another_type_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, values: list[Any]) -> None:
    write_parquet(tmp_path / "data.parquet", [{"input_ids": value} for value in values])
    with pytest.raises(BadInput, match=r"row 1.*input_ids"):
        open_file(tmp_path / "data.parquet", tokenizer)


def test_a_column_of_ids_with_another_name_says_where_they_belong(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_parquet(tmp_path / "data.parquet", [{"tokens": [1, 2, 3]}])
    with pytest.raises(BadInput, match="token ids belong into a column 'input_ids'"):
        open_file(tmp_path / "data.parquet", tokenizer, column="tokens")


@pytest.mark.parametrize("row", [{"conversations": HI}, {"instruction": "Add.", "output": "3"}])
def test_forms_that_are_chats_need_a_chat_template(tmp_path: Path, row: Row) -> None:
    write_lines(tmp_path / "data.jsonl", [row])
    with pytest.raises(LogitstoreError, match=r"no chat template.*give a template with --chat-template"):
        open_file(tmp_path / "data.jsonl", train_tokenizer())


@pytest.mark.parametrize(
    ("row", "why"),
    [({"conversations": HI}, "the chat template ends the turns"), (PACKED, "token ids are taken as they stand")],
)
def test_the_end_token_is_refused_where_it_would_change_nothing(
    refused_dump: Refused, tmp_path: Path, row: Row, why: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    spec, encoding = DataSpec(source=str(path)), Encoding(end_token=True)
    own = train_tokenizer()
    own.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(BadInput, match=f"^--end-token: column .* {why}"):
        open_samples(spec, encoding, own, "the teacher")
    path.write_text('{"text": "a b"}\n')
    own.eos_token = None
    with pytest.raises(BadInput, match="--end-token: the tokenizer of the teacher has no end-of-text token"):
        open_samples(spec, encoding, own, "the teacher")
