"""Hidden states that speculators keeps for the training of draft models, from vLLM: `hs_{i}.safetensors`.

The schema is that of https://github.com/vllm-project/speculators at commit c05b95b (data_generation/offline.py,
hs_connectors/): `token_ids`, integers [T], and `hidden_states` [T, L, D]: those that go into the layers that
`--target-layer-ids` of `launch_vllm.py` names, and usually at last what the last layer gives, before the norm. The files do not
say which layers these are. Axes: T tokens, L layers, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.features.record import Features, layers_of
from logitstore.text.foreign.features.tensors import opened_tensors, tokens_in
from logitstore.text.foreign.tables import files_in


def open_source(settings: ConvertSettings) -> Features:
    """Open a folder of such files. Raises BadInput: there are none, or the first one is none."""
    files = files_in(settings.source, (".safetensors",), settings.split)
    with opened_tensors(files[0]) as file:
        shape = _shape(file, files[0])
    names = layers_of(settings.layers, shape[1], settings.source)
    widths = dict.fromkeys((name for name in names if name is not None), shape[2])
    return Features(widths=widths, reader=_Reader(files=files, names=names, width=shape[2]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    files: list[Path]
    names: list[str | None]
    width: int

    def tokens(self) -> Iterator[tuple[int, Array]]:
        for number, path in enumerate(self.files):
            with opened_tensors(path) as file:
                length = _shape(file, path, (len(self.names), self.width))[0]
                tokens_T = tokens_in(file.get_tensor("token_ids"), str(path))
            if tokens_T.shape != (length,):
                raise BadInput(f"{path}: it has {len(tokens_T)} tokens and the states of {length}.")
            yield number, tokens_T

    def states(self, record: int) -> Mapping[str, Tensor]:
        with opened_tensors(self.files[record]) as file:
            states_TLD: Tensor = file.get_tensor("hidden_states")
        return {name: states_TLD[:, place] for place, name in enumerate(self.names) if name is not None}


def _shape(file: object, path: Path, wanted: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """Return T, L and D of a file, from its header. Raises BadInput: it has none, or others than the first one."""
    keys = set(file.keys())  # type: ignore[attr-defined]
    if not {"token_ids", "hidden_states"} <= keys:
        raise BadInput(
            f"{path}: of speculators it needs token_ids and hidden_states. It has {', '.join(sorted(keys))}."
        )
    shape = tuple(file.get_slice("hidden_states").get_shape())  # type: ignore[attr-defined]
    if len(shape) != 3 or min(shape) < 1 or (wanted is not None and shape[1:] != wanted):
        raise BadInput(
            f"{path}: its hidden states have the shape {list(shape)}, not [tokens, layers, channels] of all files."
        )
    return shape[0], shape[1], shape[2]
