"""What makes a model a causal language model: its output layer, the positions it has, and that it looks at no later token.

Axes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.errors import ModelError, one_line
from logitstore.models.head import overflow_advice
from logitstore.models.placing.spread import answers_on

OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression", "RewardModel")
"""Parts of the names of architectures whose output is not a distribution over tokens."""


FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Kinds of models that count positions from the padding token's id plus 1, so that as many of their positions are unused."""


BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that are computed anew for texts beyond a length, for all texts of a batch."""


TRIED_TOKENS = 12
"""Number of tokens of the probe; the last third of them is changed."""


NOISE_FACTOR = 4
"""A change of earlier logits counts if it is this many times the change that another sequence of the batch causes."""


NOISE_LIMIT = 0.1
"""Share of the spread of its logits that another sequence of the batch may change of a model's answer.

Rounding in bfloat16 stays far below it.
"""


PACKED_NOISE = 1e-3
"""Share of the spread of its logits by which a model's answer about a sample in a longer line may differ in float32."""


def refuse_other_heads(config: PretrainedConfig, who: object) -> None:
    """Refuse a model whose output layer is not over tokens, by the architecture that its configuration names.

    Its missing weights do not always tell: an output layer that is tied to the embedding is never missing.

    Raises:
        ModelError: it classifies, ranks or answers in another way, fills in masked tokens, or has an encoder.
    """
    for architecture in config.architectures or ():
        if any(part in architecture for part in OTHER_HEADS):
            raise ModelError(
                f"{who}: it is a {architecture}, whose output is no distribution over tokens. Give a causal language model."
            )
        if "MaskedLM" in architecture and not getattr(config, "is_decoder", False):
            raise ModelError(
                f"{who}: it is a {architecture}, which looks at later tokens. Give a causal language model; where this one has "
                "is_decoder in its configuration, set it to true if it was trained so."
            )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{who}: it is a model of an encoder and a decoder ({config.model_type}). Give a causal language model, which "
            "has a decoder alone."
        )


def position_limit(config: PretrainedConfig) -> int | None:
    """Return the largest number of tokens that a language model can take; None where its configuration sets no limit."""
    text = config.get_text_config()
    named = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    limit = next((number for number in named if isinstance(number, int) and number > 0), None)
    if limit is None:
        return None
    if text.model_type in FROM_PADDING:
        return limit - (text.pad_token_id or 0) - 1
    if (alike := _alike_until(config)) is not None:
        return alike
    return max([limit, *(_stretched(limit, rope) for rope in _ropes(text))])


def _alike_until(config: PretrainedConfig) -> int | None:
    """Return the length beyond which rotary positions follow from the longest text of a batch; None where they never do.

    The answer about a text would depend on the texts beside and before it.
    """
    text = config.get_text_config()
    changing = [rope for rope in _ropes(text) if rope.get("rope_type") in BY_LENGTH]
    whole = getattr(text, "original_max_position_embeddings", None) or getattr(text, "max_position_embeddings", None)
    return min((int(rope.get("original_max_position_embeddings") or whole or 0) for rope in changing), default=None)


def _ropes(config: PretrainedConfig) -> list[dict[str, Any]]:
    """Return the parameters of the rotary positions; some models have a set for each kind of layer."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [each for each in given.values() if isinstance(each, dict)]
    return nested or [given]


def _stretched(limit: int, rope: dict[str, Any]) -> int:
    """Return the number of positions that a scaling of rotary positions reaches."""
    factor = rope.get("factor")
    if not isinstance(factor, int | float):
        return limit
    return int((rope.get("original_max_position_embeddings") or limit) * factor)


def check_window(config: PretrainedConfig, max_length: int, who: object) -> None:
    """Refuse windows that are longer than a model's positions.

    Raises:
        ModelError: the model takes fewer tokens.
    """
    limit = position_limit(config)
    if limit is not None and max_length > limit:
        alike = _alike_until(config) is not None
        why = "; beyond, its positions follow from the longest text of a batch" if alike else ""
        raise ModelError(
            f"--max-length {max_length}: {who} has positions for {limit} tokens{why}. Give --max-length {limit} or less."
        )


@contextmanager
def _tried(model: PreTrainedModel, refusal: Callable[[str], str]) -> Iterator[None]:
    """Put a model that is tried into evaluation mode for a while; `refusal` makes a message of the reason why it failed."""
    was_training = model.training
    model.eval()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # models raise errors of nearly any class about inputs that they do not take
        raise ModelError(refusal(one_line(error))) from error
    finally:
        model.train(was_training)


@torch.inference_mode()
def check_causal(model: PreTrainedModel, who: object) -> None:
    """Refuse a model whose logits depend on later tokens: change some, and compare the logits before them.

    The model answers about two sequences at once. Changing the second shows how much the answer about the first varies for
    reasons that carry no information: experts round differently when they get other tokens. Most models do not vary.

    Raises:
        ModelError: earlier logits change, the answer about a sequence depends on its neighbour, no logit is a number, or it
            cannot be run.
    """
    limit = position_limit(model.config)
    length = min(TRIED_TOKENS, limit or TRIED_TOKENS)
    first_T, other_T, neighbour_T, stranger_T = _tokens(model.config, length)
    split = length - max(length // 3, 1)
    if split < 1:
        return
    changed_T = torch.cat([first_T[:split], other_T[split:]])
    with _tried(model, lambda reason: f"{who}: it cannot be run as a causal language model: {reason}"):
        before_TV = _answer(model, first_T, neighbour_T)[:split]
        noise = _apart(before_TV, _answer(model, first_T, stranger_T)[:split])
        change = _apart(before_TV, _answer(model, changed_T, neighbour_T)[:split])
    finite = before_TV[before_TV.isfinite()]
    if not len(finite):
        raise ModelError(f"{who}: none of its logits is a number. {overflow_advice(model.dtype)}")
    spread = float((finite - finite.mean()).abs().max())
    name = type(model).__name__
    if noise > NOISE_LIMIT * spread:
        raise ModelError(
            f"{who}: its answer about one sequence depends on the others of the batch or on chance (its logits change by "
            f"{noise:.2g}), so {name} cannot be used. Give a causal language model."
        )
    if change > NOISE_FACTOR * noise + _rounding(model) * spread:
        raise ModelError(
            f"{who}: {name} looks at later tokens: changing them changes the logits before them by {change:.2g}. Give a "
            "causal language model; where this one has is_decoder in its configuration, set it to true if it was trained so."
        )


@torch.no_grad()
def check_packing(model: PreTrainedModel, who: object, logits: Callable[..., Tensor] | None = None) -> None:
    """Refuse a model in which samples that lie in one line see each other, or begin at other positions than alone.

    Two lines of two samples and some padding are shown. Nothing but rounding may change the answer about the second sample
    when the first one changes, and it must be the answer about that sample alone.

    Args:
        model: which answers.
        who: it, for messages.
        logits: gives its logits for `input_ids` with `position_ids` or `attention_mask`; None to call the model.

    Raises:
        ModelError: they do, or the model takes no positions.
    """
    limit = position_limit(model.config)
    length = min(TRIED_TOKENS, limit or TRIED_TOKENS)
    first_T, other_T, neighbour_T, stranger_T = _tokens(model.config, length).to(model.device)
    pad_1 = first_T[:1]
    positions_T = torch.arange(length, device=model.device)
    positions_BR = torch.cat([positions_T, positions_T, pad_1 * 0])[None].expand(2, -1)

    def ask(tokens_BR: Tensor, **layout: Tensor) -> Tensor:
        if logits is not None:
            given_RV = logits({"input_ids": tokens_BR, **layout})
        else:
            given_RV = model(input_ids=tokens_BR, **layout, use_cache=False).logits
        return given_RV.flatten(0, 1).float()

    def second(before_T: Tensor, below_T: Tensor) -> Tensor:
        line_R, below_R = torch.cat([before_T, other_T, pad_1]), torch.cat([below_T, below_T, pad_1])
        return ask(torch.stack([line_R, below_R]), position_ids=positions_BR)[length : 2 * length]

    with _tried(model, lambda reason: f"{who}: it takes no packed samples: {reason}. Leave out --packed."):
        alone_TV = ask(other_T[None], attention_mask=torch.ones_like(other_T)[None])
        packed_TV = second(first_T, neighbour_T)
        noise = _apart(packed_TV, second(first_T, stranger_T))
        change = _apart(packed_TV, second(stranger_T, neighbour_T))
        apart = _apart(packed_TV, alone_TV)
    finite = alone_TV[alone_TV.isfinite()]
    spread = float((finite - finite.mean()).abs().max()) if len(finite) else 0.0
    name = type(model).__name__
    if change > NOISE_FACTOR * noise + _rounding(model) * spread:
        raise ModelError(
            f"{who}: samples packed into one line see each other in {name}: other tokens in one change the logits of the next "
            f"by {change:.2g}. Leave out --packed."
        )
    if apart > NOISE_FACTOR * noise + max(PACKED_NOISE, 16 * torch.finfo(model.dtype).eps) * spread:
        raise ModelError(
            f"{who}: {name} answers otherwise about a sample that lies behind another one in its line: its logits differ by "
            f"{apart:.2g}. Leave out --packed."
        )


def _rounding(model: PreTrainedModel) -> float:
    """Return the share of the spread by which rounding may change logits although no other sequence changed them.

    Where there are no experts, each position is computed by the same operations whatever comes later.
    """
    has_experts = any("expert" in name for name, _ in model.named_modules())
    return torch.finfo(model.dtype).eps * (1.0 if has_experts else 0.125)


def _tokens(config: PretrainedConfig, length: int) -> Tensor:
    """Return int64[4, T]: tokens without a meaning of their own, each time others at the same place."""
    text = config.get_text_config()
    special: set[int] = set()
    for name, value in text.to_dict().items():
        if name.endswith("token_id"):
            special |= {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)}
    rows = int(text.vocab_size)
    usable = [token for token in range(min(rows, 1000)) if token not in special] or [0]
    step = max(len(usable) // 5, 1)
    return torch.tensor(
        [[usable[(step * line + 7 * place + 3) % len(usable)] for place in range(length)] for line in range(4)]
    )


def _answer(model: PreTrainedModel, tokens_T: Tensor, neighbour_T: Tensor) -> Tensor:
    """Return the logits [T, V] of a sequence that is shown with another one."""
    tokens_BT = torch.stack([tokens_T, neighbour_T]).to(answers_on(model))
    output: Any = model(input_ids=tokens_BT, attention_mask=torch.ones_like(tokens_BT), use_cache=False)
    logits_TV: Tensor = output.logits[0].float()
    if logits_TV.shape[0] != len(tokens_T):
        raise ValueError(f"it gives logits of {logits_TV.shape[0]} positions for {len(tokens_T)} tokens")
    return logits_TV


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of the entries that are finite in both; what is not finite is refused elsewhere."""
    both = a.isfinite() & b.isfinite()
    return float((a[both] - b[both]).abs().max()) if both.any() else 0.0
