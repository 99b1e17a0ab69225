"""Students learn to rank: cross-encoders in the cache's tokens or their own, bi-encoders from queries and documents alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

import logitstore
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.integrations.distiller import Distiller
from logitstore.models.pooling.described import DenseShape, Pooling, write_pooling
from logitstore.ranking.metrics import RankEvaluation
from logitstore.ranking.models import dot_scores, pooling_of, score_pairs
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.rankings import query_rows, ranking_plan, save_cross_encoder, save_encoder, save_rows
from tests.parts.texts import train_tokenizer
from tests.parts.training import curve, plan_of


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder that has the tokenizer of the cache; do not change it."""
    return save_encoder(tmp_path_factory.mktemp("encoder") / "student")


def judged(cache: logitstore.Cache, student: Path, **changes: Any) -> RankEvaluation:
    usual: dict[str, Any] = {"samples": "all", "device": "cpu", "dtype": "float32"}
    found: RankEvaluation = evaluate(EvaluateSettings(cache=cache.path, student=str(student), **usual | changes))
    return found


def told(objective: str, **changes: Any) -> dict[str, Any]:
    return {"objective": objective, "max_steps": 20, "precision": "float32", "learning_rate": 1e-3} | changes


@pytest.mark.parametrize(
    "changes",
    [
        told("margin_mse"),
        told(
            "ranknet", alpha=0.9, options={"soft": True}, terms=[{"name": "list_kl", "weight": 0.1, "temperature": 2}]
        ),
        told("list_kl", temperature=2.0, max_steps=60),
        told("score_mse"),
    ],
)
def test_a_bi_encoder_comes_nearer_to_the_teacher(
    rank_cache: logitstore.Cache, encoder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(plan_of(rank_cache, tmp_path / "out", student=str(encoder), **changes))
    losses = list(curve(tmp_path / "out").values())
    assert len(losses) == changes["max_steps"]
    assert sum(losses[-6:]) < sum(losses[:6])


def test_a_saved_bi_encoder_is_a_plain_encoder_with_the_files_of_sentence_transformers(
    rank_cache: logitstore.Cache, encoder: Path, tmp_path: Path
) -> None:
    for pooling in ("mean", "first"):
        out = tmp_path / pooling
        train(plan_of(rank_cache, out, student=str(encoder), pooling=pooling, **told("list_kl", max_steps=2)))
        found = judged(rank_cache, out)
        model, tokenizer = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
        query, documents = query_rows()[4]["query"], query_rows()[4]["documents"]
        vectors = []
        for text in (query, *documents):
            with torch.no_grad():
                hidden_TD = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=64))[0][0]
            vectors.append(hidden_TD.mean(0) if pooling == "mean" else hidden_TD[0])
        expected = torch.stack([vectors[0] @ each for each in vectors[1:]])
        loader = Distiller(str(out), rank_cache, holdout=0, precision="float32")
        batch = next(each for each in loader.train if 4 in each.samples.tolist())
        with torch.no_grad():
            scores_N = loader.student.eval()(**batch.model_inputs()).logits[:, 0]
        place = batch.samples.tolist().index(4)
        start = int(batch.counts[:place].sum())
        torch.testing.assert_close(scores_N[start : start + len(documents)], expected, rtol=1e-3, atol=1e-3)
        mode = "mean_tokens" if pooling == "mean" else "cls_token"
        assert json.loads((out / "1_Pooling" / "config.json").read_text())[f"pooling_mode_{mode}"] is True
        assert [each["path"] for each in json.loads((out / "modules.json").read_text())] == ["", "1_Pooling"]
        assert (found.rows, found.queries) == (rank_cache.rows, 24)


def test_a_cross_encoder_with_the_teachers_weights_has_the_teachers_order(
    rank_cache: logitstore.Cache, ranker: Path
) -> None:
    found = judged(rank_cache, ranker)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert (found.spearman, found.kendall, found.ndcg_to_teacher, found.mrr_to_teacher) == pytest.approx((1, 1, 1, 1))
    assert (found.ndcg, found.mrr) == pytest.approx((found.teacher_ndcg, found.teacher_mrr))


def test_cross_encoders_learn_in_the_caches_tokens_in_their_own_or_fresh(
    rank_cache: logitstore.Cache, tmp_path: Path
) -> None:
    own = save_cross_encoder(tmp_path / "own", seed=1, num_hidden_layers=1)
    other = save_cross_encoder(tmp_path / "other", seed=1, tokenizer=train_tokenizer(), vocab_size=330)
    for name, student in (("own", {"student": str(own)}), ("other", {"student": str(other)}), ("fresh", {"layers": 1})):
        train(plan_of(rank_cache, tmp_path / f"out-{name}", **student, **told("list_kl", alpha=0.5, max_steps=3)))
        assert judged(rank_cache, tmp_path / f"out-{name}").rows == rank_cache.rows
    assert not (tmp_path / "out-own" / "modules.json").exists()


def test_labels_alone_are_learned_where_there_are_some(
    rank_cache: logitstore.Cache, encoder: Path, ranker: Path, queries: Path, tmp_path: Path
) -> None:
    settings = plan_of(rank_cache, tmp_path / "out", student=str(encoder), alpha=0, max_steps=20, learning_rate=1e-3)
    train(settings)
    losses = list(curve(tmp_path / "out").values())
    assert sum(losses[-6:]) < sum(losses[:6])
    bare = dump(ranking_plan(ranker, queries, tmp_path / "bare", labels=False))
    for changes, line in (
        ({"alpha": 0.5}, "so there is no cross-entropy. Give --alpha 1"),
        ({"objective": "margin_mse"}, "Set its option pairs to all"),
    ):
        with pytest.raises(BadInput, match=line):
            train(plan_of(bare, tmp_path / "no", student=str(encoder), **changes))
    train(
        plan_of(
            bare, tmp_path / "all", student=str(encoder), **told("margin_mse", options={"pairs": "all"}, max_steps=2)
        )
    )


def test_a_run_that_is_resumed_ends_in_the_same_student(
    rank_cache: logitstore.Cache, encoder: Path, tmp_path: Path
) -> None:
    usual = {"student": str(encoder), "save_every": 3, "scheduler": "constant", "warmup": 0.0, "precision": "float32"}
    whole = plan_of(rank_cache, tmp_path / "whole", max_steps=6, **usual)
    halves = whole.model_copy(update={"out": tmp_path / "halves", "max_steps": 3})
    train(whole)
    train(halves)
    train(halves.model_copy(update={"max_steps": 6, "resume": True}))
    names = ["model.safetensors", "config.json", "tokenizer.json", "modules.json"]
    for name in names:
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"objective": "forward_kl"}, "this cache keeps scores, and no distributions. Use margin_mse"),
        ({"objective": "dpo"}, "Choose another objective"),
        ({"objective": "margin_mse", "options": {"pairs": "none"}}, "pairs is 'none'"),
        ({"objective": "margin_mse", "temperature": 2.0}, "it exists at temperature 1 only"),
        ({"student": None, "pooling": "mean"}, "a fresh student is a cross-encoder like the teacher"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    rank_cache: logitstore.Cache, encoder: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput, match=line):
        train(plan_of(rank_cache, tmp_path / "out", **{"student": str(encoder)} | changes))


def test_students_of_other_kinds_are_refused(
    rank_cache: logitstore.Cache, encoder: Path, judge: Path, ranker: Path, queries: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="it has 3 outputs"):
        train(plan_of(rank_cache, tmp_path / "out", student=str(judge)))
    with pytest.raises(BadInput, match="is a cross-encoder, which pools nothing"):
        train(plan_of(rank_cache, tmp_path / "out", student=str(ranker), pooling="mean"))
    bare = dump(ranking_plan(ranker, queries, tmp_path / "bare", texts=False))
    with pytest.raises(CacheMismatch, match="keeps no texts"):
        train(plan_of(bare, tmp_path / "out", student=str(encoder)))


def test_objectives_on_scores_need_scores(cache: logitstore.Cache, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="this cache keeps distributions, and no scores of documents"):
        train(plan_of(cache, tmp_path / "out", layers=1, objective="margin_mse"))


def test_documents_of_a_query_stay_in_one_batch(rank_cache: logitstore.Cache) -> None:
    for batch in rank_cache.loader(batch_size=5):
        lengths = [len(query_rows()[number]["documents"]) for number in batch.samples.tolist()]
        assert batch.counts.tolist() == lengths
        assert len(batch.gold) == len(batch.answer["score"]) == sum(lengths)


def test_every_query_counts_alike_whatever_the_batches(
    rank_cache: logitstore.Cache, encoder: Path, tmp_path: Path
) -> None:
    """One step over four small batches is one step over a large one."""
    for name, size, accumulate in (("large", 16, 1), ("small", 4, 4)):
        train(
            plan_of(
                rank_cache,
                tmp_path / name,
                student=str(encoder),
                batch_size=size,
                accumulate=accumulate,
                **told("list_kl", alpha=0.5, max_steps=1),
            )
        )
    large, small = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("large", "small"))
    for name, value in large.items():
        torch.testing.assert_close(value, small[name], rtol=1e-3, atol=2e-4)


def test_documents_that_differ_have_scores_that_differ_in_bfloat16_too(encoder: Path) -> None:
    """Products of hidden states are large: 8 bits would make most documents of a query equal."""
    vectors_BD = torch.tensor([[12.0, 0.0], [12.0, 1.0], [12.0625, 1.0]], dtype=torch.bfloat16)
    assert dot_scores(vectors_BD, torch.tensor([0, 0])).tolist() == [[144.0], [144.75]]
    student = AutoModel.from_pretrained(encoder).eval()
    score_pairs(student, "mean")
    ids_BT = torch.randint(5, 200, (41, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "query_of": torch.zeros(40).long()}
    with torch.no_grad():
        scores_N = student.bfloat16()(**inputs).logits[:, 0]
    assert scores_N.dtype == torch.float32
    assert len(scores_N.unique()) == 40


def test_an_encoder_of_sentence_transformers_pools_as_its_files_say(encoder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(encoder, tmp_path / "student")
    student, config = ModelRef(name=str(place)), AutoConfig.from_pretrained(place)
    assert pooling_of(student, config) == "mean"
    write_pooling(place, Pooling(way="first", normalised=True), 32)
    assert pooling_of(student, config) == "first"
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    assert pooling_of(student, config) == "first"
    for described in (
        Pooling(way="last", normalised=False),
        Pooling(way="mean", normalised=False, dense=(DenseShape(inputs=32, outputs=8),)),
    ):
        write_pooling(place, described, 32)
        with pytest.raises(ModelError, match="give one with --pooling"):
            pooling_of(student, config)
        assert pooling_of(student, config, "mean") == "mean"


@pytest.mark.parametrize("changes", [{}, {"objective": "ranknet"}, {"objective": "score_mse", "alpha": 0.5}])
def test_queries_of_one_document_each_are_refused_where_documents_are_compared(
    ranker: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    rows = [{"query": each["query"], "documents": each["documents"][:1], "labels": [1]} for each in query_rows()]
    alone = dump(ranking_plan(ranker, save_rows(tmp_path / "alone.jsonl", rows), tmp_path / "cache"))
    with pytest.raises(BadInput, match="each of its queries has one document"):
        train(plan_of(alone, tmp_path / "out", layers=1, **changes))
    assert not (tmp_path / "out").exists()
    train(plan_of(alone, tmp_path / "scores", layers=1, **told("score_mse", max_steps=2)))


def test_margin_mse_needs_a_query_with_two_different_labels(ranker: Path, tmp_path: Path) -> None:
    rows = [{"query": each["query"], "positive": each["documents"], "negative": None} for each in query_rows()]
    alike = dump(ranking_plan(ranker, save_rows(tmp_path / "alike.jsonl", rows), tmp_path / "cache"))
    with pytest.raises(BadInput, match="of no query do the labels find one document more relevant"):
        train(plan_of(alike, tmp_path / "out", layers=1, objective="margin_mse"))
    train(plan_of(alike, tmp_path / "lists", layers=1, **told("list_kl", max_steps=2)))


def test_students_of_scores_are_not_ranked_by_distributions_nor_keep_answers(
    rank_cache: logitstore.Cache, ranker: Path, refused: Refused, tmp_path: Path
) -> None:
    said = refused("rank", rank_cache.path, "--student", ranker, "--device", "cpu")
    assert "students are compared by distributions" in said
    asked = ("train", rank_cache.path, "--layers", 1, "--device", "cpu", "--out", tmp_path / "out")
    assert "most probable tokens or classes" in refused(*asked, "--own-answers", 2)


def test_no_query_is_chosen_by_a_score_that_none_has(
    rank_cache: logitstore.Cache, ranker: Path, queries: Path, refused: Refused, tmp_path: Path
) -> None:
    other = dump(ranking_plan(save_cross_encoder(tmp_path / "other", seed=5), queries, tmp_path / "cache"))
    asked = ("select", rank_cache.path, "--ratio", 0.5, "--out", tmp_path / "chosen.arrow")
    assert "has the score 'nll'" in refused(*asked, "--method", "top", "--score", "nll")
    assert "has the score 'nll difference'" in refused(*asked, "--method", "difference", "--reference", other.path)
    assert not (tmp_path / "chosen.arrow").exists()
