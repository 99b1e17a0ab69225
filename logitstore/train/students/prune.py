"""Make a narrower copy of a checkpoint: keep the hidden channels, MLP neurons and attention heads that are most active on
some text.

Importance is measured by activation (Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge
Distillation, section 2.1): the mean over a sample's tokens of the absolute activation, or of a head's norm, then the L2
norm over samples. This takes one forward pass over stored text and no gradient.

Axes: B samples, T tokens, D hidden channels, J neurons of an MLP, H heads, E channels of a head.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.errors import BadInput, ModelError, one_line
from logitstore.models.load import new_model

_LAYER = re.compile(r"\.(\d+)\.")


_HIDDEN = {"norm", "layernorm"}


_OWN_NORMS = ("q_norm", "k_norm")


_IN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


_OUT = ("o_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Widths say how wide a copy will be; None keeps the width of the model."""

    hidden_size: int | None = None
    intermediate_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None


@dataclass(eq=False)
class Importance:
    """An importance holds sums of squares over samples, of means over tokens.

    Attributes:
        hidden_D: float64, over all norms' outputs.
        neurons: float64[J] of each layer.
        heads: float64[H] of each layer.
    """

    hidden_D: Tensor
    neurons: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)


@torch.no_grad()
def importance_of(model: PreTrainedModel, batches: Iterable[tuple[Tensor, Tensor]]) -> Importance:
    """Run a model over some samples, and add up how active each of its parts is.

    Args:
        model: in evaluation mode on the device of the batches.
        batches: token ids int64[B, T] and their mask int64[B, T].

    Raises:
        ModelError: the model has other parts than a decoder with gated MLPs.
    """
    check_parts(model)
    config = model.config.get_text_config()
    importance = Importance(torch.zeros(config.hidden_size, dtype=torch.float64))
    head_dim = head_dim_of(model)
    mask_BT = torch.zeros(0, 0)

    def mean_B(activity_BTC: Tensor) -> Tensor:
        """Return float64[B, C]: the mean over the real tokens."""
        weights_BT1 = mask_BT[..., None].to(activity_BTC.device, torch.float64)
        return ((activity_BTC.double() * weights_BT1).sum(1) / weights_BT1.sum(1)).cpu()

    def hidden(_: nn.Module, _inputs: Any, output_BTD: Tensor) -> None:
        importance.hidden_D += mean_B(output_BTD.abs()).square().sum(0)

    def of_layer(kept: dict[int, Tensor], layer: int, activity: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares_C = mean_B(activity(inputs[0])).square().sum(0)
            kept[layer] = kept[layer] + squares_C if layer in kept else squares_C

        return hook

    def head_norm(value_BTC: Tensor) -> Tensor:
        norms_BTH: Tensor = torch.linalg.vector_norm(
            value_BTC.float().view(*value_BTC.shape[:-1], -1, head_dim), dim=-1
        )
        return norms_BTH

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            last = name.rpartition(".")[2]
            if last == "down_proj":
                hooks.callback(
                    module.register_forward_pre_hook(of_layer(importance.neurons, _layer(name), Tensor.abs)).remove
                )
            elif last == "o_proj":
                hooks.callback(
                    module.register_forward_pre_hook(of_layer(importance.heads, _layer(name), head_norm)).remove
                )
            elif last.rpartition("_")[2] in _HIDDEN and last not in _OWN_NORMS:
                hooks.callback(module.register_forward_hook(hidden).remove)
        for tokens_BT, attention_BT in batches:
            mask_BT = attention_BT
            model(input_ids=tokens_BT, attention_mask=attention_BT, use_cache=False)
    return importance


def check_parts(model: PreTrainedModel) -> None:
    """Raise a ModelError if some matrix of the model cannot be cut."""
    if any(_axes(name, value.ndim) is None for name, value in model.named_parameters()):
        raise ModelError(f"{type(model).__name__}: only decoders with gated MLPs can be made narrower.")


def head_dim_of(model: PreTrainedModel) -> int:
    """Return the number of channels of an attention head."""
    config = model.config.get_text_config()
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def narrow_config(model: PreTrainedModel, widths: Widths) -> PretrainedConfig:
    """Return the configuration of a narrower copy; its heads have as many channels as before.

    Raises:
        ModelError: the model has other parts than a decoder with gated MLPs.
        BadInput: a width is larger than the model's, query heads do not divide evenly among key-value heads, or
            configurations of this kind refuse the shape, so that the saved model could not be loaded.
    """
    check_parts(model)
    narrow: PretrainedConfig = copy.deepcopy(model.config)
    text = narrow.get_text_config()
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    wanted_kv = widths.kv_heads or kv_heads
    wanted = widths.heads or wanted_kv * (heads // kv_heads)
    for flag, value, there in (
        ("--hidden-size", widths.hidden_size, text.hidden_size),
        ("--intermediate-size", widths.intermediate_size, text.intermediate_size),
        ("--heads", wanted, heads),
        ("--kv-heads", wanted_kv, kv_heads),
    ):
        if value is not None and value > there:
            raise BadInput(f"{flag} {value}: the model has {there}. Pruning can only keep that many or fewer.")
    if wanted % wanted_kv or wanted // wanted_kv > heads // kv_heads:
        raise BadInput(
            f"--heads {wanted}: {wanted_kv} key-value heads take a multiple of {wanted_kv}, up to "
            f"{wanted_kv * (heads // kv_heads)}."
        )
    text.head_dim = head_dim_of(model)
    text.hidden_size = widths.hidden_size or text.hidden_size
    text.intermediate_size = widths.intermediate_size or text.intermediate_size
    text.num_attention_heads, text.num_key_value_heads = wanted, wanted_kv
    if hasattr(text, "validate"):
        try:
            text.validate()
        except Exception as error:
            # the errors of a library's own checks depend on its version: keep the reason, chain the traceback
            raise _impossible(widths, error) from error
    return narrow


def narrowed(model: PreTrainedModel, importance: Importance, widths: Widths) -> PreTrainedModel:
    """Return a copy of a model with its most important channels, neurons and heads, in their old order.

    Query heads that share a key-value head stay together: first, key-value heads are chosen by the sum of their query
    heads; then the query heads of each are chosen.

    Raises:
        ModelError, BadInput: see `narrow_config`.
    """
    config = narrow_config(model, widths)
    text, kv_heads = config.get_text_config(), model.config.get_text_config().num_key_value_heads
    wanted, wanted_kv = text.num_attention_heads, text.num_key_value_heads
    hidden_D = _top(importance.hidden_D, widths.hidden_size)
    head_dim = int(text.head_dim)
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        layer = _layer(name) if _LAYER.search(name) else 0
        chosen: dict[str, Tensor] = {"hidden": hidden_D}
        if layer in importance.neurons:
            chosen["neurons"] = _top(importance.neurons[layer], widths.intermediate_size)
        if layer in importance.heads:
            query_H, key_G = _heads(importance.heads[layer], kv_heads, wanted, wanted_kv)
            chosen["query"], chosen["key"] = _channels(query_H, head_dim), _channels(key_G, head_dim)
        for axis, what in enumerate(_axes(name, value.ndim) or ()):
            if what:
                value = value.index_select(axis, chosen[what].to(value.device))
        weights[name] = value
    try:
        narrow = new_model(config, model.dtype)
        narrow.load_state_dict(weights)
    except Exception as error:
        # as above
        raise _impossible(widths, error) from error
    return narrow


def _impossible(widths: Widths, error: Exception) -> BadInput:
    asked = {name: value for name, value in vars(widths).items() if value is not None}
    return BadInput(f"--prune: no model of this kind can be made with {asked}: {one_line(error)}")


def _axes(name: str, axes: int) -> tuple[str, ...] | None:
    """Return by what each axis of a parameter is cut: empty text for an axis that stays, None for a parameter that is not
    known."""
    module = name.rpartition(".")[0]
    last = module.rpartition(".")[2]
    outer = {"q_proj": "query", "k_proj": "key", "v_proj": "key", "gate_proj": "neurons", "up_proj": "neurons"}
    inner = {"o_proj": "query", "down_proj": "neurons"}
    if last in _OWN_NORMS:
        return ("",) * axes
    if last in _IN:
        return (outer[last], "hidden") if axes == 2 else (outer[last],)
    if last in _OUT:
        return ("hidden", inner[last]) if axes == 2 else ("hidden",)
    if last in ("embed_tokens", "lm_head"):
        return ("", "hidden") if axes == 2 else ("",)
    if last.rpartition("_")[2] in _HIDDEN and axes == 1:
        return ("hidden",)
    return None


def _top(importance_C: Tensor, count: int | None) -> Tensor:
    """Return int64, rising: the most important entries; of equal ones the first."""
    if count is None or count >= len(importance_C):
        return torch.arange(len(importance_C))
    return torch.sort(importance_C, descending=True, stable=True).indices[:count].sort().values


def _heads(importance_H: Tensor, kv_heads: int, wanted: int, wanted_kv: int) -> tuple[Tensor, Tensor]:
    """Return the query heads and the key-value heads that are kept."""
    grouped_GH = importance_H.view(kv_heads, -1)
    each = grouped_GH.shape[1]
    groups = _top(grouped_GH.sum(1), wanted_kv)
    within = [int(group) * each + _top(grouped_GH[group], wanted // wanted_kv) for group in groups]
    return torch.cat(within), groups


def _channels(heads_H: Tensor, head_dim: int) -> Tensor:
    """Return the channels of some heads."""
    return (heads_H[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _layer(name: str) -> int:
    match = _LAYER.search(name)
    if match is None:
        raise ModelError(f"'{name}' is in no decoder layer.")
    return int(match[1])
