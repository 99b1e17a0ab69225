"""A text as an encoder is asked about it, and which pairs the texts of a cache form. No torch.

Axes: P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from logitstore.classification.sample import ClassifiedText
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.tasks.texts import EmbeddedInfo


@dataclass(frozen=True, kw_only=True)
class EmbeddedText(ClassifiedText):
    """One text, whose only row is its vector. It has no class.

    Attributes:
        label: -1.
        document: number of the text in the data; of texts in pairs that of the pair.
        score: how similar the two texts of its pair are, as the data say; NaN where they do not.
    """

    score: float = math.nan


def info_of(manifest: Manifest) -> EmbeddedInfo:
    """Return what a manifest says of texts with vectors. Raises BadInput: the cache holds none."""
    if not isinstance(manifest.data, EmbeddedInfo):
        raise BadInput(f"a cache of the task '{manifest.task}' holds no texts with vectors.")
    return manifest.data
