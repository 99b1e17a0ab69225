"""Read images from a column of a data set of the library `datasets`. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import fsspec

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.image.data.source import ImageSource, read_file


def image_table(
    table: datasets.Dataset, source: str, column: str | None, label_column: str | None, key_column: str | None
) -> ImageSource:
    """Return the images of a data set, in its order.

    Args:
        table: the data set.
        source: name of the data set for messages.
        column: a column of images: of the type `Image`, of encoded files as bytes, or of {bytes, path}. None takes the only
            such column.
        label_column: a column of class numbers (`ClassLabel` or integers) or names (strings). None takes `label` if it
            holds classes, else the only `ClassLabel`, else no column.
        key_column: a column of names. None numbers the images from 0.

    Raises:
        BadInput: a column does not exist or holds other values, or several columns fit.
    """
    column = _image_column(table, source, column)
    label_column = _label_column(table, source, label_column)
    images = table.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        images = images.cast_column(column, datasets.Image(decode=False))
    keys = [str(number) for number in range(len(table))] if key_column is None else _keys(table, key_column)
    label = table.features[label_column] if label_column is not None else None
    return ImageSource(
        keys=keys,
        labels=[None] * len(table) if label_column is None else _values(table, label_column),
        label_names=list(label.names) if isinstance(label, datasets.ClassLabel) else None,
        read=lambda index: _content(images[index][column], keys[index]),
    )


def _values(table: datasets.Dataset, column: str) -> Sequence[object]:
    values: Sequence[object] = table.select_columns([column])[:][column]
    return values


def _keys(table: datasets.Dataset, column: str) -> list[str]:
    _check(table, "--key-column", column)
    keys = _values(table, column)
    if not all(isinstance(key, int | str) for key in keys):
        raise BadInput(f"--key-column: column '{column}' does not name every image. Give one of strings or integers.")
    return [str(key) for key in keys]


def _check(table: datasets.Dataset, option: str, column: str) -> None:
    if column not in table.column_names:
        raise BadInput(f"{option}: no column named '{column}'. {suggest(column, table.column_names)}")


def _image_column(table: datasets.Dataset, source: str, column: str | None) -> str:
    file_columns = {name: feature for name, feature in table.features.items() if _holds_files(feature)}
    if column is not None:
        _check(table, "--column", column)
        if column not in file_columns:
            raise BadInput(
                f"--column: column '{column}' holds no images but {table.features[column]}. "
                "Give one of the type Image, of bytes, or of {bytes, path}."
            )
        return column
    fitting: list[str] = [
        name for name, feature in file_columns.items() if isinstance(feature, datasets.Image)
    ] or list(file_columns)
    if len(fitting) != 1:
        raise BadInput(
            f"--data {source}: {len(fitting) or 'none'} of its columns hold{'' if fitting else 's'} images. "
            f"Name the one to read with --column. Known: {', '.join(fitting or table.column_names)}."
        )
    return fitting[0]


def _holds_files(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(table: datasets.Dataset, source: str, column: str | None) -> str | None:
    if column is not None:
        _check(table, "--label-column", column)
        if not _holds_classes(table.features[column]):
            raise BadInput(
                f"--label-column: column '{column}' holds no classes but {table.features[column]}. "
                "Give one of class numbers (ClassLabel or integers) or class names (strings)."
            )
        return column
    if "label" in table.column_names and _holds_classes(table.features["label"]):
        return "label"
    class_columns = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(class_columns) > 1:
        raise BadInput(
            f"--data {source}: several columns hold classes: {', '.join(class_columns)}. Name one with --label-column."
        )
    return class_columns[0] if class_columns else None


def _holds_classes(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or str(getattr(feature, "dtype", "")).startswith(
        ("int", "uint", "string", "large_string")
    )


def _content(value: Any, key: str) -> bytes:
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if content is not None:
        return bytes(content)
    if path is None:
        raise BadInput(f"image '{key}': the row holds no image. Remove it from the data.")
    if "://" not in path:
        return read_file(Path(path), key)
    # a file inside a zip; `datasets` does not extract it
    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except Exception as error:
        raise BadInput(f"image '{key}': {path} cannot be read: {one_line(error)}.") from error
