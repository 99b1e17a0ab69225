"""vLLM in this process, the real one: its rows beside a direct forward of transformers, and caches from dump to student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.dump.task import prepare
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.errors import LogitstoreError, ModelError
from logitstore.format.needs import HIDDEN, LOGITS, Wants
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command, Refused
from tests.parts.files import tree
from tests.parts.texts import VOCABULARY, plan_for

WITHIN = 1e-4
"""Nats that a row of an engine in float32 may be apart."""


def plan(teacher: Path, texts: Path, out: Path, **changes: object) -> DumpSettings:
    usual = {"engine_arg": {"enforce_eager": True}, "limit": 16, "samples_per_part": 25}
    return plan_for(f"vllm:{teacher}", texts, out, **usual | changes)  # type: ignore[arg-type]


def told(teacher: Path, batch: TeacherBatch) -> torch.Tensor:
    """Return float64[N, V]: the logprobs of transformers about each row of a batch, one text at a time."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    lengths_B = batch.inputs["attention_mask"].sum(1).tolist()
    width = batch.inputs["input_ids"].shape[1]
    logits_RV = torch.zeros(len(lengths_B) * width, VOCABULARY, dtype=torch.float64)
    with torch.inference_mode():
        for line, length in enumerate(lengths_B):
            tokens_BT = batch.inputs["input_ids"][line, :length][None]
            logits_RV[line * width :][:length] = model(input_ids=tokens_BT).logits[0, :, :VOCABULARY].double()
    return torch.log_softmax(logits_RV[batch.rows_N], -1)


def test_every_row_is_within_a_ten_thousandth_of_a_nat_of_transformers(
    padded: Path, texts: Path, tmp_path: Path
) -> None:
    """In float32, padding rows of the vocabulary left out; announced batches and others, in another order too."""
    prepared = prepare(plan(padded, texts, tmp_path / "cache"))
    batches = list(prepared.batches(list(prepared.samples)))
    wants = Wants(frozenset({LOGITS, HIDDEN}))
    with closing(prepared.load()) as teacher:
        for batch in batches[:3]:
            teacher.expect(batch, wants)
        assert teacher.takes_more
        teacher.forget(batches[1])
        for batch in reversed(batches):
            chunks = list(teacher.rows(batch, wants))
            spans = [chunk.span for chunk in chunks]
            assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
            assert torch.equal(torch.cat([chunk.gold_n for chunk in chunks]), batch.gold_N)
            logits_NV = torch.cat([chunk.logits() for chunk in chunks])
            logprobs_NV = torch.log_softmax(logits_NV[:, :VOCABULARY].double(), -1)
            assert (logprobs_NV - told(padded, batch)).abs().max() < WITHIN
            hidden_ND = torch.cat([chunk.hidden_nD for chunk in chunks if chunk.hidden_nD is not None])
            head = teacher.head(VOCABULARY).matching("the engine", hidden_ND, logits_NV)
            torch.testing.assert_close(head.logits(hidden_ND), logits_NV[:, :VOCABULARY])


@pytest.fixture(scope="module", params=["small", "exact", "topk"])
def written(
    request: pytest.FixtureRequest, padded: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A whole cache of vLLM's."""
    out = tmp_path_factory.mktemp("vllm") / "cache"
    row = {"preset": request.param, "k": 8 if request.param == "topk" else None, "pilot_rows": 300}
    return dump(plan(padded, texts, out, **row)).path


def test_its_cache_is_sound_and_transformers_says_the_same(written: Path, padded: Path) -> None:
    assert verify(written) == []
    cache = logitstore.Cache(written)
    engine = cache.manifest.teacher.engine
    assert engine is not None
    assert (engine.name, engine.version is None) == ("vllm", False)
    found = audit(cache, str(padded), 1.0, device="cpu")
    assert found.passed
    assert found.same_weights is None
    assert found.stored < WITHIN


def test_it_is_verified_against_the_engine_itself(written: Path, command: Command) -> None:
    name = logitstore.Cache(written).manifest.teacher.name
    assert command("verify", written, "--against-teacher", name, "--engine-arg", "enforce_eager=true") == 0


def test_a_student_learns_from_it(written: Path, small_student: Path, tmp_path: Path, command: Command) -> None:
    steps = ("--max-steps", "5", "--batch-size", "4", "--holdout", "0.2", "--device", "cpu", "--precision", "float32")
    assert command("train", written, "--student", small_student, "--out", tmp_path / "run", *steps) == 0
    assert list((tmp_path / "run").glob("**/model.safetensors"))


def test_a_part_that_is_missing_is_written_again(padded: Path, texts: Path, tmp_path: Path) -> None:
    settings = plan(padded, texts, tmp_path / "cache")
    whole = tree(dump(settings).path)
    for file in (settings.out / "parts" / "00001").rglob("*"):
        if file.is_file():
            file.unlink()
    assert set(tree(dump(settings).path)) == set(whole)
    assert verify(settings.out) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"engine_arg": {"enforce_eagre": True}},
            "--engine-arg enforce_eagre: vLLM 0.32.0 has no such argument. Did you mean",
        ),
        (
            {"engine_arg": {"runner": "generate"}},
            "--engine-arg runner: what logitstore asks of vLLM decides it. Leave it out.",
        ),
        ({"engine_arg": {"max_num_seqs": -5}}, "vLLM cannot run it: "),
        ({"hidden": "final"}, "--hidden final needs features; vllm:"),
        ({"concurrency": 3}, "--concurrency: it means nothing to the engine of vllm:"),
        ({"packed": True}, "it takes one text a line. Leave out --packed."),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    changes: dict[str, object], message: str, padded: Path, texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(LogitstoreError) as caught:
        dump(plan(padded, texts, tmp_path / "cache", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_the_command_says_it_in_one_line(padded: Path, texts: Path, tmp_path: Path, refused: Refused) -> None:
    model = ("--teacher", f"vllm:{padded}", "--engine-arg", "enforce_eagre=true", "--dtype", "float32")
    line = refused("dump", *model, "--max-length", "96", "--data", texts, "--out", tmp_path / "cache")
    assert line.startswith(
        "error: --engine-arg enforce_eagre: vLLM 0.32.0 has no such argument. Did you mean 'enforce_eager'?"
    )


def test_an_engine_that_dies_ends_the_dump_in_one_line(
    padded: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own processes are killed while it is asked."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    prepared = prepare(plan(padded, texts, tmp_path / "cache"))
    batches = list(prepared.batches(list(prepared.samples)))
    wants = Wants(frozenset({LOGITS}))
    with closing(prepared.load()) as teacher:
        assert list(teacher.rows(batches[0], wants))
        for process in children():
            process.kill()
        with pytest.raises(ModelError, match=r"vLLM failed: .* run the same command again"):
            list(teacher.rows(batches[1], wants))
        with pytest.raises(ModelError, match="vLLM failed"):
            list(teacher.rows(batches[2], wants))


def children() -> Iterator[object]:
    """Yield the processes that this one has started."""
    return iter(psutil.Process().children(recursive=True))


def test_in_bfloat16_its_noise_is_what_transformers_own_is(padded: Path, texts: Path, tmp_path: Path) -> None:
    """Both compute in bfloat16; neither is nearer to float32 than the other by much."""
    prepared = prepare(plan(padded, texts, tmp_path / "cache", dtype="bfloat16", limit=4))
    batch = next(iter(prepared.batches(list(prepared.samples))))
    with closing(prepared.load()) as teacher:
        chunks = list(teacher.rows(batch, Wants(frozenset({LOGITS}))))
    logprobs_NV = torch.log_softmax(torch.cat([chunk.logits() for chunk in chunks])[:, :VOCABULARY].double(), -1)
    exact_NV = told(padded, batch)
    kl = float((exact_NV.exp() * (exact_NV - logprobs_NV)).sum(1).mean())
    assert 0 < kl < 1e-2
    assert np.mean((logprobs_NV.argmax(1) == exact_NV.argmax(1)).numpy()) > 0.9
