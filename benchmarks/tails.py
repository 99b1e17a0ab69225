"""Tails of the study of `ways.py` that no preset has: a prior by the row's first token, draws that correct a tail, and hidden
states that follow from the logprobs of a few tokens.

Axes: N rows (n of a chunk), D channels, J draws, K listed, C contexts, P probe tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitstore.dump.sparsify.sketch import without
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_probs
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives import forward_kl

LEAST_ROWS, ROWS_OF_PRIOR = 20, 5.0
"""A context has a prior of its own if so many rows of the pilot have it; the prior of all rows counts in it as so many."""

LISTED, CANDIDATES, CHOOSING_ROWS, NOISE = 20, 4096, 2048, 0.1
"""Tokens that a server lists beside the probes; tokens among which the probes are chosen, by so many rows; the variance of a
logprob's error."""


@dataclass(frozen=True)
class Corrected:
    """Targets and draws that correct them: sum_v (p(v) - m(v)) f(v) is sum_j weights_j f(ids_j) on average, where m is what
    the targets say.

    Attributes:
        targets: m.
        ids_NJ: int64[N, J].
        weights_NJ: float32[N, J], of both signs.
    """

    targets: Targets
    ids_NJ: Tensor
    weights_NJ: Tensor

    def __len__(self) -> int:
        return len(self.ids_NJ)

    def __getitem__(self, rows: slice) -> Corrected:
        return Corrected(self.targets[rows], self.ids_NJ[rows], self.weights_NJ[rows])


def corrected(logits_nV: Tensor, stored: Corrected, gold_n: Tensor, temperature: float) -> Tensor:
    """KL from the targets, with the draws added: on average the KL from the teacher, up to a constant."""
    logprobs_nV = torch.log_softmax(logits_nV.float() / temperature, -1)
    drawn_n = (stored.weights_NJ * logprobs_nV.gather(1, stored.ids_NJ)).sum(-1)
    return forward_kl(logits_nV, stored.targets, temperature=temperature) - temperature**2 * drawn_n


def draws(
    logits_nV: Tensor, targets: Targets, count: int, source: str, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return ids int64[n, count] and weights float32[n, count] of draws that correct some targets.

    With m the targets and p the teacher, both at a temperature, a draw v of q weighs (p(v) - m(v)) / (count q(v)). q is the
    teacher's tail ("tail"), as in the sparsifier `hybrid`, or |p - m| over its sum Z ("error"), where every weight is Z / count
    or its negative: the id, one bit for the sign, and one Z a row have to be kept.
    """
    error_nV = torch.softmax(logits_nV.float() / temperature, -1)
    model_nV = dense_probs(targets, temperature)[0]
    source_nV = without(error_nV, targets.ids_NK)
    error_nV = error_nV - model_nV
    if source == "error":
        source_nV = error_nV.abs()
    total_n1 = source_nV.sum(-1, keepdim=True)
    ids_nJ = torch.multinomial(source_nV.clamp(min=1e-30), count, replacement=True, generator=generator)
    share_nJ = source_nV.gather(1, ids_nJ).clamp(min=1e-30) / total_n1.clamp(min=1e-30)
    return ids_nJ, (error_nV.gather(1, ids_nJ) / share_nJ / count).half().float()


@dataclass(frozen=True)
class Contexts:
    """Priors by the most probable token of a row, and one for all other rows.

    Attributes:
        place_V: int64[V], the number of a token's prior; 0 is the prior of all rows.
        tail: of a row whose latent is 1 at its number and 0 elsewhere.
    """

    place_V: Tensor
    tail: LatentTail

    @classmethod
    def of(cls, tails: Iterator[tuple[Tensor, Tensor]], firsts_N: Tensor, vocabulary: int) -> Contexts:
        """Fit them on chunks of (most probable tokens [n], tails [n, V]) of the pilot, whose first tokens are known."""
        often_V = torch.bincount(firsts_N, minlength=vocabulary) >= LEAST_ROWS
        place_V = torch.zeros(vocabulary, dtype=torch.long)
        place_V[often_V] = torch.arange(1, int(often_V.sum()) + 1)
        sum_CV = torch.zeros(int(often_V.sum()) + 1, vocabulary)
        count_C = torch.bincount(place_V[firsts_N], minlength=len(sum_CV))
        every_V = torch.zeros(vocabulary)
        for first_n, tail_nV in tails:
            sum_CV.index_add_(0, place_V[first_n], tail_nV)
            every_V += tail_nV.sum(0)
        prior_V = every_V / every_V.sum()
        prior_V = prior_V + 0.01 * prior_V.mean()
        mass_C1 = sum_CV.sum(1, keepdim=True) / count_C.clamp(min=1)[:, None]
        prior_CV = sum_CV + ROWS_OF_PRIOR * mass_C1 * prior_V
        prior_CV[0] = prior_V
        return cls(place_V, LatentTail(LinearHead(prior_CV.log().T.contiguous()), torch.zeros(vocabulary)))

    def given(self, targets: Targets) -> Targets:
        """Return targets with the tail of their most probable token."""
        place_N = self.place_V[targets.ids_NK[:, 0]]
        latent_NC = torch.nn.functional.one_hot(place_N, self.tail.head.width).float()
        return replace(targets, tail=self.tail, latent=latent_NC)


def probes_of(head: LinearHead, mean_V: Tensor, covariance_DD: Tensor, count: int) -> Tensor:
    """Return int64[count]: tokens whose logits say most of the hidden state.

    Among the most probable of the tails, weighted by their mean probability, each token is the one of which those before it
    leave most unknown: pivoted Cholesky of the covariance of the logits.
    """
    tokens = mean_V.topk(min(CANDIDATES, len(mean_V))).indices
    share_M = (mean_V[tokens] / mean_V[tokens].sum()).float()
    weight_MD = head.weight_VD[tokens] - (share_M[:, None] * head.weight_VD[tokens]).sum(0)
    weight_MD = weight_MD * share_M.sqrt()[:, None]
    spread_MD = weight_MD @ covariance_DD
    left_M = (spread_MD * weight_MD).sum(1)
    found_MP = torch.zeros(len(tokens), 0)
    chosen: list[int] = []
    for _ in range(count):
        place = int(left_M.argmax())
        column_M = spread_MD @ weight_MD[place] - found_MP @ found_MP[place]
        column_M = column_M / left_M[place].sqrt()
        found_MP = torch.cat([found_MP, column_M[:, None]], 1)
        left_M = (left_M - column_M**2).clamp(min=0)
        left_M[place] = -1.0
        chosen.append(place)
    return tokens[torch.tensor(chosen)]


def inferred(head: LinearHead, hidden_ND: Tensor, pilot: Tensor, probes: int) -> Tensor:
    """Return float32[N, D]: what the logprobs of the listed tokens and of the probes say of the hidden states.

    The states are taken as normally distributed, with the mean and the covariance of the pilot's; a logprob is a linear
    function of them up to the row's unknown normaliser. So the best guess is the conditional mean, by least squares. The head
    and the pilot's states must be known.
    """
    mean_D = hidden_ND[pilot].mean(0)
    centred_ND = hidden_ND[pilot] - mean_D
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    mean_V = torch.zeros(head.vocabulary)
    for some in pilot[:CHOOSING_ROWS].split(42):
        logits_nV = head.logits(hidden_ND[some])
        mean_V += without(torch.softmax(logits_nV, -1), logits_nV.topk(LISTED).indices).sum(0)
    asked_P = probes_of(head, mean_V, covariance_DD, probes)
    spread_VD = head.weight_VD.float() @ covariance_DD
    known = []
    for some in torch.arange(len(hidden_ND)).split(42):
        logits_nV = head.logits(hidden_ND[some])
        listed_nK = logits_nV.topk(LISTED).indices
        ids_nM = torch.cat([listed_nK, asked_P.expand(len(some), -1)], 1)
        weight_nMD, spread_nMD = head.weight_VD[ids_nM].float(), spread_VD[ids_nM]
        logprobs_nM = torch.log_softmax(logits_nV, -1).gather(1, ids_nM).half().float()
        # a probe that is listed is known twice, and the noise keeps the matrix invertible
        covariance_nMM = spread_nMD @ weight_nMD.mT + NOISE * torch.eye(ids_nM.shape[1]) + 1e4
        left_nM = logprobs_nM - weight_nMD @ mean_D
        solved_nM = torch.linalg.solve(covariance_nMM, left_nM)
        known.append(mean_D + (spread_nMD * solved_nM[:, :, None]).sum(1))
    return torch.cat(known)
