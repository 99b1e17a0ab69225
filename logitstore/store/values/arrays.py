"""What the view of values says of its arrays (docs/format.md, "The view of values")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from logitstore.format.manifest import Manifest
from logitstore.format.row import FieldInfo, token_dtype

CHUNK_ROWS = 4096
"""Most rows of a chunk."""

SAMPLE = "sample"
"""The array with the sample of every row."""

CODED = ("bits", "levels", "log2")
"""The value codecs that the view decodes; the others need what all rows of a cache share, or nothing."""

_SECOND_AXIS = {"ids": "slot", "logprobs": "slot", "counts": "draw", "sketch": "byte", "hidden": "channel"}


@dataclass(frozen=True)
class ValueArray:
    """One array of the view.

    Attributes:
        dtype, shape: of the values of a row.
        axes: the names of the axes of a row.
        stored: the type of what is stored of a row.
        codec: the entry of the value codec in the metadata; None where values are what is stored.
        unit: what a value is.
    """

    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    stored: np.dtype[Any]
    codec: dict[str, Any] | None = None
    unit: str | None = None

    def metadata(self, rows: int) -> dict[str, Any]:
        """Return the contents of its `zarr.json` in a view of so many rows."""
        plain = {"configuration": {"endian": "little"}} if self.stored.itemsize > 1 else {}
        chunk_shape = [chunk_rows(rows), *self.shape]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *self.shape],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [*([self.codec] if self.codec else []), {"name": "bytes", **plain}],
            "attributes": {"unit": self.unit} if self.unit else {},
            "dimension_names": ["row", *self.axes],
        }


def chunk_rows(rows: int) -> int:
    """Return the rows of a chunk in a view of so many rows."""
    return max(min(rows, CHUNK_ROWS), 1)


def group_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return the contents of the `zarr.json` of the group."""
    teacher = manifest.teacher
    attributes = {"plan": manifest.identity, "teacher": teacher.name, "vocabulary": teacher.vocabulary}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def value_arrays(manifest: Manifest) -> dict[str, ValueArray]:
    """Return the arrays of the view of a cache, by name."""
    arrays = {name: _value_array(name, info, manifest) for name, info in manifest.fields.items()}
    return {**arrays, SAMPLE: ValueArray("int64", (), (), np.dtype("<i8"))}


def _value_array(name: str, info: FieldInfo, manifest: Manifest) -> ValueArray:
    axis = "token" if name == "logprobs" and "ids" not in manifest.fields else _SECOND_AXIS.get(name)
    axes = (axis,) if info.shape and axis else ()
    stored = np.dtype(info.dtype).newbyteorder("<")
    kind, _, bits = info.codec.partition("-")
    if kind not in CODED:
        return ValueArray(info.dtype, info.shape, axes, stored, unit=info.unit)
    vocabulary = manifest.teacher.vocabulary
    dtype = token_dtype(vocabulary) if kind == "bits" else "float32"
    shape = (manifest.sparsifier.slots or vocabulary,) if info.shape else ()
    codec = {"name": f"logitstore.{kind}", "configuration": {"bits": int(bits)}}
    return ValueArray(dtype, shape, axes, stored, codec, info.unit)
