"""Plain text in some encodings."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from logitstore.errors import BadInput
from tests.parts.documents import values_of

TEXT = "Grüße, 你好\n\nline three\u2028goes on\x0b\n"


def texts(source: Path) -> list[str]:
    return values_of(source)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_one_text_and_a_folder_has_lines(tmp_path: Path, encoding: str, line_end: str, packed: bool) -> None:
    content = TEXT.replace("\n", line_end).encode(encoding)
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert texts(path) == [TEXT]
    assert texts(tmp_path) == TEXT.split("\n")[:-1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str, as_folder: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("naïve words\n".encode(encoding))
    with pytest.raises(BadInput, match=rf"^--data {path}: cannot be read as \.txt: .*(utf-8|UTF-8)"):
        texts(tmp_path if as_folder else path)


def test_an_empty_file_among_others_is_a_text_without_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("words")
    assert texts(tmp_path / "*.txt") == ["", "words"]
