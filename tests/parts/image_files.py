"""Images in files, folders, tars and tables."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from logitstore.core.types import Array
from logitstore.image.data.images import Images, ImageSpec, open_images


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
