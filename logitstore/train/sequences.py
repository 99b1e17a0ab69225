"""What a run with an objective on whole samples reads of a cache: a score, groups and the teacher's logprob of each sample.

Axes: S samples, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch

from logitstore.core.methods import method_of
from logitstore.core.objectives.method import Method
from logitstore.core.registry import suggest
from logitstore.core.tasks import task_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.index.scored import column_scores, group_codes, has_groups, score_names
from logitstore.train.loader.pairs import PairOrder, pairs_of
from logitstore.train.objectives.exactness import check_options
from logitstore.train.objectives.sequences.sequences import Sequences
from logitstore.train.objectives.sequences.term import SequenceTerm


def sequence_method(settings: TrainSettings) -> Method | None:
    """Return the objective of a run if it is one on whole samples."""
    if settings.objective in ("auto", "none"):
        return None
    method = method_of(settings.objective)
    return method if method.form == "sequences" else None


def check_sequences(settings: TrainSettings, cache: Cache) -> None:
    """Refuse what does not go with an objective on whole samples, and what goes with such a one alone.

    Raises:
        BadInput: settings do not go together, or the cache does not keep what the objective needs.
    """
    method = sequence_method(settings)
    if method is None:
        for name, value in (("score", settings.score), ("pairs", settings.pairs)):
            if value is not None:
                raise BadInput(
                    f"--{name} {value}: --objective {settings.objective} compares single tokens. Leave it out."
                )
        return
    name = f"--objective {settings.objective}"
    task = task_of(cache.manifest.task)
    if "score" not in task.options.get("train", ()):
        raise BadInput(
            f"{name}: {cache.path} is a cache of {task.samples}, which have no scores. Choose another objective."
        )
    if settings.alpha != 1:
        raise BadInput(f"{name} with --alpha {settings.alpha}: it stands alone. Leave --alpha out.")
    if settings.terms:
        raise BadInput(f"{name} with terms: it stands alone. Leave them out.")
    if not method.in_pairs and settings.pairs is not None:
        raise BadInput(f"--pairs {settings.pairs}: {name} takes each sample alone. Leave it out.")
    if method.in_pairs and settings.batch_size % 2:
        raise BadInput(
            f"--batch-size {settings.batch_size}: the two samples of a pair are in one batch. Give an even number."
        )
    orders = ("curriculum", "reweight_domains", "window_parts")
    taken = next((each for each in orders if getattr(settings, each) is not None), None)
    if method.in_pairs and taken is not None:
        raise BadInput(f"--{taken.replace('_', '-')} with {name}: pairs have an order of their own. Leave it out.")
    if method.in_pairs and not has_groups(cache):
        raise BadInput(
            f"{name}: {cache.path} does not say which samples belong together. Dump with --group-column NAME, the column with "
            "the number of the prompt."
        )
    score_of(settings, cache)
    positions = getattr(cache.manifest.data, "positions", None)
    if positions is not None:
        raise BadInput(
            f"{name}: {cache.path} has rows at a share of the positions ({positions}), and the logprob of a text takes all of "
            "them. Dump without --positions."
        )
    documents_S = cache.documents()
    if len(np.unique(documents_S)) < len(documents_S):
        raise BadInput(
            f"{name}: {cache.path} has texts that are cut into several windows or samples, whose logprob is not that of the "
            "whole. Dump with a larger --max-length, and one answer in each chat."
        )
    check_options(settings.objective, settings.options)
    method.function(_one_pair(), **settings.options)


def _one_pair() -> Sequences:
    """Return two invented samples, on which options are tried."""
    ones_M = torch.ones(2, dtype=torch.float64)
    return Sequences(student_M=-ones_M, reference_M=-ones_M, counts_M=ones_M, score_M=ones_M)


def score_of(settings: TrainSettings, cache: Cache) -> str:
    """Return the name of the score that is read: the one that is asked for, or the only one.

    Raises:
        BadInput: there are none or several, or none of this name.
    """
    known = score_names(cache)
    called = f"--objective {settings.objective}"
    if not known:
        raise BadInput(f"{called}: {cache.path} keeps no scores of its data. Dump with --score-columns NAME.")
    name = settings.score or (known[0] if len(known) == 1 else None)
    if name is None:
        raise BadInput(f"{called}: say with --score which of them counts: {', '.join(known)}.")
    if name not in known:
        raise BadInput(f"--score {name}: {cache.path} keeps no such score. {suggest(name, list(known))}")
    return name


def scores_S(settings: TrainSettings, cache: Cache) -> Array:
    """Return float64[S]: the score of each sample, NaN where the data give none."""
    return column_scores(cache, score_of(settings, cache), f"--objective {settings.objective}")


def reference_S(cache: Cache) -> Array:
    """Return float64[S]: the teacher's logprobs of the gold tokens of each sample, summed, nats; from their stored mean."""
    return np.asarray(-cache.nll().astype(np.float64) * cache.row_counts())


def term_of(settings: TrainSettings, cache: Cache) -> SequenceTerm:
    """Return the objective of a run with what it reads of the cache."""
    needs_reference = method_of(settings.objective).needs_reference
    scores = scores_S(settings, cache)
    reference = reference_S(cache) if needs_reference else np.zeros(len(cache))
    return SequenceTerm(settings.objective, settings.options, torch.from_numpy(scores), torch.from_numpy(reference))


def order_of(settings: TrainSettings, cache: Cache, allowed_S: Array) -> tuple[PairOrder, list[str]]:
    """Return the order of the pairs of a run, and what the user should know about them.

    Args:
        settings: of a run with an objective on pairs.
        cache: to read.
        allowed_S: bool, the samples to train on.

    Raises:
        BadInput: there is no pair, or the teacher finds a sample of one impossible.
    """
    name = f"--objective {settings.objective}"
    group_S, score_S = group_codes(cache), scores_S(settings, cache)
    pairs_P2 = pairs_of(settings.pairs or "extremes", group_S, score_S, allowed_S)
    if not len(pairs_P2):
        raise BadInput(
            f"{name}: no group has two samples to train on whose scores differ. Check --score and the group column of the dump."
        )
    if method_of(settings.objective).needs_reference:
        is_known_S = np.isfinite(cache.nll())
        impossible = int((~is_known_S[pairs_P2]).any(1).sum())
        if impossible:
            raise BadInput(
                f"{name}: in {impossible:,} of {len(pairs_P2):,} pairs the teacher finds a token impossible, or its logprob is "
                "not known. Leave these samples out with select --score nll --at-most 100."
            )
    groups, used = len(np.unique(group_S[allowed_S])), len(np.unique(group_S[pairs_P2[:, 0]]))
    rest = "; the others have no two samples whose scores differ" if used < groups else ""
    note = f"note: {len(pairs_P2):,} pairs from {used:,} of {groups:,} groups{rest}."
    return PairOrder(pairs_P2=pairs_P2, seed=settings.seed), [note]


def scored_alone(settings: TrainSettings, cache: Cache, allowed_S: Array) -> tuple[Array, list[str]]:
    """Return bool[S], the samples to train on that have a score, and a note about the others.

    Raises:
        BadInput: none has one.
    """
    has_score_S = allowed_S & ~np.isnan(scores_S(settings, cache))
    left_out = int(allowed_S.sum() - has_score_S.sum())
    if not has_score_S.any():
        raise BadInput(f"--objective {settings.objective}: no sample to train on has a score. Check --score.")
    note = f"note: {left_out:,} samples have no score, and are left out."
    return has_score_S, [note] if left_out else []
