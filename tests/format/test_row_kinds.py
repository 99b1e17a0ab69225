"""The table of the kinds of rows: no record contradicts itself, and those who ask it are told the truth."""

from __future__ import annotations

from typing import Any

import pytest

from logitstore.core.registry import resolve
from logitstore.format.presets import row_of
from logitstore.format.row import row_fields
from logitstore.format.row_kinds import ROW_KINDS, Lists, RowKind, row_kind
from logitstore.train.objectives.exactness import exactness


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fields": ("ids", "secrets")}, "fields are those"),
        ({"tails": ()}, "there is a tail"),
        ({"arguments": ("temperature",)}, "arguments are"),
        ({"targets": None}, "rows that are kept have targets"),
        ({"arguments": ("draws",)}, "drawn tokens have counts"),
        ({"tails": ("sketch",)}, "a sketch needs its field"),
        ({"tails": ("head",)}, "a tail from the head needs hidden states"),
    ],
)
def test_a_record_that_contradicts_itself_cannot_be_made(changes: dict[str, Any], says: str) -> None:
    sound: dict[str, Any] = {
        "sparsifier": "logitstore.dump.sparsify.topk:TopK",
        "lists": Lists.GIVEN,
        "fields": ("ids", "logprobs", "tail_logmass", "gold_logprob", "entropy"),
        "tails": ("prior",),
        "targets": "logitstore.targets.decoder:listed",
    }
    RowKind(**sound)
    with pytest.raises(ValueError, match=says):
        RowKind(**sound | changes)


def test_what_a_kind_can_be_cut_to_is_a_kind_that_lists_tokens() -> None:
    for kind in ROW_KINDS.values():
        assert all(row_kind(name).lists.is_chosen for name in kind.cut_to)


@pytest.mark.parametrize("name", ROW_KINDS)
def test_what_a_record_names_is_there(name: str) -> None:
    kind = ROW_KINDS[name]
    assert callable(resolve(kind.sparsifier))
    assert kind.targets is None or callable(resolve(kind.targets))


@pytest.mark.parametrize("name", ROW_KINDS)
def test_rows_have_no_field_that_their_kind_does_not_name(name: str) -> None:
    for tail in ROW_KINDS[name].tails:
        vocabulary = 320 if ROW_KINDS[name].is_distribution else 1
        row = row_of("topk", {"sparsifier": name, "tail": tail}, vocabulary, 32)
        fields = row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary)
        left_out = set(ROW_KINDS[name].fields) - fields.keys()
        assert fields.keys() <= set(ROW_KINDS[name].fields)
        assert left_out <= ({"log_normaliser"} if row.sparsifier.draws else {"sketch"} if tail != "sketch" else set())


def test_a_nucleus_is_not_the_whole_distribution_however_many_slots_it_has() -> None:
    assert exactness("forward_kl", row_of("topk", {"k": 10}, 10, None))[0] == "exact"
    nucleus = row_of("topk", {"sparsifier": "topp", "k": 10, "tail": "prior"}, 10, None)
    assert exactness("forward_kl", nucleus) == ("approximation", "the tail is modelled (prior)")
