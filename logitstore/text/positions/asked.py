"""What `--positions` says about a form of data: all tokens, or those that chats and masks name."""

from __future__ import annotations

from dataclasses import replace

from logitstore.errors import BadInput
from logitstore.text.forms.form import Form


def asked_of(form: Form, positions: str | None, source: str) -> Form:
    """Return a form of data, with what rows are about where every token has one.

    Args:
        form: that of the data.
        positions: what the user asks for.
        source: the data, for messages.

    Raises:
        BadInput: the data have no turns, or do not say themselves which tokens count.
    """
    if positions == "all":
        return replace(form, rows="every token")
    is_given = form.is_partial and not form.is_chat
    if positions == "assistant" and not form.is_chat:
        raise BadInput(
            f"--positions assistant: --data {source} holds {form.label}, which have no turns. Leave it out"
            f"{', or give --positions mask for the same' if is_given else ''}."
        )
    if positions == "mask" and not is_given:
        raise BadInput(
            f"--positions mask: --data {source} holds {form.label}, which do not say of each token whether it counts. Leave it "
            f"out{', or give --positions assistant for the same' if form.is_chat else ''}. A mask stands beside token ids, or "
            "follows from a completion beside its prompt."
        )
    return form
