"""The kinds of rows: what each sparsifier is, in one table. No torch.

Presets, the manifest's checks, the codecs, the decoder, `recode`, `verify` and the command line ask these records, and nothing
asks for a sparsifier by its name. Another package names its own kinds in the entry-point group `logitstore.sparsifiers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, get_args

from logitstore.core.registry import suggest
from logitstore.errors import BadInput

PLUGINS = "logitstore.sparsifiers"
"""The entry-point group in which other packages name kinds of rows."""


Argument = Literal["top_p", "draws", "exponent"]


TailShape = Literal["none", "uniform", "prior", "sketch", "head"]


FieldName = Literal[
    "ids",
    "logprobs",
    "counts",
    "log_normaliser",
    "tail_logmass",
    "sketch",
    "hidden",
    "hidden_scale",
    "gold_logprob",
    "entropy",
    "score",
]


ARGUMENTS: tuple[Argument, ...] = ("top_p", "draws", "exponent")
"""What a sparsifier may be given besides k and the vocabulary."""


class Lists(Enum):
    """The rule for k, the number of tokens that a row lists by probability."""

    GIVEN = "exactly k"
    UP_TO = "at most k"
    NONE = "no token"
    ALL = "the whole vocabulary"

    @property
    def is_chosen(self) -> bool:
        """True where k is the user's choice."""
        return self in (Lists.GIVEN, Lists.UP_TO)

    def fixed(self, vocabulary: int) -> int | None:
        """Return the only k there can be; None where it is the user's choice."""
        return {Lists.NONE: 0, Lists.ALL: vocabulary}.get(self)


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """What one sparsifier makes of a row.

    Attributes:
        sparsifier: where the sparsifier is, as `package.module:attribute`: a class, called with k, the vocabulary and its
            arguments (see `logitstore.dump.sparsify`).
        lists: the rule for k.
        fields: the arrays of `rows.zarr` that its rows may have (docs/format.md, "rows.zarr").
        tails: the shapes that its tail may have, the default first.
        arguments: what else the sparsifier is given.
        targets: where the function is that makes targets of stored rows, as `package.module:attribute`; it takes a `Decoder`
            and the stored fields. None where no row is kept.
        cut_to: the kinds that its rows can become without the teacher, by leaving out the least probable listed tokens.
        of_lists: where the class is that makes its rows of a teacher's lists of the most probable tokens, in the same form,
            called with k and the vocabulary; None where the whole distribution is needed. Tails that are fitted need that
            always.
    """

    sparsifier: str
    lists: Lists
    fields: tuple[FieldName, ...]
    tails: tuple[TailShape, ...]
    arguments: tuple[Argument, ...] = ()
    targets: str | None = None
    cut_to: tuple[str, ...] = ()
    of_lists: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, for the author of a plugin, when the attributes do not fit together."""
        rules = {
            "fields are those of docs/format.md": set(self.fields) <= set(get_args(FieldName)),
            "there is a tail, and it has a known shape": self.tails and set(self.tails) <= set(get_args(TailShape)),
            "arguments are top_p, draws or exponent": set(self.arguments) <= set(ARGUMENTS),
            "rows that are kept have targets": self.keeps_rows == (self.targets is not None),
            "drawn tokens have counts": ("draws" in self.arguments) == self.is_estimate,
            "a sketch needs its field": ("sketch" in self.tails) == ("sketch" in self.fields),
            "lists become ids and logprobs": self.of_lists is None
            or (self.lists.is_chosen and not self.arguments and {"ids", "logprobs"} <= set(self.fields)),
            "a tail from the head needs hidden states": ("head" in self.tails) == self.keeps_hidden,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"no kind of row can be like this: {'; '.join(broken)}")

    @property
    def keeps_rows(self) -> bool:
        """True where something is stored about a row; without it only the samples and their scores are."""
        return bool(self.fields)

    @property
    def keeps_ids(self) -> bool:
        """True where token ids are stored; without them logprobs stand in the order of the ids."""
        return "ids" in self.fields

    @property
    def keeps_logprobs(self) -> bool:
        """True where logprobs are stored, so that their codec counts."""
        return "logprobs" in self.fields

    @property
    def keeps_tail_mass(self) -> bool:
        """True where the mass of the unlisted tokens is stored, so that its codec counts."""
        return "tail_logmass" in self.fields

    @property
    def keeps_hidden(self) -> bool:
        """True where the teacher's final hidden state is stored, from which any other kind can be made."""
        return "hidden" in self.fields

    @property
    def is_distribution(self) -> bool:
        """False where a row is the one number that a teacher gives to an input, and no distribution."""
        return "score" not in self.fields

    @property
    def is_estimate(self) -> bool:
        """True where a row is a random sample of the distribution, right only on average."""
        return "counts" in self.fields


ROW_KINDS: dict[str, RowKind] = {
    "topk": RowKind(
        sparsifier="logitstore.dump.sparsify.topk:TopK",
        lists=Lists.GIVEN,
        fields=("ids", "logprobs", "tail_logmass", "sketch", "gold_logprob", "entropy"),
        tails=("sketch", "prior", "uniform", "none"),
        targets="logitstore.targets.decoder:listed",
        cut_to=("topk",),
        of_lists="logitstore.dump.sparsify.lists:ListedTopK",
    ),
    "topp": RowKind(
        sparsifier="logitstore.dump.sparsify.topp:TopP",
        lists=Lists.UP_TO,
        arguments=("top_p",),
        fields=("ids", "logprobs", "tail_logmass", "sketch", "gold_logprob", "entropy"),
        tails=("sketch", "prior", "uniform", "none"),
        targets="logitstore.targets.decoder:listed",
        cut_to=("topp", "topk"),
    ),
    "sampled": RowKind(
        sparsifier="logitstore.dump.sparsify.sampled:Sampled",
        lists=Lists.NONE,
        arguments=("draws", "exponent"),
        fields=("ids", "logprobs", "counts", "log_normaliser", "gold_logprob", "entropy"),
        tails=("none",),
        targets="logitstore.targets.decoder:drawn",
    ),
    "hybrid": RowKind(
        sparsifier="logitstore.dump.sparsify.sampled:Sampled",
        lists=Lists.GIVEN,
        arguments=("draws", "exponent"),
        fields=("ids", "logprobs", "counts", "log_normaliser", "gold_logprob", "entropy"),
        tails=("none",),
        targets="logitstore.targets.decoder:drawn",
    ),
    "dense": RowKind(
        sparsifier="logitstore.dump.sparsify.dense:Dense",
        lists=Lists.ALL,
        fields=("logprobs", "gold_logprob", "entropy"),
        tails=("none",),
        targets="logitstore.targets.decoder:whole",
    ),
    "hidden": RowKind(
        sparsifier="logitstore.dump.sparsify.scores:Hidden",
        lists=Lists.NONE,
        fields=("hidden", "hidden_scale", "gold_logprob", "entropy"),
        tails=("head",),
        targets="logitstore.targets.decoder:hidden",
    ),
    "score": RowKind(
        sparsifier="logitstore.dump.sparsify.scores:Score",
        lists=Lists.NONE,
        fields=("score",),
        tails=("none",),
        targets="logitstore.targets.scores:scored",
    ),
    "none": RowKind(
        sparsifier="logitstore.dump.sparsify.scores:Hidden",
        lists=Lists.NONE,
        fields=(),
        tails=("none",),
    ),
}
"""The kinds of this package, by the name of their sparsifier."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the kinds of installed packages, not yet imported. Raises BadInput when two kinds have one name."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in ROW_KINDS or entry.name in entries:
            raise BadInput(f"the sparsifier '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        entries[entry.name] = entry
    return entries


def is_row_kind(name: str) -> bool:
    """Return True where a sparsifier has this name: one of ours, or of an installed package."""
    return name in ROW_KINDS or name in _plugins()


@cache
def row_kind(name: str) -> RowKind:
    """Return the kind with this name; a package that provides one is imported when it is asked for.

    Raises:
        BadInput: there is none, with the nearest name; or what a package provides is no `RowKind`.
    """
    if name in ROW_KINDS:
        return ROW_KINDS[name]
    if name not in _plugins():
        raise BadInput(f"no sparsifier named '{name}'. {suggest(name, [*ROW_KINDS, *_plugins()])}")
    entry = _plugins()[name]
    kind = entry.load()
    if not isinstance(kind, RowKind):
        raise BadInput(
            f"the sparsifier '{name}' of {entry.value} is no logitstore.format.row_kinds.RowKind. Mend the plugin."
        )
    return kind


def check_sparsifier(name: str) -> str:
    """Return the name of a sparsifier that a user may choose.

    Raises:
        ValueError: there is none, with the nearest name.
    """
    # `none` keeps no row: that is a preset, and nothing to change in one
    names = [*sparsifiers(), *_plugins()]
    if name not in names:
        raise ValueError(suggest(name, names))
    return name


def sparsifiers(of_logits: bool = False) -> list[str]:
    """Return the names of our sparsifiers that keep distributions; with `of_logits` those that need no hidden states."""
    kept = {name: kind for name, kind in ROW_KINDS.items() if kind.keeps_rows and kind.is_distribution}
    return [name for name, kind in kept.items() if not (of_logits and kind.keeps_hidden)]
