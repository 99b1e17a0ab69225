"""DPO from a cache is the loss of TRL's trainer with both models in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from logitstore.core.schedule import Schedule
from logitstore.store.index.scored import column_scores, group_codes
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.pairs import PairOrder, pairs_of
from logitstore.train.loop.batches import sample_counts, sample_weights
from logitstore.train.objectives.criterion import GOLD, Criterion, RowTerm
from logitstore.train.sequences import term_of
from tests.parts.scored import scored_cache, scored_rows
from tests.parts.texts import VOCABULARY, save_model
from tests.parts.training import plan_of


@pytest.mark.filterwarnings("ignore")
def test_dpo_is_that_of_trl(tmp_path: Path, small_student: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    reference = save_model(tmp_path / "reference", tokenizer, VOCABULARY, seed=9)
    rows = [row for row in scored_rows() if row["asked"] in (1, 3)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    cache = scored_cache(reference, tmp_path, preset="scores", k=None, end_token=True, max_length=256)
    score_S = column_scores(cache, "reward", "test")
    pairs = pairs_of("extremes", group_codes(cache), score_S, np.ones(len(cache), np.bool_))
    assert len(pairs) == 2

    settings = plan_of(cache, tmp_path / "run", objective="dpo", score="reward", options={"beta": 0.3})
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    loader = Loader(cache, batch_size=4, order=PairOrder(pairs_P2=pairs, seed=0), epoch_samples=4)
    batch = next(iter(loader))
    gold = RowTerm(name=GOLD, label=GOLD, weight=Schedule.of(1.0))
    learner = Learner(student=model, criterion=Criterion([gold], sequence=term_of(settings, cache)))
    weights_M, _ = sample_weights(batch, sample_counts(batch.tensors()), processes=1)
    ours = learner.loss(model, batch, loader, weights_M, 0.0)[0].detach()

    given = [
        {"prompt": rows[w]["prompt"], "chosen": rows[w]["completion"], "rejected": rows[loser]["completion"]}
        for w, loser in pairs.tolist()
    ]
    arguments: dict[str, Any] = {"beta": 0.3, "max_length": 256, "per_device_train_batch_size": 2, "bf16": False}
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), report_to="none", use_cpu=True, gradient_checkpointing=False, **arguments
    )
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(given),
        processing_class=AutoTokenizer.from_pretrained(small_student),
    )
    theirs = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).detach()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-3, abs=5e-4)  # stored logprobs are float16
    assert float(ours) != pytest.approx(float(np.log(2)), rel=0.05)
