"""The linear head of a model: the one formula by which a hidden state becomes logits.

    logits = cap * tanh(multiplier * (h W^T + bias) / cap)

The bias is added before the multiplier, and both come before the cap. Without a cap (0) there is no tanh; most models have
neither multiplier nor bias nor cap. The teacher's head, the student's head in the loss and the head that decodes a stored tail
are all values of this class. What a model's configuration says about its head is compared with the model's own logits before
anything is stored.

Axes: N rows, D channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from logitstore.errors import ModelError
from logitstore.models.placing.spread import answers_on
from logitstore.models.placing.weights import whole_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


_MULTIPLIERS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""Keys under which configurations keep what multiplies (1) or divides (-1) the logits: Cohere, Falcon-H1, Granite."""


_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logits_soft_cap")
"""Keys under which they keep the cap: Gemma 2 and later, RecurrentGemma, xLSTM."""


@dataclass(frozen=True, eq=False)
class LinearHead:
    """logits = cap * tanh(multiplier * (h W^T + bias) / cap); no tanh where the cap is 0.

    Attributes:
        weight_VD: W, any float dtype: a parameter itself where the head is trained, else detached.
        bias_V: any float dtype; None where there is none.
        multiplier: of the products and the bias.
        cap: bound of the logits, 0 for none.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    multiplier: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, model: PreTrainedModel, config: PretrainedConfig, vocabulary: int) -> LinearHead:
        """Return the head of a loaded model, detached and cut to its first `vocabulary` rows.

        Raises:
            ModelError: its output layer is not linear.
        """
        layer: Any = model.get_output_embeddings()
        name = type(model).__name__
        if not isinstance(layer, nn.Linear):
            raise ModelError(
                f"{name}: its output layer is {type(layer).__name__}, not linear, so hidden states cannot stand for its "
                "logits. Use --preset small."
            )
        multiplier, cap = scaling_of(config)
        # what is put away until it is needed comes from the memory of the machine
        device = answers_on(model) if layer.weight.is_meta else layer.weight.device
        bias_V = None if layer.bias is None else whole_of(model, layer, "bias")[:vocabulary].to(device)
        weight_VD = whole_of(model, layer).to(device)
        if hasattr(weight_VD, "__tensor_flatten__") or not weight_VD.is_floating_point():
            raise ModelError(f"{name}: the weights of its output layer are packed. Use --preset small.")
        return cls(weight_VD[:vocabulary], bias_V, multiplier, cap)

    @property
    def vocabulary(self) -> int:
        return self.weight_VD.shape[0]

    @property
    def width(self) -> int:
        return self.weight_VD.shape[1]

    @property
    def scaled_weight_VD(self) -> Tensor:
        """multiplier * W: in the dtype of W where the multiplier is 1, else float32."""
        return self.weight_VD if self.multiplier == 1 else self.weight_VD.float() * self.multiplier

    @property
    def base_V(self) -> Tensor:
        """float32[V]: multiplier * bias, 0 without a bias. The argument of the cap is h @ scaled_weight.T + base."""
        if self.bias_V is None:
            return torch.zeros(self.vocabulary, device=self.weight_VD.device)
        return self.multiplier * self.bias_V.float()

    def from_products_(self, products_NV: Tensor) -> Tensor:
        """Write multiplier * (products + bias) over the products h W^T, and return them."""
        if self.bias_V is not None:
            products_NV += self.bias_V
        if self.multiplier != 1:
            products_NV *= self.multiplier
        return products_NV

    def uncapped(self, hidden_ND: Tensor) -> Tensor:
        """float32[N, V]: the argument of the cap, multiplier * (h W^T + bias)."""
        return self.from_products_(hidden_ND.float() @ self.weight_VD.float().T)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32[N, V]."""
        return self.capped(self.uncapped(hidden_ND))

    def capped(self, argument_NV: Tensor) -> Tensor:
        """Return the logits [N, V] of the argument of the cap."""
        return self.cap * torch.tanh(argument_NV / self.cap) if self.cap else argument_NV

    def matching(self, name: str, hidden_ND: Tensor, logits_NV: Tensor) -> LinearHead:
        """Return this head, or the one without the multiplier where the model applies that before its output layer.

        Args:
            name: of the architecture, for the error.
            hidden_ND, logits_NV: the input of the output layer and the model's own logits, of a few rows.

        Raises:
            ModelError: neither gives the model's own logits, up to their dtype's rounding.
        """
        own_NV = logits_NV[:, : self.vocabulary].float()
        if own_NV.isnan().any() or own_NV.isposinf().any():
            raise ModelError(f"{name}: some of its logits are no numbers. {overflow_advice(logits_NV.dtype)}")
        if not torch.isfinite(own_NV).all():
            raise ModelError(f"{name}: some of its logits are not finite, so no head gives them. Use --preset small.")
        # products are summed in another order here; a few units in the last place of the largest logit
        allowed = max(4 * torch.finfo(logits_NV.dtype).eps, 2e-5) * own_NV.abs().max().clamp(min=1.0)
        for head in (self, replace(self, multiplier=1.0)):
            apart = (head.logits(hidden_ND) - own_NV).abs().max()
            if apart <= allowed:
                return head
        raise ModelError(
            f"{name}: its logits differ from head times hidden state by {apart:.3g}: this architecture does something "
            "to them that logitstore does not know. Use --preset small."
        )


def scaling_of(config: PretrainedConfig) -> tuple[float, float]:
    """Return what a configuration says of the logits: their multiplier, and their cap, 0 for none."""
    text = config.get_text_config()
    multiplier = 1.0
    for key, power in _MULTIPLIERS.items():
        multiplier *= float(getattr(text, key, None) or 1.0) ** power
    return multiplier, next((float(value) for key in _CAPS if (value := getattr(text, key, None))), 0.0)


def overflow_advice(dtype: torch.dtype) -> str:
    """Return what to do about logits that are NaN or infinite, as the end of a message."""
    if dtype == torch.float16:
        return "They overflow float16: use --dtype bfloat16 or float32."
    return "Check its weights." if dtype == torch.float32 else "Try --dtype float32, or check its weights."
