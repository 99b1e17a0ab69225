"""The shared file of a tail: its arrays, loaded and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from logitstore.errors import CacheDamaged, one_line
from logitstore.format.manifest import Manifest
from logitstore.format.row import RowInfo
from logitstore.store.checks.tail import check_tail
from logitstore.store.storage import Storage
from logitstore.store.taps import TENSOR_FILE_ERRORS


def load_shared(storage: Storage, manifest: Manifest) -> dict[str, Tensor]:
    """Return the tensors of a cache's tail, checked against what its rows need.

    Raises:
        CacheDamaged: the file cannot be read, or holds other tensors.
    """
    if manifest.tail.file is None:
        return {}
    path = storage.local(manifest.tail.file)
    check_tail(path, manifest.row)
    try:
        shared: dict[str, Tensor] = safetensors.torch.load_file(path)
    except TENSOR_FILE_ERRORS as error:
        raise CacheDamaged(f"{path}: cannot be read: {one_line(error)}. Run `logitstore verify`.") from error
    return shared


def latents_of(row: RowInfo, shared: Mapping[str, Tensor]) -> Any:
    """Return the projection of hidden states to what is stored of them, or None where nothing is."""
    if row.tail.shape == "head":
        return lambda hidden_ND: hidden_ND.float()
    if row.tail.shape == "sketch":
        return _Sketch(shared["mean"], shared["projection"])
    return None


class _Sketch:
    """Projects hidden states to coefficients; it keeps its matrix on the device where it was used last."""

    def __init__(self, mean_D: Tensor, projection_DR: Tensor) -> None:
        self._mean_D, self._projection_DR = mean_D, projection_DR

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        if self._mean_D.device != hidden_ND.device:
            self._mean_D, self._projection_DR = (
                each.to(hidden_ND.device) for each in (self._mean_D, self._projection_DR)
            )
        return (hidden_ND.float() - self._mean_D) @ self._projection_DR
