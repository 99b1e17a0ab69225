"""Queries with documents: what is stored is the teacher's score of each pair, whatever the columns, texts and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import logitstore
from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheDamaged, ModelError
from logitstore.ranking.sample import info_of
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.rankings import query_rows, ranking_plan, save_rows

ODD = ["", "Grüße, 你好, 🙂", "long " * 90]


def said(teacher: Path, query: str, documents: list[str], length: int = 64) -> list[float]:
    """What a model says of pairs, one at a time and without padding."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    with torch.no_grad():
        # of a single pair the tokenizer would leave out an empty document
        inputs = [
            tokenizer([query], [each], truncation=True, max_length=length, return_tensors="pt") for each in documents
        ]
        return [float(model(**each).logits) for each in inputs]


def test_every_row_is_what_the_teacher_says_of_the_pair_alone(rank_cache: logitstore.Cache, ranker: Path) -> None:
    rows = query_rows()
    assert (len(rank_cache), rank_cache.rows) == (24, sum(len(row["documents"]) for row in rows))
    for number in (0, 4, 13, 23):
        expected = said(ranker, rows[number]["query"], rows[number]["documents"])
        np.testing.assert_allclose(rank_cache[number].answer["score"], expected, rtol=1e-4, atol=1e-5)
        sample = rank_cache[number].sample
        assert (sample.query, sample.documents) == (rows[number]["query"], rows[number]["documents"])
        assert sample.label_D.tolist() == [-1 if each is None else each for each in rows[number]["labels"]]
    data = info_of(rank_cache.manifest)
    assert (data.form, data.max_length, data.unlabelled, data.token_types) == ("lists", 64, 4, True)
    assert rank_cache.manifest.bytes_per_row == 4
    assert np.isnan(rank_cache.nll()).all()
    assert verify(rank_cache.path) == []


def triples() -> list[dict[str, Any]]:
    return [
        {"query": "one", "positive": "it is one", "negative": "it is two"},
        {"query": "odd", "positive": ODD[1], "negative": ODD[2]},
        {"query": "", "positive": ODD[0], "negative": "x"},
    ]


def test_triples_have_a_relevant_document_and_one_that_is_not(ranker: Path, tmp_path: Path) -> None:
    notes: list[Step] = []
    data = save_rows(tmp_path / "triples.jsonl", triples())
    cache = dump(ranking_plan(ranker, data, tmp_path / "cache"), notes.append)
    for number, row in enumerate(triples()):
        documents = [row["positive"], row["negative"]]
        np.testing.assert_allclose(
            cache[number].answer["score"], said(ranker, row["query"], documents), rtol=1e-4, atol=1e-5
        )
        assert cache[number].sample.label_D.tolist() == [1, 0]
    lines = {step.stage: step.note for step in notes if step.note}
    assert lines["data"] == "queries of 'query', documents of 'positive' (1) and 'negative' (0)"
    assert lines["note"].startswith("1 pair has more than 64 tokens")
    assert verify(cache.path) == []


def test_rows_of_one_document_are_grouped_by_their_query(ranker: Path, tmp_path: Path) -> None:
    rows = [
        {"query": "a", "document": "first", "relevance": 2},
        {"query": "b", "document": "second", "relevance": 0.0},
        {"query": "a", "document": "third", "relevance": None},
    ]
    cache = dump(ranking_plan(ranker, save_rows(tmp_path / "rows.jsonl", rows), tmp_path / "cache"))
    assert [
        (each.sample.query, each.sample.documents, each.sample.label_D.tolist())
        for each in map(cache.__getitem__, (0, 1))
    ] == [
        ("a", ["first", "third"], [2, -1]),
        ("b", ["second"], [0]),
    ]
    alone = dump(ranking_plan(ranker, tmp_path / "rows.jsonl", tmp_path / "alone", labels=False, texts=False))
    assert (alone[0].sample.query, alone[0].sample.label_D.tolist()) == (None, [-1, -1])
    assert alone[0].answer["score"].tolist() == cache[0].answer["score"].tolist()
    assert verify(alone.path) == []


def test_several_negatives_are_columns_or_lists(ranker: Path, tmp_path: Path) -> None:
    rows = [
        {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m"},
        {"anchor": "b", "positive": "q", "negative_1": "o", "negative_2": None},
    ]
    cache = dump(ranking_plan(ranker, save_rows(tmp_path / "columns.jsonl", rows), tmp_path / "columns"))
    assert [cache[0].sample.documents, cache[1].sample.documents] == [["p", "n", "m"], ["q", "o"]]
    listed = [{"query": "a", "positive": "p", "negatives": ["n", "m"]}]
    cache = dump(ranking_plan(ranker, save_rows(tmp_path / "lists.jsonl", listed), tmp_path / "lists"))
    assert cache[0].sample.documents == ["p", "n", "m"]
    assert cache[0].sample.label_D.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("rows", "changes", "line"),
    [
        ([{"query": "a"}], {}, "no column of documents"),
        ([{"text": "a"}], {}, "no column of queries"),
        ([{"query": "a", "document": 3}], {}, "row 1 of the data: column 'document' holds 3 where a text is expected"),
        ([{"query": None, "document": "a"}], {}, "column 'query' holds None where a text is expected"),
        ([{"query": "a", "document": "b", "label": -1}], {}, "holds -1 where a whole number from 0 is expected"),
        ([{"query": "a", "document": "b", "label": 0.5}], {}, "holds 0.5 where a whole number from 0 is expected"),
        ([{"query": "a", "documents": ["b"], "labels": [1, 0]}], {}, "where 1 labels are expected"),
        ([{"query": "a", "documents": [], "labels": []}], {}, "its query has no document"),
        ([{"query": "a", "document": "b"}], {"max_length": 4}, "tokens of its own around a query and a document"),
        ([{"query": "a", "document": "b"}], {"preset": "topk"}, "--preset topk: a row of --task ranking is one score"),
        ([{"query": "a", "document": "b"}], {"k": 2}, "-k 2: a row of --task ranking is one score"),
        ([{"query": "a", "document": "b"}], {"hidden": "final"}, "--hidden final: of cross-encoders only the score"),
        ([{"query": "a", "document": "b"}], {"label_column": "x"}, "--label-column: no column named 'x'"),
    ],
)
def test_what_cannot_be_read_is_refused(
    ranker: Path, tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], line: str
) -> None:
    data = save_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(BadInput) as refusal:
        dump(ranking_plan(ranker, data, tmp_path / "cache", **changes))
    assert line in str(refusal.value)


def test_a_teacher_with_other_outputs_is_refused(judge: Path, teacher: Path, queries: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has 3 outputs, and a score is one number"):
        dump(ranking_plan(judge, queries, tmp_path / "cache"))
    with pytest.raises(ModelError, match="LlamaForCausalLM is no cross-encoder"):
        dump(ranking_plan(teacher, queries, tmp_path / "cache"))


def test_options_of_other_tasks_are_refused(ranker: Path, queries: Path, refused: Refused, tmp_path: Path) -> None:
    flags = flags_of(ranking_plan(ranker, queries, tmp_path / "cache"))
    line = refused("dump", *flags, "--overlap", 3)
    assert line == "error: --overlap: it means nothing to --task ranking. Leave it out."


def test_a_dump_goes_on_part_by_part_to_the_same_bytes(
    rank_cache: logitstore.Cache, ranker: Path, queries: Path, tmp_path: Path
) -> None:
    for parts in ("3", "0,4", None):
        cache = dump(ranking_plan(ranker, queries, tmp_path / "cache", parts=parts))
    assert tree(cache.path) == tree(rank_cache.path)


def test_a_score_that_is_no_number_is_found(ranker: Path, queries: Path, tmp_path: Path) -> None:
    cache = dump(ranking_plan(ranker, queries, tmp_path / "cache"))
    found = next((cache.path / "parts" / "00001" / "rows.zarr" / "score").rglob("0"))
    found.write_bytes(np.float32(np.nan).tobytes() + found.read_bytes()[4:])
    assert any("score" in problem.file for problem in verify(cache.path))
    with pytest.raises(CacheDamaged, match="score is not finite"):
        list(logitstore.open(cache.path).loader(batch_size=24))


def test_people_see_documents_and_scores(
    rank_cache: logitstore.Cache, ranker: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", rank_cache.path, "--sample", 4) == 0
    shown = capsys.readouterr().out
    assert "score" in shown
    assert command("inspect", rank_cache.path) == 0
    assert "24 queries with 70 documents" in " ".join(capsys.readouterr().out.split())
    assert command("verify", rank_cache.path, "--against-teacher", ranker) == 0


def test_a_selection_is_by_what_is_known_of_queries(rank_cache: logitstore.Cache, tmp_path: Path) -> None:
    chosen = select(SelectSettings(cache=rank_cache.path, method="top", score="rows", ratio=0.2, out=tmp_path / "s"))
    assert chosen is not None
    with pytest.raises(BadInput, match=r"--score entropy: .* keeps one number of each row"):
        select(SelectSettings(cache=rank_cache.path, method="top", score="entropy", ratio=0.2, out=tmp_path / "t"))
