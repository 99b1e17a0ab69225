"""Pictures of every kind of file, decoded."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image, ImageCms

from logitstore.errors import BadInput
from logitstore.image.data.decode import content_hash, decode
from tests.parts.image_files import FILES, drawn, encoded, folder_of, open_at, table_of, tar_of


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
        BadInput, match=f"^image 'a/b.jpg': cannot be decoded: .*{reason}.* Put a whole file in its place.$"
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
