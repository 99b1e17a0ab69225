"""Hidden states that SpecForge keeps for the training of EAGLE-3 drafts, from SGLang: `rows_{a}-{b}/data_{i}.ckpt[.gz]`.

The schema is that of https://github.com/sgl-project/SpecForge at commit a6b6b02 (scripts/prepare_hidden_states.py): torch.save
of `input_ids` [T], `loss_mask` [T], `aux_hidden_state` [1, T, L D], the states of L layers side by side, and `hidden_state`
[1, T, D], what goes into the output layer. Axes: T tokens, L layers, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from logitstore.core.place import below
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.features.record import Features, layers_of
from logitstore.text.foreign.features.tensors import loaded, tensor_in, tokens_in

AUX, LAST = "aux_hidden_state", "hidden_state"


def open_source(settings: ConvertSettings) -> Features:
    """Open a folder of such files. Raises BadInput: there are none, or the first one is none."""
    source = settings.source.expanduser()
    found = below(source) if source.is_dir() else [source]
    files = sorted(path for path in found if path.name.endswith((".ckpt", ".ckpt.gz")) and path.is_file())
    if not files:
        raise BadInput(f"{source}: there is no file ending in .ckpt or .ckpt.gz. Give the folder that SpecForge wrote.")
    record = _Record.of(files[0])
    names = layers_of(settings.layers, record.layers, source)
    widths = dict.fromkeys((*(name for name in names if name is not None), "final"), record.width)
    if "final" in names:
        raise BadInput(f"--layers {settings.layers}: final is what {source} keeps beside them. Leave it out.")
    return Features(widths=widths, reader=_Reader(files=files, names=names, width=record.width))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Record:
    """A file: the tokens, int64[T], and their states [T, L, D] and [T, D]."""

    tokens_T: Array
    aux_TLD: Tensor
    last_TD: Tensor

    @classmethod
    def of(cls, path: Path) -> _Record:
        """Read a file. Raises BadInput: it is none of these."""
        content = loaded(path)
        tokens_T = tokens_in(tensor_in(content, "input_ids", 1, str(path)), str(path))
        aux_1TC, last_1TD = (tensor_in(content, key, 3, str(path)) for key in (AUX, LAST))
        length, width = len(tokens_T), last_1TD.shape[-1]
        is_even = width > 0 and aux_1TC.shape[-1] % width == 0 and aux_1TC.shape[-1] > 0
        if not is_even or {aux_1TC.shape[:2], last_1TD.shape[:2]} != {(1, length)}:
            raise BadInput(
                f"{path}: its states have the shapes {list(aux_1TC.shape)} and {list(last_1TD.shape)}, which are not those of "
                f"{length} tokens."
            )
        if not (aux_1TC.is_floating_point() and last_1TD.is_floating_point()):
            raise BadInput(f"{path}: its hidden states are no floats.")
        return cls(tokens_T=tokens_T, aux_TLD=aux_1TC[0].reshape(length, -1, width), last_TD=last_1TD[0])

    @property
    def layers(self) -> int:
        return int(self.aux_TLD.shape[1])

    @property
    def width(self) -> int:
        return int(self.last_TD.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    files: list[Path]
    names: list[str | None]
    width: int

    def tokens(self) -> Iterator[tuple[int, Array]]:
        for number, path in enumerate(self.files):
            yield number, self._record(path).tokens_T

    def states(self, record: int) -> Mapping[str, Tensor]:
        found = self._record(self.files[record])
        aux = {name: found.aux_TLD[:, place] for place, name in enumerate(self.names) if name is not None}
        return aux | {"final": found.last_TD}

    def _record(self, path: Path) -> _Record:
        record = _Record.of(path)
        if (record.layers, record.width) != (len(self.names), self.width):
            raise BadInput(f"{path}: it has {record.layers} layers of {record.width} channels, unlike {self.files[0]}.")
        return record
