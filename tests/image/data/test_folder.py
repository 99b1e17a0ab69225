"""Images in folders: found, named and classed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash

from logitstore.core.progress import Step
from logitstore.errors import BadInput
from logitstore.image.data.images import ImageSpec, open_images
from tests.parts.image_files import FILES, drawn, folder_of, open_at

ANIMALS = {
    "dog/b.png": FILES[0],
    "cat/z.PNG": FILES[1],
    "cat/a b.png": FILES[2],
    "eel/ä 🐍.png": FILES[3],
}
ANIMAL_KEYS = ["cat/a b.png", "cat/z.PNG", "dog/b.png", "eel/ä 🐍.png"]


def test_the_folders_of_a_folder_are_classes_and_paths_are_keys_in_their_order(tmp_path: Path) -> None:
    images = open_at(folder_of(tmp_path, ANIMALS))
    assert images.keys == ANIMAL_KEYS
    assert images.label_names == ["cat", "dog", "eel"]
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 0, 1, 2]
    for index, key in enumerate(ANIMAL_KEYS):
        assert images.key(index) == key
        assert images.content(index) == ANIMALS[key]
    assert np.array_equal(images.picture(2), drawn(0))


@pytest.mark.parametrize("name", ["data [v1]", "d?ta", "data*", "x::y", "{a,b}"])
def test_the_folder_that_was_named_is_the_one_that_is_read(tmp_path: Path, name: str) -> None:
    for decoy in ("data v", "data1", "x", "a"):
        folder_of(tmp_path / decoy, {"cat/wrong.png": FILES[0]})
    folder_of(tmp_path / name, ANIMALS)
    assert open_at(tmp_path / name).keys == ANIMAL_KEYS


def test_keys_and_fingerprint_survive_a_move(tmp_path: Path) -> None:
    first = open_at(folder_of(tmp_path / "here", ANIMALS))
    moved = Path(shutil.move(tmp_path / "here", tmp_path / "of [val]; test-é"))
    again = open_at(f"{moved}/")
    assert again.keys == first.keys
    assert again.fingerprint == first.fingerprint
    assert again.content(0) == FILES[2]


def test_the_fingerprint_is_that_of_keys_and_labels_in_order(tmp_path: Path) -> None:
    images = open_at(folder_of(tmp_path, ANIMALS))
    text = "0 cat/a b.png\x000 cat/z.PNG\x001 dog/b.png\x002 eel/ä 🐍.png\x00"
    assert images.fingerprint == xxhash.xxh3_128_hexdigest(text.encode())
    (tmp_path / "cat/a b.png").rename(tmp_path / "dog/a b.png")
    assert open_at(tmp_path).fingerprint != images.fingerprint


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    images = open_at(folder_of(tmp_path, {"test-2.png": FILES[0], "1.jpeg": FILES[1], "val.webp": FILES[2]}))
    assert images.keys == ["1.jpeg", "test-2.png", "val.webp"]
    assert images.labels.tolist() == [-1, -1, -1]
    assert images.label_names is None


def test_an_image_beside_the_classes_has_none_and_deeper_folders_belong_to_theirs(tmp_path: Path) -> None:
    images = open_at(folder_of(tmp_path, ANIMALS | {"stray.png": FILES[4], "dog/old/c.png": FILES[5]}))
    assert dict(zip(images.keys, images.labels.tolist(), strict=True)) == {
        "cat/a b.png": 0,
        "cat/z.PNG": 0,
        "dog/b.png": 1,
        "dog/old/c.png": 1,
        "eel/ä 🐍.png": 2,
        "stray.png": -1,
    }


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    clutter = {
        "dog/notes.txt": b"x",
        "cat/b.csv": b"x",
        "dog/._b.png": b"x",
        ".git/a.png": b"x",
        "__MACOSX/c/a.png": b"x",
    }
    images = open_at(folder_of(tmp_path, ANIMALS | clutter))
    assert images.keys == ANIMAL_KEYS
    assert images.label_names == ["cat", "dog", "eel"]


def test_a_folder_of_splits_gives_the_one_asked_for(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", ANIMALS)
    folder_of(tmp_path / "val", {"dog/v.png": FILES[4], "cat/v.png": FILES[5]})
    images = open_at(tmp_path, split="val")
    assert images.keys == ["val/cat/v.png", "val/dog/v.png"]
    assert images.label_names == ["cat", "dog"]
    assert images.content(1) == FILES[4]
    assert len(open_at(tmp_path)) == 4
    with pytest.raises(BadInput, match=r"no split named 'test'.*Known: train, val"):
        open_at(tmp_path, split="test")
    with pytest.raises(BadInput, match=r"not named like splits\. Give the folder of the split"):
        open_at(tmp_path / "train", split="val")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", {"a.png": FILES[0]})
    folder_of(tmp_path / "data", {"dog/b.png": FILES[1]})
    (tmp_path / "data/cat").symlink_to(tmp_path / "real")
    (tmp_path / "data/dog/again").symlink_to(tmp_path / "data")
    images = open_at(tmp_path / "data")
    assert images.keys == ["cat/a.png", "dog/b.png"]
    assert images.label_names == ["cat", "dog"]


def test_the_limit_takes_the_first_and_leaves_the_class_numbers(tmp_path: Path) -> None:
    whole = open_at(folder_of(tmp_path, ANIMALS))
    images = open_at(tmp_path, limit=3)
    assert images.keys == whole.keys[:3]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.label_names == whole.label_names
    assert len(open_at(tmp_path, limit=9)) == 4
    assert images.fingerprint != whole.fingerprint


def test_the_end_of_the_search_is_told(tmp_path: Path) -> None:
    steps: list[Step] = []
    open_images(ImageSpec(source=str(folder_of(tmp_path, ANIMALS))), steps.append)
    assert steps[-1] == Step(stage="images", done=4, total=4)


def test_a_file_that_went_away_is_named_by_its_key(tmp_path: Path) -> None:
    images = open_at(folder_of(tmp_path, ANIMALS))
    (tmp_path / "cat/z.PNG").unlink()
    with pytest.raises(BadInput, match=r"image 'cat/z.PNG': .* no such file\. Put it back"):
        images.content(1)


def test_folders_that_hold_no_images_or_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file\. Give a file, a glob, a folder"):
        open_at(tmp_path / "nowhere")
    folder_of(tmp_path / "texts", {"a.txt": b"x"})
    with pytest.raises(BadInput, match="no images in it"):
        open_at(tmp_path / "texts")
    folder_of(tmp_path / "both", {"a.png": FILES[0], "b.parquet": b"x"})
    with pytest.raises(BadInput, match=r"holds images and \.parquet files.*both/\*\.parquet"):
        open_at(tmp_path / "both")
    folder_of(tmp_path / "tars", {"a.tar": b"x"})
    with pytest.raises(BadInput, match=r"holds \.tar files.*tars/\*\.tar"):
        open_at(tmp_path / "tars")
    with pytest.raises(BadInput, match="Give the folder they lie in"):
        open_at(tmp_path / "both/a.png")
    with pytest.raises(BadInput, match="--label-column: a folder of images has no columns"):
        open_at(folder_of(tmp_path / "images", ANIMALS), label_column="label")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb") as file:
        file.write(FILES[0])
    with pytest.raises(BadInput, match=r"'\\udcff\.png' is not UTF-8"):
        open_at(tmp_path)
