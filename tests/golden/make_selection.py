"""Writes tests/golden/selection.arrow, a selection by hand. Run only when the format changes; old files stay readable."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from logitstore.store.selection import Chosen, Selection, SelectionInfo, write_selection

SELECTION = Path(__file__).with_name("selection.arrow")


def made() -> Selection:
    """Three of eight samples, with weights."""
    info = SelectionInfo(
        created_by="0.1.0",
        data="00112233445566778899aabbccddeeff",
        cache="0123456789abcdef0123456789abcdef",
        reference="fedcba9876543210fedcba9876543210",
        method="difference",
        arguments={"ratio": 0.375, "note": "Grüße"},
        samples=8,
        chosen=Chosen(samples=3, rows=21, tokens=24),
        suggested_alpha=0.4407822,
    )
    return Selection(info=info, samples_M=np.array([1, 4, 6]), weight_M=np.array([0.5, 1, 1.5], np.float32))


if __name__ == "__main__":
    write_selection(SELECTION, made())
    sys.stdout.write(f"{SELECTION} is written anew; read the difference before you commit it.\n")
