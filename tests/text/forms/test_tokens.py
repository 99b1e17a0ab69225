"""However samples are packed into a row and padded, they come out as they went in."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from logitstore.text.chats.options import ChatOptions
from logitstore.text.forms.form import Encoder, Form
from logitstore.text.forms.texts import text_pairs
from logitstore.text.forms.tokens import token_ids
from tests.parts.texts import train_tokenizer

TOKENIZER = train_tokenizer()
Sample = list[tuple[int, bool]]


ENCODER = Encoder(tokenizer=TOKENIZER, chats=ChatOptions(), vocabulary=320)


def pairs_of(form: Form, row: dict[str, Any]) -> Any:
    """The tokens of a row with their flags, the same whether its lists are lists or JSON."""
    whole = dict.fromkeys(form.columns) | row
    (found,) = form.encode(ENCODER, [whole], ["row 1"])
    (spelled,) = form.encode(ENCODER, [{name: value and json.dumps(value) for name, value in whole.items()}], ["row 1"])
    assert spelled == found
    return found.pairs


@given(
    samples=st.lists(
        st.lists(st.tuples(st.integers(0, 319), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4
    ),
    pads=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    ways=st.sets(st.sampled_from(["attention_mask", "position_ids", "seq_lengths"]), min_size=1),
    about=st.sets(st.sampled_from(["labels", "completion_mask"])),
)
def test_packed_samples_are_told_apart(samples: list[Sample], pads: list[int], ways: set[str], about: set[str]) -> None:
    row: dict[str, list[int]] = {name: [] for name in ("input_ids", "attention_mask", "position_ids", *about)}
    numbered = "attention_mask" in ways
    for number, (pad, sample) in enumerate(zip(pads, [*samples, []], strict=False), 1):
        for place, (token, is_said) in enumerate([(0, False)] * pad + sample):
            is_real = place >= pad
            row["input_ids"].append(token)
            row["attention_mask"].append((number if numbered else 1) if is_real else 0)
            row["position_ids"].append(place - pad if is_real else 1)
            for name in about:
                row[name].append(int(is_said) if name != "labels" else token if is_said else -100)
    row["seq_lengths"] = [len(sample) for sample in samples]
    given_row = {name: values for name, values in row.items() if name in {"input_ids", "attention_mask", *ways, *about}}
    expected = [
        ([token for token, _ in sample], [is_said for _, is_said in sample] if about else []) for sample in samples
    ]
    assert pairs_of(token_ids(list(given_row)), given_row) == expected


@given(
    prompt=st.text("ab <\n\u00fc\U0001f642", max_size=8),
    completion=st.text("ab <\n\u00fc\U0001f642", min_size=1, max_size=8),
)
def test_every_token_with_a_character_of_the_completion_has_a_row_and_no_other(prompt: str, completion: str) -> None:
    form, row = text_pairs(), {"prompt": prompt, "completion": completion}
    ((tokens, said),) = form.encode(ENCODER, [row], ["row 1"])[0].pairs
    assert tokens == TOKENIZER(prompt + completion)["input_ids"]
    spelled = TOKENIZER.convert_ids_to_tokens(tokens)
    ends, count = [], 0
    for piece in spelled:
        count += len(piece)  # of a byte-level tokenizer, each character of a piece is one byte
        ends.append(count)
    assert said == [end > len(prompt.encode()) for end in ends]
