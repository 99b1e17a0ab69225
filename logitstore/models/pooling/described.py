"""What happens between the hidden states of an encoder and its vector, and the JSON files of sentence-transformers about it.

A folder of that library has a list of modules in `modules.json`: a Transformer, whose files lie beside it, a Pooling, any
number of Dense layers, and perhaps a Normalize; each of the last three has a folder with a `config.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from logitstore.errors import ModelError
from logitstore.models.pooling.pooled import WAYS, Way

MODULES = "modules.json"

LENGTHS = "sentence_bert_config.json"
"""Where that library keeps how many tokens a text may have."""

MODES: dict[str, Way] = {"cls": "first", "mean": "mean", "lasttoken": "last"}
"""The ways to pool, by the library's names."""

_OLD_MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The entries of a pooling's configuration that name them one by one, as all versions of the library read them."""

ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}
"""What may follow a dense layer, by the name of its class."""

_VECTOR = (None, "sentence_embedding")
"""What the library calls the vector, where modules say what they work on."""

_TYPE = "sentence_transformers.models.{}"


@dataclass(frozen=True, kw_only=True)
class DenseShape:
    """A linear layer behind the pooling: channels in and out, whether it has a bias, and the function that follows it."""

    inputs: int
    outputs: int
    bias: bool = False
    activation: str = "identity"


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How hidden states become a vector.

    Attributes:
        way: one of WAYS.
        normalised: whether the vector has length 1.
        dense: linear layers between both.
        max_length: the most tokens of a text, special ones included; None where nothing says it.
    """

    way: Way
    normalised: bool
    dense: tuple[DenseShape, ...] = ()
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"no way to pool is called {self.way!r}")

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON, as a configuration keeps it under `pooling`."""
        return asdict(self) | {"dense": [asdict(each) for each in self.dense]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Pooling:
        """Return what `plain` made plain."""
        return cls(**plain | {"dense": tuple(DenseShape(**each) for each in plain["dense"])})

    def width(self, hidden: int) -> int:
        """Return the channels of the vector of an encoder whose hidden states have so many."""
        return self.dense[-1].outputs if self.dense else hidden


def read_pooling(name: str) -> tuple[Pooling, list[str]] | None:
    """Return how a folder of sentence-transformers pools, and the folders of its dense layers; None for any other model.

    Args:
        name: a folder or a name on the hub.

    Raises:
        ModelError: it has modules, or options of one, that are not known here.
    """
    modules = _json(name, MODULES)
    if modules is None:
        return None
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    places = [str(module["path"]) for module in modules]
    dense_count = kinds.count("Dense")
    wanted = ["Transformer", "Pooling", *["Dense"] * dense_count]
    if kinds not in (wanted, [*wanted, "Normalize"]) or places[0] not in ("", "."):
        raise ModelError(
            f"{name}: its modules are {', '.join(kinds)}. Known are a Transformer whose files lie in the folder itself, a "
            "Pooling, Dense layers and a Normalize, in this order."
        )
    options = {place: _json(name, f"{place}/config.json") or {} for place in places[1:]}
    if any(each.get(f"module_{side}_name") not in _VECTOR for each in options.values() for side in ("input", "output")):
        raise ModelError(
            f"{name}: a module of it works on something else than the vector of a text, which is not known here."
        )
    lengths = _json(name, LENGTHS) or {}
    pooling = Pooling(
        way=_way(name, options[places[1]]),
        normalised=kinds[-1] == "Normalize",
        dense=tuple(_dense(name, options[place]) for place in places[2 : 2 + dense_count]),
        max_length=lengths.get("max_seq_length"),
    )
    return pooling, places[2 : 2 + dense_count]


def _json(name: str, file: str) -> Any:
    """Return what a file of a model says; None where there is none."""
    try:
        found = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if Path(name, file).exists():
            raise ModelError(f"{name}: {file} cannot be read: {error}") from error
        return None


def _way(name: str, options: dict[str, Any]) -> Way:
    modes = options.get("pooling_mode") or [mode for mode, key in _OLD_MODES.items() if options.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in MODES or options.get("include_prompt") is False:
        what = " and ".join(map(str, modes)) + (" without the prompt" if options.get("include_prompt") is False else "")
        raise ModelError(f"{name}: it pools by {what}. Known are {', '.join(MODES)}, one of them.")
    return MODES[modes[0]]


def _dense(name: str, options: dict[str, Any]) -> DenseShape:
    activation = str(options.get("activation_function"))
    if activation not in ACTIVATIONS or options.get("use_residual"):
        what = "a residual" if options.get("use_residual") else activation
        raise ModelError(f"{name}: a Dense layer of it has {what}. Known are {', '.join(ACTIVATIONS)}.")
    return DenseShape(
        inputs=int(options["in_features"]),
        outputs=int(options["out_features"]),
        bias=bool(options.get("bias", True)),
        activation=ACTIVATIONS[activation],
    )


def write_pooling(folder: Path, pooling: Pooling, hidden: int) -> list[str]:
    """Write the JSON files of sentence-transformers beside an encoder. Return the folders in which dense layers belong.

    Args:
        folder: of the encoder.
        pooling: how it pools.
        hidden: channels of its hidden states.
    """
    mode = {way: mode for mode, way in MODES.items()}[pooling.way]
    modes = {key: name == mode for name, key in _OLD_MODES.items()}
    kinds: list[tuple[str, dict[str, Any]]] = [("Pooling", {"word_embedding_dimension": hidden} | modes)]
    for each in pooling.dense:
        activation = next(name for name, short in ACTIVATIONS.items() if short == each.activation)
        shape = {"in_features": each.inputs, "out_features": each.outputs, "bias": each.bias}
        kinds.append(("Dense", shape | {"activation_function": activation}))
    if pooling.normalised:
        kinds.append(("Normalize", {}))
    listed = [{"idx": 0, "name": "0", "path": "", "type": _TYPE.format("Transformer")}]
    for number, (kind, options) in enumerate(kinds, 1):
        path = f"{number}_{kind}"
        listed.append({"idx": number, "name": str(number), "path": path, "type": _TYPE.format(kind)})
        (folder / path).mkdir(parents=True, exist_ok=True)
        if options:
            _write(folder / path / "config.json", options)
    if pooling.max_length is not None:
        _write(folder / LENGTHS, {"max_seq_length": pooling.max_length, "do_lower_case": False})
    _write(folder / MODULES, listed)
    return [str(each["path"]) for each in listed if str(each["path"]).endswith("_Dense")]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
