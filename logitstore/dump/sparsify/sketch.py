"""The sketch: a few bytes of the final hidden state that shape each row's own tail.

The tail's logits are decoded as cap(U c + w0) + b from R quantised coefficients c of the hidden state h. Which directions of h
matter is measured by the Fisher information of the tails,

    F = mean over rows of R J W^T (diag(p) - p p^T) W J^T    (p restricted to the tail, R its mass, J the slope of the cap),

because an error e of h costs about e^T F e / 2 nats of KL. Principal components of F^(1/2) h, so that an error costs the
same in every one of them; then each component gets bits where one more saves most (reverse water-filling, Cover and Thomas
2006, section 10.3.3), and the static bias b makes the mean decoded tail equal to the mean true tail.

F is taken at temperatures 1 and 2 together: a budget spent at 1 alone starves students that are trained at 2.

Axes: N rows, D channels, R coefficients, K listed, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import torch
from torch import Tensor

from logitstore.dump.sparsify.prior import prior_of
from logitstore.format.codecs.codebook import MOST_BITS, Codebook, lloyd_max, normal_codebook
from logitstore.models.head import Head, capped
from logitstore.targets.chunks import chunk_rows

TEMPERATURES = (1.0, 2.0)


SMALLEST_EIGENVALUE = 1e-9
"""Of F, relative to the largest: directions that change no tail are not divided by zero."""


BIAS_ROUNDS, BIAS_STEP, BIAS_CAUTION = 3, 0.9, 0.3
"""Rounds of fitting the bias, the share of the log ratio taken in each, and the mass added to both sides of the ratio, in
average tail masses, so that tokens hardly seen in the pilot move little."""


BIAS_BOUND = 8.0
"""Most by which the bias may move a logit."""


class TailPilot:
    """What is learnt about tails from the pilot rows.

    Args:
        head: of the teacher; without one (teachers that give logits only) just the mean tail is kept.
    """

    def __init__(self, vocabulary: int, head: Head | None = None) -> None:
        self.rows = 0
        self._sum_V = torch.zeros(vocabulary, dtype=torch.float64)
        self._head = head
        self._hidden: list[Tensor] = []
        self._ids: list[Tensor] = []
        self._mass: list[Tensor] = []
        if head is not None:
            device = head.weight_VD.device
            self._diagonal_V = torch.zeros(vocabulary, device=device)
            self._outer_DD = torch.zeros(head.width, head.width, device=device)
            self._weight_VD = head.weight_VD.float() * head.multiplier

    def add(self, logits_NV: Tensor, listed_NK: Tensor, hidden_ND: Tensor | None = None) -> None:
        """Count rows.

        Args:
            logits_NV: raw, perhaps with padding columns beyond the vocabulary.
            listed_NK: ids that are not of the tail; an empty slot is an id at or above the vocabulary.
            hidden_ND: what the head made them from.
        """
        logits_NV = logits_NV[:, : len(self._sum_V)].float()
        tail_NV = without(torch.softmax(logits_NV, -1), listed_NK)
        self._sum_V += tail_NV.sum(0).cpu().double()
        self.rows += len(logits_NV)
        if self._head is None or hidden_ND is None:
            return
        self._hidden.append(hidden_ND.float().cpu())
        self._ids.append(listed_NK.cpu())
        self._mass.append(tail_NV.sum(-1).cpu())
        slope_NV = 1 - (logits_NV / self._head.cap) ** 2 if self._head.cap else None
        for temperature in TEMPERATURES:
            if temperature != 1:
                tail_NV = without(torch.softmax(logits_NV / temperature, -1), listed_NK)
            mass_N1 = tail_NV.sum(-1, keepdim=True)
            sloped_NV = tail_NV if slope_NV is None else tail_NV * slope_NV
            self._diagonal_V += (sloped_NV if slope_NV is None else sloped_NV * slope_NV).sum(0)
            mean_ND = sloped_NV @ self._weight_VD
            self._outer_DD += (mean_ND / mass_N1.clamp(min=1e-12)).T @ mean_ND

    @property
    def mean_tail_V(self) -> Tensor:
        """float64[V]: the mean unlisted probability of every token."""
        return self._sum_V / max(self.rows, 1)

    def prior(self) -> Tensor:
        """float32[V]: see `prior_of`."""
        return prior_of(self._sum_V)

    def hidden(self) -> Tensor:
        """float32[N, D]: the final hidden states of the rows."""
        return torch.cat(self._hidden)

    def sketch(self, size: int) -> dict[str, Tensor]:
        """Fit a sketch of `size` bytes a row: the tensors of its shared file (docs/format.md).

        Raises:
            ValueError: the pilot was given no hidden states.
        """
        if self._head is None or not self._hidden:
            raise ValueError("a sketch needs the hidden states of the pilot")
        hidden_ND, mass_N = self.hidden(), torch.cat(self._mass)
        weight_N = mass_N.double() / mass_N.double().sum() if mass_N.sum() > 0 else torch.ones_like(mass_N).double()
        mean_D = (hidden_ND * weight_N[:, None]).sum(0) / weight_N.sum()
        root_DD, inverse_DD = self._roots()
        centred_ND = (hidden_ND.double() - mean_D) @ root_DD
        variance_D, basis_DD = torch.linalg.eigh((centred_ND * weight_N[:, None]).T @ centred_ND)
        variance_D, basis_DD = variance_D.flip(0).clamp(min=0), basis_DD.flip(1)
        widths = allocate(variance_D.tolist(), 8 * size)
        deviation_R = variance_D[: len(widths)].sqrt().clamp(min=1e-12)
        projection_DR = root_DD @ basis_DD[:, : len(widths)] / deviation_R
        back_DR = inverse_DD @ basis_DD[:, : len(widths)] * deviation_R
        device = self._weight_VD.device
        codebook = normal_codebook(widths)
        shared = {
            "prior": self.prior(),
            "mean": mean_D.float(),
            "projection": projection_DR.float().contiguous(),
            "widths": torch.tensor(widths, dtype=torch.uint8),
            "levels": torch.from_numpy(codebook.levels_RL),
            "weight": (self._weight_VD @ back_DR.float().to(device)).half().cpu(),
            "base": (self._weight_VD @ mean_D.float().to(device) + self._head.base_V.float()).cpu(),
            "cap": torch.tensor([self._head.cap]),
        }
        return shared | {"bias": self._bias(shared, codebook, hidden_ND, mass_N)}

    def _roots(self) -> tuple[Tensor, Tensor]:
        """float64 F^(1/2) and F^(-1/2)."""
        fisher_DD = torch.zeros_like(self._outer_DD)
        for first in range(0, len(self._diagonal_V), 1 << 16):
            rows = slice(first, first + (1 << 16))
            some_VD = self._weight_VD[rows]
            fisher_DD += (some_VD.T * self._diagonal_V[rows]) @ some_VD
        fisher_DD = ((fisher_DD - self._outer_DD) / max(self.rows, 1)).cpu().double()
        values_D, vectors_DD = torch.linalg.eigh((fisher_DD + fisher_DD.T) / 2)
        values_D = values_D.clamp(min=max(float(values_D.max()) * SMALLEST_EIGENVALUE, 1e-30))
        return (vectors_DD * values_D.sqrt()) @ vectors_DD.T, (vectors_DD * values_D.rsqrt()) @ vectors_DD.T

    def _bias(self, shared: dict[str, Tensor], codebook: Codebook, hidden_ND: Tensor, mass_N: Tensor) -> Tensor:
        """float32[V]: added to the decoded tail logits, so that the mean decoded tail is the mean true one."""
        device = self._weight_VD.device
        latent_NR = codebook.decode(torch.from_numpy(codebook.encode(project(shared, hidden_ND).numpy())))
        weight_VR = shared["weight"].float().to(device)
        base_V, cap = shared["base"].to(device), float(shared["cap"])
        true_V = self.mean_tail_V
        added = BIAS_CAUTION * true_V.mean()
        bias_V = torch.zeros_like(base_V)
        if not added > 0:
            return bias_V.cpu()
        for _ in range(BIAS_ROUNDS):
            found_V = torch.zeros_like(true_V)
            for rows in _slices(len(latent_NR), len(base_V), device):
                logits_NV = capped(latent_NR[rows].to(device) @ weight_VR.T + base_V, cap) + bias_V
                logits_NV = without(logits_NV, torch.cat(self._ids)[rows].to(device), -torch.inf)
                tail_NV = torch.softmax(logits_NV, -1) * mass_N[rows].to(device)[:, None]
                found_V += tail_NV.sum(0).cpu().double()
            ratio_V = (true_V + added) / (found_V / self.rows + added)
            bias_V = (bias_V + (BIAS_STEP * ratio_V.log()).float().to(device)).clamp(-BIAS_BOUND, BIAS_BOUND)
        return bias_V.cpu()


def project(shared: dict[str, Tensor], hidden_ND: Tensor) -> Tensor:
    """float32[N, R]: the coefficients of hidden states, of unit variance."""
    return (hidden_ND.float() - shared["mean"].to(hidden_ND.device)) @ shared["projection"].to(hidden_ND.device)


def without(values_NV: Tensor, listed_NK: Tensor, instead: float = 0.0) -> Tensor:
    """A copy with the listed ids replaced; ids at or above V are empty slots."""
    count, vocabulary = values_NV.shape
    if listed_NK.shape[1] == 0:
        return values_NV
    out_NV = values_NV.clone()
    empty_NK = listed_NK >= vocabulary
    if not empty_NK.any():
        return out_NV.scatter_(1, listed_NK, instead)
    rows_NK = torch.arange(count, device=listed_NK.device)[:, None].expand_as(listed_NK)
    out_NV[rows_NK[~empty_NK], listed_NK[~empty_NK]] = instead
    return out_NV


def allocate(variances: list[float], bits: int) -> tuple[int, ...]:
    """Bits for every coefficient, the variances falling: each bit goes where it takes most from the squared error.

    Coefficients that get none are left out; at least one is kept. No coefficient gets more than MOST_BITS.
    """
    lost = [lloyd_max(width)[1] for width in range(MOST_BITS + 1)]
    widths = [0] * len(variances)
    heap = [(-variance * (lost[0] - lost[1]), place) for place, variance in enumerate(variances)]
    heapq.heapify(heap)
    for _ in range(bits):
        if not heap:
            break
        _, place = heapq.heappop(heap)
        widths[place] += 1
        if widths[place] < MOST_BITS:
            saved = lost[widths[place]] - lost[widths[place] + 1]
            heapq.heappush(heap, (-variances[place] * saved, place))
    return tuple(width for width in widths if width) or (1,)


def _slices(rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    size = chunk_rows(vocabulary, device.type)
    return (slice(first, first + size) for first in range(0, rows, size))
