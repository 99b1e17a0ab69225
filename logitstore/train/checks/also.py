"""The further caches of a run: other teachers' answers about the same samples."""

from __future__ import annotations

from collections.abc import Sequence

from logitstore.core.methods import method_of
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.same_samples import check_same_samples, check_same_vocabulary
from logitstore.store.storage import open_storage
from logitstore.train.objectives.learned import learned_kind
from logitstore.train.objectives.shares import Shares
from logitstore.train.sequences import sequence_method
from logitstore.train.terms import all_terms, check_exact, check_terms, fidelity_notes


def also_of(settings: TrainSettings, cache: Cache) -> list[Cache]:
    """Return the further caches of a run, checked before any weights are loaded.

    Args:
        settings: of the run, with an objective.
        cache: the first cache.

    Raises:
        BadInput: settings that do not go together, or a pull that a cache does not serve.
        CacheMismatch: a cache is not complete, or of other samples or another vocabulary.
        NotACache, CacheDamaged: a cache cannot be read.
    """
    learned = learned_kind(settings.weights)
    if learned is not None:
        _check_learned(settings, cache, learned[0])
    if not settings.also:
        if settings.weights is not None and (learned is None or learned[0] == "gate"):
            raise BadInput(f"--weights {settings.weights}: there is one cache. Name the others with --also.")
        return []
    if learned is None:
        Shares.of(settings.weights, 1 + len(settings.also))
    if settings.text:
        raise BadInput("--also with --text: no teacher's answers are read. Leave one out.")
    if settings.alpha == 0 and not settings.terms:
        raise BadInput("--also with --alpha 0: no teacher is learned from. Leave it out.")
    pulls = [(pull.name, method_of(pull.name)) for pull in all_terms(settings)]
    if sequence_method(settings) is not None:
        raise BadInput(
            f"--also with --objective {settings.objective}: it compares whole samples, with the scores and the teacher of one "
            "cache. Leave --also out."
        )
    if not any(method.form == "rows" for _, method in pulls) and all(term.teacher == 1 for term in settings.terms):
        raise BadInput(
            "--also: nothing pulls on the logits, and no term compares features of that teacher. Leave it out, or give a term "
            "`teacher: 2`."
        )
    kept = next((name for name, method in pulls if method.form == "rows" and method.state is not None), None)
    if kept is not None:
        raise BadInput(f"--also with {kept}: it follows its own loss to one teacher. Choose another objective.")
    addresses = [open_storage(settings.cache).address]
    others = []
    for path in settings.also:
        if open_storage(path).address in addresses:
            raise BadInput(f"--also {path}: it is named twice. Name each cache once, and weigh them with --weights.")
        addresses.append(open_storage(path).address)
        others.append(Cache(path))
    for each in (cache, *others):
        if not each.complete:
            raise CacheMismatch(
                f"{each.path}: it has {len(each.part_numbers)} of its {each.manifest.parts} parts. With --also every cache "
                "must be whole: give the command that began it once more."
            )
    for other in others:
        other.check_soon()
        check_same_vocabulary(cache, other)
        check_same_samples(cache, other, f"--also {other.path}")
        check_terms(settings, other)
        if any(term.teacher > 1 for term in settings.terms) and _tokens_of(other) != _tokens_of(cache):
            raise BadInput(
                f"--also {other.path}: its tokens are others than those of {cache.path}, so a student cannot compare features "
                "with both. Leave `teacher` out of the terms, or choose teachers with one tokenizer."
            )
        if learned is not None and other.manifest.sparsifier.is_estimate:
            raise BadInput(_DRAWN.format(settings.weights, other.path))
    if settings.weights == "gold" and not all(each.manifest.knows_gold for each in (cache, *others)):
        raise BadInput(
            "--weights gold: a cache does not know the logprob of every gold token. Weigh by entropy or numbers."
        )
    if settings.weights == "gold" and cache.sums.no_gold == cache.rows:
        raise BadInput(f"--weights gold: {cache.path}: no row has a gold token or label. Weigh by entropy or numbers.")
    return others


def _tokens_of(cache: Cache) -> object:
    """Return what tells the tokens of a cache from others; None for images."""
    return cache.manifest.tokenizer or getattr(cache.manifest.data, "tokenizer", None)


_DRAWN = "--weights {}: {} holds random samples, not what a teacher says of every token. Dump with another preset."


def _check_learned(settings: TrainSettings, cache: Cache, kind: str) -> None:
    """Refuse what does not go with shares that a network learns. Raises BadInput."""
    called = f"--weights {settings.weights}"
    if cache.manifest.sparsifier.is_estimate:
        raise BadInput(_DRAWN.format(settings.weights, cache.path))
    if getattr(cache.manifest.data, "positions", None) is not None:
        raise BadInput(
            f"{called}: {cache.path} has rows at a share of the positions. Take a cache with all rows, or fixed weights."
        )
    if settings.text or settings.objective == "none" or sequence_method(settings) is not None:
        raise BadInput(f"{called}: it weighs an objective on single rows, and the run has none. Leave it out.")
    if kind == "gate":
        return
    if settings.alpha != 1 or settings.terms:
        what = f"--alpha {settings.alpha}" if settings.alpha != 1 else "terms"
        raise BadInput(
            f"{called} with {what}: what the gold token counts is learned, beside one objective. Leave it out."
        )
    if not settings.holdout:
        raise BadInput(f"{called}: it learns by the loss on held-out samples. Give a --holdout above 0.")
    if cache.sums.no_gold == cache.rows:
        raise BadInput(f"{called}: {cache.path}: no row has a gold token or label. Take a gate, or fixed weights.")


def also_notes(settings: TrainSettings, others: Sequence[Cache]) -> list[str]:
    """Return how exact each further cache is for the objective, and what the figures of a run with several are about.

    Raises:
        BadInput: under --strict, a pull is not exact on one of them.
    """
    notes = []
    for other in others:
        check_exact(settings, other, [])
        notes += [f"{note} (--also {other.path})" for note in fidelity_notes(settings, other, [])]
    if others:
        notes.append(f"note: evaluations compare the student with the first cache, {settings.cache}, alone.")
    return notes
