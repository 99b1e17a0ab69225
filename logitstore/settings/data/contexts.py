"""The setting of `train` and `evaluate` about what a student reads in place of what the teacher read."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record


class ContextChoice(Record):
    """The setting about contexts."""

    contexts: str | None = Field(
        None,
        description="The data of the dump with other prompts, row by row in the same order, such as short.jsonl or "
        "short.jsonl,column=NAME: the student reads these before the answers, in place of what the teacher read. A text stands "
        "as it is, a chat is rendered. Default: it reads what the teacher read.",
    )
