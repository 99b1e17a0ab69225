"""Turn chats into tokens with the tokenizer's template, and mark the tokens of the assistant."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from logitstore.errors import BadInput, ModelError


def check_template(tokenizer: PreTrainedTokenizerBase, who: str) -> None:
    """Raise ModelError if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{who}: its tokenizer has no chat template, and the data are chats. "
            "Use a chat model as the teacher, or a column of plain text with --column."
        )


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """Return the token ids of a chat, and a flag for each token: True if it belongs to the assistant's words.

    If the template marks the assistant's words (`{% generation %}`), these marks are used. Otherwise, the assistant's words are
    the text that its turn adds to the text before it; the generation prompt does not belong to them.

    Raises:
        BadInput: the template refuses the chat, or renders an earlier turn differently if a later one follows.
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
        # a template may raise any error about a chat; the message names the chat and keeps the reason
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
    is_assistant = [
        stop > start and any(first < stop and start < last for first, last in spans)
        for start, stop in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), is_assistant
