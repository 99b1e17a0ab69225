"""Check the pulls of a plan against the cache, say how exact they are, and make them into a criterion.

Axes: V vocabulary, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import chain, count
from typing import Any

import torch
from transformers import PreTrainedModel

from logitstore.core.methods import method_of
from logitstore.core.schedule import Schedule, scheduled
from logitstore.errors import BadInput
from logitstore.models.shape import layer_count, shape_of
from logitstore.settings.train import TermSettings, TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.features import at_places, last_layers, pairs_of, shapes_of
from logitstore.train.learner import Learner
from logitstore.train.objectives.criterion import NAMED_IN_LOG, Criterion, FeatureTerm, RowTerm
from logitstore.train.objectives.exactness import check_method, check_options, fidelity_note, refuse_unless_exact
from logitstore.train.objectives.features.feature import Pair
from logitstore.train.objectives.features.places import AtPlaces
from logitstore.train.objectives.learned import LearnedShares, learned_kind
from logitstore.train.objectives.rankings.ranked import Ranked
from logitstore.train.objectives.row_values import check_rules, row_values
from logitstore.train.objectives.shares import GOLD, Shares
from logitstore.train.sequences import check_sequences, sequence_method, term_of


def all_terms(settings: TrainSettings) -> list[TermSettings]:
    """Return all pulls towards the teacher: the objective, unless its weight is 0, and the further terms.

    Raises:
        BadInput: there is no pull although --objective none needs one, or the objective belongs in `terms`.
    """
    if settings.objective == "none":
        if not settings.terms:
            raise BadInput("--objective none: then `terms` of a recipe must name what pulls the student.")
        return settings.terms
    if method_of(settings.objective).form == "features":
        raise BadInput(
            f"--objective {settings.objective}: it compares features, so it stands in `terms` of a recipe, beside an objective "
            "on logits or with --objective none. See `logitstore recipes`."
        )
    if settings.alpha == 0:
        return settings.terms
    first = TermSettings(
        name=settings.objective, weight=settings.alpha, temperature=settings.temperature, options=settings.options
    )
    return [first, *settings.terms]


def check_terms(settings: TrainSettings, cache: Cache) -> None:
    """Refuse pulls that the cache does not serve, and settings that would change nothing, before any weights are loaded.

    Raises:
        BadInput: a name or an option is unknown, a pull does not exist for this cache or temperature, or settings do not go
            together.
    """
    wanted = all_terms(settings)
    _check_settings(settings)
    check_sequences(settings, cache)
    check_rules(wanted, cache)
    for pull in wanted:
        hottest = max(scheduled(pull.temperature).span, key=lambda value: abs(math.log(value)))
        check_method(pull.name, cache.manifest.row, hottest)
        check_options(pull.name, pull.options)
        if method_of(pull.name).form == "rows":
            cache.check_targets(f"--alpha {pull.weight}" if pull.name == settings.objective else f"terms: {pull.name}")
            if cache.manifest.sparsifier.is_estimate and hottest != 1:
                raise BadInput(
                    f"--temperature {pull.temperature}: {settings.cache} holds random samples, which are right at temperature "
                    "1 only. Train at 1, or dump with another preset."
                )
            _try(pull, cache.manifest.teacher.vocabulary)
        if method_of(pull.name).form == "rankings":
            _try_ranking(pull)


def _check_settings(settings: TrainSettings) -> None:
    """Refuse settings that would change nothing, and weights that cannot be balanced."""
    if settings.objective == "none":
        for name, value in (
            ("--alpha", settings.alpha),
            ("--temperature", settings.temperature),
            ("options", settings.options),
        ):
            if value != TrainSettings.model_fields[name.removeprefix("--")].default:
                raise BadInput(
                    f"--objective none with {name} {value}: it belongs to the objective, and there is none. Leave it out: "
                    "`terms` have their own weights, temperatures and options."
                )
    elif settings.alpha == 0:
        for name, value in (
            ("options", settings.options),
            ("--temperature", settings.temperature),
            ("--objective", settings.objective),
        ):
            usual = TrainSettings.model_fields[name.removeprefix("--")].default
            if value not in (usual, "forward_kl", "list_kl"):
                raise BadInput(
                    f"--alpha 0 with {name} {value}: the objective weighs nothing, so this changes nothing. Leave it out."
                )
    for term in settings.terms:
        method = method_of(term.name)
        if method.form == "sequences":
            raise BadInput(
                f"terms: {term.name}: it compares whole samples, and stands alone as --objective. Leave it out."
            )
        if term.teacher > 1 and (method.form != "features" or method.given):
            raise BadInput(
                f"terms: {term.name}: teacher {term.teacher}: it compares the first teacher alone. Leave that out."
            )
        if term.teacher > 1 + len(settings.also):
            raise BadInput(
                f"terms: {term.name}: teacher {term.teacher}: there are {1 + len(settings.also)}. Name its cache with --also."
            )
        if method.form == "features" and term.temperature != 1:
            raise BadInput(f"terms: {term.name}: temperature {term.temperature}: features have none. Leave it out.")
        if term.weight != "balanced":
            continue
        if method.form != "features":
            raise BadInput(f"terms: {term.name}: only pulls on features can be balanced. Give it a number.")
        if method.may_be_negative:
            raise BadInput(f"terms: {term.name}: its loss may be negative, so it cannot be balanced. Give it a number.")
        if settings.objective == "none" and not any(_pulls_logits(each) for each in settings.terms):
            raise BadInput(
                f"terms: {term.name}: nothing pulls on the logits, so balanced is nothing. Give it a number, or an objective."
            )


def _pulls_logits(term: TermSettings) -> bool:
    """Return whether a term is a pull on logits with a weight above 0."""
    is_on_rows = method_of(term.name).form in ("rows", "rankings") and term.weight != "balanced"
    return is_on_rows and Schedule.of(term.weight).span[1] > 0


def _try(pull: TermSettings, vocabulary: int) -> None:
    """Try the options of a pull on logits on one invented row.

    Raises:
        BadInput: the pull refuses its options.
    """
    logits_1V = torch.zeros(1, vocabulary)
    targets = Targets(
        torch.zeros(1, 1, dtype=torch.int64),
        torch.full((1, 1), -math.log(2)),
        torch.full((1,), -math.log(2)),
        FixedTail.uniform(vocabulary),
    )
    term = RowTerm(name=pull.name, label=pull.name, weight=Schedule.of(1.0), options=pull.options)
    Criterion([term]).row_loss(targets, targets.ids_NK[:, 0], 0.0)(logits_1V, slice(0, 1), 1.0)


def _try_ranking(pull: TermSettings) -> None:
    """Try the options of a pull on scores on two invented documents. Raises BadInput: the pull refuses its options."""
    ones_N = torch.ones(2)
    some = Ranked.of(ones_N, ones_N, torch.ones(2, dtype=torch.int64), torch.tensor([2]))
    method_of(pull.name).function(some, **pull.options)


def check_exact(settings: TrainSettings, cache: Cache, students_layers: Collection[int]) -> None:
    """Refuse, under --strict, a pull that is not exact on this cache; check before that the taps are there.

    Args:
        settings: the plan of the training.
        cache: the cache to train from.
        students_layers: number of decoder layers of each student.

    Raises:
        BadInput: a pull is not exact on this cache.
    """
    for pull in _of_first(settings) if settings.strict else ():
        refuse_unless_exact(cache, pull.name, _taps(pull, cache, students_layers))


def fidelity_notes(settings: TrainSettings, cache: Cache, students_layers: Collection[int]) -> list[str]:
    """Return one line, a note or a warning, for each pull that this cache does not serve exactly; see `check_exact`."""
    reports = [
        fidelity_note(cache, pull.name, scheduled(pull.temperature).span[1], _taps(pull, cache, students_layers))
        for pull in _of_first(settings)
    ]
    return [f"{'warning' if is_warning else 'note'}: {text}" for text, is_warning in filter(None, reports)]


def _of_first(settings: TrainSettings) -> list[TermSettings]:
    """Return the pulls towards the teacher of the first cache."""
    return [pull for pull in all_terms(settings) if pull.teacher == 1]


def compared(settings: TrainSettings, cache: Cache, student_layers: int, teacher: int = 1) -> list[Pair]:
    """Return pairs of names: a student's feature and the feature that it is compared with, of the teacher with this number.

    Raises:
        BadInput: a layer is not there.
    """
    pulls = [pull for pull in all_terms(settings) if pull.teacher == teacher]
    return [pair for pull in pulls for pair in pairs_of(pull, cache, student_layers)]


def _taps(pull: TermSettings, cache: Cache, students_layers: Collection[int]) -> set[str]:
    """Return the names of the teacher's features that a pull uses."""
    return {other for layers in students_layers for _, other in pairs_of(pull, cache, layers)}


def criterion_of(
    settings: TrainSettings,
    cache: Cache,
    student_config: dict[str, Any],
    given: dict[str, Callable[[], Any]],
    also: Sequence[Cache] = (),
) -> Criterion:
    """Return the loss of a run for one student.

    Args:
        settings: the plan of the training.
        cache: the cache to train from.
        student_config: the shape of the student, see `shape_of`.
        given: inputs of the objectives besides their options, by name; each is computed only when it is needed.
        also: further caches, of the same samples.
    """
    if sequence_method(settings) is not None:
        gold = RowTerm(name=GOLD, label=GOLD, weight=Schedule.of(1.0))
        return Criterion([gold], sequence=term_of(settings, cache))
    rows, features = [], []
    for term, label in zip(settings.terms, _labels(settings), strict=True):
        method = method_of(term.name)
        balanced = term.weight == "balanced"
        weight = Schedule.of(1.0 if balanced else term.weight)
        if method.form == "features":
            supplied = {name: given[name]() for name in method.given}
            layers = int(student_config["num_hidden_layers"] or 0)
            source = (cache, *also)[term.teacher - 1]
            pairs = pairs_of(term, source, layers)
            shapes = shapes_of(pairs, source, student_config)
            module = method.function(shapes, **method.options | term.options | supplied)
            if at_places(source, pairs):
                module = AtPlaces(module, last_layers(source, layers))
            features.append(
                FeatureTerm(label=label, weight=weight, is_balanced=balanced, module=module, teacher=term.teacher)
            )
        else:
            temperature = scheduled(term.temperature)
            rows.append(
                RowTerm(name=term.name, label=label, weight=weight, temperature=temperature, options=term.options)
            )
    teachers, learned = 1 + len(settings.also), learned_kind(settings.weights)
    criterion = Criterion.mixed(
        settings.objective,
        alpha=settings.alpha,
        temperature=settings.temperature,
        options=settings.options,
        rows=rows,
        features=features,
        beside_gold=learned is not None and learned[0] == "geometry",
    )
    criterion.is_ranking = not cache.manifest.sparsifier.kind.is_distribution
    criterion.row_values = row_values(all_terms(settings), cache)
    if learned is not None:
        criterion.routing = LearnedShares(learned[0], teachers, top=learned[1])
    elif settings.also:
        criterion.shares = Shares.of(settings.weights, teachers)
    return criterion


def taps_read(settings: TrainSettings, cache: Cache, students_layers: Collection[int], teacher: int = 1) -> list[str]:
    """Return the names of the features that a run reads of a cache; `teacher` is the number of its teacher.

    Raises:
        BadInput: the cache lacks one, or `--strict` asks for more than it gives.
    """
    taps = sorted({teachers for count in students_layers for _, teachers in compared(settings, cache, count, teacher)})
    cache.taps.check_has(taps)
    if teacher == 1:
        check_exact(settings, cache, students_layers)
    return taps


def learner_of(
    settings: TrainSettings,
    cache: Cache,
    student: PreTrainedModel,
    given: dict[str, Callable[[], Any]],
    also: Sequence[Cache] = (),
    **options: Any,
) -> Learner:
    """Return a student with its criterion; `given` and `also` are those of `criterion_of`, `options` further ones of
    `Learner`."""
    layers = layer_count(student.config)
    pairs = [(each, compared(settings, each, layers, place)) for place, each in enumerate((cache, *also), 1)]
    return Learner(
        student=student,
        criterion=criterion_of(settings, cache, shape_of(student.config), given, also),
        features=sorted({name for _, some in pairs for name, _ in some}),
        at_places=frozenset().union(*(at_places(each, some) for each, some in pairs)),
        **options,
    )


def _labels(settings: TrainSettings) -> list[str]:
    """Return the label of each term in the log and in checkpoints: its name, with a number where the name is taken."""
    taken = {GOLD, NAMED_IN_LOG.get(settings.objective, settings.objective)}
    labels = []
    for term in settings.terms:
        others = (f"{term.name}_{number}" for number in count(2))
        labels.append(next(label for label in chain([term.name], others) if label not in taken))
        taken.add(labels[-1])
    return labels
