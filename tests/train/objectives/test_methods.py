"""How true each objective is on each kind of cache, as its declaration tells."""

from __future__ import annotations

import pytest

from logitstore.core.methods import METHODS
from logitstore.format.presets import row_of
from logitstore.train.objectives.exactness import exactness
from tests.parts.places import ROOT

VOCABULARY, WIDTH = 320, 32
CACHES = {
    "dense": row_of("exact", {"sparsifier": "dense"}, VOCABULARY, WIDTH),
    "exact": row_of("exact", {}, VOCABULARY, WIDTH),
    "small": row_of("small", {"k": 8}, VOCABULARY, WIDTH),
    "without a tail": row_of("topk", {"k": 8, "tail": "none"}, VOCABULARY, WIDTH),
    "sampled": row_of("sampled", {}, VOCABULARY, WIDTH),
}
ALL_LISTED = row_of("topk", {}, 10, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward_kl", ["exact", "exact", "approximation", "biased", "estimate"]),
        ("dkd", ["exact", "exact", "approximation", "biased", "estimate"]),
        ("lumped_kl", ["exact", "bound", "bound", "biased", "estimate"]),
        ("renormalised_kl", ["exact", "biased", "biased", "biased", "estimate"]),
        ("plackett_luce", ["exact", "biased", "biased", "biased", "estimate"]),
    ],
)
def test_an_objective_is_as_true_as_what_is_stored_and_as_it_is_itself(name: str, expected: list[str]) -> None:
    assert [exactness(name, row)[0] for row in CACHES.values()] == expected


@pytest.mark.parametrize("name", METHODS)
def test_the_page_tells_every_option(name: str) -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    told = next(line for line in page.partition("## Objectives")[2].splitlines() if line.startswith(f"| `{name}` |"))
    assert all(f"`{option}` " in told for option in METHODS[name].options)


def test_why_an_objective_is_not_exact_is_said() -> None:
    assert exactness("plackett_luce", CACHES["exact"])[1] == "only the ranks of listed tokens count"
    assert exactness("lumped_kl", CACHES["without a tail"])[1] == "the cache has no tail"
    assert exactness("forward_kl", ALL_LISTED) == ("exact", "the whole distribution is listed")
    assert all(method.because for method in METHODS.values() if method.own)


@pytest.mark.parametrize(
    ("codecs", "expected"),
    [
        ([], ("exact", "features are compared as they are stored")),
        (["bfloat16", "float32", "float16"], ("exact", "features are compared as they are stored")),
        (["bfloat16", "int8"], ("approximation", "its features are stored as int8")),
        (["pca-16", "int8", "pca-16"], ("approximation", "its features are stored as int8 and pca-16")),
    ],
)
@pytest.mark.parametrize("row", CACHES)
def test_an_objective_on_features_is_as_true_as_the_codec_of_its_taps(
    row: str, codecs: list[str], expected: tuple[str, str]
) -> None:
    assert exactness("match", CACHES[row], codecs) == expected
