"""`select`: choose samples to train on by scores of caches; no model runs. Reads top to bottom.

caches -> scores -> candidates within the bounds -> method -> selection file

Axes: S samples, M chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import logitstore
from logitstore.cache.reader import Cache
from logitstore.cache.same_samples import check_same_samples
from logitstore.errors import BadInput, CacheMismatch
from logitstore.plans import SelectPlan
from logitstore.selection.choice import Amount, Candidates, Choice
from logitstore.selection.difference import difference
from logitstore.selection.file import Chosen, Selection, SelectionInfo, write_selection
from logitstore.selection.scores import scores_of
from logitstore.selection.table import METHODS, Method
from logitstore.types import Array


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
        mean_chosen, mean_left: mean score of the chosen samples, and of the others; None where no score is finite.
        domains: the domains, in the order of their first samples.
    """

    selection: Selection
    samples: int
    rows: int
    tokens: int
    score: str | None
    mean_chosen: float | None
    mean_left: float | None
    domains: list[DomainShare]


def select(plan: SelectPlan) -> Selected:
    """Choose samples as `plan` says, and write the selection file.

    Raises:
        NotACache, CacheDamaged: a cache cannot be read.
        BadInput: options do not go together, the cache does not have a score, or no sample is chosen.
        CacheMismatch: the two caches do not hold the same samples, or are not complete.
        StorageError: the file cannot be written.
    """
    method = METHODS[plan.method]
    _check(plan, method)
    cache = _opened(plan.cache)
    reference = _opened(plan.reference) if plan.reference is not None else None
    if reference is not None:
        check_same_samples(cache, reference, f"--reference {reference.path}")
    name, score_S = _score(plan, method, cache, reference)
    names = cache.domains()
    domains = list(dict.fromkeys(names))
    numbers = {domain: number for number, domain in enumerate(domains)}
    domain_S = np.array([numbers[domain] for domain in names], np.int64)
    candidates = Candidates(score_S=score_S, domain_S=domain_S, allowed_S=_within(plan, score_S, len(cache)))
    choice = method.choose(candidates, Amount(ratio=plan.ratio, samples=plan.samples, seed=plan.seed or 0))
    if not len(choice.samples_M):
        raise BadInput(f"--method {plan.method}: no sample of {plan.cache} is chosen. Set wider bounds.")
    rows_S, tokens_S = cache.row_counts(), cache.lengths()
    selection = _selection(plan, cache, reference, choice, rows_S, tokens_S)
    write_selection(plan.out, selection)
    is_chosen_S = np.zeros(len(cache), np.bool_)
    is_chosen_S[choice.samples_M] = True
    chosen_D, all_D = np.bincount(domain_S[is_chosen_S], minlength=len(domains)), np.bincount(domain_S)
    return Selected(
        selection=selection,
        samples=len(cache),
        rows=int(rows_S.sum()),
        tokens=int(tokens_S.sum()),
        score=name,
        mean_chosen=_mean(score_S, is_chosen_S),
        mean_left=_mean(score_S, ~is_chosen_S),
        domains=[
            DomainShare(name=domain, chosen=int(chosen), all=int(count))
            for domain, chosen, count in zip(domains, chosen_D, all_D, strict=True)
        ],
    )


def _check(plan: SelectPlan, method: Method) -> None:
    """Refuse options that do not go together, before any work; an option that would change nothing is refused too."""
    if plan.out.exists():
        raise BadInput(f"--out {plan.out}: something stands there already. Choose another name.")
    if plan.ratio is not None and plan.samples is not None:
        raise BadInput("--ratio and --samples: give one of them.")
    amount = plan.ratio is not None or plan.samples is not None
    bounds = plan.at_least is not None or plan.at_most is not None
    if method.needs_amount and not (amount or bounds):
        raise BadInput(f"--method {plan.method}: say how much to choose: --ratio, --samples, or bounds on the score.")
    if method.score == "difference" and plan.reference is None:
        raise BadInput(f"--method {plan.method} needs --reference: a cache of the same samples by a smaller model.")
    if plan.reference is not None and method.score not in ("difference", "optional"):
        raise BadInput(f"--reference {plan.reference}: the method '{plan.method}' has no use for it. Leave it out.")
    if plan.seed is not None and not method.has_seed:
        raise BadInput(f"--seed {plan.seed}: the method '{plan.method}' draws nothing. Leave it out.")
    if plan.score is not None and (plan.reference is not None or method.score == "confidence"):
        raise BadInput(f"--score {plan.score}: the method '{plan.method}' has its own here. Leave it out.")
    if bounds and method.score == "optional" and plan.score is None and plan.reference is None:
        raise BadInput("--at-least and --at-most bound a score: name it with --score.")


def _opened(path: object) -> Cache:
    cache = Cache(str(path))
    cache.check_sizes()
    if not cache.complete:
        raise CacheMismatch(f"{cache.path}: not all of its parts are there. Finish its dump first.")
    return cache


def _score(plan: SelectPlan, method: Method, cache: Cache, reference: Cache | None) -> tuple[str | None, Array | None]:
    """Return the name of the score, and float64[S] of its values."""
    if reference is not None:
        return "nll difference", difference(cache.nll(), reference.nll())
    name = {"confidence": "confidence", "named": plan.score or "nll"}.get(method.score, plan.score)
    return name, None if name is None else scores_of(cache, name)


def _within(plan: SelectPlan, score_S: Array | None, count: int) -> Array:
    """Return bool[S]: the samples within the bounds. A sample without a score is never within bounds."""
    allowed_S = np.ones(count, np.bool_)
    if score_S is not None and plan.at_least is not None:
        allowed_S &= score_S >= plan.at_least
    if score_S is not None and plan.at_most is not None:
        allowed_S &= score_S <= plan.at_most
    return allowed_S


def _selection(
    plan: SelectPlan, cache: Cache, reference: Cache | None, choice: Choice, rows_S: Array, tokens_S: Array
) -> Selection:
    arguments = plan.model_dump(
        mode="json", exclude={"cache", "reference", "method", "out"}, exclude_none=True, exclude_defaults=True
    )
    if METHODS[plan.method].has_seed:
        arguments["seed"] = plan.seed or 0
    return Selection(
        info=SelectionInfo(
            created_by=logitstore.__version__,
            data=cache.manifest.data.fingerprint,
            cache=cache.manifest.identity,
            reference=None if reference is None else reference.manifest.identity,
            method=plan.method,
            arguments=arguments,
            samples=len(cache),
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
