"""The sketch: a few bytes of the final hidden state that shape each row's own tail.

The tail's logits are decoded as cap(U c + w0) + b from R quantised coefficients c of the hidden state h. The Fisher information
of the tails measures the importance of the directions of h,

    F = mean over rows of R J W^T (diag(p) - p p^T) W J^T    (p restricted to the tail, R its mass, J the slope of the cap),

because an error e of h costs about e^T F e / 2 nats of KL. The coefficients are the principal components of F^(1/2) h, so that
an error costs the same in each of them. Each bit goes to the component where it reduces the error most (reverse
water-filling, Cover and Thomas 2006, section 10.3.3). The static bias b makes the mean decoded tail equal to the mean true
tail.

F is the sum over temperatures 1 and 2: with temperature 1 alone, students trained at 2 would get a worse tail.

Axes: N rows, D channels, R coefficients, K listed, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import torch
from torch import Tensor

from logitstore.dump.sparsify.prior import prior_of
from logitstore.format.codecs.codebook import MOST_BITS, Codebook, lloyd_max, normal_codebook
from logitstore.models.head import LinearHead
from logitstore.targets.chunks import chunk_rows

TEMPERATURES = (1.0, 2.0)


SMALLEST_EIGENVALUE = 1e-9
"""Lower bound of the eigenvalues of F, relative to the largest. It avoids a division by zero."""


BIAS_ROUNDS, BIAS_STEP, BIAS_CAUTION = 3, 0.9, 0.3
"""Fit of the bias: count of rounds, step of each round as a share of the log ratio, and the mass added to both sides of the
ratio, in mean tail masses. The added mass keeps the bias small for tokens that are rare in the pilot."""


BIAS_BOUND = 8.0
"""The largest absolute value of the bias of a logit."""


class TailPilot:
    """Collects statistics of the tails of the pilot rows.

    Args:
        vocabulary: count of token ids.
        head: the head of the teacher; without one (teachers that give logits only) only the mean tail is collected.
    """

    def __init__(self, vocabulary: int, head: LinearHead | None = None) -> None:
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
            self._weight_VD = head.scaled_weight_VD.float()

    def add(self, logits_NV: Tensor, listed_NK: Tensor, hidden_ND: Tensor | None = None) -> None:
        """Add rows to the statistics.

        Args:
            logits_NV: raw logits, with or without padding columns beyond the vocabulary.
            listed_NK: listed ids, which do not belong to the tail; an id at or above the vocabulary is an empty slot.
            hidden_ND: the hidden states that the head made the logits from.
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
        """Return the prior, float32[V]; see `prior_of`."""
        return prior_of(self._sum_V)

    def hidden(self) -> Tensor:
        """Return the final hidden states of the rows, float32[N, D]."""
        return torch.cat(self._hidden)

    def sketch(self, size: int) -> dict[str, Tensor]:
        """Fit a sketch of `size` bytes per row; return the tensors of its shared file (docs/format.md).

        Raises:
            ValueError: `add` got no hidden states.
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
            "base": (self._weight_VD @ mean_D.float().to(device) + self._head.base_V).cpu(),
            "cap": torch.tensor([self._head.cap]),
        }
        return shared | {"bias": self._bias(shared, codebook, hidden_ND, mass_N)}

    def _roots(self) -> tuple[Tensor, Tensor]:
        """Return F^(1/2) and F^(-1/2), float64[D, D]."""
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
        """Return the bias of the decoded tail logits, float32[V]; it makes the mean decoded tail equal the mean true tail."""
        device = self._weight_VD.device
        latent_NR = codebook.decode(torch.from_numpy(codebook.encode(project(shared, hidden_ND).numpy())))
        head = LinearHead(shared["weight"].float().to(device), shared["base"].to(device), cap=float(shared["cap"]))
        true_V = self.mean_tail_V
        added = BIAS_CAUTION * true_V.mean()
        bias_V = torch.zeros(head.vocabulary, device=device)
        if not added > 0:
            return bias_V.cpu()
        for _ in range(BIAS_ROUNDS):
            decoded_V = torch.zeros_like(true_V)
            for rows in _slices(len(latent_NR), head.vocabulary, device):
                logits_NV = head.logits(latent_NR[rows].to(device)) + bias_V
                logits_NV = without(logits_NV, torch.cat(self._ids)[rows].to(device), -torch.inf)
                tail_NV = torch.softmax(logits_NV, -1) * mass_N[rows].to(device)[:, None]
                decoded_V += tail_NV.sum(0).cpu().double()
            ratio_V = (true_V + added) / (decoded_V / self.rows + added)
            bias_V = (bias_V + (BIAS_STEP * ratio_V.log()).float().to(device)).clamp(-BIAS_BOUND, BIAS_BOUND)
        return bias_V.cpu()


def project(shared: dict[str, Tensor], hidden_ND: Tensor) -> Tensor:
    """Return the coefficients of hidden states, float32[N, R], with unit variance."""
    return (hidden_ND.float() - shared["mean"].to(hidden_ND.device)) @ shared["projection"].to(hidden_ND.device)


def without(values_NV: Tensor, listed_NK: Tensor, instead: float = 0.0) -> Tensor:
    """Return a copy with the value `instead` at the listed ids; ids at or above V are empty slots."""
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
    """Return the count of bits of every coefficient: each bit goes where it reduces the squared error most.

    Coefficients without bits are left out, but one is always kept. No coefficient gets more than MOST_BITS.

    Args:
        variances: variances of the coefficients, falling.
        bits: count of bits of all coefficients together.
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
