"""The output layer of a model, read from its checkpoint without the body: what makes logits of an engine's hidden states.

Axes: T tokens, D channels, V vocabulary.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.core.types import ModelRef
from logitstore.dump.engines.in_process.checkpoint import Checkpoint
from logitstore.errors import ModelError, one_line
from logitstore.models.head import LinearHead, scaling_of
from logitstore.models.hooks import taken_by
from logitstore.models.load import new_model
from logitstore.models.shape import head_rows

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Number formats of weights that are not packed."""


SMALL_VOCABULARY, SMALL_TOKENS = 96, 8


LARGEST_SMALL = 300_000_000
"""Most weights of the model on which a formula is shown, so that it takes seconds and about a gigabyte."""


NARROW: dict[str, int] = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
SHRUNK: tuple[dict[str, int], ...] = (
    {"num_hidden_layers": 0},
    NARROW,
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 2},
)
"""Ways to make a model small, tried in this order. What is shown happens behind the last layer, so that none is needed."""


OTHERS = "Give the model itself (--teacher without vllm:), or serve it and give --teacher http://HOST:PORT#MODEL --preset topk."
"""The way out where hidden states cannot stand for the logits."""


@dataclass(frozen=True)
class _Layer:
    """The output layer of a model without weights.

    Attributes:
        name: of its weight in the model.
        tied: name of the weight that it shares; None where it has one of its own.
        embedding: name of the weight of the input embedding.
        bias: name of its bias, if it has one.
        shape: of its weight, (V, D).
    """

    name: str
    tied: str | None
    embedding: str
    bias: str | None
    shape: tuple[int, int]


def checkpoint_head(model: ModelRef, config: PretrainedConfig, dtype: torch.dtype) -> LinearHead:
    """Return the head of a model, with all rows of its vocabulary, padding included. The body is not read.

    Args:
        model: where the checkpoint is.
        config: its configuration.
        dtype: what the engine computes in; the weights are rounded to it.

    Raises:
        ModelError: the checkpoint is no safetensors, its output layer is packed, not linear or not there, or no small model of
            the class shows by which formula hidden states become logits.
    """
    if model.gguf is not None:
        raise ModelError(
            f"{model}: vLLM reads no GGUF. Give the folder with the safetensors, or the file without vllm:."
        )
    layer = _layer(model, config)
    multiplier, cap = shown_scaling(model, config)
    checkpoint = Checkpoint.of(model)
    weight_VD = _weight(checkpoint, layer)
    if tuple(weight_VD.shape) != layer.shape:
        raise ModelError(
            f"{model}: its file has the weight {layer.name} in shape {tuple(weight_VD.shape)}, its configuration asks for "
            f"{layer.shape}. Give the configuration that belongs to the file."
        )
    bias_V = None if layer.bias is None else _plain(checkpoint, _stored(checkpoint, layer.bias), layer.bias).to(dtype)
    return LinearHead(weight_VD.to(dtype), bias_V, multiplier, cap)


def _layer(model: ModelRef, config: PretrainedConfig) -> _Layer:
    """Return what the output layer of a model is, from a model without weights."""
    try:
        with torch.device("meta"):
            empty: Any = new_model(config, torch.float32)
    except Exception as error:
        # models raise errors of nearly any class about configurations that do not go together
        raise ModelError(f"{model}: no model can be made of its configuration: {one_line(error)}") from error
    output, embedding = empty.get_output_embeddings(), empty.get_input_embeddings()
    if not isinstance(output, nn.Linear):
        raise ModelError(
            f"{model}: the output layer of {type(empty).__name__} is {type(output).__name__}, not linear, so hidden states "
            f"cannot stand for its logits. {OTHERS}"
        )
    names = {id(module): name for name, module in empty.named_modules()}
    name, inner = f"{names[id(output)]}.weight", f"{names[id(embedding)]}.weight"
    shared: dict[str, str] = getattr(empty, "all_tied_weights_keys", None) or {}
    return _Layer(
        name=name,
        tied=inner if output.weight is embedding.weight else shared.get(name),
        embedding=inner,
        bias=None if output.bias is None else f"{names[id(output)]}.bias",
        shape=(head_rows(config), output.in_features),
    )


def _weight(checkpoint: Checkpoint, layer: _Layer) -> Tensor:
    """Return the weight [V, D] of an output layer, its own or the one that it shares."""
    own = _stored(checkpoint, layer.name)
    if layer.tied is None:
        return _plain(checkpoint, own or _only_one_like_it(checkpoint, layer), layer.name)
    shared = _stored(checkpoint, layer.tied)
    weight_VD = _plain(checkpoint, shared or own, layer.tied)
    if own is not None and shared is not None and not torch.equal(_plain(checkpoint, own, layer.name), weight_VD):
        raise ModelError(
            f"{checkpoint.model}: its configuration ties {layer.name} to {layer.tied}, but its file has other values for each, "
            "and engines disagree which to take. Set tie_word_embeddings to what it was trained with, and save it again."
        )
    return weight_VD


def _stored(checkpoint: Checkpoint, name: str) -> str | None:
    """Return under which name a checkpoint has a weight of the model; parts before it may be there or missing, as in
    `wte.weight` for `transformer.wte.weight`. None where it has none, or several."""
    if name in checkpoint.files:
        return name
    alike = [each for each in checkpoint.files if each.endswith(f".{name}") or name.endswith(f".{each}")]
    return alike[0] if len(alike) == 1 else None


def _only_one_like_it(checkpoint: Checkpoint, layer: _Layer) -> str | None:
    """Return the one weight beside the input embedding that has the shape of the output layer; some files call it otherwise."""
    embedding = _stored(checkpoint, layer.embedding)
    alike = [each for each in checkpoint.files if each != embedding and checkpoint.shape(each) == layer.shape]
    return alike[0] if embedding is not None and len(alike) == 1 else None


def _plain(checkpoint: Checkpoint, stored: str | None, name: str) -> Tensor:
    """Return a weight that is not packed. Raises ModelError: it is not there, or packed."""
    if stored is None:
        owner = name.rpartition(".")[0]
        packed = any(owner in each for each in checkpoint.files)
        raise ModelError(
            f"{checkpoint.model}: its file has no {name}"
            + (f", only packed weights of {owner}" if packed else "")
            + f", so hidden states cannot be made logits. {OTHERS}"
        )
    value = checkpoint.tensor(stored)
    if value.dtype not in FLOATS:
        raise ModelError(
            f"{checkpoint.model}: {stored} is packed ({str(value.dtype).removeprefix('torch.')}), so hidden states cannot be "
            f"made logits. {OTHERS}"
        )
    return value


def shown_scaling(model: ModelRef, config: PretrainedConfig) -> tuple[float, float]:
    """Return the multiplier and the cap of the logits, shown on a small random model of the same class.

    Of that model the final hidden state, which is what an engine gives, and the logits are compared: it must be what the output
    layer takes, and `LinearHead` must give the logits. The weights of the layer are so large that the cap bends them.

    Raises:
        ModelError: the class does something else, or no small model of it can be made.
    """
    multiplier, cap = scaling_of(config)
    text = config.get_text_config()
    tried = [(base, sizes) for sizes in SHRUNK for base in ([text] if text is config else [text, config])]
    refusal = f"{model}: no small model of the kind {text.model_type} shows how its hidden states become logits"
    small = answered = None
    for base, sizes in tried:
        try:
            small = _small(base, sizes)
            answered = None if small is None else _answered(small, multiplier, cap)
        except Exception as error:
            # as above, and also about sizes that do not go together: the next ones are tried
            if (base, sizes) == tried[-1]:
                raise ModelError(f"{refusal} ({one_line(error)}). {OTHERS}") from error
        if answered is not None:
            break
    if answered is None:
        raise ModelError(f"{refusal}: it would be too large. {OTHERS}")
    head, final_TD, taken_TD, logits_TV = answered
    name = type(small).__name__
    if final_TD.shape != taken_TD.shape or (final_TD - taken_TD).abs().max() > 1e-5 * taken_TD.abs().max().clamp(
        min=1.0
    ):
        raise ModelError(
            f"{model}: the output layer of {name} takes something else than its final hidden state, which is what vLLM gives. "
            f"{OTHERS}"
        )
    try:
        found = head.matching(name, taken_TD, logits_TV)
    except ModelError as error:
        raise ModelError(f"{model}: {str(error).removesuffix('Use --preset small.')}{OTHERS}") from error
    return found.multiplier, found.cap


def _small(config: PretrainedConfig, sizes: dict[str, int]) -> PreTrainedModel | None:
    """Return a random model in float32 of the class of a configuration; None where it would be too large.

    Raises:
        Exception: of any class, about sizes that do not go together.
    """
    shrunk = copy.deepcopy(config)
    text = shrunk.get_text_config()
    for name, value in (sizes | {"vocab_size": SMALL_VOCABULARY}).items():
        if hasattr(text, name):
            setattr(text, name, value)
    layers = sizes["num_hidden_layers"]
    for name, value in list(vars(text).items()):
        if name.endswith("_token_id"):
            setattr(text, name, None if value is None else 0)
        elif name.endswith(("layer_types", "layers_block_type")) and isinstance(value, list):
            setattr(text, name, value[:layers])
    with torch.device("meta"):
        empty = new_model(shrunk, torch.float32)
    if sum(each.numel() for each in empty.parameters()) > LARGEST_SMALL:
        return None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model without layers has weights without values
        torch.manual_seed(0)
        return new_model(shrunk, torch.float32).eval()


@torch.inference_mode()
def _answered(small: Any, multiplier: float, cap: float) -> tuple[LinearHead, Tensor, Tensor, Tensor]:
    """Return the head of a small model, its final hidden states [T, D], what its output layer takes [T, D], and its logits
    [T, V]."""
    draws = torch.Generator().manual_seed(0)
    tokens_BT = torch.arange(1, 1 + SMALL_TOKENS)[None]
    output: nn.Linear = small.get_output_embeddings()
    body = small.base_model if small.base_model is not small else small.model
    hidden_TD = body(input_ids=tokens_BT, use_cache=False).last_hidden_state[0]
    weight_VD = torch.randn(SMALL_VOCABULARY, hidden_TD.shape[-1], generator=draws)
    # so large that half of the cap is passed, where its bend shows
    wanted = (1.5 * cap if cap else 8.0) / abs(multiplier)
    weight_VD *= wanted / (hidden_TD @ weight_VD.T).abs().max()
    output.weight = nn.Parameter(weight_VD, requires_grad=False)  # its own now, where it was shared
    bias_V = None
    if output.bias is not None:
        bias_V = torch.randn(SMALL_VOCABULARY, generator=draws) * wanted / 8
        output.bias = nn.Parameter(bias_V, requires_grad=False)
    with taken_by(output) as seen:
        logits_BTV = small(input_ids=tokens_BT, use_cache=False).logits
    return LinearHead(weight_VD, bias_V, multiplier, cap), hidden_TD, seen[-1][0], logits_BTV[0]
