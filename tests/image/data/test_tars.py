"""Images in tars: keys, classes and bytes of the members."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from logitstore.errors import BadInput
from tests.parts.image_files import FILES, open_at, tar_of


def test_tars_give_keys_classes_and_the_members_bytes(tmp_path: Path) -> None:
    tar_of(tmp_path / "b.tar", {"x/2.JPG": FILES[2], "x/2.cls": b"1\n", "x/1.png": FILES[1], "x/1.cls": b"0"})
    tar_of(tmp_path / "a.tar", {"./0.cls": b"2", "README.md": b"x", "._0.png": b"x", "./0.png": FILES[0]})
    images = open_at(tmp_path / "*.tar")
    assert images.keys == ["0", "x/2", "x/1"]
    assert images.labels.tolist() == [2, 1, 0]
    assert images.label_names is None
    assert [images.content(index) for index in range(3)] == [FILES[0], FILES[2], FILES[1]]
    assert open_at(tmp_path / "b.tar").keys == ["x/2", "x/1"]


def test_classes_in_tars_may_be_names_or_stand_in_json(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{"label": "eel", "id": 4, "note": [1]}, {"id": 2}, {"label": "cat", "id": 7}]
    members = {f"{number}.json": json.dumps(entry).encode() for number, entry in enumerate(entries)}
    tar = tar_of(tmp_path / "a.tar", members | {f"{number}.png": FILES[number] for number in range(3)})
    images = open_at(tar)
    assert images.labels.tolist() == [1, -1, 0]
    assert images.label_names == ["cat", "eel"]
    assert open_at(tar, label_column="id").labels.tolist() == [4, 2, 7]
    with pytest.raises(BadInput, match=r"--label-column: no member ends in '\.kind'"):
        open_at(tar, label_column="kind")
    with pytest.raises(BadInput, match=r"--label-column: \[1\] is not a class number"):
        open_at(tar, label_column="note")
    named = tar_of(tmp_path / "b.tar", {"0.png": FILES[0], "0.cls": b"dog", "1.png": FILES[1], "1.cls": b""})
    assert open_at(named).labels.tolist() == [0, -1]
    assert open_at(named).label_names == ["dog"]


def test_several_images_of_one_key_want_a_column(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", {"0.in.png": FILES[0], "0.out.png": FILES[1]})
    with pytest.raises(BadInput, match=r"'0' has several images: \.in\.png, \.out\.png\. Name one with --column"):
        open_at(tar)
    assert open_at(tar, column="out.png").content(0) == FILES[1]
    with pytest.raises(BadInput, match=r"'0' has no member '\.out'\. Did you mean 'out\.png'"):
        open_at(tar, column="out")


def test_tars_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", {"0.png": FILES[0], "1.png": FILES[1]})
    with pytest.raises(BadInput, match="no split named 'val'"):
        open_at(whole, split="val")
    with pytest.raises(BadInput, match="--key-column"):
        open_at(whole, key_column="id")
    shutil.copy(whole, tmp_path / "b.tar")
    with pytest.raises(BadInput, match="two images have the key '0'"):
        open_at(tmp_path / "[ab].tar")
    second = whole.read_bytes().index(b"1.png")
    for length in (second - 100, second + 100):
        (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:length])
        with pytest.raises(BadInput, match=r"cut\.tar: cannot be read as a plain tar"):
            open_at(tmp_path / "cut.tar")
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    with pytest.raises(BadInput, match=r"c\.tar\.gz: cannot be read as a plain tar.*unzipped"):
        open_at(tmp_path / "c.tar.gz")
    with pytest.raises(BadInput, match="no images in it"):
        open_at(tar_of(tmp_path / "d.tar", {"0.txt": b"x"}))
    with pytest.raises(BadInput, match=r"'0\.json' is not JSON"):
        open_at(tar_of(tmp_path / "e.tar", {"0.png": FILES[0], "0.json": b"{"}))
    images = open_at(whole)
    whole.write_bytes(whole.read_bytes()[: second + 1000])
    with pytest.raises(BadInput, match=r"image '1': .*a\.tar ends before its last byte"):
        images.content(1)
