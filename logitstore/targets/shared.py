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


DEEPEST = 100.0
"""Nats below the highest logit of a row at which a lower one counts as no lower: e**-100 is no probability."""


def centred(logits_NV: Tensor, vocabulary: int) -> Tensor:
    """Return float32[N, V]: raw logits less their mean in each row; -inf and all that is very low is raised before."""
    logits_NV = logits_NV[:, :vocabulary].float()
    logits_NV = logits_NV.maximum(logits_NV.amax(1, keepdim=True) - DEEPEST)
    return logits_NV - logits_NV.mean(1, keepdim=True)


def takes_logits(shared: Mapping[str, Tensor]) -> bool:
    """True for the tensors of a sketch whose coefficients are made of logits, and not of hidden states."""
    return "logit_projection" in shared


def latents_of(row: RowInfo, shared: Mapping[str, Tensor]) -> Any:
    """Return what makes of hidden states, or of logits (`takes_logits`), what is stored of them; None where nothing is."""
    if row.tail.shape == "head":
        return lambda hidden_ND: hidden_ND.float()
    if takes_logits(shared):
        return _LogitSketch(shared["logit_projection"], shared["logit_offset"])
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


class _LogitSketch:
    """Projects raw logits to coefficients; it keeps its matrix on the device where it was used last."""

    def __init__(self, projection_VR: Tensor, offset_R: Tensor) -> None:
        self._projection_VR, self._offset_R = projection_VR, offset_R

    def __call__(self, logits_NV: Tensor) -> Tensor:
        if self._offset_R.device != logits_NV.device:
            self._projection_VR, self._offset_R = (
                each.to(logits_NV.device) for each in (self._projection_VR, self._offset_R)
            )
        return centred(logits_NV, len(self._projection_VR)) @ self._projection_VR - self._offset_R
