"""Which form is read is told by the columns, and said; what a row has in vain is said too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step
from logitstore.errors import BadInput
from logitstore.text.documents import DataSpec
from logitstore.text.forms.known import MAIN
from logitstore.text.samples import Encoding, Samples, open_samples
from tests.parts.places import ROOT
from tests.parts.texts import train_tokenizer
from tests.text.test_columns import write_lines

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
ALL: dict[str, Any] = {
    "messages": CHAT,
    "conversations": TURNS,
    "text": "a b",
    "prompt": "a",
    "completion": " b",
    "instruction": "Add.",
    "output": "3",
    "input_ids": [20, 21],
}
ORDER = {
    "messages": "chats; rows about what the assistant says",
    "conversations": "chats; rows about what the assistant says",
    "text": "texts; rows about every token",
    "completion": "completions of prompts, as texts; rows about the completion",
    "output": "outputs of instructions, as chats; rows about what the assistant says",
    "input_ids": "token ids; rows about every token",
}


def told(path: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> tuple[Samples, list[str]]:
    steps: list[Step] = []
    samples = open_samples(DataSpec(source=str(path), **options), Encoding(), tokenizer, "the teacher", steps.append)
    return samples, [step.note for step in steps if step.stage in ("data", "note")]


@pytest.mark.parametrize("column", ORDER)
@pytest.mark.parametrize("named", [False, True])
def test_the_first_form_that_is_there_is_read_and_the_others_are_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, column: str, named: bool
) -> None:
    names = list(ORDER)
    left_out = set() if named else set(names[: names.index(column)])
    write_lines(tmp_path / "data.jsonl", [{name: value for name, value in ALL.items() if name not in left_out}])
    samples, lines = told(tmp_path / "data.jsonl", tokenizer, column=column if named else None)
    others = [name for name in names if name not in left_out and name != column]
    rest = f"; not read: {', '.join(map(repr, others))}, which --column would name" if others else ""
    assert lines[0] == f"column '{column}' holds {ORDER[column]}{rest}"
    assert len(lines) == 1 + (column == "completion")  # that completions have no end is said
    assert samples.column == column


def test_columns_beside_token_ids_that_are_not_known_are_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [5, 6, 7, 8]
    known = {"input_ids": ids, "labels": ids, "attention_mask": [1] * 4, "special_tokens_mask": [0] * 4, "source": "a"}
    odd = ("assistant_mask", "loss_weights", "cu_seqlens", "segment_ids", "document_id", "seq_idx")
    write_lines(tmp_path / "data.jsonl", [known | {name: [0, 0, 1, 1] for name in odd}])
    line = "column 'input_ids' holds token ids; rows about the tokens that 'labels' takes"
    names = ", ".join(map(repr, odd))
    assert told(tmp_path / "data.jsonl", tokenizer)[1] == [f"{line}; not known, so without effect: {names}"]
    write_lines(tmp_path / "data.jsonl", [known])
    assert told(tmp_path / "data.jsonl", tokenizer)[1] == [line]


@pytest.mark.parametrize("row", [{"completion": "a b"}, {"output": "a b"}, {"prompt": "a b"}, {"instruction": "a b"}])
def test_half_a_pair_is_no_form(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, row: dict[str, str]) -> None:
    write_lines(tmp_path / "data.jsonl", [row])
    with pytest.raises(BadInput, match=r"no column named 'text' or 'messages', .* 'instruction' with 'output'"):
        told(tmp_path / "data.jsonl", tokenizer)
    samples, lines = told(tmp_path / "data.jsonl", tokenizer, column=next(iter(row)))
    assert lines == [f"column '{samples.column}' holds texts; rows about every token"]


@pytest.mark.parametrize(
    ("row", "column", "asking"),
    [
        ({"question": "2 + 2?", "answer": "Four."}, "answer", "question"),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, "chosen", "prompt"),
        ({"question": "2 + 2?", "body": "Four."}, "question", None),
        ({"prompt": "2 + 2?", "text": "Four."}, "text", None),
        ({"topic": "sums", "body": "Four."}, "body", None),
    ],
)
def test_a_named_column_that_may_answer_another_is_said_to_stand_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], column: str, asking: str | None
) -> None:
    write_lines(tmp_path / "data.jsonl", [row])
    _, (line, *_) = told(tmp_path / "data.jsonl", tokenizer, column=column)
    assert (f", without '{asking}' before it (to read both, call them 'prompt' and 'completion'" in line) == (
        asking is not None
    )


def test_conversations_that_are_none_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_lines(tmp_path / "data.jsonl", [{"conversations": "prose"}])
    with pytest.raises(BadInput, match="column 'conversations' holds no chats"):
        told(tmp_path / "data.jsonl", tokenizer)


def test_what_a_row_has_in_vain_is_said_each_time(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The second time the tokens are not made anew."""
    row = {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True, "style": 1}}
    write_lines(tmp_path / "data.jsonl", [{"messages": CHAT}, row, {"messages": CHAT}, row, row])
    for _ in range(2):
        _, lines = told(tmp_path / "data.jsonl", tokenizer)
        assert lines[1:] == [
            f"'{name}' in chat_template_kwargs is not read by the chat template (row 2 and 2 more)"
            for name in ("enable_thinking", "style")
        ]


def test_a_chat_without_the_assistant_is_said(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    others = [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello."}]
    write_lines(tmp_path / "data.jsonl", [{"messages": chat} for chat in (CHAT, others, CHAT[:1], [], others)])
    samples, lines = told(tmp_path / "data.jsonl", tokenizer)
    assert len(samples) == 1
    assert lines[1:] == [
        "a chat without a turn of the assistant has no rows; its roles are gpt, human (row 2 and 1 more)",
        "a chat without a turn of the assistant has no rows; its roles are user (row 3)",
    ]


def test_a_chat_among_prose_is_read_as_prose_and_said(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a b"}, {"text": json.dumps(CHAT)}, {"text": "[1, 2]"}])
    samples, lines = told(tmp_path / "data.jsonl", tokenizer)
    assert tokenizer.decode(samples[1].tokens_T.tolist()) == json.dumps(CHAT)
    assert lines[1:] == [
        "a chat that is spelled as JSON is read as prose, because the first value of the column is none (row 2)"
    ]


def test_a_token_that_begins_in_the_prompt_has_a_row_and_is_said(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = next(piece for piece, token in tokenizer.get_vocab().items() if token > 260 and len(piece) > 1)
    text = tokenizer.convert_tokens_to_string([whole])
    write_lines(tmp_path / "data.jsonl", [{"prompt": f"x{text[:1]}", "completion": f"{text[1:]} yes"}])
    samples, lines = told(tmp_path / "data.jsonl", tokenizer)
    assert tokenizer.decode(samples[0].gold_N.tolist()) == f"{text} yes"
    assert lines[1:2] == [
        "a completion begins within a token that begins in the prompt; the row is about the whole token (row 1)"
    ]


PAGE = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (ROOT / "docs" / "data.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and '`{"' in line
]


@pytest.mark.parametrize("line", PAGE, ids=[line[0] for line in PAGE])
def test_the_rows_on_the_page_about_data_are_read_as_it_says(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, line: list[str]
) -> None:
    (tmp_path / "data.jsonl").write_text(line[1].strip("`") + "\n")
    samples, lines = told(tmp_path / "data.jsonl", tokenizer)
    assert lines[0].endswith(f"rows about {line[2]}")
    assert len(samples) == 1


def test_the_page_about_data_has_every_main_column_in_its_order() -> None:
    mains = [next(name for name in MAIN if name in json.loads(line[1].strip("`"))) for line in PAGE]
    assert list(dict.fromkeys(mains)) == list(MAIN)


def test_what_the_tokenizer_puts_around_a_text_has_rows_behind_a_completion_alone(tmp_path: Path) -> None:
    own = train_tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A <|end|>", special_tokens=[("<|system|>", 3), ("<|end|>", 0)]
    )
    write_lines(tmp_path / "data.jsonl", [{"prompt": "a b", "completion": " c"}])
    for end_token in (False, True):
        spec, encoding = DataSpec(source=str(tmp_path / "data.jsonl")), Encoding(end_token=end_token)
        sample = open_samples(spec, encoding, own, "the teacher")[0]
        assert own.decode(sample.tokens_T.tolist()) == "<|system|>a b c<|end|>"
        assert own.decode(sample.gold_N.tolist()) == " c<|end|>"
