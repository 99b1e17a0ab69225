"""Turn chats into tokens with the tokenizer's template, and mark the tokens of the assistant."""

from __future__ import annotations

import inspect
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, ModelError, one_line
from logitstore.text.chats.options import ChatOptions
from logitstore.text.chats.variables import variables_of
from logitstore.text.chats.words import Spans, Template, renderings

TAKEN = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {
    "compiled_template",
    "conversations",
    "messages",
    "raise_exception",
    "strftime_now",
}
"""Names that are no template arguments, because transformers uses them itself."""


_TEMPLATE = "chat template"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """One chat of the data.

    Attributes:
        messages: its turns, each with a `role`.
        context: numbers of turns that are context only.
        arguments: what else the template is given.
    """

    messages: list[dict[str, Any]]
    context: Collection[int] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


def check_template(tokenizer: PreTrainedTokenizerBase, who: str) -> None:
    """Raise ModelError if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{who}: its tokenizer has no chat template, and the data are chats. "
            "Use a chat model as the teacher, give a template with --chat-template, or a column of plain text with --column."
        )


def check_options(options: ChatOptions, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse template arguments that would change nothing.

    Raises:
        BadInput: transformers uses the name itself, or no template of the tokenizer reads it.
    """
    taken = next((name for name in options.arguments if name in TAKEN), None)
    if taken is not None:
        raise BadInput(f"--template-arg {taken}: transformers uses this name itself. Leave it out.")
    templates = tokenizer.chat_template
    try:
        read = {name for each in _texts(templates) for name in variables_of(each)}
    except (jinja2.TemplateSyntaxError, RecursionError):
        # what is wrong with the tokenizer's own template is said of the first chat
        return
    unread = next((name for name in options.arguments if name not in read), None)
    if unread is not None:
        raise BadInput(
            f"--template-arg {unread}: the chat template does not read it. {suggest(unread, sorted(read - TAKEN))}"
        )


def refuse_options(options: ChatOptions, data: str) -> None:
    """Raise BadInput if there are options about chats; `data` says which data have no chats."""
    if options.template is not None:
        raise BadInput(f"--chat-template {options.template}: {data} holds no chats. Leave it out.")
    if options.arguments:
        raise BadInput(f"--template-arg {next(iter(options.arguments))}: {data} holds no chats. Leave it out.")


def _texts(templates: str | Mapping[str, str]) -> list[str]:
    """Return a tokenizer's template, or all of its templates."""
    return [templates] if isinstance(templates, str) else list(templates.values())


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat, where: str) -> list[tuple[list[int], list[bool]]]:
    """Return the token ids of a chat, and a flag for each token: True if it belongs to the assistant's words.

    The assistant's words are what its turn adds to the generation prompt; of these, what the template marks, if it marks any
    (`{% generation %}`). A template may render earlier turns differently once later ones follow. Then each turn that differs is
    rendered as the model saw it, and the chat gives several pairs. Where words cannot be told from what stands before them, the
    marks alone decide, in the whole chat.

    Raises:
        BadInput: the template refuses the chat, leaves out what the assistant said, or a turn cannot be told from what stands
            before it.
    """
    if not chat.messages:
        return [([], [])]
    try:
        with _refusals_of(_TEMPLATE, chat):
            given = chat.arguments
            text = str(tokenizer.get_chat_template(given.get("chat_template"), given.get("tools")))
        is_marked = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", text) is not None
        template = Template(
            render=partial(_render, tokenizer, chat),
            marks=partial(_marks, tokenizer, chat) if is_marked else None,
            reads=lambda key: re.search(rf"[.'\"]{key}\b", text) is not None,
        )
        _refuse_unread(text, chat)
        found = renderings(template, chat.messages, chat.context)
        _refuse_printed_parts(chat, found[-1][0])
        with _refusals_of("tokenizer", chat):
            return [_encoded(tokenizer, whole, spans) for whole, spans in found]
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def encode_prompt(tokenizer: PreTrainedTokenizerBase, chat: Chat, where: str) -> list[int]:
    """Return the token ids of a chat that the assistant is to answer: its messages, and the prompt for the answer.

    Raises:
        BadInput: the template or the tokenizer refuses the chat.
    """
    try:
        text = _render(tokenizer, chat, chat.messages, prompt=True)
        with _refusals_of("tokenizer", chat):
            return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


_variables_of = cache(variables_of)


def _refuse_unread(template: str, chat: Chat) -> None:
    """Refuse tools and documents that the template leaves out, without which the teacher would answer. Raises BadInput."""
    given = [name for name in ("tools", "documents") if chat.arguments.get(name)]
    left_out = next((name for name in given if name not in _variables_of(template)), None)
    if left_out is not None:
        raise BadInput(
            f"it comes with {left_out}, and the chat template does not read `{left_out}`. Give a template that does with "
            "--chat-template, or data without them."
        )


def _refuse_printed_parts(chat: Chat, rendered: str) -> None:
    """Refuse contents in parts that a template, made for texts, prints as Python writes them. Raises BadInput."""
    for turn, message in enumerate(chat.messages):
        content = message.get("content") or ""
        if not isinstance(content, str) and str(content) in rendered:
            raise BadInput(
                f"the content of message {turn} is {content!r:.80}, and the chat template prints it as it stands. Give texts, "
                "or a template for contents in parts with --chat-template."
            )


def unread_by(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[str]:
    """Return the names of the arguments of a chat that its template does not read; the chat has been encoded before."""
    given = chat.arguments
    template = str(tokenizer.get_chat_template(given.get("chat_template"), given.get("tools")))
    return [name for name in given if name not in _variables_of(template)]


@contextmanager
def _refusals_of(what: str, chat: Chat) -> Iterator[None]:
    """Raise BadInput in place of what a template or a tokenizer raises about a chat, which may be any error."""
    try:
        yield
    except Exception as error:
        begins = f"a chat that begins with {chat.messages[0]!r:.120}"
        way_out = ". Correct the chat or the template, or take the chat out of the data." if what == _TEMPLATE else ""
        raise BadInput(f"the {what} refuses {begins}: {one_line(error).rstrip('.')}{way_out}") from error


def _render(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: list[dict[str, Any]], prompt: bool = False
) -> str:
    options = {"add_generation_prompt": True} if prompt else {}
    with _refusals_of(_TEMPLATE, chat):
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options, **chat.arguments))


def _marks(tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: list[dict[str, Any]]) -> Spans:
    """Return the places in the text of some messages that the template marks."""
    with _refusals_of(_TEMPLATE, chat):
        encoded = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
            **chat.arguments,
        )
    places = zip(encoded["offset_mapping"], encoded["assistant_masks"], strict=True)
    runs = (list(run) for is_marked, run in groupby(places, key=itemgetter(1)) if is_marked)
    return [(run[0][0][0], run[-1][0][1]) for run in runs]


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, spans: Spans) -> tuple[list[int], list[bool]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["input_ids"]), touched(encoded["offset_mapping"], spans)


def touched(places: Spans, spans: Spans) -> list[bool]:
    """Return for each place in a text whether it has characters in common with a span."""
    ordered = sorted(spans)
    firsts = [first for first, _ in ordered]
    ends = [0, *accumulate((last for _, last in ordered), max)]
    # of the spans that begin before a place ends, one that ends last
    return [stop > start and ends[bisect_left(firsts, stop)] > start for start, stop in places]
