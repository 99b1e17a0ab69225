"""A batch: samples as tensors, with the stored answers about their rows.

Axes: B lines, T tokens, N rows, G positions without a row, M samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, overload

import torch
from torch import Tensor

from logitstore.errors import BadInput

_GROUPS = ("inputs", "answer", "features", "unanswered")
"""Fields that hold several values by name."""


@dataclass(frozen=True, init=False, eq=False)
class Batch(Mapping[str, Any]):
    """A batch holds some samples as a student takes them, and the teacher's answer about each row, still packed as stored.

    It is a mapping too, of the names and values that `tensors` gives, and is made of them again by `Batch(tensors)`: so
    PyTorch, Accelerate and the Trainer of transformers move and pin it like a dictionary.

    Attributes:
        inputs: the keyword arguments of the student, by name: of texts `input_ids`, `attention_mask` or `position_ids`, and
            `use_cache`; of images `pixel_values`, or nothing where images are left out.
        rows: int64[N], the place of each row in the flattened [B * T]; T is 1 where a sample has one row.
        row_mask: bool[N], False for rows that do not count.
        answer: the stored fields of the rows, by name; a `Decoder` turns them into targets on their own device.
        features: the stored arrays of taps, as `<tap>/<field>`; `Loader.features` decodes them.
        gold: int64[N], the token that follows the row, or the class; -1 where there is none.
        samples: int64, numbers of the samples in the cache; -1 in a batch that only fills up the last step of a rank.
        counts: int64, number of rows of each sample; rows come sample after sample.
        source: number of the cache that the batch comes from, where there are several caches.
        weight: float32[N], weight of each row in the loss; None where all rows weigh the same.
        unanswered: the positions that the data ask about and that have no row, in a cache of chosen positions: their places
            `rows` int64[G], in the order of the samples; `gold` int64[G]; `mask` bool[G], False for those that do not count;
            `weight` float32[G] where `weight` is given. Empty where every such position has a row.
    """

    inputs: dict[str, Any]
    rows: Tensor
    row_mask: Tensor
    answer: dict[str, Tensor]
    gold: Tensor
    samples: Tensor
    counts: Tensor
    source: int
    weight: Tensor | None
    features: dict[str, Tensor]
    unanswered: dict[str, Tensor]

    @overload
    def __init__(self, tensors: Mapping[str, Any], /) -> None: ...
    @overload
    def __init__(
        self,
        /,
        *,
        inputs: dict[str, Any] | None = None,
        rows: Tensor,
        row_mask: Tensor,
        answer: dict[str, Tensor],
        gold: Tensor,
        samples: Tensor,
        counts: Tensor,
        source: int = 0,
        weight: Tensor | None = None,
        features: dict[str, Tensor] | None = None,
        unanswered: dict[str, Tensor] | None = None,
    ) -> None: ...
    def __init__(self, tensors: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Make a batch of its fields, or of what `tensors` gives.

        Raises:
            TypeError: a field is missing or unknown.
        """
        if tensors is not None:
            values = _fields_of(tensors) | values
        given = {"inputs": {}, "source": 0, "features": {}, "unanswered": {}} | {
            name: value for name, value in values.items() if value is not None
        }
        names = [each.name for each in fields(self)]
        missing = [name for name in names if name not in given and name != "weight"]
        unknown = sorted(given.keys() - set(names))
        if missing or unknown:
            raise TypeError(
                f"a batch lacks {', '.join(missing) or 'nothing'}, and has no {', '.join(unknown) or 'other'}"
            )
        for name in names:
            object.__setattr__(self, name, given.get(name))

    def __getitem__(self, name: str) -> Any:
        group, dot, rest = name.partition(".")
        if dot and group in _GROUPS:
            return getattr(self, group)[rest]
        value = getattr(self, name) if name in _PLAIN else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors())

    def __len__(self) -> int:
        return len(self.tensors())

    @property
    def input_ids(self) -> Tensor | None:
        """int64[B, T], the tokens of texts, padded on the right with 0; None for images."""
        return self.inputs.get("input_ids")

    @property
    def attention_mask(self) -> Tensor | None:
        """int64[B, T], 1 on real tokens of texts; None in a packed batch."""
        return self.inputs.get("attention_mask")

    @property
    def position_ids(self) -> Tensor | None:
        """int64[B, T], starting again from 0 at each text of a packed batch; None otherwise."""
        return self.inputs.get("position_ids")

    @property
    def pixel_values(self) -> Tensor | None:
        """float32[B, 3, H, W], the images as the teacher saw them; None for texts, and where images are left out."""
        return self.inputs.get("pixel_values")

    @property
    def gold_logprob(self) -> Tensor:
        """float32[N]: the teacher's logprob of the token that follows, nats."""
        return self.answer["gold_logprob"].float()

    @property
    def entropy(self) -> Tensor:
        """float32[N]: the teacher's entropy, nats."""
        return self.answer["entropy"].float()

    def tensors(self) -> dict[str, Any]:
        """Return the tensors by name, without those that are None; and `source`. Values of `inputs`, `answer`, `features`
        and `unanswered` are named `inputs.<name>`, `answer.<field>`, `features.<tap>/<field>` and `unanswered.<name>`."""
        named = {name: getattr(self, name) for name in _PLAIN}
        present = {name: value for name, value in named.items() if value is not None}
        grouped = {f"{group}.{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        return present | grouped

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory, from which a GPU copies while it computes. PyTorch's loaders look for a
        method of this name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in self.tensors().items()
        }
        return Batch(changed)

    def model_inputs(self) -> dict[str, Any]:
        """Return the keyword arguments for a model of transformers.

        Raises:
            BadInput: the images were left out.
        """
        if not self.inputs:
            raise BadInput("a batch of a loader made with with_images=False: it has nothing to show to a model.")
        return dict(self.inputs)


_PLAIN = tuple(each.name for each in fields(Batch) if each.name not in _GROUPS)


def _fields_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a batch, by name, from what `Batch.tensors` gives."""
    grouped: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    plain: dict[str, Any] = {}
    for name, value in tensors.items():
        group, dot, rest = name.partition(".")
        (grouped[group] if dot else plain)[rest or name] = value
    return plain | grouped
