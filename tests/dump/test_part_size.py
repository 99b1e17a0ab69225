"""How many samples a part holds follows from bytes, within limits."""

from __future__ import annotations

from typing import Any

import pytest

from logitstore.dump.begin import bytes_of_samples, samples_per_part
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import unseal
from logitstore.settings.fields import bytes_of
from tests.parts.places import ROOT

NO_LIMIT = (1 << 31) - 1


def plan(samples: int, rows: int, usual: int = 1024, **changes: Any) -> Manifest:
    """A plan of as many samples of as many rows each."""
    manifest = unseal(Manifest, ROOT / "tests/golden/cache" / MANIFEST_NAME)
    counts = {"samples": samples, "rows": samples * rows, "tokens": samples * (rows + 1), "samples_per_part": usual}
    return manifest.model_copy(update=counts | changes)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64e6), ("128MiB", 128 * 2**20), ("1.5 gb", 1.5e9), ("64000000", 64e6), (" 2 kB ", 2e3), ("7B", 7)],
)
def test_a_size_is_read_with_its_unit(text: str, size: float) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MB", "64 MX", "0", "-3MB", "1e9", "64M B", "0.1B", "9" * 40, "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 64MB or 128MiB"):
        bytes_of(text)


def test_the_bytes_of_samples_are_those_of_their_rows_tokens_and_keys() -> None:
    manifest = plan(100, 7)
    rows = 7 * (manifest.bytes_per_row + 5)
    assert bytes_of_samples(manifest, 5, 10) == pytest.approx(10 * (rows + 8 * (2 + 1 / 8) + 96))


@pytest.mark.parametrize("samples", [3, 1024, 64 * 1024, 10**6, 10**8])
def test_a_part_has_the_usual_count_a_64th_of_all_or_its_bytes_whatever_lies_between(samples: int) -> None:
    manifest = plan(samples, 100)
    by_bytes = int(128e6 / bytes_of_samples(manifest, 0, 1))
    assert samples_per_part(manifest, 0, None, NO_LIMIT) == min(by_bytes, max(samples // 64, 1024))


def test_large_samples_make_parts_of_fewer_than_usual_and_at_least_of_one() -> None:
    manifest = plan(10**6, 1000)
    assert samples_per_part(manifest, 100_000, None, NO_LIMIT) == 1
    assert samples_per_part(manifest, 1000, None, NO_LIMIT) == int(128e6 / bytes_of_samples(manifest, 1000, 1)) < 1024
    assert samples_per_part(manifest, 100_000, 10**9, NO_LIMIT) == 9
    assert samples_per_part(manifest, 10**9, 10**6, NO_LIMIT) == 1


def test_bytes_that_are_given_are_kept_to_also_in_small_caches_but_no_part_is_larger_than_a_view_or_the_limit() -> None:
    manifest = plan(5000, 100)
    each = bytes_of_samples(manifest, 0, 1)
    assert samples_per_part(manifest, 0, int(each * 2500.5), NO_LIMIT) == 2500
    assert samples_per_part(manifest, 0, 10**12, NO_LIMIT) == 5000
    assert samples_per_part(manifest, 0, 10**12, 777) == 777
    assert samples_per_part(plan(10**9, 1, usual=5), 0, None, 777) == 777


def test_the_samples_of_all_views_count_but_a_part_lies_within_one() -> None:
    views = plan(20_000, 1, usual=8192)
    assert samples_per_part(views, 0, None, NO_LIMIT) == 8192
    assert samples_per_part(views.model_copy(update={"views": 40}), 0, None, NO_LIMIT) == 20_000 * 40 // 64
    assert samples_per_part(views.model_copy(update={"views": 9999}), 0, None, NO_LIMIT) == 20_000
