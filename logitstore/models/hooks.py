"""Hooks on the layers of a model: features of its forward pass, recorded while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from logitstore.errors import ModelError
from logitstore.format.tap_names import ATTENTION, FINAL, layer_of
from logitstore.models.shape import classifier_of, layer_count, layer_list


@contextmanager
def recording(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict into which every forward pass of the model puts the named features, as long as the context lasts.

    `hidden-L` is the output of layer L and the input of layer L + 1, transformers' hidden_states[L]; so 0 is the embedding,
    and the number of the last layer stands for what that layer gives, before any norm. `final` is the input of the output
    layer, also where only the last position's logits are made; of a classifier it has one position. `query-L`, `key-L` and
    `value-L` are those of layer L, counted from 1, after rotary embedding, with the heads side by side. Nothing else is
    kept. A later pass overwrites an earlier one.

    Args:
        model: the model, with its own forward, or wrapped for several processes and called through the wrapper.
        names: names of features.

    Yields:
        name -> [B, T, D]; [B, T, H d] for queries, keys and values.

    Raises:
        ModelError: the model has no such layer, or a pass recorded no such feature: its attention does not use
            transformers' AttentionInterface, or the layer has no attention.
    """
    seen: dict[str, Tensor] = {}
    passes: list[bool] = []
    kinds = {name: name.partition("-")[0] for name in names}
    by_layer = {name: layer_of(name) or 0 for name in names}
    with ExitStack() as stack:
        passed = model.register_forward_hook(lambda *_: passes.append(True))
        stack.callback(passed.remove)
        if hidden := {by_layer[name]: name for name in names if kinds[name] == "hidden"}:
            _watch_layers(model, hidden, seen, stack)
        if FINAL in names:
            _watch_final(model, seen, stack)
        if wanted := {by_layer[name] for name in names if kinds[name] in ATTENTION}:
            _watch_attention(model, wanted, set(names), seen, stack)
        yield seen
    if passes and (missed := [name for name in names if name not in seen]):
        raise ModelError(
            f"{type(model).__name__}: {missed[0]} cannot be recorded: that layer has no attention of its own, or one that "
            "does not use transformers' AttentionInterface."
        )


def _watch_layers(model: PreTrainedModel, hidden: dict[int, str], seen: dict[str, Tensor], stack: ExitStack) -> None:
    layers: Any = model.get_submodule(layer_list(model))
    for number, name in hidden.items():
        if number == len(layers) and classifier_of(model) is not None:

            def take(_: nn.Module, _inputs: tuple[Any, ...], output: Any, name: str = name) -> None:
                seen[name] = output if isinstance(output, Tensor) else output[0]

            stack.callback(layers[-1].register_forward_hook(take).remove)
            continue
        if number >= len(layers):
            raise ModelError(f"{type(model).__name__}: it has {layer_count(model.config)} layers, so no {name}.")

        def keep(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], name: str = name) -> None:
            seen[name] = inputs[0] if inputs else options["hidden_states"]

        stack.callback(layers[number].register_forward_pre_hook(keep, with_kwargs=True).remove)


def _watch_final(model: PreTrainedModel, seen: dict[str, Tensor], stack: ExitStack) -> None:
    classifier = classifier_of(model)
    if classifier is None:
        _watch_base(model, seen, stack)
        return

    shown: dict[str, Tensor] = {}

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken = inputs[0]
        if taken.dim() == 3 and "input_ids" in shown:
            taken = _judged(taken, shown["input_ids"], model.config.pad_token_id)
        seen[FINAL] = taken.flatten(1)[:, None]

    def look(_: nn.Module, _inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        shown.update({name: options[name] for name in ("input_ids",) if name in options})

    stack.callback(model.register_forward_pre_hook(look, with_kwargs=True).remove)
    stack.callback(classifier.register_forward_pre_hook(keep).remove)


def _judged(hidden_BTD: Tensor, ids_BT: Tensor, pad: int | None) -> Tensor:
    """Return [B, D] of the token by which a decoder judges a text: the last one that is not padding, as transformers takes."""
    if pad is None:
        return hidden_BTD[:, -1]
    places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    last_B = (places_T * (ids_BT != pad)).argmax(-1).to(hidden_BTD.device)
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B]


def _watch_base(model: PreTrainedModel, seen: dict[str, Tensor], stack: ExitStack) -> None:
    decoder = model.get_decoder()
    if decoder is model.get_output_embeddings():  # which some encoders call their decoder
        decoder = model.base_model
    if decoder is model:
        raise ModelError(f"{type(model).__name__}: it has no part that gives its final hidden states.")

    def keep(*pass_: Any) -> None:
        seen[FINAL] = pass_[-1][0]

    stack.callback(decoder.register_forward_hook(keep).remove)


def _watch_attention(
    model: PreTrainedModel, wanted: set[int], names: set[str], seen: dict[str, Tensor], stack: ExitStack
) -> None:
    """Replace the attention functions that the wanted layers call with a recorder.

    Their names in transformers' table stay the same, because models choose masks and other things by these names.
    """
    layers = {
        module: int(number) + 1
        for module in model.modules()
        if isinstance(number := getattr(module, "layer_idx", None), int) and number + 1 in wanted
    } or _within(model, wanted)

    def recorder(
        usual: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> Any:
        if module in layers:
            for kind, heads_BHTd in zip(ATTENTION, (query, key, value), strict=True):
                if (name := f"{kind}-{layers[module]}") in names:
                    seen[name] = heads_BHTd.transpose(1, 2).flatten(2)
        usual = usual or vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        return usual(module, query, key, value, *rest, **more)

    if getattr(model, "ranks", None) is not None:
        raise ModelError(f"{type(model).__name__}: queries, keys and values are not whole where layers are split.")
    configs: list[Any] = [module.config for module in layers if hasattr(module, "config")]
    for name in sorted({str(config._attn_implementation) for config in configs}):
        usual: Callable[..., Any] | None = ALL_ATTENTION_FUNCTIONS.get(name)  # none for eager: each model has its own
        ALL_ATTENTION_FUNCTIONS[name] = partial(recorder, usual)
        stack.callback(_put_back, name, usual)


def _within(model: PreTrainedModel, wanted: set[int]) -> dict[nn.Module, int]:
    """Return the modules in the wanted layers of a model whose attention does not know its layer, such as a ViT."""
    layers: Any = model.get_submodule(layer_list(model))
    return {module: number for number in wanted if number <= len(layers) for module in layers[number - 1].modules()}


def _put_back(name: str, usual: Callable[..., Any] | None) -> None:
    del ALL_ATTENTION_FUNCTIONS[name]
    if usual is not None and ALL_ATTENTION_FUNCTIONS.get(name) is not usual:
        ALL_ATTENTION_FUNCTIONS[name] = usual


@contextmanager
def taken_by(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Record the first input of a layer, one entry for each call, while the context lasts."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
