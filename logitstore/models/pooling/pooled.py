"""One vector for each text from the hidden states of its tokens.

Axes: B texts, T tokens, D channels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Way = Literal["first", "mean", "last"]

WAYS: tuple[str, ...] = get_args(Way)
"""The hidden state of the first token, the mean over the tokens, or the hidden state of the last token."""


def pooled(hidden_BTD: Tensor, mask_BT: Tensor, way: str) -> Tensor:
    """Return [B, D] in the dtype of the hidden states. Padding on either side counts for nothing.

    Args:
        hidden_BTD: the hidden states.
        mask_BT: int or bool, 0 on padding. The mean over no token is 0.
        way: one of WAYS; the mean is taken in float32, or in float64 where the hidden states are that.
    """
    if way == "mean":
        wide_BTD = hidden_BTD if hidden_BTD.dtype == torch.float64 else hidden_BTD.float()
        weight_BT1 = mask_BT[..., None].to(wide_BTD.dtype)
        return ((wide_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)).to(hidden_BTD.dtype)
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    ranks_T = places_T if way == "last" else places_T.flip(0)
    found_B = ((ranks_T + 1) * (mask_BT != 0)).argmax(-1)
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), found_B]
