"""Whatever the form of the data, the rows are what the model says on the text that they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from tests.parts.documents import open_file
from tests.parts.marks import rarely
from tests.parts.places import ROOT
from tests.parts.texts import plan_for
from tests.text.test_columns import write_lines, write_parquet

Row = dict[str, Any]
CALLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for d in documents or [] %}<|system|>{{ d.text }}<|end|>"
    "{% endfor %}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = [{"name": "sum"}]
CALL = {"name": "sum", "arguments": {"a": 1}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows of data, and the samples that they stand for: each as texts, one after the other, of which every second has rows."""

    rows: list[Row]
    samples: list[list[str]]
    template: str | None = None
    options: tuple[tuple[str, Any], ...] = ()


def sharegpt(*turns: tuple[str, str]) -> list[Row]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


def chat(*turns: tuple[str, str]) -> list[Row]:
    return [{"role": role, "content": content} for role, content in turns]


ASKED = chat(("system", "Be brief."), ("user", "Sum?"))
CASES = {
    "prompt and completion": Case(
        rows=[{"prompt": "Two and two is", "completion": " four."}, {"prompt": None, "completion": "So it is."}],
        samples=[["Two and two is", " four."], ["S", "o it is."]],
    ),
    "prompt and completion, ended": Case(
        rows=[{"prompt": "Two and two is", "completion": " four."}, {"prompt": "And", "completion": " so.<|end|>"}],
        samples=[["Two and two is", " four.<|end|>"], ["And", " so.<|end|>"]],
        options=(("end_token", True),),
    ),
    "texts, ended": Case(
        rows=[{"text": "Four."}, {"text": "So.<|end|>"}],
        samples=[["F", "our.<|end|>"], ["S", "o.<|end|>"]],
        options=(("end_token", True),),
    ),
    "prompt and completion as chats": Case(
        rows=[
            {
                "prompt": [*ASKED, *chat(("assistant", "No.")), *chat(("user", "Please!"))],
                "completion": [
                    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
                    *chat(("tool", "1"), ("assistant", "One.")),
                ],
                "tools": TOOLS,
            }
        ],
        samples=[
            [
                '<|system|>[{"name": "sum"}]<|end|><|system|>Be brief.<|end|><|user|>Sum?<|end|><|assistant|>No.<|end|>'
                "<|user|>Please!<|end|><|assistant|>",
                '{"name": "sum", "arguments": {"a": 1}}<|end|>',
                "<|tool|>1<|end|><|assistant|>",
                "One.<|end|>",
            ]
        ],
        template=CALLS,
    ),
    "prompt and completion with documents": Case(
        rows=[{"prompt": ASKED[1:], "completion": chat(("assistant", "One.")), "documents": [{"text": "1 is one"}]}],
        samples=[["<|system|>1 is one<|end|><|user|>Sum?<|end|><|assistant|>", "One.<|end|>"]],
        template=CALLS,
    ),
    "ShareGPT": Case(
        rows=[
            {"conversations": sharegpt(("human", "Sum?"), ("gpt", "One."), ("human", "So?"), ("gpt", "Yes."))},
            {"conversations": sharegpt(("system", "Be brief."), ("user", "Sum?"), ("chatgpt", "One."))},
            {"conversations": sharegpt(("human", "Sum?"), ("gpt", "One.")), "system": "Be brief."},
            {"conversations": chat(("user", "Sum?"), ("assistant", "One."))},
        ],
        samples=[
            ["<|user|>Sum?<|end|><|assistant|>", "One.<|end|>", "<|user|>So?<|end|><|assistant|>", "Yes.<|end|>"],
            *[["<|system|>Be brief.<|end|><|user|>Sum?<|end|><|assistant|>", "One.<|end|>"]] * 2,
            ["<|user|>Sum?<|end|><|assistant|>", "One.<|end|>"],
        ],
    ),
    "turns without weight": Case(
        rows=[
            {
                "messages": [
                    *chat(("user", "Sum?")),
                    {"role": "assistant", "content": "Two.", "weight": 0},
                    *chat(("user", "Sum!")),
                    {"role": "assistant", "content": "One.", "weight": 1},
                ]
            }
        ],
        samples=[["<|user|>Sum?<|end|><|assistant|>Two.<|end|><|user|>Sum!<|end|><|assistant|>", "One.<|end|>"]],
    ),
    "ShareGPT with calls": Case(
        rows=[
            {
                "conversations": sharegpt(
                    ("human", "Sum?"), ("function_call", json.dumps(CALL)), ("observation", "1"), ("gpt", "One.")
                ),
                "tools": json.dumps(TOOLS),
            }
        ],
        samples=[
            [
                '<|system|>[{"name": "sum"}]<|end|><|user|>Sum?<|end|><|assistant|>',
                '{"name": "sum", "arguments": {"a": 1}}<|end|>',
                "<|tool|>1<|end|><|assistant|>",
                "One.<|end|>",
            ]
        ],
        template=CALLS,
    ),
    "Alpaca with the template of the page": Case(
        rows=[
            {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["A?", "B."]]}
        ],
        samples=[
            [
                "Be brief.\n\n### Instruction:\nA?\n\n### Response:\n",
                "B.<|end|>",
                "### Instruction:\nAdd.\n\n1, 2\n\n### Response:\n",
                "3<|end|>",
            ]
        ],
        template=(ROOT / "docs" / "data.md").read_text("utf-8").split("```jinja\n")[1].split("```")[0],
    ),
    "Alpaca": Case(
        rows=[
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            {"instruction": "Greet.", "input": "", "output": "Hi."},
            {
                "instruction": "Go on.",
                "input": None,
                "output": "Yes.",
                "system": "Be brief.",
                "history": [["A?", "B."]],
            },
        ],
        samples=[
            ["<|user|>Add.\n\n1, 2<|end|><|assistant|>", "3<|end|>"],
            ["<|user|>Greet.<|end|><|assistant|>", "Hi.<|end|>"],
            [
                "<|system|>Be brief.<|end|><|user|>A?<|end|><|assistant|>",
                "B.<|end|>",
                "<|user|>Go on.<|end|><|assistant|>",
                "Yes.<|end|>",
            ],
        ],
    ),
}


def write(path: Path, rows: list[Row]) -> None:
    """Write rows; in Parquet every row has all columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    if path.suffix == ".jsonl":
        write_lines(path, rows)
    else:
        write_parquet(path, [{name: row.get(name) for name in names} for row in rows])


def dumped(folder: Path, teacher: Path, case: Case, suffix: str) -> logitstore.Cache:
    path = folder / f"data{suffix}"
    write(path, case.rows)
    options = dict(case.options)
    if case.template is not None:
        options["chat_template"] = folder / "own.jinja"
        options["chat_template"].write_text(case.template)
    usual = {"domain_column": None, "max_length": 400, "logprobs": "float32"}
    return dump(plan_for(teacher, path, folder / "cache", **usual | options))


def compare(cache: logitstore.Cache, teacher: Path, samples: list[tuple[list[int], list[int]]]) -> None:
    """Compare every row with a forward pass of the model over one sample alone: its tokens, and those that rows are about."""
    model = LlamaForCausalLM.from_pretrained(teacher).eval()
    assert len(cache) == len(samples)
    for found, (tokens, about) in zip(cache, samples, strict=True):
        assert found.sample.tokens_T.tolist() == tokens
        assert (found.sample.positions_N + 1).tolist() == about
        with torch.no_grad():
            logits_NV = model(torch.tensor([tokens])).logits[
                0, [place - 1 for place in about], : cache.manifest.teacher.vocabulary
            ]
        expected_NV = torch.log_softmax(logits_NV.double(), -1).numpy()
        gold_N = np.array([tokens[place] for place in about])
        rows = np.arange(len(about))
        np.testing.assert_allclose(found.answer["gold_logprob"], expected_NV[rows, gold_N], atol=2e-3, rtol=1e-3)
        np.testing.assert_allclose(
            found.answer["logprobs"],
            np.take_along_axis(expected_NV, found.answer["ids"].astype(np.int64), 1),
            atol=1e-4,
        )


NESTED = ("prompt and completion as chats", "ShareGPT", "Alpaca", "masks", "numbered samples")
"""Forms whose types differ from those of texts."""


def kinds(names: Iterable[str]) -> list[Any]:
    """Every form in lines of JSON, and those with types of their own in Parquet too."""
    return [
        (name, suffix) if suffix == ".jsonl" or name in NESTED else rarely(name, suffix)
        for name in names
        for suffix in (".jsonl", ".parquet")
    ]


@pytest.mark.parametrize(("name", "suffix"), kinds(CASES))
def test_every_row_is_what_the_model_says_on_the_text_that_it_stands_for(
    tmp_path: Path, teacher: Path, tokenizer: PreTrainedTokenizerFast, name: str, suffix: str
) -> None:
    case = CASES[name]
    expected = []
    for texts in case.samples:
        runs = [tokenizer(text)["input_ids"] for text in texts]
        tokens = tokenizer("".join(texts))["input_ids"]
        assert tokens == list(chain.from_iterable(runs))
        ends = np.cumsum([len(run) for run in runs])
        about = [place for place in range(len(tokens)) if np.searchsorted(ends, place, "right") % 2]
        expected.append((tokens, about))
    compare(dumped(tmp_path, teacher, case, suffix), teacher, expected)


A, B, C = [20, 21, 22, 23], [30, 31, 32], [40, 41]
IDS = {
    "alone": ([{"input_ids": A}, {"input_ids": B}], [(A, [1, 2, 3]), (B, [1, 2])]),
    "labels": (
        [{"input_ids": A, "labels": [-100, -100, 22, 23]}, {"input_ids": B, "labels": [30, 31, -100]}],
        [(A, [2, 3]), (B, [1])],
    ),
    "masks": (
        [{"input_ids": A, "completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}],
        [(A, [1, 3])],
    ),
    "padding on both sides": (
        [{"input_ids": [0, *A, 0, 0], "attention_mask": [0, 1, 1, 1, 1, 0, 0], "labels": [-100, *A, 0, -100]}],
        [(A, [1, 2, 3])],
    ),
    "numbered samples": (
        [{"input_ids": [*A, 0, *B, *C, 0], "attention_mask": [1, 1, 1, 1, 0, 2, 2, 2, 3, 3, 0]}],
        [(A, [1, 2, 3]), (B, [1, 2]), (C, [1])],
    ),
    "positions that begin again": (
        [{"input_ids": A + B, "position_ids": [0, 1, 2, 3, 0, 1, 2], "labels": [-100, 21, 22, -100, 30, -100, 32]}],
        [(A, [1, 2]), (B, [2])],
    ),
    "lengths": ([{"input_ids": A + B + C, "seq_lengths": [4, 3, 2]}], [(A, [1, 2, 3]), (B, [1, 2]), (C, [1])]),
    "lengths and positions": (
        [{"input_ids": A + B, "seq_lengths": [4, 3], "position_ids": [0, 1, 2, 3, 0, 1, 2]}],
        [(A, [1, 2, 3]), (B, [1, 2])],
    ),
    "position_ids of padding": (
        [{"input_ids": [0, *A], "attention_mask": [0, 1, 1, 1, 1], "position_ids": [1, 0, 1, 2, 3]}],
        [(A, [1, 2, 3])],
    ),
}


@pytest.mark.parametrize(("name", "suffix"), kinds(IDS))
def test_token_ids_are_samples_as_they_stand(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str, suffix: str
) -> None:
    rows, expected = IDS[name]
    write(tmp_path / f"data{suffix}", rows)
    samples = open_file(tmp_path / f"data{suffix}", tokenizer)
    assert [(found.tokens_T.tolist(), (found.positions_N + 1).tolist()) for found in samples] == expected


@pytest.mark.parametrize("name", ["padding on both sides", "numbered samples"])
def test_every_row_about_given_token_ids_is_what_the_model_says_on_their_sample(
    tmp_path: Path, teacher: Path, name: str
) -> None:
    rows, samples = IDS[name]
    compare(dumped(tmp_path, teacher, Case(rows=rows, samples=[]), ".jsonl"), teacher, samples)
