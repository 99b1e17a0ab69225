"""Chats to tokens: the tokenizer's template, and which tokens the assistant said."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from logitstore.errors import BadInput, ModelError


def check_template(tokenizer: PreTrainedTokenizerBase, who: str) -> None:
    """Raises ModelError when the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{who}: its tokenizer has no chat template, and the data are chats. "
            "Use a chat model as the teacher, or a column of plain text with --column."
        )


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and for each whether the assistant said it.

    Templates that mark the assistant's words themselves (`{% generation %}`) are trusted; for the others the assistant's
    words are what its turn adds to the text before it, with the generation prompt counted as the template's.

    Raises:
        BadInput: the template renders an earlier turn differently once a later one is there, or refuses the chat.
    """
    if not messages:
        return [], []
    try:
        if "{% generation" in _template(tokenizer) or "{%- generation" in _template(tokenizer):
            encoded = tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            return list(encoded["input_ids"]), [bool(flag) for flag in encoded["assistant_masks"]]
        return _encode_by_prefix(tokenizer, messages)
    except BadInput:
        raise
    except Exception as error:
        # a template may raise anything about a chat it does not like; the chat is named, the reason kept
        raise BadInput(f"the chat template refuses a chat that begins with {messages[0]!r:.120}: {error}") from error


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    return template if isinstance(template, str) else str(template.get("default", ""))


def _encode_by_prefix(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]
) -> tuple[list[int], list[bool]]:
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = (
            tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True) if turn else ""
        )
        after = str(tokenizer.apply_chat_template(messages[: turn + 1], tokenize=False))
        if not (text.startswith(after) and after.startswith(str(before))):
            raise BadInput(
                "the chat template renders earlier turns differently once later ones follow, so the assistant's words "
                "cannot be told apart. Use a template that marks them with {% generation %}."
            )
        spans.append((len(str(before)), len(after)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    said = [
        stop > start and any(first < stop and start < last for first, last in spans)
        for start, stop in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), said
