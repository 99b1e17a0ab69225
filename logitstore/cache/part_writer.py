"""Writing one part of a cache: the rows, and beside them the samples and what is counted about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from logitstore.cache import layout
from logitstore.cache.part_sums import HISTOGRAM_BINS, with_sample
from logitstore.cache.samples_file import write_samples
from logitstore.cache.staged_part import StagedPart
from logitstore.cache.views_file import write_views
from logitstore.manifest import Fidelity, Manifest, PartRecord, Sums
from logitstore.types import Answer, Asked, Sample, View


class PartWriter:
    """Receives the answers about the samples of one part, in any order, and commits them together.

    Used as a context: leaving it without `commit` drops what was staged.
    """

    def __init__(self, root: Path, manifest: Manifest, part: int, samples: Sequence[Asked]) -> None:
        """Stage part number `part`.

        Raises:
            StorageError: the folder cannot be written.
            PartTaken: another writer was first.
        """
        self._manifest, self._samples = manifest, list(samples)
        self._nll_S = np.zeros(len(samples), np.float32)
        self._sums = Sums(entropy_histogram=[0] * HISTOGRAM_BINS)
        self._staged = StagedPart(root, manifest, part, samples)

    @property
    def rows(self) -> int:
        """Rows of the part."""
        return self._staged.rows

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._staged.__exit__(kind, error, trace)

    def write(self, index: int, answer: Answer, facts: Answer | None = None, asked: Asked | None = None) -> None:
        """Store what the teacher said about sample number `index` of this part.

        Args:
            answer: the fields as stored.
            facts: what is counted about the rows (`part_sums.FACTS`), as the teacher said it; None where `commit` is
                given the sums, and the fields have the gold tokens' logprobs.
            asked: the sample, where more is known of it now than when the part was begun.
        """
        if asked is not None:
            self._samples[index] = asked
        self._staged.write(index, answer.fields)
        # rounded as rows keep it, so a sample has the same score whatever is kept of its rows
        said = answer if facts is None or "gold_logprob" in answer.fields else facts
        gold_N = said["gold_logprob"].astype(np.float16).astype(np.float64)
        self._nll_S[index] = -gold_N.mean() if len(gold_N) else 0.0
        if facts is not None:
            self._sums = with_sample(self._sums, self._samples[index], facts, self._manifest.teacher.vocabulary)

    def commit(self, fidelity: Fidelity, sums: Sums | None = None) -> PartRecord:
        """Make the part visible.

        Args:
            fidelity: what was measured on its rows.
            sums: in place of those that were added up from `write`.

        Raises:
            StorageError: the folder cannot be written; nothing of the part is visible then.
        """
        return self._staged.commit(sums or self._sums, fidelity, self._write_samples)

    def _write_samples(self, folder: Path) -> None:
        path = folder / layout.SAMPLES_FILE
        views = [sample for sample in self._samples if isinstance(sample, View)]
        if views:
            write_views(path, views, self._nll_S)
        else:
            texts = [sample for sample in self._samples if isinstance(sample, Sample)]
            write_samples(path, texts, self._nll_S, self._manifest.token_dtype)
