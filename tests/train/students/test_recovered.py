"""Output layers that are found in answers: the rank, the columns, what a student begins with, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.core.progress import no_progress
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.models.head import LinearHead
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.train.loader.loader import Loader
from logitstore.train.students.recovered import Recovered, recovered_from, start_head
from logitstore.train.train import train
from tests.parts.images import images_plan
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of


@pytest.fixture(scope="module", params=["exact", "topk"])
def whole(request: Any, tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache with the logits of every token, of few texts."""
    out = tmp_path_factory.mktemp("whole") / "cache"
    rows: dict[str, Any] = {"preset": "exact", "k": None}
    if request.param == "topk":
        rows = {"preset": "topk", "k": VOCABULARY, "logprobs": "float16", "tail": "none"}
    return dump(plan_for(teacher, texts, out, limit=8, **rows))


def sines(found_VD: Tensor, true_VD: Tensor) -> Tensor:
    """The sines of the principal angles between the columns of two matrices, float64."""
    own, other = (torch.linalg.qr(each.double()).Q for each in (found_VD, true_VD))
    return torch.linalg.svdvals(own - other @ (other.T @ own))


def centred(weight_VD: Tensor) -> Tensor:
    return weight_VD.double() - weight_VD.double().mean(0)


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_columns_and_the_rank_are_those_of_the_layer(has_bias: bool) -> None:
    """With a bias the rows have one direction more, which is the bias."""
    hidden, weight = torch.randn(200, 12, dtype=torch.float64), torch.randn(90, 12, dtype=torch.float64)
    bias = torch.randn(90, dtype=torch.float64)
    logits = hidden @ weight.T + (bias if has_bias else 0)
    found = Recovered.of(logits.log_softmax(-1))
    true = torch.cat([weight, bias[:, None]], 1) if has_bias else weight
    assert found.rank == true.shape[1]
    assert found.gap > 1e4
    assert float(sines(found.weight_VD, centred(true)).max()) < 1e-6
    # the hidden states that the layer takes are 1 on average in their squares
    rows = logits - logits.mean(1, keepdim=True)
    values = torch.linalg.svdvals(rows)
    count = found.rank
    torch.testing.assert_close(found.weight_VD.double().norm(dim=0), values[:count] / 200**0.5, rtol=1e-5, atol=0)
    again = rows @ torch.linalg.pinv(found.weight_VD.double()).T
    torch.testing.assert_close(again.square().mean(0), torch.ones(count).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(again @ found.weight_VD.double().T, rows, rtol=1e-4, atol=1e-4)


def test_stored_answers_span_the_teacher_s_layer(whole: logitstore.Cache, teacher: Path) -> None:
    loader = Loader(whole, batch_size=4)
    found = recovered_from(whole, loader, no_progress, rows=512)
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    true = LinearHead.of(model, model.config, whole.manifest.teacher.vocabulary).weight_VD
    assert found.rows == 512
    assert found.rank == true.shape[1] == 32
    assert found.gap > 5
    assert float(sines(found.weight_VD, centred(true.detach())).max()) < 0.02  # of rounded answers


def test_a_student_begins_with_it_and_keeps_it(
    whole: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = save_model(tmp_path / "student", tokenizer, VOCABULARY, seed=3, num_hidden_layers=1, hidden_size=16)
    out, again = tmp_path / "out", tmp_path / "again"
    said: list[str] = []
    options: dict[str, Any] = {"student": str(student), "max_steps": 20}
    named = load(
        TrainSettings, "train", None, plan_of(whole, out, **options).model_dump(exclude_unset=True), named="clone"
    )
    assert (named.recover_head, named.objective, named.alpha) == ("frozen", "forward_kl", 0.909)
    figures = train(named, notice=said.append)
    line = next(each for each in said if "rows of logits have rank 32" in each)
    assert "begins as the 16 strongest directions" in line
    assert line.endswith("is not trained.")
    plan = plan_of(whole, again, recover_head="trained", **options | {"max_steps": 1, "holdout": 0})
    train(plan)
    before, kept, moved = (load_file(each / "model.safetensors") for each in (student, out, again))
    name = "lm_head.weight" if "lm_head.weight" in kept else "model.embed_tokens.weight"
    assert not torch.equal(before[name], kept[name])
    assert not torch.equal(moved[name], kept[name])
    columns = kept[name].double().T @ kept[name].double()
    apart = columns - torch.diag(columns.diagonal())
    assert float(apart.abs().max()) < 1e-3 * float(columns.diagonal().max())  # orthogonal: no step has changed them
    assert curve(out)[20] < curve(out)[1]
    assert figures["eval_kl"] > 0
    AutoModelForCausalLM.from_pretrained(out)


def test_a_wide_student_has_zeros_in_the_other_columns(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    found = Recovered.of(torch.randn(40, 5) @ torch.randn(5, VOCABULARY - 10))
    assert found.rank == 5
    model = AutoModelForCausalLM.from_pretrained(
        save_model(tmp_path / "wide", tokenizer, VOCABULARY, tie_word_embeddings=False), dtype=torch.float32
    )
    before = model.lm_head.weight.detach().clone()
    said = start_head(model, found, frozen=True, who="wide")
    assert "begins as the 5 strongest directions, and is not trained" in said
    after = model.lm_head.weight
    assert torch.equal(after[: VOCABULARY - 10, :5], found.weight_VD)
    assert not after[: VOCABULARY - 10, 5:].any()
    assert torch.equal(after[VOCABULARY - 10 :], before[VOCABULARY - 10 :])
    assert not after.requires_grad


def test_the_layer_of_an_image_classifier_has_a_direction_less_than_classes(
    classifier: Path, images: Path, tmp_path: Path
) -> None:
    whole = dump(images_plan(classifier, images, tmp_path / "cache", sparsifier="dense", k=None, views=1))
    said: list[str] = []
    plan = plan_of(whole, tmp_path / "out", layers=1, max_steps=1, holdout=0, recover_head="frozen")
    train(plan, notice=said.append)
    assert any("rows of logits have rank 9" in each and "its output layer begins as the 9" in each for each in said)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert not saved["classifier.bias"].any()
    assert not saved["classifier.weight"][:, 9:].any()
    assert torch.linalg.matrix_rank(saved["classifier.weight"]) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "does not keep the logits of every token. Dump with --preset exact"),
        ({"text": True, "alpha": 0}, "--recover-head with --text"),
        ({"lora": "r=2"}, "--recover-head: an adapter trains no output layer"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_loaded(
    changes: dict[str, Any], message: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    if "lora" in changes:
        pytest.importorskip("peft")
    plan = plan_of(cache, tmp_path / "out", student=str(small_student), recover_head="frozen", **changes)
    with pytest.raises(BadInput, match=message):
        train(plan)


def test_rows_that_do_not_differ_are_refused() -> None:
    with pytest.raises(BadInput, match="in 4 rows of logits that do not differ"):
        Recovered.of(torch.zeros(4, 9))
