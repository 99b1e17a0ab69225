"""Images in data sets: columns of images and classes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from logitstore.errors import BadInput
from logitstore.image.data.images import Images
from logitstore.image.data.table import image_table
from tests.parts.image_files import FILES, drawn, folder_of, open_at, table_of


def test_parquet_arrow_and_saved_data_sets_give_the_same_images(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["zebra", "ant"])
    table = table_of(FILES[:3], label=(names, [1, -1, 0]), id=(datasets.Value("string"), ["x", "ü", "z"]))
    table.to_parquet(tmp_path / "folder/data.parquet")
    datasets.DatasetDict({"train": table.select([0]), "test": table}).save_to_disk(tmp_path / "splits")
    table.save_to_disk(tmp_path / "saved")
    shards = str(tmp_path / "saved/*.arrow")
    for source in (tmp_path / "folder", tmp_path / "folder/data.parquet", tmp_path / "saved", shards):
        images = open_at(source)
        assert images.keys == ["0", "1", "2"]
        assert images.labels.tolist() == [1, -1, 0]
        assert images.label_names == ["zebra", "ant"]
        assert [images.content(index) for index in range(3)] == FILES[:3]
        assert np.array_equal(images.picture(1), drawn(1))
    assert open_at(tmp_path / "splits", split="test").fingerprint == images.fingerprint
    assert len(open_at(tmp_path / "splits")) == 1
    assert open_at(tmp_path / "saved", key_column="id", limit=2).keys == ["x", "ü"]
    with pytest.raises(BadInput, match=r"no split named 'tset'\. Did you mean 'test'"):
        open_at(tmp_path / "splits", split="tset")
    with pytest.raises(BadInput, match=r"no split named 'val'"):
        open_at(tmp_path / "saved", split="val")


def test_columns_of_bytes_hold_images_too(tmp_path: Path) -> None:
    for number, values in enumerate([FILES[:2], [{"bytes": content, "path": "a"} for content in FILES[:2]]]):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"picture": values, "label": ["b", None]}), path)
        images = open_at(path)
        assert [images.content(0), images.content(1)] == FILES[:2]
        assert images.labels.tolist() == [0, -1]
        assert images.label_names == ["b"]


def test_images_of_a_data_set_may_be_files_or_members_of_a_zip(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.png": FILES[0]})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x/b.png", FILES[1])
    paths = [
        str(tmp_path / "a.png"),
        f"zip://x/b.png::{tmp_path / 'b.zip'}",
        f"zip://x/c.png::{tmp_path / 'b.zip'}",
        None,
    ]
    table = datasets.Dataset.from_dict({"image": paths}, features=datasets.Features({"image": datasets.Image()}))
    images = Images(image_table(table, "hub", None, None, None))
    assert [images.content(0), images.content(1)] == FILES[:2]
    with pytest.raises(BadInput, match=r"image '2': zip://.* cannot be read"):
        images.content(2)
    with pytest.raises(BadInput, match=r"image '3': the row holds no image"):
        images.content(3)


def test_the_class_column_is_found_or_asked_for(tmp_path: Path) -> None:
    kind = datasets.ClassLabel(names=["a", "b"])
    number, text = datasets.Value("float32"), datasets.Value("string")
    table = table_of(
        FILES[:2], fine=(kind, [0, 1]), coarse=(kind, [1, 1]), score=(number, [0, 1]), word=(text, ["v", "u"])
    )
    table.save_to_disk(tmp_path / "two")
    with pytest.raises(BadInput, match=r"several columns hold classes: fine, coarse\. Name one with --label-column"):
        open_at(tmp_path / "two")
    assert open_at(tmp_path / "two", label_column="fine").labels.tolist() == [0, 1]
    images = open_at(tmp_path / "two", label_column="word")
    assert (images.labels.tolist(), images.label_names) == ([1, 0], ["u", "v"])
    with pytest.raises(BadInput, match=r"--label-column: column 'score' holds no classes but Value\('float32'\)"):
        open_at(tmp_path / "two", label_column="score")
    with pytest.raises(BadInput, match=r"--label-column: no column named 'fin'\. Did you mean 'fine'"):
        open_at(tmp_path / "two", label_column="fin")
    table.remove_columns(["coarse"]).save_to_disk(tmp_path / "one")
    assert open_at(tmp_path / "one").label_names == ["a", "b"]
    table.select_columns(["image", "score"]).rename_column("score", "label").save_to_disk(tmp_path / "none")
    assert open_at(tmp_path / "none").labels.tolist() == [-1, -1]
    table_of(FILES[:2], label=(datasets.Value("int32"), [0, -7])).save_to_disk(tmp_path / "negative")
    with pytest.raises(BadInput, match="-7 is not a class number"):
        open_at(tmp_path / "negative")


def test_the_image_column_is_found_or_asked_for(tmp_path: Path) -> None:
    files = [{"bytes": content, "path": None} for content in FILES[:2]]
    table = table_of(FILES[:2], word=(datasets.Value("string"), ["a", "a"]), other=(datasets.Image(), files[::-1]))
    table.save_to_disk(tmp_path / "two")
    with pytest.raises(
        BadInput, match=r"2 of its columns hold images\. Name the one to read with --column\. Known: image, other"
    ):
        open_at(tmp_path / "two")
    assert open_at(tmp_path / "two", column="other").content(0) == FILES[1]
    with pytest.raises(BadInput, match=r"--column: column 'word' holds no images but Value\('string'\)"):
        open_at(tmp_path / "two", column="word")
    with pytest.raises(BadInput, match=r"--column: no column named 'img'"):
        open_at(tmp_path / "two", column="img")
    with pytest.raises(BadInput, match="two images have the key 'a'"):
        open_at(tmp_path / "two", column="image", key_column="word")
    table.select_columns(["word"]).save_to_disk(tmp_path / "none")
    with pytest.raises(BadInput, match=r"none of its columns holds images.*Known: word"):
        open_at(tmp_path / "none")


def test_no_table_is_passed_over_and_none_is_there_twice(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    table_of(FILES[:2]).to_parquet(folder / "train-0.parquet")
    table_of(FILES[2:3]).to_parquet(folder / "more.parquet")
    with pytest.raises(BadInput, match=r"more\.parquet would be passed over"):
        open_at(folder)
    (folder / "again.parquet").symlink_to(folder / "more.parquet")
    with pytest.raises(BadInput, match=r"again\.parquet and .*more\.parquet are the same file"):
        open_at(folder / "*.parquet")
