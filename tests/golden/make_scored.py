"""Writes the golden samples with scores: `python tests/golden/make_scored.py`. Only for a change of the format that is meant.

Three samples, fixed by hand: one without a score, one without a group, a group in several bytes a letter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from logitstore.text.sample import Sample, key_of
from logitstore.text.scored.columns import Told
from logitstore.text.scored.said import Said
from logitstore.text.stored import write_samples

SCORED = Path(__file__).parent / "scored.arrow"
SAID = Said(scores=("reward", "correct"), group="asked")
TOKENS = [[1, 2, 3], [5, 6], [7, 8, 9, 0]]
SCORES = [{"reward": 0.1, "correct": 1.0}, {"correct": 0.0}, {"reward": -3.5, "correct": 1.0}]
GROUPS = ["12", None, "Grüße"]
NLL = [0.5, 1.25, 2.0]


def samples() -> list[Sample]:
    """Return the samples, each with a row at every position but the last."""
    tokens = [np.array(each, np.int64) for each in TOKENS]
    return [
        Sample(
            key=key_of(tokens_T),
            tokens_T=tokens_T,
            mask_T=np.arange(len(tokens_T)) < len(tokens_T) - 1,
            document=number,
            told=Told(scores=SCORES[number], group=GROUPS[number]),
        )
        for number, tokens_T in enumerate(tokens)
    ]


def write(path: Path) -> None:
    write_samples(path, samples(), np.array(NLL, np.float32), "uint16", SAID)


if __name__ == "__main__":
    write(SCORED)
