"""Find the words that the model was asked to generate in rendered chats, each turn in the context that the model saw."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from logitstore.errors import BadInput

Message = dict[str, Any]
Spans = list[tuple[int, int]]
"""Places in a text: begin and end of each run of characters, in order."""

_PROBE = "\u2042logitstore-probe"
"""The words of a turn that stands in the place of another. They begin with a character that no template has."""

_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message that hold a thought; which of them a template reads is its own choice."""

_WORD = re.compile(r"\w+")

_INLINE = re.compile(r"<think>(.*)</think>", re.DOTALL)


class Render(Protocol):
    def __call__(self, messages: list[Message], prompt: bool = False) -> str:
        """Return the text of messages, with the prompt for an answer if asked. Raises BadInput: the template refuses them."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """What is asked of a chat template.

    Attributes:
        render: gives the text of some messages.
        marks: gives the places in it that the template marks as the assistant's words; None if it marks none.
        reads: says whether the template mentions a key of a message.
    """

    render: Render
    marks: Callable[[list[Message]], Spans] | None
    reads: Callable[[str], bool]


def renderings(template: Template, messages: list[Message], context: Collection[int]) -> list[tuple[str, Spans]]:
    """Return the texts that show every turn of the assistant as it was when it was said, and the words of these turns.

    The words of a turn are what it adds to the prompt for it; of these, what the template marks, if it marks any. Where they
    cannot be told from what stands before them, the marks alone decide, in the whole chat.

    Args:
        template: renders the messages.
        messages: the turns, at least one.
        context: numbers of turns that are context only.

    Raises:
        BadInput: the template refuses the messages, leaves out what the assistant said, or its words cannot be told from what
            stands before them.
    """
    found: list[tuple[str, Spans]] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant" or turn in context:
            continue
        shown = _turn(template, messages[: turn + 1])
        if shown is None and template.marks is not None and not context:
            return [(template.render(messages), template.marks(messages))]
        if shown is None:
            raise BadInput(
                f"the chat template renders what stands before message {turn} differently once it follows, so the assistant's "
                "words cannot be told apart. Use a template that marks them with {% generation %}."
            )
        text, spans = shown
        if found and text.startswith(found[-1][0]):
            spans = found.pop()[1] + spans
        found.append((text, spans))
    whole = template.render(messages)
    if not found:
        return [(whole, [])]
    if whole.startswith(found[-1][0]):
        found[-1] = (whole, found[-1][1])
    return found


def _turn(template: Template, messages: list[Message]) -> tuple[str, Spans] | None:
    """Return the chat up to the end of its last turn, the assistant's, and where its words stand; None if that is unknown."""
    after = template.render(messages)
    found = _begins(template, messages, after)
    if found is None:
        return None
    before, start = found
    marks = [(start, len(after))] if template.marks is None else template.marks(messages)
    thought = _dropped_thought(template, messages, after[start:])
    if thought is not None:
        before, text = thought
        spans = [(len(before), len(text))]
    else:
        # what stands before the words is what the model saw, which the finished chat may show in another way
        text, moved = before + after[start:], len(before) - start
        spans = [(max(first, start) + moved, last + moved) for first, last in marks if last > start]
    _refuse_unshown(template, messages, text[len(before) :])
    return text, spans


def _begins(template: Template, messages: list[Message], after: str) -> tuple[str, int] | None:
    """Return what the model saw before the last turn, and where the words of the turn begin in the finished chat, if known."""
    earlier = messages[:-1]
    if earlier:
        before = template.render(earlier, prompt=True)
        if after.startswith(before):
            return before, len(before)
    # another turn in its place tells its words from the template's, which may begin alike
    other = template.render([*earlier, {"role": "assistant", "content": _PROBE}])
    if not earlier:
        begins = _place(_header(template), after, other)
        return after[:begins], begins
    plain = template.render(earlier)
    context, shared = _common(plain, before), _common(before, after)
    if after.startswith(context) and len(shared) >= len(_common(plain, after)):
        # the generation prompt says more than the finished turn does, such as the beginning of a thought
        begins = len(_common(shared, other))
        return after[:begins], begins
    # the turn changes what stands before it
    header = before[len(context) :]
    begins = _place(header, after, other)
    between = other[begins : other.find(_PROBE)]
    is_found = begins and header not in between and not _is_joined(earlier[-1], between)
    return (before, begins) if is_found else None


def _header(template: Template) -> str:
    """Return what stands before the words of any answer, and ends the prompt for it; nothing if the template refuses to say."""
    question = [{"role": "user", "content": _PROBE}]
    try:
        plain, before = template.render(question), template.render(question, prompt=True)
        answered = template.render([*question, {"role": "assistant", "content": _PROBE}])
    except BadInput:
        return ""
    return _common(before, answered)[len(_common(plain, before)) :]


def _place(header: str, after: str, other: str) -> int:
    """Return where the last header ends before the words in which two chats differ; 0 if there is none."""
    begins = after.rfind(header, 0, len(_common(after, other))) if header else -1
    return 0 if begins < 0 else begins + len(header)


def _is_joined(before: Message, between: str) -> bool:
    """Return True if the turn before is part of the same turn, as some templates join what the assistant says in two."""
    content = before.get("content")
    return before["role"] == "assistant" and isinstance(content, str) and content.strip() in between


def _dropped_thought(template: Template, messages: list[Message], words: str) -> tuple[str, str] | None:
    """Return what the model saw before the last turn, and the same with the turn as the data have it, if the prompt begins a
    thought that the finished turn leaves out.

    A template may drop the thought of every finished turn, also of the one that the model has just said. None: nothing is
    left out, or no prompt asked for it.
    """
    earlier, message = messages[:-1], messages[-1]
    content = message.get("content")
    if not earlier or not isinstance(content, str):
        return None
    lost = _INLINE.search(content)
    if lost is None or _is_shown(lost[1], words):
        return None
    before = template.render(earlier, prompt=True)
    other = template.render([*earlier, {"role": "assistant", "content": _PROBE}])
    opened = before[len(_common(before, other)) :]
    said, ends = content.lstrip(), other.find(_PROBE) + len(_PROBE)
    if not opened.strip() or not said.startswith(opened.strip()):
        return None
    said = said[len(opened) :] if said.startswith(opened) else said[len(opened.strip()) :].lstrip()
    return before, before + said + other[ends:]


def _refuse_unshown(template: Template, messages: list[Message], words: str) -> None:
    """Refuse a turn of which the template leaves out the thought, the content or a call of a tool: the teacher would answer for
    other words than the assistant's. Raises BadInput."""
    turn, message = len(messages) - 1, messages[-1]
    content = message.get("content")
    content = content if isinstance(content, str) else ""
    inline = _INLINE.search(content)
    parts = [("thought", key, message.get(key), 0.9) for key in _THOUGHTS]
    parts.append(("thought", "content", inline[1] if inline else "", 0.9))
    # a template may make less of a content, such as one with a thought in other marks, but not nothing
    parts.append(("text", "content", _INLINE.sub("", content), 0.01))
    way_out = "Give a template that shows it with --chat-template, or data without it."
    for kind, key, value, share in parts:
        if isinstance(value, str) and not _is_shown(value, words, share):
            read = [name for name in _THOUGHTS if template.reads(name)]
            hint = f" It reads `{read[0]}`." if kind == "thought" and read and key not in read else ""
            raise BadInput(
                f"the chat template leaves out the {kind} of message {turn}, {value.strip()!r:.60} in `{key}`.{hint} {way_out}"
            )
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, dict) else {}
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name not in words:
            raise BadInput(
                f"the chat template leaves out the call of the tool {name!r:.60} in message {turn}. {way_out}"
            )


def _is_shown(part: str, text: str, share: float = 0.9) -> bool:
    """Return True if a text shows a part, with any blanks, or a share of its words, as a template may escape characters."""
    if "".join(part.split()) in "".join(text.split()):
        return True
    wanted = set(_WORD.findall(part))
    return bool(wanted) and len(wanted & set(_WORD.findall(text))) >= share * len(wanted)


def _common(one: str, other: str) -> str:
    """Return the longest beginning that two texts share."""
    differs = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differs, min(len(one), len(other)))]
