"""What a plan pulls the student with: checked against the cache, told honestly, and made into a criterion.

Axes: V vocabulary, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from logitstore.cache.reader import Cache
from logitstore.criterion import Criterion, FeatureTerm, RowTerm
from logitstore.errors import BadInput
from logitstore.features.feature import Shapes
from logitstore.fidelity_report import honesty, refuse_unless_exact
from logitstore.methods import check_method, check_options, method_of
from logitstore.models import config_from, layer_count, shape_of
from logitstore.plans import TermPlan, TrainPlan
from logitstore.schedule import Schedule


def pulls(plan: TrainPlan) -> list[TermPlan]:
    """All pulls towards the teacher: the objective, unless it weighs nothing, and the further terms.

    Raises:
        BadInput: there is none where one was promised, or the objective is one that belongs into `terms`.
    """
    if plan.objective == "none":
        if not plan.terms:
            raise BadInput("--objective none: then `terms` of a recipe must name what pulls the student.")
        return plan.terms
    if method_of(plan.objective).form == "features":
        raise BadInput(
            f"--objective {plan.objective}: it compares features, so it stands in `terms` of a recipe, beside an objective on "
            "logits or with --objective none. See `logitstore recipes`."
        )
    if plan.alpha == 0:
        return plan.terms
    first = TermPlan(name=plan.objective, weight=plan.alpha, temperature=plan.temperature, options=plan.options)
    return [first, *plan.terms]


def check_pulls(plan: TrainPlan, cache: Cache) -> None:
    """Refuse, before any weights are loaded, pulls that the cache does not serve.

    Raises:
        BadInput: an unknown name or option, or a cache or temperature for which a pull does not exist.
    """
    for pull in pulls(plan):
        hottest = max(Schedule.of(pull.temperature).span, key=lambda value: abs(math.log(value)))
        check_method(pull.name, cache.manifest.row, hottest)
        check_options(pull.name, pull.options)
        if method_of(pull.name).form == "rows":
            cache.check_targets(f"--alpha {pull.weight}" if pull.name == plan.objective else f"terms: {pull.name}")
            if cache.manifest.sparsifier.is_estimate and hottest != 1:
                raise BadInput(
                    f"--temperature {pull.temperature}: {plan.cache} holds random samples, which are right at temperature 1 "
                    "only. Train at 1, or dump with another preset."
                )
            if pull.weight == "balanced":
                raise BadInput(f"terms: {pull.name}: only pulls on features can be balanced. Give it a number.")
        if plan.strict:
            refuse_unless_exact(cache, pull.name)


def honestly(plan: TrainPlan, cache: Cache) -> list[str]:
    """What there is to know of each pull on this cache."""
    said = [honesty(cache, pull.name, Schedule.of(pull.temperature).span[1]) for pull in pulls(plan)]
    return [f"{'warning' if is_warning else 'note'}: {text}" for text, is_warning in filter(None, said)]


def compared(plan: TrainPlan, cache: Cache, student_layers: int) -> list[tuple[str, str]]:
    """Names of the student's features and the teacher's that are compared.

    Raises:
        BadInput: layers that are not there.
    """
    found = []
    for pull in pulls(plan):
        method = method_of(pull.name)
        if method.form == "features":
            teacher_layers = layer_count(config_from(cache.manifest.teacher.config))
            found += method.function.pairs(student_layers, teacher_layers, **method.options | pull.options)
    return found


def criterion_of(
    plan: TrainPlan, cache: Cache, student_config: dict[str, Any], given: dict[str, Callable[[], Tensor]]
) -> Criterion:
    """The loss of a run for one student.

    Args:
        plan: what was asked for.
        cache: what is learned from.
        student_config: the shape of the student, see `shape_of`.
        given: what the objectives are given besides their options, by name; computed when it is needed.
    """
    rows, features = [], []
    for number, term in enumerate(plan.terms):
        method = method_of(term.name)
        label = term.name if all(term.name != other.name for other in plan.terms[:number]) else f"{term.name}_{number}"
        balanced = term.weight == "balanced"
        weight = Schedule.of(1.0 if balanced else term.weight)
        if method.form == "features":
            supplied = {name: given[name]() for name in method.given}
            shapes = _shapes(plan, cache, student_config)
            module = method.function(shapes, **method.options | term.options | supplied)
            features.append(FeatureTerm(label=label, weight=weight, is_balanced=balanced, module=module))
        else:
            temperature = Schedule.of(term.temperature)
            rows.append(
                RowTerm(name=term.name, label=label, weight=weight, temperature=temperature, options=term.options)
            )
    return Criterion.mixed(
        plan.objective,
        alpha=plan.alpha,
        temperature=plan.temperature,
        options=plan.options,
        rows=rows,
        features=features,
    )


def _shapes(plan: TrainPlan, cache: Cache, student: dict[str, Any]) -> Shapes:
    """What the objectives on features know of both models."""
    teacher = shape_of(config_from(cache.manifest.teacher.config))
    layers = int(student["num_hidden_layers"])
    names = compared(plan, cache, layers)
    return Shapes(
        student_layers=layers,
        teacher_layers=int(teacher["num_hidden_layers"] or 0),
        widths_student={own: width_of(student, own) for own, _ in names},
        widths_teacher={other: cache.taps[other].info.width for _, other in names},
        heads_student=int(student["num_attention_heads"] or 0),
        heads_teacher=int(teacher["num_attention_heads"] or 0),
        key_heads_student=_key_heads(student),
        key_heads_teacher=_key_heads(teacher),
    )


def width_of(config: dict[str, Any], feature: str) -> int:
    """Channels of a feature of a model."""
    kind = feature.partition("-")[0]
    if kind in ("hidden", "final"):
        return int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    return head_dim * (int(config["num_attention_heads"]) if kind == "query" else _key_heads(config))


def _key_heads(config: dict[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"] or 0)
