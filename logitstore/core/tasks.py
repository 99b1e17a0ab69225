"""The table of tasks: what plugs in where, by name."""

from __future__ import annotations

from logitstore.core.registry import Table

TASKS = Table(
    "task",
    {
        "causal-lm": "logitstore.text.dump:prepare_texts",
        "image-classification": "logitstore.image.dump:prepare_images",
    },
)
