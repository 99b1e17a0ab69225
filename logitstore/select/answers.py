"""Selections by what the teacher answered: caches whose samples have one row each, about a class.

Axes: S samples (of a part: s), C classes, K listed ones.
"""

from __future__ import annotations

import numpy as np

from logitstore.core.order import permuted, salt_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.codecs.answer import RowCodec
from logitstore.select.choice import Amount, Candidates, Choice
from logitstore.store.cache import Cache
from logitstore.store.part import Part

_BYTES = 8 << 30
"""More bytes of answers than this are not held at once."""


def classes_of(cache: Cache, method: str) -> Array:
    """Return int64[S]: the class that the teacher finds most probable; of an image that of its first view.

    Raises:
        BadInput: the cache is not one of classes, or does not list them.
    """
    _check(cache, method)
    codec = RowCodec(row=cache.manifest.row)
    found = [
        _listed(cache.part(number), codec)[0][:, 0] for number in cache.part_numbers[: cache.manifest.parts_of_view]
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def answers_of(cache: Cache) -> Array:
    """Return float32[S, C]: the probabilities that the teacher gave to the classes; of an image the mean over its views.

    Where a row lists some classes, the rest of the probability is spread evenly over the others if the cache keeps its mass;
    if it does not, the listed ones sum to 1, as they do for a student.

    Raises:
        BadInput: the cache is not one of classes, does not list them, or is too large to be held in memory.
    """
    _check(cache, "coreset")
    count, classes = cache.manifest.samples, cache.manifest.teacher.vocabulary
    if 4 * count * classes > _BYTES:
        raise BadInput(
            f"--method coreset: the answers of {cache.path}, {count:,} samples with {classes:,} classes, are more than "
            f"{_BYTES >> 30} GiB. Choose from a part of the data."
        )
    answers_SC = np.zeros((count, classes), np.float32)
    codec, first = RowCodec(row=cache.manifest.row), 0
    for number in cache.part_numbers:
        probs_sC = _dense(cache.part(number), codec, classes)
        answers_SC[first : first + len(probs_sC)] += probs_sC / cache.manifest.views
        first = (first + len(probs_sC)) % count
    return answers_SC


def per_class(candidates: Candidates, amount: Amount) -> Choice:
    """Choose as many samples of every class as there are, those with the highest score first: the rule by which SSLD (Cui et
    al. 2021) takes unlabelled images. A class is what the teacher finds most probable.

    The best sample of every class comes first, then the second best of every class, and so on, each time by falling score;
    so a class with too few samples leaves room to the others.
    """
    order_S = np.argsort(-candidates.known_S, kind="stable")
    class_S = candidates.known_classes_S[order_S]
    order_S, class_S = order_S[candidates.allowed_S[order_S]], class_S[candidates.allowed_S[order_S]]
    grouped = np.argsort(class_S, kind="stable")
    starts = np.searchsorted(class_S[grouped], class_S[grouped], side="left")
    rank_S = np.empty(len(order_S), np.int64)
    rank_S[grouped] = np.arange(len(order_S)) - starts
    best_S = order_S[np.argsort(rank_S, kind="stable")]
    return Choice(samples_M=np.sort(best_S[: amount.of(len(candidates))]))


def coreset(candidates: Candidates, amount: Amount) -> Choice:
    """Choose samples whose answers cover those of all: greedy k-centre (Gonzalez 1985) by the Euclidean distance of
    probabilities, as PCoreSet does (2025).

    The labelled samples are the first centres, and the next one is the sample whose answer is farthest from every centre; of
    equal ones the first. Where every sample has a label, or none has, the first centre is drawn with the seed. Labelled
    samples that are centres are not chosen.
    """
    answers_SC = candidates.known_answers_SC
    is_centre_S = np.zeros(len(candidates), np.bool_)
    if candidates.labelled_S is not None and not candidates.labelled_S.all():
        is_centre_S = candidates.labelled_S.copy()
    is_left_S = candidates.allowed_S & ~is_centre_S
    nearest_S = np.full(len(candidates), np.inf)
    for centre in np.flatnonzero(is_centre_S).tolist():
        np.minimum(nearest_S, _squared(answers_SC, centre), out=nearest_S)
    chosen: list[int] = []
    for _ in range(min(amount.of(len(candidates)), int(is_left_S.sum()))):
        if np.isinf(nearest_S).all():
            place = int(permuted(np.zeros(1, np.int64), int(is_left_S.sum()), salt_of(amount.seed, 0, CORESET))[0])
            centre = int(np.flatnonzero(is_left_S)[place])
        else:
            centre = int(np.argmax(np.where(is_left_S, nearest_S, -1.0)))
        chosen.append(centre)
        is_left_S[centre] = False
        np.minimum(nearest_S, _squared(answers_SC, centre), out=nearest_S)
    return Choice(samples_M=np.sort(np.array(chosen, np.int64)))


CORESET = 12
"""Keeps the random number of the first centre apart from others."""


def _squared(answers_SC: Array, centre: int) -> Array:
    """Return float64[S]: the squared distances of all answers from one."""
    gap_SC = answers_SC - answers_SC[centre]
    return np.asarray(np.einsum("sc,sc->s", gap_SC, gap_SC, dtype=np.float64))


def is_of_classes(cache: Cache) -> bool:
    """Return True if each sample of a cache has one answer, about a class; of an image one for each view."""
    return cache.manifest.rows == cache.manifest.samples and cache.manifest.tokenizer is None


def _check(cache: Cache, method: str) -> None:
    manifest = cache.manifest
    cache.check_targets(f"--method {method}")
    if not is_of_classes(cache):
        raise BadInput(
            f"--method {method}: {cache.path} has no answer about a class for each sample. Choose by a score."
        )
    if not manifest.sparsifier.k or manifest.sparsifier.is_estimate:
        raise BadInput(
            f"--method {method}: {cache.path} does not list the most probable classes (sparsifier "
            f"'{manifest.sparsifier.name}'). Dump with a preset that lists them."
        )


def _listed(part: Part, codec: RowCodec) -> tuple[Array, Array, Array]:
    """Return of the rows of a part int64[s, K] and float64[s, K], classes by falling probability, and float64[s], the mass of
    the others."""
    names = [name for name in ("ids", "logprobs", "tail_logmass") if name in part.fields]
    answer = codec.decode({name: part.fields[name] for name in names})
    probs_sK = np.exp(answer["logprobs"].astype(np.float64))
    mass_s = np.exp(answer["tail_logmass"].astype(np.float64)) if "tail_logmass" in answer else np.zeros(len(probs_sK))
    if "ids" in answer:
        return answer["ids"], probs_sK, mass_s
    order_sK = np.argsort(-probs_sK, axis=1, kind="stable")
    return order_sK, np.take_along_axis(probs_sK, order_sK, 1), mass_s


def _dense(part: Part, codec: RowCodec, classes: int) -> Array:
    """Return float64[s, C]: the probabilities of a part's answers; see `answers_of`."""
    ids_sK, probs_sK, mass_s = _listed(part, codec)
    is_empty_sK = probs_sK == 0
    others_s = classes - (~is_empty_sK).sum(1)
    probs_sK = probs_sK * ((1 - mass_s) / probs_sK.sum(1))[:, None]
    # empty slots go into a column that is cut off
    dense_sC = np.repeat((mass_s / np.maximum(others_s, 1))[:, None], classes + 1, axis=1)
    np.put_along_axis(dense_sC, np.where(is_empty_sK, classes, ids_sK), probs_sK, 1)
    return dense_sC[:, :classes]
