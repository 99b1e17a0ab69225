"""A teacher that is shown several texts in a line answers about each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.core.types import ModelRef
from logitstore.dump.add import add
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.dump.plan import plan
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.errors import CacheMismatch, ModelError
from logitstore.format.manifest import Manifest
from logitstore.format.needs import ITS_LOGITS
from logitstore.models.load import load_config
from logitstore.settings.dump import AddSettings, DumpSettings, PilotSettings
from logitstore.store.checks.verify import verify
from logitstore.text.lines.shown import lines_of_texts, text_batches
from tests.dump.teachers.test_causal_lm import TOLERANCE, rounding
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.marks import rarely
from tests.parts.taps import decoded
from tests.parts.texts import VOCABULARY, plan_for

Plan = Callable[..., DumpSettings]


@pytest.fixture
def packing(teacher: Path, texts: Path) -> Plan:
    """A dump with packed lines, of documents of very different length."""
    return lambda out, **changes: plan_for(
        teacher, texts, out, **{"packed": True, "samples_per_part": 20, "limit": 14} | changes
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "small", "k": None, "hidden": "0,1,final", "qkv": "2", "tap_codec": "float32"},
        rarely({"batch_tokens": 4096}),
        rarely({"batch_tokens": 1}),
        rarely({"preset": "exact", "k": None}),
        rarely({"preset": "sampled", "k": None}),
        rarely({"preset": "scores", "k": None}),
        rarely({"preset": "faithful", "k": None}),
    ],
)
def test_rows_and_features_are_those_of_texts_in_lines_of_their_own(
    packing: Plan, tmp_path: Path, changes: dict[str, Any]
) -> None:
    alone, packed = (dump(packing(tmp_path / str(each), **changes, packed=each)) for each in (False, True))
    assert len(alone) == len(packed)
    assert verify(packed.path) == []
    for index, (a, b) in enumerate(zip(alone, packed, strict=True)):
        assert a.sample.key == b.sample.key
        for name in ("logprobs", "gold_logprob", "tail_logmass", "entropy"):
            if name in a.answer.fields:
                x, y = a.answer[name].astype(np.float64), b.answer[name].astype(np.float64)
                is_full = ~np.isneginf(x)
                assert np.array_equal(is_full, ~np.isneginf(y))
                assert (np.abs(x[is_full] - y[is_full]) <= TOLERANCE + 2 * rounding(x[is_full])).all(), name
        for name in alone.taps:
            np.testing.assert_allclose(decoded(alone, name, index), decoded(packed, name, index), atol=1e-4)


def test_the_plan_says_so_and_no_other_plan_says_anything(
    packing: Plan, cache: logitstore.Cache, tmp_path: Path
) -> None:
    made = dump(packing(tmp_path / "cache", parts="0"))
    assert made.manifest.packed
    assert '"packed": true' in (tmp_path / "cache" / "cache.json").read_text()
    assert "packed" not in (cache.path / "cache.json").read_text()
    assert "packed" not in cache.manifest.identity_fields()
    assert Manifest.model_validate(cache.manifest.model_dump()).identity == cache.manifest.identity
    with pytest.raises(CacheMismatch, match="the cache there has packed = True, this command asks for nothing"):
        dump(packing(tmp_path / "cache", packed=False))
    assert dump(packing(tmp_path / "cache")).complete


def test_a_part_has_the_same_bytes_whoever_writes_it_and_taps_whenever_they_are_added(
    packing: Plan, tmp_path: Path
) -> None:
    taps = {"hidden": "1", "tap_codec": "bfloat16"}
    whole = dump(packing(tmp_path / "whole", **taps)).path
    for parts in ("1", "0", None):
        dump(packing(tmp_path / "cache", parts=parts))
    add(AddSettings(cache=tmp_path / "cache", device="cpu", **taps))
    assert tree(tmp_path / "cache") == tree(whole)


def test_the_teacher_is_asked_again_and_planned_with_in_the_same_batches(
    packing: Plan, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dump(packing(tmp_path / "cache"))
    shown: list[set[str]] = []
    rows = CausalTeacher.rows

    def remembering(self: CausalTeacher, batch: TeacherBatch, wants: Any) -> Any:
        shown.append(set(batch.inputs))
        return rows(self, batch, wants)

    monkeypatch.setattr(CausalTeacher, "rows", remembering)
    found = audit(made, str(teacher), share=0.3, device="cpu")
    assert found.passed
    asked = packing(tmp_path / "planned").model_dump(include=set(PilotSettings.model_fields))
    plan(PilotSettings(**asked | {"pilot_samples": 6, "pilot_rows": 100, "fidelity_rows": 50}))
    assert len(shown) > 2
    assert all("position_ids" in names for names in shown)


def test_a_kernel_that_takes_one_line_gives_the_same_rows(
    cache: logitstore.Cache, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash attention tells the texts of one line apart, and no lines of a batch."""
    reference = ModelRef.parse(str(teacher))
    loaded = CausalTeacher(reference, load_config(reference), "float32", "cpu")
    samples = [found.sample for found in cache[:20]]
    monkeypatch.setattr(CausalTeacher, "_takes_one_line", lambda self: True)
    loaded.check_packed()
    alone: dict[int, torch.Tensor] = {}
    for batch in text_batches(samples, 1):
        (alone[batch.indices[0]],) = [torch.cat([chunk.logits() for chunk in loaded.rows(batch, ITS_LOGITS)])]
    shapes = []
    for batch in lines_of_texts(samples, 300):
        shapes.append(tuple(loaded.logits(batch.inputs).shape[:2]))
        found = torch.cat([chunk.logits() for chunk in loaded.rows(batch, ITS_LOGITS)])
        expected = torch.cat([alone[index] for index in batch.indices])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert {lines for lines, _ in shapes} == {1}
    assert max(width for _, width in shapes) > 96


def test_a_teacher_whose_texts_would_see_each_other_is_refused(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2))
    mamba.save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(ModelError, match="see each other in MambaForCausalLM"):
        dump(plan_for(tmp_path / "mamba", texts, tmp_path / "cache", packed=True))
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_images_have_no_lines(refused: Refused, classifier: Path, images: Path, tmp_path: Path) -> None:
    asked = ("--task", "image-classification", "--teacher", classifier, "--data", images, "--out", tmp_path / "cache")
    assert "--packed: it means nothing to --task image-classification" in refused("dump", *asked, "--packed")
