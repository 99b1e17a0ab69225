"""How the mass outside the listed ids is spread: by one vector for all rows, or by what is known of each row's hidden state.

Axes: N rows, K listed, R coefficients (S with a constant one), V vocabulary of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FixedTail:
    """In proportion to one fixed vector over the vocabulary.

    Attributes:
        log_prior_V: float64[V], finite log weights.
    """

    log_prior_V: Tensor

    @classmethod
    def uniform(cls, vocabulary: int) -> FixedTail:
        """Every unlisted token alike."""
        return cls(torch.zeros(vocabulary, dtype=torch.float64))

    @classmethod
    def prior(cls, prior_V: Tensor) -> FixedTail:
        """In proportion to `prior_V`, positive weights of any sum."""
        return cls(prior_V.double().log())

    @property
    def vocabulary(self) -> int:
        return len(self.log_prior_V)

    def at(self, temperature: float, device: torch.device) -> TemperedTail:
        """The tail at a temperature, computed once and kept."""
        return _tempered(self, temperature, device)

    def logits(self, latent_NR: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """float32[N, V]: logits of the tail, the same for every row."""
        return self.at(1.0, device).log_weight_V.float().expand(rows, -1)


@dataclass(frozen=True, eq=False)
class LatentTail:
    """Each row's own: cap * tanh((latent @ weight.T + base) / cap) + bias, from its coefficients or its hidden state.

    Attributes:
        weight_VR: any float dtype.
        base_V, bias_V: float32, added before and after the cap.
        cap: 0 for none.
    """

    weight_VR: Tensor
    base_V: Tensor
    bias_V: Tensor
    cap: float = 0.0

    @property
    def vocabulary(self) -> int:
        return len(self.base_V)

    def logits(self, latent_NR: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """float32[N, V]: logits of the tail, row by row."""
        if latent_NR is None:
            raise ValueError("this tail is decoded from coefficients, and the targets have none")
        weight_SV, bias_V = _on(self, device)
        # one more coefficient, always 1, adds the base within the product
        logits_NV = torch.nn.functional.pad(latent_NR.float(), (0, 1), value=1.0) @ weight_SV
        return self.cap * torch.tanh(logits_NV / self.cap) + bias_V if self.cap else logits_NV


Tail = FixedTail | LatentTail


@dataclass(frozen=True, eq=False)
class TemperedTail:
    """Weights w(v) = prior(v) ** (1 / T), scaled so that the largest is 1, and their sums.

    Attributes:
        log_weight_V: float64[V], log w.
        weight_V: float32[V], w.
        total: sum of w.
        weighted_log: sum of w log w.
    """

    log_weight_V: Tensor
    weight_V: Tensor
    total: Tensor
    weighted_log: Tensor


@lru_cache(maxsize=16)
def _tempered(tail: FixedTail, temperature: float, device: torch.device) -> TemperedTail:
    log_weight_V = tail.log_prior_V.to(device) / temperature
    log_weight_V = log_weight_V - log_weight_V.max()
    weight_V = log_weight_V.exp()
    return TemperedTail(log_weight_V, weight_V.float(), weight_V.sum(), (weight_V * log_weight_V).sum())


@lru_cache(maxsize=4)
def _on(tail: LatentTail, device: torch.device) -> tuple[Tensor, Tensor]:
    """The weights with one more line, the base, and the bias; without a cap the bias is part of the base."""
    base_V, bias_V = tail.base_V.to(device), tail.bias_V.to(device)
    last_V = base_V if tail.cap else base_V + bias_V
    return torch.cat([tail.weight_VR.to(device).float(), last_V[:, None]], 1).T, bias_V
