"""A file of llama.cpp's KL base, written from its schema one number after the other, with what a reader should find."""

from __future__ import annotations

import math
import struct
from pathlib import Path


def row(logits: list[float]) -> tuple[bytes, list[float], list[bool]]:
    """The bytes of a row, the logprobs that its levels stand for, and which of them are no more than the floor."""
    highest = max(logits)
    lowest = max(min(logits), highest - 16)
    total = math.log(sum(math.exp(value - highest) for value in logits))
    step = struct.unpack("<f", struct.pack("<f", (highest - lowest) / 65535))[0]
    floor = struct.unpack("<f", struct.pack("<f", lowest - highest - total))[0]
    levels = [min(round((value - lowest) / step), 65535) if step and value > lowest else 0 for value in logits]
    content = struct.pack("<ff", step, floor) + b"".join(struct.pack("<H", level) for level in levels)
    if len(levels) % 2:
        content += b"\xee\xee"
    return content, [step * level + floor for level in levels], [level == 0 and step > 0 for level in levels]


def write(path: Path, tokens: list[list[int]], logits: list[list[list[float]]]) -> None:
    """A file of contexts of one length.

    Args:
        path: of it.
        tokens: of each context.
        logits: of each context, for the positions of its second half but the last one, a value for each token.
    """
    length, vocabulary = len(tokens[0]), len(logits[0][0])
    content = b"_logits_" + struct.pack("<iii", length, vocabulary, len(tokens))
    content += b"".join(struct.pack("<i", token) for context in tokens for token in context)
    for context in logits:
        assert len(context) == length - 1 - length // 2
        content += b"".join(row(values)[0] for values in context)
    path.write_bytes(content)
