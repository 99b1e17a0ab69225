"""Tables whose columns are named by what they hold, and the export that writes such tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import logitstore
from logitstore.convert.recode import recode
from logitstore.errors import BadInput
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.foreign.convert import ExportSettings
from logitstore.store.checks.verify import verify
from logitstore.text.foreign.export import export
from tests.text.foreign.conftest import Convert

Said = Callable[..., Any]
K = 6
NAMES = "tokens=input_ids,ids=top_ids,logprobs=top_logprobs"


def records(said: Said, lengths: tuple[int, ...] = (7, 2, 12)) -> list[dict[str, Any]]:
    """A row for each token, about the token behind it; the last one is about nothing."""
    made = []
    for seed, length in enumerate(lengths):
        tokens, rows = said(length, K, seed)
        made.append({"input_ids": tokens, "top_ids": [ids for ids, _ in rows], "top_logprobs": [lp for _, lp in rows]})
    return made


def write(folder: Path, rows: list[dict[str, Any]], ending: str) -> Path:
    folder.mkdir(exist_ok=True)
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")
    elif ending == ".jsonl":
        (folder / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        for number, row in enumerate(rows):
            np.savez(folder / f"x{number}.npz", **{name: np.array(value) for name, value in row.items()})
    return folder


def assert_lists(cache: logitstore.Cache, rows: list[dict[str, Any]], atol: float = 2e-6) -> None:
    assert verify(cache.path) == []
    assert [each.sample.tokens_T.tolist() for each in cache] == [row["input_ids"] for row in rows]
    for sample, row in zip(cache, rows, strict=True):
        for place, position in enumerate(sample.sample.positions_N.tolist()):
            assert sample.answer["ids"][place].tolist() == row["top_ids"][position]
            np.testing.assert_allclose(sample.answer["logprobs"][place], row["top_logprobs"][position], atol=atol)
            left = 1 - np.exp(row["top_logprobs"][position]).sum()
            np.testing.assert_allclose(np.exp(sample.answer["tail_logmass"][place]), left, atol=2e-6)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".npz"])
def test_every_kind_of_file_is_read(ending: str, said: Said, converted: Convert, tmp_path: Path) -> None:
    rows = records(said)
    cache = converted(write(tmp_path / "source", rows, ending), format="generic", columns=NAMES, logprobs="float32")
    assert_lists(cache, rows)
    assert cache.manifest.imported is not None
    assert cache.manifest.imported.model_dump() == {"format": "generic", "gold": "listed", "mass": "known"}


def test_rows_about_their_own_token_are_those_of_the_token_before(
    said: Said, converted: Convert, tmp_path: Path
) -> None:
    rows = records(said)
    theirs = [row | {name: [None, *row[name][:-1]] for name in ("top_ids", "top_logprobs")} for row in rows]
    source = write(tmp_path / "source", theirs, ".jsonl")
    cache = converted(source, format="generic", columns=NAMES, logprobs="float32", rows_about="same")
    assert_lists(cache, rows)


def test_probabilities_and_gold_logprobs_are_read(said: Said, converted: Convert, tmp_path: Path) -> None:
    rows = records(said)
    theirs = [
        {
            "tokens": row["input_ids"],
            "ids": row["top_ids"],
            "probabilities": [np.exp(each).tolist() for each in row["top_logprobs"]],
            "gold": [
                dict(zip(ids, logprobs, strict=True)).get(token, -11.5)
                for ids, logprobs, token in zip(
                    row["top_ids"], row["top_logprobs"], [*row["input_ids"][1:], 0], strict=True
                )
            ],
        }
        for row in rows
    ]
    cache = converted(write(tmp_path / "source", theirs, ".jsonl"), format="generic", logprobs="float32")
    assert_lists(cache, rows)
    assert cache.manifest.knows_gold
    for sample, row in zip(cache, theirs, strict=True):
        np.testing.assert_allclose(sample.answer["gold_logprob"], row["gold"][:-1], rtol=1e-3)
    assert np.isfinite(cache.nll()).all()


def test_logits_of_lists_are_a_distribution_over_the_list(said: Said, converted: Convert, tmp_path: Path) -> None:
    rows = records(said)
    theirs = [
        {
            "tokens": row["input_ids"],
            "ids": row["top_ids"],
            "logits": [[(x + 5) / 2 for x in each] for each in row["top_logprobs"]],
        }
        for row in rows
    ]
    source = write(tmp_path / "source", theirs, ".parquet")
    cache = converted(source, format="generic", logprobs="float32", source_temperature=2)
    assert verify(cache.path) == []
    assert cache.manifest.tail.shape == "none"
    for sample, row in zip(cache, rows, strict=True):
        for place, values in enumerate(row["top_logprobs"][:-1]):
            wanted = np.array(values) - np.log(np.exp(values).sum())
            np.testing.assert_allclose(sample.answer["logprobs"][place], wanted, atol=3e-6)
    with pytest.raises(BadInput, match="nll"):
        cache.nll()
    with pytest.raises(BadInput, match="does not tell the mass"):
        converted(source, format="generic", tail="uniform", out=tmp_path / "other")


def test_whole_distributions_are_cut_to_lists_with_their_entropy(converted: Convert, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (5, 320)).astype(np.float16)
    tokens = draw.integers(0, 320, 5)
    np.savez(tmp_path / "x.npz", tokens=tokens, logits=logits)
    cache = converted(tmp_path / "x.npz", format="generic", logprobs="float32")
    assert verify(cache.path) == []
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(1, keepdims=True))
    answer = cache[0].answer
    assert answer["ids"].shape == (4, 16)
    for row in range(4):
        order = np.lexsort((np.arange(320), -exact[row]))[:16]
        assert answer["ids"][row].tolist() == order.tolist()
        np.testing.assert_allclose(answer["logprobs"][row], exact[row, order], atol=2e-6)
        np.testing.assert_allclose(answer["gold_logprob"][row], exact[row, tokens[row + 1]], rtol=1e-3)
        np.testing.assert_allclose(answer["entropy"][row], -(np.exp(exact[row]) * exact[row]).sum(), rtol=1e-3)
        np.testing.assert_allclose(np.exp(answer["tail_logmass"][row]), 1 - np.exp(exact[row, order]).sum(), atol=2e-6)


def test_a_column_that_is_named_like_another_role_has_the_role_it_is_given(converted: Convert, tmp_path: Path) -> None:
    """`ids` are often the tokens of a text."""
    draw = np.random.default_rng(0)
    tokens, logits = draw.integers(0, 320, (3, 6)), draw.normal(0, 3, (3, 6, 320)).astype(np.float16)
    np.savez(tmp_path / "x.npz", ids=tokens, logits=logits)
    cache = converted(tmp_path / "x.npz", format="generic", columns="tokens=ids,logits=logits")
    assert [cache[number].sample.tokens_T.tolist() for number in range(3)] == tokens.tolist()
    assert verify(cache.path) == []


def test_json_lines_and_arrays_with_the_names_of_roles_are_recognised(
    said: Said, converted: Convert, tmp_path: Path
) -> None:
    rows = [
        {"tokens": row["input_ids"], "ids": row["top_ids"], "logprobs": row["top_logprobs"]} for row in records(said)
    ]
    for ending in (".jsonl", ".npz"):
        cache = converted(write(tmp_path / f"source{ending}", rows, ending), out=tmp_path / f"made{ending}")
        assert cache.manifest.imported is not None
        assert cache.manifest.imported.format == "generic"
    with pytest.raises(BadInput, match=r"input_ids, top_ids, top_logprobs.*--format generic"):
        converted(write(tmp_path / "named.jsonl", records(said), ".jsonl"), out=tmp_path / "named")


@pytest.mark.parametrize("tail", ["prior", "uniform"])
def test_what_is_exported_is_read_again_with_the_same_values(
    tail: str, cache: logitstore.Cache, converted: Convert, tmp_path: Path
) -> None:
    source = recode(RecodeSettings(cache=cache.path, out=tmp_path / "listed", tail=tail))
    assert export(ExportSettings(cache=source.path, out=tmp_path / "exported")) == len(source.part_numbers)
    assert export(ExportSettings(cache=source.path, out=tmp_path / "exported")) == len(source.part_numbers)
    again = converted(tmp_path / "exported")
    assert verify(again.path) == []
    assert [each.sample.key for each in again] == [each.sample.key for each in source]
    for ours, theirs in zip(again, source, strict=True):
        np.testing.assert_array_equal(ours.sample.mask_T, theirs.sample.mask_T)
        for name in ("ids", "logprobs", "tail_logmass", "gold_logprob", "entropy"):
            np.testing.assert_array_equal(ours.answer[name], theirs.answer[name])
    with pytest.raises(BadInput, match="another cache"):
        export(ExportSettings(cache=source.path, out=tmp_path / "exported", k=3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": "tokens=nothing"}, "there is no such column"),
        ({"columns": "token=input_ids"}, "Did you mean 'tokens'"),
        ({"columns": "tokens=input_ids,ids=top_ids"}, "which column holds one of logprobs"),
        ({"columns": NAMES, "source_temperature": 2}, "cannot be brought to temperature 1"),
        ({"columns": NAMES, "k": 7}, "have 6 entries"),
        ({"columns": NAMES, "values": "logits"}, "it means nothing to generic"),
        ({"columns": NAMES.replace("logprobs=", "probabilities=")}, "a probability is negative"),
        ({"columns": "tokens=input_ids,ids=top_logprobs,logprobs=top_logprobs"}, "given for another role, too"),
        ({"columns": "tokens=input_ids,ids=halves,logprobs=top_logprobs"}, "whole numbers are needed"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], words: str, said: Said, converted: Convert, tmp_path: Path
) -> None:
    rows = [row | {"halves": row["top_logprobs"]} for row in records(said)]
    source = write(tmp_path / "source", rows, ".parquet")
    with pytest.raises(BadInput, match=words):
        converted(source, format="generic", **options)


def test_a_record_that_has_lost_a_row_is_refused(said: Said, converted: Convert, tmp_path: Path) -> None:
    """Else the rows behind it would belong to other tokens."""
    rows = records(said)
    for name in ("top_ids", "top_logprobs"):
        del rows[2][name][4]
    with pytest.raises(BadInput, match="record 2 has a row for each token but one, and record 0 for each"):
        converted(write(tmp_path / "source", rows, ".jsonl"), format="generic", columns=NAMES)


def test_pickles_and_broken_lines_are_refused(said: Said, converted: Convert, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", tokens=np.array([{}], object), ids=np.zeros((1, 1)), logprobs=np.zeros((1, 1)))
    with pytest.raises(BadInput, match="never loaded"):
        converted(tmp_path / "x.npz", format="generic")
    for content in (
        "[1, 2]\n",
        "{broken\n",
        '{"tokens": [1, 2]}\n',
        '{"tokens": "text", "ids": [[1]], "logprobs": [[0]]}\n',
    ):
        (tmp_path / "x.jsonl").write_text(content)
        with pytest.raises(BadInput):
            converted(tmp_path / "x.jsonl", format="generic")


@pytest.mark.parametrize("options", [{}, {"format": "generic"}])
def test_a_source_that_does_not_exist_is_said_to_be_missing(
    options: dict[str, Any], converted: Convert, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"answers\.jsonl: there is no such file\. Give a file, a glob or a folder"):
        converted(tmp_path / "answers.jsonl", **options)
