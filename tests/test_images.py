"""The user's images: found, named, classed and decoded, from folders, tars and data sets."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import xxhash
from PIL import Image, ImageCms

from logitstore.data.image_table import image_table
from logitstore.data.images import Images, ImageSpec, open_images
from logitstore.data.pictures import content_hash, decode
from logitstore.errors import BadInput
from logitstore.types import Array, Step


def drawn(seed: int, height: int = 24, width: int = 32) -> Array:
    """uint8 [H, W, C]: a gradient with noise, of its own for each seed."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([8 * y, 7 * x, 4 * (x + y)], -1) + generator.integers(0, 40, 3)
    return np.asarray((smooth + generator.integers(0, 30, smooth.shape)) % 256, np.uint8)


def encoded(picture: Array | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def table_of(files: list[bytes], **columns: Any) -> datasets.Dataset:
    features = {"image": datasets.Image()} | {name: column[0] for name, column in columns.items()}
    values = {"image": [{"bytes": content, "path": None} for content in files]}
    values |= {name: column[1] for name, column in columns.items()}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def open_at(source: Path | str, **options: Any) -> Images:
    return open_images(ImageSpec(source=str(source), **options))


FILES = [encoded(drawn(seed)) for seed in range(6)]
ANIMALS = {
    "dog/b.png": FILES[0],
    "cat/z.PNG": FILES[1],
    "cat/a b.png": FILES[2],
    "eel/ä 🐍.png": FILES[3],
}
ANIMAL_KEYS = ["cat/a b.png", "cat/z.PNG", "dog/b.png", "eel/ä 🐍.png"]


# folders


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


# tars


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
    with pytest.raises(BadInput, match=r"--label-column: \[1\] is no class"):
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
    with pytest.raises(BadInput, match=r"'0\.json' is no JSON"):
        open_at(tar_of(tmp_path / "e.tar", {"0.png": FILES[0], "0.json": b"{"}))
    images = open_at(whole)
    whole.write_bytes(whole.read_bytes()[: second + 1000])
    with pytest.raises(BadInput, match=r"image '1': .*a\.tar ends before its last byte"):
        images.content(1)


# data sets


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
    with pytest.raises(BadInput, match="-7 is no class"):
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


# pictures


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is a text.", "is no JPEG, PNG, "),
        (encoded(drawn(0, 200, 200), "JPEG")[:2000], "truncated"),
        (encoded(drawn(0, 200, 200))[:2000], "truncated"),
        (encoded(drawn(0), "EPS"), "is no JPEG, PNG, "),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "its pixels are 32-bit numbers"),
        (encoded(Image.new("I", (4, 4)), "TIFF"), "its pixels are 32-bit numbers"),
    ],
)
def test_what_cannot_be_decoded_is_named_by_its_key_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    images = open_at(folder_of(tmp_path, {"a/b.jpg": content}))
    with pytest.raises(
        BadInput, match=f"^image 'a/b.jpg': cannot be decoded: .*{reason}.* Mend or remove it.$"
    ) as caught:
        images.picture(0)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)
    assert images.content(0) == content


def test_a_decompression_bomb_is_refused() -> None:
    bomb = bytearray(encoded(drawn(0), "BMP"))
    bomb[18:26] = struct.pack("<ii", 20_000, 20_000)
    with pytest.raises(BadInput, match=r"image 'b': cannot be decoded: .*400000000 pixels.*decompression bomb"):
        decode(bytes(bomb), "b")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000", "AVIF", "GIF", "JPEG", "MPO"])
def test_all_kinds_of_files_are_decoded(kind: str) -> None:
    picture = drawn(1)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(picture, kind, **options), "a")
    assert found.dtype == np.uint8
    assert found.flags.writeable
    if kind in ("AVIF", "GIF", "JPEG", "MPO"):
        assert np.abs(found.astype(int) - picture).mean() < 25
    else:
        assert np.array_equal(found, picture)


def test_pictures_are_turned_upright() -> None:
    picture = drawn(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise to see it upright
    assert np.array_equal(decode(encoded(picture, exif=exif), "a"), np.rot90(picture, -1))


def test_the_smallest_picture_is_one() -> None:
    assert decode(encoded(np.array([[[1, 2, 3]]], np.uint8)), "a").tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(kind: str) -> None:
    grey_HW = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    expected = np.repeat((grey_HW >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    assert np.array_equal(decode(encoded(grey_HW, kind), "a"), expected)


def test_grey_and_black_and_white_become_three_equal_channels() -> None:
    grey_HW = drawn(3)[..., 0]
    for source in (Image.fromarray(grey_HW), Image.fromarray(grey_HW > 128)):
        found = decode(encoded(source), "a")
        expected = np.asarray(source.convert("L"))
        assert all(np.array_equal(found[..., channel], expected) for channel in range(3))


def test_transparent_pixels_are_laid_on_white() -> None:
    rgba = np.dstack([drawn(4), np.full((24, 32), 255, np.uint8)])
    rgba[:12, :, 3] = 0
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    found = decode(encoded(rgba), "a")
    assert (found[:12] == 255).all()
    assert np.array_equal(found[12:], rgba[12:, :, :3])
    expected = [[[255, 255, 255], [40, 50, 60], [70, 80, 90]]]
    assert decode(encoded(palette, transparency=0), "a").tolist() == expected
    assert decode(encoded(palette, transparency=b"\x00\xff\xff"), "a").tolist() == expected


def test_cmyk_photographs_have_their_colours() -> None:
    smooth = np.asarray(Image.fromarray(drawn(5, 4, 4)).resize((32, 32), Image.Resampling.BICUBIC))
    cmyk = encoded(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(cmyk)).mode == "CMYK"
    assert np.abs(decode(cmyk, "a").astype(int) - smooth).mean() < 4


def test_colour_profiles_change_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(decode(encoded(drawn(1), icc_profile=profile), "a"), drawn(1))


def test_the_checksum_is_xxh3_64() -> None:
    assert content_hash(FILES[0]) == xxhash.xxh3_64_intdigest(FILES[0])
    assert content_hash(b"") == 0x2D06800538D394C2


def test_threads_read_the_same_as_one(tmp_path: Path) -> None:
    pictures = [drawn(seed) for seed in range(60)]
    files = {f"{seed % 3}/{seed:02}.png": encoded(picture) for seed, picture in enumerate(pictures)}
    folder_of(tmp_path / "folder", files)
    tar_of(tmp_path / "a.tar", files)
    table_of(list(files.values())).save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "folder", tmp_path / "a.tar", tmp_path / "saved"):
        images = open_at(source)
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(images.picture, list(range(60)) * 3))
        for index, picture in enumerate(found):
            name = images.key(index % 60)
            seed = int(name.rpartition("/")[2].removesuffix(".png"))
            assert np.array_equal(picture, pictures[seed])
