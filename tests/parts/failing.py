"""Encoders that fail, in a module that is light enough for a process of its own."""

from __future__ import annotations

import os
import signal

from logitstore.errors import BadInput
from logitstore.text.forms.form import Document, Encoder, Row


def failing(how: str, encoder: Encoder, rows: list[Row], places: list[str]) -> list[Document]:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "a row":
        raise BadInput(f"{places[0]}: no text")
    raise ZeroDivisionError("a bug")
