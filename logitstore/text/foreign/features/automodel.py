"""Hidden states that NeMo AutoModel keeps for the training of EAGLE-3 drafts: `manifest.json` and `shard-000000.safetensors`.

The schema is format 2 of https://github.com/NVIDIA-NeMo/Automodel at commit 36044ad (components/datasets/llm/eagle3_cache.py):
shards of `shard_size` samples with `input_ids` and `attention_mask`, int64 [n, S], and `aux_hidden_states` [n, S, L D]: what
the layers `aux_layer_ids` give, counted from 0, side by side. Its target distributions are over the vocabulary of a draft, and
are left where they are. Axes: n samples, S places, L layers, D channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput, one_line
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.features.record import Features, layers_of
from logitstore.text.foreign.features.tensors import opened_tensors, tokens_in
from logitstore.text.foreign.tables import reading

LARGEST_MANIFEST = 1 << 26

TOKENS, REAL, STATES = "input_ids", "attention_mask", "aux_hidden_states"


class _Manifest(BaseModel):
    """What is read of `manifest.json`."""

    format_version: Literal[2]
    num_samples: Annotated[int, Field(ge=1, le=1 << 40)]
    shard_size: Annotated[int, Field(ge=1, le=1 << 40)]
    seq_length: Annotated[int, Field(ge=1, le=1 << 30)]
    aux_hidden_dim: Annotated[int, Field(ge=1, le=1 << 30)]
    aux_layer_ids: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 16)]], Field(min_length=1, max_length=1 << 10)]


def open_source(settings: ConvertSettings) -> Features:
    """Open such a folder. Raises BadInput: it is none, or a shard is missing."""
    folder = settings.source.expanduser()
    path = folder / "manifest.json"
    if not path.is_file():
        raise BadInput(f"{folder}: it has no manifest.json. Give the folder that precompute_eagle3 wrote.")
    with reading(path), path.open("rb") as file:
        content = file.read(LARGEST_MANIFEST)
    try:
        manifest = _Manifest.model_validate(json.loads(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Is it of format 2?") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: it is no JSON: {one_line(error)}.") from error
    layers = len(manifest.aux_layer_ids)
    if manifest.aux_hidden_dim % layers:
        raise BadInput(f"{path}: {manifest.aux_hidden_dim} channels are not those of {layers} layers.")
    width = manifest.aux_hidden_dim // layers
    names = layers_of(settings.layers, layers, folder, [f"hidden-{number + 1}" for number in manifest.aux_layer_ids])
    widths = dict.fromkeys((name for name in names if name is not None), width)
    return Features(widths=widths, reader=_Reader(folder=folder, manifest=manifest, names=names, width=width))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    folder: Path
    manifest: _Manifest
    names: list[str | None]
    width: int

    def tokens(self) -> Iterator[tuple[int, Array]]:
        size, total = self.manifest.shard_size, self.manifest.num_samples
        for number, first in enumerate(range(0, total, size)):
            path, count = self._shard(number), min(size, total - first)
            with opened_tensors(path) as file:
                self._check(file, path, count)
                tokens_nS, real_nS = file.get_tensor(TOKENS), file.get_tensor(REAL)
            for place in range(count):
                yield first + place, tokens_in(tokens_nS[place], str(path))[_real(real_nS[place], path)]

    def states(self, record: int) -> Mapping[str, Tensor]:
        number, place = divmod(record, self.manifest.shard_size)
        path = self._shard(number)
        with opened_tensors(path) as file:
            real = _real(file.get_slice(REAL)[place], path)
            states_TC: Tensor = file.get_slice(STATES)[place][real]
        states_TLD = states_TC.reshape(len(states_TC), -1, self.width)
        return {name: states_TLD[:, place] for place, name in enumerate(self.names) if name is not None}

    def _shard(self, number: int) -> Path:
        path = self.folder / f"shard-{number:06d}.safetensors"
        if not path.is_file():
            raise BadInput(f"{path}: it is missing, and the manifest counts {self.manifest.num_samples:,} samples.")
        return path

    def _check(self, file: object, path: Path, count: int) -> None:
        """Compare the shapes of a shard with the manifest, from its header. Raises BadInput."""
        length, keys = self.manifest.seq_length, set(file.keys())  # type: ignore[attr-defined]
        shape = partial(_shape, file, keys)
        wanted = {TOKENS: (count, length), REAL: (count, length), STATES: (count, length, self.manifest.aux_hidden_dim)}
        for name, each in wanted.items():
            if shape(name) != each:
                raise BadInput(f"{path}: '{name}' has the shape {shape(name)}, and the manifest says {each}.")


def _shape(file: object, keys: set[str], name: str) -> tuple[int, ...] | None:
    return tuple(file.get_slice(name).get_shape()) if name in keys else None  # type: ignore[attr-defined]


def _real(real_S: Tensor, path: Path) -> slice:
    """Return the span of the places with tokens. Raises BadInput: they do not follow each other."""
    places = torch.nonzero(real_S != 0)[:, 0]
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1]) + 1
    if last - first != len(places):
        raise BadInput(f"{path}: the attention mask of a sample has gaps. Packed samples cannot be read.")
    return slice(first, last)
