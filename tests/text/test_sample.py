"""Windows of documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.dump.files.piece import At
from logitstore.text.prepare import shards
from logitstore.text.prepare.cutting import Cutter
from logitstore.text.prepare.encoded import Encoded, schema_of
from logitstore.text.prepare.folder import WINDOWS, Folder, WindowsInfo
from logitstore.text.prepare.tokens import KeptTokens
from logitstore.text.sample import cut, key_of
from logitstore.text.samples import Encoding, Samples
from logitstore.text.scored.said import NO_COLUMNS


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


def opened(given_documents: list[Document], encoding: Encoding, partly: bool, folder: Path) -> Samples:
    """The samples of documents that are tokenised, in shards as small as `shards.DOCUMENTS` says."""
    collector = shards.Collector(0, 0, 0, 0, schema_of(partly, NO_COLUMNS))
    numbered = [number for number, *_ in given_documents]
    # some more batches than one
    halves = [numbered.index(numbered[len(numbered) // 2])] if numbered else [0]
    made: list[shards.Made] = []
    for some in (given_documents[: halves[0]], given_documents[halves[0] :]):
        columns: dict[str, Any] = {
            "tokens": [each[1] for each in some],
            "document": [each[0] for each in some],
            "domain": [each[3] for each in some],
            "said": [each[2] for each in some],
        }
        schema = schema_of(partly, NO_COLUMNS)
        pairs = pa.record_batch([pa.array(columns[name], schema.field(name).type) for name in schema.names], schema)
        made += collector.add(At(), Encoded(pairs=pairs, notices=[]))
    made.append(collector.finish())
    place = Folder(folder, "0" * 32, encoding.max_length, encoding.overlap)
    place.windows.mkdir(parents=True, exist_ok=True)
    cutter = Cutter(encoding.max_length, encoding.overlap)
    (place.windows / WINDOWS).write_bytes(b"".join(cutter.add(each.pairs, False).tobytes() for each in made))
    infos = [shards.write(place.shard(number), each) for number, each in enumerate(made)]
    documents = sum(each.documents for each in infos)
    assert documents == len(set(numbered))
    known = WindowsInfo.of(place, cutter, documents, [True])
    return Samples(place, KeptTokens(place, infos), known, chat=partly)


@pytest.mark.parametrize(("block", "documents_of_a_shard"), [(1, 1), (50, 2), (1 << 20, 1 << 20)])
@settings(max_examples=12)
@given(case=documents())
def test_samples_are_those_of_the_documents_taken_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    block: int,
    documents_of_a_shard: int,
    case: tuple[list[Document], Encoding, bool],
) -> None:
    expected = list(one_by_one(*case))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logitstore.text.prepare.cutting.BLOCK", block)
        patch.setattr(shards, "DOCUMENTS", documents_of_a_shard)
        found = opened(*case, tmp_path_factory.mktemp("prepared"))
    assert found.fingerprint == fingerprint(expected)
    assert [
        (each.document, each.window, each.start, each.tokens_T.tolist(), each.mask_T.tolist(), each.domain)
        for each in found
    ] == expected
    assert [each.key for each in found] == [key_of(np.array(tokens, np.int64)) for _, _, _, tokens, _, _ in expected]
    assert found.rows_S.tolist() == [sum(mask) for *_, mask, _ in expected]
    assert found.lengths_S.tolist() == [len(tokens) for _, _, _, tokens, _, _ in expected]
    assert found.rows == sum(found.rows_S.tolist()) == found.rows_in(slice(None))
    assert found.tokens == sum(found.lengths_S.tolist())
    numbers: list[int] = [number for number, *_ in case[0]]
    assert found.skipped == len(set(numbers) - {number for number, *_ in expected})
    assert found.highest_token == max((token for _, tokens, _, _ in case[0] for token in tokens), default=-1)
    assert all(isinstance(each.mask_T, np.ndarray) and each.mask_T.dtype == np.bool_ for each in found)


@pytest.mark.parametrize("partly", [False, True])
def test_a_sample_keeps_no_more_of_its_document_than_its_window(tmp_path: Path, partly: bool) -> None:
    made: list[Document] = [(0, list(range(10_000)), [True] * 10_000, "web")]
    for sample in opened(made, Encoding(max_length=100, overlap=10), partly, tmp_path):
        for array in (sample.tokens_T, sample.mask_T):
            kept = array if array.base is None else array.base
            assert kept.nbytes == array.nbytes
