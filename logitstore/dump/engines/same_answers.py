"""Whether an engine still answers as it did before the first row of a cache."""

from __future__ import annotations

import math

import numpy as np

from logitstore.errors import CacheMismatch
from logitstore.format.manifest import Manifest
from logitstore.store.storage import Storage

SAME_ANSWERS = 0.01
"""Mean difference in nats between the logprobs of the probe texts below which a teacher counts as the same."""

MOST_NOISE = 0.3
"""What the noise of an engine may explain at most, nats: two formats of numbers of one model are nearer than that."""


def refuse_other_answers(out: Storage, there: Manifest, here: Manifest) -> None:
    """Compare what an engine says of the probe texts with what it said before the first row. The weights of a teacher that is
    served are not at hand, and no two runs of an engine give the same bits.

    Raises:
        CacheMismatch: it answers differently by more than its own noise.
    """
    before, now = there.teacher.engine, here.teacher.engine
    if before is None or now is None or not before.probes:
        return
    # who goes on does not say itself how far it may be off
    allowed = max(SAME_ANSWERS, min(4 * before.noise, MOST_NOISE))
    apart = math.inf
    if len(before.probes) == len(now.probes):
        apart = float(np.abs(np.subtract(before.probes, now.probes)).mean())
    if not apart <= allowed:
        raise CacheMismatch(
            f"--out {out}: the teacher {here.teacher.name} gives other logprobs to the probe texts than the one that began the "
            f"cache: {apart:.3g} nats on average, its noise explains {allowed:.3g}. Start the server with the model and the "
            "number format of before, or choose another folder."
        )
