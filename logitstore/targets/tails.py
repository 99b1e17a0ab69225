"""How the mass outside the listed ids is spread: by one vector for all rows, or by what is known of each row's hidden state.

Axes: N rows, K listed, R coefficients (S with a constant one), V vocabulary of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from logitstore.models.head import LinearHead


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

    def change(self, temperature: float | Tensor, device: torch.device) -> Tensor | None:
        """See `LatentTail.change`: there is none."""
        return None


@dataclass(frozen=True, eq=False)
class LatentTail:
    """Each row's own: the logits of a linear head, from its coefficients or its hidden state, plus a shift after the cap.

    The shared file of a tail keeps the head as "weight", "base" (its bias) and "cap", and the shift as "bias".

    Attributes:
        head: of the coefficients.
        shift_V: float32.
    """

    head: LinearHead
    shift_V: Tensor

    @property
    def vocabulary(self) -> int:
        return self.head.vocabulary

    def logits(self, latent_NR: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """float32[N, V]: logits of the tail, row by row.

        Raises:
            ValueError: no coefficients are given.
        """
        if latent_NR is None:
            raise ValueError("this tail is decoded from coefficients, and the targets have none")
        head, shift_V = _on(self, device)
        logits_NV = head.logits(torch.nn.functional.pad(latent_NR.float(), (0, 1), value=1.0))
        return logits_NV if shift_V is None else logits_NV + shift_V

    def change(self, temperature: float | Tensor, device: torch.device) -> Tensor | None:
        """float32[V], or [N, V] where each row has a temperature of its own (float[N, 1]): what a temperature adds to the
        logits of the tail before they are divided by it; None where that is nothing.

        The shift makes the mean tail at temperature 1 right, so it undoes what rounding does to probabilities there; at T that
        is less, by 1 / T, so the logits become (t + (1 / T - 1) shift) / T.
        """
        if isinstance(temperature, float | int) and temperature == 1:
            return None
        shift_V = _shift_on(self, device)
        return None if shift_V is None else (1 / temperature - 1) * shift_V


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
def _shift_on(tail: LatentTail, device: torch.device) -> Tensor | None:
    """Return the shift on a device; None where it is 0 for every token, as that of a head."""
    return tail.shift_V.to(device) if bool(tail.shift_V.any()) else None


@lru_cache(maxsize=4)
def _on(tail: LatentTail, device: torch.device) -> tuple[LinearHead, Tensor | None]:
    """Return the head and the shift on a device, with fewer passes over the logits.

    The head takes one more coefficient, always 1, whose weights are the bias, so that the product adds it. Without a cap they
    are bias and shift together, and no shift is left.
    """
    head, shift_V = tail.head, tail.shift_V.to(device)
    last_V = head.base_V.to(device)
    if not head.cap:
        last_V = last_V + shift_V
    weight_VS = torch.cat([head.scaled_weight_VD.to(device).float(), last_V[:, None]], 1)
    return LinearHead(weight_VS, cap=head.cap), shift_V if head.cap else None
