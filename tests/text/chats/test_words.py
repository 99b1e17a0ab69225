"""With every template that TRL ships, rows are about the words that the model was asked to generate, in their context."""

from __future__ import annotations

import importlib.util
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput
from logitstore.text.chat import Chat, encode_chat
from tests.parts.chat_truth import Asked, Message, generated
from tests.parts.marks import often

TRL = importlib.util.find_spec("trl")
FOLDER = Path(TRL.submodule_search_locations[0]) / "chat_templates" if TRL and TRL.submodule_search_locations else None
TEMPLATES = {path.stem: path for path in sorted(FOLDER.glob("*.jinja"))} if FOLDER else {}
USUAL = {
    "deepseek_r1_distill",
    "gemma3",
    "gptoss",
    "gptoss_training",
    "lfm2_2_5",
    "llama3_1",
    "nemotron_3_nano",
    "phi3_training",
    "qwen2_5_training",
    "qwen3",
    "qwen3_6_training",
}

pytestmark = pytest.mark.skipif(not TEMPLATES, reason="TRL is not installed")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str, thought: str | None = None, **more: Any) -> Message:
    thoughts = {} if thought is None else {"reasoning_content": thought, "thinking": thought}
    return {"role": "assistant", "content": text} | thoughts | more


def call(**arguments: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "id": "call00001", "function": {"name": "sum", "arguments": arguments}}]


def result(text: str) -> Message:
    return {"role": "tool", "name": "sum", "tool_call_id": "call00001", "content": text}


NUMBER = {"type": "object", "properties": {"a": {"type": "integer", "description": "n"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "sum", "description": "Add.", "parameters": NUMBER}}]
PLAIN = [user("One?"), said("First."), user("Two?"), said("Second."), user("Three?"), said("Third.")]
THOUGHT = [user("Four?"), said("Fourth.", "hmm"), user("Five?"), said("Fifth.", "ohh")]
INLINE = [
    user("One?"),
    said("<think>\nhmm\n</think>\n\nFirst."),
    user("Two?"),
    said("<think>\nohh\n</think>\n\nSecond."),
]
SYSTEM = [{"role": "system", "content": "Be brief."}]
CALLED = [user("Sum?"), said("", tool_calls=call(a=1)), result("11"), said("Eleven."), user("Sure?"), said("Yes.")]
CHAIN = [
    user("Sum?"),
    said("", "call it", tool_calls=call(a=1)),
    result("11"),
    said("", "again", tool_calls=call(a=2)),
    result("22"),
    said("Both.", "easy"),
    user("Sure?"),
    said("Yes.", "well"),
]
CHATS: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "one turn": (PLAIN[:2], {}),
    "several turns": (PLAIN, {}),
    "a question at the end": ([user("Bold?"), said("<b>so</b>"), user("Thanks.")], {}),
    "thoughts": (THOUGHT, {}),
    "thoughts in the content": (INLINE, {}),
    "a system message": ([*SYSTEM, *THOUGHT, *PLAIN], {}),
    "tools": (CALLED, {"tools": TOOLS}),
    "a call with words": (
        [user("Sum?"), said("Let me.", tool_calls=call(a=1)), result("11"), said("Is.")],
        {"tools": TOOLS},
    ),
    "thoughts and tools": ([*SYSTEM, *CHAIN], {"tools": TOOLS}),
    "no thinking": (PLAIN, {"enable_thinking": False}),
    "two answers": ([user("One?"), said("First."), said("And more."), user("Two?"), said("Second.")], {}),
    "an answer to nothing": ([said("Hello."), user("One?"), said("First.")], {}),
}


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, so that every boundary between words is one between tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def asked(tokenizer: PreTrainedTokenizerFast, chat: list[Message], arguments: dict[str, Any]) -> Asked:
    """The words that have rows, each run of them with all that stands before it."""
    found = []
    for tokens, flags in encode_chat(tokenizer, Chat(messages=chat, arguments=arguments), "row 1"):
        for is_said, run in groupby(range(len(tokens)), key=flags.__getitem__):
            if is_said:
                places = list(run)
                words = tokenizer.decode(tokens[places[0] : places[-1] + 1])
                found.append((str(tokenizer.decode(tokens[: places[0]])), str(words)))
    return found


def marked(tokenizer: PreTrainedTokenizerFast, chat: list[Message], arguments: dict[str, Any], wanted: Asked) -> Asked:
    """Those of the words that the template marks in the chat up to them."""
    turns = [turn for turn, message in enumerate(chat) if message["role"] == "assistant"]
    found = []
    for turn, (context, words) in zip(turns, wanted, strict=True):
        encoded = tokenizer.apply_chat_template(
            chat[: turn + 1], return_dict=True, return_assistant_tokens_mask=True, **arguments
        )
        tokens = tokenizer(words, add_special_tokens=False)["input_ids"]
        flags = encoded["assistant_masks"][-len(tokens) :]
        for is_said, run in groupby(range(len(flags)), key=flags.__getitem__):
            if is_said:
                places = list(run)
                before, part = tokens[: places[0]], tokens[places[0] : places[-1] + 1]
                found.append((context + str(tokenizer.decode(before)), str(tokenizer.decode(part))))
    return found


def joined(words: Asked) -> Asked:
    """Words that follow each other at once are one run."""
    found: Asked = []
    for context, more in words:
        if found and context == "".join(found[-1]):
            context, more = found[-1][0], found.pop()[1] + more
        found.append((context, more))
    return found


def lost(chat: list[Message], wanted: Asked) -> str | None:
    """Say what the template leaves out, so that the teacher would answer about other words."""
    answers = [message for message in chat if message["role"] == "assistant"]
    for message, (_, words) in zip(answers, wanted, strict=True):
        if message.get("reasoning_content", "") not in words:
            return "leaves out the thought"
        if "</think>" in message["content"] and message["content"].split("\n")[1] not in words:
            return "leaves out the thought"
        if message["content"] and "</think>" not in message["content"] and message["content"] not in words:
            return "leaves out the text"
        if message.get("tool_calls") and "sum" not in words:
            return "leaves out the call"
    return None


NOT_TOLD = {
    *((name, "two answers") for name in ("diffusion_gemma", "gemma4_v5")),
    *((name, "a call with words") for name in ("diffusion_gemma", "gemma4_v5")),
}
"""Templates that join two turns of the assistant into one, or move the words of one behind the answer of a tool."""


@pytest.mark.parametrize("name", often(TEMPLATES, USUAL.__contains__))
def test_the_rows_are_about_what_the_model_was_asked_to_generate(letters: PreTrainedTokenizerFast, name: str) -> None:
    letters.chat_template = TEMPLATES[name].read_text()
    has_marks = "generation %}" in letters.chat_template or "generation -%}" in letters.chat_template
    for what, (chat, arguments) in CHATS.items():
        if arguments.get("tools") and "tools" not in letters.chat_template:
            with pytest.raises(
                BadInput, match="row 1: it comes with tools, and the chat template does not read `tools`"
            ):
                asked(letters, chat, arguments)
            continue
        if (name.removesuffix("_training"), what) in NOT_TOLD:
            if not has_marks:
                with pytest.raises(BadInput, match="words cannot be told apart"):
                    asked(letters, chat, arguments)
            continue
        try:
            wanted = generated(letters, chat, **arguments)
        except Exception:
            with pytest.raises(BadInput, match="row 1: the chat template refuses a chat that begins"):
                asked(letters, chat, arguments)
            continue
        missing = lost(chat, wanted)
        if missing is not None:
            with pytest.raises(BadInput, match=f"row 1: .*{missing}"):
                asked(letters, chat, arguments)
            continue
        if has_marks and not _drops_thoughts(name, what):
            wanted = marked(letters, chat, arguments, wanted)
        assert asked(letters, chat, arguments) == joined(wanted), what


def _drops_thoughts(name: str, what: str) -> bool:
    """The words are those of the data, which the marks of the template do not cover."""
    return name == "deepseekv3_training" and what == "thoughts in the content"
