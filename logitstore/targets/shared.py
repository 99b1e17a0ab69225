"""The shared file of a tail: its arrays, loaded and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from logitstore.errors import CacheDamaged, one_line
from logitstore.format.codecs.codebook import MOST_BITS
from logitstore.format.manifest import Manifest
from logitstore.format.row import RowInfo
from logitstore.store.storage import Storage
from logitstore.store.taps import TENSOR_FILE_ERRORS


def shared_shapes(row: RowInfo, widths: list[int]) -> dict[str, tuple[int, ...]]:
    """Return the names of the tensors in the shared file of a tail, with their shapes; -1 where any size is right.

    Args:
        row: what a row holds.
        widths: bits of the coefficients of a sketch.
    """
    vocabulary = row.vocabulary
    count = len(widths) or (row.tail.width or 0)
    linear = {"weight": (vocabulary, count), "base": (vocabulary,), "bias": (vocabulary,), "cap": (1,)}
    if row.tail.shape == "prior":
        return {"prior": (vocabulary,)}
    if row.tail.shape == "sketch":
        levels = (count, 1 << max(widths, default=0))
        projection = {"mean": (-1,), "projection": (-1, count)}
        return {"widths": (count,), "levels": levels, "prior": (vocabulary,)} | linear | projection
    if row.tail.shape == "head":
        return linear | {"mean": (count,), "std": (count,)}
    return {}


def load_shared(storage: Storage, manifest: Manifest) -> dict[str, Tensor]:
    """Return the tensors of a cache's tail, checked against what its rows need.

    Raises:
        CacheDamaged: the file cannot be read, or holds other tensors.
    """
    if manifest.tail.file is None:
        return {}
    path = storage.local(manifest.tail.file)
    try:
        shared: dict[str, Tensor] = safetensors.torch.load_file(path)
    except TENSOR_FILE_ERRORS as error:
        raise CacheDamaged(f"{path}: cannot be read: {one_line(error)}. Run `logitstore verify`.") from error
    if problem := _problem(manifest.row, shared):
        raise CacheDamaged(f"{path}: {problem}. Run `logitstore verify`.")
    return shared


def _problem(row: RowInfo, shared: Mapping[str, Tensor]) -> str:
    """Say what is wrong with the tensors of a tail; empty for sound ones."""
    widths = [int(width) for width in shared["widths"].flatten()] if "widths" in shared else []
    if row.tail.shape == "sketch" and not (
        widths and all(1 <= width <= MOST_BITS for width in widths) and sum(widths) <= 8 * (row.tail.bytes or 0)
    ):
        return "its coefficients do not fit the sketch of a row"
    for name, shape in shared_shapes(row, widths).items():
        if name not in shared:
            return f"it has no tensor '{name}'"
        value = shared[name]
        wanted = {"widths": (torch.uint8,), "weight": (torch.float16, torch.bfloat16, torch.float32)}
        if value.dtype not in wanted.get(name, (torch.float32,)):
            return f"its tensor '{name}' is {value.dtype}"
        if any(axis not in (size, -1) for size, axis in zip(value.shape, shape, strict=False)) or value.ndim != len(
            shape
        ):
            return f"its tensor '{name}' has the shape {tuple(value.shape)}, not {shape}"
        if not torch.isfinite(value).all():
            return f"its tensor '{name}' is not finite"
        if name in ("prior", "std") and not (value > 0).all():
            return f"its tensor '{name}' is not positive"
    return ""


def latents_of(row: RowInfo, shared: Mapping[str, Tensor]) -> Any:
    """Return the projection of hidden states to what is stored of them, or None where nothing is."""
    if row.tail.shape == "head":
        return lambda hidden_ND: hidden_ND.float()
    if row.tail.shape == "sketch":
        mean_D, projection_DR = shared["mean"], shared["projection"]
        return lambda hidden_ND: (hidden_ND.float() - mean_D.to(hidden_ND.device)) @ projection_DR.to(hidden_ND.device)
    return None
