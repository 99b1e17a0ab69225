"""The linear head of a causal language model: how its final hidden state becomes its logits.

logits = cap * tanh((multiplier * (h @ W.T + bias)) / cap), where most models have neither multiplier nor bias nor cap. What a
model's configuration says about them is checked against the model's own logits before anything is stored.

Axes: N rows, D channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.errors import ModelError

_MULTIPLIERS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""Where configurations keep what multiplies (1) or divides (-1) the logits: Cohere, Falcon-H1, Granite."""


_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logits_soft_cap")
"""Where they keep what bends them: Gemma 2 and later, RecurrentGemma, xLSTM."""


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head over the true vocabulary.

    Attributes:
        weight_VD: in the model's own dtype.
        base_V: float32, added to the products; 0 without a bias.
        multiplier: of the products.
        cap: bound of the logits, 0 for none.
    """

    weight_VD: Tensor
    base_V: Tensor
    multiplier: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, model: PreTrainedModel, config: PretrainedConfig, vocabulary: int) -> Head:
        """The head of a loaded model.

        Raises:
            ModelError: its output layer is not linear.
        """
        layer: Any = model.get_output_embeddings()
        name = type(model).__name__
        if not isinstance(layer, nn.Linear):
            raise ModelError(
                f"{name}: its output layer is {type(layer).__name__}, not linear, so hidden states cannot stand for its "
                "logits. Use --preset topk."
            )
        text = config.get_text_config()
        multiplier = 1.0
        for key, power in _MULTIPLIERS.items():
            multiplier *= float(getattr(text, key, None) or 1.0) ** power
        cap = next((float(value) for key in _CAPS if (value := getattr(text, key, None))), 0.0)
        weight_VD = layer.weight.detach()[:vocabulary]
        base_V = torch.zeros(vocabulary, device=weight_VD.device)
        if layer.bias is not None:
            base_V = multiplier * layer.bias.detach()[:vocabulary].float()
        return cls(weight_VD, base_V, multiplier, cap)

    @property
    def width(self) -> int:
        return self.weight_VD.shape[1]

    def uncapped(self, hidden_ND: Tensor) -> Tensor:
        """float32[N, V], before the cap."""
        return hidden_ND.float() @ self.weight_VD.float().T * self.multiplier + self.base_V

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """float32[N, V]."""
        return capped(self.uncapped(hidden_ND), self.cap)

    def matching(self, name: str, hidden_ND: Tensor, logits_NV: Tensor) -> Head:
        """This head, or the one without the multiplier where the model applies that before its output layer.

        Args:
            name: of the architecture, for the error.
            hidden_ND, logits_NV: the input of the output layer and the model's own logits, of a few rows.

        Raises:
            ModelError: neither gives the model's own logits, up to their dtype's rounding.
        """
        own_NV = logits_NV[:, : len(self.weight_VD)].float()
        if not torch.isfinite(own_NV).all():
            raise ModelError(f"{name}: some of its logits are not finite, so no head gives them. Use --preset topk.")
        # products are summed in another order here; a few units in the last place of the largest logit
        allowed = max(4 * torch.finfo(logits_NV.dtype).eps, 2e-5) * own_NV.abs().max().clamp(min=1.0)
        for head in (self, replace(self, multiplier=1.0, base_V=self.base_V / self.multiplier)):
            apart = (head.logits(hidden_ND) - own_NV).abs().max()
            if apart <= allowed:
                return head
        raise ModelError(
            f"{name}: its logits differ from head times hidden state by {apart:.3g}: this architecture does something "
            "to them that logitstore does not know. Use --preset topk."
        )


def capped(logits_NV: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), or x itself without a cap (0)."""
    return cap * torch.tanh(logits_NV / cap) if cap else logits_NV


@dataclass(frozen=True, eq=False)
class LinearHead:
    """logits = cap * tanh(multiplier * (h @ W.T + bias) / cap); no tanh where cap is 0.

    Attributes:
        weight_VD: the parameter itself.
        bias_V: the parameter, or None.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    multiplier: float = 1.0
    cap: float = 0.0
