"""A few fixed texts that tell a teacher whose weights are not at hand from another one: its tokens of them, and its logprobs.

Axes: T tokens of a text, R = T - 1 positions that a token follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.types import Array
from logitstore.errors import ModelError

PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and nobody knows why it does so every morning.",
    "Water boils at 100 degrees Celsius at sea level; on a high mountain it boils earlier.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    "1 + 1 = 2, 12 * 12 = 144, 3.14159, 2026-11-29T20:15:00Z, 0x1f, 1e-9",
    "Grüße aus Köln — naïve façade, señor, Łódź, coração.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "你好，世界。今天天气很好，我们去公园散步吧。",
    "नमस्ते दुनिया। שלום עולם. مرحبا بالعالم. 🙂🚀",
)
"""What every engine is asked before the first row. A change of one makes old caches look as if they had another teacher."""

LOWEST = -1e4
"""Nats that stand for an impossible token, as JSON has no infinity."""


def probe_tokens(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the tokens of each probe text, without special ones."""
    return [[int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]] for text in PROBE_TEXTS]


def measured(
    gold: Callable[[Sequence[list[int]]], list[Array]], tokens: Sequence[list[int]]
) -> tuple[list[float], float]:
    """Ask an engine about the probe texts, one at a time and then all at once.

    Args:
        gold: asks about some texts at once; gives the logprobs of the tokens after the first of each, float[R], nats.
        tokens: of the probe texts. Those of fewer than two tokens are left out.

    Returns:
        The logprobs that it gave to one text at a time, one text after the other, and the mean absolute difference between them
        and those that it gave to all at once, as `EngineInfo` has them.
    """
    asked = [each for each in tokens if len(each) > 1]
    if not asked:
        return [], 0.0
    alone = np.concatenate([gold([each])[0] for each in asked]).clip(LOWEST, 0.0)
    together = np.concatenate(gold(asked)).clip(LOWEST, 0.0)
    return [round(float(value), 6) for value in alone], float(np.abs(alone - together).mean())


def refuse_other_tokens(
    theirs: Callable[[str], list[int] | None],
    ours: Sequence[list[int]],
    server: str,
    tokenizer: str,
    must_tell: bool = True,
) -> None:
    """Compare how a server cuts the probe texts with how the plan does.

    Args:
        theirs: returns the server's tokens of a text; None where it does not tell them.
        ours: the plan's tokens of the probe texts.
        server: for messages.
        tokenizer: what the plan's tokenizer is called there.
        must_tell: whether a server that does not tell is refused, and not just left uncompared.

    Raises:
        ModelError: they differ, or are not told.
    """
    for number, (text, own) in enumerate(zip(PROBE_TEXTS, ours, strict=True), 1):
        found = theirs(text)
        if found is None and not must_tell:
            return
        if found is None:
            raise ModelError(
                f"{server}: it does not tell its tokens, so its tokenizer cannot be compared with {tokenizer}. Let POST "
                "/tokenize through to it."
            )
        if found != own:
            raise ModelError(
                f"{server}: its tokenizer is not {tokenizer}: it cuts probe text {number} of {len(PROBE_TEXTS)} into other "
                "tokens. Give the tokenizer of the model that it serves by --tokenizer."
            )
