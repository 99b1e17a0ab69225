"""The golden samples of texts with vectors: written as they are, and read to the expected values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from logitstore.embedding.stored import EmbeddedFile
from tests.golden import make_vectors


def test_todays_writer_gives_the_golden_bytes_and_todays_reader_reads_them(tmp_path: Path) -> None:
    make_vectors.write(tmp_path / "samples.arrow")
    assert (tmp_path / "samples.arrow").read_bytes() == make_vectors.VECTORS.read_bytes()
    found = EmbeddedFile(make_vectors.VECTORS, slice(0, 4), make_vectors.DATA)
    expected = make_vectors.samples()
    for number, text in enumerate(expected):
        sample = found.sample(number)
        assert (sample.key, sample.text, sample.document, sample.tokens_T.tolist()) == (
            text.key,
            text.text,
            text.document,
            text.tokens_T.tolist(),
        )
    np.testing.assert_array_equal(found.score_S, make_vectors.SCORES)
    assert found.gold().tolist() == [-1] * 4
