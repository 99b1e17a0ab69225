"""`select`: choose samples to train on by scores of caches; no model runs. Reads top to bottom.

caches -> scores -> candidates within the bounds -> method -> selection file

Of images the samples to choose are the images: each view of an image is a sample of the cache, and an image has the mean of
their scores.

Axes: S samples to choose from, A samples of the cache, M chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import logitstore
from logitstore.core.tasks import task_of
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheMismatch
from logitstore.select.answers import answers_of, classes_of, is_of_classes
from logitstore.select.choice import Amount, Candidates, Choice
from logitstore.select.methods import METHODS, Method
from logitstore.select.ranked import difference
from logitstore.select.scores import rounding, scores_of
from logitstore.settings.look import FIGURE, SelectSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.same_samples import check_same_samples
from logitstore.store.index.figures import read_figure
from logitstore.store.selection import Chosen, Selection, SelectionInfo, write_selection


@dataclass(frozen=True, kw_only=True)
class DomainShare:
    """A domain share says how much of a domain was chosen, in samples."""

    name: str | None
    chosen: int
    all: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Selected:
    """The result of `select` holds the selection and some figures about it.

    Attributes:
        selection: the selection as it was written.
        samples, rows, tokens: numbers of samples, rows and tokens to choose from.
        score: name of the score by which the samples were ranked or bounded; None without one.
        rounding: by how much the cache rounds the score of a row; 0 where it does not.
        mean_chosen, mean_left: mean score of the chosen samples, and of the others; None where no score is finite.
        domains: the domains, in the order of their first samples.
    """

    selection: Selection
    samples: int
    rows: int
    tokens: int
    score: str | None
    rounding: float
    mean_chosen: float | None
    mean_left: float | None
    domains: list[DomainShare]


def select(settings: SelectSettings) -> Selected:
    """Choose samples as `settings` says, and write the selection file.

    Raises:
        NotACache, CacheDamaged: a cache cannot be read.
        BadInput: options do not go together, the cache does not have a score, or no sample is chosen.
        CacheMismatch: the two caches do not hold the same samples, or are not complete.
        StorageError: the file cannot be written.
    """
    method = METHODS[settings.method]
    _check(settings, method)
    cache = _opened(settings.cache)
    reference = _opened(settings.reference) if settings.reference is not None else None
    if reference is not None:
        check_same_samples(cache, reference, f"--reference {reference.path}")
        if reference.manifest.identity == cache.manifest.identity:
            raise BadInput(
                f"--reference {reference.path}: it is the cache itself, or a copy, so no sample differs. Give that of a "
                "smaller model."
            )
    name, score_S = _score(settings, method, cache, reference)
    count = cache.manifest.samples
    domains, domain_A = cache.domain_codes()
    domain_S = domain_A[:count]
    candidates = Candidates(
        score_S=score_S,
        domain_S=domain_S,
        allowed_S=_within(settings, score_S, count),
        class_S=classes_of(cache, settings.method) if _needs_class(method, cache) else None,
        answers_SC=answers_of(cache) if method.reads == "answers" else None,
        labelled_S=~np.isnan(cache.nll()[:count]) if method.reads == "answers" else None,
        uncertainty_S=_uncertainty(settings, method, cache),
    )
    amount = Amount(
        ratio=settings.ratio, samples=settings.samples, seed=settings.seed or 0, wrong=settings.wrong or 0.0
    )
    choice = method.choose(candidates, amount)
    if not len(choice.samples_M):
        raise BadInput(f"--method {settings.method}: no sample of {settings.cache} is chosen. Set wider bounds.")
    rows_S, tokens_S = (each_A.reshape(-1, count).sum(0) for each_A in (cache.row_counts(), cache.lengths()))
    selection = _selection(settings, cache, reference, choice, rows_S, tokens_S)
    write_selection(settings.out, selection)
    is_chosen_S = np.zeros(count, np.bool_)
    is_chosen_S[choice.samples_M] = True
    chosen_D, all_D = np.bincount(domain_S[is_chosen_S], minlength=len(domains)), np.bincount(domain_S)
    return Selected(
        selection=selection,
        samples=count,
        rows=int(rows_S.sum()),
        tokens=int(tokens_S.sum()),
        score=name,
        rounding=0.0 if name is None else rounding(cache, name),
        mean_chosen=_mean(score_S, is_chosen_S),
        mean_left=_mean(score_S, ~is_chosen_S),
        domains=[
            DomainShare(name=domain, chosen=int(chosen), all=int(count))
            for domain, chosen, count in zip(domains, chosen_D, all_D, strict=True)
        ],
    )


def _check(settings: SelectSettings, method: Method) -> None:
    """Refuse options that do not go together, before any work; an option that would change nothing is refused too."""
    if settings.out.exists():
        raise BadInput(f"--out {settings.out}: something stands there already. Choose another name.")
    if settings.ratio is not None and settings.samples is not None:
        raise BadInput("--ratio and --samples: give one of them.")
    amount = settings.ratio is not None or settings.samples is not None
    bounds = settings.at_least is not None or settings.at_most is not None
    if method.needs_amount and not (amount or bounds):
        raise BadInput(
            f"--method {settings.method}: say how much to choose: --ratio, --samples, or bounds on the score."
        )
    if method.score == "difference" and settings.reference is None:
        raise BadInput(f"--method {settings.method} needs --reference: a cache of the same samples by a smaller model.")
    if settings.reference is not None and method.score not in ("difference", "optional"):
        raise BadInput(
            f"--reference {settings.reference}: the method '{settings.method}' has no use for it. Leave it out."
        )
    if settings.seed is not None and not method.has_seed:
        raise BadInput(f"--seed {settings.seed}: the method '{settings.method}' draws nothing. Leave it out.")
    if method.counts_wrong and (settings.wrong is None or settings.score is None):
        raise BadInput(
            f"--method {settings.method} needs --wrong, the share of answers that may be wrong, and a score that says how sure "
            "a student is, such as --score figure:margin."
        )
    if settings.wrong is not None and not method.counts_wrong:
        raise BadInput(
            f"--wrong {settings.wrong:g}: the method '{settings.method}' does not count with it. Leave it out."
        )
    is_of_figures = settings.score is not None and settings.score.startswith(FIGURE)
    if is_of_figures and settings.figures is None:
        raise BadInput(
            f"--score {settings.score} needs --figures: what `logitstore evaluate --figures` wrote of a student."
        )
    if settings.figures is not None and not is_of_figures and method.score != "confidence":
        raise BadInput(f"--figures {settings.figures}: say which one counts, with --score figure:NAME.")
    if settings.score is not None and (settings.reference is not None or method.score == "confidence"):
        raise BadInput(f"--score {settings.score}: the method '{settings.method}' has its own here. Leave it out.")
    if bounds and method.score == "optional" and settings.score is None and settings.reference is None:
        raise BadInput("--at-least and --at-most bound a score: name it with --score.")


def _opened(path: object) -> Cache:
    cache = Cache(str(path))
    cache.check_sizes()
    task = task_of(cache.manifest.task)
    if "select" not in task.options.get("train", ()):
        raise BadInput(
            f"{cache.path}: a cache of {task.samples}, of which train reads no selection. Train on all of them."
        )
    if not cache.complete:
        raise CacheMismatch(f"{cache.path}: not all of its parts are there. Finish its dump first.")
    return cache


def _score(
    settings: SelectSettings, method: Method, cache: Cache, reference: Cache | None
) -> tuple[str | None, Array | None]:
    """Return the name of the score, and float64[S] of its values."""
    name: str | None = "nll difference"
    if reference is not None:
        score_S = difference(cache.nll(), reference.nll())
    else:
        name = {"confidence": "confidence", "named": settings.score or "nll"}.get(method.score, settings.score)
        if name is None:
            return None, None
        score_S = scores_of(cache, name, settings.figures)
    score_S = _of_views(score_S, cache)
    if len(score_S) and np.isnan(score_S).all():  # the order of the samples would decide
        raise BadInput(
            f"--method {settings.method}: no sample of {cache.path} has the score '{name}'. Take --method random, or another "
            "--score."
        )
    return name, score_S


def _needs_class(method: Method, cache: Cache) -> bool:
    """Return True for a method whose samples are grouped by the teacher's classes; llkd does so where there are some."""
    return method.reads == "class" or (method.score == "confidence" and is_of_classes(cache))


def _uncertainty(settings: SelectSettings, method: Method, cache: Cache) -> Array | None:
    """Return float64[S]: the entropy of a student that llkd takes into account; None without its figures."""
    if settings.figures is None or method.score != "confidence":
        return None
    return _of_views(read_figure(settings.figures, cache, "entropy"), cache)


def _of_views(score_A: Array, cache: Cache) -> Array:
    """Return float64[S]: the mean over the views that have a score; NaN where none has."""
    if cache.manifest.views == 1:
        return score_A
    score_VS = score_A.reshape(cache.manifest.views, -1)
    known_VS = ~np.isnan(score_VS)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known_VS, score_VS, 0.0).sum(0) / known_VS.sum(0))


def _within(settings: SelectSettings, score_S: Array | None, count: int) -> Array:
    """Return bool[S]: the samples within the bounds. A sample without a score is never within bounds."""
    allowed_S = np.ones(count, np.bool_)
    if score_S is not None and settings.at_least is not None:
        allowed_S &= score_S >= settings.at_least
    if score_S is not None and settings.at_most is not None:
        allowed_S &= score_S <= settings.at_most
    return allowed_S


def _selection(
    settings: SelectSettings, cache: Cache, reference: Cache | None, choice: Choice, rows_S: Array, tokens_S: Array
) -> Selection:
    arguments = settings.model_dump(
        mode="json", exclude={"cache", "reference", "method", "out"}, exclude_none=True, exclude_defaults=True
    )
    if METHODS[settings.method].has_seed:
        arguments["seed"] = settings.seed or 0
    return Selection(
        info=SelectionInfo(
            created_by=logitstore.__version__,
            data=cache.manifest.data.fingerprint,
            cache=cache.manifest.identity,
            reference=None if reference is None else reference.manifest.identity,
            method=settings.method,
            arguments=arguments,
            samples=cache.manifest.samples,
            chosen=Chosen(
                samples=len(choice.samples_M),
                rows=int(rows_S[choice.samples_M].sum()),
                tokens=int(tokens_S[choice.samples_M].sum()),
            ),
            suggested_alpha=choice.suggested_alpha,
        ),
        samples_M=choice.samples_M,
        weight_M=choice.weight_M,
    )


def _mean(score_S: Array | None, some_S: Array) -> float | None:
    """Return the mean of the finite scores of some samples; None if there are none."""
    if score_S is None:
        return None
    finite = score_S[some_S & np.isfinite(score_S)]
    return float(finite.mean()) if len(finite) else None
