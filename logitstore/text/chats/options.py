"""What the user asks for about the rendering of chats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What the user asks for about the rendering of all chats.

    Attributes:
        template: the file of the template in place of the tokenizer's own; None if there is none.
        arguments: what the template is given, where a row does not say otherwise.
    """

    template: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
