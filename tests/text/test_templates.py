"""Whatever the template, the rows of a chat are about the words that the model was asked to generate, in their context."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput
from logitstore.text.chats.options import ChatOptions
from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, open_samples
from tests.parts import chat_templates
from tests.parts.chat_truth import Asked, generated
from tests.parts.texts import CHAT_TEMPLATE, train_tokenizer

STYLES = {name: value for name, value in vars(chat_templates).items() if isinstance(value, str) and name.isupper()}
STYLES["PLAIN"] = CHAT_TEMPLATE


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


PLAIN = [user("One?"), said("First."), user("Two?"), said("Second."), user("Three?"), said("Third.")]
THOUGHT = [
    user("One?"),
    said("<think>\nhm\n</think>\n\nFirst."),
    user("Two?"),
    said("<think>\noh\n</think>\n\nSecond."),
]
MARKUP = [user("Bold?"), said("<b>so</b>"), user("Again?"), said("<tt>so</tt>"), user("Thanks.")]
SYSTEM = [{"role": "system", "content": "Be brief."}, *THOUGHT, *PLAIN]
CHATS = [PLAIN, THOUGHT, MARKUP, SYSTEM]


@pytest.fixture(scope="module")
def own_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


def asked(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *chats: list[dict[str, Any]], **arguments: Any
) -> list[Asked]:
    """The words of each chat that rows are about, each run of them with all that stands before it."""
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    encoding = Encoding(max_length=2000, overlap=8, chats=ChatOptions(arguments=arguments))
    found: list[Asked] = [[] for _ in chats]
    for sample in open_samples(DataSpec(source=str(path)), encoding, tokenizer, "the teacher"):
        tokens, flags = sample.tokens_T.tolist(), [False, *sample.mask_T[:-1].tolist()]
        for is_said, run in groupby(range(len(tokens)), key=lambda place: flags[place]):
            if is_said:
                places = list(run)
                words, before = tokens[places[0] : places[-1] + 1], tokens[: places[0]]
                context, answer = tokenizer.decode(before), tokenizer.decode(words)
                found[sample.document].append((context, answer))
                # the tokens themselves are those of the context, and then of the words
                assert before + words == tokenizer(context + answer)["input_ids"]
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thinking", [None, False])
def test_the_rows_are_about_what_the_model_was_asked_to_generate(
    tmp_path: Path, own_tokenizer: PreTrainedTokenizerFast, style: str, thinking: bool | None
) -> None:
    own_tokenizer.chat_template = STYLES[style]
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    if arguments and "enable_thinking" not in STYLES[style]:
        with pytest.raises(BadInput, match="--template-arg enable_thinking: the chat template does not read it"):
            asked(tmp_path, own_tokenizer, PLAIN, **arguments)
        return
    found = asked(tmp_path, own_tokenizer, *CHATS, **arguments)
    assert found == [generated(own_tokenizer, chat, **arguments) for chat in CHATS]


def test_thoughts_are_dropped_from_a_chain_of_tool_calls_once_it_is_answered(
    tmp_path: Path, own_tokenizer: PreTrainedTokenizerFast
) -> None:
    own_tokenizer.chat_template = chat_templates.GPT_OSS
    call = [{"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}]
    chain = [
        user("Sum?"),
        said("", thinking="call it", tool_calls=call),
        {"role": "tool", "content": "1"},
        said("It is 1.", thinking="easy"),
        user("Sure?"),
        said("Yes."),
    ]
    question = "<|user|>Sum?<|end|><|assistant|>"
    called = 'to=sum commentary: {"a": 1}<|call|>'
    thought = f"analysis: call it<|end|><|assistant|>{called}"
    answered = f"{question}{called}<|tool|>1<|end|><|assistant|>final: It is 1.<|end|><|user|>Sure?<|end|><|assistant|>"
    assert asked(tmp_path, own_tokenizer, chain)[0] == [
        (question, thought),
        (
            f"{question}{thought}<|tool|>1<|end|><|assistant|>",
            "analysis: easy<|end|><|assistant|>final: It is 1.<|return|>",
        ),
        (answered, "final: Yes.<|return|>"),
    ]


def test_words_are_not_cut_where_they_begin_like_the_thought_of_a_prompt(
    tmp_path: Path, own_tokenizer: PreTrainedTokenizerFast
) -> None:
    own_tokenizer.chat_template = chat_templates.DEEPSEEK_R1
    several = ("<b>so</b>", "<think about it", "<")
    found = asked(tmp_path, own_tokenizer, *([user("Bold?"), said(words)] for words in several))
    assert found == [[("<|user|>Bold?<|assistant|>", f"{words}<|end|>")] for words in several]


def test_a_template_whose_beginning_tells_that_an_answer_is_asked_for_gives_the_user_no_rows(
    tmp_path: Path, own_tokenizer: PreTrainedTokenizerFast
) -> None:
    own_tokenizer.chat_template = "{% if add_generation_prompt %}<|system|>think{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(BadInput, match="words cannot be told apart"):
        asked(tmp_path, own_tokenizer, PLAIN)


@pytest.mark.parametrize("as_text", [False, True])
def test_documents_are_rendered_as_the_template_renders_them(
    tmp_path: Path, own_tokenizer: PreTrainedTokenizerFast, as_text: bool
) -> None:
    own_tokenizer.chat_template = (
        "{% for d in documents or [] %}<|system|>{{ d.title }}: {{ d.text }}{{ d.note or '' }}<|end|>{% endfor %}"
        + CHAT_TEMPLATE
    )
    several: list[list[dict[str, str]]] = [
        [{"title": "Set", "text": "no order"}, {"title": "List", "text": "an order", "note": "!"}],
        [{"title": "Map", "text": "keys"}],
        [],
    ]
    path = tmp_path / "chats.jsonl"
    rows = [{"messages": PLAIN, "documents": json.dumps(each) if as_text else each} for each in several]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_samples(DataSpec(source=str(path)), Encoding(max_length=2000), own_tokenizer, "the teacher")
    assert [own_tokenizer.decode(sample.tokens_T.tolist()) for sample in samples] == [
        own_tokenizer.apply_chat_template(PLAIN, documents=each, tokenize=False) for each in several
    ]
