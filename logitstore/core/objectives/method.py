"""What an objective says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

from logitstore.core.registry import resolve


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to pull a student towards a teacher.

    Attributes:
        target: where it is, as `package.module:attribute`. Of the form "rows" a function of student logits [N, V], targets
            and, where `needs_gold`, gold tokens [N], then options by keyword; of the form "features" a class as
            described in `logitstore.train.objectives.features.feature`. Both give a loss [N]. Of the form "sequences" a
            function of `logitstore.train.objectives.sequences.sequences.Sequences`, which gives a loss [M].
        says: what it is, for one row.
        paper: where it comes from.
        form: whether it is about logits, about hidden states, queries, keys and values, about whole samples, or about the
            scores of the documents of a query.
        in_pairs: whether it compares two samples of a group; of the form "sequences".
        needs_reference: whether it needs the teacher's logprob of whole samples.
        needs_distribution: whether it needs the teacher's whole distribution, so that random samples do not serve it.
        needs_tail: whether it is infinite where the teacher's tail has no mass.
        needs_list: whether it needs listed tokens.
        needs_gold: whether it needs the tokens that follow in the data.
        has_temperature: whether it exists at other temperatures than 1.
        may_be_negative: whether its loss may be below 0, so that no weight can make it as heavy as another.
        own: what it is by itself where a cache does not list every token: a lower bound of what its name says, or biased.
        because: why it is that.
        rows_together: how many rows it compares with each other; 0 where every row stands alone.
        state: where the module is that changes its options while a student trains.
        given: keyword arguments that are no options, because the trainer or the state gives them.
        taps: what features it compares, for people.
    """

    target: str
    says: str
    paper: str
    form: Literal["rows", "features", "sequences", "rankings"] = "rows"
    in_pairs: bool = False
    needs_reference: bool = False
    needs_distribution: bool = True
    needs_tail: bool = False
    needs_list: bool = False
    needs_gold: bool = False
    has_temperature: bool = True
    may_be_negative: bool = False
    own: Literal["bound", "biased"] | None = None
    because: str = ""
    rows_together: int = 0
    state: str | None = None
    given: tuple[str, ...] = ()
    taps: str = ""

    @property
    def function(self) -> Any:
        """Imported when asked for."""
        return resolve(self.target)

    @property
    def options(self) -> dict[str, Any]:
        """What may be set, with the defaults: the keyword arguments of the function, and of its state."""
        found = [self.function] + ([resolve(self.state)] if self.state else [])
        named = [each for one in found for each in signature(one).parameters.values()]
        kept = {each.name: each.default for each in named if each.kind is Parameter.KEYWORD_ONLY}
        return {name: default for name, default in kept.items() if name not in ("temperature", *self.given)}
