"""The ways to keep a row that `quality.py` compares, each with its loss, and the targets made of the teacher's rows.

Axes: N rows, D channels, K listed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.random import DRAWS, POSITIONS, uniform
from logitstore.dump.fit import head_tensors
from logitstore.dump.sparsify.directions import DIRECTION_ROWS, JUDGED, Directions
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.rounding.codes import rounding_of
from logitstore.dump.sparsify.sketch import TailPilot, without
from logitstore.dump.sparsify.summary import Summary
from logitstore.format.positions import share_of
from logitstore.format.presets import row_of
from logitstore.models.head import LinearHead
from logitstore.targets.decoder import Decoder
from logitstore.targets.shared import latents_of
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import AnyTargets, Targets
from logitstore.text.positions.choose import highest, lowest
from logitstore.text.sample import key_of
from logitstore.train.objectives import cross_entropy, forward_kl, lumped_kl, renormalised_kl
from students import ROWS, Loss, Rows
from tails import Contexts, Corrected, corrected, draws, inferred

PILOT_ROWS = 12288


def gold_only(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """Cross-entropy alone."""
    return cross_entropy(logits_nV, gold_n)


def whole(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """KL from the stored distribution with its tail."""
    return forward_kl(logits_nV, stored, temperature=temperature)


def renormalised(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """KL from the listed tokens as if there were no others."""
    return renormalised_kl(logits_nV, stored, temperature=temperature)


def lumped(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """KL with all unlisted tokens as one, at temperature 1."""
    return lumped_kl(logits_nV, stored)


def unlisted_gold(logits_nV: Tensor, stored: Targets, gold_n: Tensor) -> Tensor:
    """Cross-entropy on gold tokens that are not listed, 0 elsewhere: one draw of the tail."""
    is_listed_n = (stored.ids_NK == gold_n[:, None]).any(1)
    return torch.where(is_listed_n, 0.0, cross_entropy(logits_nV, gold_n))


def completed(weight: float, base: Loss) -> Loss:
    """Return a loss with the gold token as a draw of the tail, times a weight."""

    def loss(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
        return base(logits_nV, stored, gold_n, temperature) + weight * unlisted_gold(logits_nV, stored, gold_n)

    return loss


def listed(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """-sum_S p log s: the cross-entropy of the listed tokens alone, at temperature 1. With one draw of the tail it is the whole
    cross-entropy on average, if gold tokens are draws of the teacher."""
    logprobs_nK = torch.log_softmax(logits_nV.float(), -1).gather(1, stored.ids_NK)
    probs_nK = stored.logprobs_NK.exp()
    return torch.where(probs_nK > 0, -probs_nK * logprobs_nK, 0.0).sum(-1)


def within(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
    """T**2 KL among the listed tokens, both sides renormalised over them at temperature T, times the listed mass."""
    student_nK = torch.log_softmax(logits_nV.float().gather(1, stored.ids_NK) / temperature, -1)
    teacher_nK = torch.log_softmax(stored.logprobs_NK / temperature, -1)
    mass_n: Tensor = stored.logprobs_NK.exp().sum(-1)
    loss_n: Tensor = (teacher_nK.exp() * (teacher_nK - student_nK)).sum(-1)
    return temperature**2 * mass_n * loss_n


def both(weight: float, first: Loss, second: Loss) -> Loss:
    """Return (1 - weight) * first + weight * second."""

    def loss(logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
        rest = first(logits_nV, stored, gold_n, temperature)
        return (1 - weight) * rest + weight * second(logits_nV, stored, gold_n, temperature)

    return loss


@dataclass(frozen=True)
class Way:
    """A way is one form of keeping a row, with the loss that goes with it, and the weight of the gold tokens of all positions
    beside it.

    Attributes:
        preset: of the row; None for no teacher, "live" for the teacher itself.
        settings: of the row, in place of the preset's.
        loss: of each row.
        temperatures: of the training.
        positions: which rows are kept.
        gold, last: see `Lesson`.
        from_logits: the sketch is fitted without the head, on the logits of the pilot.
        probes: the sketch is made of the logprobs of listed tokens and of so many probe tokens.
        by_first: the prior is that of rows with the same most probable token.
        corrections: so many draws of a row correct its tail, at the temperature `corrected_at`.
        source: of these draws; see `tails.draws`.
    """

    preset: str | None
    settings: dict[str, Any]
    loss: Loss
    temperatures: tuple[float, ...] = (1.0, 2.0)
    positions: str | None = None
    gold: float = 0.0
    last: Loss | None = None
    from_logits: bool = False
    probes: int = 0
    by_first: bool = False
    corrections: int = 0
    source: str = "tail"
    corrected_at: float = 1.0


TOP20 = {"k": 20, "tail": "uniform", "logprobs": "levels-8", "tail_mass": "log2-8"}
"""What a server's twenty most probable tokens become: 61 bytes with ids of 16 bits, and the gold logprob beside them."""


TOP8 = TOP20 | {"k": 8, "tail": "prior"}
"""Eight tokens and a prior, 27 bytes."""


NEAREST = {"rounding": "nearest"}


FORMER_TINY = {"k": 2, "sketch_bytes": 3}
FORMER_SMALL = NEAREST | {"k": 8, "sketch_bytes": 31}
"""What small was before levels were chosen for each row."""


def _corrected(preset: str, settings: dict[str, Any], count: int, source: str) -> Way:
    return Way(preset, settings, corrected, (1.0,), corrections=count, source=source)


def _list_of(k: int, loss: Loss) -> Way:
    return Way("topk", TOP20 | {"k": k}, loss, (1.0,))


def _top20(loss: Loss, *temperatures: float, gold: float = 0.0) -> Way:
    return Way("topk", TOP20, loss, temperatures, gold=gold)


WAYS = {
    "gold tokens only": Way(None, {}, gold_only, (1.0,)),
    "live, whole distribution": Way("live", {}, whole),
    "top-16, renormalised": Way("topk", {"k": 16, "tail": "uniform"}, renormalised),
    "top-50, renormalised": Way("topk", {"k": 50, "tail": "uniform"}, renormalised),
    "top-16, lumped tail": Way("topk", {"k": 16, "tail": "uniform"}, lumped, (1.0,)),
    "sampled": Way("sampled", {}, whole, (1.0,)),
    "topk": Way("topk", {}, whole),
    "topk, k = 50": Way("topk", {"k": 50}, whole, (1.0,)),
    "small": Way("small", {}, whole),
    "faithful": Way("faithful", {}, whole),
    "exact": Way("exact", {}, whole),
    "former small, half gold": Way("small", FORMER_SMALL, whole, (1.0,), gold=0.5),
    "former small, half gold, entropy:0.2": Way("small", FORMER_SMALL, whole, (1.0,), "entropy:0.2", 0.5),
    "former small, half gold, random:0.2": Way("small", FORMER_SMALL, whole, (1.0,), "random:0.2", 0.5),
    # a teacher that gives twenty tokens
    "top-16, uniform tail": Way("topk", {"k": 16, "tail": "uniform"}, whole, (1.0,)),
    "top-20, renormalised": _top20(renormalised, 1.0),
    "top-20, renormalised, 0.1 gold": _top20(renormalised, 1.0, gold=0.1),
    "top-20, renormalised, 0.3 gold": _top20(renormalised, 1.0, gold=0.3),
    "top-20, tail from gold": _top20(completed(1.0, listed), 1.0),
    "top-20, renormalised, tail from gold": _top20(completed(1.0, renormalised), 1.0),
    "top-20, half renormalised, half lumped": _top20(both(0.5, renormalised, lumped), 1.0),
    "top-20, renormalised, at last lumped": Way("topk", TOP20, renormalised, (1.0,), last=lumped),
    "small, directions from logits": Way("small", {}, whole, from_logits=True),
    "top-20, within at T, tail from gold": _top20(both(0.5, completed(1.0, listed), within), 2.0),
    "top-12, renormalised": _list_of(12, renormalised),
    "top-40, renormalised": _list_of(40, renormalised),
    "top-80, renormalised": _list_of(80, renormalised),
    # draws, priors of contexts, probes
    "hybrid": Way("topk", {"sparsifier": "hybrid", "k": 8, "draws": 5}, whole, (1.0,)),
    "top-8, prior corrected by 8 draws of the tail": _corrected("topk", TOP8, 8, "tail"),
    "top-8, prior corrected by 14 draws of the error": _corrected("topk", TOP8, 14, "error"),
    "top-8, 13 B sketch, corrected by 5 draws of the tail": _corrected(
        "small", NEAREST | {"k": 8, "sketch_bytes": 13}, 5, "tail"
    ),
    "top-8, 13 B sketch, corrected by 8 draws of the error": _corrected(
        "small", NEAREST | {"k": 8, "sketch_bytes": 13}, 8, "error"
    ),
    "former tiny, corrected by 4 draws of the error": _corrected("small", FORMER_TINY, 4, "error"),
    "top-20, prior": Way("topk", TOP20 | {"tail": "prior"}, whole, (1.0,)),
    "top-20, prior by the first token": Way("topk", TOP20 | {"tail": "prior"}, whole, (1.0,), by_first=True),
    "small, from 64 probes": Way("small", {}, whole, probes=64),
    "small, nearest levels": Way("small", NEAREST, whole),
    "former small": Way("small", FORMER_SMALL, whole),
    "former faithful": Way("faithful", {"k": 12, "sketch_bytes": 91, "rounding": "nearest"}, whole),
    # bytes a training token
    "tiny": Way("tiny", {}, whole),
    "former tiny": Way("small", FORMER_TINY, whole),
    "former tiny, nearest levels": Way("small", NEAREST | FORMER_TINY, whole, (1.0,)),
    "former tiny, 0.1 gold": Way("small", FORMER_TINY, whole, (1.0,), gold=0.1),
    "24 bytes": Way("small", {"k": 3, "sketch_bytes": 12}, whole),
    "24 bytes, nearest levels": Way("small", NEAREST | {"k": 3, "sketch_bytes": 12}, whole, (1.0,)),
    "8 bytes": Way("small", {"k": 1, "sketch_bytes": 2}, whole, (1.0,)),
    "former tiny, half gold, random:0.2": Way("small", FORMER_TINY, whole, (1.0,), "random:0.2", 0.5),
}


def kept_by(way: Way, rows: Rows, head: LinearHead) -> Tensor:
    """Return bool[N]: the rows that a way keeps, chosen window by window as a dump chooses them."""
    share = share_of(way.positions)
    kept_SN = torch.ones(len(rows.tokens_ST), ROWS, dtype=torch.bool)
    if share is None:
        return kept_SN.flatten()
    kept_SN[:] = False
    most = int(share.counts(np.array([ROWS]))[0])
    for window, tokens in enumerate(rows.tokens_ST):
        if share.asks_teacher:
            logits_NV = head.logits(rows.hidden_ND[window * ROWS : (window + 1) * ROWS])
            places = highest(Summary.of(logits_NV, logits_NV.shape[1]).entropy_N.numpy(), most)
        else:
            places = lowest(uniform(key_of(tokens.numpy()), ROWS, 1, POSITIONS)[:, 0], most)
        kept_SN[window, torch.from_numpy(places)] = True
    return kept_SN.flatten()


def targets_of(
    way: Way, rows: Rows, head: LinearHead, vocabulary: int, kept_N: Tensor
) -> Callable[[Tensor], AnyTargets | Corrected] | None:
    """Pack the targets of every training row as a cache packs them; return a function that decodes some rows.

    Tails are fitted on the first rows that are kept.
    """
    if way.preset is None:
        return None
    none_NK = torch.zeros(len(rows.hidden_ND), 0)
    if way.preset == "live":
        tail = LatentTail(head, torch.zeros(vocabulary))
        return lambda n: Targets(none_NK[n].long(), none_NK[n], torch.zeros(len(n)), tail, rows.hidden_ND[n])
    if way.from_logits:
        head, rows = directions_of(head, rows, kept_N)
    row = row_of(way.preset, way.settings, vocabulary, head.width)
    sparsifier = sparsifier_of(row)
    pilot_rows = kept_N.nonzero()[:PILOT_ROWS, 0]
    seen_ND = rows.hidden_ND
    if way.probes:
        seen_ND = inferred(head, seen_ND, pilot_rows, way.probes)
    pilot = TailPilot(vocabulary, head if row.tail.shape == "sketch" else None)
    for some in pilot_rows.split(42):
        if row.tail.shape in ("prior", "sketch"):
            logits_NV = head.logits(rows.hidden_ND[some])
            pilot.add(logits_NV, sparsifier(logits_NV, rows.gold_N[some])["ids"], seen_ND[some])
    shared = {
        "sketch": lambda: pilot.sketch(row.tail.bytes or 0),
        "prior": lambda: {"prior": pilot.prior()},
        "head": lambda: head_tensors(head, rows.hidden_ND[pilot_rows]),
    }.get(row.tail.shape, dict)()
    decoder, latents, rounding = Decoder(row, shared), latents_of(row, shared), rounding_of(row, shared)
    keys = [key_of(tokens.numpy()) for tokens in rows.tokens_ST]
    draws = row.sparsifier.draws or 0
    numbers_ND = torch.from_numpy(np.concatenate([uniform(key, ROWS, draws, DRAWS) for key in keys]))
    packed: list[dict[str, Tensor]] = []
    for some in torch.arange(len(rows.hidden_ND)).split(42):
        logits_NV = head.logits(rows.hidden_ND[some])
        kept = sparsifier(logits_NV, rows.gold_N[some], numbers_ND[some])
        if latents is not None:
            kept["latent"] = latents(seen_ND[some])
        if rounding is not None and not way.probes:
            kept["latent"] = rounding(logits_NV, kept, kept["latent"])
        stored = decoder.codec.encode({name: value.numpy() for name, value in kept.items()})
        packed.append({name: torch.from_numpy(value) for name, value in stored.items()})
    fields = {name: torch.cat([each[name] for each in packed]) for name in packed[0]}
    contexts = contexts_of(rows, head, sparsifier, pilot_rows) if way.by_first else None

    def decoded(n: Tensor) -> AnyTargets:
        targets = decoder({name: value[n] for name, value in fields.items()})
        return contexts.given(targets) if contexts is not None and isinstance(targets, Targets) else targets

    return corrected_by(way, rows, head, decoded) if way.corrections else decoded


def corrected_by(
    way: Way, rows: Rows, head: LinearHead, decoded: Callable[[Tensor], AnyTargets]
) -> Callable[[Tensor], Corrected]:
    """Draw for every row, and return a function that gives the targets of some rows with their draws."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for some in torch.arange(len(rows.hidden_ND)).split(42):
        targets = decoded(some)
        if not isinstance(targets, Targets):
            raise TypeError("random samples cannot be corrected by draws")
        logits_nV = head.logits(rows.hidden_ND[some])
        found.append(draws(logits_nV, targets, way.corrections, way.source, way.corrected_at, generator))
    ids_NJ, weights_NJ = (torch.cat(each) for each in zip(*found, strict=True))
    return lambda n: Corrected(decoded(n), ids_NJ[n], weights_NJ[n])


def contexts_of(rows: Rows, head: LinearHead, sparsifier: Any, pilot_rows: Tensor) -> Contexts:
    """Fit a prior for each frequent first token of the pilot."""

    def tails() -> Iterator[tuple[Tensor, Tensor]]:
        for some in pilot_rows.split(42):
            logits_nV = head.logits(rows.hidden_ND[some])
            ids_nK = sparsifier(logits_nV, rows.gold_N[some])["ids"]
            yield ids_nK[:, 0], without(torch.softmax(logits_nV, -1), ids_nK)

    firsts_N = torch.cat([head.logits(rows.hidden_ND[some]).argmax(-1) for some in pilot_rows.split(42)])
    return Contexts.of(tails(), firsts_N, head.vocabulary)


def directions_of(head: LinearHead, rows: Rows, kept_N: Tensor) -> tuple[LinearHead, Rows]:
    """Return a head made of the logits of the first rows alone, as a dump makes it without a head, and all rows as their
    coordinates in it."""
    first = kept_N.nonzero()[: DIRECTION_ROWS * JUDGED // (JUDGED - 1), 0]
    found = Directions.of(head.logits(rows.hidden_ND[first]), head.vocabulary)
    every = [found.hidden(head.logits(some)) for some in rows.hidden_ND.split(127)]
    return found.head, Rows(rows.tokens_ST, torch.cat(every))
