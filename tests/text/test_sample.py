"""Windows of documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.core.progress import no_progress
from logitstore.core.types import Array
from logitstore.text import samples as module
from logitstore.text.sample import cut, key_of
from logitstore.text.samples import Encoding, Samples


@dataclass(frozen=True)
class Window:
    start: int
    stop: int
    first: int


def reference(length: int, max_length: int, overlap: int) -> list[Window]:
    """The windows of one document, one after the other."""
    windows = [Window(start=0, stop=min(length, max_length), first=0)]
    while (last := windows[-1]).stop < length:
        start = last.start + max_length - overlap
        windows.append(Window(start=start, stop=min(length, start + max_length), first=max(start, last.stop - 1)))
    return windows


def windows_of(length: int, max_length: int, overlap: int) -> list[Window]:
    return [Window(*place[2:]) for place in cut(np.array([length]), max_length, overlap).places()]


@given(length=st.integers(0, 400), max_length=st.integers(2, 60), data=st.data())
def test_windows_cover_every_position_once_with_the_most_context(
    length: int, max_length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, max_length - 1))
    windows = windows_of(length, max_length, overlap)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    assert rows == list(range(max(length - 1, 0)))
    for window in windows:
        assert window.stop - window.start <= max_length
        for position in range(window.first, window.stop - 1):
            others = [w for w in windows if w.start <= position < w.stop - 1]
            assert window.start == min(other.start for other in others)


@given(length=st.integers(2, 400), max_length=st.integers(2, 60))
def test_without_overlap_only_the_last_position_of_a_window_has_no_row(length: int, max_length: int) -> None:
    windows = windows_of(length, max_length, 0)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    missing = {window.stop - 1 for window in windows}
    assert rows == [position for position in range(length) if position not in missing]


@given(lengths=st.lists(st.integers(0, 100), max_size=12), max_length=st.integers(2, 40), data=st.data())
def test_many_documents_are_cut_as_each_is(lengths: list[int], max_length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, max_length - 1))
    expected = [
        (document, number, window.start, window.stop, window.first)
        for document, length in enumerate(lengths)
        for number, window in enumerate(reference(length, max_length, overlap))
    ]
    assert list(cut(np.array(lengths, np.int64), max_length, overlap).places()) == expected


Document = tuple[int, list[int], list[bool], str | None]
"""The number of a document in the data, its tokens, which of them may have rows, and its domain."""


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[Document], Encoding, bool]:
    """Documents around the length of a window, some of them rendered more than once, and how to cut them."""
    max_length = draw(st.integers(2, 20))
    encoding = Encoding(max_length=max_length, overlap=draw(st.integers(0, max_length - 1)))
    lengths = st.sampled_from([0, 1, 2, max_length - 1, max_length, max_length + 1, 2 * max_length]) | st.integers(
        0, 70
    )
    made: list[Document] = []
    number = 0
    for length in draw(st.lists(lengths, max_size=8)):
        tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length))
        said = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        made.append((number, tokens, said, draw(st.sampled_from([None, "", "web", "\u00fcber"]))))
        number += draw(st.integers(0, 1))
    return made, encoding, draw(st.booleans())


Place = tuple[int, int, int, list[int], list[bool], str | None]


def one_by_one(given_documents: list[Document], encoding: Encoding, partly: bool) -> Iterator[Place]:
    """Number of the document, number of the window, start, tokens, mask and domain of each sample, one after the other."""
    numbered, before = 0, -1
    for number, tokens, said, domain in given_documents:
        numbered = numbered if number == before else 0
        before = number
        for window in reference(len(tokens), encoding.max_length, encoding.overlap):
            mask = [
                place >= window.first and place + 1 < window.stop and (said[place + 1] if partly else True)
                for place in range(window.start, window.stop)
            ]
            if any(mask):
                yield number, numbered, window.start, tokens[window.start : window.stop], mask, domain
            numbered += 1


def fingerprint(places: list[Place]) -> str:
    digest = xxhash.xxh3_128()
    for number, _, start, tokens, mask, domain in places:
        digest.update(f"{number} {start} {start + len(tokens)} {domain or ''}\n".encode())
        digest.update(np.array(tokens, "<u4").tobytes() + np.packbits(np.array(mask, np.bool_)).tobytes())
    return digest.hexdigest()


def opened(given_documents: list[Document], encoding: Encoding, partly: bool) -> Samples:
    features = {
        "tokens": datasets.List(datasets.Value("int32")),
        "document": datasets.Value("int64"),
        "said": datasets.List(datasets.Value("bool")),
        "domain": datasets.Value("string"),
    }
    columns = dict(
        zip(("document", "tokens", "said", "domain"), map(list, zip(*given_documents, strict=True)), strict=False)
    )
    table = datasets.Dataset.from_dict(columns or {name: [] for name in features}, datasets.Features(features))
    return Samples(table if partly else table.remove_columns("said"), partly, "text", encoding, no_progress)


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
@settings(max_examples=12)
@given(case=documents())
def test_samples_are_those_of_the_documents_taken_one_by_one(
    block: int, case: tuple[list[Document], Encoding, bool]
) -> None:
    expected = list(one_by_one(*case))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr("logitstore.text.sample.BLOCK", block)
        found = opened(*case)
    assert found.fingerprint == fingerprint(expected)
    assert [
        (each.document, each.window, each.start, each.tokens_T.tolist(), each.mask_T.tolist(), each.domain)
        for each in found
    ] == expected
    assert [each.key for each in found] == [key_of(np.array(tokens, np.int64)) for _, _, _, tokens, _, _ in expected]
    assert found.rows_S.tolist() == [sum(mask) for *_, mask, _ in expected]
    assert found.lengths_S.tolist() == [len(tokens) for _, _, _, tokens, _, _ in expected]
    numbers: list[int] = [number for number, *_ in case[0]]
    assert found.documents == len(set(numbers))
    assert found.skipped == len(set(numbers) - {number for number, *_ in expected})
    assert found.highest_token == max((token for _, tokens, _, _ in case[0] for token in tokens), default=-1)
    assert all(isinstance(each.mask_T, np.ndarray) and each.mask_T.dtype == np.bool_ for each in found)


def test_the_windows_of_mapped_record_batches_are_those_of_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """More documents than a record batch of `datasets` holds."""
    random = np.random.default_rng(0)

    def tokens(length: int) -> Array:
        return random.integers(0, 300, length)

    made: list[Document] = [
        (number, tokens(number % 37).tolist(), [True] * (number % 37), None) for number in range(2500)
    ]
    encoding = Encoding(max_length=16, overlap=4)
    stored = tmp_path_factory.mktemp("documents")
    table = datasets.Dataset.from_dict({"tokens": [each[1] for each in made], "document": [each[0] for each in made]})
    table = table.cast_column("tokens", datasets.List(datasets.Value("int32")))
    table.save_to_disk(stored)
    found = Samples(datasets.load_from_disk(stored), False, "text", encoding, no_progress)
    assert found.fingerprint == fingerprint(list(one_by_one(made, encoding, False)))


@pytest.mark.parametrize("partly", [False, True])
def test_a_sample_keeps_no_more_of_its_document_than_its_window(partly: bool) -> None:
    made: list[Document] = [(0, list(range(10_000)), [True] * 10_000, "web")]
    for sample in opened(made, Encoding(max_length=100, overlap=10), partly):
        for array in (sample.tokens_T, sample.mask_T):
            kept = array if array.base is None else array.base
            assert kept.nbytes == array.nbytes
