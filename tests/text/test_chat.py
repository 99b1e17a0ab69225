"""Chats: only what the assistant said has rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from logitstore.errors import BadInput, ModelError
from logitstore.text.chat import Chat, encode_chat, touched
from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, Samples, open_samples
from tests.parts.documents import open_file
from tests.parts.texts import train_tokenizer

places = st.tuples(st.integers(0, 12), st.integers(0, 4)).map(lambda place: (place[0], sum(place)))
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue, of course."},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "Grün 🙂"},
]


@given(spans=st.lists(places.filter(lambda place: place[0] < place[1])), tokens=st.lists(places))
def test_a_token_is_the_assistants_if_it_has_a_character_of_its_words(spans: list[Any], tokens: list[Any]) -> None:
    letters = [set(range(*span)) for span in spans]
    wanted = [any(letters_of & set(range(*token)) for letters_of in letters) for token in tokens]
    assert touched(tokens, spans) == wanted


def chats(folder: Path, values: list[Any]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in values), encoding="utf-8")
    return path


def said(samples: Samples, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode(sample.gold_N.tolist()) for sample in samples]


def test_only_what_the_assistant_said_has_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    samples = open_file(chats(tmp_path, [CHAT]), tokenizer)
    assert samples.chat
    whole = tokenizer.decode(samples[0].tokens_T.tolist())
    assert whole.startswith("<|system|>Be brief.<|end|><|user|>Name")
    assert said(samples, tokenizer) == ["Blue, of course.<|end|>Grün 🙂<|end|>"]


def test_a_template_that_marks_the_assistant_s_words_gives_the_same_rows(tmp_path: Path) -> None:
    marked = train_tokenizer()
    marked.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    samples = open_file(chats(tmp_path, [CHAT, CHAT[:2], [], CHAT[1:3]]), marked)
    assert said(samples, marked) == ["Blue, of course.<|end|>Grün 🙂<|end|>", "Blue, of course.<|end|>"]
    assert samples.skipped == 2


def test_long_chats_are_cut_into_windows_that_keep_the_mask(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    chat = []
    for number in range(12):
        chat.append({"role": "user", "content": f"Q{number}?"})
        chat.append({"role": "assistant", "content": f"Answer {number}."})
    samples = open_file(chats(tmp_path, [chat]), tokenizer)
    assert len(samples) > 1
    assert "".join(said(samples, tokenizer)) == "".join(f"Answer {number}.<|end|>" for number in range(12))


GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
THINKING_DROPPED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('~')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}" + GENERATION
)
SUFFIX_AT_THE_END = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}<|system|>{% endif %}"
)
PROMPT_BEGINS_A_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('~')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>think{% endif %}"
)
TWO_TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "hm~First."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "oh~Second."},
]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            THINKING_DROPPED,
            [
                ("<|user|>One?<|end|><|assistant|>", "hm~First.<|end|>"),
                ("<|user|>One?<|end|><|assistant|>First.<|end|><|user|>Two?<|end|><|assistant|>", "oh~Second.<|end|>"),
            ],
        ),
        (
            SUFFIX_AT_THE_END,
            [
                ("<|user|>One?<|end|><|assistant|>", "hm~First.<|end|><|system|>"),
                (
                    "<|user|>One?<|end|><|assistant|>hm~First.<|end|><|user|>Two?<|end|><|assistant|>",
                    "oh~Second.<|end|><|system|>",
                ),
            ],
        ),
    ],
)
def test_turns_are_samples_of_their_own_where_later_ones_rewrite_them(
    tmp_path: Path, template: str, expected: list[tuple[str, str]]
) -> None:
    rewriting = train_tokenizer()
    rewriting.chat_template = template
    samples = open_file(chats(tmp_path, [TWO_TURNS, TWO_TURNS[:2]]), rewriting)
    whole = [rewriting.decode(sample.tokens_T.tolist()) for sample in samples]
    assert whole == [before + words for before, words in [*expected, expected[0]]]
    assert said(samples, rewriting) == [words for _, words in [*expected, expected[0]]]
    assert [(sample.document, sample.window) for sample in samples] == [(0, 0), (0, 1), (1, 0)]
    assert (samples.documents, samples.skipped) == (2, 0)


def test_a_generation_prompt_may_say_more_than_the_finished_turn(tmp_path: Path) -> None:
    thinking = train_tokenizer()
    thinking.chat_template = PROMPT_BEGINS_A_THOUGHT
    samples = open_file(chats(tmp_path, [TWO_TURNS]), thinking)
    assert said(samples, thinking) == ["First.<|end|>Second.<|end|>"]


TOOLS = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
CALLS = (
    TOOLS + "{{ flag or '' }}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>{% endfor %}" + GENERATION
)


def call(**arguments: Any) -> list[dict[str, Any]]:
    made = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    return [TWO_TURNS[0], {"role": "assistant", "content": None, "tool_calls": made}]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("tools_as_text", [False, True])
def test_chats_are_rendered_with_their_tools_and_without_keys_they_never_had(
    tmp_path: Path, suffix: str, tools_as_text: bool
) -> None:
    calling = train_tokenizer()
    calling.chat_template = CALLS
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [
        {"messages": call(x=1, y=2), "tools": tools, "chat_template_kwargs": {"flag": "so"}},
        {"messages": call(city="Ulm"), "tools": None, "chat_template_kwargs": None},
    ]
    expected = [
        calling.apply_chat_template(
            row["messages"], tools=row["tools"], tokenize=False, **(row["chat_template_kwargs"] or {})
        )
        for row in rows
    ]
    if tools_as_text:
        rows[0]["tools"] = json.dumps(tools)
    path = tmp_path / f"chats{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    spec = DataSpec(source=str(path))
    samples = open_samples(spec, Encoding(max_length=400, overlap=8), calling, "the teacher")

    def sorted_keys(text: str) -> str:
        return "".join(sorted(text))  # Arrow may sort the keys of an object

    found = [calling.decode(sample.tokens_T.tolist()) for sample in samples]
    assert [sorted_keys(text) for text in found] == [sorted_keys(text) for text in expected]


def test_chats_as_json_text_are_chats(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    plain = open_file(chats(tmp_path, [CHAT]), tokenizer)
    as_text = open_file(chats(tmp_path, [json.dumps(CHAT)]), tokenizer)
    assert as_text.fingerprint == plain.fingerprint


def test_a_chat_that_cannot_be_used_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = chats(tmp_path, [json.dumps(CHAT), "no chat"])
    with pytest.raises(BadInput, match=r"chats\.jsonl, row 2: 'no chat' is not JSON"):
        open_file(path, tokenizer)
    picky = train_tokenizer()
    picky.chat_template = "{{ raise_exception('too long') if messages | length > 2 }}" + CALLS
    with pytest.raises(BadInput, match=r"chats\.jsonl, row 2: .*too long"):
        open_file(chats(tmp_path, [CHAT[:2], CHAT]), picky)


@pytest.mark.parametrize("column", [None, "completion"])
def test_a_prompt_is_the_context_of_its_completion(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, column: str | None
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "two and two is", "completion": " four"}) + "\n")
    samples = open_file(path, tokenizer, column=column)
    assert tokenizer.decode(samples[0].tokens_T.tolist()) == "two and two is four"
    assert said(samples, tokenizer) == [" four"]
    path.write_text(json.dumps({"prompt": CHAT[:4], "completion": CHAT[4:]}) + "\n")
    assert said(open_file(path, tokenizer, column=column), tokenizer) == ["Grün 🙂<|end|>"]


def test_chats_without_a_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        open_file(chats(tmp_path, [CHAT]), train_tokenizer())


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles\nmust alternate') }}", "{{ 1 / 0 }}", "{{ messages.nothing.at_all }}", "{{ messages"],
)
@pytest.mark.parametrize("marks", ["", "{% generation %}{% endgeneration %}"])
def test_whatever_a_template_raises_is_one_line_that_names_the_chat(
    tokenizer: PreTrainedTokenizerFast, template: str, marks: str
) -> None:
    own = copy.copy(tokenizer)
    own.chat_template = template + marks
    with pytest.raises(BadInput) as caught:
        encode_chat(own, Chat(messages=CHAT), "data.jsonl, row 3")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("data.jsonl, row 3: the chat template refuses a chat that begins with {'role': 'system'")
    assert line.endswith(". Correct the chat or the template, or take the chat out of the data.")


def test_a_tokenizer_that_fails_is_not_taken_for_a_template(tokenizer: PreTrainedTokenizerFast) -> None:
    class Failing:
        chat_template = tokenizer.chat_template
        get_chat_template = tokenizer.get_chat_template
        apply_chat_template = tokenizer.apply_chat_template

        def __call__(self, *_: object, **__: object) -> None:
            raise ZeroDivisionError("no\noffsets")

    with pytest.raises(BadInput, match=r"^row 3: the tokenizer refuses a chat that begins .*: no offsets$"):
        encode_chat(Failing(), Chat(messages=CHAT), "row 3")  # type: ignore[arg-type]


def test_tools_that_the_template_leaves_out_are_refused(tmp_path: Path) -> None:
    calling = train_tokenizer()
    rows = [{"messages": TWO_TURNS, "tools": [{"name": "f"}]}, {"messages": TWO_TURNS, "tools": []}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "without.jsonl").write_text(json.dumps(rows[1]) + "\n")
    calling.chat_template = CALLS
    assert len(open_file(tmp_path / "chats.jsonl", calling)) == 2
    calling.chat_template = CALLS.removeprefix(TOOLS)
    assert len(open_file(tmp_path / "without.jsonl", calling)) == 1
    with pytest.raises(BadInput, match=r"row 1: it comes with tools, and the chat template does not read `tools`\."):
        open_file(tmp_path / "chats.jsonl", calling)


@pytest.mark.parametrize("marks", [False, True])
def test_contents_in_parts_are_rendered_or_refused(tmp_path: Path, marks: bool) -> None:
    """A template for texts would print the list as Python writes it."""
    parts = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in TWO_TURNS]
    said_here = "{% generation %}{{ m.content }}{% endgeneration %}" if marks else "{{ m.content }}"
    own = train_tokenizer()
    own.chat_template = "{% for m in messages %}<|{{ m.role }}|>" + said_here + "<|end|>{% endfor %}" + GENERATION
    open_file(chats(tmp_path, [TWO_TURNS]), own)
    path = chats(tmp_path, [parts])
    with pytest.raises(BadInput, match=r"row 1: the content of message 0 is .*, and the chat template prints it as it"):
        open_file(path, own)
    own.chat_template = own.chat_template.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
    assert len(open_file(path, own)) >= 1


@pytest.mark.parametrize("value", ["prose", json.dumps({"messages": TWO_TURNS})])
def test_a_column_of_chats_that_holds_none_is_no_prose(tmp_path: Path, value: str) -> None:
    path = chats(tmp_path, [value])
    with pytest.raises(BadInput, match="column 'messages' holds no chats"):
        open_file(path, train_tokenizer())
    assert len(open_file(path, train_tokenizer(), column="messages")) >= 1


@pytest.mark.parametrize(
    ("row", "what"),
    [({"messages": TWO_TURNS}, "turn"), ({"prompt": "One?", "completion": "First."}, "completion")],
)
def test_a_tokenizer_without_places_is_refused_where_they_are_needed(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    slow = ByT5Tokenizer(extra_ids=0)
    slow.chat_template = CALLS
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row | {"body": "plain text"}) + "\n")
    with pytest.raises(
        ModelError, match=rf"^the teacher: its tokenizer \(ByT5Tokenizer\) .* so a {what} cannot be told"
    ):
        open_file(path, slow)
    assert len(open_file(path, slow, column="body")) == 1


@pytest.mark.parametrize("as_text", [True, False])
def test_a_null_in_json_is_rendered_as_it_was_written(tmp_path: Path, as_text: bool) -> None:
    """As `apply_chat_template` renders it; in Parquet such keys are those of other rows."""
    tokenizer = train_tokenizer()
    tokenizer.chat_template = (
        "{{ tools | tojson }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] or '' }}"
        "{% for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tools = [{"name": "weather", "parameters": {"city": {"type": "string", "default": None}}}]
    call = {"name": "weather", "arguments": {"city": None, "days": 1}}
    chat = [
        {"role": "user", "content": "Hi", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    row = {"messages": chat, "tools": tools}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({name: json.dumps(value) for name, value in row.items()} if as_text else row) + "\n")
    text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    (sample,) = open_samples(DataSpec(source=str(path)), Encoding(max_length=512, overlap=8), tokenizer, "the teacher")
    assert tokenizer.decode(sample.tokens_T.tolist()) == text
    assert '"default": null' in text
    assert '"city": null' in text
