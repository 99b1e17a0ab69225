"""The weights of a checkpoint as they lie in its safetensors files: one of them by its name, and a checksum of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The names under which transformers and vLLM look for the weights: one file, or the list of several."""


@dataclass(frozen=True)
class Checkpoint:
    """Where each weight of a model lies.

    Attributes:
        model: where the files are.
        files: the file of each weight.
    """

    model: ModelRef
    files: dict[str, str]

    @classmethod
    def of(cls, model: ModelRef) -> Checkpoint:
        """Find the weights of a model.

        Raises:
            ModelError: there are no safetensors files, or they cannot be read.
        """
        index = _found(model, INDEX)
        if index is not None and _found(model, WHOLE):
            raise ModelError(
                f"{model}: it has {WHOLE} and {INDEX}, and engines do not agree which of them counts. Remove one of them."
            )
        if index is not None:
            try:
                named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return cls(model, {str(name): str(file) for name, file in named.items()})
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ModelError(
                    f"{model}: {INDEX} does not say where its weights are: {one_line(error)}. Save the model again."
                ) from error
        with _opened(_needed(model, WHOLE)) as file:
            return cls(model, dict.fromkeys(file.keys(), WHOLE))

    def tensor(self, name: str) -> Tensor:
        """Return a weight. Raises ModelError: its file does not have it, or cannot be read."""
        with ExitStack() as stack:
            return self._read(name, {}, stack)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight, which is not read. Raises ModelError: as `tensor`."""
        with _opened(_needed(self.model, self.files[name])) as file:
            return tuple(file.get_slice(name).get_shape())

    def fingerprint(self) -> str:
        """Return xxh3-128 over the name, dtype, shape and bytes of every weight, in the order of their names. No more than
        one is in memory at a time.

        Raises:
            ModelError: a file cannot be read.
        """
        digest: Any = xxhash.xxh3_128()
        with ExitStack() as stack:
            opened: dict[str, Any] = {}
            for name in sorted(self.files):
                value = self._read(name, opened, stack)
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
        return str(digest.hexdigest())

    def _read(self, name: str, opened: dict[str, Any], stack: ExitStack) -> Tensor:
        file = self.files[name]
        if file not in opened:
            opened[file] = stack.enter_context(_opened(_needed(self.model, file)))
        if name not in opened[file].keys():  # noqa: SIM118  # an open file is no mapping
            raise ModelError(
                f"{self.model}: {file} does not have the weight {name}, which {INDEX} says that it has. Save the model again."
            )
        found: Tensor = opened[file].get_tensor(name)
        return found


def _found(model: ModelRef, name: str) -> Path | None:
    """Return where a file of a model is, in its folder or where the hub's files are kept; None where it has no such file."""
    try:
        found = cached_file(model.name, name)
    except OSError:
        return None
    return None if found is None else Path(found)


def _needed(model: ModelRef, name: str) -> Path:
    """Return where a file of a model is. Raises ModelError: it has no such file."""
    found = _found(model, name)
    if found is None:
        raise ModelError(
            f"{model}: it has no {name}, and its output layer is read from safetensors files alone. Save the model with "
            "save_pretrained of transformers."
        )
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises ModelError: it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: it cannot be read as safetensors: {one_line(error)}. Save the model again."
        ) from error
